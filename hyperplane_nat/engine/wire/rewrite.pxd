# SPDX-License-Identifier: Apache-2.0
# Writing the translation into a frame: addresses, ports, TTL, checksums.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.wire.checksum cimport (
    fold,
    load16,
    replaced16,
    replaced32,
    store16,
    store32,
    sum_bytes,
    updated,
)
from hyperplane_nat.engine.wire.packet cimport ETHERNET_BYTES, Packet


cdef inline void rewrite_ip(
    Packet* p, int offset, uint32_t old, uint32_t new, uint16_t identification
) noexcept nogil:
    """Replace the identification and the address at `offset` of the IP header, and take one hop off
    the TTL.
    """
    cdef uint8_t* ip = p.ip
    cdef uint16_t before = load16(ip + 8), after
    cdef uint64_t delta = replaced16(load16(ip + 4), identification)
    ip[8] -= 1
    after = load16(ip + 8)
    store16(ip + 4, identification)
    store32(ip + offset, new)
    store16(
        ip + 10,
        updated(load16(ip + 10), delta + replaced16(before, after) + replaced32(old, new)),
    )


cdef inline void take_hop(Packet* p) noexcept nogil:
    """Take one hop off the TTL and change nothing else."""
    cdef uint16_t before = load16(p.ip + 8)
    p.ip[8] -= 1
    store16(p.ip + 10, updated(load16(p.ip + 10), replaced16(before, load16(p.ip + 8))))


cdef inline void readdress(Packet* p, int offset, uint32_t old, uint32_t new) noexcept nogil:
    """Replace the address at `offset` of the IP header and nothing else."""
    store32(p.ip + offset, new)
    store16(p.ip + 10, updated(load16(p.ip + 10), replaced32(old, new)))


cdef inline void rewrite_l4(
    Packet* p, int offset, uint32_t old, uint32_t new, uint16_t new_port
) noexcept nogil:
    """Replace the port (for ICMP the identifier) at `offset` of the L4 header.

    A partial checksum field holds the uncomplemented sum of the pseudo-header: the address is
    in it, the port is not.
    """
    cdef uint8_t* field = p.l4 + (16 if p.protocol == 6 else (6 if p.protocol == 17 else 2))
    cdef uint16_t old_port = load16(p.l4 + offset), checksum = load16(field)
    store16(p.l4 + offset, new_port)
    if p.protocol == 1:
        checksum = updated(checksum, replaced16(old_port, new_port))
        if checksum == 0:
            # Without a pseudo-header a message can be all zero, and its checksum is 0xffff then.
            store16(field, 0)
            checksum = 0 if sum_bytes(p.l4, p.l4_length, 0) else 0xFFFF
    elif p.partial:
        checksum = fold(<uint64_t>checksum + replaced32(old, new))
    elif p.protocol == 6:
        checksum = updated(checksum, replaced32(old, new) + replaced16(old_port, new_port))
    elif checksum != 0:
        checksum = updated(checksum, replaced32(old, new) + replaced16(old_port, new_port))
        if checksum == 0:
            checksum = 0xFFFF
    store16(field, checksum)


cdef inline void address_frame(
    Packet* p, const uint8_t* destination, const uint8_t* source
) noexcept nogil:
    memcpy(p.frame, destination, 6)
    memcpy(p.frame + 6, source, 6)


cdef inline void forward(Packet* p, uint16_t port) noexcept nogil:
    """The frame leaves by an attachment, without whatever followed the packet in it."""
    p.action = ACTION_FORWARD
    p.reason = DROP_NONE
    p.out_port = port
    p.out_frame = p.frame
    p.out_length = ETHERNET_BYTES + p.total_length
