# SPDX-License-Identifier: Apache-2.0
"""What the gateway needs from a host, each need as a check that tries the real thing.

A feature of the kernel is tested by using it in a throw-away namespace (a thread that unshares and
ends), never by a version number alone: distributions leave modules out. Checks that build on a
namespace are not run when none can be made.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import platform
import re
import resource
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import hyperplane_nat
from hyperplane_nat.config.lab import Config
from hyperplane_nat.flow_cache import probe
from hyperplane_nat.forwarder import udp_segmentation
from netns import NetnsError, ingress, links, namespace, privileges, syscalls
from netns.cgroups import Family, Mounts
from netns.netlink import RouteSocket
from netns.privileges import Privileges

KERNEL_OLDEST = (5, 10)
"""PACKET_IGNORE_OUTGOING came with 4.20, pidfd_open with 5.3; 5.10 is what is still maintained."""

PYTHON_OLDEST = (3, 11)

STATE_BYTES_PER_FLOW = 140
"""Upper bound of what the state file takes per flow."""

SOL_PACKET = 263
PACKET_RX_RING = 5
PACKET_VERSION = 10
PACKET_VNET_HDR = 15
TPACKET_V2 = 1
ETH_P_ALL = 3


class Outcome(StrEnum):
    """How a check went."""

    OK = "ok"
    FAILED = "failed"
    """The gateway cannot run."""
    MISSING = "missing"
    """The gateway runs; something on top does not."""
    NOTED = "noted"
    """The lab runs; this is what may explain something."""


@dataclass(frozen=True)
class Check:
    """One finding about the host, or a lab."""

    name: str
    outcome: Outcome
    found: str
    remedy: str = ""


def good(name: str, found: str) -> Check:
    """What is needed is there."""
    return Check(name, Outcome.OK, found)


def bad(name: str, found: str, remedy: str) -> Check:
    """What is needed is not there."""
    return Check(name, Outcome.FAILED, found, remedy)


def run(config: Config) -> Iterator[Check]:
    """All checks, one by one, in an order in which the first failure explains the later ones."""
    yield python()
    yield from extensions(Path(hyperplane_nat.__file__).parent)
    yield kernel(platform.release())
    privileged = root(os.geteuid())
    yield privileged
    if privileged.outcome is Outcome.OK:
        yield capabilities(privileges.of(os.getpid()))
        yield dropping(config.lab.process_uid)
        yield landlock(syscalls.landlock_version())
    yield state_directory(config, Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    yield open_files()
    yield locked_memory()
    namespaces = attempt("namespaces", _namespace, "unshare works")
    yield namespaces
    if namespaces.outcome is Outcome.OK:
        yield attempt("veth", _veth, "pairs can be made")
        yield attempt("ingress drop", _ingress, "clsact, cls_bpf and bpf(2) work")
        yield attempt("AF_PACKET", _packet_ring, "ring of version 2 with virtio headers")
        yield attempt("UDP segmentation", segmentation, "frames of several datagrams can be sent")
        yield flow_cache(probe.missing())
    if privileged.outcome is Outcome.OK:
        yield control_groups()
    for peer in PEERS:
        yield optional(peer)


def python() -> Check:
    """The interpreter's version."""
    found = platform.python_version()
    if sys.version_info[:2] >= PYTHON_OLDEST:
        return good("Python", found)
    return bad("Python", found, "install Python 3.11 or later")


def extensions(package: Path) -> Iterator[Check]:
    """
    Whether every extension module is there and compiled.

    An interface file (.pyi) without a Python module beside it belongs to an extension.
    """
    missing, count = [], 0
    for stub in sorted(package.rglob("*.pyi")):
        if stub.with_suffix(".py").exists():
            continue
        count += 1
        module = ".".join((package.name, *stub.relative_to(package).with_suffix("").parts))
        if not compiled(module):
            missing.append(module)
    if missing:
        yield bad("extensions", f"not built: {', '.join(missing)}", "run: make build")
    else:
        yield good("extensions", f"{count} compiled")


def compiled(module: str) -> bool:
    """Whether importing the module would load machine code."""
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:
        return False
    return spec is not None and isinstance(spec.loader, importlib.machinery.ExtensionFileLoader)


