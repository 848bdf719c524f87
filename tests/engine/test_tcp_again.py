# SPDX-License-Identifier: Apache-2.0
"""Another connection on the same addresses and ports: who may begin it, and what it leaves.

The course of such connections is in vectors/tcp_again.toml.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperplane_nat.engine import DropReason
from hyperplane_nat.engine.readers.flow_record_ring import FlowRecordRing
from tests.engine import scenario
from tests.engine.compiled import deltas_of
from tests.engine.connection import ACK, RST, SYN, SYNACK, Connection
from tests.engine.pair import Pair
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import Behaviour, Policy, packet

OPEN = scenario.Setup(
    behaviour=Behaviour(endpoint_independent=True, filtering="endpoint_independent")
)
STATES = ("ESTABLISHED", "FIN_INSIDE", "FIN_OUTSIDE", "FIN_BOTH", "TIME_WAIT", "RESET")


def brought_to(state: str, setup: scenario.Setup) -> tuple[Pair, Connection]:
    pair = Pair(setup)
    connection = Connection(pair)
    connection.bring_to(state)
    return pair, connection


@pytest.mark.parametrize("state", STATES)
def test_groups_are_asked_at_the_syn(state: str) -> None:
    """A SYN that they refuse leaves the old state; its answer, were there one, begins nothing."""
    pair, connection = brought_to(state, scenario.Setup())
    pair.set_policy(0, Policy(egress=()))
    assert connection.send(INSIDE, SYN, seq=70_000).reason == "security_group_egress"
    connection.send(OUTSIDE, SYNACK, seq=5, ack=70_001)
    assert connection.state == state
    pair.set_policy(0, None)
    connection.send(INSIDE, SYN, seq=70_000)
    pair.set_policy(0, Policy(egress=()))
    connection.send(OUTSIDE, SYNACK, seq=5, ack=70_001)
    assert connection.state == "SYN_RECEIVED"
    pair.compare_counters()
    pair.close()


def test_groups_are_asked_at_the_answer_to_a_syn_from_outside() -> None:
    pair, connection = brought_to("TIME_WAIT", OPEN)
    pair.set_policy(0, Policy(egress=()))
    assert connection.send(OUTSIDE, SYN, seq=70_000).action == "forward"
    assert connection.send(INSIDE, SYNACK, ack=70_001).reason == "security_group_egress"
    assert connection.state == "TIME_WAIT"
    pair.close()


@pytest.mark.parametrize("state", ["SYN_SENT", *STATES])
def test_a_flood_of_syns_leaves_the_last(state: str) -> None:
    pair, connection = brought_to(state, scenario.Setup())
    for number in range(200):
        connection.send(INSIDE, SYN, seq=1_000_000 * number)
    assert pair.target.count("flows_entries_used") == 1
    connection.send(OUTSIDE, SYNACK, seq=5, ack=198_000_001)
    assert connection.state == state
    connection.send(OUTSIDE, SYNACK, seq=5, ack=199_000_001)
    assert connection.state == "SYN_RECEIVED"
    pair.close()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("setup", [scenario.Setup(), OPEN], ids=["closed", "open"])
def test_a_blind_reset_stays_judged(state: str, setup: scenario.Setup) -> None:
    """Neither a SYN from inside nor one of its own lets a reset from outside pass out of window."""
    pair, connection = brought_to(state, setup)
    connection.send(INSIDE, SYN, seq=70_000)
    for seq, ack in ((5, 70_000), (5, 70_002), (70_001, 0), (9_000, 0)):
        assert connection.send(OUTSIDE, RST, seq=seq, ack=ack).reason == "tcp_rst_window"
    assert connection.send(OUTSIDE, packet.RST, seq=5, ack=70_001).reason == "tcp_rst_window"
    assert connection.send(OUTSIDE, RST, seq=5, ack=70_001).action == "forward"
    assert connection.state == state
    pair.close()
    pair, connection = brought_to(state, setup)
    connection.send(OUTSIDE, SYN, seq=70_000)
    assert connection.send(OUTSIDE, RST, seq=70_001).reason == "tcp_rst_window"
    assert connection.state == state
    pair.close()


@pytest.mark.parametrize("state", STATES)
def test_nobody_outside_takes_the_place_of_a_syn_from_inside(state: str) -> None:
    pair, connection = brought_to(state, OPEN)
    connection.send(INSIDE, SYN, seq=70_000)
    for number in range(20):
        connection.send(OUTSIDE, SYN, seq=number)
    connection.send(OUTSIDE, SYNACK, seq=5, ack=70_001)
    assert connection.state == "SYN_RECEIVED"
    pair.close()


@pytest.mark.parametrize("state", ["ESTABLISHED", "TIME_WAIT", "HELD"])
def test_nobody_outside_keeps_a_port(state: str) -> None:
    """SYNs from outside prolong nothing, where their sender may open and where not."""
    for setup in (scenario.Setup(), OPEN):
        pair, connection = brought_to(state, setup)
        entry = connection.entry
        assert entry is not None
        end = entry.last_seen + 1000 * 1000
        while connection.entry is not None and pair.now < end:
            pair.now += 30_000
            if pair.expire(1000) == 0:
                connection.send(OUTSIDE, SYN, seq=pair.now)
        assert connection.entry is None
        pair.close()


def test_the_scale_of_a_syn_from_outside_is_learnt_when_it_is_repeated() -> None:
    """Till then the largest is supposed, for resets of the environment itself."""
    pair, connection = brought_to("SYN_SENT", OPEN)
    remote = ("10.0.9.9", 99)
    scaled = bytes((1, 3, 3, 2))
    connection.send(OUTSIDE, SYN, seq=7000, options=scaled, remote=remote)
    connection.send(INSIDE, SYNACK, seq=500, ack=7001, options=scaled, remote=remote)
    connection.send(OUTSIDE, SYN, seq=7000, options=scaled, remote=remote)
    connection.send(INSIDE, SYNACK, seq=500, ack=7001, options=scaled, remote=remote)
    connection.send(OUTSIDE, ACK, seq=7001, ack=501, window=10, remote=remote)
    assert len(pair.target.flows()) == 2
    late = connection.send(INSIDE, packet.RST, seq=501 + 41, remote=remote)
    assert late.reason == "tcp_rst_window"
    assert connection.send(INSIDE, packet.RST, seq=501 + 40, remote=remote).action == "forward"
    pair.compare_counters()
    pair.close()


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[FlowRecordRing]:
    result = FlowRecordRing.create(tmp_path / "records", capacity=16, places_max=4)
    yield result
    result.close()


def test_a_replaced_connection_leaves_its_record(ring: FlowRecordRing) -> None:
    pair, connection = brought_to("ESTABLISHED", scenario.Setup())
    pair.engine.record_flows(ring.memory)
    connection.send(INSIDE, SYN, seq=70_000)
    pair.now += 5
    connection.send(OUTSIDE, SYNACK, seq=5, ack=70_001)
    deltas = deltas_of(pair.target.map)
    ((record,), unknown) = deltas.ended(ring.memory, 1000)
    assert (record.packets_out, record.packets_in, unknown) == (3, 1, set())
    (live,) = deltas.live(pair.target.map.memory, 0, pair.setup.flows_max, pair.now)
    assert (live.packets_out, live.packets_in, live.created_ms) == (0, 1, pair.now)
    assert pair.target.count("flows_active_tcp") == 1
    pair.engine.record_flows(None)
    pair.close()


def test_a_syn_that_may_not_open_is_told_as_refused(ring: FlowRecordRing) -> None:
    pair, connection = brought_to("TIME_WAIT", scenario.Setup())
    pair.engine.record_flows(ring.memory)
    connection.send(OUTSIDE, SYN, seq=70_000)
    ((record,), _) = deltas_of(pair.target.map).ended(ring.memory, 1000)
    assert record.reason == DropReason.TCP_SYN_UNSOLICITED
    pair.engine.record_flows(None)
    pair.close()
