# SPDX-License-Identifier: Apache-2.0
"""Load balancers' nodes as they are configured, in parts and as a whole, and the end of flows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.engine import Action, DropReason, Verdict
from tests.forwarder.test_configuration import Gateway, host, interface, slot
from tests.forwarder.work import finish
from tests.reference import packet

NODE, SECONDARY = "10.0.1.20", "10.0.1.21"


def listener_item(**fields: Any) -> dict[str, Any]:
    return {
        "protocol": "udp",
        "port": 53,
        "idle_ms": 120_000,
        "preserve_client_ip": True,
        "target_group": 0,
        **fields,
    }


def node_item(**fields: Any) -> dict[str, Any]:
    return {
        "number": 6,
        "name": "balancer-a",
        "address": NODE,
        "vpc": 0,
        "interface": 0,
        "listeners": [listener_item()],
        "target_groups": [[{"address": host(1)["address"], "port": 5353}]],
        **fields,
    }


def everything() -> dict[str, Any]:
    return {
        "everything": True,
        "interfaces": [interface()],
        "load_balancer_nodes": [node_item()],
        "slots": [slot(1)],
        "hosts": [host(0), host(1)],
    }


class Served(Gateway):
    """A forwarder that is told all of it."""

    def tell(self, **arguments: Any) -> None:
        finish(self.configuration.configure(arguments, self.now))

    def ends(self, **arguments: Any) -> dict[str, int]:
        request = {
            "node": 6,
            "protocol": "udp",
            "port": 53,
            "target": {"address": host(1)["address"], "port": 5353},
            **arguments,
        }
        result: dict[str, int] = finish(self.configuration.end_flows(request, 100_000, self.now))
        return result

    def sends(self, port: int = 5000) -> Verdict:
        item = host(0)
        content = packet.udp(item["address"], NODE, port, 53)
        body = packet.ipv4(item["address"], NODE, packet.UDP, content)
        frame = packet.ethernet(item["gateway_mac"], item["host_mac"], 0x0800, body)
        return self.engine.translate(frame, 2, 0, self.now)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    result = Served(tmp_path / "state.map")
    result.tell(**everything())
    yield result
    assert result.engine.verify() == []


def test_all_of_it_at_once(served: Served) -> None:
    assert (served.sends().action, served.sends().port) == (Action.FORWARD, 1)
    announced = list(served.links.sent)
    assert announced.count(0) == 4
    assert served.configuration.describe()["load_balancer_nodes"] == 1
    served.tell(**everything())
    assert served.links.sent == announced


def test_another_forwarder_goes_on(served: Served) -> None:
    served.sends()
    served.start()
    served.tell(**everything())
    assert served.sends().port == 1
    assert served.engine.counters()["flows_entries_used"] == 1


def test_targets_come_and_go(served: Served) -> None:
    served.sends()
    served.tell(load_balancer_nodes=[node_item(target_groups=[[]])])
    assert served.sends().action is Action.FORWARD
    assert served.sends(5001).reason is DropReason.LOAD_BALANCER_NO_TARGET
    served.tell(load_balancer_nodes=[node_item(listeners=[])])
    assert served.sends(5001).reason is DropReason.LOAD_BALANCER_NO_LISTENER


def test_flows_of_a_target_end(served: Served) -> None:
    served.sends()
    assert served.ends(port=54) == {"ended": 0}
    assert served.ends() == {"ended": 1}
    assert served.ends() == {"ended": 0}
    with pytest.raises(ValueError, match="no load balancer node 7"):
        served.ends(node=7)
    with pytest.raises(ValueError, match="tcp or udp"):
        served.ends(protocol="icmp")


def test_security_groups_of_a_node(served: Served) -> None:
    rule = {"protocol": "udp", "cidr": "192.0.2.0/24"}
    served.tell(load_balancer_nodes=[node_item(ingress=[rule])])
    assert served.sends().reason is DropReason.SECURITY_GROUP_INGRESS
    served.tell(load_balancer_nodes=[node_item(egress=[rule])])
    assert served.sends().reason is DropReason.SECURITY_GROUP_EGRESS


def test_addresses_of_a_node_come_and_go(served: Served) -> None:
    second = [{"number": 7, "address": SECONDARY}]
    translated = [listener_item(preserve_client_ip=False)]
    served.tell(load_balancer_nodes=[node_item(secondary=second, listeners=translated)])
    sources = {served.sends(5000 + port).frame[26:30] for port in range(32)}
    assert sources == {packet.octets(NODE), packet.octets(SECONDARY)}
    served.tell(load_balancer_nodes=[node_item(listeners=translated)])
    served.engine.sweep(0)
    assert served.sends().frame[26:30] == packet.octets(NODE)


def test_a_node_goes(served: Served) -> None:
    served.sends()
    with pytest.raises(ValueError, match="has load balancer node 6 attached"):
        served.tell(remove_interfaces=[0], remove_slots=[1], remove_hosts=[0, 1])
    served.tell(remove_load_balancer_nodes=[6])
    with pytest.raises(ValueError, match="interface 6 is retiring"):
        served.tell(load_balancer_nodes=[node_item()])
    served.engine.sweep(0)
    served.tell(load_balancer_nodes=[node_item()])
    assert served.sends().port == 1


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"interface": 5}, "names interface 5: there is none"),
        ({"vpc": 3}, "is in VPC 3, its interface 0 in VPC 0"),
        ({"address": host(0)["address"]}, "which is that of load balancer node 6"),
        ({"address": interface()["address"]}, "which is that of interface 0"),
        ({"number": 0}, "given twice"),
        ({"listeners": [listener_item(), listener_item()]}, "two listeners at one port"),
        ({"listeners": [listener_item(protocol="icmp")]}, "tcp or udp"),
        ({"listeners": [listener_item(proxy_protocol=True)]}, "PROXY"),
        ({"listeners": [listener_item(port=0)]}, "listener's port"),
        ({"listeners": [listener_item(idle_ms=0)]}, "idle_ms"),
        ({"target_groups": [[{"address": "x", "port": 1}]]}, "x"),
        ({"target_groups": [[{"address": NODE, "port": 0}]]}, "target's port"),
        ({"listeners": [listener_item(target_group=1)]}, "target group of a listener.* 1 is out"),
        ({"listeners": [listener_item(target_group=-1)]}, "target group of a listener.* -1 is out"),
        ({"secondary": [{"number": 7, "address": SECONDARY, "host": 0}]}, "stand for nobody"),
    ],
)
def test_what_cannot_be(served: Served, fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        served.tell(**{**everything(), "load_balancer_nodes": [node_item(**fields)]})
    assert served.sends().port == 1


def test_flags_are_true_or_false(served: Served) -> None:
    for name in ("sticky", "preserve_client_ip", "proxy_protocol"):
        item = node_item(listeners=[listener_item(**{name: 1})])
        with pytest.raises(TypeError, match=name):
            served.tell(load_balancer_nodes=[item])
