# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Settings, as Python has them, into the engine's own records.
from hyperplane_nat.engine.flows.nat cimport BehaviourRecord
from hyperplane_nat.engine.flows.neighbour_table cimport (
    TIMER_FAILED,
    TIMER_REACHABLE,
    TIMER_RETRY,
    NeighbourTable,
)


cdef inline int behaviour_load(BehaviourRecord* record, behaviour) except -1:
    record.mapping = behaviour.mapping
    record.filtering = behaviour.filtering
    record.hairpinning = behaviour.hairpinning
    record.paired_pooling = behaviour.paired_pooling
    record.exhaustion_icmp = behaviour.exhaustion_icmp
    record.idle_reset = behaviour.idle_reset
    record.tcp_fragments = behaviour.tcp_fragments
    record.udp_fragments = behaviour.udp_fragments
    record.icmp_fragments = behaviour.icmp_fragments
    record.mss_clamping = behaviour.mss_clamping
    record.tombstones = behaviour.tombstones
    record.fragment_ms = behaviour.fragment_ms
    return 0


cdef inline int neighbours_load(NeighbourTable* table, settings) except -1:
    table.periods[<int>TIMER_RETRY] = settings.retry_ms
    table.periods[<int>TIMER_REACHABLE] = settings.reachable_ms
    table.periods[<int>TIMER_FAILED] = settings.failed_ms
    table.attempts = settings.attempts
    table.queue_frames = settings.queue_frames
    return 0
