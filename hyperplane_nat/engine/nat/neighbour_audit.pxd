# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The walk that proves that what is counted and chained of next hops is there, and in order."""

from libc.stdint cimport uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.flows.neighbour_table cimport (
    BY_ASKER,
    BY_LINK,
    BY_TIME,
    NEIGHBOURS_MAX,
    TIMERS,
    Chain,
    Neighbour,
    NeighbourTable,
    has_mac,
    neighbour_find,
)
from hyperplane_nat.engine.flows.waiting_frames cimport (
    WAITING_BLOCKS,
    WAITING_BLOCK_BYTES,
    WaitingFrames,
)


cdef inline list walk(const Chain* chain, int kind, str name):
    """The neighbours of a chain, as addresses of memory; ValueError when its links disagree."""
    cdef Neighbour* neighbour = chain.first
    cdef Neighbour* before = NULL
    cdef uint32_t count = 0
    cdef list found = []
    while neighbour != NULL and count <= chain.count:
        if neighbour.before[kind] != before:
            raise ValueError(f"{name}: links disagree")
        found.append(<size_t>neighbour)
        before = neighbour
        neighbour = neighbour.after[kind]
        count += 1
    if count != chain.count or chain.last != before:
        raise ValueError(f"{name}: {chain.count} counted")
    return found


cdef inline set in_chains(const Nat* nat, list problems):
    """Every neighbour that a timer governs."""
    cdef const NeighbourTable* table = &nat.neighbours
    cdef const Neighbour* neighbour
    cdef uint64_t since
    cdef int timer
    cdef set timed = set()
    for timer in range(TIMERS):
        since = 0
        for address in walk(&table.timers[timer], BY_TIME, f"timer {timer}"):
            neighbour = <const Neighbour*><size_t>address
            timed.add(address)
            if neighbour.since < since or neighbour.timer != timer:
                problems.append(f"timer {timer}: a neighbour out of its order")
            since = neighbour.since
    return timed


cdef inline uint32_t blocks_of(
    const WaitingFrames* waiting, const Neighbour* neighbour, dict by_interface, dict by_asker
):
    """How many blocks the frames take that wait for a next hop; whose they are is added up."""
    cdef uint32_t block = neighbour.queue.first, n, blocks, total = 0
    for n in range(neighbour.queue.frames):
        blocks = (waiting.blocks[block].length + WAITING_BLOCK_BYTES - 1) // WAITING_BLOCK_BYTES
        total += blocks
        by_interface[neighbour.interface] = by_interface.get(neighbour.interface, 0) + blocks
        asker = waiting.blocks[block].asker
        by_asker[asker] = by_asker.get(asker, 0) + blocks
        block = waiting.blocks[block].behind
    return total


cdef inline list audit_shares(const Nat* nat, dict links, dict by_interface, dict by_asker):
    """Whether next hops and blocks are counted for whoever has them."""
    cdef const NeighbourTable* table = &nat.neighbours
    cdef const WaitingFrames* waiting = &table.waiting
    cdef uint32_t i
    cdef list problems = []
    for i in range(nat.attachments_max):
        if table.links[i].neighbours != links.get(i, 0):
            problems.append(f"attachment {i}: {table.links[i].neighbours} next hops counted")
        if waiting.by_interface[i] != by_interface.get(i, 0):
            problems.append(f"attachment {i}: {waiting.by_interface[i]} blocks counted")
    for i in range(nat.attachments_max + 1):
        if waiting.by_asker[i] != by_asker.get(i, 0):
            problems.append(f"asker {i}: {waiting.by_asker[i]} blocks counted")
    return problems


cdef inline list audit_chained(const Nat* nat, set timed, set asked, set linked):
    """Whether next hops, and what waits for them, agree with the chains and counts they are in."""
    cdef const NeighbourTable* table = &nat.neighbours
    cdef const Neighbour* neighbour
    cdef uint32_t i, known = 0, held = 0
    cdef list problems = []
    cdef set unanswered = set()
    cdef dict links = {}, by_interface = {}, by_asker = {}
    for i in range(table.used):
        neighbour = &table.records[i]
        if neighbour.state == NEIGHBOUR_NONE:
            continue
        known += 1
        links[neighbour.interface] = links.get(neighbour.interface, 0) + 1
        if neighbour_find(table, neighbour.interface, neighbour.address) != neighbour:
            problems.append(f"next hop {i} is not found")
        if <size_t>neighbour not in timed:
            problems.append(f"next hop {i} has no timer")
        if not has_mac(neighbour):
            unanswered.add(<size_t>neighbour)
        elif neighbour.queue.frames:
            problems.append(f"next hop {i} has answered, and frames wait for it")
        held += blocks_of(&table.waiting, neighbour, by_interface, by_asker)
    if len(timed) != known or table.free_count != NEIGHBOURS_MAX - known:
        problems.append(f"{known} next hops, {len(timed)} timers, {table.free_count} free")
    if asked != unanswered or linked != unanswered:
        problems.append(f"{len(unanswered)} next hops have not answered, others are chained")
    if table.waiting.free_count != WAITING_BLOCKS - held:
        problems.append(f"{held} blocks of waiting frames, {table.waiting.free_count} are free")
    return problems + audit_shares(nat, links, by_interface, by_asker)


cdef inline list audit_neighbours(const Nat* nat):
    """A line for each disagreement, none when all is well; it reads only."""
    cdef const NeighbourTable* table = &nat.neighbours
    cdef uint32_t i
    cdef list problems = []
    try:
        timed = in_chains(nat, problems)
        asked = {
            address
            for i in range(nat.attachments_max + 1)
            for address in walk(&table.askers[i], BY_ASKER, f"environment {i}")
        }
        linked = {
            address
            for i in range(nat.attachments_max)
            for address in walk(&table.links[i].unanswered, BY_LINK, f"link {i}")
        }
    except ValueError as error:
        return [*problems, f"next hops of {error}"]
    return problems + audit_chained(nat, timed, asked, linked)
