# SPDX-License-Identifier: Apache-2.0
"""Kernel settings of the namespace the calling thread is in.

/proc/sys/net shows the namespace of the thread that looks a name up. A new namespace starts with
the *initial* namespace's IPv4 settings on common kernels (net.core.devconf_inherit_init_net):
on a host that forwards, or filters by reverse path, so would ours. Whatever matters is
therefore written, never assumed.

The entries that all namespaces have under /proc/sys/net share a name, so they share one hash
chain of the kernel's name cache, and the first look-up in the n-th namespace walks n entries:
2 of 4 seconds for a thousand namespaces, and every later look-up on the host pays too. `Writer`
therefore works on an instance of procfs of its own, mounted nowhere and renewed now and then.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from netns import syscalls
from netns.errors import from_errno

# Mounting procfs costs about as much as a chain of this length.
_NAMESPACES_PER_INSTANCE = 32


class Writer:
    """Writes settings in many namespaces one after the other; one thread at a time."""

    def __init__(self) -> None:
        self._root: int | None = None
        self._uses = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmount; twice is fine, and `write` works again afterwards."""
        if self._root is not None:
            os.close(self._root)
            self._root = None

    def write(self, settings: Mapping[str, str]) -> None:
        """Write settings in the calling thread's namespace, keys as paths below /proc/sys/net.

        A kernel without IPv6 has nothing to disable: keys below ipv6/ are then left out. Raises
        `NetnsError`.
        """
        root = self._renew()
        ipv6 = os.access("sys/net/ipv6", os.F_OK, dir_fd=root)
        for key, value in settings.items():
            if key.startswith("ipv6/") and not ipv6:
                continue
            try:
                descriptor = os.open(f"sys/net/{key}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=root)
                try:
                    os.write(descriptor, value.encode())
                finally:
                    os.close(descriptor)
            except OSError as error:
                raise from_errno(f"cannot set net/{key} to {value}", error.errno or 0) from None

    def _renew(self) -> int:
        if self._uses % _NAMESPACES_PER_INSTANCE == 0:
            self.close()
        self._uses += 1
        if self._root is None:
            try:
                self._root = syscalls.mount_detached("proc")
            except OSError as error:
                raise from_errno("cannot mount procfs", error.errno or 0) from None
        return self._root
