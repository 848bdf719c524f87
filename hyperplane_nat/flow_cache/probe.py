# SPDX-License-Identifier: Apache-2.0
"""What the flow cache needs of a kernel, tried one by one, so that what is missing has a name.

Each feature is tried as it will be used, not told by the kernel's version: distributions carry
features back, and take them away. Filters are tried on the loopback of a namespace made for that.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hyperplane_nat.flow_cache.errors import FlowCacheError
from hyperplane_nat.flow_cache.maps import (
    BPF_MAP_TYPE_ARRAY,
    BPF_MAP_TYPE_HASH,
    MapKind,
    create_map,
)
from hyperplane_nat.flow_cache.program import FlowCache, find
from netns import NetnsError, links, namespace, syscalls
from netns.netlink import RouteSocket

_MMAPABLE = 1 << 10
# linux/bpf.h, struct bpf_insn, little-endian.
_REDIRECT_PEER = bytes.fromhex(
    "b701000001000000"  # r1 = 1: an index
    "b702000000000000"  # r2 = 0: flags
    "850000009b000000"  # call 155, bpf_redirect_peer
    "9500000000000000"  # exit
)
_GSO_SIZE = bytes.fromhex(
    "6110b00000000000"  # r0 = *(u32 *)(r1 + 176), __sk_buff.gso_size
    "9500000000000000"  # exit
)
_FETCH = bytes.fromhex(
    "7a0af8ff00000000"  # *(u64 *)(r10 - 8) = 0
    "b701000001000000"  # r1 = 1
    "db1af8ff01000000"  # r1 = what was there, added to atomically
    "bf10000000000000"  # r0 = r1
    "9500000000000000"  # exit
)


@dataclass(frozen=True, slots=True)
class Missing:
    """A feature that is not there."""

    feature: str
    reason: str

    def __str__(self) -> str:
        return f"{self.feature}: {self.reason}"


def missing(features: Sequence[tuple[str, Callable[[], None]]] | None = None) -> list[Missing]:
    """What is missing of the features, in order; without root, all that takes it.

    Each is its name and a function that uses it: OSError, `NetnsError` or `FlowCacheError` is a no.
    """
    found = []
    for name, attempt in FEATURES if features is None else features:
        try:
            attempt()
        except OSError as error:
            found.append(Missing(name, error.strerror or str(error)))
        except (NetnsError, FlowCacheError) as error:
            found.append(Missing(name, str(error).partition("\n")[0]))
    return found


def _byte_order() -> None:
    if sys.byteorder != "little":
        raise FlowCacheError("the program is compiled for little-endian processors")


def _hash() -> None:
    os.close(create_map(MapKind(BPF_MAP_TYPE_HASH, 16, 4, 0), 1, "hp_probe"))


def _mapped_array() -> None:
    os.close(create_map(MapKind(BPF_MAP_TYPE_ARRAY, 4, 64, _MMAPABLE), 1, "hp_probe"))


def _loads(instructions: bytes) -> None:
    os.close(syscalls.load_program(syscalls.BPF_PROG_TYPE_SCHED_CLS, instructions, "hp_probe"))


def _whole() -> None:
    def work() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        with FlowCache.load(flows=1, attachments=1) as cache, RouteSocket() as route:
            cache.attach(route, {links.LOOPBACK_INDEX: 0})
            again = find(route, links.LOOPBACK_INDEX)
            if again is None:
                raise FlowCacheError("a filter does not tell its program's id")
            again.close()

    namespace.run_in_thread(work)


FEATURES: tuple[tuple[str, Callable[[], None]], ...] = (
    ("little-endian processor", _byte_order),
    ("bpf(2) with hash maps", _hash),
    ("mapped BPF arrays (Linux 5.5)", _mapped_array),
    ("gso_size in BPF programs (Linux 5.7)", lambda: _loads(_GSO_SIZE)),
    ("bpf_redirect_peer (Linux 5.10)", lambda: _loads(_REDIRECT_PEER)),
    ("atomic operations that return (Linux 5.12)", lambda: _loads(_FETCH)),
    ("a grace period waited for (membarrier)", syscalls.wait_for_grace_period),
    ("the program on clsact, and found again", _whole),
)
