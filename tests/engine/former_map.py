# SPDX-License-Identifier: Apache-2.0
"""A map of this layout written as one of a former layout: the way back, for tests alone.

Written from the descriptions of layouts 3 to 6 and not with the product's conversion, whose judge
it is. Figures that have more bits than layout 3 had lose them.
"""

import struct
from pathlib import Path

from hyperplane_nat.engine.state.constants import counter_names

HEADER = struct.Struct("<8sIIQ6I11QII")
HEADER_6 = struct.Struct("<8sIIQ6I9QII")
PARTS_6 = ("counters", "attachments", "exhaustions", "entries", "tracks", "index")
ATTACHMENT_6 = struct.Struct("<16QQ4s52x")
SLOT = struct.Struct("<8Q")
RESPONDER, RESPONDER_OFFSET = struct.Struct("<H"), 22
EXHAUSTION = struct.Struct("<QQIHHHBBI")
ENTRY = struct.Struct("<IIHHHBBIHHIHBBQQQQ")
ENTRY_4 = struct.Struct("<IHHHHHBBIIIHBBQQQQ")
ENTRY_3 = struct.Struct("<IHHHHHBBIIIIIIQQHHBBH")
TRACK = struct.Struct("<IIIIHHIHBBI")
TRACK_3 = struct.Struct("<IIII")
UNSCALED = 0x30
"""In the flags of an entry in former layouts, in the track's scale of the SYN in this one."""
MAPPING = 0x10
PAGE = 4096
COUNTERS = struct.Struct("=128Q")
NEW_COUNTERS = (
    "flows_ended_tcp_replaced",
    "flows_ended_udp_replaced",
    "flows_ended_icmp_replaced",
    "forwarder_timer_failures",
    "ring_slots",
    "ring_slots_used",
    "ring_slots_peak",
)
"""Layout 3 had none of them; the others stood in the same order from the first place on."""


def _pages(size: int) -> int:
    return (size + PAGE - 1) // PAGE * PAGE


def write_layout_6(path: Path) -> None:
    """Replace the map at `path`, which nobody may have in use."""
    old = path.read_bytes()
    fields = list(HEADER_6.unpack_from(old))
    flows_max, first = fields[4], fields[18]
    assert fields[1] == 7
    fields[1], fields[3] = 6, first + _pages(flows_max * 64)
    with path.open("wb") as file:
        # What nobody has written stays a hole.
        file.truncate(fields[3])
        file.write(HEADER_6.pack(*fields) + old[HEADER_6.size : first])
        for number in range(flows_max):
            extension = old[first + number * 32 : first + number * 32 + 32]
            if any(extension):
                file.seek(first + number * 64)
                file.write(extension)


