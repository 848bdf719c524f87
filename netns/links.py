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
import os
import re
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from netns.errors import NetnsError
from netns.formats import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    ifaddrmsg,
    ifinfmsg,
    rtmsg,
)
from netns.netlink import RouteSocket, attributes, encode

LOOPBACK_INDEX = 1
GROUP = 0x6870
"""Link group of every pair made here ("hp")."""

_GROUP_LEAVING = GROUP + 1
_IFF_UP = 1
# linux/rtnetlink.h, struct ifinfomsg: ifi_index and ifi_flags; and linux/if_link.h.
_IFINFOMSG, _IFINFOMSG_SIZE = struct.Struct("=4xiI"), 16
# linux/if_addr.h, struct ifaddrmsg: ifa_prefixlen and ifa_index.
_IFADDRMSG, _IFA_LOCAL = struct.Struct("=xBxxI"), 2
# linux/rtnetlink.h, struct rtmsg: rtm_dst_len, rtm_table and rtm_type.
_RTMSG, _RTA_DST, _RTA_OIF, _RTA_GATEWAY = struct.Struct("=xBxxBxxB4x"), 1, 4, 5
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_GROUP = 1, 3, 4, 5, 27
_IFLA_GSO_IPV4_MAX_SIZE = 63
_AF_INET = 2
_RT_TABLE_MAIN = 254
_RTPROT_STATIC = 4
_RT_SCOPE_UNIVERSE = 0
_RT_SCOPE_LINK = 253
_RTN_UNICAST = 1
_RTN_BLACKHOLE = 6
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
    messages = [_pair_request(pair) for pair in pairs]
    first = pairs[0].name if pairs else ""
    last = pairs[-1].name if pairs else ""
    route.request(messages, f"cannot create links {first} to {last}")


# Stand for the values of one pair while a form is made.
_FORM_MAC, _FORM_PEER_MAC = b"\x02\xf0\x0d\xfa\xce\x01", b"\x02\xf0\x0d\xfa\xce\x02"
_FORM_NAMESPACE = 0x7EAD_BEEF


def _pair_request(pair: Pair) -> bytes:
    name, peer_name = pair.name.encode(), pair.peer_name.encode()
    values = (
        _name_attribute(name),
        bytes.fromhex(pair.mac.replace(":", "")),
        _name_attribute(peer_name),
        bytes.fromhex(pair.peer_mac.replace(":", "")),
        struct.pack("=I", pair.peer_namespace),
    )
    form, rest = _pair_form(len(name), len(peer_name), pair.mtu)
    return b"".join(part for pair in zip(form, values, strict=True) for part in pair) + rest


def _name_attribute(name: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(name) + 1, _IFLA_IFNAME) + name + b"\0"


