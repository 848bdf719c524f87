# SPDX-License-Identifier: Apache-2.0
"""A whole lab is built and removed."""

from __future__ import annotations

import operator
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from netns import NetnsError, environments, ingress, links, namespace, topology, vpcs
from netns.netlink import RouteSocket
from netns.topology import VpcSpec
from tests.netns.conftest import inspect, lab_spec, wait_for

VPC = lab_spec("x").vpcs[0]


@pytest.mark.live
def test_what_is_built(lab: str) -> None:
    spec = lab_spec(lab, 3)
    seen: list[tuple[int, int]] = []
    built = topology.build(spec, lambda done, total: seen.append((done, total)))

    assert seen[0] == (0, 3)
    assert seen[-1] == (3, 3)
    assert built.gateway == f"hp-{lab}-gw"
    assert [slot.number for slot in built.slots] == [1, 2, 3]
    assert [slot.namespace for slot in built.slots] == [f"hp-{lab}-env-{n}" for n in (1, 2, 3)]
    assert [(each.name, each.vpc) for each in built.interfaces] == [
        ("eni-a", "customer"),
        ("eni-b", "customer"),
    ]
    macs = [mac for slot in built.slots for mac in (slot.environment_mac, slot.gateway_mac)]
    macs += [mac for each in built.interfaces for mac in (each.mac, each.peer_mac)]
    assert len(set(macs)) == 10
    assert all(int(mac[:2], 16) & 3 == 2 for mac in macs)
    indexes = [slot.ifindex for slot in built.slots] + [each.ifindex for each in built.interfaces]
    assert len(set(indexes)) == 5


@pytest.mark.live
def test_an_environment(lab: str) -> None:
    built = topology.build(lab_spec(lab, 2))
    for slot in built.slots:
        with namespace.call(slot.namespace, RouteSocket) as inside:
            found = links.links(inside)
            eth0 = found["eth0"]
            assert set(found) == {"lo", "eth0"}
            assert found["lo"].up
            assert eth0.up
            assert (eth0.mac, eth0.mtu) == (slot.environment_mac, 1500)
            assert eth0.peer_index == slot.ifindex
            assert links.addresses(inside) == {(1, "127.0.0.1/8"), (eth0.index, "169.254.100.2/30")}
            assert links.routes(inside) == {
                links.Route("0.0.0.0/0", "169.254.100.1", eth0.index),
                links.Route("169.254.100.0/30", None, eth0.index),
            }
        neighbours = subprocess.run(
            ["ip", "-n", slot.namespace, "neighbour"], capture_output=True, text=True, check=True
        )
        assert "PERMANENT" not in neighbours.stdout


@pytest.mark.live
def test_the_gateway(lab: str) -> None:
    built = topology.build(lab_spec(lab, 2))
    with namespace.call(built.gateway, RouteSocket) as inside:
        found = links.links(inside)
        assert set(found) == {"lo", "env1", "env2", "eni-a", "eni-b"}
        assert links.addresses(inside) == set()
        assert links.routes(inside) == set()
        near = {slot.ifindex: slot.gateway_mac for slot in built.slots}
        near |= {each.ifindex: each.mac for each in built.interfaces}
        assert {link.index: link.mac for link in found.values() if link.name != "lo"} == near
        assert all(link.up for link in found.values() if link.name != "lo")
        assert found["env1"].mtu == 1500
        assert found["eni-a"].mtu == 1400
        assert ingress.missing(inside, [link.index for link in found.values()]) == [1]


@pytest.mark.live
def test_settings_of_all_namespaces(lab: str) -> None:
    built = topology.build(lab_spec(lab, 1))
    vpc = topology.vpc_namespace(lab, "customer")
    environment = built.slots[0].namespace

    def read(name: str, key: str) -> str:
        file = Path("/proc/sys/net") / key
        return namespace.call(name, lambda: file.read_text().strip())

    for name in (built.gateway, vpc, environment):
        assert read(name, "ipv4/ip_forward") == "0"
        if Path("/proc/sys/net/ipv6").is_dir():
            assert read(name, "ipv6/conf/all/disable_ipv6") == "1"
            assert read(name, "ipv6/conf/default/disable_ipv6") == "1"
            text = Path("/proc/thread-self/net/if_inet6")
            assert namespace.call(name, text.read_text) == ""
    assert read(built.gateway, "ipv4/conf/all/arp_ignore") == "8"
    assert read(vpc, "ipv4/conf/all/arp_ignore") == "0"
    assert int(read(vpc, "core/somaxconn")) >= 1024


