# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Datagrams of one flow that leave together leave as one frame.

Theory of operation
-------------------
Most of what a datagram costs on its way out does not depend on its length: a buffer, a pass
through the link, one through the receiver's queues. TCP arrives in segments of up to 64 KiB and
pays that once for all of it. For UDP we do what the kernel's generic receive offload does: frames
that follow each other in a batch, differ in their payload only and are equally long (the last may
be shorter) become one frame with UDP_GSO segmentation, which the kernel cuts up where somebody
wants the datagrams themselves: in the receiving socket, or not at all where the application has
asked for UDP_GRO. Nothing waits for company: what is not in the batch is not waited for.

The payloads are not copied; the frame is a message made of the first frame and of the payloads
behind it (`hyperplane_nat.io.sender`), whose length and checksums are written when the next
message begins.

A frame is joined only where the receiver cannot tell: IPv4 without options, DF set and no fragment
(RFC 6864: the identification of such a datagram says nothing, and segmentation counts it up),
checksum left to be filled in, so that it is right in each datagram afterwards, nothing behind the
datagram. All else leaves as it came.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp

from hyperplane_nat.engine.wire.checksum cimport (
    fold,
    load16,
    replaced16,
    store16,
    swap16,
    updated,
)
from hyperplane_nat.io.sender cimport (
    BATCH_MAX,
    Sender,
    sender_add,
    sender_flush,
    sender_free,
    sender_init,
    sender_join,
    sender_message,
)
from hyperplane_nat.io.virtio_net cimport (
    VNET_BYTES,
    VNET_CHECKSUM_OFFSET,
    VNET_CHECKSUM_START,
    VNET_FLAG_PARTIAL,
    VNET_FLAGS,
    VNET_GSO_NONE,
    VNET_GSO_SIZE,
    VNET_GSO_TYPE,
    VNET_GSO_UDP_L4,
    VNET_HEADER_BYTES,
)

cdef enum:
    IP_OFFSET = 14
    IP_LENGTH_OFFSET = 16
    IP_FRAGMENT_OFFSET = 20
    IP_TTL_OFFSET = 22
    IP_CHECKSUM_OFFSET = 24
    IP_ADDRESSES_OFFSET = 26
    UDP_OFFSET = 34
    UDP_LENGTH_OFFSET = 38
    UDP_CHECKSUM_OFFSET = 40
    HEADERS_BYTES = 42
    IP_AND_UDP_BYTES = 28
    UDP_BYTES = 8
    ETHERTYPE_IPV4 = 0x0800
    NO_OPTIONS = 0x45
    DONT_FRAGMENT = 0x4000
    PROTOCOL_UDP = 17
    # UDP_MAX_SEGMENTS of the oldest kernels that know of it.
    SEGMENTS_MAX = 64
    PAYLOAD_BYTES_MAX = 65535 - IP_AND_UDP_BYTES


cdef void coalescer_init(Coalescer* coalescer, Sender* sender, bint enabled) noexcept:
    """In front of a sender; where it is not enabled, every frame leaves by itself."""
    coalescer.sender = sender
    coalescer.enabled = enabled
    coalescer.head = NULL


cdef inline uint32_t payload_of(const uint8_t* frame, uint32_t length) noexcept nogil:
    """Payload bytes of a datagram that may be joined with others; 0 for any other frame."""
    cdef const uint8_t* vnet = frame - VNET_BYTES
    if (
        length <= HEADERS_BYTES
        or frame[IP_TTL_OFFSET + 1] != PROTOCOL_UDP
        or load16(frame + 12) != swap16(ETHERTYPE_IPV4)
        or frame[IP_OFFSET] != NO_OPTIONS
        or load16(frame + IP_FRAGMENT_OFFSET) != swap16(DONT_FRAGMENT)
        or load16(frame + IP_LENGTH_OFFSET) != swap16(<uint16_t>(length - IP_OFFSET))
        or load16(frame + UDP_LENGTH_OFFSET) != swap16(<uint16_t>(length - UDP_OFFSET))
        or vnet[VNET_FLAGS] != VNET_FLAG_PARTIAL
        or vnet[VNET_GSO_TYPE] != VNET_GSO_NONE
        or load16(vnet + VNET_CHECKSUM_START) != UDP_OFFSET
        or load16(vnet + VNET_CHECKSUM_OFFSET) != UDP_CHECKSUM_OFFSET - UDP_OFFSET
    ):
        return 0
    return length - HEADERS_BYTES


