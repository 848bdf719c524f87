# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Addresses as people write them, into the byte order of a packet and back.

ValueError or OSError tell that a text is none.
"""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from hyperplane_nat.engine.wire.packet cimport prefix_mask


cdef inline bytes mac_bytes(str text):
    cdef bytes raw = bytes.fromhex(text.replace(":", ""))
    if len(raw) != 6:
        raise ValueError(f"{text!r} is not a MAC address")
    return raw


cdef inline uint32_t address_number(str text) except? 0:
    import socket
    cdef uint32_t number
    cdef bytes raw = socket.inet_aton(text)
    memcpy(&number, <const unsigned char*>raw, 4)
    return number


cdef inline str dotted(uint32_t address):
    """An address in network order as text."""
    import socket
    return socket.inet_ntoa((<const unsigned char*>&address)[:4])


cdef inline tuple prefix_numbers(str text):
    """Network-order address and mask of a CIDR prefix."""
    address, _, length = text.partition("/")
    cdef uint32_t mask = prefix_mask(int(length or "32"))
    return address_number(address) & mask, mask