def kernel(release: str) -> Check:
    """The kernel's version."""
    matched = re.match(r"(\d+)\.(\d+)", release)
    if matched and (int(matched[1]), int(matched[2])) >= KERNEL_OLDEST:
        return good("kernel", release)
    return bad("kernel", release, "boot Linux 5.10 or later")


def root(user: int) -> Check:
    """The privilege to make namespaces and packet sockets."""
    if user == 0:
        return good("root", "user 0")
    return bad("root", f"user {user}", "run it as root: sudo hyperplane-nat doctor")


CAPABILITIES = {
    "CAP_DAC_OVERRIDE": 1,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_NICE": 23,
}
"""What the controller uses, capabilities(7): the last of them with the default `forwarder.nice`."""


def capabilities(own: Privileges | None) -> Check:
    """Whether root has what root usually has; in a container it may not."""
    name = "capabilities"
    has = 0 if own is None else own.effective
    missing = [each for each, bit in CAPABILITIES.items() if not has >> bit & 1]
    if missing:
        return bad(name, f"missing: {', '.join(missing)}", "give the container these")
    return good(name, f"all {len(CAPABILITIES)} that are used")


def dropping(uid: int) -> Check:
    """Whether a process can give up what it has, tried in one that ends with it."""
    name = "unprivileged"
    trial = f"from netns.privileges import FORWARDER, drop; drop(FORWARDER, uid={uid})"
    command = [sys.executable, "-P", "-c", trial]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        line = done.stderr.strip().rpartition("\n")[2].partition(": ")[2]
        cause, _, remedy = line.rpartition(" (")
        return bad(name, cause or line, remedy.removesuffix(")"))
    return good(name, f"user {uid} without capabilities, system calls by a list")


def control_groups() -> Check:
    """Whether handlers can stand still and have limits, tried in groups that end with it."""
    name = "control groups"
    family = Family(Mounts.find(), f"doctor-{os.getpid()}")
    try:
        family.make()
        family.remove()
    except NetnsError as error:
        return Check(name, Outcome.MISSING, error.cause, error.remedy)
    if family.missing:
        remedy = "mount cgroup2, with its controllers there or of version 1 (handlers do without)"
        return Check(name, Outcome.MISSING, "; ".join(family.missing), remedy)
    return good(name, "handlers stand still and have limits of memory and processes")


def landlock(version: int) -> Check:
    """Whether who writes files as root can be kept to its own."""
    name = "Landlock"
    if version:
        return good(name, f"version {version}: the writer of flow logs changes only its own files")
    return Check(
        name,
        Outcome.MISSING,
        "the writer of flow logs could write what root can",
        "use a kernel with Landlock (5.13), and name it in lsm=",
    )


def state_directory(config: Config, mounts: str) -> Check:
    """Whether the state file would be in memory, and fit; `mounts` is a text like mountinfo."""
    name = "state directory"
    directory = Path(config.lab.state_directory)
    kind = filesystem(directory, mounts)
    if kind != "tmpfs":
        return bad(
            name,
            f"{directory} is on {kind or 'nothing known'}",
            f"mount -t tmpfs tmpfs {directory}; or set lab.state_directory to one",
        )
    needed = config.flows.max * STATE_BYTES_PER_FLOW
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    found = f"{directory}: tmpfs, {free >> 20} MiB free, up to {needed >> 20} MiB needed"
    if free < needed:
        return bad(name, found, "enlarge it (mount -o remount,size=...) or lower flows.max")
    return good(name, found)


def filesystem(directory: Path, mounts: str) -> str | None:
    """The type of the filesystem that holds a directory, by a text like /proc/self/mountinfo."""
    found: dict[str, str] = {}
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        point = fields.split(" ")[4].encode().decode("unicode_escape")
        # A later mount hides an earlier one at the same place.
        found[point] = rest.split(" ")[0]
    resolved = directory.resolve()
    for candidate in (resolved, *resolved.parents):
        if str(candidate) in found:
            return found[str(candidate)]
    return None


