# SPDX-License-Identifier: Apache-2.0
"""The measurements that several workloads are made of: UDP rates, ping-pong, filling with flows."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from bench import addresses, jobs, mirror
from bench.counters import Reading, ReceiveCounters
from bench.errors import BenchError
from bench.gateways import Gateway
from bench.gateways.base import Ends
from bench.processes import Worker
from bench.session import Session

Sink = Literal["drop", "application"]

SOCKETS = 16
"""Flows of one sender."""

PAIRS_SOURCE_PORT = 10000
"""Fixed, so that a later sender uses the flows that an earlier one has established."""

WORKER_SECONDS = 0.2
"""Estimate for starting and ending one worker."""

SLACK_SECONDS = 20.0
"""Bound on a generator that is not stopped."""


@dataclass(frozen=True)
class Rate:
    """Datagrams per second: what arrived and what was sent."""

    delivered: float
    sent: float


def sender(gateway: Ends, number: int, *, address: str, frame_bytes: int) -> jobs.UdpSend:
    """Full load from environment `number`."""
    return jobs.UdpSend(
        namespaces=[gateway.environment_file(number)],
        sockets_each=SOCKETS,
        address=address,
        port=addresses.UDP_PORT + number,
        payload_bytes=addresses.payload_bytes(frame_bytes),
        seconds=SLACK_SECONDS,
        greets=True,
    )


def ready(
    gateway: Ends,
    stack: contextlib.ExitStack,
    senders: Sequence[jobs.UdpSend | jobs.FrameSend],
) -> list[Worker]:
    """Senders whose flows are answered, those that ask for it."""
    with mirror.standing(gateway.vpc):
        return [stack.enter_context(Worker(job)) for job in senders]


def sent_of(session: Session, gateway: Ends, workers: Sequence[Worker]) -> float:
    """What senders have sent, per second, once they are stopped."""
    results = [worker.stop() for worker in workers]
    if unanswered := sum(each.get("unanswered", 0) for each in results):
        session.warn(f"UDP, {gateway.name}: {unanswered} flows had no answer before the load")
    return sum(float(each["sent"] / each["seconds"]) for each in results if each["seconds"])


def black_hole_rate(
    session: Session, gateway: Ends, senders: Sequence[jobs.UdpSend | jobs.FrameSend]
) -> Rate:
    """What arrives at the black hole, by the counter of the VPC's links."""
    profile = session.profile
    with contextlib.ExitStack() as stack:
        counters = stack.enter_context(ReceiveCounters(gateway.vpc))
        workers = ready(gateway, stack, senders)
        for worker in workers:
            worker.start()
        window = counters.watch(profile.warm_up_seconds, profile.udp_seconds)
        sent = sent_of(session, gateway, workers)
    delivered = window.datagrams(senders[0].payload_bytes) / window.seconds
    return Rate(delivered, sent)


def application_rate(session: Session, gateway: Ends, senders: Sequence[jobs.UdpSend]) -> Rate:
    """What an application in the VPC receives."""
    profile = session.profile
    job = jobs.UdpReceive(
        namespace=gateway.vpc_file,
        address=addresses.SERVER,
        ports=[each.port for each in senders],
        warm_up_seconds=profile.warm_up_seconds,
        seconds=profile.udp_seconds,
    )
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(Worker(job))
        workers = ready(gateway, stack, senders)
        for worker in (receiver, *workers):
            worker.start()
        received = receiver.result(SLACK_SECONDS)
        sent = sent_of(session, gateway, workers)
    return Rate(received["received"] / received["seconds"], sent)


def udp_rate(
    session: Session, gateway: Gateway, *, senders: int, frame_bytes: int, sink: Sink
) -> Rate:
    """Full load from the first environments."""
    address = addresses.BLACK_HOLE if sink == "drop" else addresses.SERVER
    load = [
        sender(gateway, number, address=address, frame_bytes=frame_bytes)
        for number in range(1, senders + 1)
    ]
    if sink == "drop":
        return black_hole_rate(session, gateway, load)
    return application_rate(session, gateway, load)


