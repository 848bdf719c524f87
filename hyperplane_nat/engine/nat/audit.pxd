# SPDX-License-Identifier: Apache-2.0
from hyperplane_nat.engine.flows.nat cimport Nat


cdef list audit(Nat* nat)
