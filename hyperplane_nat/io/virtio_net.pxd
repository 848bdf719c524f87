# SPDX-License-Identifier: Apache-2.0
# The header that a packet socket with PACKET_VNET_HDR puts before each frame, and wants before each
# (struct virtio_net_hdr of <linux/virtio_net.h>): offsets of its fields, and their values.

cdef enum:
    VNET_BYTES = 10
    VNET_FLAGS = 0
    VNET_GSO_TYPE = 1
    VNET_HEADER_BYTES = 2
    VNET_GSO_SIZE = 4
    VNET_CHECKSUM_START = 6
    VNET_CHECKSUM_OFFSET = 8

cdef enum:
    # The checksum field holds the sum of the pseudo-header alone.
    VNET_FLAG_PARTIAL = 1
    VNET_FLAG_VALID = 2

cdef enum:
    VNET_GSO_NONE = 0
    # UDP payload of several datagrams behind one header, since Linux 6.2.
    VNET_GSO_UDP_L4 = 5
