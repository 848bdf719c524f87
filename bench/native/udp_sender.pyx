# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""UDP load from ordinary sockets, many datagrams to a system call, without the GIL.

Three ways to choose where the next datagram goes:

* ``connected``: sockets in turn, each to the one destination it is connected to. A socket is a
  flow, so the gateway sees as many flows as there are sockets.
* ``pairs``: every pair of a socket (source port) and a destination port once before any comes a
  second time. Each datagram is a new flow until all pairs have been used.
* ``random``: a random one of those pairs each time.

The contents never change, so nothing but the address is written per datagram.
"""

import errno

from libc.errno cimport EAGAIN, ECONNREFUSED, EINTR, ENOBUFS, errno as c_errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from bench.native.clock cimport LOOK_NS, SECOND, now_ns, sleep_ns, stop_requested

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t value)

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    int AF_INET

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    cdef struct msghdr:
        void* msg_name
        unsigned int msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    int sendmmsg(int descriptor, mmsghdr* messages, unsigned int count, int flags)

cdef enum:
    BATCH_MAX = 64
    PAYLOAD_MAX = 65507

cdef enum:
    CONNECTED = 0
    PAIRS = 1
    RANDOM = 2

ORDERS = {"connected": CONNECTED, "pairs": PAIRS, "random": RANDOM}

cdef struct Load:
    int* descriptors
    uint32_t sockets
    uint32_t first_port
    uint32_t ports
    uint32_t batch
    int order
    uint64_t rate
    uint64_t packets
    uint64_t deadline
    int stop_descriptor
    mmsghdr messages[BATCH_MAX]
    sockaddr_in addresses[BATCH_MAX]
    iovec vector
    uint64_t random
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


cdef bint send_batch(Load* load, int descriptor, uint32_t count) noexcept nogil:
    """Send `count` messages; False when it cannot go on."""
    cdef uint32_t done = 0
    cdef int result
    while done < count:
        result = sendmmsg(descriptor, load.messages + done, count - done, 0)
        if result > 0:
            done += <uint32_t>result
            load.sent += <uint64_t>result
        elif c_errno == EINTR:
            continue
        elif c_errno == ECONNREFUSED or c_errno == EAGAIN or c_errno == ENOBUFS:
            # An ICMP error of an earlier datagram, or no room: the load goes on with the next.
            load.refused += 1
            done += 1
        else:
            load.failure = c_errno
            return False
    return True


cdef void run(Load* load) noexcept nogil:
    cdef uint64_t start = now_ns(), look = start, now, due, pairs, turn = 0
    cdef uint32_t i, count = load.batch, socket = 0, port = 0
    pairs = <uint64_t>load.sockets * load.ports
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
        if load.rate:
            due = start + load.sent * SECOND // load.rate
            if due > now:
                sleep_ns(due - now if due - now < LOOK_NS else LOOK_NS)
                if due > now_ns():
                    continue
        if load.order == CONNECTED:
            socket = <uint32_t>(turn % load.sockets)
            turn += 1
        elif load.order == PAIRS:
            # A run of destination ports from each socket in turn, then the next run.
            if port + count > load.ports:
                count = load.ports - port
            for i in range(count):
                load.addresses[i].sin_port = htons(<uint16_t>(load.first_port + port + i))
        else:
            socket = <uint32_t>(next_random(load) % load.sockets)
            for i in range(count):
                load.addresses[i].sin_port = htons(
                    <uint16_t>(load.first_port + (next_random(load) >> 20) % load.ports)
                )
        if not send_batch(load, load.descriptors[socket], count):
            return
        if load.order == PAIRS:
            socket += 1
            if socket == load.sockets:
                socket = 0
                port = (port + count) % load.ports
            count = load.batch


def send(
    list descriptors,
    *,
    str address,
    int first_port,
    int ports,
    str order,
    int payload_bytes,
    double seconds,
    int stop_descriptor,
    int batch=BATCH_MAX,
    long rate_per_second=0,
    long packets=0,
):
    """Send until told to stop; see the type stub."""
    import socket

    cdef Load* load
    cdef bytes raw = socket.inet_aton(address)
    cdef bytes payload = bytes(payload_bytes)
    cdef const unsigned char* text = raw
    cdef uint64_t start, end
    cdef int i
    if not descriptors or not 1 <= batch <= BATCH_MAX or not 0 <= payload_bytes <= PAYLOAD_MAX:
        raise ValueError("no sockets, or an impossible batch or size")
    if order != "connected" and not 1 <= ports <= 65536 - first_port:
        raise ValueError("impossible destination ports")
    load = <Load*>calloc(1, sizeof(Load))
    if load == NULL:
        raise MemoryError
    load.descriptors = <int*>calloc(len(descriptors), sizeof(int))
    if load.descriptors == NULL:
        free(load)
        raise MemoryError
    for i, descriptor in enumerate(descriptors):
        load.descriptors[i] = descriptor
    load.sockets = <uint32_t>len(descriptors)
    load.first_port = <uint32_t>first_port
    load.ports = <uint32_t>ports
    load.batch = <uint32_t>batch
    load.order = ORDERS[order]
    load.rate = <uint64_t>rate_per_second
    load.packets = <uint64_t>packets
    load.stop_descriptor = stop_descriptor
    load.random = 0x9E3779B97F4A7C15
    load.vector.iov_base = <void*><const unsigned char*>payload
    load.vector.iov_len = <size_t>payload_bytes
    for i in range(BATCH_MAX):
        load.messages[i].msg_hdr.msg_iov = &load.vector
        load.messages[i].msg_hdr.msg_iovlen = 1
        if load.order != CONNECTED:
            load.addresses[i].sin_family = <uint16_t>AF_INET
            load.addresses[i].sin_addr.s_addr = (<const uint32_t*>text)[0]
            load.messages[i].msg_hdr.msg_name = &load.addresses[i]
            load.messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_in)
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
        free(load.descriptors)
        free(load)
