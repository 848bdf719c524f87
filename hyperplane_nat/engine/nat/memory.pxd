# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The memory of an engine: what it has of its own, and what of it is in the state map."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.acl_table cimport acl_cells_free
from hyperplane_nat.engine.flows.cache_table cimport cache_release
from hyperplane_nat.engine.flows.extras cimport EXTRAS_BYTES
from hyperplane_nat.engine.flows.flow_table cimport table_init, table_release_memory
from hyperplane_nat.engine.flows.fragment_table cimport fragments_init, fragments_release_memory
from hyperplane_nat.engine.flows.nat cimport (
    ROUTE_TABLES_MAX,
    Attachment,
    Nat,
    RouteTable,
    listeners_release,
)
from hyperplane_nat.engine.flows.neighbour_table cimport neighbours_init, neighbours_release_memory
from hyperplane_nat.engine.flows.ports cimport ports_init, ports_release_memory
from hyperplane_nat.engine.flows.tombstones cimport tombstones_resize
from hyperplane_nat.engine.nat.routing cimport route_tables_release
from hyperplane_nat.engine.state.layout cimport (
    NIL,
    Exhaustion,
    Header,
    attachments_of,
    first_host,
    records_of,
)
from hyperplane_nat.engine.wire.siphash cimport HashKey

cdef enum:
    SECRET_BYTES = 88


cdef inline int memory_init(
    Nat* nat, uint8_t* base, bytes secret, dict fragment_states, dict neighbour_states
) except -1:
    """Find what is in the map at `base`, and have the rest; the keys are of these SECRET_BYTES."""
    cdef Header* header = <Header*>base
    cdef HashKey keys[3]
    cdef HashKey fragment_key
    cdef uint64_t neighbour_key
    cdef uint32_t number
    memcpy(keys, <const unsigned char*>secret, 48)
    memcpy(&neighbour_key, <const unsigned char*>secret + 48, 8)
    memcpy(&fragment_key, <const unsigned char*>secret + 56, 16)
    memcpy(&nat.identifications.key, <const unsigned char*>secret + 72, 16)
    nat.header = header
    nat.counters = <uint64_t*>(base + header.counters_offset)
    nat.records = records_of(header)
    nat.exhaustions = <Exhaustion*>(base + header.exhaustions_offset)
    nat.attachments_max = attachments_of(header)
    nat.shortest_idle = NIL
    nat.attachments = <Attachment*>calloc(nat.attachments_max, sizeof(Attachment))
    nat.own_mask = 1
    while nat.own_mask < 2 * (header.interfaces_max + header.hosts_max):
        nat.own_mask = nat.own_mask * 2 + 1
    nat.own_addresses = <uint64_t*>calloc(nat.own_mask + 1, sizeof(uint64_t))
    nat.own_numbers = <uint16_t*>calloc(nat.own_mask + 1, sizeof(uint16_t))
    nat.route_tables = <RouteTable**>calloc(ROUTE_TABLES_MAX, sizeof(RouteTable*))
    nat.extras.arena = <uint8_t*>calloc(1, EXTRAS_BYTES)
    if (
        nat.attachments == NULL
        or nat.own_addresses == NULL
        or nat.own_numbers == NULL
        or nat.route_tables == NULL
        or nat.extras.arena == NULL
        or fragments_init(&nat.fragments, fragment_states, nat.attachments_max, fragment_key)
        or neighbours_init(
            &nat.neighbours, neighbour_states, neighbour_key, nat.attachments_max
        )
        or table_init(&nat.table, header, keys[0])
    ):
        raise MemoryError
    # What flows there take goes by whom an address stands for.
    for number in range(header.slots_max, first_host(header)):
        nat.attachments[number].serves = nat.records[number].serves
    nat.counters[C_FRAGMENTS_WAITING] = 0
    nat.counters[C_FLOW_CACHE_FLOWS] = 0
    ports_init(&nat.ports, &nat.table, header, keys[1], keys[2])
    return 0


cdef inline void memory_release(Nat* nat) noexcept:
    cdef uint32_t number
    table_release_memory(&nat.table)
    ports_release_memory(&nat.ports)
    fragments_release_memory(&nat.fragments)
    neighbours_release_memory(&nat.neighbours)
    route_tables_release(nat)
    acl_cells_free(nat.network_acls)
    cache_release(nat.cache)
    free(nat.extras.arena)
    for number in range(nat.attachments_max if nat.attachments != NULL else 0):
        listeners_release(&nat.attachments[number])
    free(nat.attachments)
    free(nat.own_addresses)
    free(nat.own_numbers)
    tombstones_resize(nat, 0)
    free(nat)
