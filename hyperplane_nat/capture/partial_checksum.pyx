# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=True, wraparound=False
"""Finishing checksums that a sender has left to its network card.

Theory of operation
-------------------
Such a frame has the sum of the pseudo-header where its checksum should be (VIRTIO 1.2, section
5.1.6). The sum of everything from there on, that field included, is the sum of the packet, and its
complement the checksum (RFC 1071). A super-frame of 64 KiB gets the checksum of the one large
packet that it is; that is too many bytes to add up in Python for each frame.
"""

from libc.stdint cimport uint16_t

from hyperplane_nat.engine.wire.checksum cimport complement, store16, sum_bytes

cdef enum:
    UDP_FIELD = 6


def finish(unsigned char[::1] frame not None, Py_ssize_t start, Py_ssize_t field):
    """Complete the checksum at `field` over what begins at `start`; False if it lies outside."""
    cdef Py_ssize_t length = frame.shape[0]
    cdef uint16_t checksum
    if not 0 <= start <= field or field + 2 > length:
        return False
    checksum = complement(sum_bytes(&frame[start], <unsigned int>(length - start), 0))
    # A UDP checksum of 0 would say that there is none (RFC 768).
    if checksum == 0 and field == start + UDP_FIELD:
        checksum = 0xFFFF
    store16(&frame[field], checksum)
    return True
