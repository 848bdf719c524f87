# SPDX-License-Identifier: Apache-2.0
"""The native generators and sinks, against each other over the loopback; no privilege needed."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.native import frame_sender, ping_pong, tcp_connections, udp_sender, udp_sink
from bench.result import Measurements
from bench.session import QUICK, Session
from bench.workloads import flow_table
from bench.workloads.flow_table import FlowTable

HOST = "127.0.0.1"


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, Callable[[], None]]]:
    """What a native loop watches, and the way to stop it."""
    reading, writing = os.pipe()
    open_ends = {reading, writing}

    def stop() -> None:
        if writing in open_ends:
            open_ends.discard(writing)
            os.close(writing)

    try:
        yield reading, stop
    finally:
        stop()
        os.close(reading)


def bound(kind: socket.SocketKind, *, listen: bool = False) -> socket.socket:
    result = socket.socket(socket.AF_INET, kind)
    result.bind((HOST, 0))
    if listen:
        result.listen(64)
        result.setblocking(False)
    return result


def send(sockets: list[socket.socket], stop: int, *, batch: int = 64, packets: int = 0) -> int:
    sent, _refused, seconds = udp_sender.send(
        [each.fileno() for each in sockets],
        payload_bytes=22,
        seconds=2.0,
        stop_descriptor=stop,
        packets=packets,
        batch=batch,
    )
    assert seconds > 0
    return sent


def drain(receiver: socket.socket) -> list[tuple[bytes, int]]:
    receiver.setblocking(False)
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            data, address = receiver.recvfrom(2048)
            found.append((data, address[1]))
    return found


def test_connected_sockets_take_turns() -> None:
    with contextlib.ExitStack() as stack, pipe() as (stop, _):
        receiver = stack.enter_context(bound(socket.SOCK_DGRAM))
        senders = [
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in "12"
        ]
        for each in senders:
            each.connect(receiver.getsockname())
        sent = send(senders, stop, packets=100, batch=10)
        received = drain(receiver)
    assert sent == len(received) == 100
    assert {len(data) for data, _ in received} == {22}
    assert len({port for _, port in received}) == 2


FRAME = bytes(range(34)) + bytes(4) + b"length, checksum and payload"


def frames(order: str, packets: int) -> list[bytes]:
    """What is sent of 5 source ports to 3 destination ports."""
    sending, receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    # A datagram socket of the unix domain holds ten messages unless somebody reads.
    with sending, receiving, pipe() as (stop, _), ThreadPoolExecutor(1) as pool:
        received = pool.submit(lambda: [receiving.recv(2048) for _ in range(packets)])
        sent, refused, seconds = frame_sender.send(
            sending.fileno(),
            FRAME,
            order=order,
            first_source_port=40000,
            source_ports=5,
            first_port=1025,
            ports=3,
            seconds=5,
            stop_descriptor=stop,
            packets=packets,
        )
        assert (sent, refused) == (packets, 0)
        assert seconds > 0
        return received.result(5)


def ports_of(frame: bytes) -> tuple[int, int]:
    assert frame[:34] == FRAME[:34]
    assert frame[38:] == FRAME[38:]
    return int.from_bytes(frame[34:36]), int.from_bytes(frame[36:38])


ALL_PAIRS = {(source, port) for source in range(40000, 40005) for port in range(1025, 1028)}


def test_every_pair_comes_once_before_any_comes_again() -> None:
    pairs = [ports_of(each) for each in frames("pairs", 100)]
    assert set(pairs[:15]) == ALL_PAIRS
    assert pairs[15:30] == pairs[:15]


def test_random_pairs() -> None:
    pairs = [ports_of(each) for each in frames("random", 1000)]
    assert set(pairs) == ALL_PAIRS
    assert pairs[15:30] != pairs[:15]


def test_impossible_frames_and_ports_are_refused() -> None:
    with pipe() as (stop, _):
        for frame, ports in ((bytes(20), 1), (FRAME, 0), (FRAME, 65000)):
            with pytest.raises(ValueError, match=r"no UDP frame|impossible ports"):
                frame_sender.send(
                    -1,
                    frame,
                    order="pairs",
                    first_source_port=1,
                    source_ports=1,
                    first_port=1025,
                    ports=ports,
                    seconds=1,
                    stop_descriptor=stop,
                )


def test_a_rate_is_kept() -> None:
    with (
        bound(socket.SOCK_DGRAM) as receiver,
        bound(socket.SOCK_DGRAM) as sender,
        pipe() as (
            stop,
            _,
        ),
    ):
        sender.connect(receiver.getsockname())
        _, _, seconds = udp_sender.send(
            [sender.fileno()],
            payload_bytes=1,
            seconds=5,
            stop_descriptor=stop,
            batch=1,
            rate_per_second=1000,
            packets=100,
        )
    assert seconds >= 0.099


def test_a_sender_stops_when_its_coordinator_is_gone() -> None:
    with (
        bound(socket.SOCK_DGRAM) as receiver,
        bound(socket.SOCK_DGRAM) as sender,
        pipe() as (
            stop,
            end,
        ),
    ):
        sender.connect(receiver.getsockname())
        end()
        assert send([sender], stop) <= 64


def test_impossible_loads_are_refused() -> None:
    with bound(socket.SOCK_DGRAM) as sender, pipe() as (stop, _):
        with pytest.raises(ValueError, match="no sockets"):
            send([], stop)
        with pytest.raises(ValueError, match="impossible"):
            send([sender], stop, batch=65)


def test_a_sink_counts_and_stops() -> None:
    with (
        bound(socket.SOCK_DGRAM) as receiver,
        bound(socket.SOCK_DGRAM) as sender,
        pipe() as (
            stop,
            end,
        ),
    ):
        for _ in range(70):
            sender.sendto(b"x", receiver.getsockname())
        options = {"warm_up_seconds": 0.0, "seconds": 0.05, "stop_descriptor": stop}
        assert udp_sink.receive([receiver.fileno()], **options) == 70  # type: ignore[arg-type]
        end()
        assert udp_sink.receive([receiver.fileno()], **options) == -1  # type: ignore[arg-type]


@pytest.mark.parametrize("stream", [True, False])
def test_ping_pong(stream: bool) -> None:
    with contextlib.ExitStack() as stack:
        stop, end = stack.enter_context(pipe())
        udp = stack.enter_context(bound(socket.SOCK_DGRAM))
        udp.setblocking(False)
        tcp = stack.enter_context(bound(socket.SOCK_STREAM, listen=True))
        server = threading.Thread(
            target=lambda: ping_pong.echo(udp.fileno(), tcp.fileno(), stop_descriptor=stop)
        )
        server.start()
        stack.callback(server.join)
        stack.callback(end)
        kind = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
        client = stack.enter_context(socket.socket(socket.AF_INET, kind))
        client.connect((tcp if stream else udp).getsockname())
        result = ping_pong.ping(
            [client.fileno()],
            stream=stream,
            message_bytes=64,
            warm_up_seconds=0.01,
            seconds=0.05,
            stop_descriptor=stop,
        )
    assert result["lost"] == 0
    assert result["count"] > 10
    assert 0 < result["p50"] <= result["p99"] <= result["p99.9"] <= result["max"]


def test_connections_are_complete() -> None:
    with contextlib.ExitStack() as stack:
        stop, end = stack.enter_context(pipe())
        listener = stack.enter_context(bound(socket.SOCK_STREAM, listen=True))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
        server = threading.Thread(
            target=lambda: tcp_connections.serve([listener.fileno()], stop_descriptor=stop)
        )
        server.start()
        stack.callback(server.join)
        stack.callback(end)
        completed, failed = tcp_connections.connect_all(
            HOST,
            first_port=listener.getsockname()[1],
            ports=1,
            concurrency=4,
            warm_up_seconds=0.0,
            seconds=0.1,
            stop_descriptor=stop,
        )
    assert completed > 10
    assert failed == 0


class _Silent:
    """A display that shows nothing."""

    def show(self, what: str, detail: str = "") -> None:
        pass

    def advance(self, estimated_seconds: float) -> None:
        pass

    def say(self, text: str) -> None:
        pass


def test_the_flow_table_workload_measures_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_table, "SIZES", {"1k": 1000, "1m": 3000})
    monkeypatch.setattr(flow_table, "LOOK_UPS", 10_000)
    with Session(QUICK, ["hyperplane-nat"], _Silent()) as session:  # type: ignore[arg-type]
        FlowTable().run(session)
        found: Measurements = session.measurements
    for name in ("flow_table_hit_1k", "flow_table_batch_hit_1m"):
        hit = found.get(name)
        assert hit is not None
        assert len(hit.runs["hyperplane-nat"]) == QUICK.table_rounds
        assert 1 < hit.runs["hyperplane-nat"][0] < 100_000
    size = found.get("flow_table_bytes_per_flow")
    assert size is not None
    assert 80 < size.runs["hyperplane-nat"][0] < 1000
