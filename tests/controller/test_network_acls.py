# SPDX-License-Identifier: Apache-2.0
"""Network ACLs through the control API, and in what the forwarder is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp

from hyperplane_nat.controller.network.ways_out import WaysOut
from tests.controller.region_lab import RegionLab, talk
from tests.controller.support import config_in
from tests.controller.test_api_commands import ask, done, refused
from tests.controller.test_reconcile import region_of

WEB = {"rule": 100, "action": "allow", "protocol": "tcp", "ports": "443", "cidr": "0.0.0.0/0"}
VPC: dict[str, Any] = {
    "name": "one",
    "cidr": "10.0.0.0/16",
    "subnet": [{"name": "a", "cidr": "10.0.1.0/24"}, {"name": "b", "cidr": "10.0.2.0/24"}],
    "host": [{"name": "bastion", "subnet": "a"}],
    "network_acl": [{"name": "edge", "subnets": ["b"], "ingress": [WEB]}],
}


def test_the_forwarder_is_told_of_acls_that_may_refuse_something(directory: Path) -> None:
    region = region_of(config_in(directory, lab={"environments": 0}, vpc=[VPC]))
    wanted, ways = region.wanted(), WaysOut()
    (told,) = ways.everything(wanted)["network_acls"]
    (number,) = (each.number for each in wanted.vpcs if each.name == "one")
    entry = {"allow": True, "protocol": "tcp", "cidr": "0.0.0.0/0", "first": 443, "last": 443}
    assert told == {
        "number": number,
        "subnets": [
            {
                "cidr": "10.0.2.0/24",
                "ingress": [entry | {"icmp_type": -1, "icmp_code": -1}],
                "egress": [],
            }
        ],
        "exempt": ["10.0.0.1/32", "10.0.1.1/32", "10.0.2.1/32", "10.0.0.2/32", "169.254.0.0/16"],
    }
    ways.told(wanted)
    assert not any(ways.changes(wanted).values())
    with region.commands() as commands:
        commands.disassociate_network_acl("edge", ["b"])
    changes = ways.changes(region.wanted())
    assert (changes["network_acls"], changes["remove_network_acls"]) == ([], [number])


def test_a_network_acl_from_its_first_request_to_its_last(directory: Path) -> None:
    lab = RegionLab()

    async def work(client: aiohttp.ClientSession) -> None:
        await done(client, "POST", "/v1/vpcs", {"cidr": "10.7.0.0/16", "name": "two"})
        await done(
            client, "POST", "/v1/subnets", {"vpc": "two", "cidr": "10.7.1.0/24", "name": "x"}
        )
        made = await done(client, "POST", "/v1/network-acls", {"vpc": "two", "name": "edge"})
        assert [each["RuleAction"] for each in made["Entries"]] == ["deny", "deny"]
        key = made["NetworkAclId"]
        assert key.startswith("acl-")
        path = f"/v1/network-acls/{key}"
        ping = {
            "rule": 7,
            "action": "deny",
            "protocol": "icmp",
            "icmp_type": 8,
            "cidr": "1.0.0.0/8",
        }
        changed = await done(
            client,
            "PATCH",
            path,
            {
                "create_entries": [WEB | {"egress": False}, ping | {"egress": True}],
                "associate": ["x"],
            },
        )
        assert [each["SubnetName"] for each in changed["Associations"]] == ["x"]
        web, last, denied, _ = changed["Entries"]
        assert web == {
            "RuleNumber": 100,
            "Egress": False,
            "RuleAction": "allow",
            "Protocol": "6",
            "CidrBlock": "0.0.0.0/0",
            "PortRange": {"From": 443, "To": 443},
        }
        assert (last["RuleNumber"], denied["IcmpTypeCode"]) == (32767, {"Type": 8, "Code": -1})
        again = {"create_entries": [WEB | {"egress": False}]}
        assert await refused(client, "PATCH", path, again) == (400, "NetworkAclEntryAlreadyExists")
        assert await refused(client, "DELETE", path) == (400, "DependencyViolation")
        # All of it or nothing.
        half = {"delete_entries": [{"rule": 100, "egress": False}], "associate": ["nowhere"]}
        assert (await refused(client, "PATCH", path, half))[1] == "InvalidSubnetID.NotFound"
        replaced = {
            "replace_entries": [WEB | {"egress": False, "ports": "80"}],
            "disassociate": ["x"],
        }
        changed = await done(client, "PATCH", path, replaced)
        assert changed["Entries"][0]["PortRange"] == {"From": 80, "To": 80}
        assert changed["Associations"] == []
        _, listed = await ask(client, "GET", "/v1/network-acls")
        assert [each["NetworkAclName"] for each in listed if each["VpcName"] == "two"] == [
            "default",
            "edge",
        ]
        await done(client, "DELETE", path)
        assert await refused(client, "DELETE", path) == (400, "InvalidNetworkAclID.NotFound")
        for wrong in ({"rule": 0}, {"action": "maybe"}, {"protocol": "gre"}, {"cidr": "x"}):
            body = {"create_entries": [WEB | {"egress": False} | wrong]}
            assert (await ask(client, "PATCH", path, body))[0] == 400

    talk(directory, lab, work)
