# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Reading from a state map which ports are taken, towards what and by whom.

Theory of operation
-------------------
The allocator's records know how many ports are taken towards each remote endpoint: `read_remotes`
finds the crowded ones among them without looking at a flow. Whose ports they are only the entries
know: `PortHolders` goes through them in slices and tells of each entry which of the wanted
endpoints it has a port towards, and of which interface it is one. Both read while the forwarder
writes; a figure may be off by what changes meanwhile. The work is done without the interpreter's
lock.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.wire.checksum cimport swap16
from hyperplane_nat.engine.state.layout cimport (
    MAPPED,
    End,
    Entry,
    Header,
    Remote,
    interface_number,
    records_of,
)
from hyperplane_nat.engine.state.snapshot cimport Hops, entry_copy, hops_copy
from hyperplane_nat.engine.wire.text cimport address_number, dotted

import array

from hyperplane_nat.engine.state.settings import RemotePorts

cdef enum:
    # Set in the protocol of records that are permissions of a mapping and hold no port.
    PERMISSION = 0x80
    HOLDER_WORDS = 4

cdef dict NAMES = {1: "icmp", 6: "tcp", 17: "udp"}
cdef dict NUMBERS = {name: number for number, name in NAMES.items()}


def read_remotes(
    const unsigned char[::1] records not None, uint32_t interfaces, uint32_t least, address, port
):
    """The remote endpoints among these records with at least `least` ports taken.

    `address` and `port` are those that are asked for; None stands for any.  `interfaces` is the
    attachment of the first interface address.
    """
    cdef uint64_t count = records.shape[0] // sizeof(Remote), i
    cdef const Remote* remotes
    cdef const Remote* remote
    cdef uint32_t wanted_address = 0 if address is None else address_number(address)
    cdef uint16_t wanted_port = 0 if port is None else swap16(port)
    cdef bint any_address = address is None, any_port = port is None
    cdef list found = []
    if count == 0:
        return found
    remotes = <const Remote*>&records[0]
    with nogil:
        for i in range(count):
            remote = &remotes[i]
            if (
                remote.count < least
                or remote.count == 0
                or remote.protocol & PERMISSION
                or not (any_address or remote.address == wanted_address)
                or not (any_port or remote.port == wanted_port)
            ):
                continue
            with gil:
                found.append(
                    RemotePorts(
                        NAMES.get(remote.protocol, "?"),
                        remote.attachment - interfaces,
                        dotted(remote.address),
                        swap16(remote.port),
                        remote.count,
                        remote.high_water,
                    )
                )
    return found


cdef struct Cell:
    uint64_t first
    uint32_t second
    uint32_t number


cdef inline uint64_t endpoint(uint32_t address, uint16_t port, uint16_t interface) noexcept nogil:
    return (<uint64_t>address << 32) | (<uint64_t>port << 16) | interface


cdef inline uint32_t home(uint64_t first, uint32_t second, uint32_t mask) noexcept nogil:
    # Fibonacci hashing: the high bits of the product depend on all bits of the key.
    return <uint32_t>(((first ^ second) * <uint64_t>0x9E3779B97F4A7C15) >> 40) & mask


cdef class PortHolders:
    """Finds the holders of ports towards some remote endpoints. See the type stub."""

    cdef Cell* cells
    cdef uint32_t mask
    cdef uint64_t* found
    cdef uint32_t room

    def __cinit__(self, endpoints, uint32_t slice_entries):
        cdef uint32_t number, position
        cdef uint64_t first
        cdef uint8_t protocol
        self.mask = 15
        while self.mask < 4 * len(endpoints):
            self.mask = self.mask * 2 + 1
        self.room = slice_entries
        self.cells = <Cell*>calloc(self.mask + 1, sizeof(Cell))
        self.found = <uint64_t*>calloc(slice_entries, HOLDER_WORDS * sizeof(uint64_t))
        if self.cells == NULL or self.found == NULL:
            raise MemoryError
        for number, (name, interface, address, port) in enumerate(endpoints):
            protocol = NUMBERS[name]
            first = endpoint(address_number(address), swap16(port), interface)
            position = home(first, protocol, self.mask)
            while self.cells[position].number:
                position = (position + 1) & self.mask
            self.cells[position].first = first
            self.cells[position].second = protocol
            self.cells[position].number = number + 1

    def __dealloc__(self):
        free(self.cells)
        free(self.found)

    cdef uint32_t number_of(
        self, const Entry* entry, uint16_t interface, const End* remote
    ) noexcept nogil:
        """The number of the endpoint towards which an entry has a port of an interface, from 1, or 0."""
        cdef uint64_t first = endpoint(remote.address, remote.port, interface)
        cdef uint32_t position = home(first, entry.protocol, self.mask)
        while self.cells[position].number:
            if (
                self.cells[position].first == first
                and self.cells[position].second == entry.protocol
            ):
                return self.cells[position].number
            position = (position + 1) & self.mask
        return 0

    def read(self, const unsigned char[::1] memory not None, uint32_t start):
        """The holders among a slice of entries from `start`: a word or two for each entry in use, and for
        each hop of one by a NAT gateway.
        """
        cdef const uint8_t* base = &memory[0]
        cdef const Header* header = <const Header*>base
        cdef uint64_t i
        cdef uint64_t end = min(<uint64_t>start + self.room, <uint64_t>header.entries_watermark)
        cdef uint32_t count = 0, number, hop
        cdef uint64_t held, who
        cdef uint16_t interface
        cdef Entry entry
        cdef Hops hops
        with nogil:
            for i in range(start, end):
                if (
                    not entry_copy(header, i, &entry, NULL)
                    or entry.state > STATE_MAPPING
                    or not hops_copy(header, i, &entry, &hops)
                ):
                    continue
                held = (
                    entry.state == STATE_HELD
                    or entry.state == STATE_TIME_WAIT
                    or entry.state == STATE_RESET
                )
                who = (<uint64_t>entry.originator << 1) | held
                if hops.count == 0:
                    hops.hops[0].attachment = entry.responder
                    hops.hops[0].remote = End(entry.destination_address, entry.destination_port)
                    hops.count = 1
                for hop in range(hops.count):
                    if records_of(header)[hops.hops[hop].attachment].role == ROLE_ENDPOINT:
                        continue
                    interface = interface_number(header, hops.hops[hop].attachment)
                    self.found[count] = (<uint64_t>interface << 17) | who
                    count += 1
                    # A flow of a mapping uses the mapping's port.
                    number = 0 if entry.flags & MAPPED else self.number_of(
                        &entry, interface, &hops.hops[hop].remote
                    )
                    if number:
                        self.found[count] = ((<uint64_t>number + 0xFFFF) << 17) | who
                        count += 1
        result = array.array("Q")
        result.frombytes((<unsigned char*>self.found)[: count * sizeof(uint64_t)])
        return result
