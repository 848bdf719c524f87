// SPDX-License-Identifier: Apache-2.0
// An app of the CDK: a VPC with a NAT gateway, a load balancer over an instance, and a function.
const cdk = require("aws-cdk-lib");
const ec2 = require("aws-cdk-lib/aws-ec2");
const elb = require("aws-cdk-lib/aws-elasticloadbalancingv2");
const { InstanceIdTarget } = require("aws-cdk-lib/aws-elasticloadbalancingv2-targets");
const lambda = require("aws-cdk-lib/aws-lambda");

class Network extends cdk.Stack {
  constructor(scope, id) {
    super(scope, id);
    const vpc = new ec2.Vpc(this, "Vpc", { maxAzs: 2, natGateways: 1 });
    const web = new ec2.SecurityGroup(this, "Web", { vpc });
    web.addIngressRule(ec2.Peer.ipv4(vpc.vpcCidrBlock), ec2.Port.tcp(80));
    const host = new ec2.CfnInstance(this, "Host", {
      imageId: "ami-12345678",
      subnetId: vpc.privateSubnets[0].subnetId,
      securityGroupIds: [web.securityGroupId],
      tags: [{ key: "Name", value: "web-1" }],
    });
    const balancer = new elb.NetworkLoadBalancer(this, "Balancer", { vpc, crossZoneEnabled: true });
    balancer.addListener("Listener", { port: 80 }).addTargets("Targets", {
      port: 80,
      targets: [new InstanceIdTarget(host.ref)],
    });
    const [family] = lambda.Runtime.ALL.filter((each) => each.name === process.env.RUNTIME);
    const fetch = new lambda.Function(this, "Fetch", {
      vpc,
      runtime: family,
      handler: "app.handler",
      code: lambda.Code.fromAsset(process.env.CODE),
      timeout: cdk.Duration.seconds(Number(this.node.tryGetContext("seconds"))),
    });
    new cdk.CfnOutput(this, "Name", { value: fetch.functionName });
    new cdk.CfnOutput(this, "Front", { value: balancer.loadBalancerDnsName });
  }
}

new Network(new cdk.App(), "net");
