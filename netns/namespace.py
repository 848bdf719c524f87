# SPDX-License-Identifier: Apache-2.0
"""Named network namespaces: made, entered and removed without a fork.

Theory of operation
-------------------
A named namespace is a file in /run/netns with the namespace bind-mounted on it, which is what
`ip netns` lists and enters. `create` writes an empty file (exclusively: the name is reserved
by that), lets a helper thread unshare, and mounts the thread's namespace on the file. A thread
that unshared or entered a namespace is never given back to other work: it ends. The main
thread, and with it /proc/self, stays where it is; hence /proc/thread-self throughout.

A crash may leave a file without a mount (the creator died in between) or a mount nobody uses.
`names` lists both and `delete` removes both, so a lab can always be cleaned by name.

/run/netns is made a shared mount, as iproute2 does: an unmount here then reaches the copies in
other mount namespaces, which would otherwise keep a deleted namespace alive.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

from netns import syscalls
from netns.errors import NetnsError, from_errno

DIRECTORY = Path("/run/netns")

_THREAD_NAMESPACE = Path("/proc/thread-self/ns/net")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,127}")

P = ParamSpec("P")
T = TypeVar("T")


def path(name: str) -> Path:
    """The file of namespace `name`; raises `NetnsError` when no namespace can have that name."""
    if not _NAME.fullmatch(name):
        raise NetnsError(
            f"invalid namespace name {name!r}",
            "at most 128 letters, digits and _ . @ + -, the first a letter or digit",
        )
    return DIRECTORY / name


def names(prefix: str = "") -> list[str]:
    """The names in use that start with `prefix`, sorted; half-made ones included."""
    try:
        entries = [entry.name for entry in DIRECTORY.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(entry for entry in entries if entry.startswith(prefix))


def exists(name: str) -> bool:
    """Whether the name is taken, be it by a half-made namespace."""
    return path(name).exists()


def is_complete(name: str) -> bool:
    """Whether `name` is a namespace that can be entered, not the rest of a broken creation."""
    try:
        found = path(name).stat().st_dev
    except FileNotFoundError:
        return False
    return found == _THREAD_NAMESPACE.stat().st_dev


def create(names: Iterable[str], prepare: Callable[[str], T]) -> list[T]:
    """Make namespaces; `prepare(name)` runs inside each before its name leads to it.

    Returns what `prepare` returned, in order. All or nothing: when one fails, the ones this
    call made are deleted and the error is raised. `NetnsError` when a name is taken or a
    privilege is missing.
    """
    made: list[str] = []
    results: list[T] = []

    def work() -> None:
        _share_directory()
        for name in names:
            file = path(name)
            try:
                os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o444))
            except OSError as error:
                raise from_errno(f"cannot create namespace {name}", error.errno or 0) from None
            made.append(name)
            try:
                syscalls.unshare(syscalls.CLONE_NEWNET)
                results.append(prepare(name))
                syscalls.mount(_THREAD_NAMESPACE, file, None, syscalls.MS_BIND)
            except OSError as error:
                raise from_errno(f"cannot create namespace {name}", error.errno or 0) from None

    try:
        run_in_thread(work)
    except BaseException:
        delete(made)
        raise
    return results


def delete(names: Iterable[str]) -> None:
    """Remove namespaces; a name that is not there (any more) is no error.

    The kernel destroys the links inside in the background; a process that is still in the
    namespace keeps it alive, nameless.
    """
    for name in names:
        file = path(name)
        try:
            # More than one mount can be stacked here if two creators met after a crash.
            while True:
                syscalls.umount2(file, syscalls.MNT_DETACH)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise from_errno(f"cannot delete namespace {name}", error.errno or 0) from None
        try:
            file.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise from_errno(f"cannot delete namespace {name}", error.errno or 0) from None


def name_also(name: str, file: Path) -> None:
    """Give the network namespace behind `file` a further name, `name`, as `ip netns attach` does.

    It lives for as long as it has a name or a process; `delete` takes this name away again.
    `NetnsError`: there is no such file, it is no network namespace, it is the one this process is
    in, or the name is taken.
    """

    def work() -> None:
        check_other_network(file)
        _share_directory()
        target = path(name)
        try:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o444))
        except OSError as error:
            raise from_errno(f"cannot name namespace {name}", error.errno or 0) from None
        try:
            syscalls.mount(file, target, None, syscalls.MS_BIND)
        except OSError as error:
            target.unlink()
            raise from_errno(f"cannot name namespace {name}", error.errno or 0) from None

    run_in_thread(work)


def check_other_network(file: Path) -> None:
    """Raise `NetnsError` unless `file` is another network namespace than this process is in."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NetnsError(
            f"cannot open namespace {file}: {error.strerror}", "name one that there is"
        ) from None
    try:
        found = os.fstat(descriptor)
        mine = _THREAD_NAMESPACE.stat()
        kind = syscalls.namespace_kind(descriptor) if found.st_dev == mine.st_dev else 0
    finally:
        os.close(descriptor)
    if kind != syscalls.CLONE_NEWNET:
        raise NetnsError(f"{file} is no network namespace", "name one, or a process in one")
    if found.st_ino == mine.st_ino:
        raise NetnsError(
            f"{file} is the network namespace that the lab itself runs in",
            "name one of a container's, or one that ip netns add made",
        )


