# SPDX-License-Identifier: Apache-2.0
"""A process of its own for one generator, sink or peer: `python -m bench.worker KIND JSON`.

Theory of operation
-------------------
The worker enters its namespace, opens its sockets and says `ready` on standard output. A line on
standard input starts it; the end of standard input stops it, so that a coordinator that dies takes
its workers along. It ends with one line of JSON, its result, or with `{"error": ...}` and status 1.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import singledispatch
from pathlib import Path

from bench import jobs
from netns import NetnsError, namespace, sockets, syscalls

Result = dict[str, object]

STOP = 0
"""Standard input: readable, or at its end, means stop."""

BUFFER_BYTES = 4 << 20
ANSWER_MICROSECONDS = 300_000
TCP_DEFER_ACCEPT_SECONDS = 5
BACKLOG = 4096
SLICE_MICROSECONDS = 100
"""Of both ends of a ping-pong: they run as soon as they have something to do (since Linux 6.12), so
that what is measured is the way between them and not the wait for a processor."""

_PR_SET_TIMERSLACK = 29
GREETING_SECONDS, GREETING_AGAIN_SECONDS = 1.0, 0.1
NEXT_HOP_SECONDS = 3.0

_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_TUN = Path("/dev/net/tun")


def enter(path: str) -> None:
    """Move this process into the network namespace behind a file, for good."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(descriptor)
    finally:
        os.close(descriptor)


def open_each(paths: Iterable[str], make: Callable[[], socket.socket]) -> list[socket.socket]:
    """What `make` returns inside each namespace, in order."""

    def work() -> list[socket.socket]:
        result = []
        for path in paths:
            enter(path)
            result.append(make())
        return result

    return namespace.run_in_thread(work)


def datagram_socket() -> socket.socket:
    """A UDP socket with room for a burst."""
    result = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    result.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    # Without the limit of net.core.rmem_max, which is far below what a second's load needs.
    result.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER_BYTES)
    return result


def wait_for_start() -> bool:
    """Say that everything is open and wait for the word; False when it never comes."""
    print("ready", flush=True)
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(STOP, 1)
        if not piece:
            return False
        line += piece
    return True


@singledispatch
def perform(job: jobs.Job) -> Result:
    """Do a job; its result."""
    raise ValueError(f"nobody does {job.kind}")


@perform.register
def _udp_send(job: jobs.UdpSend) -> Result:
    from bench.native import udp_sender

    sockets.ensure_files(len(job.namespaces) * job.sockets_each)
    # A paced sender sleeps for microseconds; the default slack is 50 of them.
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)
    with contextlib.ExitStack() as stack:
        descriptors = []
        paths = [path for path in job.namespaces for _ in range(job.sockets_each)]
        for each in open_each(paths, datagram_socket):
            stack.enter_context(each)
            each.connect((job.address, job.port))
            descriptors.append(each.fileno())
        unanswered = greet(descriptors, bytes(job.payload_bytes)) if job.greets else 0
        if not wait_for_start():
            return {"sent": 0, "refused": 0, "seconds": 0.0, "unanswered": unanswered}
        sent, refused, seconds = udp_sender.send(
            descriptors,
            payload_bytes=job.payload_bytes,
            seconds=job.seconds,
            stop_descriptor=STOP,
            batch=job.batch,
            rate_per_second=job.rate_per_second,
            packets=job.packets,
        )
    return {"sent": sent, "refused": refused, "seconds": seconds, "unanswered": unanswered}


def greet(descriptors: Iterable[int], payload: bytes) -> int:
    """Ask by each socket until it is answered, at most `GREETING_SECONDS`; how many are not."""
    waiting = set(descriptors)
    poller = select.poll()
    for each in waiting:
        poller.register(each, select.POLLIN)
    deadline = time.monotonic() + GREETING_SECONDS
    while waiting and time.monotonic() < deadline:
        for each in waiting:
            with contextlib.suppress(OSError):
                os.write(each, payload)
        following = time.monotonic() + GREETING_AGAIN_SECONDS
        while waiting and (left := following - time.monotonic()) > 0:
            for descriptor, _ in poller.poll(left * 1000):
                # An error is no answer.
                with contextlib.suppress(OSError):
                    os.read(descriptor, len(payload))
                    poller.unregister(descriptor)
                    waiting.discard(descriptor)
    return len(waiting)