@pytest.mark.live
def test_the_vpc_reaches_interfaces_without_a_bridge(lab: str) -> None:
    built = topology.build(lab_spec(lab, 0))
    with namespace.call(topology.vpc_namespace(lab, "customer"), RouteSocket) as inside:
        found = links.links(inside)
        assert set(found) == {"lo", "eni-a", "eni-b"}
        assert {address for _, address in links.addresses(inside)} == {
            *("127.0.0.1/8", "10.0.1.1/32", "10.0.1.80/32", "10.0.1.81/32")
        }
        assert links.routes(inside) == {
            links.Route("10.0.1.10/32", None, found["eni-a"].index),
            links.Route("10.0.1.11/32", None, found["eni-b"].index),
        }
        assert [each.peer_mac for each in built.interfaces] == [
            found["eni-a"].mac,
            found["eni-b"].mac,
        ]


@pytest.mark.live
def test_the_gateways_own_stack_never_answers(lab: str) -> None:
    topology.build(lab_spec(lab, 1))
    ping = ["ip", "netns", "exec", f"hp-{lab}-env-1", "ping", "-c1", "-W1", "169.254.100.1"]
    result = subprocess.run(ping, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    shown = subprocess.run(
        ["ip", "netns", "exec", f"hp-{lab}-gw", "cat", "/proc/net/snmp"],
        capture_output=True,
        text=True,
        check=True,
    )
    received = shown.stdout.splitlines()[1].split()[3]
    assert received == "0"


@pytest.mark.live
def test_inspect_adopts_what_was_built(lab: str) -> None:
    spec = lab_spec(lab, 3)
    assert inspect(spec) is None
    built = topology.build(spec)
    assert inspect(spec) == built


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _half_make_environment(lab: str) -> None:
    namespace.delete([f"hp-{lab}-env-2"])
    namespace.path(f"hp-{lab}-env-2").touch()


def _open_ingress(lab: str) -> None:
    tc = ["tc", "-n", f"hp-{lab}-gw", "qdisc", "delete", "dev", "env1", "clsact"]
    subprocess.run(tc, check=True)


DAMAGE: dict[str, Callable[[str], None]] = {
    "environment gone": lambda lab: namespace.delete([f"hp-{lab}-env-2"]),
    "vpc gone": lambda lab: namespace.delete([f"hp-{lab}-vpc-customer"]),
    "gateway gone": lambda lab: namespace.delete([f"hp-{lab}-gw"]),
    "one environment more": lambda lab: _ip("netns", "add", f"hp-{lab}-env-9"),
    "half-made environment": _half_make_environment,
    "slot gone": lambda lab: _ip("-n", f"hp-{lab}-gw", "link", "delete", "env1"),
    "slot down": lambda lab: _ip("-n", f"hp-{lab}-gw", "link", "set", "env1", "down"),
    "one link more": lambda lab: _ip(
        "-n", f"hp-{lab}-gw", "link", "add", "more", "type", "veth", "peer", "name", "more2"
    ),
    "eth0 down": lambda lab: _ip("-n", f"hp-{lab}-env-1", "link", "set", "eth0", "down"),
    "address gone": lambda lab: _ip("-n", f"hp-{lab}-env-1", "address", "flush", "dev", "eth0"),
    "route gone": lambda lab: _ip("-n", f"hp-{lab}-env-1", "route", "delete", "default"),
    "other MTU": lambda lab: _ip("-n", f"hp-{lab}-env-1", "link", "set", "eth0", "mtu", "1400"),
    "service address gone": lambda lab: _ip(
        "-n", f"hp-{lab}-vpc-customer", "address", "delete", "10.0.1.80/32", "dev", "lo"
    ),
    "host route gone": lambda lab: _ip(
        "-n", f"hp-{lab}-vpc-customer", "route", "delete", "10.0.1.10/32"
    ),
    "ingress open": _open_ingress,
}


@pytest.mark.live
@pytest.mark.parametrize("damage", DAMAGE)
def test_inspect_refuses_a_damaged_lab_and_destroy_removes_it(lab: str, damage: str) -> None:
    spec = lab_spec(lab, 2)
    topology.build(spec)
    DAMAGE[damage](lab)
    assert inspect(spec) is None
    topology.destroy(lab)
    assert topology.strays(lab) == []
    topology.build(spec)


@pytest.mark.live
def test_inspect_refuses_another_spec(lab: str) -> None:
    spec = lab_spec(lab, 2)
    topology.build(spec)
    more = VpcSpec("other", 1500, ("10.1.0.1",), ())
    for other in (
        replace(spec, environments=1),
        replace(spec, environments=3),
        replace(spec, inside_address="169.254.100.1", inside_gateway="169.254.100.2"),
        replace(spec, environment_mtu=1400),
        replace(spec, vpcs=(*spec.vpcs, more)),
        replace(spec, vpcs=(replace(VPC, interfaces=VPC.interfaces[:1]),)),
        replace(spec, vpcs=(replace(VPC, addresses=(*VPC.addresses, "10.0.1.90")),)),
        replace(spec, vpcs=(replace(VPC, mtu=1500),)),
    ):
        assert inspect(other) is None, other


@pytest.mark.live
def test_a_lab_that_is_there_is_left_alone(lab: str) -> None:
    spec = lab_spec(lab, 2)
    built = topology.build(spec)
    with pytest.raises(NetnsError, match=r"is there already: .* and 3 more \(destroy it first"):
        topology.build(spec)
    assert inspect(spec) == built


@pytest.mark.races
@pytest.mark.live
def test_a_lost_race_leaves_the_winner_alone(lab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = lab_spec(lab, 1)
    built = topology.build(spec)
    with monkeypatch.context() as patch:
        patch.setattr(topology, "strays", lambda _lab: [])
        with pytest.raises(NetnsError, match="File exists"):
            topology.build(spec)
    assert inspect(spec) == built


@pytest.mark.races
@pytest.mark.live
def test_destroy_touches_no_other_lab(lab: str) -> None:
    other = f"{lab}-b"
    try:
        built = topology.build(lab_spec(other, 2))
        topology.build(lab_spec(lab, 1))
        topology.destroy(lab)
        topology.destroy(lab)
        assert topology.strays(lab) == []
        assert inspect(lab_spec(other, 2)) == built
    finally:
        topology.destroy(other)


@pytest.mark.live
@pytest.mark.parametrize("stage", ["vpc", "slots", "environment", "ingress", "progress"])
def test_a_failing_build_leaves_nothing(
    lab: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = lab_spec(lab, 70)

    def fail(*_arguments: object) -> None:
        raise NetnsError("made up", "for the test")

    def fail_late(done: int, _total: int) -> None:
        if done:
            fail()

    targets = {
        "vpc": (vpcs, "_make_interfaces"),
        "slots": (environments, "_create_slots"),
        "environment": (environments, "_set_up_environment"),
    }
    with monkeypatch.context() as patch:
        if stage in targets:
            patch.setattr(*targets[stage], fail)
        elif stage == "ingress":
            patch.setattr(ingress, "drop", fail)
        with pytest.raises(NetnsError, match="made up"):
            topology.build(spec, fail_late if stage == "progress" else None)
    assert topology.strays(lab) == []


@pytest.mark.races
@pytest.mark.live
def test_an_interrupted_build_leaves_nothing(lab: str) -> None:
    code = f"""
import os, signal, sys
from netns import topology
from tests.netns.conftest import lab_spec, wait_for
signal.signal(signal.SIGINT, signal.default_int_handler)
def interrupt(done, total):
    if done == 0:
        os.kill(os.getpid(), signal.SIGINT)
try:
    topology.build(lab_spec({lab!r}, 10), interrupt)
except KeyboardInterrupt:
    sys.exit(7)
"""
    result = subprocess.run([sys.executable, "-c", code], check=False)
    assert result.returncode == 7
    assert topology.strays(lab) == []


@pytest.mark.races
@pytest.mark.live
def test_killed_at_any_moment_destroy_cleans_up(lab: str) -> None:
    code = (
        "from netns import topology; from tests.netns.conftest import lab_spec\n"
        f"spec = lab_spec({lab!r}, 40)\n"
        "print('go', flush=True)\n"
        "while True:\n    topology.build(spec)\n    topology.destroy(spec.lab)\n"
    )
    generator = random.Random(11)
    for _ in range(8):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "go\n"
            until = time.monotonic() + generator.uniform(0, 0.3)
            while time.monotonic() < until:
                assert child.poll() is None
        finally:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
        topology.destroy(lab)
        assert topology.strays(lab) == []
    spec = lab_spec(lab, 5)
    assert topology.build(spec) == inspect(spec)


@pytest.mark.races
@pytest.mark.live
def test_destroy_takes_the_links_from_a_process_that_stays(lab: str) -> None:
    built = topology.build(lab_spec(lab, 2))
    with namespace.call(built.gateway, RouteSocket) as inside:
        topology.destroy(lab)
        assert set(links.links(inside)) == {"lo"}


@pytest.mark.live
@pytest.mark.slow
def test_a_thousand_environments_in_time(lab: str) -> None:
    spec = lab_spec(lab, 1000)
    begin = time.monotonic()
    built = topology.build(spec)
    took = time.monotonic() - begin
    assert len(built.slots) == 1000
    assert inspect(spec) == built
    begin = time.monotonic()
    topology.destroy(lab)
    removed = time.monotonic() - begin
    assert topology.strays(lab) == []
    # Measured on two idle cores: 3 s and 1 s. Busy ones may take longer.
    assert took < 120, took
    assert removed < 60, removed


@pytest.mark.live
def test_rounds_leak_nothing(lab: str) -> None:
    def state() -> tuple[int, int, int]:
        return (
            len(list(Path("/proc/self/fd").iterdir())),
            len(list(Path("/proc/self/task").iterdir())),
            Path("/proc/self/mountinfo").read_text().count(f"/hp-{lab}-"),
        )

    spec = lab_spec(lab, 3)
    topology.build(spec)
    topology.destroy(lab)
    before = state()
    for _ in range(50):
        topology.build(spec)
        topology.destroy(lab)
    # A thread that was waited for may need a moment to leave /proc.
    wait_for(lambda: all(map(operator.le, state(), before)))
