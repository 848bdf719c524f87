# SPDX-License-Identifier: Apache-2.0
"""What a link must not leave to the other end: the segmentation of what a tunnel carries.

A veth link hands a super-frame on whole, also one inside VXLAN or Geneve. A packet socket's
virtio-net header cannot say that there is a tunnel (none of its GSO types does), so whoever
forwards such a frame sends something else than it got, and the kernel refuses it. With these two
features off, the kernel that sends through the link cuts it up before.

The features are set as ethtool does. Any socket of a namespace takes the request: the route socket
that is open there anyway.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import socket
import struct

from netns.errors import from_errno
from netns.netlink import RouteSocket

TUNNEL_FEATURES = ("tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation")
"""Their names in the kernel (net/ethtool/common.c)."""

_SIOCETHTOOL = 0x8946
# linux/ethtool.h.
_GSTRINGS, _GSSET_INFO, _GFEATURES, _SFEATURES = 0x1B, 0x37, 0x3A, 0x3B
_SS_FEATURES = 4
_STRING_BYTES = 32
_ANY_LINK = "lo"


def tunnel_segmentation_off(route: RouteSocket, link: str) -> None:
    """Have the kernel segment what it tunnels before it sends it through a link."""
    wanted = _tunnel_bits()
    # struct ethtool_set_features_block: which are meant, and which of them are on.
    blocks = b"".join(struct.pack("=II", word, 0) for word in wanted)
    _ask(route.fileno(), link, struct.pack("=II", _SFEATURES, len(wanted)) + blocks)


def tunnel_segmentation(route: RouteSocket, link: str) -> bool:
    """Whether a link takes super-frames inside tunnels."""
    wanted = _tunnel_bits()
    header = struct.pack("=II", _GFEATURES, len(wanted))
    answer = _ask(route.fileno(), link, header + bytes(16 * len(wanted)))
    # struct ethtool_get_features_block: available, requested, active, never_changed.
    active = (block[2] for block in struct.iter_unpack("=4I", answer[len(header) :]))
    return any(word & mask for word, mask in zip(active, wanted, strict=True))


@functools.cache
def _tunnel_bits() -> tuple[int, ...]:
    """The features in words of 32 bits: the same for all links of a kernel."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        # struct ethtool_sset_info with one length behind it.
        request = struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _SS_FEATURES, 0)
        count = struct.unpack_from("=I", _ask(any_socket.fileno(), _ANY_LINK, request), 16)[0]
        header = struct.pack("=III", _GSTRINGS, _SS_FEATURES, count)
        answer = _ask(any_socket.fileno(), _ANY_LINK, header + bytes(_STRING_BYTES * count))
    words = [0] * -(-count // 32)
    names = struct.iter_unpack(f"{_STRING_BYTES}s", answer[len(header) :])
    for number, (name,) in enumerate(names):
        if name.rstrip(b"\0").decode() in TUNNEL_FEATURES:
            words[number // 32] |= 1 << number % 32
    return tuple(words)


def _ask(descriptor: int, link: str, request: bytes) -> bytes:
    """One request of ethtool; what the kernel made of it."""
    buffer = ctypes.create_string_buffer(request, len(request))
    # struct ifreq with a pointer in it.
    envelope = struct.pack("16sP16x", link.encode(), ctypes.addressof(buffer))
    try:
        fcntl.ioctl(descriptor, _SIOCETHTOOL, envelope)
    except OSError as error:
        raise from_errno(f"cannot set up the offloads of {link}", error.errno or 0) from None
    return buffer.raw
