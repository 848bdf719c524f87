# SPDX-License-Identifier: Apache-2.0
"""A packet with another port, and whole checksums in place of the gateway's arithmetic."""

from dataclasses import replace

from tests.reference import checksum, icmp_error, mtu, packet
from tests.reference.packet import Datagram


def reported(
    before: Datagram, after: Datagram, port: int, *, source: bool, partial: bool
) -> Datagram:
    """`after`, which has its new address, with the port exchanged and the checksum right."""
    data = before.payload
    if before.fragment:
        address = after.source if source else after.destination
        whole = icmp_error.Quote(before).rewritten(address=address, port=port, source=source)
        return after.carrying(whole[len(before.header) :])
    if before.protocol == packet.ICMP:
        data = packet.with_word(data, 4, port)
        return after.carrying(icmp_error.resealed(data))
    data = packet.with_word(data, 0 if source else 2, port)
    at = 16 if before.protocol == packet.TCP else 6
    if partial:
        old = before.header[12:20]
        new = after.header[12:20]
        value = checksum.exchanged_partial(packet.word(data, at), old, new)
        return after.carrying(packet.with_word(data, at, value))
    if before.protocol == packet.UDP and packet.word(data, at) == 0:
        return after.carrying(data)
    covered = packet.word(data, 4) if before.protocol == packet.UDP else len(data)
    # Right as soon as whoever sends the packet has finished what is in it.
    whole = mtu.finished(replace(after, payload=data)).payload
    blank = checksum.with_zero(whole[:covered], at)
    value = checksum.checksum(after.pseudo_header(covered) + blank)
    if before.protocol == packet.UDP and value == 0:
        value = 0xFFFF
    return after.carrying(packet.with_word(data, at, value))