@contextlib.contextmanager
def opened(name: str) -> Iterator[int]:
    """A descriptor of namespace `name`, for setns or IFLA_NET_NS_FD, closed at the end."""
    try:
        descriptor = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise from_errno(f"cannot open namespace {name}", error.errno or 0) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def enter(name: str, *, sysfs: bool = False) -> None:
    """Move the calling thread into namespace `name` for good.

    Threads started later by this thread follow; threads already running do not, so a process
    calls this first thing in main, or right before exec. With `sysfs` the thread also gets a
    /sys that shows the namespace's links, as under `ip netns exec`.
    """
    with opened(name) as descriptor:
        join(descriptor, name)
    if sysfs:
        _mount_sysfs(name)


def join(descriptor: int, name: str) -> None:
    """Move the calling thread into the namespace behind a descriptor of `name`; see `enter`."""
    try:
        syscalls.setns(descriptor, syscalls.CLONE_NEWNET)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise NetnsError(
                f"{path(name)} is not a network namespace",
                "it is the rest of a broken creation: delete it",
            ) from None
        raise from_errno(f"cannot enter namespace {name}", error.errno or 0) from None


def call(name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `function` in a fresh helper thread inside namespace `name`; its result or exception.

    Sockets keep the namespace they were created in: `call(name, socket.socket)` hands one out.
    """

    def work() -> T:
        enter(name)
        return function(*args, **kwargs)

    return run_in_thread(work)


def call_each(names: Iterable[str], function: Callable[[str], T]) -> list[T]:
    """`function(name)` inside each namespace in turn, all in one helper thread; the results.

    Much quicker than `call` for many namespaces. The first exception ends it.
    """

    def work() -> list[T]:
        results = []
        for name in names:
            enter(name)
            results.append(function(name))
        return results

    return run_in_thread(work)


def run_in_thread(function: Callable[[], T]) -> T:
    """Run `function` in a thread of its own that may change namespace; its result or exception.

    When the caller is interrupted while waiting (KeyboardInterrupt), the function is still
    waited for, because whoever cleans up afterwards must not race with it; the interrupt is
    raised then. A second one ends the waiting.
    """
    results: list[T] = []
    failures: list[BaseException] = []
    # Not Thread.join: interrupted, it takes the thread for ended (python/cpython issue 89437).
    ended = threading.Event()

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=work, name="netns", daemon=True)
    thread.start()
    try:
        ended.wait()
    except BaseException:
        ended.wait()
        raise
    thread.join()
    if failures:
        try:
            raise failures[0]
        finally:
            # The traceback refers to this frame: without this, a cycle keeps sockets open.
            failures.clear()
    return results[0]


def _share_directory() -> None:
    """Make /run/netns a shared mount on itself, once per boot, as `ip netns add` does."""
    try:
        if not DIRECTORY.exists():
            with contextlib.suppress(FileExistsError):
                DIRECTORY.mkdir(parents=True)
            # Others list it too, whatever the umask.
            DIRECTORY.chmod(0o755)
        descriptor = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # iproute2 takes the same lock; two first creators would stack two mounts.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            flags = syscalls.MS_SHARED | syscalls.MS_REC
            try:
                syscalls.mount("", DIRECTORY, "none", flags)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                syscalls.mount(DIRECTORY, DIRECTORY, "none", syscalls.MS_BIND | syscalls.MS_REC)
                syscalls.mount("", DIRECTORY, "none", flags)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise from_errno(f"cannot prepare {DIRECTORY}", error.errno or 0) from None


def _mount_sysfs(name: str) -> None:
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("", "/", "none", syscalls.MS_SLAVE | syscalls.MS_REC)
        with contextlib.suppress(OSError):
            syscalls.umount2("/sys", syscalls.MNT_DETACH)
        syscalls.mount(name, "/sys", "sysfs", 0)
    except OSError as error:
        raise from_errno(f"cannot mount /sys for {name}", error.errno or 0) from None
