# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Entries and tracks of former layouts of the state map, turned into those of this one.

A former layout is written down here as it was, and nowhere else.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from hyperplane_nat.engine.state._constants cimport STATE_FREE
from hyperplane_nat.engine.state.layout cimport (
    MAPPING,
    NOBODY,
    Entry,
    Header,
    Track,
    records_of,
    set_created,
)

cdef enum:
    NO_SCALE = 15
    # In `flags` of layouts 3 and 4; they are in `syn_scale` now, at the same place.
    WINDOWS_UNSCALED = 0x30

# What layouts 3 and 4 begin an entry with. A mapping is one whose remote address is 0.
cdef struct Former:
    uint32_t remote_address
    uint16_t remote_port
    uint16_t inside_port
    uint16_t slot
    uint16_t interface
    uint16_t nat_port
    uint8_t protocol
    uint8_t state
    uint32_t last_seen

cdef struct Entry3:
    Former former
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

cdef struct Entry4:
    Former former
    uint32_t timer_next
    uint32_t timer_prev
    uint16_t generation
    uint8_t flags
    uint8_t created_high
    uint64_t packets[2]
    uint64_t bytes[2]

cdef struct Track4:
    uint32_t sequence_end[2]
    uint32_t acknowledged[2]
    uint16_t window[2]
    uint32_t syn_sequence
    uint16_t syn_payload
    uint8_t window_scale
    uint8_t syn_scale
    uint32_t created

# In layout 5 an entry's responder is an interface, in a number space of its own; all else is as it is
# now.

# Where the entries and tracks of one layout go, and what they do not say themselves.
cdef struct Target:
    const Header* header
    Entry* entries
    Track* tracks
    uint64_t count
    uint64_t now


cdef void attach(
    const Header* header, Entry* entry, uint16_t slot, uint16_t interface
) noexcept nogil:
    """Between which attachments an entry is; NOBODY stands for numbers that cannot be."""
    entry.originator = slot if slot < header.slots_max else NOBODY
    entry.responder = NOBODY
    if interface < header.interfaces_max:
        entry.responder = <uint16_t>(header.slots_max + interface)


cdef uint32_t address_of(const Header* header, uint16_t attachment) noexcept nogil:
    return 0 if attachment == NOBODY else records_of(header)[attachment].address


cdef void convert(
    const Header* header, Entry* entry, const Former* former, uint8_t flags
) noexcept nogil:
    """What is alike in both layouts; whoever had the numbers had one address."""
    attach(header, entry, former.slot, former.interface)
    entry.source_address = address_of(header, entry.originator)
    entry.source_port = former.inside_port
    entry.destination_address = former.remote_address
    entry.destination_port = former.remote_port
    entry.translated_address = address_of(header, entry.responder)
    entry.translated_port = former.nat_port
    entry.protocol = former.protocol
    entry.state = former.state
    entry.last_seen = former.last_seen
    entry.flags = flags & <uint8_t>~WINDOWS_UNSCALED
    if former.remote_address == 0:
        entry.flags = MAPPING


cdef Target target_of(
    Py_ssize_t entries,
    Py_ssize_t entry_bytes,
    Py_ssize_t tracks,
    Py_ssize_t track_bytes,
    uint8_t[::1] memory,
    uint64_t start,
    uint64_t now,
) except *:
    cdef Target target
    target.header = <const Header*>&memory[0]
    target.count = entries // entry_bytes
    target.now = now
    if (
        tracks < <Py_ssize_t>target.count * track_bytes
        or start > target.header.flows_max
        or target.count > target.header.flows_max - start
    ):
        raise ValueError("entries without tracks, or more than the map has room for")
    target.entries = <Entry*>(&memory[0] + target.header.entries_offset) + start
    target.tracks = <Track*>(&memory[0] + target.header.tracks_offset) + start
    return target


cdef void convert_3(
    const Target* target, uint64_t i, const Entry3* former, const Track3* former_track
) noexcept nogil:
    cdef Entry* entry = &target.entries[i]
    cdef Track* track = &target.tracks[i]
    cdef int side
    convert(target.header, entry, &former.former, former.track_flags)
    # Odd is what is not to be read; it begins with layout 4.
    entry.generation = (former.generation & 0xFFFE) | (former.former.state == STATE_FREE)
    set_created(entry, track, target.now - <uint32_t>(<uint32_t>target.now - former.created))
    for side in range(2):
        entry.packets[side] = former.packets[side]
        entry.bytes[side] = former.bytes[side]
        track.window[side] = former.window[side]
        track.sequence_end[side] = former_track.sequence_end[side]
        track.acknowledged[side] = former_track.acknowledged[side]
    track.window_scale = former.window_scale
    track.syn_scale = NO_SCALE | (former.track_flags & WINDOWS_UNSCALED)


cdef void convert_4(
    const Target* target, uint64_t i, const Entry4* former, const Track4* former_track
) noexcept nogil:
    cdef Entry* entry = &target.entries[i]
    cdef Track* track = &target.tracks[i]
    cdef int side
    convert(target.header, entry, &former.former, former.flags)
    entry.generation = former.generation
    entry.created_high = former.created_high
    for side in range(2):
        entry.packets[side] = former.packets[side]
        entry.bytes[side] = former.bytes[side]
        track.window[side] = former_track.window[side]
        track.sequence_end[side] = former_track.sequence_end[side]
        track.acknowledged[side] = former_track.acknowledged[side]
    track.syn_sequence = former_track.syn_sequence
    track.syn_payload = former_track.syn_payload
    track.window_scale = former_track.window_scale
    track.syn_scale = former_track.syn_scale | (former.flags & WINDOWS_UNSCALED)
    track.created = former_track.created


def convert_layout_3(
    const uint8_t[::1] entries not None,
    const uint8_t[::1] tracks not None,
    uint8_t[::1] memory not None,
    uint64_t start,
    uint64_t now_ms,
):
    cdef uint64_t i
    cdef Target target = target_of(
        entries.shape[0], sizeof(Entry3), tracks.shape[0], sizeof(Track3), memory, start, now_ms
    )
    with nogil:
        for i in range(target.count):
            convert_3(
                &target, i, &(<const Entry3*>&entries[0])[i], &(<const Track3*>&tracks[0])[i]
            )


def convert_layout_4(
    const uint8_t[::1] entries not None,
    const uint8_t[::1] tracks not None,
    uint8_t[::1] memory not None,
    uint64_t start,
    uint64_t now_ms,
):
    cdef uint64_t i
    cdef Target target = target_of(
        entries.shape[0], sizeof(Entry4), tracks.shape[0], sizeof(Track4), memory, start, now_ms
    )
    with nogil:
        for i in range(target.count):
            convert_4(
                &target, i, &(<const Entry4*>&entries[0])[i], &(<const Track4*>&tracks[0])[i]
            )


def convert_layout_5(
    const uint8_t[::1] entries not None,
    const uint8_t[::1] tracks not None,
    uint8_t[::1] memory not None,
    uint64_t start,
    uint64_t now_ms,
):
    cdef uint64_t i
    cdef Entry* entry
    cdef Target target = target_of(
        entries.shape[0], sizeof(Entry), tracks.shape[0], sizeof(Track), memory, start, now_ms
    )
    with nogil:
        memcpy(target.entries, &entries[0], target.count * sizeof(Entry))
        memcpy(target.tracks, &tracks[0], target.count * sizeof(Track))
        for i in range(target.count):
            entry = &target.entries[i]
            attach(target.header, entry, entry.originator, entry.responder)
