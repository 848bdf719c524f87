# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint32_t


cdef bytes mac_bytes(str text)
cdef uint32_t address_number(str text) except? 0
cdef str dotted(uint32_t address)
cdef tuple prefix_numbers(str text)
