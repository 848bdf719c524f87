# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""How attachments go, so that their numbers may come again.

Theory of operation
-------------------
Taking an attachment away costs nothing: it is inactive, so no packet of its flows passes any more.
While entries still name its number it is retiring, and whoever would use the number again is refused;
the entries of each are counted, so that is known without looking.
A sweep goes round the table within a budget, for everything that retires at once, until nothing does:

* a flow whose responder retires, or an address of its NAT gateway or of the interface where it is counted
  besides, or its endpoint, or its load balancer's node or target, is removed with its port: the address is gone;
* a flow whose originator retires ends, and its port is held as after any end, in an entry that is
  nobody's: it has no key of the originator, so the next one with that number cannot take it up;
* a mapping goes with the last of its flows, and is held and nobody's in the same way.

Whose an attachment is stands in the state map. A forwarder that opens it is told them anew; entries
of one that is not named, or that is another's by then, retire the same way.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.caching cimport cache_forget, cache_forget_shared
from hyperplane_nat.engine.flows.entries cimport nat_gateway_of
from hyperplane_nat.engine.flows.lifecycle cimport flow_orphan, flow_remove
from hyperplane_nat.engine.flows.mapping cimport mapping_orphan, mapping_remove
from hyperplane_nat.engine.flows.nat cimport NOBODY, Attachment, Nat, listeners_release
from hyperplane_nat.engine.state.layout cimport Entry, Extension, hop_of, is_balanced, is_mapping

cdef enum:
    # What ending a flow costs, in entries that are only looked at.
    END_COST = 16


cdef inline void attachment_retire(Nat* nat, uint32_t number) noexcept nogil:
    cdef Attachment* attachment = &nat.attachments[number]
    cdef bint shared = attachment.active and attachment.kind == ATTACHMENT_INTERFACE
    attachment.active = 0
    attachment.policy = NULL
    cache_forget(nat, number)
    if shared:
        # Flows go by it whose packets do not come by its link.
        cache_forget_shared(nat)
    # Nothing that is named by it passes any more.
    listeners_release(attachment)
    if attachment.entries and not attachment.retiring:
        attachment.retiring = 1
        nat.retiring += 1


cdef inline void strangers_retire(Nat* nat) noexcept nogil:
    """Everything that entries name and nobody has configured."""
    cdef uint32_t number
    for number in range(nat.attachments_max):
        if not nat.attachments[number].active:
            attachment_retire(nat, number)


cdef inline bint balancing_retires(const Nat* nat, const Extension* extension) noexcept nogil:
    """Whether a node is gone, or the endpoint before it, or the host that a target is on."""
    return (
        nat.attachments[extension.node].retiring
        or (extension.endpoint != 0 and nat.attachments[extension.endpoint].retiring)
        or (extension.target != 0 and nat.attachments[extension.target].retiring)
    )


cdef inline bint address_retires(const Nat* nat, uint32_t flow) noexcept nogil:
    """Whether an address that a flow needs is gone."""
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef uint16_t hop = hop_of(entry, &nat.table.extensions[flow])
    cdef uint16_t gateway = nat_gateway_of(nat, entry)
    cdef const Extension* extension = &nat.table.extensions[flow]
    return (
        nat.attachments[entry.responder].retiring
        or (gateway and nat.attachments[gateway].retiring)
        or (hop and nat.attachments[hop].retiring)
        or (is_balanced(entry, extension) and balancing_retires(nat, extension))
    )


cdef inline uint32_t sweep(Nat* nat, uint64_t now, uint32_t budget) noexcept nogil:
    """Go on through the table; returns how much of the budget was used, 0 when nothing retires."""
    cdef uint32_t used = 0, flow
    cdef Entry* entry
    while nat.retiring and used < budget:
        if nat.sweep_position >= nat.header.entries_watermark:
            nat.sweep_position = 0
        flow = nat.sweep_position
        nat.sweep_position += 1
        used += 1
        entry = &nat.table.entries[flow]
        if entry.state == STATE_FREE:
            continue
        if address_retires(nat, flow):
            if is_mapping(entry):
                mapping_remove(nat, flow)
            else:
                flow_remove(nat, flow, now)
            used += END_COST
        elif entry.originator != NOBODY and nat.attachments[entry.originator].retiring:
            if is_mapping(entry):
                mapping_orphan(nat, flow, now)
            else:
                flow_orphan(nat, flow, now)
            used += END_COST
    return used