cdef inline bint same_flow(const uint8_t* one, const uint8_t* other) noexcept nogil:
    """Whether the headers of two such datagrams differ in lengths, checksums and id alone."""
    return (
        memcmp(one, other, IP_LENGTH_OFFSET) == 0
        and load16(one + IP_TTL_OFFSET) == load16(other + IP_TTL_OFFSET)
        and memcmp(
            one + IP_ADDRESSES_OFFSET,
            other + IP_ADDRESSES_OFFSET,
            UDP_LENGTH_OFFSET - IP_ADDRESSES_OFFSET,
        ) == 0
    )


cdef void coalescer_send(
    Coalescer* coalescer, uint8_t* frame, uint32_t length, uint32_t interface_index
) noexcept nogil:
    """Queue a frame, joined to the one before where they belong together.

    The frame stays where it is, and unchanged, until the flush; it flushes when there is no room.
    """
    cdef uint32_t payload = payload_of(frame, length) if coalescer.enabled else 0
    if coalescer.sender.frames == BATCH_MAX:
        coalescer_flush(coalescer)
    if (
        payload
        and coalescer.head != NULL
        and payload <= coalescer.segment_bytes
        and coalescer.payload_bytes + payload <= PAYLOAD_BYTES_MAX
        and coalescer.payload_bytes <= (SEGMENTS_MAX - 1) * coalescer.segment_bytes
        and coalescer.interface_index == interface_index
        and same_flow(coalescer.head, frame)
    ):
        sender_join(coalescer.sender, frame + HEADERS_BYTES, payload)
        coalescer.payload_bytes += payload
        if payload < coalescer.segment_bytes:
            coalescer_close(coalescer)
        return
    coalescer_close(coalescer)
    sender_add(coalescer.sender, frame, length, interface_index)
    if payload:
        coalescer.head = frame
        coalescer.interface_index = interface_index
        coalescer.segment_bytes = coalescer.payload_bytes = payload


cdef void coalescer_close(Coalescer* coalescer) noexcept nogil:
    """Nothing joins the frame queued last any more: its headers tell what it has become."""
    cdef uint8_t* frame = coalescer.head
    cdef uint8_t* vnet = frame - VNET_BYTES
    cdef uint16_t length
    coalescer.head = NULL
    if frame == NULL or coalescer.payload_bytes == coalescer.segment_bytes:
        return
    vnet[VNET_GSO_TYPE] = VNET_GSO_UDP_L4
    store16(vnet + VNET_HEADER_BYTES, HEADERS_BYTES)
    store16(vnet + VNET_GSO_SIZE, <uint16_t>coalescer.segment_bytes)
    length = swap16(<uint16_t>(coalescer.payload_bytes + IP_AND_UDP_BYTES))
    store16(
        frame + IP_CHECKSUM_OFFSET,
        updated(
            load16(frame + IP_CHECKSUM_OFFSET),
            replaced16(load16(frame + IP_LENGTH_OFFSET), length),
        ),
    )
    store16(frame + IP_LENGTH_OFFSET, length)
    length = swap16(<uint16_t>(coalescer.payload_bytes + UDP_BYTES))
    # The sum of the pseudo-header, not complemented.
    store16(
        frame + UDP_CHECKSUM_OFFSET,
        fold(
            load16(frame + UDP_CHECKSUM_OFFSET)
            + replaced16(load16(frame + UDP_LENGTH_OFFSET), length)
        ),
    )
    store16(frame + UDP_LENGTH_OFFSET, length)


cdef void coalescer_flush(Coalescer* coalescer) noexcept nogil:
    """Send what is queued."""
    coalescer_close(coalescer)
    sender_flush(coalescer.sender)


cdef class CoalescingQueue:
    """A coalescer whose messages can be looked at, for tests. See the type stub."""

    cdef Sender sender
    cdef Coalescer coalescer
    cdef list frames

    def __cinit__(self, *, bint enabled=True):
        self.frames = []
        if sender_init(&self.sender, -1):
            raise MemoryError
        coalescer_init(&self.coalescer, &self.sender, enabled)

    def __dealloc__(self):
        sender_free(&self.sender)

    def send(self, bytes frame not None, uint32_t interface_index):
        cdef bytearray copy = bytearray(frame)
        if len(copy) < VNET_BYTES + 14 or len(self.frames) == BATCH_MAX:
            raise ValueError("too short for a frame, or too many frames")
        self.frames.append(copy)
        coalescer_send(
            &self.coalescer,
            <uint8_t*>(<char*>copy) + VNET_BYTES,
            <uint32_t>(len(copy) - VNET_BYTES),
            interface_index,
        )

    def take(self):
        coalescer_close(&self.coalescer)
        messages = [sender_message(&self.sender, i) for i in range(self.sender.messages)]
        self.sender.messages = self.sender.frames = 0
        self.frames.clear()
        return messages
