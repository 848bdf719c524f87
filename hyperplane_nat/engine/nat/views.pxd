# SPDX-License-Identifier: Apache-2.0
from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.flows.neighbour_table cimport NeighbourTable

cdef list events_of(const Nat* nat)
cdef list next_hops_of(const NeighbourTable* table)
