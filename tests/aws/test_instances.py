# SPDX-License-Identifier: Apache-2.0
"""Instances: hosts of VPCs, as EC2 has them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hyperplane_nat.aws import instances
from hyperplane_nat.model.resources import HostResource
from tests.aws.support import OTHER, Endpoint, Scene, refusal, scene

IMAGE = "ami-0abcdef1234567890"


@pytest.fixture
def found(endpoint: Endpoint) -> Scene:
    return scene(endpoint)


def run(endpoint: Endpoint, **params: Any) -> list[dict[str, Any]]:
    ec2 = endpoint.client("ec2")
    said = {"ImageId": IMAGE, "MinCount": 1, "MaxCount": 1, **params}
    made: list[dict[str, Any]] = ec2.run_instances(**said)["Instances"]
    return made


def named(name: str) -> list[dict[str, Any]]:
    return [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}]}]


def test_an_instance_is_a_host_of_the_region(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    (made,) = run(
        endpoint,
        SubnetId=found.private,
        SecurityGroupIds=[found.group],
        PrivateIpAddress="10.7.1.9",
        InstanceType="t3.micro",
        TagSpecifications=named("web-1"),
    )
    ec2.get_waiter("instance_running").wait(InstanceIds=[made["InstanceId"]])
    ec2.get_waiter("instance_status_ok").wait(InstanceIds=[made["InstanceId"]])
    region = endpoint.region.region
    (host,) = region.tables.hosts.values()
    assert (host.id, host.name, str(host.address)) == (made["InstanceId"], "web-1", "10.7.1.9")
    (reservation,) = ec2.describe_instances(
        Filters=[{"Name": "tag:Name", "Values": ["web-*"]}, {"Name": "vpc-id", "Values": ["*"]}]
    )["Reservations"]
    (shown,) = reservation["Instances"]
    assert shown == made
    assert (shown["State"]["Name"], shown["InstanceType"]) == ("running", "t3.micro")
    assert shown["SecurityGroups"] == [{"GroupId": found.group, "GroupName": "fn"}]
    (interface,) = shown["NetworkInterfaces"]
    (same,) = ec2.describe_network_interfaces(
        Filters=[{"Name": "attachment.instance-id", "Values": [made["InstanceId"]]}]
    )["NetworkInterfaces"]
    assert interface["NetworkInterfaceId"] == same["NetworkInterfaceId"]
    # A host that was made elsewhere is an instance, too.
    with region.commands() as commands:
        commands.create_host(HostResource("db", found.private))
    names = {
        each["PrivateDnsName"].split(".")[0]
        for one in ec2.describe_instances()["Reservations"]
        for each in one["Instances"]
    }
    assert names == {"web-1", "db"}
    assert endpoint.client("ec2", OTHER).describe_instances()["Reservations"] == []


def test_groups_of_an_instance(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    (made,) = run(endpoint, SubnetId=found.private)
    assert [each["GroupId"] for each in made["SecurityGroups"]] == [found.default]
    ec2.modify_instance_attribute(InstanceId=made["InstanceId"], Groups=[found.group])
    ((shown,),) = (
        each["Instances"]
        for each in ec2.describe_instances(InstanceIds=[made["InstanceId"]])["Reservations"]
    )
    assert [each["GroupId"] for each in shown["SecurityGroups"]] == [found.group]


def test_several_instances_and_a_request_that_comes_twice(endpoint: Endpoint, found: Scene) -> None:
    said = {"SubnetId": found.private, "MaxCount": 3, "ClientToken": "once"}
    first, again = run(endpoint, **said), run(endpoint, **said)
    assert len(first) == 3
    assert {each["InstanceId"] for each in first} == {each["InstanceId"] for each in again}
    (reservation,) = endpoint.client("ec2").describe_instances()["Reservations"]
    assert len(reservation["Instances"]) == 3


@pytest.mark.races
def test_clients_beside_each_other_that_want_one_name_get_instances(
    endpoint: Endpoint, found: Scene
) -> None:
    said = {"SubnetId": found.private, "TagSpecifications": named("web")}
    endpoint.client("ec2")
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(run, endpoint, **said) for _ in range(16)]
        made = {each.result()[0]["InstanceId"] for each in futures}
    names = [each.name for each in endpoint.region.region.tables.hosts.values()]
    assert (len(made), names.count("web"), len(set(names))) == (16, 1, 16)


def test_a_public_address_of_its_own(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    (plain,) = run(endpoint, SubnetId=found.public)
    assert "PublicIpAddress" not in plain
    ec2.modify_subnet_attribute(SubnetId=found.public, MapPublicIpOnLaunch={"Value": True})
    (mapped,) = run(endpoint, SubnetId=found.public)
    interface = {
        "DeviceIndex": 0,
        "SubnetId": found.public,
        "Groups": [found.group],
        "AssociatePublicIpAddress": False,
    }
    (asked,) = run(endpoint, NetworkInterfaces=[interface])
    assert mapped["PublicIpAddress"]
    assert "PublicIpAddress" not in asked
    ec2.terminate_instances(InstanceIds=[mapped["InstanceId"]])
    public = {
        str(each.address) for each in endpoint.region.region.tables.elastic_addresses.values()
    }
    assert mapped["PublicIpAddress"] not in public


def test_terminated_instances_are_listed_for_an_hour(
    endpoint: Endpoint, found: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    ec2 = endpoint.client("ec2")
    made, other = run(endpoint, SubnetId=found.private, MaxCount=2, TagSpecifications=named("web"))
    key = made["InstanceId"]
    (change,) = ec2.terminate_instances(InstanceIds=[key])["TerminatingInstances"]
    assert change["PreviousState"]["Name"] == "running"
    ec2.get_waiter("instance_terminated").wait(InstanceIds=[key])
    ((shown,),) = (
        each["Instances"] for each in ec2.describe_instances(InstanceIds=[key])["Reservations"]
    )
    assert (shown["State"]["Name"], shown["Tags"]) == ("terminated", made["Tags"])
    assert "PrivateIpAddress" not in shown
    statuses = ec2.describe_instance_status()["InstanceStatuses"]
    assert [each["InstanceId"] for each in statuses] == [other["InstanceId"]]
    # Again is no error.
    ec2.terminate_instances(InstanceIds=[key])
    later = time.time() + instances.LISTED_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    said = refusal(ec2.describe_instances, InstanceIds=[key])
    assert said == ("InvalidInstanceID.NotFound", f"The instance ID '{key}' does not exist", 400)
    ec2.terminate_instances(InstanceIds=[other["InstanceId"]])
    assert ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [key]}])["Tags"] == []


def test_what_is_wrong_makes_no_instance(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    good = {"ImageId": IMAGE, "MinCount": 1, "MaxCount": 1, "SubnetId": found.private}
    for changes, code in (
        ({"ImageId": None}, "MissingParameter"),
        ({"ImageId": "debian"}, "InvalidAMIID.Malformed"),
        ({"SubnetId": None}, "VPCIdNotSpecified"),
        ({"SubnetId": "subnet-00000000000000000"}, "InvalidSubnetID.NotFound"),
        ({"SecurityGroupIds": ["sg-00000000000000000"]}, "InvalidGroup.NotFound"),
        ({"MinCount": 2}, "InvalidParameterValue"),
        ({"MinCount": 0}, "InvalidParameterValue"),
        ({"MinCount": None}, "MissingParameter"),
        ({"MaxCount": None}, "MissingParameter"),
        ({"MaxCount": 101}, "UnsupportedOperation"),
        ({"MaxCount": 2, "PrivateIpAddress": "10.7.1.9"}, "InvalidParameterCombination"),
        ({"PrivateIpAddress": "10.9.1.9"}, "InvalidParameterValue"),
        ({"UserData": "IyE="}, "UnsupportedOperation"),
        ({"NetworkInterfaces": [{"DeviceIndex": 0}]}, "InvalidParameterCombination"),
        (
            {"SubnetId": None, "NetworkInterfaces": [{"DeviceIndex": 1}]},
            "UnsupportedOperation",
        ),
        (
            {"SubnetId": None, "NetworkInterfaces": [{"NetworkInterfaceId": "eni-0"}]},
            "UnsupportedOperation",
        ),
        ({"DryRun": True}, "DryRunOperation"),
    ):
        params = {name: value for name, value in {**good, **changes}.items() if value is not None}
        assert refusal(ec2.run_instances, **params)[0] == code, changes
    assert endpoint.region.region.tables.hosts == {}
    # All of a request or nothing: the subnet is full before the last one.
    small = ec2.create_subnet(VpcId=found.vpc, CidrBlock="10.7.9.0/28")["Subnet"]["SubnetId"]
    said = refusal(ec2.run_instances, **{**good, "SubnetId": small, "MaxCount": 12})
    assert said[0] == "InsufficientFreeAddressesInSubnet"
    assert endpoint.region.region.tables.hosts == {}
    missing = ["i-00000000000000000", "i-00000000000000001"]
    assert refusal(ec2.terminate_instances, InstanceIds=missing)[1] == (
        f"The instance IDs '{', '.join(missing)}' do not exist"
    )
    assert refusal(ec2.terminate_instances)[0] == "MissingParameter"
    (made,) = run(endpoint, SubnetId=found.private)
    assert refusal(ec2.modify_instance_attribute, InstanceId=made["InstanceId"])[0] == (
        "InvalidParameterCombination"
    )


def test_a_token_is_one_launch_also_while_it_is_answered(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    said = {"ImageId": IMAGE, "MinCount": 2, "MaxCount": 2, "SubnetId": found.private}

    def launch(_: int) -> list[str]:
        answer = ec2.run_instances(**said, ClientToken="again")
        return sorted(each["InstanceId"] for each in answer["Instances"])

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(launch, range(8)))
    assert answers == [sorted(endpoint.region.region.tables.hosts)] * 8
    assert len(answers[0]) == 2
    wrong = refusal(ec2.run_instances, **{**said, "MaxCount": 3}, ClientToken="again")
    assert wrong[0] == "IdempotentParameterMismatch"


def test_whoever_terminates_an_instance_finds_it_terminated(
    endpoint: Endpoint, found: Scene
) -> None:
    ec2 = endpoint.client("ec2")
    keys = [
        each["InstanceId"] for each in run(endpoint, SubnetId=found.private, MinCount=5, MaxCount=5)
    ]

    def terminate(_: int) -> set[str]:
        ended = ec2.terminate_instances(InstanceIds=keys)["TerminatingInstances"]
        states = ec2.describe_instances(InstanceIds=keys)["Reservations"][0]["Instances"]
        return {each["CurrentState"]["Name"] for each in ended} | {
            each["State"]["Name"] for each in states
        }

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(terminate, range(6))) == [{"terminated"}] * 6


def test_what_cannot_be_terminated_runs_on(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    (made,) = run(endpoint, SubnetId=found.private)
    key = made["InstanceId"]
    (host,) = endpoint.region.region.tables.hosts.values()
    service = {"vpc": found.vpc, "name": "web", "kind": "http", "host": host.name, "port": 80}
    endpoint.lab.client.post("/v1/services", service)
    assert refusal(ec2.terminate_instances, InstanceIds=[key])[0] == "DependencyViolation"
    (shown,) = ec2.describe_instances(InstanceIds=[key])["Reservations"][0]["Instances"]
    assert shown == made
