# SPDX-License-Identifier: Apache-2.0
"""A map of this layout written as one of the layout before: the way back, for tests alone.

Written from the description of layout 3 and not with the product's conversion, whose judge it is.
Figures that have more bits than layout 3 had lose them.
"""

import struct
from pathlib import Path

from hyperplane_nat.engine.state.constants import counter_names

HEADER = struct.Struct("<8sIIQ6I11QII")
ENTRY = struct.Struct("<IHHHHHBBIIIHBBQQQQ")
ENTRY_3 = struct.Struct("<IHHHHHBBIIIIIIQQHHBBH")
TRACK = struct.Struct("<IIIIHHIHBBI")
TRACK_3 = struct.Struct("<IIII")
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


def write_layout_3(path: Path) -> None:
    """Replace the map at `path`, which nobody may have in use."""
    old = path.read_bytes()
    fields = list(HEADER.unpack_from(old))
    assert (fields[1], ENTRY.size, TRACK.size) == (4, 64, 32)
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
        entry = ENTRY.unpack_from(old, entries + number * ENTRY.size)
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
