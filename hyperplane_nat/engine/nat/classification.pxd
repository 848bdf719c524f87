# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint16_t, uint32_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.flow_table cimport FlowKey, flow_key
from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.wire.packet cimport Packet


cdef inline FlowKey packet_key(const Packet* p) noexcept nogil:
    return flow_key(
        p.side,
        p.protocol,
        p.port,
        p.source,
        p.source_port,
        p.destination,
        p.destination_port,
    )


cdef bint about_an_error(const Packet* p) noexcept nogil
cdef int classify(Nat* nat, Packet* p) noexcept nogil
cdef bint interface_of_address(
    const Nat* nat, uint16_t* number, uint32_t address
) noexcept nogil
cdef uint16_t number_of_address(const Nat* nat, uint32_t vpc, uint32_t address) noexcept nogil
cdef void addresses_index(Nat* nat) noexcept nogil
