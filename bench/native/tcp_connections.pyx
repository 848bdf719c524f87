# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Connect, request, response, close: as many connections a second as the path allows.

The client keeps a number of connections on the way and spreads them over the server's ports, so
that neither its own source ports nor the gateway's towards one endpoint are the limit. The server
closes first: the TIME_WAIT sockets are its own, and the client's source ports are free at once.
"""

from libc.errno cimport EAGAIN, EINPROGRESS, errno as c_errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from bench.native.clock cimport SECOND, now_ns

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

cdef extern from "<sys/socket.h>" nogil:
    int socket(int domain, int kind, int protocol)
    int connect(int descriptor, const void* address, unsigned int length)
    int accept4(int descriptor, void* address, unsigned int* length, int flags)
    long send(int descriptor, const void* data, size_t length, int flags)
    long recv(int descriptor, void* data, size_t length, int flags)
    int SOCK_STREAM
    int SOCK_NONBLOCK
    int MSG_NOSIGNAL
    int MSG_DONTWAIT

cdef extern from "<unistd.h>" nogil:
    int close(int descriptor)

cdef extern from "<sys/epoll.h>" nogil:
    cdef union epoll_data:
        int fd
        uint32_t u32
    cdef struct epoll_event:
        uint32_t events
        epoll_data data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int descriptor, epoll_event* event)
    int epoll_wait(int epoll, epoll_event* events, int count, int milliseconds)
    uint32_t EPOLLIN
    uint32_t EPOLLOUT
    uint32_t EPOLLET
    int EPOLL_CTL_ADD

cdef enum:
    MESSAGE = 64
    EVENTS = 128
    WAIT_MS = 50
    NOBODY = 0xFFFFFFFF

cdef struct Connection:
    int descriptor
    bint asked

cdef struct Client:
    Connection* connections
    int count
    int epoll
    sockaddr_in address
    uint32_t first_port
    uint32_t ports
    uint32_t turn
    uint64_t start
    uint64_t end
    long completed
    long failed
    int failure


cdef bint begin(Client* client, int number) noexcept nogil:
    """Start a connection to the next port; False when there is no socket to be had."""
    cdef Connection* connection = &client.connections[number]
    cdef epoll_event event
    cdef int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)
    if descriptor < 0:
        client.failure = c_errno
        return False
    client.address.sin_port = htons(
        <uint16_t>(client.first_port + client.turn % client.ports)
    )
    client.turn += 1
    connection.descriptor = descriptor
    connection.asked = False
    if (
        connect(descriptor, &client.address, sizeof(sockaddr_in)) < 0
        and c_errno != EINPROGRESS
    ):
        client.failure = c_errno
        return False
    # Edge triggered: one registration tells of the handshake, the response and the end.
    event.events = EPOLLIN | EPOLLOUT | EPOLLET
    event.data.u32 = <uint32_t>number
    epoll_ctl(client.epoll, EPOLL_CTL_ADD, descriptor, &event)
    return True


cdef int go_on(Connection* connection) noexcept nogil:
    """What an event means: 0 wait on, 1 the exchange is complete, -1 it has failed."""
    cdef char room[MESSAGE * 4]
    cdef long got
    if not connection.asked:
        if send(connection.descriptor, room, MESSAGE, MSG_NOSIGNAL) < 0:
            return 0 if c_errno == EAGAIN else -1
        connection.asked = True
    while True:
        got = recv(connection.descriptor, room, sizeof(room), MSG_DONTWAIT)
        if got == 0:
            return 1
        if got < 0:
            return 0 if c_errno == EAGAIN else -1


cdef void run_client(Client* client, int stop_descriptor) noexcept nogil:
    cdef epoll_event events[EVENTS]
    cdef uint64_t now
    cdef int count, i, outcome
    cdef uint32_t number
    for i in range(client.count):
        if not begin(client, i):
            return
    while True:
        count = epoll_wait(client.epoll, events, EVENTS, WAIT_MS)
        now = now_ns()
        if now >= client.end:
            return
        for i in range(count):
            number = events[i].data.u32
            if number == NOBODY:
                return
            outcome = go_on(&client.connections[number])
            if outcome == 0:
                continue
            if now >= client.start:
                if outcome > 0:
                    client.completed += 1
                else:
                    client.failed += 1
            close(client.connections[number].descriptor)
            client.connections[number].descriptor = -1
            if not begin(client, <int>number):
                return


def connect_all(
    str address,
    *,
    int first_port,
    int ports,
    int concurrency,
    double warm_up_seconds,
    double seconds,
    int stop_descriptor,
):
    """Make connections; see the type stub."""
    import socket as sockets

    cdef Client client
    cdef epoll_event event
    cdef bytes raw = sockets.inet_aton(address)
    cdef const unsigned char* text = raw
    cdef int i
    client.count = concurrency
    client.connections = <Connection*>calloc(concurrency, sizeof(Connection))
    if client.connections == NULL:
        raise MemoryError
    for i in range(concurrency):
        client.connections[i].descriptor = -1
    client.address.sin_family = <uint16_t>AF_INET
    client.address.sin_addr.s_addr = (<const uint32_t*>text)[0]
    client.first_port = <uint32_t>first_port
    client.ports = <uint32_t>ports
    client.turn = 0
    client.completed = 0
    client.failed = 0
    client.failure = 0
    client.epoll = epoll_create1(0)
    try:
        if client.epoll < 0:
            raise OSError(c_errno, "epoll_create1")
        event.events = EPOLLIN
        event.data.u32 = NOBODY
        epoll_ctl(client.epoll, EPOLL_CTL_ADD, stop_descriptor, &event)
        client.start = now_ns() + <uint64_t>(warm_up_seconds * SECOND)
        client.end = client.start + <uint64_t>(seconds * SECOND)
        with nogil:
            run_client(&client, stop_descriptor)
        if client.failure:
            raise OSError(client.failure, "cannot open a connection")
        return client.completed, client.failed
    finally:
        for i in range(concurrency):
            if client.connections[i].descriptor >= 0:
                close(client.connections[i].descriptor)
        if client.epoll >= 0:
            close(client.epoll)
        free(client.connections)


cdef void run_server(int epoll, int stop_descriptor) noexcept nogil:
    cdef epoll_event events[EVENTS]
    cdef char room[MESSAGE * 4]
    cdef int count, i, accepted
    while True:
        count = epoll_wait(epoll, events, EVENTS, -1)
        for i in range(count):
            if events[i].data.fd == stop_descriptor:
                return
            while True:
                accepted = accept4(events[i].data.fd, NULL, NULL, SOCK_NONBLOCK)
                if accepted < 0:
                    break
                # TCP_DEFER_ACCEPT: the request is there.
                if recv(accepted, room, sizeof(room), MSG_DONTWAIT) > 0:
                    send(accepted, room, MESSAGE, MSG_NOSIGNAL)
                close(accepted)


def serve(list listeners, *, int stop_descriptor):
    """Answer on all listeners until the pipe says stop; see the type stub."""
    cdef int epoll = epoll_create1(0)
    cdef epoll_event event
    if epoll < 0:
        raise OSError(c_errno, "epoll_create1")
    try:
        for descriptor in [*listeners, stop_descriptor]:
            event.events = EPOLLIN
            event.data.fd = descriptor
            if epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) < 0:
                raise OSError(c_errno, "epoll_ctl")
        with nogil:
            run_server(epoll, stop_descriptor)
    finally:
        close(epoll)
