# SPDX-License-Identifier: Apache-2.0
"""Network ACLs as they are configured, in parts and as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.engine import Action, DropReason
from tests.forwarder.test_gateways import Served, everything

ENTRY = {"allow": True, "protocol": "udp", "cidr": "192.0.2.0/24", "first": 53, "last": 53}
SHUT = {"number": 0, "subnets": [{"cidr": "10.0.1.0/24", "ingress": [], "egress": []}]}


def acls(**fields: Any) -> dict[str, Any]:
    subnet = {"cidr": "10.0.1.0/24", "ingress": [], "egress": [ENTRY | fields]}
    return {"number": 0, "subnets": [subnet], "exempt": ["169.254.0.0/16"]}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    result = Served(tmp_path / "state.map")
    result.begin()
    yield result
    assert result.engine.verify() == []


def test_in_parts_and_as_a_whole(served: Served) -> None:
    assert served.host_sends().action is Action.FORWARD
    served.tell(network_acls=[SHUT])
    assert served.host_sends().reason is DropReason.NETWORK_ACL_EGRESS
    assert served.configuration.describe()["network_acls"] == 1
    served.tell(network_acls=[acls()])
    assert served.host_sends().action is Action.FORWARD
    served.tell(remove_network_acls=[0])
    assert served.environment_sends().action is Action.FORWARD
    served.tell(**everything(), network_acls=[SHUT])
    assert served.environment_sends().reason is DropReason.NETWORK_ACL_EGRESS
    served.tell(**everything())
    assert served.environment_sends().action is Action.FORWARD
    assert served.configuration.describe()["network_acls"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"network_acls": [acls(protocol="gre")]}, "tcp, udp, icmp or all"),
        ({"network_acls": [acls(first=54)]}, "ports 54 to 53"),
        ({"network_acls": [acls(last=65536)]}, "out of range"),
        ({"network_acls": [acls(icmp_type=256)]}, "out of range"),
        ({"network_acls": [acls(cidr="10.0.0.1/8")]}, "host bits"),
        ({"network_acls": [SHUT, SHUT]}, "given twice"),
        ({"network_acls": [SHUT], "remove_network_acls": [0]}, "both given and removed"),
        ({"network_acls": [SHUT | {"number": -1}]}, "out of range"),
    ],
)
def test_what_is_refused_changes_nothing(
    served: Served, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        served.tell(**arguments)
    assert served.host_sends().action is Action.FORWARD


def test_what_is_no_entry(served: Served) -> None:
    with pytest.raises(TypeError, match="is not true or false"):
        served.tell(network_acls=[acls(allow=1)])