@contextlib.contextmanager
def echo_server(gateway: Gateway) -> Iterator[None]:
    """Echo over TCP and UDP in the VPC."""
    job = jobs.Echo(namespace=gateway.vpc_file, address=addresses.SERVER, port=addresses.ECHO_PORT)
    with Worker(job) as worker:
        worker.start()
        yield


def ping(
    session: Session,
    gateway: Gateway,
    *,
    protocol: str,
    environments: int = 1,
    seconds: float | None = None,
    warm_up_seconds: float = 0.1,
) -> dict[str, float]:
    """Round-trip times from the first environments in turn, in microseconds."""
    job = jobs.Ping(
        namespaces=[gateway.environment_file(each) for each in range(1, environments + 1)],
        address=addresses.SERVER,
        port=addresses.ECHO_PORT,
        protocol=protocol,
        warm_up_seconds=warm_up_seconds,
        seconds=seconds or session.profile.latency_seconds,
    )
    with Worker(job) as worker:
        return checked(worker.start().result(job.seconds + SLACK_SECONDS))


def checked(result: dict[str, float]) -> dict[str, float]:
    """A ping-pong's result; BenchError when nothing came back."""
    if not result["count"]:
        raise BenchError("ping-pong: no answer at all")
    return result


def prime(gateway: Gateway) -> None:
    """Let the gateway resolve the black hole's address before its flows are counted."""
    job = jobs.UdpSend(
        namespaces=[gateway.environment_file(1)],
        sockets_each=1,
        address=addresses.BLACK_HOLE,
        port=addresses.UDP_PORT,
        payload_bytes=addresses.payload_bytes(64),
        seconds=1,
        packets=1,
    )
    with Worker(job) as worker, ReceiveCounters(gateway.vpc) as counters:
        before = counters.read()
        worker.start().result(SLACK_SECONDS)
        deadline = time.monotonic() + 2
        # Two: the question for the address, and the datagram.
        while counters.read().since(before).packets < 1 and time.monotonic() < deadline:
            time.sleep(0.005)


def pairs(
    gateway: Gateway, *, sockets: int, ports: int, number: int = 1, packets: int = 0
) -> jobs.FrameSend:
    """A sender whose datagrams are a new flow each."""
    return jobs.FrameSend(
        namespace=gateway.environment_file(number),
        source_ports=sockets,
        first_source_port=PAIRS_SOURCE_PORT,
        address=addresses.BLACK_HOLE,
        port=addresses.PAIRS_PORT,
        ports=ports,
        payload_bytes=addresses.payload_bytes(64),
        seconds=120,
        packets=packets,
    )


def fill(gateway: Gateway, *, sockets: int, ports: int, wanted: int, passes: int = 16) -> int:
    """Establish every pair of a sender, in as many passes as losses ask for; how many are held."""
    held = 0
    job = pairs(gateway, sockets=sockets, ports=ports, packets=sockets * ports)
    for _ in range(passes):
        with Worker(job) as worker:
            worker.start().result(150)
        held = gateway.held()
        if held >= wanted:
            break
    return held


def crossings(readings: Sequence[Reading], counts: Sequence[int]) -> list[float | None]:
    """Seconds from the first packet until so many had arrived, interpolated between readings.

    None for a count that was never reached. The first reading is from before the load.
    """
    base = readings[0].packets
    start: float | None = None
    result: list[float | None] = [None] * len(counts)
    for before, after in itertools.pairwise(readings):
        if after.packets == before.packets:
            continue
        if start is None:
            start = before.moment
        for place, count in enumerate(counts):
            if result[place] is None and after.packets - base >= count:
                part = (count - (before.packets - base)) / (after.packets - before.packets)
                moment = before.moment + part * (after.moment - before.moment)
                result[place] = moment - start
    return result
