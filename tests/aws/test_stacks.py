# SPDX-License-Identifier: Apache-2.0
"""Stacks: what they make in the region, how they change, and that a failed one leaves nothing."""

from __future__ import annotations

import json
import secrets
from copy import deepcopy
from typing import Any

import pytest

from hyperplane_nat.aws import recorded_types, stack_threads
from hyperplane_nat.aws.call import Call
from hyperplane_nat.aws.operations import REAL
from tests.aws.stack_support import (
    LOG_GROUP,
    NETWORK,
    SUBNET,
    TEMPLATE,
    VPC,
    Stacks,
    body,
    changed,
    everything,
)
from tests.aws.support import OTHER, lab_in, refusal

CIDR = {"Parameters": TEMPLATE["Parameters"]}


def test_a_stack_makes_a_network_and_takes_it_down(stacks: Stacks) -> None:
    before = everything(stacks.endpoint)
    made = stacks.create("net")
    assert (made["StackStatus"], made["Description"]) == (
        "CREATE_COMPLETE",
        TEMPLATE["Description"],
    )
    ec2, ids = stacks.endpoint.client("ec2"), stacks.resources("net")
    assert set(ids) == set(NETWORK)
    (vpc,) = ec2.describe_vpcs(VpcIds=[ids["Vpc"]])["Vpcs"]
    assert {each["Key"]: each["Value"] for each in vpc["Tags"]} == {
        "Name": "net-vpc",
        "aws:cloudformation:logical-id": "Vpc",
        "aws:cloudformation:stack-id": made["StackId"],
        "aws:cloudformation:stack-name": "net",
    }
    (public,) = ec2.describe_subnets(SubnetIds=[ids["Public"]])["Subnets"]
    assert (public["CidrBlock"], public["AvailabilityZone"]) == ("10.7.0.0/24", "us-east-1b")
    assert public["MapPublicIpOnLaunch"]
    (nat,) = ec2.describe_nat_gateways(NatGatewayIds=[ids["Nat"]])["NatGateways"]
    assert nat["NatGatewayAddresses"][0]["PublicIp"] == ids["Address"]
    (table,) = ec2.describe_route_tables(RouteTableIds=[ids["Table"]])["RouteTables"]
    assert table["Routes"][1]["NatGatewayId"] == ids["Nat"]
    assert table["Associations"][0]["SubnetId"] == ids["Private"]
    (group,) = ec2.describe_security_groups(GroupIds=[ids["Group"]])["SecurityGroups"]
    assert [each["FromPort"] for each in group["IpPermissions"]] == [80, 443]
    assert group["IpPermissionsEgress"][0]["IpProtocol"] == "-1"
    found = stacks.endpoint.client("lambda").get_function(FunctionName=ids["Function"])
    assert found["Configuration"]["VpcConfig"]["SubnetIds"] == [ids["Private"]]
    assert found["Configuration"]["Timeout"] == 7
    assert {each["OutputKey"]: each["OutputValue"] for each in made["Outputs"]} == {
        "Address": ids["Address"],
        "Function": found["Configuration"]["FunctionArn"],
    }
    assert stacks.delete(made)["StackStatus"] == "DELETE_COMPLETE"
    assert everything(stacks.endpoint) == before
    assert refusal(stacks.client.describe_stacks, StackName="net")[:2] == (
        "ValidationError",
        "Stack with id net does not exist",
    )


