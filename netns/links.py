# SPDX-License-Identifier: Apache-2.0
"""Virtual Ethernet pairs, addresses and routes, made in bulk.

A pair is one request: IFLA_NET_NS_FD inside the peer's attributes lets the kernel create the
peer right in its namespace, with its name, hardware address and MTU. Moving a link
afterwards would cost a second request and an RCU grace period per link, both under the RTNL lock.

All our pairs carry one link group, so that a single request removes them together: the kernel
then waits for one grace period instead of one per link.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pyroute2.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
)
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
)
from pyroute2.netlink.rtnl.ifaddrmsg import (
    ifaddrmsg,
)
from pyroute2.netlink.rtnl.ifinfmsg import (
    ifinfmsg,
)
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from netns.errors import NetnsError
from netns.netlink import RouteSocket, encode

LOOPBACK_INDEX = 1
GROUP = 0x6870
"""Link group of every pair made here ("hp")."""

_GROUP_LEAVING = GROUP + 1
_IFF_UP = 1
_AF_INET = 2
_RT_TABLE_MAIN = 254
_RTPROT_STATIC = 4
_RT_SCOPE_UNIVERSE = 0
_RT_SCOPE_LINK = 253
_RTN_UNICAST = 1
_RTEXT_FILTER_SKIP_STATS = 8
_CREATE = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_NAME_LENGTH = 15
_NO_DEVICE = frozenset((errno.ENODEV,))


@dataclass(frozen=True, slots=True)
class Pair:
    """A veth pair to make: one end here, the peer in another namespace."""

    name: str
    mac: str
    mtu: int
    """Bytes of IP packet, both ends."""
    peer_name: str
    peer_mac: str
    peer_namespace: int
    """Open descriptor of the peer's namespace."""


@dataclass(frozen=True, slots=True)
class Link:
    """A link as the kernel has it."""

    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    group: int
    peer_index: int
    """Of a veth: index of the other end, in the other end's namespace. 0 for the rest."""


@dataclass(frozen=True, slots=True)
class Route:
    """An IPv4 route of the main table."""

    destination: str
    """CIDR."""
    gateway: str | None
    index: int


def check_name(name: str) -> None:
    """Raise `NetnsError` unless the kernel takes `name` for a link (IFNAMSIZ is 16)."""
    if len(name) > _NAME_LENGTH:
        raise NetnsError(
            f"link name {name!r} is {len(name)} characters long",
            f"at most {_NAME_LENGTH} are possible: choose a shorter name",
        )
    if not _NAME.fullmatch(name):
        raise NetnsError(
            f"invalid link name {name!r}", "letters, digits and _ . - only, the first no sign"
        )


def create_pairs(route: RouteSocket, pairs: Sequence[Pair]) -> None:
    """Make veth pairs: near ends up in the namespace of `route`, peers down in theirs."""
    messages = []
    for pair in pairs:
        peer = _peer(pair)
        message = ifinfmsg()
        message["flags"] = message["change"] = _IFF_UP
        message["attrs"] = [
            ("IFLA_IFNAME", pair.name),
            ("IFLA_ADDRESS", pair.mac),
            ("IFLA_MTU", pair.mtu),
            ("IFLA_GROUP", GROUP),
            # veth would take one queue per possible processor, for XDP only.
            ("IFLA_NUM_TX_QUEUES", 1),
            ("IFLA_NUM_RX_QUEUES", 1),
            (
                "IFLA_LINKINFO",
                {
                    "attrs": [
                        ("IFLA_INFO_KIND", "veth"),
                        ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", peer)]}),
                    ]
                },
            ),
        ]
        messages.append(encode(message, RTM_NEWLINK, _CREATE))
    first = pairs[0].name if pairs else ""
    last = pairs[-1].name if pairs else ""
    route.request(messages, f"cannot create links {first} to {last}")


def _peer(pair: Pair) -> dict[str, Any]:
    """The peer's half of a veth request."""
    return {
        "family": 0,
        "index": 0,
        # Not up yet: veth configures the peer before the pair is tied, which fails (ENOTCONN).
        "flags": 0,
        "change": 0,
        "attrs": [
            ("IFLA_IFNAME", pair.peer_name),
            ("IFLA_ADDRESS", pair.peer_mac),
            ("IFLA_MTU", pair.mtu),
            ("IFLA_NUM_TX_QUEUES", 1),
            ("IFLA_NUM_RX_QUEUES", 1),
            ("IFLA_NET_NS_FD", pair.peer_namespace),
        ],
    }


def delete_all(route: RouteSocket) -> None:
    """Remove every pair made by `create_pairs` in this namespace, in one go."""
    _delete_group(route, GROUP)
    _delete_group(route, _GROUP_LEAVING)


def delete(route: RouteSocket, names: Iterable[str]) -> None:
    """Remove pairs by the name of the near end; those not there are no error."""
    messages = []
    for name in names:
        message = ifinfmsg()
        message["attrs"] = [("IFLA_IFNAME", name), ("IFLA_GROUP", _GROUP_LEAVING)]
        messages.append(encode(message, RTM_NEWLINK))
    route.request(messages, "cannot mark links for removal", ignore=_NO_DEVICE)
    _delete_group(route, _GROUP_LEAVING)


