# SPDX-License-Identifier: Apache-2.0
# What every module that makes, holds or frees entries does to them.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.state.layout cimport SYN_REMEMBERED, Entry, age_of
from hyperplane_nat.engine.flows.nat cimport NOBODY, Nat
from hyperplane_nat.engine.flows.timers cimport wheel_add, wheel_remove
from hyperplane_nat.engine.wire.packet cimport Packet

cdef inline bint over(uint8_t state) noexcept nogil:
    """Whether the flow has ended and only its port is held."""
    return state == STATE_TIME_WAIT or state == STATE_RESET or state == STATE_HELD


cdef inline uint32_t timeout_of(const Nat* nat, const Entry* entry) noexcept nogil:
    """How long the entry lasts after `last_seen`: a remembered SYN has the time of an opening."""
    cdef uint32_t timeout = nat.timeouts[entry.state]
    if entry.flags & SYN_REMEMBERED and timeout < nat.timeouts[STATE_SYN_SENT]:
        return nat.timeouts[STATE_SYN_SENT]
    return timeout


cdef inline uint64_t deadline_of(const Nat* nat, const Entry* entry, uint64_t now) noexcept nogil:
    return now + timeout_of(nat, entry) - age_of(entry, now)


cdef inline void relink(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    """Move a flow's timer to its new deadline."""
    wheel_remove(&nat.wheel, flow)
    wheel_add(&nat.wheel, flow, deadline_of(nat, &nat.table.entries[flow], now))


cdef inline void fill(
    const Nat* nat, Entry* entry, const Packet* p, uint16_t responder, uint16_t nat_port
) noexcept nogil:
    """Write between which ends the flow of a packet is that begins one, and how its source leaves."""
    entry.source_address = p.source
    entry.destination_address = p.destination
    entry.source_port = p.source_port
    entry.destination_port = p.destination_port
    entry.originator = p.port
    entry.protocol = p.protocol
    entry.translated_address = nat.attachments[responder].address
    entry.translated_port = nat_port
    entry.responder = responder


cdef inline void join(Nat* nat, const Entry* entry) noexcept nogil:
    """One more entry belongs to its responder, and to its originator, if it has any."""
    if entry.originator != NOBODY:
        nat.attachments[entry.originator].entries += 1
    nat.attachments[entry.responder].entries += 1


cdef inline void leave(Nat* nat, uint16_t attachment) noexcept nogil:
    """One entry less belongs to an attachment; with the last one it is free if it retires."""
    if attachment == NOBODY:
        return
    nat.attachments[attachment].entries -= 1
    settle_retired(nat, attachment)


cdef inline void settle_retired(Nat* nat, uint32_t attachment) noexcept nogil:
    """An attachment that retires and has no entry is free."""
    if nat.attachments[attachment].entries == 0 and nat.attachments[attachment].retiring:
        nat.attachments[attachment].retiring = 0
        nat.retiring -= 1