@functools.lru_cache(maxsize=256)
def _pair_form(
    name_length: int, peer_name_length: int, mtu: int
) -> tuple[tuple[bytes, ...], bytes]:
    """The request for a pair with names of these lengths: what stands before each value, the rest.

    A thousand environments differ in names, hardware addresses and a descriptor only, and
    building a request takes longer than all the rest that Python does for an environment.
    """
    peer = {
        "family": 0,
        "index": 0,
        # Not up yet: veth configures the peer before the pair is tied, which fails (ENOTCONN).
        "flags": 0,
        "change": 0,
        "attrs": [
            ("IFLA_IFNAME", ">" * peer_name_length),
            ("IFLA_ADDRESS", _FORM_PEER_MAC.hex(":")),
            ("IFLA_MTU", mtu),
            ("IFLA_NUM_TX_QUEUES", 1),
            ("IFLA_NUM_RX_QUEUES", 1),
            ("IFLA_NET_NS_FD", _FORM_NAMESPACE),
        ],
    }
    message = ifinfmsg()
    message["flags"] = message["change"] = _IFF_UP
    message["attrs"] = [
        ("IFLA_IFNAME", "<" * name_length),
        ("IFLA_ADDRESS", _FORM_MAC.hex(":")),
        ("IFLA_MTU", mtu),
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
    rest = encode(message, RTM_NEWLINK, _CREATE)
    form = []
    for value in (
        _name_attribute(b"<" * name_length),
        _FORM_MAC,
        _name_attribute(b">" * peer_name_length),
        _FORM_PEER_MAC,
        struct.pack("=I", _FORM_NAMESPACE),
    ):
        before, _, rest = rest.partition(value)
        form.append(before)
    return tuple(form), rest


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


def network_route(index: int, network: str, gateway: str) -> bytes:
    """The request that makes an IPv4 network reached through `gateway`, a neighbour on a link."""
    destination, _, length = network.partition("/")
    return _route(
        int(length),
        _RT_SCOPE_UNIVERSE,
        [("RTA_DST", destination), ("RTA_GATEWAY", gateway), ("RTA_OIF", index)],
    )


@functools.lru_cache(maxsize=1024)
def without_host_route(index: int, destination: str) -> bytes:
    """The request that takes such a route away again; ESRCH when there is none."""
    attributes: list[tuple[str, object]] = [("RTA_DST", destination), ("RTA_OIF", index)]
    return encode(_route_message(32, _RT_SCOPE_LINK, attributes), RTM_DELROUTE)


@functools.cache
def blackhole() -> bytes:
    """The request that drops what no other route leads to, in silence."""
    message = _route_message(0, _RT_SCOPE_UNIVERSE, [])
    message["type"] = _RTN_BLACKHOLE
    return encode(message, RTM_NEWROUTE, _CREATE)


def _route(length: int, scope: int, attributes: list[tuple[str, object]]) -> bytes:
    return encode(_route_message(length, scope, attributes), RTM_NEWROUTE, _CREATE)


def _route_message(length: int, scope: int, attributes: list[tuple[str, object]]) -> Any:
    message = rtmsg()
    message["family"] = _AF_INET
    message["dst_len"] = length
    message["table"] = _RT_TABLE_MAIN
    message["proto"] = _RTPROT_STATIC
    message["scope"] = scope
    message["type"] = _RTN_UNICAST
    message["attrs"] = attributes
    return message


def link(route: RouteSocket, name: str) -> Link | None:
    """One link by name; None when there is none."""
    return route.get(_by_name(name), _link, f"cannot read link {name}")


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
    found = route.dump(_all_links(), _link, "cannot list links")
    return {each.name: each for each in found}


@functools.cache
def _all_links() -> bytes:
    message = ifinfmsg()
    message["attrs"] = [("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS)]
    return encode(message, RTM_GETLINK, NLM_F_DUMP)


def _link(payload: bytes) -> Link:
    index, flags = _IFINFOMSG.unpack_from(payload)
    found = dict(attributes(payload, _IFINFOMSG_SIZE))
    return Link(
        index=index,
        name=os.fsdecode(found[_IFLA_IFNAME].rstrip(b"\0")),
        mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=_number(found.get(_IFLA_MTU)),
        up=bool(flags & _IFF_UP),
        group=_number(found.get(_IFLA_GROUP)),
        peer_index=_number(found.get(_IFLA_LINK)),
    )


def _number(value: bytes | None) -> int:
    return 0 if value is None else int.from_bytes(value, sys.byteorder)


def longest_ipv4(route: RouteSocket) -> dict[str, int]:
    """Bytes of the longest IPv4 super-frame that each link of the namespace sends, by its name.

    Links that do not say so (before Linux 6.3) are left out; none of theirs is above 64 KiB.
    """

    def read(payload: bytes) -> tuple[str, int]:
        found = dict(attributes(payload, _IFINFOMSG_SIZE))
        name = os.fsdecode(found[_IFLA_IFNAME].rstrip(b"\0"))
        return name, _number(found.get(_IFLA_GSO_IPV4_MAX_SIZE))

    each = route.dump(_all_links(), read, "cannot list links")
    return {name: size for name, size in each if size}


def addresses(route: RouteSocket) -> set[tuple[int, str]]:
    """All IPv4 addresses of the namespace as (link index, address/prefix length)."""
    return set(route.dump(_all_addresses(), _read_address, "cannot list addresses"))


@functools.cache
def _all_addresses() -> bytes:
    message = ifaddrmsg()
    message["family"] = _AF_INET
    return encode(message, RTM_GETADDR, NLM_F_DUMP)


def _read_address(payload: bytes) -> tuple[int, str]:
    length, index = _IFADDRMSG.unpack_from(payload)
    found = dict(attributes(payload, _IFADDRMSG.size))
    return index, f"{socket.inet_ntoa(found[_IFA_LOCAL])}/{length}"


def routes(route: RouteSocket) -> set[Route]:
    """All unicast IPv4 routes of the main table."""
    found = route.dump(_all_routes(), _read_route, "cannot list routes")
    return {each for each in found if each is not None}


@functools.cache
def _all_routes() -> bytes:
    message = rtmsg()
    message["family"] = _AF_INET
    return encode(message, RTM_GETROUTE, NLM_F_DUMP)


def _read_route(payload: bytes) -> Route | None:
    """The route, if it is a unicast one of the main table."""
    length, table, kind = _RTMSG.unpack_from(payload)
    if table != _RT_TABLE_MAIN or kind != _RTN_UNICAST:
        return None
    found = dict(attributes(payload, _RTMSG.size))
    gateway = found.get(_RTA_GATEWAY)
    return Route(
        destination=f"{socket.inet_ntoa(found.get(_RTA_DST, bytes(4)))}/{length}",
        gateway=None if gateway is None else socket.inet_ntoa(gateway),
        index=_number(found.get(_RTA_OIF)),
    )