def _delete_group(route: RouteSocket, group: int) -> None:
    message = ifinfmsg()
    message["attrs"] = [("IFLA_GROUP", group)]
    # ENODEV: nobody is in the group.
    route.request([encode(message, RTM_DELLINK)], "cannot remove links", ignore=_NO_DEVICE)


@functools.lru_cache(maxsize=1024)
def up(index: int) -> bytes:
    """The request that brings a link up."""
    message = ifinfmsg()
    message["index"] = index
    message["flags"] = message["change"] = _IFF_UP
    return encode(message, RTM_NEWLINK)


@functools.lru_cache(maxsize=1024)
def address(index: int, value: str, prefix_length: int) -> bytes:
    """The request that adds an IPv4 address to a link."""
    return encode(_address(index, value, prefix_length), RTM_NEWADDR, _CREATE)


@functools.lru_cache(maxsize=1024)
def without_address(index: int, value: str, prefix_length: int) -> bytes:
    """The request that takes an IPv4 address from a link; EADDRNOTAVAIL when it has none such."""
    return encode(_address(index, value, prefix_length), RTM_DELADDR)


def _address(index: int, value: str, prefix_length: int) -> Any:
    message = ifaddrmsg()
    message["family"] = _AF_INET
    message["prefixlen"] = prefix_length
    message["index"] = index
    message["attrs"] = [("IFA_LOCAL", value), ("IFA_ADDRESS", value)]
    return message


@functools.lru_cache(maxsize=1024)
def default_route(index: int, gateway: str) -> bytes:
    """The request that adds the default route through `gateway`."""
    return _route(0, _RT_SCOPE_UNIVERSE, [("RTA_GATEWAY", gateway), ("RTA_OIF", index)])


@functools.lru_cache(maxsize=1024)
def host_route(index: int, destination: str) -> bytes:
    """The request that makes one IPv4 address a neighbour on a link."""
    return _route(32, _RT_SCOPE_LINK, [("RTA_DST", destination), ("RTA_OIF", index)])


def _route(length: int, scope: int, attributes: list[tuple[str, object]]) -> bytes:
    message = rtmsg()
    message["family"] = _AF_INET
    message["dst_len"] = length
    message["table"] = _RT_TABLE_MAIN
    message["proto"] = _RTPROT_STATIC
    message["scope"] = scope
    message["type"] = _RTN_UNICAST
    message["attrs"] = attributes
    return encode(message, RTM_NEWROUTE, _CREATE)


def link(route: RouteSocket, name: str) -> Link | None:
    """One link by name; None when there is none."""
    answer = route.get(_by_name(name), ifinfmsg, f"cannot read link {name}")
    return None if answer is None else _link(answer)


def existing(route: RouteSocket, name: str) -> Link:
    """One link by name that was made just now; raises `NetnsError` when it is gone."""
    found = link(route, name)
    if found is None:
        raise NetnsError(f"link {name} has vanished", "somebody else changes this lab: find out")
    return found


@functools.lru_cache(maxsize=1024)
def _by_name(name: str) -> bytes:
    message = ifinfmsg()
    message["attrs"] = [("IFLA_IFNAME", name), ("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS)]
    return encode(message, RTM_GETLINK, 0)


def links(route: RouteSocket) -> dict[str, Link]:
    """All links of the namespace by name."""
    message = ifinfmsg()
    message["attrs"] = [("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS)]
    found = (_link(each) for each in route.dump(message, RTM_GETLINK, "cannot list links"))
    return {each.name: each for each in found}


def _link(message: Any) -> Link:
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        mac=message.get_attr("IFLA_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU") or 0,
        up=bool(message["flags"] & _IFF_UP),
        group=message.get_attr("IFLA_GROUP") or 0,
        peer_index=message.get_attr("IFLA_LINK") or 0,
    )


def addresses(route: RouteSocket) -> set[tuple[int, str]]:
    """All IPv4 addresses of the namespace as (link index, address/prefix length)."""
    message = ifaddrmsg()
    message["family"] = _AF_INET
    return {
        (each["index"], f"{each.get_attr('IFA_LOCAL')}/{each['prefixlen']}")
        for each in route.dump(message, RTM_GETADDR, "cannot list addresses")
    }


def routes(route: RouteSocket) -> set[Route]:
    """All unicast IPv4 routes of the main table."""
    message = rtmsg()
    message["family"] = _AF_INET
    return {
        Route(
            destination=str(
                ipaddress.IPv4Network((each.get_attr("RTA_DST") or "0.0.0.0", each["dst_len"]))
            ),
            gateway=each.get_attr("RTA_GATEWAY"),
            index=each.get_attr("RTA_OIF") or 0,
        )
        for each in route.dump(message, RTM_GETROUTE, "cannot list routes")
        if each["table"] == _RT_TABLE_MAIN and each["type"] == _RTN_UNICAST
    }
