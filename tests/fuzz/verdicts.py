# SPDX-License-Identifier: Apache-2.0
"""What must be so of each verdict, whatever the frame was."""

import struct
from ipaddress import IPv4Address

from hyperplane_nat.engine import Action, DropReason, Side, Verdict
from tests.engine import scenario
from tests.engine.scenario import HOST, INSIDE, OUTSIDE


def header_sum(data: bytes | bytearray) -> int:
    """The one's complement sum of the words, without the end round carry: 0 of what is right."""
    if len(data) % 2:
        data = bytes(data) + b"\0"
    words: tuple[int, ...] = struct.unpack(f"!{len(data) // 2}H", data)
    return sum(words) % 0xFFFF


def check(verdict: Verdict, frame: bytes | bytearray, side: int, port: int) -> None:
    """A verdict has a valid action, a reason exactly when it drops, and a frame that can be."""
    action = verdict.action
    assert isinstance(action, Action)
    assert (verdict.reason is not DropReason.NONE) == (action is Action.DROP), verdict
    if action in (Action.DROP, Action.WAIT, Action.LEARN):
        assert verdict.frame == b""
        return
    assert isinstance(verdict.side, Side)
    size = len(verdict.frame)
    if action is Action.REPLY:
        assert (verdict.side, verdict.port) == (side, port)
        assert size in (42, 54) or 70 <= size <= 110, verdict
        return
    assert 34 <= size <= len(frame), verdict
    check_translated(verdict, side, port)


def check_translated(verdict: Verdict, side: int, port: int) -> None:
    """A frame that leaves goes to whom it may, and is as long as it says."""
    size = len(verdict.frame)
    total_length = int.from_bytes(verdict.frame[16:18])
    assert size == 14 + total_length, verdict
    assert header_sum(verdict.frame[14 : 14 + (verdict.frame[14] & 0x0F) * 4]) == 0, verdict
    # There may be an endpoint, which has the node's address.
    if _by_node(verdict.frame):
        return
    if HOST in (side, verdict.side):
        assert _vpc_of(side, port) == _vpc_of(verdict.side, verdict.port), "it leaves the VPC"
        if INSIDE in (side, verdict.side):
            return
        assert (side, port) != (verdict.side, verdict.port)
        return
    if side == verdict.side == INSIDE:
        vpcs = [scenario.INTERFACE_VPCS[scenario.SLOT_INTERFACES[n]] for n in (port, verdict.port)]
        assert vpcs[0] == vpcs[1], "a hairpin leaves the VPC"
        return
    assert verdict.side != side
    if side == INSIDE:
        assert _leads_to(scenario.SLOT_INTERFACES[port], verdict.port)
    else:
        assert _leads_to(scenario.SLOT_INTERFACES[verdict.port], port)


def _by_node(frame: bytes) -> bool:
    """Whether a frame is from a load balancer's node: its source is, or that of its listener."""
    return str(IPv4Address(frame[26:30])) in scenario.NODES.values()


def _leads_to(interface: int, link: int) -> bool:
    """Whether environments of an interface have a way by a link: theirs, or the NAT gateway's."""
    return link == interface or (interface, link) == (0, scenario.INTERNET_GATEWAY)


def _vpc_of(side: int, port: int) -> int:
    """The VPC that an attachment is in, or an environment reaches."""
    if side == HOST:
        return scenario.INTERFACE_VPCS[scenario.HOSTS[port][1]]
    if side == OUTSIDE and port == scenario.INTERNET_GATEWAY:
        return scenario.INTERFACE_VPCS[0]
    return scenario.INTERFACE_VPCS[scenario.SLOT_INTERFACES[port] if side == INSIDE else port]


def check_left(verdict: Verdict, side: int, port: int) -> None:
    """A question, or a frame that has waited, leaves on the link of a next hop."""
    assert verdict.side is Side.OUTSIDE
    by_endpoint = verdict.port in (scenario.BEHIND_NODES, scenario.BEHIND_ENDPOINT)
    assert by_endpoint or _vpc_of(Side.OUTSIDE, verdict.port) == _vpc_of(side, port)
    if side != HOST and not by_endpoint:
        assert _leads_to(scenario.SLOT_INTERFACES[port] if side == INSIDE else port, verdict.port)
    if verdict.frame[12:14] == b"\x08\x06":
        assert len(verdict.frame) == 42
    else:
        assert len(verdict.frame) == 14 + int.from_bytes(verdict.frame[16:18]), verdict
