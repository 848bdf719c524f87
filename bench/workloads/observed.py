# SPDX-License-Identifier: Apache-2.0
"""What watching costs: flow logs, a capture, and a listing of a million flows.

Ours alone, each time against itself without. The flow logs' interval is scaled to one second, so
that every measurement has a whole aggregation in it; on AWS it is a minute or ten. The capture is
of the interface that all packets cross, without a filter, to nowhere: the most that can be asked.

The listing is `flows --json` over a million flows: how long it takes, how much memory the
controller has afterwards, and what it does to a ping-pong meanwhile.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import addresses, jobs
from bench.errors import BenchError
from bench.gateways import OURS, Gateway, HyperplaneNat
from bench.gateways.base import Options
from bench.load import WORKER_SECONDS, echo_server, fill, ping, udp_rate
from bench.processes import Process, Worker
from bench.session import Profile, Session
from bench.workloads.base import Workload

LOGGED_SCALE = 60
"""Makes the aggregation interval of 60 seconds one."""

MANY_SOCKETS, MANY_PORTS = 1000, 1000
ENOUGH = 0.97
LAB_SECONDS = 5.0
FILL_SECONDS = 8.0
LISTING_SECONDS = 12.0
CAPTURE_SECONDS = 30
CAPTURE_READY_SECONDS = 15.0


class Observed(Workload):
    """Packets per second while somebody watches."""

    name = "observed"
    summary = "UDP 64 B with flow logs and with a capture, and a listing of 1 M flows"

    def seconds(self, profile: Profile, contenders: Sequence[str]) -> float:
        """By the number of measurements."""
        step = _step(profile)
        return 3 * step * profile.rounds + 2 * LAB_SECONDS + FILL_SECONDS + LISTING_SECONDS

    def run(self, session: Session) -> None:
        """Throughput first, then the listing."""
        options = Options(flow_logs=True, udp_seconds=Options().udp_seconds * LOGGED_SCALE)
        with contextlib.ExitStack() as stack:
            session.display.show("starting a lab with flow logs")
            logged = stack.enter_context(session.started(OURS, options))
            plain = session.shared((OURS,)).get(OURS)
            if not isinstance(plain, HyperplaneNat) or logged is None:
                return
            session.display.advance(LAB_SECONDS)
            self._throughput(session, plain, logged)
            session.display.advance(LAB_SECONDS)
        self._listing(session, plain)

    def _throughput(self, session: Session, plain: HyperplaneNat, logged: Gateway) -> None:
        declare = session.measurements.declare
        without = declare("observed_off", "UDP 64 B, unobserved", "packets/s", group=self.name)
        logs = declare("observed_flow_logs", "UDP 64 B, flow logs", "packets/s", group=self.name)
        capture = declare("observed_capture", "UDP 64 B, capture", "packets/s", group=self.name)
        for number in session.each_round(3 * _step(session.profile)):
            for measurement, gateway in ((without, plain), (logs, logged), (capture, plain)):
                session.display.show(measurement.title, f"round {number + 1}")
                with session.tolerating(measurement.title), contextlib.ExitStack() as stack:
                    if measurement is capture:
                        stack.enter_context(_captured(plain))
                    rate = udp_rate(session, gateway, senders=1, frame_bytes=64, sink="drop")
                    measurement.add(OURS, rate.delivered)
                session.display.advance(_step(session.profile))

    def _listing(self, session: Session, gateway: HyperplaneNat) -> None:
        wanted = int(ENOUGH * MANY_SOCKETS * MANY_PORTS)
        session.display.show("establishing 1 M flows")
        held = fill(gateway, sockets=MANY_SOCKETS, ports=MANY_PORTS, wanted=wanted)
        if held < wanted:
            session.warn(f"the listing is of {held} flows only")
        session.display.advance(FILL_SECONDS)
        session.display.show("listing 1 M flows")
        job = jobs.Repeat(command=gateway.command("flows", "--json"), interval_seconds=0.0)
        with session.tolerating("listing 1 M flows"), echo_server(gateway):
            quiet = ping(session, gateway, protocol="tcp", seconds=session.profile.scraped_seconds)
            with Worker(job) as lister:
                lister.start()
                time.sleep(0.5)
                busy = ping(
                    session, gateway, protocol="tcp", seconds=session.profile.scraped_seconds
                )
                result = lister.stop()
            self._record(session, result["longest_seconds"], gateway, quiet, busy)
        session.display.advance(LISTING_SECONDS)

    def _record(
        self,
        session: Session,
        seconds: float,
        gateway: HyperplaneNat,
        quiet: dict[str, float],
        busy: dict[str, float],
    ) -> None:
        for name, title, unit, value in (
            ("listing_1m_seconds", "`flows --json` of 1 M flows", "s", seconds),
            ("listing_1m_memory", "The controller afterwards", "MiB", _memory(gateway)),
            ("listing_1m_quiet_p99", "TCP ping-pong, 1 M flows, p99", "µs", quiet["p99"]),
            ("listing_1m_p99", "TCP ping-pong, 1 M flows listed, p99", "µs", busy["p99"]),
        ):
            session.measurements.declare(name, title, unit, group=name, higher_is_better=False).add(
                OURS, value
            )


@contextlib.contextmanager
def _captured(gateway: HyperplaneNat) -> Iterator[None]:
    """A capture of the shared interface, running; BenchError when it does not start."""
    file = Path(gateway.directory) / "capture.pcapng"
    command = gateway.command(
        *("capture", "--interface", addresses.INTERFACE, "--seconds", str(CAPTURE_SECONDS)),
        *("-w", str(file)),
    )
    with Process(command, "hyperplane-nat capture") as capture:
        deadline = time.monotonic() + CAPTURE_READY_SECONDS
        # Its file begins once its sockets are open.
        while not (file.exists() and file.stat().st_size):
            if capture.popen.poll() is not None or time.monotonic() > deadline:
                raise BenchError("the capture did not start")
            time.sleep(0.02)
        yield
    file.unlink(missing_ok=True)


def _memory(gateway: HyperplaneNat) -> float:
    """Resident memory of the controller in MiB; what it shares with the state map not counted."""
    pid = gateway.status()["pid"]
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "RssAnon":
            return int(value.split()[0]) / 1024
    raise BenchError(f"the kernel says nothing of the memory of {pid}")


def _step(profile: Profile) -> float:
    return profile.warm_up_seconds + profile.udp_seconds + 3 * WORKER_SECONDS
