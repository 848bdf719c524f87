# SPDX-License-Identifier: Apache-2.0
"""What scripts ask for around a network: images, types, key pairs, attributes, permissions."""

from __future__ import annotations

import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore import xform_name

from hyperplane_nat.aws import absent
from hyperplane_nat.aws.operations import REAL
from tests.aws.support import OTHER, Endpoint, refusal, scene
from tests.aws.test_functions import asked as created

PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDZWW6B6uVDvWWMZYHtvGeA1hSbZm1BLPUWTJBa3bBwV somebody"


def test_images_have_ids_that_instances_take(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    wanted = [
        {"Name": "name", "Values": ["al2023-ami-2023*"]},
        {"Name": "architecture", "Values": ["x86_64"]},
        {"Name": "state", "Values": ["available"]},
    ]
    images = ec2.describe_images(Owners=["amazon"], Filters=wanted)["Images"]
    assert images
    assert {each["OwnerId"] for each in images} == {"137112412989"}
    (again,) = ec2.describe_images(ImageIds=[images[0]["ImageId"]])["Images"]
    assert again == images[0]
    # What RunInstances takes is described.
    (other,) = ec2.describe_images(ImageIds=["ami-0123456789abcdef0"])["Images"]
    assert (other["State"], other["RootDeviceName"]) == ("available", "/dev/xvda")
    assert ec2.describe_images(Owners=["self"])["Images"] == []
    assert refusal(ec2.describe_images, ImageIds=["image"])[0] == "InvalidAMIID.Malformed"


def test_the_image_that_ssm_names_is_one(endpoint: Endpoint) -> None:
    """As the CDK looks it up."""
    name = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
    image = endpoint.client("ssm").get_parameter(Name=name)["Parameter"]["Value"]
    (found,) = endpoint.client("ec2").describe_images(ImageIds=[image])["Images"]
    assert found["ImageId"] == image


def test_types_of_instances(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    (small,) = ec2.describe_instance_types(InstanceTypes=["t3.small"])["InstanceTypes"]
    assert small["VCpuInfo"]["DefaultVCpus"] == 2
    assert small["MemoryInfo"]["SizeInMiB"] == 2048
    first = ec2.describe_instance_types(MaxResults=5)
    assert len(first["InstanceTypes"]) == 5
    assert first["NextToken"]
    code, text, _ = refusal(ec2.describe_instance_types, InstanceTypes=["t9.huge"])
    assert code == "InvalidInstanceType"
    assert text == "The following supplied instance types do not exist: [t9.huge]"
    offered = ec2.describe_instance_type_offerings(
        LocationType="availability-zone",
        Filters=[{"Name": "instance-type", "Values": ["t3.small"]}],
    )["InstanceTypeOfferings"]
    assert {each["LocationType"] for each in offered} == {"availability-zone"}
    assert "us-east-1a" in {each["Location"] for each in offered}
    wrong = refusal(ec2.describe_instance_type_offerings, LocationType="planet")
    assert wrong[0] == "InvalidParameterValue"


def test_attributes_of_an_account(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    found = {
        each["AttributeName"]: each["AttributeValues"][0]["AttributeValue"]
        for each in ec2.describe_account_attributes()["AccountAttributes"]
    }
    assert (found["default-vpc"], found["supported-platforms"]) == ("none", "VPC")
    assert found["max-elastic-ips"] == "5"
    (one,) = ec2.describe_account_attributes(AttributeNames=["default-vpc"])["AccountAttributes"]
    assert one["AttributeName"] == "default-vpc"
    wrong = refusal(ec2.describe_account_attributes, AttributeNames=["shoe-size"])
    assert wrong[0] == "InvalidParameterValue"


def test_a_key_pair_comes_and_goes(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    tags = [{"ResourceType": "key-pair", "Tags": [{"Key": "a", "Value": "b"}]}]
    rsa = ec2.create_key_pair(KeyName="rsa", TagSpecifications=tags)
    assert rsa["KeyMaterial"].startswith("-----BEGIN RSA PRIVATE KEY-----")
    assert len(rsa["KeyFingerprint"].split(":")) == 20
    small = ec2.create_key_pair(KeyName="small", KeyType="ed25519")
    assert small["KeyMaterial"].startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    taken = ec2.import_key_pair(KeyName="mine", PublicKeyMaterial=PUBLIC.encode())
    assert taken["KeyPairId"].startswith("key-")
    found = ec2.describe_key_pairs(IncludePublicKey=True)["KeyPairs"]
    assert [(each["KeyName"], each["KeyType"]) for each in found] == [
        ("mine", "ed25519"),
        ("rsa", "rsa"),
        ("small", "ed25519"),
    ]
    assert found[0]["PublicKey"] == PUBLIC
    assert found[0]["KeyFingerprint"] == taken["KeyFingerprint"]
    assert found[1]["Tags"] == [{"Key": "a", "Value": "b"}]
    (named,) = ec2.describe_key_pairs(KeyNames=["rsa"])["KeyPairs"]
    assert "PublicKey" not in named
    assert endpoint.client("ec2", OTHER).describe_key_pairs()["KeyPairs"] == []
    assert ec2.delete_key_pair(KeyName="rsa")["KeyPairId"] == rsa["KeyPairId"]
    assert ec2.delete_key_pair(KeyName="rsa")["Return"] is True
    for work, request, code in (
        (ec2.describe_key_pairs, {"KeyNames": ["rsa"]}, "InvalidKeyPair.NotFound"),
        (ec2.describe_key_pairs, {"KeyPairIds": ["key-0"]}, "InvalidKeyPair.NotFound"),
        (ec2.create_key_pair, {"KeyName": "mine"}, "InvalidKeyPair.Duplicate"),
        (ec2.create_key_pair, {}, "MissingParameter"),
        (ec2.create_key_pair, {"KeyName": "k", "KeyType": "dsa"}, "InvalidParameterValue"),
        (ec2.create_key_pair, {"KeyName": "k", "KeyFormat": "ppk"}, "UnsupportedOperation"),
        (ec2.delete_key_pair, {}, "MissingParameter"),
        (
            ec2.import_key_pair,
            {"KeyName": "bad", "PublicKeyMaterial": b"no key"},
            "InvalidKey.Format",
        ),
        (
            ec2.import_key_pair,
            {"KeyName": "bad", "PublicKeyMaterial": PUBLIC.encode() + b" \xff"},
            "InvalidKey.Format",
        ),
    ):
        assert refusal(work, **request)[0] == code


def launched(endpoint: Endpoint, **more: Any) -> str:
    subnet = scene(endpoint).public
    made = endpoint.client("ec2").run_instances(
        ImageId="ami-0123456789abcdef0", MinCount=1, MaxCount=1, SubnetId=subnet, **more
    )
    key: str = made["Instances"][0]["InstanceId"]
    return key


def test_an_instance_has_a_key_that_there_is(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    subnet = scene(endpoint).public
    request = {"ImageId": "ami-0123456789abcdef0", "MinCount": 1, "MaxCount": 1, "KeyName": "k"}
    code, text, _ = refusal(ec2.run_instances, SubnetId=subnet, **request)
    assert (code, text) == ("InvalidKeyPair.NotFound", "The key pair 'k' does not exist")
    ec2.create_key_pair(KeyName="k", KeyType="ed25519")
    made = ec2.run_instances(SubnetId=subnet, **request)
    assert made["Instances"][0]["KeyName"] == "k"


def test_attributes_of_an_instance(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    key = launched(endpoint, InstanceType="t3.small")

    def attribute(name: str) -> Any:
        return ec2.describe_instance_attribute(InstanceId=key, Attribute=name)

    assert attribute("instanceType")["InstanceType"] == {"Value": "t3.small"}
    assert attribute("sourceDestCheck")["SourceDestCheck"] == {"Value": True}
    assert len(attribute("groupSet")["Groups"]) == 1
    ec2.modify_instance_attribute(InstanceId=key, SourceDestCheck={"Value": True})
    ec2.modify_instance_attribute(InstanceId=key, DisableApiTermination={"Value": True})
    assert attribute("disableApiTermination")["DisableApiTermination"] == {"Value": True}
    code, text, _ = refusal(ec2.terminate_instances, InstanceIds=[key])
    assert code == "OperationNotPermitted"
    assert text == (
        f"The instance '{key}' may not be terminated. Modify its 'disableApiTermination' instance "
        "attribute and try again."
    )
    for request, code in (
        ({"SourceDestCheck": {"Value": False}}, "UnsupportedOperation"),
        ({"InstanceType": {"Value": "t3.large"}}, "IncorrectInstanceState"),
        ({"UserData": {"Value": b"x"}}, "IncorrectInstanceState"),
        ({}, "InvalidParameterCombination"),
        ({"Groups": ["sg-0"]}, "InvalidGroup.NotFound"),
    ):
        assert refusal(ec2.modify_instance_attribute, InstanceId=key, **request)[0] == code
    wrong = refusal(ec2.describe_instance_attribute, InstanceId=key, Attribute="shoeSize")
    assert wrong[0] == "InvalidParameterValue"
    absent = refusal(ec2.describe_instance_attribute, InstanceId="i-0", Attribute="kernel")
    assert absent[0] == "InvalidInstanceID.NotFound"
    ec2.modify_instance_attribute(InstanceId=key, DisableApiTermination={"Value": False})
    ec2.terminate_instances(InstanceIds=[key])


def test_permissions_that_are_given_at_the_same_time_are_all_there(endpoint: Endpoint) -> None:
    functions = endpoint.client("lambda")
    functions.create_function(**created("f"))
    names = [f"s{number}" for number in range(40)]

    def give(name: str) -> None:
        functions.add_permission(
            FunctionName="f", StatementId=name, Action="lambda:InvokeFunction", Principal="*"
        )

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(give, names))
    policy = json.loads(functions.get_policy(FunctionName="f")["Policy"])
    assert sorted(each["Sid"] for each in policy["Statement"]) == sorted(names)


def test_permissions_of_a_function(endpoint: Endpoint) -> None:
    functions = endpoint.client("lambda")
    functions.create_function(**created("f"))
    arn = "arn:aws:lambda:us-east-1:111122223333:function:f"
    said = functions.add_permission(
        FunctionName="f",
        StatementId="s",
        Action="lambda:InvokeFunction",
        Principal="events.amazonaws.com",
        SourceArn="arn:aws:events:us-east-1:111122223333:rule/r",
    )
    statement = {
        "Sid": "s",
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "lambda:InvokeFunction",
        "Resource": arn,
        "Condition": {"ArnLike": {"AWS:SourceArn": "arn:aws:events:us-east-1:111122223333:rule/r"}},
    }
    assert json.loads(said["Statement"]) == statement
    policy = json.loads(functions.get_policy(FunctionName=arn)["Policy"])
    assert policy == {"Version": "2012-10-17", "Id": "default", "Statement": [statement]}
    for principal, form in (
        ("*", "*"),
        ("444455556666", {"AWS": "arn:aws:iam::444455556666:root"}),
        ("arn:aws:iam::444455556666:role/r", {"AWS": "arn:aws:iam::444455556666:role/r"}),
    ):
        made = functions.add_permission(
            FunctionName="f",
            StatementId=str(len(principal)),
            Action="lambda:*",
            Principal=principal,
        )
        assert json.loads(made["Statement"])["Principal"] == form
    asked = {"FunctionName": "f", "StatementId": "s", "Action": "lambda:*", "Principal": "*"}
    code, text, status = refusal(functions.add_permission, **asked)
    assert (code, status) == ("ResourceConflictException", 409)
    assert text.startswith("The statement id (s) provided already exists.")
    for wrong in ({"StatementId": "a b"}, {"Action": "sing"}, {"Principal": None}):
        request = {key: value for key, value in (asked | wrong).items() if value is not None}
        assert refusal(functions.add_permission, **request)[0] == "ValidationException"
    nobody = asked | {"FunctionName": "nobody"}
    assert refusal(functions.add_permission, **nobody)[0] == "ResourceNotFoundException"
    for key in ("s", "1", "12", "32"):
        functions.remove_permission(FunctionName="f", StatementId=key)
    gone = refusal(functions.remove_permission, FunctionName="f", StatementId="s")
    assert gone[:2] == (
        "ResourceNotFoundException",
        "Statement s is not found in resource policy.",
    )
    none = refusal(functions.get_policy, FunctionName="f")
    assert none[:2] == (
        "ResourceNotFoundException",
        "The resource you requested does not exist.",
    )


@pytest.mark.parametrize("runtime", ["python3.4", "nodejs99.x"])
def test_a_runtime_that_the_host_has_not_is_told_when_it_is_asked_for(
    endpoint: Endpoint, runtime: str
) -> None:
    functions = endpoint.client("lambda")
    nowhere = {"Variables": {"PATH": "/nowhere"}}
    request = created("f", Runtime=runtime, Environment=nowhere)
    code, text, status = refusal(functions.create_function, **request)
    assert (code, status) == ("InvalidParameterValueException", 400)
    assert text.startswith("this host has no ")
    functions.create_function(**created("f"))
    changed = refusal(
        functions.update_function_configuration,
        FunctionName="f",
        Runtime=runtime,
        Environment=nowhere,
    )
    assert changed[0] == "InvalidParameterValueException"


def test_tags_are_of_what_an_operation_makes(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")

    def tagged(kind: str | None) -> list[dict[str, Any]]:
        named = {} if kind is None else {"ResourceType": kind}
        return [{**named, "Tags": [{"Key": "a", "Value": "b"}]}]

    before = ec2.describe_vpcs()["Vpcs"]
    request = {"CidrBlock": "10.9.0.0/16", "TagSpecifications": tagged("subnet")}
    assert refusal(ec2.create_vpc, **request)[:2] == (
        "InvalidParameterValue",
        "'subnet' is not a valid taggable resource type for this operation.",
    )
    untyped = {"CidrBlock": "10.9.0.0/16", "TagSpecifications": tagged(None)}
    assert refusal(ec2.create_vpc, **untyped)[:2] == (
        "InvalidParameterValue",
        "Tag specification resource type must have a value",
    )
    assert ec2.describe_vpcs()["Vpcs"] == before


def test_what_takes_tags_says_of_what() -> None:
    for name, found in REAL["ec2"].items():
        assert bool(found.makes) == ("TagSpecifications" in found.takes), name


def test_filters_that_scripts_have(endpoint: Endpoint) -> None:
    """Each is given what the resource is described with, and finds it; another value does not."""
    ec2 = endpoint.client("ec2")
    key = launched(endpoint)
    (instance,) = ec2.describe_instances(InstanceIds=[key])["Reservations"][0]["Instances"]
    # What AWS never leaves out, and scripts read without a look.
    assert (instance["BlockDeviceMappings"], instance["ProductCodes"]) == ([], [])
    assert (instance["PublicDnsName"], instance["StateTransitionReason"]) == ("", "")
    assert instance["NetworkInterfaces"][0]["Attachment"]["DeleteOnTermination"] is True
    group = instance["SecurityGroups"][0]["GroupId"]
    launch = instance["LaunchTime"].strftime("%Y-%m-%dT%H:*")
    for work, many, name, value in (
        ("describe_availability_zones", "AvailabilityZones", "opt-in-status", "opt-in-not-*"),
        ("describe_availability_zones", "AvailabilityZones", "zone-type", "availability-zone"),
        ("describe_availability_zones", "AvailabilityZones", "zone-id", "use1-az1"),
        ("describe_regions", "Regions", "region-name", "us-east-1"),
        ("describe_vpcs", "Vpcs", "cidr-block-association.state", "associated"),
        ("describe_subnets", "Subnets", "map-public-ip-on-launch", "false"),
        ("describe_subnets", "Subnets", "availability-zone-id", "use1-az*"),
        ("describe_instances", "Reservations", "network-interface.subnet-id", instance["SubnetId"]),
        ("describe_instances", "Reservations", "network-interface.group-id", group),
        ("describe_instances", "Reservations", "reservation-id", "r-*"),
        ("describe_instances", "Reservations", "tenancy", "default"),
        ("describe_instances", "Reservations", "launch-time", launch),
        ("describe_instance_status", "InstanceStatuses", "system-status.reachability", "passed"),
        ("describe_network_interfaces", "NetworkInterfaces", "attachment.status", "attached"),
        ("describe_network_interfaces", "NetworkInterfaces", "addresses.primary", "true"),
        ("describe_security_groups", "SecurityGroups", "ip-permission.user-id", "*"),
    ):

        def found(said: str, work: str = work, many: str = many, name: str = name) -> Any:
            return getattr(ec2, work)(Filters=[{"Name": name, "Values": [said]}])[many]

        assert found(value), name
        assert found("neither") == [], name
    # Of what a lab has none of, nothing is found.
    for name in ("route.vpc-peering-connection-id", "route.transit-gateway-id"):
        wanted = [{"Name": name, "Values": ["*"]}]
        assert ec2.describe_route_tables(Filters=wanted)["RouteTables"] == []
    wanted = [{"Name": "instance-lifecycle", "Values": ["spot"]}]
    assert ec2.describe_instances(Filters=wanted)["Reservations"] == []


def test_one_region_is_there(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    (found,) = ec2.describe_regions(RegionNames=["us-east-1"])["Regions"]
    assert found["RegionName"] == "us-east-1"
    code, text, _ = refusal(ec2.describe_regions, RegionNames=["eu-west-1"])
    assert (code, text) == ("InvalidParameterValue", "Invalid region name: [eu-west-1]")


def test_what_no_lab_has_is_an_empty_list(endpoint: Endpoint) -> None:
    """Who takes a VPC down asks for these first, by filters of their own."""
    ec2 = endpoint.client("ec2")
    for name, (key, ids, code, _) in absent.LISTS.items():
        work = getattr(ec2, xform_name(name))
        assert work()[key] == []
        assert work(Filters=[{"Name": "vpc-id", "Values": ["vpc-1"]}])[key] == []
        assert refusal(work, **{ids: ["x-1"]})[0] == code


def test_an_instance_shows_the_profile_that_there_is(endpoint: Endpoint) -> None:
    ec2, iam = endpoint.client("ec2"), endpoint.client("iam")
    name = f"p{secrets.token_hex(4)}"
    profile = iam.create_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    shown = {"Arn": profile["Arn"], "Id": profile["InstanceProfileId"]}
    subnet = scene(endpoint).public
    request = {"ImageId": "ami-0123456789abcdef0", "MinCount": 1, "MaxCount": 1}
    for said in ({"Name": name}, {"Arn": profile["Arn"]}):
        made = ec2.run_instances(SubnetId=subnet, IamInstanceProfile=said, **request)
        key = made["Instances"][0]["InstanceId"]
        (found,) = ec2.describe_instances(InstanceIds=[key])["Reservations"][0]["Instances"]
        assert found["IamInstanceProfile"] == shown
    wanted = [{"Name": "iam-instance-profile.arn", "Values": [profile["Arn"]]}]
    assert len(ec2.describe_instances(Filters=wanted)["Reservations"]) == 2
    for wrong, what in (({"Name": "no"}, "name"), ({"Arn": f"{profile['Arn']}x"}, "ARN")):
        code, text, _ = refusal(
            ec2.run_instances, SubnetId=subnet, IamInstanceProfile=wrong, **request
        )
        assert code == "InvalidParameterValue"
        assert text.endswith(f"is invalid. Invalid IAM Instance Profile {what}")
