# SPDX-License-Identifier: Apache-2.0
"""Every system call that Python 3.11 does not offer, and the only use of ctypes here.

All functions raise `OSError` with the errno of the call. ctypes releases the GIL while the
kernel works, so other threads go on during a slow unshare or umount.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import struct
from collections.abc import Sequence
from pathlib import Path

CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2

BPF_PROG_TYPE_SCHED_CLS = 3

TMPFS_MAGIC = 0x01021994
RAMFS_MAGIC = 0x858458F6

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES_MAX = 64
_BPF_PROG_LOAD = 5
# System calls since Linux 5.2 have one number on all architectures.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_FSCONFIG_CMD_CREATE = 6
_MOUNT_SETATTR = 442
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_MOUNT_ATTR_RDONLY = 1
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1
# linux/landlock.h: WRITE_FILE, and REMOVE_DIR up to MAKE_SYM; since version 3 TRUNCATE.
_LANDLOCK_CHANGES = 1 << 1 | 0x1FF0
_LANDLOCK_TRUNCATE = 1 << 14
# Of these WRITE_FILE, REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG, TRUNCATE.
_LANDLOCK_OF_FILES = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | _LANDLOCK_TRUNCATE
# Linux: arch/*/include/generated/asm/unistd*; the rest use the asm-generic table.
_BPF_CALL_NUMBERS = {"x86_64": 321, "i686": 357, "armv7l": 386, "s390x": 351, "ppc64le": 361}
_BPF_CALL_NUMBER_GENERIC = 280
_MEMBARRIER_NUMBERS = {"x86_64": 324, "i686": 375, "armv7l": 389, "s390x": 356, "ppc64le": 365}
_MEMBARRIER_NUMBER_GENERIC = 283
_MEMBARRIER_CMD_GLOBAL = 1
_SCHED_SETATTR_NUMBERS = {"x86_64": 314, "i686": 351, "armv7l": 380, "s390x": 345, "ppc64le": 355}
_SCHED_SETATTR_NUMBER_GENERIC = 274

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.prctl.argtypes = (ctypes.c_int, *([ctypes.c_ulong] * 4))
_libc.statfs.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
_libc.capset.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
_libc.syscall.restype = ctypes.c_long


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def _syscall(number: int, *arguments: object) -> int:
    return int(_libc.syscall(ctypes.c_long(number), *arguments))


def setns(descriptor: int, kind: int = CLONE_NEWNET) -> None:
    """Move the calling thread into the namespace behind `descriptor`."""
    _check(_libc.setns(descriptor, kind), "setns")


def namespace_kind(descriptor: int) -> int:
    """The CLONE_NEW* of the namespace behind a descriptor (ioctl_ns(2))."""
    return fcntl.ioctl(descriptor, _NS_GET_NSTYPE)


def unshare(kind: int = CLONE_NEWNET) -> None:
    """Give the calling thread a new namespace of its own."""
    _check(_libc.unshare(kind), "unshare")


def mount(
    source: str | Path,
    target: str | Path,
    filesystem: str | None,
    flags: int,
    options: str | None = None,
) -> None:
    """mount(2); `options` are the file system's own, "size=1m,mode=755"."""
    kind = None if filesystem is None else filesystem.encode()
    data = None if options is None else options.encode()
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), kind, flags, data), str(target))


def umount2(target: str | Path, flags: int = MNT_DETACH) -> None:
    """umount2(2); detaching by default."""
    _check(_libc.umount2(os.fsencode(target), flags), str(target))


def mount_detached(filesystem: str) -> int:
    """A new instance of a filesystem, mounted nowhere; a descriptor of its root directory.

    Closing the descriptor unmounts it.
    """
    kind = ctypes.c_char_p(filesystem.encode())
    context = _check(_syscall(_FSOPEN, kind, ctypes.c_uint(_FSOPEN_CLOEXEC)), "fsopen")
    try:
        command = ctypes.c_uint(_FSCONFIG_CMD_CREATE)
        nothing = ctypes.c_void_p()
        number = ctypes.c_int(context)
        zero = ctypes.c_int(0)
        _check(_syscall(_FSCONFIG, number, command, nothing, nothing, zero), "fsconfig")
        flags = ctypes.c_uint(_FSMOUNT_CLOEXEC)
        return _check(_syscall(_FSMOUNT, number, flags, ctypes.c_uint(0)), "fsmount")
    finally:
        os.close(context)


def mount_read_only(target: str | Path) -> None:
    """Make all mounts at and below `target` read only, in these mounts alone; Linux 5.12."""
    # struct mount_attr of mount_setattr(2): set, clear, propagation, user namespace.
    attributes = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
    path = ctypes.c_char_p(os.fsencode(target))
    where, flags = ctypes.c_int(_AT_FDCWD), ctypes.c_uint(_AT_RECURSIVE)
    size = ctypes.c_size_t(len(attributes))
    _check(_syscall(_MOUNT_SETATTR, where, path, flags, attributes, size), str(target))


def mounts_read_only() -> bool:
    """Whether the kernel has what `mount_read_only` needs."""
    nothing = ctypes.c_void_p()
    asked = _syscall(_MOUNT_SETATTR, ctypes.c_int(-1), nothing, 0, nothing, ctypes.c_size_t(0))
    return asked == 0 or ctypes.get_errno() != errno.ENOSYS


