# SPDX-License-Identifier: Apache-2.0
"""Many mutations in a row, and of many clients at once: none is lost, and none of another's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.aws.support import ACCOUNT, OTHER, Endpoint

CLIENTS = 20
BATCH = 5
"""Mutations that make a group what it is, and take every second one away."""

Groups = dict[str, tuple[int, str]]
"""By their names: the port that is let in, and the value of a tag."""


def vpc_of(ec2: Any) -> str:
    return str(ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"])


def changed(ec2: Any, vpc: str, name: str, mutations: int) -> Groups:
    """Groups are made, changed, tagged and deleted: at least so many calls; what is left."""
    left: Groups = {}
    done = number = 0
    while done < mutations:
        each, port = f"{name}-{number}", 1 + number
        group = ec2.create_security_group(VpcId=vpc, GroupName=each, Description=name)["GroupId"]
        rule = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port}
        rule["IpRanges"] = [{"CidrIp": "10.0.0.0/8", "Description": each}]
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
        ec2.create_tags(Resources=[group], Tags=[{"Key": "of", "Value": each}, {"Key": "no"}])
        ec2.delete_tags(Resources=[group], Tags=[{"Key": "no"}])
        done += BATCH - 1
        if number % 2:
            ec2.delete_security_group(GroupId=group)
            done += 1
        else:
            left[each] = port, each
        number += 1
    return left


def found(ec2: Any, vpc: str) -> Groups:
    groups = ec2.get_paginator("describe_security_groups").paginate(
        Filters=[{"Name": "vpc-id", "Values": [vpc]}]
    )
    return {
        each["GroupName"]: (
            each["IpPermissions"][0]["FromPort"],
            "".join(tag["Value"] for tag in each["Tags"]),
        )
        for page in groups
        for each in page["SecurityGroups"]
        if each["GroupName"] != "default"
    }


@pytest.mark.parametrize(
    "mutations", [60, pytest.param(1000, marks=(pytest.mark.long, pytest.mark.slow))]
)
def test_mutations_in_a_row_are_all_done(endpoint: Endpoint, mutations: int) -> None:
    ec2 = endpoint.client("ec2")
    vpc = vpc_of(ec2)
    left = changed(ec2, vpc, "g", mutations)
    assert found(ec2, vpc) == left


@pytest.mark.races
@pytest.mark.parametrize(
    "mutations", [10, pytest.param(100, marks=(pytest.mark.long, pytest.mark.slow))]
)
def test_mutations_of_clients_at_once_are_all_done(endpoint: Endpoint, mutations: int) -> None:
    owners = [endpoint.client("ec2", account) for account in (ACCOUNT, OTHER)]
    vpcs = [vpc_of(each) for each in owners]

    def work(number: int) -> Groups:
        mine = number % len(owners)
        return changed(owners[mine], vpcs[mine], f"c{number}", mutations)

    with ThreadPoolExecutor(CLIENTS) as pool:
        done = list(pool.map(work, range(CLIENTS)))
    for place, (ec2, vpc) in enumerate(zip(owners, vpcs, strict=True)):
        left = {name: said for each in done[place :: len(owners)] for name, said in each.items()}
        assert found(ec2, vpc) == left
    tagged = {each["ResourceId"] for each in owners[0].describe_tags()["Tags"]}
    assert len(tagged) == sum(len(each) for each in done[:: len(owners)])
