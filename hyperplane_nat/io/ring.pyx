# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The receive ring, as the packet path uses it.

Theory of operation
-------------------
A slot belongs to the kernel until it sets TP_STATUS_USER, then to us until we store 0. Frames
are taken note of in the order of arrival (`ring_next`), translated and sent in any order where
they lie (`ring_frame`), and each slot is given back by itself (`ring_release`). The kernel
fills slots in order and loses frames while the next one is not its own, so none may be kept
long. The virtio-net header lies in the ten bytes before the frame, which is also where the
sender wants it.

A frame larger than a slot (a TCP segment of up to 64 KiB before segmentation) is truncated in
the ring, marked TP_STATUS_COPY, and waits whole at the head of the socket's queue; it is read
into one of OVERSIZE_BUFFERS buffers, the one used last first, for it is still in the cache. When
they are all in use nothing behind the frame is looked at. Memory is only taken by buffers that
were ever needed, up to the length of the frames that were in them.

On the punt link (`netns.punt`) the VLAN tag beside a frame is the number of the attachment that it
came from, and its kind (802.1ad) that the program has counted the frame. A tag of the sender's is in the
frame there, elsewhere it is beside it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from hyperplane_nat.io.sender cimport sender_add, sender_flush, sender_free, sender_init
from hyperplane_nat.io.virtio_net cimport (
    VNET_BYTES,
    VNET_FLAG_PARTIAL,
    VNET_FLAG_VALID,
    VNET_GSO_NONE,
    VNET_GSO_UDP_L4,
)

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <stdint.h>
    #include <string.h>
    #include <sys/socket.h>
    #include <linux/if_packet.h>
    #include <linux/virtio_net.h>

    static inline uint32_t hp_slot_status(const void *slot) {
        return __atomic_load_n(&((const struct tpacket2_hdr *)slot)->tp_status, __ATOMIC_ACQUIRE);
    }
    static inline void hp_slot_release(void *slot) {
        __atomic_store_n(&((struct tpacket2_hdr *)slot)->tp_status, 0, __ATOMIC_RELEASE);
    }
    static inline uint32_t hp_slot_length(const void *slot) {
        return ((const struct tpacket2_hdr *)slot)->tp_len;
    }
    static inline uint32_t hp_slot_captured(const void *slot) {
        return ((const struct tpacket2_hdr *)slot)->tp_snaplen;
    }
    static inline uint32_t hp_slot_offset(const void *slot) {
        return ((const struct tpacket2_hdr *)slot)->tp_mac;
    }
    static inline uint32_t hp_slot_interface(const void *slot) {
        const struct sockaddr_ll *from = (const struct sockaddr_ll *)
            ((const char *)slot + TPACKET_ALIGN(sizeof(struct tpacket2_hdr)));
        return (uint32_t)from->sll_ifindex;
    }
    static inline uint32_t hp_slot_tag(const void *slot) {
        return ((const struct tpacket2_hdr *)slot)->tp_vlan_tci;
    }
    static inline int hp_slot_counted(const void *slot) {
        const struct tpacket2_hdr *header = slot;
        return (header->tp_status & TP_STATUS_VLAN_TPID_VALID) && header->tp_vlan_tpid == 0x88a8;
    }
    static inline void hp_slot_retag(void *slot, uint16_t tag) {
        ((struct tpacket2_hdr *)slot)->tp_vlan_tci = tag;
    }
    static inline int hp_tagged(const uint8_t *frame) {
        return (frame[12] == 0x81 && frame[13] == 0x00) || (frame[12] == 0x88 && frame[13] == 0xa8);
    }
    static inline void hp_vnet_read(const void *header, uint8_t *flags, uint8_t *gso_type,
                                    uint16_t *gso_size, uint16_t *start, uint16_t *offset) {
        struct virtio_net_hdr h;
        memcpy(&h, header, sizeof h);
        *flags = h.flags; *gso_type = h.gso_type; *gso_size = h.gso_size;
        *start = h.csum_start; *offset = h.csum_offset;
    }
    static inline long hp_receive(int fd, void *buffer, size_t size) {
        return recv(fd, buffer, size, MSG_DONTWAIT);
    }
    """
    uint32_t hp_slot_status(const void* slot) noexcept nogil
    void hp_slot_release(void* slot) noexcept nogil
    uint32_t hp_slot_length(const void* slot) noexcept nogil
    uint32_t hp_slot_captured(const void* slot) noexcept nogil
    uint32_t hp_slot_offset(const void* slot) noexcept nogil
    uint32_t hp_slot_interface(const void* slot) noexcept nogil
    uint32_t hp_slot_tag(const void* slot) noexcept nogil
    bint hp_slot_counted(const void* slot) noexcept nogil
    void hp_slot_retag(void* slot, uint16_t tag) noexcept nogil
    bint hp_tagged(const uint8_t* frame) noexcept nogil
    void hp_vnet_read(
        const void* header,
        uint8_t* flags,
        uint8_t* gso_type,
        uint16_t* gso_size,
        uint16_t* start,
        uint16_t* offset,
    ) noexcept nogil
    long hp_receive(int fd, void* buffer, size_t size) noexcept nogil

cdef enum:
    STATUS_USER = 1
    STATUS_COPY = 2
    STATUS_VLAN = 0x10
    STATUS_CHECKED = 0x80
    ETHERNET_BYTES = 14
    # No attachment has this number.
    NOBODYS_TAG = 0xFFFF
    # Ethernet, IPv4 without options, UDP.
    HEADERS_BYTES = 42


cdef int ring_next(Ring* ring, Frame* frame) noexcept nogil:
    """Take note of the next frame, if any; with FRAME_OK its position is held until released.

    FRAME_BAD: a frame without its data (it did not fit and could not be queued): count it.
    FRAME_LATER: an oversize frame, and no buffer is free before something is released.
    """
    cdef uint32_t position = ring.head, status, offset
    cdef Slot* kept = &ring.kept[position]
    cdef uint8_t* slot = ring.memory + <size_t>position * ring.slot_bytes
    cdef long received
    # What is still held is of the last time around.
    if kept.held:
        return FRAME_NONE
    status = hp_slot_status(slot)
    if not status & STATUS_USER:
        return FRAME_NONE
    frame.position = position
    frame.vlan = (status & STATUS_VLAN) != 0
    if not ring.punted:
        kept.origin = hp_slot_interface(slot)
    else:
        kept.origin = hp_slot_tag(slot) if frame.vlan else <uint32_t>NO_ORIGIN
        kept.counted = hp_slot_counted(slot)
    frame.origin = kept.origin
    kept.checked = (status & STATUS_CHECKED) != 0
    offset = hp_slot_offset(slot)
    kept.data = slot + offset
    kept.length = hp_slot_captured(slot)
    kept.oversize = OVERSIZE_BUFFERS
    if status & STATUS_COPY:
        if ring.free_count == 0:
            return FRAME_LATER
        kept.oversize = ring.free[ring.free_count - 1]
        kept.data = ring.oversize + <size_t>kept.oversize * FRAME_BYTES_MAX + VNET_BYTES
        received = hp_receive(ring.descriptor, kept.data - VNET_BYTES, FRAME_BYTES_MAX)
        if received < VNET_BYTES:
            kept.oversize = OVERSIZE_BUFFERS
            kept.length = 0
        else:
            ring.free_count -= 1
            ring.oversize_received += 1
            kept.length = <uint32_t>(received - VNET_BYTES)
    elif (
        kept.length != hp_slot_length(slot)
        or offset < VNET_BYTES
        or <uint64_t>offset + kept.length > ring.slot_bytes
    ):
        kept.length = 0
    kept.held = 1
    ring.head = position + 1 if position + 1 < ring.slots else 0
    if kept.length == 0:
        ring.truncated += 1
        ring_release(ring, position)
        return FRAME_BAD
    frame.data = kept.data
    frame.length = kept.length
    if ring.punted:
        frame.vlan = frame.length >= ETHERNET_BYTES and hp_tagged(frame.data)
    return FRAME_OK


cdef bint ring_filled(const Ring* ring, uint32_t ahead) noexcept nogil:
    """Whether the slot so far behind the next frame has no room for another."""
    cdef uint32_t position = (ring.head + ahead) % ring.slots
    return (
        ring.kept[position].held != 0
        or hp_slot_status(ring.memory + <size_t>position * ring.slot_bytes) & STATUS_USER != 0
    )


cdef uint32_t ring_waiting(const Ring* ring) noexcept nogil:
    """How many frames have arrived that nobody has taken note of; looks at each of their slots."""
    cdef uint32_t count = 0, position = ring.head
    while (
        count < ring.slots
        and ring.kept[position].held == 0
        and hp_slot_status(ring.memory + <size_t>position * ring.slot_bytes) & STATUS_USER
    ):
        count += 1
        position = position + 1 if position + 1 < ring.slots else 0
    return count


cdef void ring_frame(
    const Ring* ring, uint32_t position, Frame* frame, Offload* offload
) noexcept nogil:
    """The frame at a position that is held."""
    cdef const Slot* kept = &ring.kept[position]
    cdef uint8_t flags, gso_type
    frame.data = kept.data
    frame.length = kept.length
    frame.origin = kept.origin
    frame.position = position
    frame.vlan = 0
    frame.counted = kept.counted
    hp_vnet_read(
        kept.data - VNET_BYTES,
        &flags,
        &gso_type,
        &offload.gso_size,
        &offload.checksum_start,
        &offload.checksum_offset,
    )
    offload.datagrams = 1
    if gso_type == VNET_GSO_UDP_L4 and offload.gso_size and kept.length > HEADERS_BYTES:
        offload.datagrams = <uint16_t>(
            (kept.length - HEADERS_BYTES + offload.gso_size - 1) // offload.gso_size
        )
    offload.partial = (flags & VNET_FLAG_PARTIAL) != 0
    # Segments of a frame that is yet to be segmented get their checksums then.
    offload.checked = (
        (flags & VNET_FLAG_VALID) != 0 or kept.checked != 0 or gso_type != VNET_GSO_NONE
    )


cdef void ring_disown(Ring* ring, uint32_t origin) noexcept nogil:
    """Let the frames that an attachment has sent through the punt link be nobody's.

    Its number is to be another's, and unlike the index of a link a tag does not tell the two apart.
    """
    cdef uint32_t position
    cdef uint8_t* slot
    for position in range(ring.slots):
        slot = ring.memory + <size_t>position * ring.slot_bytes
        if ring.kept[position].held:
            if ring.kept[position].origin == origin:
                ring.kept[position].origin = <uint32_t>NO_ORIGIN
        elif hp_slot_status(slot) & STATUS_USER and hp_slot_tag(slot) == origin:
            hp_slot_retag(slot, NOBODYS_TAG)


cdef void ring_release(Ring* ring, uint32_t position) noexcept nogil:
    """Give back a slot that is held; the frame in it is gone."""
    cdef Slot* kept = &ring.kept[position]
    if kept.oversize != OVERSIZE_BUFFERS:
        ring.free[ring.free_count] = kept.oversize
        ring.free_count += 1
    kept.held = 0
    hp_slot_release(ring.memory + <size_t>position * ring.slot_bytes)


cdef class PacketIO:
    """A receive ring and a sending socket; owned by the forwarder's datapath.

    `punted`: the ring is that of a punt link.
    """

    def __cinit__(self, receiver, transmitter, *, bint punted=False):
        cdef unsigned char[::1] view = receiver.memory
        cdef int i
        memset(&self.ring, 0, sizeof(Ring))
        self.receiver = receiver
        self.transmitter = transmitter
        self.ring.memory = &view[0]
        self.ring.slots = receiver.slots
        self.ring.slot_bytes = receiver.slot_bytes
        self.ring.punted = punted
        self.ring.descriptor = receiver.socket.fileno()
        self.ring.kept = <Slot*>calloc(self.ring.slots, sizeof(Slot))
        self.ring.oversize = <uint8_t*>calloc(OVERSIZE_BUFFERS, FRAME_BYTES_MAX)
        for i in range(OVERSIZE_BUFFERS):
            self.ring.free[i] = <uint16_t>(OVERSIZE_BUFFERS - 1 - i)
        self.ring.free_count = OVERSIZE_BUFFERS
        if (
            sender_init(&self.sender, transmitter.fileno())
            or self.ring.kept == NULL
            or self.ring.oversize == NULL
        ):
            raise MemoryError

    def __dealloc__(self):
        free(self.ring.kept)
        free(self.ring.oversize)
        sender_free(&self.sender)

    def fileno(self):
        """The descriptor that becomes readable when frames wait."""
        return self.ring.descriptor

    def send(self, bytes frame not None, uint32_t interface_index):
        """Send one frame that carries its virtio-net header, outside any batch."""
        if len(frame) < VNET_BYTES + 14:
            raise ValueError("a frame starts with a virtio-net and an Ethernet header")
        sender_add(
            &self.sender,
            <uint8_t*><const unsigned char*>frame + VNET_BYTES,
            <uint32_t>(len(frame) - VNET_BYTES),
            interface_index,
        )
        sender_flush(&self.sender)

    def close(self):
        """Close both sockets; the ring must not be read afterwards."""
        self.ring.head = 0
        self.ring.kept[0].held = 1
        self.receiver.close()
        self.transmitter.close()
