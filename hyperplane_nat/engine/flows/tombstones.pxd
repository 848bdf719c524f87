# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What is left of a TCP connection that was idle too long.

Theory of operation
-------------------
AWS's NAT gateway says nothing when it gives a connection up (no FIN), and answers the next segment
from inside with a reset (NAT gateway documentation, "Internet connection drops after 350
seconds"). As long as the port is held the entry itself, in HELD, tells such a segment from one of
a connection that never was. Afterwards a tombstone does: a hash of the flow's inside key in a
table of a fixed number of cells, each of which belongs to the last flow that fell on it. So the
table is bounded and never searched, and with more idle connections than cells the oldest get no
answer, as those whose forwarder was replaced since their port became free.

Who owns the attachment goes into the hash: an environment that gets the number of another one
inherits no tombstones.

The reset is the one that RFC 9293 section 3.10.7.1 prescribes for a connection that does not
exist, from the address and port that the segment was for. Whoever sent it accepts it, because it
stands exactly where the sender waits for the next octet (RFC 5961 section 3.2).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.flow_table cimport table_hash
from hyperplane_nat.engine.flows.nat cimport NOBODY, Nat, count, drop
from hyperplane_nat.engine.state.flow_key cimport entry_key
from hyperplane_nat.engine.state.layout cimport Entry, Extension, is_balanced
from hyperplane_nat.engine.wire.checksum cimport (
    complement,
    pseudo_header,
    store16,
    store32,
    sum_bytes,
    swap16,
    swap32,
)
from hyperplane_nat.engine.wire.packet cimport ETHERNET_BYTES, Packet

cdef enum:
    TTL = 64
    TCP_BYTES = 20
    TCP_FIN = 0x01
    TCP_RST = 0x04
    TCP_ACK = 0x10


cdef inline int tombstones_resize(Nat* nat, uint32_t count) noexcept nogil:
    """Have `count` cells, none is allowed; they are empty if their number changes.  1: no memory."""
    cdef uint64_t* cells = NULL
    if count == nat.tombstones_count:
        return 0
    if count:
        cells = <uint64_t*>calloc(count, sizeof(uint64_t))
        if cells == NULL:
            return 1
    free(nat.tombstones)
    nat.tombstones = cells
    nat.tombstones_count = count
    return 0


cdef inline uint64_t mark_of(const Nat* nat, uint64_t hash, uint16_t originator) noexcept nogil:
    """What stands in the cell of a flow with this hash of its inside key; 0 is an empty cell."""
    cdef uint64_t mark = hash + nat.records[originator].owner * <uint64_t>0x9E3779B97F4A7C15
    return mark if mark else 1


cdef inline uint64_t* cell_of(const Nat* nat, uint64_t mark) noexcept nogil:
    return &nat.tombstones[((mark >> 32) * nat.tombstones_count) >> 32]


cdef inline void tombstone_put(Nat* nat, uint32_t flow) noexcept nogil:
    """Remember a TCP flow whose hold time after a timeout is over.

    What a client says of a balanced one is for a listener, and needs none; so it is the target's.
    """
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef const Extension* extension = &nat.table.extensions[flow]
    cdef int side = PEER_ORIGINATOR
    cdef uint16_t owner = entry.originator
    cdef uint64_t mark
    if is_balanced(entry, extension):
        side = PEER_RESPONDER
        owner = entry.responder
    if nat.tombstones_count == 0 or entry.protocol != 6 or owner == NOBODY:
        return
    mark = mark_of(nat, table_hash(&nat.table, entry_key(entry, extension, side)), owner)
    cell_of(nat, mark)[0] = mark


cdef inline void tombstone_remove(Nat* nat, const Packet* p) noexcept nogil:
    """A new connection uses the addresses and ports of an old one."""
    cdef uint64_t mark
    if nat.tombstones_count == 0:
        return
    mark = mark_of(nat, p.hash, p.port)
    if cell_of(nat, mark)[0] == mark:
        cell_of(nat, mark)[0] = 0


cdef inline bint is_remembered(const Nat* nat, const Packet* p) noexcept nogil:
    """Whether a TCP segment, no reset, is of a connection that was idle too long."""
    cdef uint64_t mark
    if nat.tombstones_count == 0 or p.segment == SEGMENT_RST:
        return False
    mark = mark_of(nat, p.hash, p.port)
    return cell_of(nat, mark)[0] == mark


cdef inline void refuse_stray(Nat* nat, Packet* p) noexcept nogil:
    """Drop a TCP segment from inside that has no flow and cannot begin one."""
    if is_remembered(nat, p):
        refuse_idle(nat, p)
    else:
        drop(nat, p, DROP_TCP_NO_FLOW)


cdef inline void refuse_idle(Nat* nat, Packet* p) noexcept nogil:
    """Drop a TCP segment of a connection that was idle too long, and say so."""
    drop(nat, p, DROP_TCP_IDLE_TIMEOUT)
    if nat.behaviour.idle_reset:
        reply_reset(nat, p)


cdef inline void reply_reset(Nat* nat, Packet* p) noexcept nogil:
    """Answer a TCP segment that was dropped, no reset, with one, in its reply buffer."""
    cdef uint8_t* frame = p.reply
    cdef uint8_t* ip = frame + ETHERNET_BYTES
    cdef uint8_t* tcp = ip + 20
    cdef uint32_t following
    if frame == NULL:
        return
    memset(frame, 0, ETHERNET_BYTES + 20 + TCP_BYTES)
    memcpy(frame, p.frame + 6, 6)
    memcpy(frame + 6, nat.attachments[p.link].mac, 6)
    frame[12] = 0x08
    ip[0] = 0x45
    store16(ip + 2, swap16(20 + TCP_BYTES))
    ip[8] = TTL
    ip[9] = 6
    store32(ip + 12, p.destination)
    store32(ip + 16, p.source)
    store16(ip + 10, complement(sum_bytes(ip, 20, 0)))
    store16(tcp, p.destination_port)
    store16(tcp + 2, p.source_port)
    tcp[12] = (TCP_BYTES / 4) << 4
    if p.flags & TCP_ACK:
        tcp[13] = TCP_RST
        store32(tcp + 4, swap32(p.acknowledgement))
    else:
        following = p.sequence + p.payload + (1 if p.flags & TCP_FIN else 0)
        tcp[13] = TCP_RST | TCP_ACK
        store32(tcp + 8, swap32(following))
    store16(
        tcp + 16,
        complement(
            sum_bytes(tcp, TCP_BYTES, pseudo_header(p.destination, p.source, 6, TCP_BYTES))
        ),
    )
    p.action = ACTION_REPLY
    p.out_port = nat.attachments[p.link].primary
    p.out_frame = frame
    p.out_length = ETHERNET_BYTES + 20 + TCP_BYTES
    count(nat, C_REPLIES_TCP)
