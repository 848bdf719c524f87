# SPDX-License-Identifier: Apache-2.0
"""The one exception class of this package: a cause and a remedy in a single line."""

from __future__ import annotations

import errno
import os


class NetnsError(Exception):
    """Something about namespaces, links or services could not be done.

    `str()` gives one line: the cause, then the remedy in parentheses.
    """

    def __init__(self, cause: str, remedy: str, *, code: int | None = None) -> None:
        super().__init__(f"{cause} ({remedy})")
        self.cause = cause
        self.remedy = remedy
        self.code = code
        """The errno behind it, where a system call failed."""


_REMEDIES = {
    errno.EPERM: "run as root; inside a container CAP_SYS_ADMIN and CAP_NET_ADMIN are needed",
    errno.EACCES: "run as root; inside a container CAP_SYS_ADMIN and CAP_NET_ADMIN are needed",
    errno.EEXIST: "remove what has this name, or choose another name",
    errno.ENOENT: "create it first",
    errno.ENODEV: "the link is gone: destroy the lab and build it again",
    errno.EADDRINUSE: "end what uses this address and port, or choose another",
    errno.EADDRNOTAVAIL: "give the namespace this address first, or choose another",
    errno.EMFILE: "raise the limit of open files: ulimit -n",
    errno.ENFILE: "raise fs.file-max",
    errno.ENOSPC: "raise user.max_net_namespaces or fs.mount-max",
    errno.ENOMEM: "free memory, or build fewer environments",
    errno.EOPNOTSUPP: "the kernel lacks this feature: use one with veth, clsact and cls_bpf",
    errno.ENOSYS: "the kernel lacks this system call: Linux 5.10 or later is needed",
}


def from_errno(what: str, code: int, detail: str = "") -> NetnsError:
    """The error for a system call or netlink request `what` that failed with errno `code`.

    `detail` is the kernel's own text, if it gave any.
    """
    reason = os.strerror(code) + (f": {detail}" if detail else "")
    remedy = _REMEDIES.get(code, f"errno {errno.errorcode.get(code, str(code))}")
    return NetnsError(f"{what}: {reason}", remedy, code=code)