def set_parent_death_signal(number: int) -> None:
    """Have the kernel send signal `number` to this process when the parent *thread* ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0), "prctl")


def set_command_line(words: Sequence[str]) -> None:
    """Have /proc/self/cmdline tell these words, in the room of those that the process began with.

    What is left of that are empty words. E2BIG where they do not fit in it.
    """
    text = b"".join(os.fsencode(word) + b"\0" for word in words)
    # proc_pid_stat(5), fields 48 and 49: arg_start and arg_end; the first here is the third.
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    start, end = int(fields[48 - 3]), int(fields[49 - 3])
    if len(text) > end - start:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def filesystem_kind(path: str | Path) -> int:
    """The magic number of the file system that holds `path`, statfs(2)."""
    # Its first field is the kind; 120 bytes are all of it on 64 bits.
    answer = (ctypes.c_long * 32)()
    _check(_libc.statfs(os.fsencode(path), answer), str(path))
    return answer[0] & 0xFFFFFFFF


def load_unwinder() -> None:
    """Load what glibc's pthread_exit(3) loads when it is first called, and aborts without."""
    with contextlib.suppress(OSError):
        ctypes.CDLL("libgcc_s.so.1")


def set_no_new_privs() -> None:
    """From now on no execve(2) of this thread gains anything: no set-user-id, no capability."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def set_undumpable() -> None:
    """Nobody of this process's user may trace it or look into it, and it leaves no core."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")


def drop_bounding_set() -> None:
    """Take all capabilities out of the calling thread's bounding set; needs CAP_SETPCAP."""
    for number in range(_CAPABILITIES_MAX):
        if _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            code = ctypes.get_errno()
            if code == errno.EINVAL:
                # The kernel knows no more of them.
                return
            raise OSError(code, os.strerror(code), "prctl")


def drop_capabilities() -> None:
    """Empty the calling thread's ambient, effective, permitted and inheritable sets."""
    _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "prctl")
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, bytes(24)), "capset")


def landlock_version() -> int:
    """Which version of Landlock the kernel offers, landlock(7); 0 when it has none or it is off."""
    asked = ctypes.c_uint(_LANDLOCK_CREATE_RULESET_VERSION)
    return max(_syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), asked), 0)


def change_only_below(directory: Path) -> None:
    """The calling thread makes, writes and removes files below `directory` and nowhere else.

    From now on, and with `set_no_new_privs` before; what is open stays open. Needs Landlock.
    """
    changes = _LANDLOCK_CHANGES | (_LANDLOCK_TRUNCATE if landlock_version() >= 3 else 0)
    none = ctypes.c_uint(0)
    # struct landlock_ruleset_attr, its first field: all kernels know that.
    size = ctypes.c_size_t(8)
    made = _syscall(_LANDLOCK_CREATE_RULESET, struct.pack("=Q", changes), size, none)
    with contextlib.ExitStack() as stack:
        rules = ctypes.c_int(_check(made, "landlock_create_ruleset"))
        stack.callback(os.close, rules.value)
        below = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, below)
        # struct landlock_path_beneath_attr, packed.
        rule = struct.pack("=Qi", changes & _LANDLOCK_OF_FILES, below)
        kind = ctypes.c_int(_LANDLOCK_RULE_PATH_BENEATH)
        _check(_syscall(_LANDLOCK_ADD_RULE, rules, kind, rule, none), "landlock_add_rule")
        _check(_syscall(_LANDLOCK_RESTRICT_SELF, rules, none), "landlock_restrict_self")


def bpf(command: int, attributes: bytes) -> int:
    """bpf(2); `attributes` is what `command` needs of union bpf_attr, addresses in it included."""
    number = _BPF_CALL_NUMBERS.get(platform.machine(), _BPF_CALL_NUMBER_GENERIC)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    size = ctypes.c_uint(len(attributes))
    return _check(_syscall(number, ctypes.c_int(command), ctypes.byref(buffer), size), "bpf")


def wait_for_grace_period() -> None:
    """Return when all that was at work in the kernel without sleeping has ended: membarrier(2).

    Some milliseconds. EINVAL where processors run without a tick (nohz_full).
    """
    number = _MEMBARRIER_NUMBERS.get(platform.machine(), _MEMBARRIER_NUMBER_GENERIC)
    command, none = ctypes.c_int(_MEMBARRIER_CMD_GLOBAL), ctypes.c_uint(0)
    _check(_syscall(number, command, none, ctypes.c_int(0)), "membarrier")


def load_program(kind: int, instructions: bytes, name: str, log: bytearray | None = None) -> int:
    """Load a BPF program of `kind`; returns a close-on-exec descriptor of it.

    `log`, of at least 128 bytes, gets what the verifier says, with a zero behind.
    """
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    said = None if log is None else (ctypes.c_char * len(log)).from_buffer(log)
    # linux/bpf.h, union bpf_attr, BPF_PROG_LOAD: up to and with prog_name.
    attributes = struct.pack(
        "=IIQQIIQII16s",
        kind,
        len(instructions) // 8,
        ctypes.addressof(code),
        ctypes.addressof(licence),
        0 if said is None else 1,
        0 if said is None else ctypes.sizeof(said),
        0 if said is None else ctypes.addressof(said),
        0,
        0,
        name.encode()[:15],
    )
    return bpf(_BPF_PROG_LOAD, attributes)


def set_time_slice(nice: int, microseconds: int) -> None:
    """The calling thread's priority, and for how long it runs before others have their turn.

    Since Linux 6.12 (EEVDF with slices); kernels before ignore the slice. 100 to 100,000 us.
    """
    number = _SCHED_SETATTR_NUMBERS.get(platform.machine(), _SCHED_SETATTR_NUMBER_GENERIC)
    # struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period.
    attributes = struct.pack("IIQiIQQQ", 48, 0, 0, nice, 0, microseconds * 1000, 0, 0)
    _check(_syscall(number, 0, attributes, 0), "sched_setattr")
