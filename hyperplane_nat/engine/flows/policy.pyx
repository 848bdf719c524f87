# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Security groups: whether an interface or a host may begin a flow, and reach a host.

Theory of operation
-------------------
Security groups are stateful: they are asked when a flow is made and never again, so a rule that goes
away stops new flows and leaves the old ones
(https://docs.aws.amazon.com/vpc/latest/userguide/vpc-security-groups.html). A new flow must match

* none of the rules of what is withheld from the interface, the Lambda service's own, which no group
  can allow,
* one of the interface's egress rules, unless the interface filters none, and
* one of the ingress rules of its destination, when that is a guarded address: one in the VPC that
  carries security groups of its own, or a host. Those of a guarded address are part of the
  policy of each interface, compiled for that as their source; a host has its own, and is asked with
  the source that it sees.

A set of rules only ever adds up, so their order means nothing and a set of rules is a set of (protocol, port,
address). It is compiled when it is configured: for each protocol the ports at which some rule begins
or ends cut the range into elementary intervals, and each interval has the merged, disjoint address
ranges of the rules that cover it. Asking costs two binary searches, whatever the rules look like.
Neighbouring intervals that admit the same addresses are one. ICMP has one interval: its rules have
no ports.

A policy never changes. An interface is given another one.
"""

import socket

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy

from hyperplane_nat.engine.wire.checksum cimport swap16, swap32
from hyperplane_nat.engine.state.layout cimport NIL
from hyperplane_nat.engine.wire.packet cimport protocol_index

from hyperplane_nat.engine.state.constants import DropReason

cdef dict PROTOCOLS = {"tcp": (6,), "udp": (17,), "icmp": (1,), "all": (6, 17, 1)}

cdef struct Range:
    uint32_t first
    uint32_t last
    uint32_t first_port
    uint32_t last_port


cdef int append_ranges(
    PortTable* table, const Range* rules, uint32_t count, uint32_t port, uint32_t begin
) noexcept nogil:
    """Add the merged ranges of the rules, sorted by address, that cover a port; their number."""
    cdef uint32_t i, end = begin
    for i in range(count):
        if not rules[i].first_port <= port <= rules[i].last_port:
            continue
        if end > begin and (
            table.lasts[end - 1] == NIL or rules[i].first <= table.lasts[end - 1] + 1
        ):
            table.lasts[end - 1] = max(table.lasts[end - 1], rules[i].last)
            continue
        table.firsts[end] = rules[i].first
        table.lasts[end] = rules[i].last
        end += 1
    return <int>(end - begin)


cdef int compile_table(PortTable* table, list rules) except -1:
    """Fill an empty table from (first address, last address, first port, last port)."""
    cdef uint32_t count = <uint32_t>len(rules), room = count, begin = 0, before = 0, added, i
    cdef uint32_t previous
    cdef Range* sorted_rules
    cdef uint32_t* grown
    if count == 0:
        return 0
    bounds = sorted({0} | {rule[2] for rule in rules} | {rule[3] + 1 for rule in rules} - {65536})
    sorted_rules = <Range*>malloc(count * sizeof(Range))
    table.starts = <uint32_t*>malloc(len(bounds) * 4)
    table.offsets = <uint32_t*>malloc((len(bounds) + 1) * 4)
    table.firsts = <uint32_t*>malloc(room * 4)
    table.lasts = <uint32_t*>malloc(room * 4)
    try:
        if not (sorted_rules and table.starts and table.offsets and table.firsts and table.lasts):
            raise MemoryError
        rules.sort()
        for i in range(count):
            sorted_rules[i].first, sorted_rules[i].last = rules[i][0], rules[i][1]
            sorted_rules[i].first_port, sorted_rules[i].last_port = rules[i][2], rules[i][3]
        for start in bounds:
            if begin + count > room:
                room = 2 * (begin + count)
                grown = <uint32_t*>realloc(table.firsts, room * 4)
                if grown == NULL:
                    raise MemoryError
                table.firsts = grown
                grown = <uint32_t*>realloc(table.lasts, room * 4)
                if grown == NULL:
                    raise MemoryError
                table.lasts = grown
            added = append_ranges(table, sorted_rules, count, start, begin)
            previous = begin - before
            if (
                table.intervals
                and added == previous
                and memcmp(table.firsts + before, table.firsts + begin, added * 4) == 0
                and memcmp(table.lasts + before, table.lasts + begin, added * 4) == 0
            ):
                continue
            table.starts[table.intervals] = start
            table.offsets[table.intervals] = begin
            table.intervals += 1
            before = begin
            begin += added
            table.offsets[table.intervals] = begin
    finally:
        free(sorted_rules)
    return 0


cdef uint32_t host_address(str text) except? 0:
    return int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")


cdef int compile_rules(RuleSet* compiled, object rules, object source) except -1:
    """Compile rules; with a `source` those that do not contain it are left out, and all match it."""
    cdef list tables = [[], [], []]
    cdef uint32_t first, mask, length
    cdef int i
    for rule in rules:
        protocols = PROTOCOLS.get(rule.protocol)
        if protocols is None:
            raise ValueError(f"protocol {rule.protocol!r} of a rule: use {', '.join(PROTOCOLS)}")
        if not 0 <= rule.first <= rule.last <= 65535:
            raise ValueError(f"ports {rule.first} to {rule.last} of a rule: use 0 to 65535, in order")
        address, _, bits = rule.cidr.partition("/")
        if not (bits.isascii() and bits.isdigit() and int(bits) <= 32):
            raise ValueError(f"cidr {rule.cidr!r} of a rule: use a.b.c.d/n")
        length = int(bits)
        try:
            first = host_address(address)
        except OSError:
            raise ValueError(f"cidr {rule.cidr!r} of a rule: use a.b.c.d/n") from None
        mask = <uint32_t>(<uint64_t>0xFFFFFFFF >> length)
        if first & mask:
            raise ValueError(f"cidr {rule.cidr!r} of a rule has host bits set")
        if source is None:
            last = first | mask
        elif first <= source <= (first | mask):
            first, last = 0, 0xFFFFFFFF
        else:
            continue
        for protocol in protocols:
            ports = (0, 65535) if protocol == 1 else (rule.first, rule.last)
            (<list>tables[protocol_index(protocol)]).append((first, last, *ports))
    for i in range(3):
        compile_table(&compiled.tables[i], tables[i])
    return 0


cdef void release_rules(RuleSet* rules) noexcept:
    cdef int i
    for i in range(3):
        free(rules.tables[i].starts)
        free(rules.tables[i].offsets)
        free(rules.tables[i].firsts)
        free(rules.tables[i].lasts)


cdef class Policy:
    """The security groups that bear on one interface, compiled. See the type stub.

    `address` is the interface's or the host's, `egress` and `ingress` None when nothing is filtered,
    `guarded` the ingress rules by address of destination, `withheld` what may not be begun whatever
    the others say.  Raises ValueError for a rule that cannot be.
    """

    def __init__(self, address, *, egress=None, ingress=None, guarded=None, withheld=()):
        cdef uint32_t source = host_address(address), i
        if (
            self.record.guarded != NULL
            or self.record.filters_egress
            or self.record.filters_ingress
            or self.record.withholds
        ):
            raise RuntimeError("a policy is initialised once")
        if ingress is not None:
            self.record.filters_ingress = 1
            compile_rules(&self.record.ingress, ingress, None)
        if egress is not None:
            self.record.filters_egress = 1
            compile_rules(&self.record.egress, egress, None)
        if withheld:
            self.record.withholds = 1
            compile_rules(&self.record.withheld, withheld, None)
        if not guarded:
            return
        destinations = sorted((host_address(text), rules) for text, rules in guarded.items())
        self.record.guarded_addresses = <uint32_t*>calloc(len(destinations), 4)
        self.record.guarded = <RuleSet*>calloc(len(destinations), sizeof(RuleSet))
        if self.record.guarded_addresses == NULL or self.record.guarded == NULL:
            raise MemoryError
        for i, (destination, rules) in enumerate(destinations):
            self.record.guarded_addresses[i] = destination
            self.record.guarded_count = i + 1
            compile_rules(&self.record.guarded[i], rules, source)

    def __dealloc__(self):
        cdef uint32_t i
        release_rules(&self.record.egress)
        release_rules(&self.record.ingress)
        release_rules(&self.record.withheld)
        for i in range(self.record.guarded_count):
            release_rules(&self.record.guarded[i])
        free(self.record.guarded)
        free(self.record.guarded_addresses)

    def verdict(self, protocol, address, uint16_t port=0):
        """DropReason.NONE when a flow to this destination may begin, else why not."""
        (number,) = PROTOCOLS[protocol]
        return DropReason(
            policy_check(&self.record, number, swap32(host_address(address)), swap16(port))
        )

    def admits(self, protocol, source, uint16_t port=0):
        """DropReason.NONE when a flow from this address to the host may begin, else why not."""
        (number,) = PROTOCOLS[protocol]
        return DropReason(
            policy_admits(&self.record, number, swap32(host_address(source)), swap16(port))
        )