def write_layout_5(path: Path) -> None:
    """The same for the layout before."""
    write_layout_6(path)
    old = path.read_bytes()
    fields = list(HEADER_6.unpack_from(old))
    flows_max, slots, interfaces = fields[4:7]
    assert (fields[1], ATTACHMENT_6.size, ENTRY.size, TRACK.size) == (6, 192, 64, 32)
    offsets = dict(zip(PARTS_6, fields[10:], strict=False))
    derived = [fields[15 + i + 1] - fields[15 + i] for i in range(2)]
    derived.append(_pages((flows_max * 4 * 65 // 64 + 131072) // 8 * 8))
    sizes = (PAGE - 2048, slots * SLOT.size, slots * 4, interfaces * 4, 1024 * EXHAUSTION.size)
    sizes = (*sizes, interfaces * 128, flows_max * ENTRY.size, flows_max * TRACK.size, *derived)
    places = [PAGE]
    for size in sizes:
        places.append(places[-1] + _pages(size))
    new = bytearray(places.pop())
    new[PAGE : PAGE + 2048] = old[offsets["counters"] : offsets["counters"] + 2048]
    for number in range(slots + interfaces):
        at = offsets["attachments"] + number * ATTACHMENT_6.size
        *counters, owner, address = ATTACHMENT_6.unpack_from(old, at)
        if number < slots:
            out_in = (*counters[2:4], *counters[6:8])
            slot = (*out_in, counters[12], counters[14], owner, counters[15])
            SLOT.pack_into(new, places[1] + number * SLOT.size, *slot)
            new[places[2] + number * 4 : places[2] + number * 4 + 4] = address
        else:
            place = number - slots
            struct.pack_into("<14Q", new, places[5] + place * 128, *counters[:14])
            new[places[3] + place * 4 : places[3] + place * 4 + 4] = address
    for number in range(1024):
        record = list(EXHAUSTION.unpack_from(old, offsets["exhaustions"] + number * 32))
        record[4] -= slots if record[0] else 0
        EXHAUSTION.pack_into(new, places[4] + number * 32, *record)
    for part, place, form in (("entries", places[6], ENTRY), ("tracks", places[7], TRACK)):
        size, start = fields[-2] * form.size, offsets[part]
        new[place : place + size] = old[start : start + size]
    for at in range(places[6], places[6] + fields[-2] * ENTRY.size, ENTRY.size):
        (responder,) = RESPONDER.unpack_from(new, at + RESPONDER_OFFSET)
        RESPONDER.pack_into(new, at + RESPONDER_OFFSET, max(responder - slots, 0))
    HEADER.pack_into(new, 0, fields[0], 5, PAGE, len(new), *fields[4:10], *places, *fields[-2:])
    path.write_bytes(new)


def write_layout_4(path: Path) -> None:
    """The same for the layout before."""
    write_layout_5(path)
    new = bytearray(path.read_bytes())
    fields = list(HEADER.unpack_from(new))
    assert (fields[1], ENTRY.size, ENTRY_4.size, TRACK.size) == (5, 64, 64, 32)
    entries, tracks, watermark = *fields[16:18], fields[21]
    for number in range(watermark):
        at, track_at = entries + number * ENTRY.size, tracks + number * TRACK.size
        _, destination, *ports, slot, protocol, state = ENTRY.unpack_from(new, at)[:7]
        _, nat_port, interface, last_seen, generation, flags, *rest = ENTRY.unpack_from(new, at)[7:]
        track = list(TRACK.unpack_from(new, track_at))
        flags = flags & ~MAPPING | track[9] & UNSCALED
        track[9] &= ~UNSCALED
        remote = (destination, ports[1], ports[0], slot, interface, nat_port, protocol, state)
        ENTRY_4.pack_into(new, at, *remote, last_seen, 0, 0, generation, flags, *rest)
        TRACK.pack_into(new, track_at, *track)
    fields[1] = 4
    HEADER.pack_into(new, 0, *fields)
    path.write_bytes(new)


def write_layout_3(path: Path) -> None:
    """The same for the layout before."""
    write_layout_4(path)
    old = path.read_bytes()
    fields = list(HEADER.unpack_from(old))
    flows_max, entries, tracks, index, watermark = *fields[4:5], *fields[16:19], fields[21]
    size_3 = (flows_max * TRACK_3.size + PAGE - 1) // PAGE * PAGE
    less = index - tracks - size_3
    new = bytearray(old[:tracks]) + bytes(len(old) - tracks - less)
    counters = list(COUNTERS.unpack_from(old, PAGE))
    for name in NEW_COUNTERS:
        counters[counter_names()[name]] = -1
    kept = [value for value in counters if value >= 0]
    COUNTERS.pack_into(new, PAGE, *kept, *[0] * len(NEW_COUNTERS))
    for number in range(watermark):
        entry = ENTRY_4.unpack_from(old, entries + number * ENTRY_4.size)
        track = TRACK.unpack_from(old, tracks + number * TRACK.size)
        remote, last_seen, following, previous = entry[:8], entry[8], entry[9], entry[10]
        generation, flags, _, packets_out, packets_in, bytes_out, bytes_in = entry[11:]
        sequences, windows, scale, created = track[:4], track[4:6], track[8], track[10]
        ENTRY_3.pack_into(
            new,
            entries + number * ENTRY_3.size,
            *remote,
            *(last_seen, created, following, previous),
            *(packets_out & 0xFFFFFFFF, packets_in & 0xFFFFFFFF, bytes_out, bytes_in),
            *windows,
            *(flags, scale, generation),
        )
        TRACK_3.pack_into(new, tracks + number * TRACK_3.size, *sequences)
    fields[1] = 3
    fields[3] -= less
    fields[18:21] = [offset - less for offset in fields[18:21]]
    HEADER.pack_into(new, 0, *fields)
    path.write_bytes(new)