def test_what_can_be_changed_stays_and_what_cannot_is_another(stacks: Stacks) -> None:
    stacks.create("net")
    before = stacks.resources("net")
    template = changed(
        Vpc={"EnableDnsHostnames": False},
        Group={"SecurityGroupIngress": [], "GroupDescription": "of functions"},
        Rule={"FromPort": 444, "ToPort": 444},
        Function={"Timeout": 9, "Code": {"ZipFile": "def handler(event, context): return 1"}},
    )
    del template["Resources"]["Association"]
    template["Resources"]["More"] = VPC
    sha = stacks.endpoint.client("lambda").get_function(FunctionName=before["Function"])
    assert stacks.update("net", **template)["StackStatus"] == "UPDATE_COMPLETE"
    after = stacks.resources("net")
    assert {name for name in after if after[name] != before.get(name)} == {"Rule", "More"}
    assert "Association" not in after
    ec2 = stacks.endpoint.client("ec2")
    (group,) = ec2.describe_security_groups(GroupIds=[after["Group"]])["SecurityGroups"]
    assert [each["FromPort"] for each in group["IpPermissions"]] == [444]
    (table,) = ec2.describe_route_tables(RouteTableIds=[after["Table"]])["RouteTables"]
    assert table["Associations"] == []
    found = stacks.endpoint.client("lambda").get_function(FunctionName=after["Function"])
    assert found["Configuration"]["Timeout"] == 9
    assert found["Configuration"]["CodeSha256"] != sha["Configuration"]["CodeSha256"]
    said = refusal(stacks.client.update_stack, StackName="net", **body(**template))
    assert said[:2] == ("ValidationError", "No updates are to be performed.")


def test_nothing_is_left_of_a_stack_that_fails(stacks: Stacks) -> None:
    before = everything(stacks.endpoint)
    made = stacks.create("bad", **changed(Function={"Timeout": 9000}))
    assert made["StackStatus"] == "ROLLBACK_COMPLETE"
    assert everything(stacks.endpoint) == before
    assert stacks.resources("bad") == {}
    failed = [each for each in stacks.told("bad") if each[1] == "CREATE_FAILED"]
    ((name, _, reason),) = failed
    assert name == "Function"
    assert "Error Code: InvalidParameterValueException" in str(reason)
    # All that there is to do with it is to delete it.
    said = refusal(stacks.client.update_stack, StackName="bad", **body())
    assert said[0] == "ValidationError"
    stacks.delete(made)


def test_attributes_are_those_of_each_resource(stacks: Stacks) -> None:
    resources: dict[str, Any] = {f"A{place}": {"Type": "AWS::EC2::EIP"} for place in range(3)}
    outputs = {
        name: {"Value": {"Fn::GetAtt": [name, "AllocationId"]}, "Description": name}
        for name in resources
    }
    for name, other in (("A1", "A0"), ("A2", "A1")):
        # Each is asked for its attribute before the next one is made.
        tag = {"Key": "of", "Value": {"Fn::GetAtt": [other, "AllocationId"]}}
        resources[name] = {**resources[name], "Properties": {"Tags": [tag]}}
    made = stacks.create("net", Resources=resources, Outputs=outputs)
    found = stacks.endpoint.client("ec2").describe_addresses()["Addresses"]
    ids = {each["PublicIp"]: each["AllocationId"] for each in found}
    physical = stacks.resources("net")
    assert {each["OutputKey"]: each["OutputValue"] for each in made["Outputs"]} == {
        name: ids[physical[name]] for name in resources
    }
    stacks.delete(made)


def test_a_nat_gateway_that_fails_is_the_stacks_failure(stacks: Stacks) -> None:
    template = deepcopy(TEMPLATE)
    for name in ("Gateway", "Attachment"):
        del template["Resources"][name]
    for name in ("Address", "Route"):
        del template["Resources"][name]["DependsOn"]
    made = stacks.create("bad", **template)
    assert made["StackStatus"] == "ROLLBACK_COMPLETE"
    (failed,) = [each for each in stacks.told("bad") if each[1] == "CREATE_FAILED"]
    assert failed[0] == "Nat"
    assert "has no Internet gateway attached" in str(failed[2])


