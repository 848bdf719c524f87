# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Entries and tracks of former layouts of the state map, turned into those of this one.

A former layout is written down here as it was, and nowhere else.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport STATE_FREE
from hyperplane_nat.engine.state.layout cimport Entry, Header, Track, set_created

cdef enum:
    NO_SCALE = 15

cdef struct Entry3:
    uint32_t remote_address
    uint16_t remote_port
    uint16_t inside_port
    uint16_t slot
    uint16_t interface
    uint16_t nat_port
    uint8_t protocol
    uint8_t state
    uint32_t last_seen
    uint32_t created
    uint32_t timer_next
    uint32_t timer_prev
    uint32_t packets[2]
    uint64_t bytes[2]
    uint16_t window[2]
    uint8_t track_flags
    uint8_t window_scale
    uint16_t generation

cdef struct Track3:
    uint32_t sequence_end[2]
    uint32_t acknowledged[2]


cdef void convert_3(
    Entry* entry, Track* track, const Entry3* entry_3, const Track3* track_3, uint64_t now
) noexcept nogil:
    cdef int side
    entry.remote_address = entry_3.remote_address
    entry.remote_port = entry_3.remote_port
    entry.inside_port = entry_3.inside_port
    entry.slot = entry_3.slot
    entry.interface = entry_3.interface
    entry.nat_port = entry_3.nat_port
    entry.protocol = entry_3.protocol
    entry.state = entry_3.state
    entry.last_seen = entry_3.last_seen
    # Odd is what is not to be read; it begins with layout 4.
    entry.generation = (entry_3.generation & 0xFFFE) | (entry_3.state == STATE_FREE)
    entry.flags = entry_3.track_flags
    set_created(entry, track, now - <uint32_t>(<uint32_t>now - entry_3.created))
    for side in range(2):
        entry.packets[side] = entry_3.packets[side]
        entry.bytes[side] = entry_3.bytes[side]
        track.window[side] = entry_3.window[side]
        track.sequence_end[side] = track_3.sequence_end[side]
        track.acknowledged[side] = track_3.acknowledged[side]
    track.window_scale = entry_3.window_scale
    track.syn_scale = NO_SCALE


def convert_layout_3(
    const uint8_t[::1] entries not None,
    const uint8_t[::1] tracks not None,
    uint8_t[::1] memory not None,
    uint64_t start,
    uint64_t now_ms,
):
    cdef uint64_t count = entries.shape[0] // sizeof(Entry3)
    cdef Header* header = <Header*>&memory[0]
    cdef Entry* to_entries = <Entry*>(&memory[0] + header.entries_offset)
    cdef Track* to_tracks = <Track*>(&memory[0] + header.tracks_offset)
    cdef uint64_t i
    if count == 0:
        return
    if (
        tracks.shape[0] < <Py_ssize_t>(count * sizeof(Track3))
        or start > header.flows_max
        or count > header.flows_max - start
    ):
        raise ValueError("entries without tracks, or more than the map has room for")
    with nogil:
        for i in range(count):
            convert_3(
                &to_entries[start + i],
                &to_tracks[start + i],
                &(<const Entry3*>&entries[0])[i],
                &(<const Track3*>&tracks[0])[i],
                now_ms,
            )