def next_hop(address: str) -> tuple[str, str]:
    """Own address and the next hop's hardware address on the way to `address`."""
    deadline = time.monotonic() + NEXT_HOP_SECONDS
    route = subprocess.run(
        ["ip", "-json", "route", "get", address], check=True, capture_output=True, text=True
    )
    (found,) = json.loads(route.stdout)
    hop = found.get("gateway", address)
    with datagram_socket() as probe:
        probe.connect((address, 9))
        while True:
            probe.send(b"")
            for line in Path("/proc/thread-self/net/arp").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[0] == hop and fields[2] != "0x0":
                    return found["prefsrc"], fields[3]
            if time.monotonic() > deadline:
                raise NetnsError(f"{hop} does not answer ARP", "see whether the gateway runs")
            time.sleep(0.01)


@perform.register
def _frame_send(job: jobs.FrameSend) -> Result:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    from bench.native import frame_sender

    enter(job.namespace)
    own, hop = next_hop(job.address)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as link:
        link.bind(("eth0", 0))
        link.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, BUFFER_BYTES)
        hardware = ":".join(f"{byte:02x}" for byte in link.getsockname()[4])
        packet = IP(src=own, dst=job.address) / UDP(sport=1, dport=1, chksum=0)
        frame = bytes(Ether(src=hardware, dst=hop) / packet / bytes(job.payload_bytes))
        if not wait_for_start():
            return {"sent": 0, "refused": 0, "seconds": 0.0}
        sent, refused, seconds = frame_sender.send(
            link.fileno(),
            frame,
            order=job.order,
            first_source_port=job.first_source_port,
            source_ports=job.source_ports,
            first_port=job.port,
            ports=job.ports,
            seconds=job.seconds,
            stop_descriptor=STOP,
            packets=job.packets,
        )
    return {"sent": sent, "refused": refused, "seconds": seconds}


@perform.register
def _udp_receive(job: jobs.UdpReceive) -> Result:
    from bench.native import udp_sink

    enter(job.namespace)
    with contextlib.ExitStack() as stack:
        descriptors = []
        for port in job.ports:
            each = stack.enter_context(datagram_socket())
            each.bind((job.address, port))
            descriptors.append(each.fileno())
        received = 0
        if wait_for_start():
            received = udp_sink.receive(
                descriptors,
                warm_up_seconds=job.warm_up_seconds,
                seconds=job.seconds,
                stop_descriptor=STOP,
            )
    return {"received": max(received, 0), "seconds": job.seconds}


@perform.register
def _ping(job: jobs.Ping) -> Result:
    from bench.native import ping_pong

    stream = job.protocol == "tcp"
    syscalls.set_time_slice(0, SLICE_MICROSECONDS)

    def connected() -> socket.socket:
        kind = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
        result = socket.socket(socket.AF_INET, kind)
        result.settimeout(5)
        result.connect((job.address, job.port))
        # Python's own timeout makes a socket non-blocking; the native loop wants it blocking.
        result.settimeout(None)
        if stream:
            result.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            limit = struct.pack("@ll", 0, ANSWER_MICROSECONDS)
            result.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        return result

    sockets.ensure_files(len(job.namespaces))
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(each) for each in open_each(job.namespaces, connected)]
        if not wait_for_start():
            return {"count": 0, "lost": 0}
        return dict(
            ping_pong.ping(
                [each.fileno() for each in opened],
                stream=stream,
                message_bytes=job.message_bytes,
                warm_up_seconds=job.warm_up_seconds,
                seconds=job.seconds,
                stop_descriptor=STOP,
            )
        )


def listener(address: str, port: int) -> socket.socket:
    """A non-blocking TCP listener in the namespace of this thread."""
    result = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    result.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    result.bind((address, port))
    result.listen(BACKLOG)
    result.setblocking(False)
    return result


@perform.register
def _echo(job: jobs.Echo) -> Result:
    from bench.native import ping_pong

    enter(job.namespace)
    sockets.ensure_files(2048)
    syscalls.set_time_slice(0, SLICE_MICROSECONDS)
    with datagram_socket() as udp, listener(job.address, job.port) as tcp:
        udp.bind((job.address, job.port))
        udp.setblocking(False)
        if wait_for_start():
            ping_pong.echo(udp.fileno(), tcp.fileno(), stop_descriptor=STOP)
    return {}


@perform.register
def _connect(job: jobs.Connect) -> Result:
    from bench.native import tcp_connections

    enter(job.namespace)
    with contextlib.suppress(OSError):
        # As many source ports as a client can have; where it may not be set, there are 28,232.
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("1024 65535")
    completed = failed = 0
    if wait_for_start():
        completed, failed = tcp_connections.connect_all(
            job.address,
            first_port=job.port,
            ports=job.ports,
            concurrency=job.concurrency,
            warm_up_seconds=job.warm_up_seconds,
            seconds=job.seconds,
            stop_descriptor=STOP,
        )
    return {"completed": completed, "failed": failed, "seconds": job.seconds}


