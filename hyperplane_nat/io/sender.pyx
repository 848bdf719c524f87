# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Frames out, as many as there are with one system call.

Theory of operation
-------------------
A frame is sent from where it lies, its virtio-net header in the ten bytes before it. Frames are
queued as messages of `sendmmsg`; a message may go on with parts of later frames, which the
kernel puts one behind the other, so that a frame made of several costs no copy of ours. What is
queued must stay where it is until the flush.

Sending never blocks. What the kernel refuses is counted and passed over, so that one dead link
or a full buffer cannot stop the frames behind it.
"""

from libc.errno cimport EAGAIN, EINTR, ENOBUFS, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from hyperplane_nat.io.virtio_net cimport VNET_BYTES

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <stdint.h>
    #include <sys/socket.h>
    #include <linux/if_packet.h>

    static inline void hp_message_start(void *headers, void *vectors, void *addresses,
                                        unsigned message, unsigned vector, void *base,
                                        size_t length, int interface, uint16_t protocol) {
        struct msghdr *m = &((struct mmsghdr *)headers)[message].msg_hdr;
        struct iovec *v = &((struct iovec *)vectors)[vector];
        struct sockaddr_ll *a = &((struct sockaddr_ll *)addresses)[message];
        v->iov_base = base; v->iov_len = length;
        m->msg_iov = v; m->msg_iovlen = 1;
        m->msg_name = a; m->msg_namelen = sizeof *a;
        a->sll_family = AF_PACKET; a->sll_ifindex = interface; a->sll_protocol = protocol;
    }
    static inline void hp_message_extend(void *headers, void *vectors, unsigned message,
                                         unsigned vector, void *base, size_t length) {
        struct iovec *v = &((struct iovec *)vectors)[vector];
        v->iov_base = base; v->iov_len = length;
        ((struct mmsghdr *)headers)[message].msg_hdr.msg_iovlen++;
    }
    static inline unsigned hp_message_frames(const void *headers, unsigned message) {
        return (unsigned)((const struct mmsghdr *)headers)[message].msg_hdr.msg_iovlen;
    }
    static inline const struct iovec *hp_message_part(const void *headers, unsigned message,
                                                      unsigned part) {
        return &((const struct mmsghdr *)headers)[message].msg_hdr.msg_iov[part];
    }
    static inline const void *hp_part(const void *headers, unsigned message, unsigned part) {
        return hp_message_part(headers, message, part)->iov_base;
    }
    static inline size_t hp_part_bytes(const void *headers, unsigned message, unsigned part) {
        return hp_message_part(headers, message, part)->iov_len;
    }
    static inline int hp_message_interface(const void *addresses, unsigned message) {
        return ((const struct sockaddr_ll *)addresses)[message].sll_ifindex;
    }
    static inline int hp_sendmmsg(int fd, void *headers, unsigned from, unsigned count) {
        return sendmmsg(fd, (struct mmsghdr *)headers + from, count, MSG_DONTWAIT);
    }
    enum { HP_HEADER = sizeof(struct mmsghdr), HP_VECTOR = sizeof(struct iovec),
           HP_ADDRESS = sizeof(struct sockaddr_ll) };
    """
    void hp_message_start(
        void* headers,
        void* vectors,
        void* addresses,
        unsigned int message,
        unsigned int vector,
        void* base,
        size_t length,
        int interface,
        uint16_t protocol,
    ) noexcept nogil
    void hp_message_extend(
        void* headers,
        void* vectors,
        unsigned int message,
        unsigned int vector,
        void* base,
        size_t length,
    ) noexcept nogil
    unsigned int hp_message_frames(const void* headers, unsigned int message) noexcept nogil
    const char* hp_part(const void* headers, unsigned int message, unsigned int part)
    size_t hp_part_bytes(const void* headers, unsigned int message, unsigned int part)
    int hp_message_interface(const void* addresses, unsigned int message)
    int hp_sendmmsg(int fd, void* headers, unsigned int start, unsigned int count) noexcept nogil
    int HP_HEADER
    int HP_VECTOR
    int HP_ADDRESS


cdef int sender_init(Sender* sender, int descriptor) noexcept:
    """A sender on a packet socket; -1 where there is no memory for it."""
    memset(sender, 0, sizeof(Sender))
    sender.descriptor = descriptor
    sender.headers = calloc(BATCH_MAX, HP_HEADER)
    sender.vectors = calloc(BATCH_MAX, HP_VECTOR)
    sender.addresses = calloc(BATCH_MAX, HP_ADDRESS)
    if sender.headers == NULL or sender.vectors == NULL or sender.addresses == NULL:
        return -1
    return 0


cdef void sender_free(Sender* sender) noexcept:
    """Give back the memory."""
    free(sender.headers)
    free(sender.vectors)
    free(sender.addresses)


cdef void sender_add(
    Sender* sender, uint8_t* frame, uint32_t length, uint32_t interface_index
) noexcept nogil:
    """Queue a frame whose virtio-net header precedes it; at most BATCH_MAX between flushes."""
    cdef uint16_t protocol
    memcpy(&protocol, frame + 12, 2)
    hp_message_start(
        sender.headers,
        sender.vectors,
        sender.addresses,
        sender.messages,
        sender.frames,
        frame - VNET_BYTES,
        length + VNET_BYTES,
        <int>interface_index,
        protocol,
    )
    sender.messages += 1
    sender.frames += 1


cdef void sender_join(Sender* sender, uint8_t* data, uint32_t length) noexcept nogil:
    """Let the message queued last go on with a part of a later frame; it counts as one."""
    hp_message_extend(
        sender.headers, sender.vectors, sender.messages - 1, sender.frames, data, length
    )
    sender.frames += 1
    sender.joined += 1


cdef inline uint32_t frames_of(const Sender* sender, uint32_t start, uint32_t end) noexcept nogil:
    """Frames that messages are made of."""
    cdef uint32_t frames = 0, i
    if sender.frames == sender.messages:
        return end - start
    for i in range(start, end):
        frames += hp_message_frames(sender.headers, i)
    return frames


cdef void sender_flush(Sender* sender) noexcept nogil:
    """Hand what is queued to the kernel, in order; what it refuses is counted."""
    cdef uint32_t done = 0, frames
    cdef int sent
    while done < sender.messages:
        sent = hp_sendmmsg(sender.descriptor, sender.headers, done, sender.messages - done)
        if sent > 0:
            sender.sent += frames_of(sender, done, done + <uint32_t>sent)
            done += <uint32_t>sent
        elif errno == EINTR:
            continue
        else:
            frames = frames_of(sender, done, done + 1)
            if errno == EAGAIN or errno == ENOBUFS:
                sender.full += frames
            else:
                sender.errors += frames
            done += 1
    sender.messages = sender.frames = 0


cdef tuple sender_message(const Sender* sender, uint32_t message):
    """A queued message as Python sees it: interface index, bytes."""
    cdef uint32_t part
    parts = [
        hp_part(sender.headers, message, part)[: hp_part_bytes(sender.headers, message, part)]
        for part in range(hp_message_frames(sender.headers, message))
    ]
    return hp_message_interface(sender.addresses, message), b"".join(parts)
