# SPDX-License-Identifier: Apache-2.0
from hyperplane_nat.engine.nat cimport Nat


cdef list audit_neighbours(const Nat* nat)