@perform.register
def _serve(job: jobs.Serve) -> Result:
    from bench.native import tcp_connections

    enter(job.namespace)
    with contextlib.ExitStack() as stack:
        descriptors = []
        for port in range(job.port, job.port + job.ports):
            each = stack.enter_context(listener(job.address, port))
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, TCP_DEFER_ACCEPT_SECONDS)
            descriptors.append(each.fileno())
        if wait_for_start():
            tcp_connections.serve(descriptors, stop_descriptor=STOP)
    return {}


def stopped_within(seconds: float) -> bool:
    """Wait for the end of standard input, at most so long."""
    return bool(select.select([STOP], [], [], max(seconds, 0))[0])


@perform.register
def _scrape(job: jobs.Scrape) -> Result:
    # A tenth of a worker's start, and only this kind needs it.
    import urllib.request

    count = total = 0
    if wait_for_start():
        following = time.monotonic()
        while not stopped_within(following - time.monotonic()):
            following += job.interval_seconds
            with urllib.request.urlopen(job.url, timeout=10) as answer:
                total += len(answer.read())
            count += 1
    return {"count": count, "bytes": total}


@perform.register
def _repeat(job: jobs.Repeat) -> Result:
    count = failed = 0
    longest = 0.0
    if wait_for_start():
        following = time.monotonic()
        while not stopped_within(following - time.monotonic()):
            start = time.monotonic()
            following = max(following + job.interval_seconds, start)
            status = subprocess.run(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
                preexec_fn=die_with_parent,
            ).returncode
            count += 1
            failed += status != 0
            longest = max(longest, time.monotonic() - start)
    return {"count": count, "failed": failed, "longest_seconds": longest}


@perform.register
def _watch(job: jobs.Watch) -> Result:
    import http.client
    import urllib.parse

    with (
        subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            preexec_fn=die_with_parent,
        ) as server,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(server.terminate)
        assert server.stdout is not None
        page = urllib.parse.urlsplit(server.stdout.readline().strip())
        token = urllib.parse.parse_qs(page.query)["token"][0]
        query = urllib.parse.urlencode({"token": token, "lab": job.lab})
        streams: dict[int, http.client.HTTPResponse] = {}
        for _ in range(job.streams):
            connection = http.client.HTTPConnection(page.netloc, timeout=10)
            stack.callback(connection.close)
            connection.request("GET", f"/api/stream?{query}")
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise OSError(f"event stream: {answer.status} {answer.reason}")
            streams[answer.fileno()] = answer
        counts = dict.fromkeys(streams, 0)
        if wait_for_start():
            while True:
                ready, _, _ = select.select([STOP, *streams], [], [])
                if STOP in ready:
                    break
                for descriptor in ready:
                    text = streams[descriptor].read1(1 << 20)
                    if not text:
                        raise OSError("an event stream ended")
                    counts[descriptor] += text.count(b"data: ")
    return {"messages": min(counts.values())}


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it is gone."""
    syscalls.set_parent_death_signal(signal.SIGKILL)


@perform.register
def _execute(job: jobs.Execute) -> Result:
    enter(job.namespace)
    # Ignored signals stay ignored over exec; Python ignores SIGPIPE, and pasta refuses that.
    for number in (signal.SIGPIPE, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    command = job.command
    if job.ordinary_user:
        open_tun_to_all()
        command = [
            *("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"),
            *("--pdeathsig", "KILL", "--", *command),
        ]
        os.chdir("/")
    else:
        die_with_parent()
    os.execvpe(command[0], command, {**os.environ, **job.environment})


def open_tun_to_all() -> None:
    """Give this process, and no other, a /dev/net/tun that an ordinary user may open.

    Distributions let anybody open it; in containers it often belongs to root alone.
    """
    device = _TUN.stat().st_rdev
    node = Path(f"/dev/shm/hyperplane-bench-tun-{os.getpid()}")
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "none", syscalls.MS_SLAVE | syscalls.MS_REC)
    os.mknod(node, 0o666 | 0o020000, device)
    try:
        node.chmod(0o666)
        syscalls.mount(node, _TUN, None, syscalls.MS_BIND)
    finally:
        node.unlink()


def main(arguments: list[str]) -> int:
    """Do the job of the command line; the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        job = jobs.from_json(*arguments)
        result = perform(job)
    except (OSError, ValueError, NetnsError, TypeError) as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        return 1
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