def open_files() -> Check:
    """The limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft}, at most {hard}"
    if hard == resource.RLIM_INFINITY or hard >= 1024:
        return good("open files", found)
    return bad("open files", found, "raise the hard limit to 1024: ulimit -Hn 1024")


def locked_memory() -> Check:
    """The limit of locked memory: kernels before 5.11 charge BPF programs to it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    found = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft >> 10} KiB"
    if soft == resource.RLIM_INFINITY or soft >= 64 << 10:
        return good("locked memory", found)
    return bad("locked memory", found, "raise it: ulimit -l 64")


class MissingError(Exception):
    """Something that the gateway can do without is not there; the text says what follows."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(found)
        self.found, self.remedy = found, remedy


def attempt(name: str, trial: Callable[[], None], found: str) -> Check:
    """Run a trial in a thread that may change its namespace."""
    try:
        namespace.run_in_thread(trial)
    except MissingError as missing:
        return Check(name, Outcome.MISSING, missing.found, missing.remedy)
    except NetnsError as error:
        return bad(name, error.cause, error.remedy)
    except PermissionError as error:
        return bad(
            name,
            f"not permitted: {error.strerror}",
            "run as root; a container needs CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF",
        )
    except OSError as error:
        return bad(name, str(error), "use a kernel that has it")
    return good(name, found)


def _namespace() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNET)


def _make_pair(route: RouteSocket) -> int:
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        pair = links.Pair("a", "02:00:00:00:00:01", 1500, "b", "02:00:00:00:00:02", own)
        links.create_pairs(route, [pair])
    finally:
        os.close(own)
    return socket.if_nametoindex("a")


def _veth() -> None:
    _namespace()
    with RouteSocket() as route:
        _make_pair(route)


def _ingress() -> None:
    _namespace()
    with RouteSocket() as route:
        index = _make_pair(route)
        ingress.drop(route, [index])
        if ingress.missing(route, [index]):
            raise NetnsError("the filter was accepted but is not there", "use another kernel")


def _packet_ring() -> None:
    _namespace()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as packets:
        packets.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        packets.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        # struct tpacket_req: block size, blocks, frame size, frames.
        request = struct.pack("=4I", 1 << 16, 2, 2048, 64)
        packets.setsockopt(SOL_PACKET, PACKET_RX_RING, request)


def segmentation() -> None:
    """Without it UDP is slower, and the forwarder says so in its log."""
    if not udp_segmentation.available():
        raise MissingError("UDP datagrams leave one by one, which takes longer", "boot Linux 6.2")


@dataclass(frozen=True)
class Peer:
    """A program that the demo or the tests use."""

    program: str
    package: str
    purpose: str


PEERS = (
    Peer("ip", "iproute2", "looking around: ip netns"),
    Peer("curl", "curl", "live tests"),
    Peer("nginx", "nginx-light", "serves the demo's file"),
    Peer("iperf3", "iperf3", "live tests, benchmarks"),
    Peer("redis-server", "redis-server", "live tests"),
    Peer("redis-benchmark", "redis-tools", "live tests"),
    Peer("ping", "iputils-ping", "live tests"),
    Peer("traceroute", "traceroute", "live tests"),
    Peer("prometheus", "prometheus", "live tests"),
    Peer("promtool", "prometheus", "live tests"),
    Peer("nft", "nftables", "benchmarks: the kernel's NAT to compare with"),
    Peer("sockperf", "sockperf", "benchmarks"),
    Peer("tcpdump", "tcpdump", "looking at packets"),
    Peer("ethtool", "ethtool", "looking at links"),
)


def flow_cache(missing: Sequence[object]) -> Check:
    """What the kernel lacks for `forwarder.flow_cache`."""
    if not missing:
        return good("flow cache", "the program loads, attaches and redirects")
    found = "; ".join(map(str, missing))
    remedy = "leave forwarder.flow_cache off, or use Linux 5.12 or later with BPF"
    return Check("flow cache", Outcome.MISSING, found, remedy)


def optional(peer: Peer) -> Check:
    """Whether a program that the gateway itself does not need is there."""
    path = shutil.which(peer.program, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is not None:
        return good(peer.program, path)
    remedy = f"apt-get install {peer.package}"
    return Check(peer.program, Outcome.MISSING, f"for: {peer.purpose}", remedy)
