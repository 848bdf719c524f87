# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Ping-pong: a message out, its echo back, the round-trip time of each.

Blocking sockets, one message on the way at a time, as a request to a database is; no busy waiting
on either side. All samples are kept and sorted, so the percentiles are exact.
"""

from libc.errno cimport EAGAIN, ECONNREFUSED, EINTR, errno as c_errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort

from bench.native.clock cimport LOOK_NS, SECOND, now_ns, stop_requested

cdef extern from "<sys/socket.h>" nogil:
    long send(int descriptor, const void* data, size_t length, int flags)
    long recv(int descriptor, void* data, size_t length, int flags)
    cdef struct sockaddr:
        pass
    cdef struct sockaddr_storage:
        pass
    long recvfrom(int fd, void* data, size_t size, int flags, sockaddr* from_, unsigned int* length)
    long sendto(int fd, const void* data, size_t size, int flags, sockaddr* to, unsigned int length)
    int accept4(int descriptor, void* address, unsigned int* length, int flags)
    int setsockopt(int descriptor, int level, int name, const void* value, unsigned int length)
    int MSG_NOSIGNAL
    int MSG_DONTWAIT
    int SOCK_NONBLOCK

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NODELAY

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_TCP

cdef extern from "<unistd.h>" nogil:
    int close(int descriptor)

cdef extern from "<sys/epoll.h>" nogil:
    cdef union epoll_data:
        int fd
    cdef struct epoll_event:
        uint32_t events
        epoll_data data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int descriptor, epoll_event* event)
    int epoll_wait(int epoll, epoll_event* events, int count, int milliseconds)
    uint32_t EPOLLIN
    int EPOLL_CTL_ADD

cdef enum:
    MESSAGE_MAX = 2048
    SAMPLES_MAX = 4000000
    EVENTS = 256
    WAIT_MS = 20

cdef struct Game:
    int* descriptors
    int sockets
    bint stream
    size_t size
    int stop_descriptor
    uint64_t start
    uint64_t end
    uint32_t* samples
    long count
    long lost
    int failure
    char message[MESSAGE_MAX]


cdef bint exchange(Game* game, int descriptor) noexcept nogil:
    """One message and its echo; False when none came in time."""
    cdef long got
    cdef size_t have = 0
    if send(descriptor, game.message, game.size, MSG_NOSIGNAL) < 0:
        if c_errno != ECONNREFUSED:
            game.failure = c_errno
        return False
    while have < game.size:
        got = recv(descriptor, game.message, MESSAGE_MAX, 0)
        if got < 0 and c_errno == EINTR:
            continue
        if got <= 0:
            if game.stream or not (c_errno == EAGAIN or c_errno == ECONNREFUSED):
                game.failure = c_errno if got < 0 else -1
            return False
        have += <size_t>got
    return True


cdef void play(Game* game) noexcept nogil:
    cdef uint64_t before, after = now_ns(), look = after
    cdef int turn = 0, descriptor
    cdef bint answered
    while after < game.end and game.failure == 0:
        descriptor = game.descriptors[turn]
        turn = turn + 1 if turn + 1 < game.sockets else 0
        before = now_ns()
        answered = exchange(game, descriptor)
        after = now_ns()
        if before >= game.start:
            if not answered:
                game.lost += 1
            elif game.count < SAMPLES_MAX:
                game.samples[game.count] = <uint32_t>(after - before)
                game.count += 1
        if after >= look:
            if stop_requested(game.stop_descriptor):
                return
            look = after + LOOK_NS


cdef int ascending(const void* a, const void* b) noexcept nogil:
    cdef uint32_t x = (<const uint32_t*>a)[0], y = (<const uint32_t*>b)[0]
    return (x > y) - (x < y)


def ping(
    list descriptors,
    *,
    bint stream,
    int message_bytes,
    double warm_up_seconds,
    double seconds,
    int stop_descriptor,
):
    """Play with each socket in turn; see the type stub."""
    cdef Game* game = <Game*>calloc(1, sizeof(Game))
    cdef int i
    cdef long at
    if game == NULL:
        raise MemoryError
    try:
        if not descriptors or not 1 <= message_bytes <= MESSAGE_MAX:
            raise ValueError("no sockets, or an impossible size")
        game.sockets = <int>len(descriptors)
        game.descriptors = <int*>calloc(game.sockets, sizeof(int))
        game.samples = <uint32_t*>malloc(SAMPLES_MAX * sizeof(uint32_t))
        if game.descriptors == NULL or game.samples == NULL:
            raise MemoryError
        for i in range(game.sockets):
            game.descriptors[i] = descriptors[i]
        game.stream = stream
        game.size = <size_t>message_bytes
        game.stop_descriptor = stop_descriptor
        game.start = now_ns() + <uint64_t>(warm_up_seconds * SECOND)
        game.end = game.start + <uint64_t>(seconds * SECOND)
        with nogil:
            play(game)
            qsort(game.samples, game.count, sizeof(uint32_t), &ascending)
        if game.failure > 0:
            raise OSError(game.failure, "ping-pong")
        if game.failure < 0:
            raise ConnectionResetError("the other side of the ping-pong closed the connection")
        result = {"count": game.count, "lost": game.lost}
        for name, part in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)):
            if game.count:
                # Nearest rank.
                at = <long>(part * game.count + 0.999999) - 1
                result[name] = game.samples[min(max(at, 0), game.count - 1)] / 1000.0
        return result
    finally:
        free(game.descriptors)
        free(game.samples)
        free(game)


cdef void echo_datagrams(int descriptor, char* room) noexcept nogil:
    cdef sockaddr_storage address
    cdef unsigned int length
    cdef long got
    while True:
        length = sizeof(address)
        got = recvfrom(descriptor, room, MESSAGE_MAX, MSG_DONTWAIT, <sockaddr*>&address, &length)
        if got < 0:
            return
        sendto(descriptor, room, <size_t>got, MSG_DONTWAIT, <sockaddr*>&address, length)


cdef void watch(int epoll, int descriptor) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN
    event.data.fd = descriptor
    epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event)


cdef void echo_all(int epoll, int udp, int tcp, int stop_descriptor) noexcept nogil:
    cdef epoll_event events[EVENTS]
    cdef char room[MESSAGE_MAX]
    cdef int count, i, descriptor, accepted, one = 1
    cdef long got
    while True:
        count = epoll_wait(epoll, events, EVENTS, WAIT_MS * 50)
        for i in range(count):
            descriptor = events[i].data.fd
            if descriptor == stop_descriptor:
                return
            if descriptor == udp:
                echo_datagrams(udp, room)
            elif descriptor == tcp:
                while True:
                    accepted = accept4(tcp, NULL, NULL, SOCK_NONBLOCK)
                    if accepted < 0:
                        break
                    setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
                    watch(epoll, accepted)
            else:
                got = recv(descriptor, room, MESSAGE_MAX, MSG_DONTWAIT)
                if got > 0:
                    send(descriptor, room, <size_t>got, MSG_NOSIGNAL)
                elif got == 0 or c_errno != EAGAIN:
                    close(descriptor)


def echo(int udp, int tcp, *, int stop_descriptor):
    """Echo on both sockets until the pipe says stop; see the type stub."""
    cdef int epoll = epoll_create1(0)
    if epoll < 0:
        raise OSError(c_errno, "epoll_create1")
    try:
        with nogil:
            watch(epoll, udp)
            watch(epoll, tcp)
            watch(epoll, stop_descriptor)
            echo_all(epoll, udp, tcp, stop_descriptor)
    finally:
        close(epoll)
