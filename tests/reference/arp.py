# SPDX-License-Identifier: Apache-2.0
"""ARP as the gateway answers it (RFC 826), on slots and on interfaces."""

import struct
from collections.abc import Callable
from ipaddress import IPv4Address

from tests.reference.settings import Interface, Slot

REQUEST = 1
REPLY = 2


def _fields(packet: bytes) -> tuple[int, bytes, IPv4Address, IPv4Address] | None:
    """Operation, sender MAC, sender and target of an Ethernet/IPv4 ARP packet."""
    if len(packet) < 28 or packet[:6] != struct.pack("!HHBB", 1, 0x0800, 6, 4):
        return None
    return (
        int.from_bytes(packet[6:8]),
        packet[8:14],
        IPv4Address(packet[14:18]),
        IPv4Address(packet[24:28]),
    )


def _answer(
    our_mac: bytes, our_address: IPv4Address, their_mac: bytes, their_address: IPv4Address
) -> bytes:
    return (
        their_mac
        + our_mac
        + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, REPLY)
        + our_mac
        + our_address.packed
        + their_mac
        + their_address.packed
    )


def on_slot(frame: bytes, slot: Slot) -> tuple[str | None, bytes]:
    """Answer ARP of an environment: (drop reason, b"") or (None, reply frame)."""
    fields = _fields(frame[14:])
    if fields is None or fields[0] != REQUEST:
        return "arp_malformed", b""
    _, sender_mac, sender, target = fields
    honest = sender_mac == slot.environment_mac and frame[6:12] == slot.environment_mac
    if not honest or sender not in (slot.address, IPv4Address(0)):
        return "arp_spoofed", b""
    if target != slot.gateway:
        return "arp_ignored", b""
    return None, _answer(slot.gateway_mac, slot.gateway, sender_mac, sender)


def on_interface(
    frame: bytes,
    interface: Interface,
    addresses: set[IPv4Address],
    nobodys: set[IPv4Address],
    seen: Callable[[IPv4Address, bytes, bool], bool],
) -> tuple[str | None, bytes]:
    """Answer ARP of a VPC: (drop reason, b""), (None, reply frame), or (None, b"") for a reply
    that is believed; `addresses` are those that are answered, the interface's and its hosts', and
    `nobodys` those that nobody there has.

    `seen` is told what a host says of itself, and whether that is a reply to the interface; it
    returns whether it believes it.
    """
    fields = _fields(frame[14:])
    if fields is None or fields[0] not in (REQUEST, REPLY):
        return "arp_malformed", b""
    operation, sender_mac, sender, target = fields
    if sender in nobodys or sender_mac != frame[6:12] or sender_mac[0] & 1:
        return "arp_spoofed", b""
    if seen(sender, sender_mac, operation == REPLY and target == interface.address):
        return None, b""
    if operation == REPLY:
        return "arp_unsolicited", b""
    if target not in addresses:
        return "arp_ignored", b""
    return None, _answer(interface.mac, target, sender_mac, sender)