def test_a_change_that_fails_is_taken_back(stacks: Stacks) -> None:
    made = stacks.create("net")
    before, ids = everything(stacks.endpoint), stacks.resources("net")
    template = changed(
        Vpc={"EnableDnsHostnames": False, "Tags": []},
        Group={"SecurityGroupIngress": []},
        Rule={"FromPort": 444, "ToPort": 444},
        Function={"Timeout": 9000},
    )
    del template["Resources"]["Association"]
    template["Resources"]["More"] = VPC
    found = stacks.update("net", **template)
    assert found["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert stacks.resources("net") == ids
    after = everything(stacks.endpoint)
    for each in (*before["functions"], *after["functions"]):
        del each["LastModified"]
    assert after == before
    assert found["Outputs"] == made["Outputs"]
    # An output that is none fails when all else is done.
    outputs = {"O": {"Value": {"Fn::GetAtt": ["Vpc", "Nothing"]}}}
    found = stacks.update("net", Resources={"Vpc": NETWORK["Vpc"]}, Outputs=outputs, **CIDR)
    assert (found["StackStatus"], stacks.resources("net")) == ("UPDATE_ROLLBACK_COMPLETE", ids)
    # It is as it was for the next change, too.
    said = refusal(stacks.client.update_stack, StackName="net", **body())
    assert said[1] == "No updates are to be performed."
    assert stacks.update("net", **changed(Function={"Timeout": 9}))["StackStatus"] == (
        "UPDATE_COMPLETE"
    )


def test_a_failed_stack_is_left_or_deleted_where_that_is_asked_for(stacks: Stacks) -> None:
    template = body(Resources={"Vpc": VPC, "Bad": {**VPC, "Properties": {"CidrBlock": "x"}}})
    stacks.client.create_stack(StackName="left", DisableRollback=True, **template)
    left = stacks.settled("left")
    assert left["StackStatus"] == "CREATE_FAILED"
    assert stacks.resources("left").keys() == {"Vpc"}
    made = stacks.client.create_stack(StackName="gone", OnFailure="DELETE", **template)
    assert stacks.settled(made["StackId"])["StackStatus"] == "DELETE_COMPLETE"
    assert stacks.delete(left)["StackStatus"] == "DELETE_COMPLETE"
    assert len(stacks.endpoint.client("ec2").describe_vpcs()["Vpcs"]) == 1


def test_what_is_to_be_retained_stays(stacks: Stacks) -> None:
    made = stacks.create("net", Resources={"Vpc": {**VPC, "DeletionPolicy": "Retain"}})
    vpc = stacks.resources("net")["Vpc"]
    assert stacks.delete(made)["StackStatus"] == "DELETE_COMPLETE"
    assert ("Vpc", "DELETE_SKIPPED", None) in stacks.told(made["StackId"])
    stacks.endpoint.client("ec2").delete_vpc(VpcId=vpc)


def test_what_cannot_be_deleted_is_the_stacks_failure(
    stacks: Stacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperplane_nat.aws.stack_work.WAIT_SECONDS_MIN", 0.2)
    monkeypatch.setattr("hyperplane_nat.aws.stack_work.WAIT_SECONDS", 0.2)
    made = stacks.create("net", Resources={"Vpc": VPC})
    ec2 = stacks.endpoint.client("ec2")
    vpc = stacks.resources("net")["Vpc"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.6.0.0/24")["Subnet"]["SubnetId"]
    assert stacks.delete(made)["StackStatus"] == "DELETE_FAILED"
    failed = [each for each in stacks.told("net") if each[:2] == ("Vpc", "DELETE_FAILED")]
    assert "has dependencies and cannot be deleted." in str(failed[0][2])
    ec2.delete_subnet(SubnetId=subnet)
    assert stacks.delete(made)["StackStatus"] == "DELETE_COMPLETE"


def test_change_sets_say_what_would_be_done_and_do_it(stacks: Stacks) -> None:
    client = stacks.client

    def proposed(name: str, kind: str, **sections: Any) -> dict[str, str]:
        client.create_change_set(
            StackName="net", ChangeSetName=name, ChangeSetType=kind, **body(**sections)
        )
        found = client.describe_change_set(StackName="net", ChangeSetName=name)
        changes = [each["ResourceChange"] for each in found["Changes"]]
        return {each["LogicalResourceId"]: each["Action"] for each in changes}

    assert proposed("a", "CREATE", Resources={"Vpc": VPC, "Logs": LOG_GROUP}) == {
        "Vpc": "Add",
        "Logs": "Add",
    }
    assert client.describe_stacks(StackName="net")["Stacks"][0]["StackStatus"] == (
        "REVIEW_IN_PROGRESS"
    )
    assert len(stacks.endpoint.client("ec2").describe_vpcs()["Vpcs"]) == 1
    client.execute_change_set(StackName="net", ChangeSetName="a")
    assert stacks.settled("net")["StackStatus"] == "CREATE_COMPLETE"
    tagged = {**VPC, "Properties": {**VPC["Properties"], "Tags": [{"Key": "a", "Value": "b"}]}}
    assert proposed("b", "UPDATE", Resources={"Vpc": tagged, "More": LOG_GROUP}) == {
        "Vpc": "Modify",
        "More": "Add",
        "Logs": "Remove",
    }
    client.execute_change_set(StackName="net", ChangeSetName="b")
    assert stacks.settled("net")["StackStatus"] == "UPDATE_COMPLETE"
    assert stacks.resources("net").keys() == {"Vpc", "More"}
    proposed("c", "UPDATE", Resources={"Vpc": tagged, "More": LOG_GROUP})
    found = client.describe_change_set(StackName="net", ChangeSetName="c")
    assert (found["Status"], found["ExecutionStatus"]) == ("FAILED", "UNAVAILABLE")
    assert found["StatusReason"].startswith("The submitted information didn't contain changes.")
    said = refusal(client.execute_change_set, StackName="net", ChangeSetName="c")
    assert said[0] == "InvalidChangeSetStatus"
    client.delete_change_set(StackName="net", ChangeSetName="c")
    said = refusal(client.describe_change_set, StackName="net", ChangeSetName="c")
    assert said[0] == "ChangeSetNotFound"


def test_a_stack_makes_a_load_balancer_over_an_instance(stacks: Stacks) -> None:
    of_v2 = "AWS::ElasticLoadBalancingV2::"
    attributes = [{"Key": "load_balancing.cross_zone.enabled", "Value": "true"}]
    resources: dict[str, Any] = {
        "Vpc": VPC,
        "Subnet": SUBNET,
        "Host": {
            "Type": "AWS::EC2::Instance",
            "Properties": {"ImageId": "ami-1", "SubnetId": {"Ref": "Subnet"}},
        },
        "Targets": {
            "Type": f"{of_v2}TargetGroup",
            "Properties": {
                "Protocol": "TCP",
                "Port": "80",
                "VpcId": {"Ref": "Vpc"},
                "HealthCheckIntervalSeconds": 10,
                "Targets": [{"Id": {"Ref": "Host"}}],
            },
        },
        "Balancer": {
            "Type": f"{of_v2}LoadBalancer",
            "Properties": {
                "Type": "network",
                "Scheme": "internal",
                "Subnets": [{"Ref": "Subnet"}],
                "LoadBalancerAttributes": attributes,
                "Tags": [{"Key": "team", "Value": "x"}],
            },
        },
        "Listener": {
            "Type": f"{of_v2}Listener",
            "Properties": {
                "LoadBalancerArn": {"Ref": "Balancer"},
                "Protocol": "TCP",
                "Port": 80,
                "DefaultActions": [{"Type": "forward", "TargetGroupArn": {"Ref": "Targets"}}],
            },
        },
    }
    outputs = {
        "Name": {"Value": {"Fn::GetAtt": ["Balancer", "DNSName"]}},
        "Full": {"Value": {"Fn::GetAtt": ["Targets", "TargetGroupFullName"]}},
        "Address": {"Value": {"Fn::GetAtt": ["Host", "PrivateIp"]}},
    }
    made = stacks.create("net", Resources=resources, Outputs=outputs)
    assert made["StackStatus"] == "CREATE_COMPLETE", stacks.told("net")[:4]
    elb, ids = stacks.endpoint.client("elbv2"), stacks.resources("net")
    said = {each["OutputKey"]: each["OutputValue"] for each in made["Outputs"]}
    (found,) = elb.describe_load_balancers(LoadBalancerArns=[ids["Balancer"]])["LoadBalancers"]
    assert (found["DNSName"], found["State"]["Code"]) == (said["Name"], "active")
    assert said["Full"] == ids["Targets"].rpartition(":")[2]
    (target,) = elb.describe_target_health(TargetGroupArn=ids["Targets"])[
        "TargetHealthDescriptions"
    ]
    assert target["Target"]["Id"] == ids["Host"]
    (listener,) = elb.describe_listeners(LoadBalancerArn=ids["Balancer"])["Listeners"]
    assert (listener["ListenerArn"], listener["Port"]) == (ids["Listener"], 80)
    changed = deepcopy(resources)
    changed["Listener"]["Properties"]["Port"] = 81
    changed["Targets"]["Properties"] |= {"HealthCheckIntervalSeconds": 30, "Targets": []}
    changed["Balancer"]["Properties"]["Tags"] = []
    assert stacks.update("net", Resources=changed)["StackStatus"] == "UPDATE_COMPLETE"
    assert stacks.resources("net") == ids
    (listener,) = elb.describe_listeners(LoadBalancerArn=ids["Balancer"])["Listeners"]
    assert listener["Port"] == 81
    (group,) = elb.describe_target_groups(TargetGroupArns=[ids["Targets"]])["TargetGroups"]
    assert group["HealthCheckIntervalSeconds"] == 30
    (tagged,) = elb.describe_tags(ResourceArns=[ids["Balancer"]])["TagDescriptions"]
    assert "team" not in {each["Key"] for each in tagged["Tags"]}
    assert stacks.delete(made)["StackStatus"] == "DELETE_COMPLETE", stacks.told("net")[:4]
    assert elb.describe_load_balancers()["LoadBalancers"] == []


def test_what_one_stack_exports_another_imports(stacks: Stacks) -> None:
    exported = {"Vpc": {"Value": {"Ref": "Vpc"}, "Export": {"Name": "vpc"}}}
    first = stacks.create("first", Resources={"Vpc": VPC}, Outputs=exported)
    subnet = {"VpcId": {"Fn::ImportValue": "vpc"}, "CidrBlock": "10.6.0.0/24"}
    resources = {"Subnet": {"Type": "AWS::EC2::Subnet", "Properties": subnet}}
    second = stacks.create("second", Resources=resources)
    assert second["StackStatus"] == "CREATE_COMPLETE"
    (found,) = stacks.client.list_exports()["Exports"]
    assert found["Value"] == stacks.resources("first")["Vpc"]
    assert stacks.client.list_imports(ExportName="vpc")["Imports"] == ["second"]
    said = refusal(stacks.client.delete_stack, StackName="first")
    assert said[:2] == (
        "ValidationError",
        "Export vpc cannot be deleted as it is in use by second",
    )
    stacks.delete(second)
    stacks.delete(first)


@pytest.mark.parametrize(
    ("sections", "code", "text"),
    [
        (
            {"Resources": {"L": {"Type": "AWS::EC2::TransitGateway"}}},
            "UnsupportedOperation",
            "Resources of type AWS::EC2::TransitGateway are not made by stacks.",
        ),
        (
            {"Resources": {"L": LOG_GROUP}, "Transform": "Other"},
            "UnsupportedOperation",
            "Resources of type Transform Other are not made by stacks.",
        ),
        (
            {"Resources": {"L": {**LOG_GROUP, "DependsOn": "M"}}},
            "ValidationError",
            "Template format error: Unresolved resource dependencies [M] in the Resources block of "
            "the template",
        ),
        (
            {"Resources": {"L": {**LOG_GROUP, "Condition": "C"}}},
            "ValidationError",
            "Template format error: Unresolved condition dependency C in the Resources block of "
            "the template: L",
        ),
        *(
            (
                {"Resources": {"L": {**LOG_GROUP, name: said}}},
                "ValidationError",
                "Template format error: unsupported structure.",
            )
            for name, said in (("DependsOn", 5), ("DependsOn", [{}]), ("Condition", ["C"]))
        ),
    ],
)
def test_a_template_that_cannot_be_is_refused_as_a_whole(
    stacks: Stacks, sections: dict[str, Any], code: str, text: str
) -> None:
    said = refusal(stacks.client.create_stack, StackName="t", **body(**sections))
    assert said == (code, text, 400)
    assert stacks.client.describe_stacks()["Stacks"] == []


def test_whoever_makes_roles_has_to_say_so(stacks: Stacks) -> None:
    said = refusal(stacks.client.create_stack, StackName="t", TemplateBody=json.dumps(TEMPLATE))
    assert said[0] == "InsufficientCapabilitiesException"


def test_resources_that_wait_for_each_other_are_refused(stacks: Stacks) -> None:
    first, second = ({**LOG_GROUP, "DependsOn": other} for other in ("B", "A"))
    template = body(Resources={"A": first, "B": second, "C": LOG_GROUP})
    text = "Circular dependency between resources: [A, B]"
    client = stacks.client
    proposed = {"ChangeSetName": "c", "ChangeSetType": "CREATE"}
    for said in (
        refusal(client.create_stack, StackName="t", **template),
        refusal(client.create_change_set, StackName="t", **proposed, **template),
        refusal(client.validate_template, TemplateBody=template["TemplateBody"]),
    ):
        assert said == ("ValidationError", text, 400)
    assert client.describe_stacks()["Stacks"] == []


def test_what_moves_no_packets_is_recorded_and_recorded_again(stacks: Stacks) -> None:
    trust = {"AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": []}}
    statement = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    resources: dict[str, Any] = {
        "Role": {"Type": "AWS::IAM::Role", "Properties": trust},
        "Bucket": {"Type": "AWS::S3::Bucket"},
        "Policy": {
            "Type": "AWS::S3::BucketPolicy",
            "Properties": {"Bucket": {"Ref": "Bucket"}, "PolicyDocument": policy},
        },
        "Logs": LOG_GROUP,
        "Queue": {"Type": "AWS::SQS::Queue"},
        "Key": {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": policy}},
        "Value": {"Type": "AWS::SSM::Parameter", "Properties": {"Type": "String", "Value": "x"}},
        "Handle": {"Type": "AWS::CloudFormation::WaitConditionHandle"},
    }
    outputs = {"Arn": {"Value": {"Fn::GetAtt": ["Role", "Arn"]}}}
    made = stacks.create("net", Resources=resources, Outputs=outputs)
    assert made["StackStatus"] == "CREATE_COMPLETE", stacks.told("net")[:6]
    ids = stacks.resources("net")
    iam, s3 = stacks.endpoint.client("iam"), stacks.endpoint.client("s3")
    role = iam.get_role(RoleName=ids["Role"])["Role"]
    assert made["Outputs"][0]["OutputValue"] == role["Arn"]
    assert json.loads(s3.get_bucket_policy(Bucket=ids["Bucket"])["Policy"]) == policy
    # What another endpoint has in its memory is nothing, and then as much.
    recorded_types._live.clear()
    s3.delete_bucket_policy(Bucket=ids["Bucket"])
    s3.delete_bucket(Bucket=ids["Bucket"])
    iam.delete_role(RoleName=ids["Role"])
    lab = lab_in(stacks.endpoint.directory)
    stack_threads.take_over(lambda account: Call(lab, account, REAL))
    assert iam.get_role(RoleName=ids["Role"])["Role"]["Arn"] == role["Arn"]
    assert json.loads(s3.get_bucket_policy(Bucket=ids["Bucket"])["Policy"]) == policy
    resources["Role"] = {**resources["Role"], "Properties": {**trust, "Description": "d"}}
    resources["Value"]["Properties"]["Value"] = "y"
    assert stacks.update("net", Resources=resources)["StackStatus"] == "UPDATE_COMPLETE"
    ssm = stacks.endpoint.client("ssm")
    name = stacks.resources("net")["Value"]
    assert ssm.get_parameter(Name=name)["Parameter"]["Value"] == "y"
    assert stacks.delete(made)["StackStatus"] == "DELETE_COMPLETE", stacks.told("net")[:6]
    assert ids["Role"] not in {each["RoleName"] for each in iam.list_roles()["Roles"]}


def test_templates_come_from_a_bucket_too(stacks: Stacks) -> None:
    bucket = secrets.token_hex(8)
    s3 = stacks.endpoint.client("s3")
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="t.json", Body=json.dumps({"Resources": {"L": LOG_GROUP}}))
    for place, url in enumerate(
        (
            f"https://{bucket}.s3.us-east-1.amazonaws.com/t.json",
            f"https://s3.amazonaws.com/{bucket}/t.json",
            f"{stacks.endpoint.url}/{bucket}/t.json",
        )
    ):
        stacks.client.create_stack(StackName=f"s{place}", TemplateURL=url)
        assert stacks.settled(f"s{place}")["StackStatus"] == "CREATE_COMPLETE"
    said = refusal(
        stacks.client.create_stack,
        StackName="t",
        TemplateURL=f"https://s3.amazonaws.com/{bucket}/other",
    )
    assert said[:2] == ("ValidationError", "S3 error: The specified key does not exist.")


def test_stacks_are_their_accounts_alone(stacks: Stacks) -> None:
    stacks.create("net", Resources={"Vpc": VPC})
    other = stacks.endpoint.client("cloudformation", OTHER)
    assert other.describe_stacks()["Stacks"] == []
    assert refusal(other.describe_stack_events, StackName="net")[0] == "ValidationError"
    other.delete_stack(StackName="net")
    assert len(stacks.client.describe_stacks()["Stacks"]) == 1
    said = refusal(stacks.client.create_stack, StackName="net", **body(Resources={"Vpc": VPC}))
    assert said[0] == "AlreadyExistsException"


def test_what_a_stack_is_can_be_looked_up(stacks: Stacks) -> None:
    client = stacks.client
    declared = {"Secret": {"Type": "String", "NoEcho": True, "Description": "s"}}
    template = body(Resources={"Vpc": VPC}, Parameters=declared)
    given = [{"ParameterKey": "Secret", "ParameterValue": "x"}]
    made = client.create_stack(StackName="net", Parameters=given, **template)["StackId"]
    assert stacks.settled("net")["Parameters"] == [
        {"ParameterKey": "Secret", "ParameterValue": "****"}
    ]
    vpc = stacks.resources("net")["Vpc"]
    one = client.describe_stack_resource(StackName="net", LogicalResourceId="Vpc")
    assert one["StackResourceDetail"]["PhysicalResourceId"] == vpc
    (row,) = client.list_stack_resources(StackName="net")["StackResourceSummaries"]
    assert (row["LogicalResourceId"], row["ResourceStatus"]) == ("Vpc", "CREATE_COMPLETE")
    (row,) = client.describe_stack_resources(PhysicalResourceId=vpc)["StackResources"]
    assert row["StackId"] == made
    assert client.get_template(StackName="net")["TemplateBody"] == json.loads(
        template["TemplateBody"]
    )
    summary = client.get_template_summary(StackName="net")
    assert summary["ResourceTypes"] == ["AWS::EC2::VPC"]
    checked = client.validate_template(TemplateBody=template["TemplateBody"])
    assert checked["Parameters"] == [{"ParameterKey": "Secret", "NoEcho": True, "Description": "s"}]
    client.create_change_set(StackName="net", ChangeSetName="c", **template, Parameters=given)
    (row,) = client.list_change_sets(StackName="net")["Summaries"]
    assert (row["ChangeSetName"], row["Status"]) == ("c", "FAILED")
    stacks.delete({"StackName": "net", "StackId": made})
    listed = client.list_stacks(StackStatusFilter=["DELETE_COMPLETE"])["StackSummaries"]
    assert made in {each["StackId"] for each in listed}


def test_a_protected_stack_is_not_deleted(stacks: Stacks) -> None:
    made = stacks.create("net", Resources={"L": LOG_GROUP})
    protect = stacks.client.update_termination_protection
    protect(StackName="net", EnableTerminationProtection=True)
    assert refusal(stacks.client.delete_stack, StackName="net")[0] == "ValidationError"
    protect(StackName="net", EnableTerminationProtection=False)
    assert stacks.delete(made)["StackStatus"] == "DELETE_COMPLETE"
