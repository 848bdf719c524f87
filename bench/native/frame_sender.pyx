# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""UDP load of very many flows: whole frames from a packet socket, without the GIL.

A socket of the kernel's UDP looks up a route for every datagram to a new destination and is slower
than the gateways that are measured. Here the frame is made once; only its two ports are written
each time, and its UDP checksum is left out (RFC 768: zero, the sender generated none).

Two ways to choose the next pair of ports:

* `pairs`: every pair of a source and a destination port once before any comes a second time.
  Each datagram is a new flow until all pairs have been used.
* `random`: a random one of those pairs each time.
"""

import errno

from libc.errno cimport EAGAIN, EINTR, ENOBUFS, errno as c_errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from bench.native.clock cimport LOOK_NS, SECOND, now_ns, stop_requested

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t value)

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    cdef struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    cdef struct mmsghdr:
        msghdr msg_hdr
    int sendmmsg(int descriptor, mmsghdr* messages, unsigned int count, int flags)

cdef enum:
    BATCH = 64
    FRAME_MAX = 1514
    PORTS_AT = 34
    PAIRS = 0
    RANDOM = 1

ORDERS = {"pairs": PAIRS, "random": RANDOM}

cdef struct Load:
    int descriptor
    int stop_descriptor
    int order
    uint32_t first_source
    uint32_t sources
    uint32_t first_port
    uint32_t ports
    uint64_t packets
    uint64_t deadline
    uint64_t random
    mmsghdr messages[BATCH]
    iovec vectors[BATCH]
    uint8_t frames[BATCH][FRAME_MAX]
    # What came of it.
    uint64_t sent
    uint64_t refused
    int failure


cdef inline uint64_t next_random(Load* load) noexcept nogil:
    """Xorshift (Marsaglia 2003): quick, and its quality is of no consequence here."""
    load.random ^= load.random << 13
    load.random ^= load.random >> 7
    load.random ^= load.random << 17
    return load.random


cdef bint send_batch(Load* load, uint32_t count) noexcept nogil:
    """Send the first `count` frames; False when it cannot go on."""
    cdef uint32_t done = 0
    cdef int result
    while done < count:
        result = sendmmsg(load.descriptor, load.messages + done, count - done, 0)
        if result > 0:
            done += <uint32_t>result
            load.sent += <uint64_t>result
        elif c_errno == EINTR:
            continue
        elif c_errno == EAGAIN or c_errno == ENOBUFS:
            load.refused += 1
            done += 1
        else:
            load.failure = c_errno
            return False
    return True


cdef void run(Load* load) noexcept nogil:
    cdef uint64_t look = 0, now, turn = 0, pair
    cdef uint64_t pairs = <uint64_t>load.sources * load.ports
    cdef uint32_t i, count = BATCH
    cdef uint16_t ports[2]
    while True:
        now = now_ns()
        if now >= load.deadline:
            return
        if now >= look:
            if stop_requested(load.stop_descriptor):
                return
            look = now + LOOK_NS
        if load.packets:
            if load.sent >= load.packets:
                return
            if load.packets - load.sent < count:
                count = <uint32_t>(load.packets - load.sent)
        for i in range(count):
            if load.order == PAIRS:
                pair = turn
                turn = turn + 1 if turn + 1 < pairs else 0
            else:
                pair = (next_random(load) >> 20) % pairs
            ports[0] = htons(<uint16_t>(load.first_source + pair % load.sources))
            ports[1] = htons(<uint16_t>(load.first_port + pair // load.sources))
            memcpy(&load.frames[i][PORTS_AT], ports, 4)
        if not send_batch(load, count):
            return


def send(
    int descriptor,
    bytes frame,
    *,
    str order,
    int first_source_port,
    int source_ports,
    int first_port,
    int ports,
    double seconds,
    int stop_descriptor,
    long packets=0,
):
    """Send until told to stop; see the type stub."""
    cdef Load* load
    cdef const unsigned char* text = frame
    cdef uint64_t start, end
    cdef int i
    if not PORTS_AT + 8 <= len(frame) <= FRAME_MAX:
        raise ValueError("no UDP frame")
    if not 1 <= source_ports <= 65536 - first_source_port or not 1 <= ports <= 65536 - first_port:
        raise ValueError("impossible ports")
    load = <Load*>calloc(1, sizeof(Load))
    if load == NULL:
        raise MemoryError
    load.descriptor = descriptor
    load.stop_descriptor = stop_descriptor
    load.order = ORDERS[order]
    load.first_source = <uint32_t>first_source_port
    load.sources = <uint32_t>source_ports
    load.first_port = <uint32_t>first_port
    load.ports = <uint32_t>ports
    load.packets = <uint64_t>packets
    load.random = 0x9E3779B97F4A7C15
    for i in range(BATCH):
        memcpy(load.frames[i], text, len(frame))
        load.vectors[i].iov_base = load.frames[i]
        load.vectors[i].iov_len = len(frame)
        load.messages[i].msg_hdr.msg_iov = &load.vectors[i]
        load.messages[i].msg_hdr.msg_iovlen = 1
    try:
        start = now_ns()
        load.deadline = start + <uint64_t>(seconds * SECOND)
        with nogil:
            run(load)
        end = now_ns()
        if load.failure:
            raise OSError(load.failure, f"sendmmsg: {errno.errorcode.get(load.failure)}")
        return load.sent, load.refused, (end - start) / <double>SECOND
    finally:
        free(load)
