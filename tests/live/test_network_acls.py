# SPDX-License-Identifier: Apache-2.0
"""Network ACLs in a running lab: rules that come and go while packets flow."""

from __future__ import annotations

import functools
import socket

import pytest

from hyperplane_nat.flow_cache import probe
from netns import topology
from tests.live.conftest import Launch
from tests.live.lab import Lab, receive, tcp_socket, udp_socket, wait_until
from tests.live.test_flow_cache import ON

pytestmark = pytest.mark.live

CLIENT, STORE, ECHO = "10.0.1.20", "10.0.2.54", ("10.0.2.81", 7)
REFUSED_SECONDS = 0.5
EARNING = 40
"""Exchanges that earn any flow a place in the flow cache."""

TOML = f"""
[[vpc]]
name = "customer"
cidr = "10.0.0.0/16"
subnet = [{{ name = "front", cidr = "10.0.1.0/24" }}, {{ name = "data", cidr = "10.0.2.0/24" }}]
host = [
  {{ name = "client", subnet = "front", address = "{CLIENT}" }},
  {{ name = "store", subnet = "data", address = "{STORE}" }},
]
service = [{{ name = "echo", kind = "udp-echo", address = "{ECHO[0]}", port = {ECHO[1]} }}]
[[vpc.network_acl]]
name = "data"
subnets = ["data"]
ingress = [{{ rule = 100, action = "allow", cidr = "10.0.1.0/24" }}]
egress = [{{ rule = 100, action = "allow", cidr = "10.0.1.0/24" }}]
[[network_interface]]
name = "eni-a"
subnet = "front"
address = "10.0.1.10"
"""
DENY = {"rule": 50, "action": "deny", "protocol": "udp", "cidr": "10.0.1.0/24"}


def deny(lab: Lab, *, egress: bool) -> None:
    lab.client.patch("/v1/network-acls/data", {"create_entries": [DENY | {"egress": egress}]})


def allow(lab: Lab, *, egress: bool) -> None:
    entry = {"rule": DENY["rule"], "egress": egress}
    lab.client.patch("/v1/network-acls/data", {"delete_entries": [entry]})


def answered(client: socket.socket, seconds: float = 30.0) -> bool:
    client.settimeout(seconds)
    client.sendto(b"a word", ECHO)
    try:
        return client.recv(2048) == b"a word"
    except TimeoutError:
        return False


def host(lab: Lab, name: str) -> str:
    (row,) = (each for each in lab.rows("hosts") if each["HostName"] == name)
    return topology.host_namespace(lab.name, row["Number"])


@pytest.mark.requirement("VPC-acl-stateless", profile="both")
def test_rules_on_a_running_lab(launch: Launch) -> None:
    """Each packet of flows that there are is asked about, there and back."""
    lab = launch(environments=1, toml=TOML)
    client, store = host(lab, "client"), host(lab, "store")
    with (
        udp_socket(client) as of_host,
        udp_socket(lab.environment(1)) as of_environment,
        tcp_socket(store, port=5432) as listening,
        tcp_socket(client) as begun,
    ):
        listening.listen()
        begun.connect((STORE, 5432))
        taken, _ = listening.accept()
        for each in (of_host, of_environment):
            assert answered(each)
        for egress, reason in ((False, "ingress"), (True, "egress")):
            before = lab.counters()[f"drop_network_acl_{reason}"]
            deny(lab, egress=egress)
            for each in (of_host, of_environment):
                assert not answered(each, REFUSED_SECONDS)
            counter = f"drop_network_acl_{reason}"
            wait_until(
                functools.partial(
                    lambda name, count: lab.counters()[name] >= count, counter, before + 2
                ),
                "both are dropped",
            )
            assert lab.counters()[counter] == before + 2
            # Of another protocol nothing is refused.
            taken.sendall(b"still")
            assert receive(begun, 5) == b"still"
            allow(lab, egress=egress)
            for each in (of_host, of_environment):
                assert answered(each)
        taken.close()
    assert "deny" in lab.cli("network-acls").stdout
    assert lab.verify() == []


def test_a_flow_leaves_the_flow_cache_when_its_subnet_gets_an_acl(launch: Launch) -> None:
    if lacking := probe.missing():
        pytest.skip(str(lacking))
    lab = launch(environments=1, toml=ON + TOML)
    lab.client.patch("/v1/network-acls/data", {"disassociate": ["data"]})
    with udp_socket(lab.environment(1)) as client:

        def cached() -> bool:
            for _ in range(EARNING):
                assert answered(client)
            return lab.counters()["flow_cache_flows"] == 1

        wait_until(cached, "a cached flow")
        deny(lab, egress=False)
        lab.client.patch("/v1/network-acls/data", {"associate": ["data"]})
        assert not answered(client, REFUSED_SECONDS)
        wait_until(lambda: lab.counters()["flow_cache_flows"] == 0, "nothing is cached")
        allow(lab, egress=False)
        for _ in range(2 * EARNING):
            assert answered(client)
        assert lab.counters()["flow_cache_flows"] == 0
        assert lab.counters()["flow_cache_network_acl"] > 0
    assert lab.verify() == []
