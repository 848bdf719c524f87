# SPDX-License-Identifier: Apache-2.0
"""Round-trip times of a ping-pong: quiet, under load, and while the lab is looked at.

The load is the same for every contender: half of what the kernel's NAT carries from one sender of
64-byte frames, sent by another environment. What slirp4netns and pasta carry is less than that
half, so they have no figure there.

Busy means: `/metrics` is scraped ten times a second and `hyperplane-nat flows --json` is called
every second, with 100,000 flows in the table. Its counterpart `latency_idle` is measured in turn
with it, with the same flows in the table, so that only the reading differs. Watched means that five
pages of `hyperplane-nat ui` are open instead.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace

from bench import addresses, jobs
from bench.errors import BenchError
from bench.gateways import CACHED, KERNEL, LIMIT, OTHER, OURS, OWN, Gateway, HyperplaneNat
from bench.load import WORKER_SECONDS, echo_server, fill, ping, sender, udp_rate
from bench.processes import Worker
from bench.session import Profile, Session
from bench.workloads.base import Workload, among

PARTS = {"p50": "p50", "p99": "p99", "p99.9": "p999"}
"""The ping-pong's words, and those of the JSON."""

GROUPS = {
    "latency_loaded": "latency_loaded",
    "latency_idle": "latency_scraped",
    "latency_scraped": "latency_scraped",
    "latency_watched": "latency_scraped",
}
"""Plots of their own: not every contender has these."""

LOADED = (OURS, CACHED, KERNEL, LIMIT)
SCRAPES_PER_SECOND = 10
LISTED_SOCKETS, LISTED_PORTS = 100, 1000
LISTED_FLOWS = LISTED_SOCKETS * LISTED_PORTS
FILL_SECONDS = 2.0
LISTING_SECONDS = 1.0
PAGES = 5
CALIBRATION = "udp_64b_1_sender"


