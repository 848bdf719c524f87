# SPDX-License-Identifier: Apache-2.0
"""Which flow a frame belongs to, from its headers alone.

Theory of operation
-------------------
On the link of an environment the remote end of a frame that comes in is its destination, on the
links of interfaces and hosts it is the source; frames that leave are the other way round. The other
end is the local one: the environment, or an address of an interface. What is of no interface is of
the host that one of its ends is, and not translated. With its owner the local end makes the key by
which the flow table knows a flow. An echo's identifier is the port of who asked. An ICMP error
belongs to the flow of the packet that it quotes, which went the opposite way (RFC 5508, section 4).
Later fragments have no ports: they belong to what the first fragment of their datagram belongs to,
which may come after them, so their key is asked for a little later than it is noted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType

from hyperplane_nat.engine.readers.flow_search import SearchKey
from hyperplane_nat.engine.state.constants import Side

FRAGMENTS_MAX = 4_096
"""Datagrams in fragments that are remembered."""

_ETHERNET_BYTES = 14
_IPV4 = b"\x08\x00"
_ICMP, _TCP, _UDP = 1, 6, 17
_ECHO_REPLY, _ECHO_REQUEST = 0, 8
_ERRORS = (3, 4, 5, 11, 12)
_NO_PORT = b"\0\0"

_NOBODY: Mapping[bytes, int] = MappingProxyType({})

Datagram = tuple[bytes, bytes, int, bytes]
"""Source, destination, protocol, identification (RFC 791)."""


class Identifier:
    """Finds keys for the frames of one link."""

    def __init__(
        self,
        *,
        slot: int | None = None,
        interfaces: Mapping[bytes, int] = _NOBODY,
        hosts: Mapping[bytes, int] = _NOBODY,
    ) -> None:
        """An environment's link has a `slot`, others numbers by address: `interfaces`, `hosts`."""
        self._slot = slot
        self._interfaces = interfaces
        self._hosts = hosts
        self._fragments: OrderedDict[Datagram, SearchKey] = OrderedDict()

    def note(self, frame: bytes, outgoing: bool) -> SearchKey | Datagram | None:
        """The key of a frame's flow, the datagram whose first fragment has it, None if neither."""
        if frame[12:14] != _IPV4 or len(frame) < _ETHERNET_BYTES + 20:
            return None
        packet = frame[_ETHERNET_BYTES : _ETHERNET_BYTES + 160]
        inside = self._slot is not None
        to_remote = inside is not outgoing
        offset = int.from_bytes(packet[6:8], "big")
        datagram = (packet[12:16], packet[16:20], packet[9], packet[4:6])
        if offset & 0x1FFF:
            return datagram
        key = self._key(packet, to_remote, quoted=False)
        if offset & 0x2000 and key is not None:
            self._fragments[datagram] = key
            self._fragments.move_to_end(datagram)
            if len(self._fragments) > FRAGMENTS_MAX:
                self._fragments.popitem(last=False)
        return key

    def fragment(self, datagram: Datagram) -> SearchKey | None:
        """The key of a datagram, once its first fragment has been seen."""
        return self._fragments.get(datagram)

    def _key(self, packet: bytes, to_remote: bool, *, quoted: bool) -> SearchKey | None:
        """The key of the flow of an IPv4 packet; a quoted one may be cut short."""
        header = (packet[0] & 15) * 4
        if packet[0] >> 4 != 4 or header < 20 or len(packet) < header + 8:
            return None
        protocol = packet[9]
        source, destination = packet[12:16], packet[16:20]
        payload = packet[header:]
        if protocol in (_TCP, _UDP):
            ports = payload[0:2], payload[2:4]
        elif protocol != _ICMP:
            return None
        elif payload[0] == _ECHO_REQUEST:
            ports = payload[4:6], _NO_PORT
        elif payload[0] == _ECHO_REPLY:
            ports = _NO_PORT, payload[4:6]
        elif payload[0] in _ERRORS and not quoted and len(payload) >= 28:
            return self._key(payload[8:], not to_remote, quoted=True)
        else:
            return None
        ends = ((source, ports[0]), (destination, ports[1]))
        local, remote = ends if to_remote else ends[::-1]
        if self._slot is not None:
            side, owner = Side.INSIDE, self._slot
        elif local[0] in self._interfaces:
            side, owner = Side.OUTSIDE, self._interfaces[local[0]]
        else:
            if local[0] not in self._hosts:
                local, remote = remote, local
            if local[0] not in self._hosts:
                return None
            side, owner = Side.HOST, self._hosts[local[0]]
        return SearchKey(side, protocol, owner, *remote, *local)