class Latency(Workload):
    """Microseconds from the message to its echo."""

    name = "latency"
    summary = "round-trip time of a 64-byte message, one on the way at a time, in microseconds"

    def seconds(self, profile: Profile, contenders: Sequence[str]) -> float:
        """By the number of measurements."""
        step = _step(profile)
        quiet = step * len(contenders) * profile.rounds * (1 if profile.brief else 2)
        loaded = 0.0
        if not profile.brief:
            taking_part = len(among(contenders, LOADED))
            loaded = (step + WORKER_SECONDS) * profile.rounds * taking_part
        looked_at = FILL_SECONDS + _pair_step(profile) * profile.rounds
        return quiet + loaded + looked_at * max(len(among(contenders, OWN)), 1)

    def run(self, session: Session) -> None:
        """Quiet over TCP and UDP, loaded, busy."""
        labs = session.shared()
        with contextlib.ExitStack() as stack:
            for gateway in labs.values():
                stack.enter_context(echo_server(gateway))
            self._quiet(session, labs, "latency", "tcp")
            if not session.profile.brief:
                self._quiet(session, labs, "latency_udp", "udp")
                self._loaded(session, session.shared(LOADED))
        # Each round of it leaves so many flows that another build would need as many.
        for ours in (labs.get(name) for name in OWN if OTHER not in labs):
            if isinstance(ours, HyperplaneNat):
                self._scraped(session, ours)

    def _record(
        self, session: Session, prefix: str, title: str, contender: str, result: dict[str, float]
    ) -> None:
        for part, word in PARTS.items():
            session.measurements.declare(
                f"{prefix}_{word}",
                f"{title}, {part}",
                "µs",
                group=GROUPS.get(prefix, self.name),
                higher_is_better=False,
            ).add(contender, result[part])
        if result["lost"]:
            session.warn(f"{title}: {contender} lost {result['lost']:.0f} messages")

    def _quiet(
        self, session: Session, labs: dict[str, Gateway], prefix: str, protocol: str
    ) -> None:
        title = f"{protocol.upper()} ping-pong, quiet"
        for number in session.each_round(_step(session.profile) * len(labs)):
            for name, gateway in labs.items():
                session.display.show(title, f"{name}, round {number + 1}")
                with session.tolerating(f"{title}, {name}"):
                    result = ping(session, gateway, protocol=protocol)
                    self._record(session, prefix, title, name, result)
                session.display.advance(_step(session.profile))

    def _loaded(self, session: Session, labs: dict[str, Gateway]) -> None:
        if KERNEL not in labs:
            session.warn("latency under load is left out: the load is half of what nft carries")
            return
        title = "TCP ping-pong, loaded"
        rate = self._capacity(session, labs[KERNEL]) / 2
        for number in session.each_round((_step(session.profile) + WORKER_SECONDS) * len(labs)):
            for name, gateway in labs.items():
                session.display.show(title, f"{name}, round {number + 1}")
                load = replace(
                    sender(gateway, 2, address=addresses.BLACK_HOLE, frame_bytes=64),
                    rate_per_second=int(rate),
                    batch=16,
                )
                with session.tolerating(f"{title}, {name}"), Worker(load) as worker:
                    worker.start()
                    result = ping(session, gateway, protocol="tcp", warm_up_seconds=0.2)
                    reached = worker.stop()
                    self._record(session, "latency_loaded", title, name, result)
                    if reached["sent"] < 0.9 * rate * reached["seconds"]:
                        session.warn(f"{title}, {name}: the load fell short of what was meant")
                session.display.advance(_step(session.profile) + WORKER_SECONDS)

    @staticmethod
    def _capacity(session: Session, kernel: Gateway) -> float:
        """Packets per second that the kernel's NAT carries, from this run if it was measured."""
        measured = session.measurements.get(CALIBRATION)
        median = measured.median(KERNEL) if measured else None
        if median:
            return median
        return udp_rate(session, kernel, senders=1, frame_bytes=64, sink="drop").delivered

    def _scraped(self, session: Session, gateway: HyperplaneNat) -> None:
        """One of ours; the flows that are listed stay in its table."""
        profile = session.profile
        session.display.show("filling a table for the listing")
        held = fill(gateway, sockets=LISTED_SOCKETS, ports=LISTED_PORTS, wanted=LISTED_FLOWS)
        if held < LISTED_FLOWS:
            session.warn(f"the table that is listed holds {held} flows, not {LISTED_FLOWS}")
        session.display.advance(FILL_SECONDS)
        scrape = jobs.Scrape(
            url=gateway.status()["metrics_url"], interval_seconds=1 / SCRAPES_PER_SECOND
        )
        listing = jobs.Repeat(
            command=gateway.command("flows", "--json"), interval_seconds=LISTING_SECONDS
        )
        watch = jobs.Watch(command=gateway.command("ui"), lab=gateway.lab, streams=PAGES)
        with echo_server(gateway):
            for number in session.each_round(_pair_step(profile)):
                session.display.show("TCP ping-pong, looked at", f"round {number + 1}")
                with session.tolerating("latency while looked at"):
                    self._quiet_and_busy(session, gateway, scrape, listing)
                    self._watched(session, gateway, watch)
                session.display.advance(_pair_step(profile))

    def _watched(self, session: Session, gateway: Gateway, watch: jobs.Watch) -> None:
        seconds = session.profile.scraped_seconds
        with Worker(watch) as pages:
            pages.start()
            watched = ping(session, gateway, protocol="tcp", seconds=seconds)
            if not pages.stop()["messages"]:
                raise BenchError("a page got no message")
        title = f"TCP ping-pong, 100 k flows, {PAGES} pages open"
        self._record(session, "latency_watched", title, gateway.name, watched)

    def _quiet_and_busy(
        self, session: Session, gateway: Gateway, scrape: jobs.Scrape, listing: jobs.Repeat
    ) -> None:
        seconds = session.profile.scraped_seconds
        quiet = ping(session, gateway, protocol="tcp", seconds=seconds)
        with Worker(scrape) as scraper, Worker(listing) as lister:
            scraper.start()
            lister.start()
            # The first call is under way, its interpreter started, when the clock starts.
            time.sleep(0.2)
            busy = ping(session, gateway, protocol="tcp", seconds=seconds)
            scraped, listed = scraper.stop(), lister.stop()
        if scraped["count"] < 0.8 * seconds * SCRAPES_PER_SECOND or not listed["count"]:
            raise BenchError(f"{scraped['count']} scrapes and {listed['count']} listings only")
        if listed["failed"]:
            raise BenchError(f"{listed['failed']} calls of flows --json failed")
        self._record(session, "latency_idle", "TCP ping-pong, 100 k flows", gateway.name, quiet)
        title = "TCP ping-pong, 100 k flows, scraped and listed"
        self._record(session, "latency_scraped", title, gateway.name, busy)


def _step(profile: Profile) -> float:
    return 0.1 + profile.latency_seconds + WORKER_SECONDS


def _pair_step(profile: Profile) -> float:
    return 3 * (profile.scraped_seconds + WORKER_SECONDS) + 5 * WORKER_SECONDS
