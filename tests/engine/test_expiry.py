# SPDX-License-Identifier: Apache-2.0
"""Timers on a clock of our own: exact, bounded by a budget, and across the wrap of 2^32 ms."""

import random

import pytest

from hyperplane_nat.engine import Timeouts as EngineTimeouts
from tests.engine import scenario, traffic
from tests.engine.compiled import EngineTarget, first_link
from tests.engine.connection import Connection
from tests.engine.pair import Pair
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import Behaviour, Ports, Timeouts, packet

TIMEOUTS = Timeouts(
    tcp_opening=1100,
    tcp_established=1500,
    tcp_half_closed=1400,
    tcp_closing=1300,
    udp=1200,
    icmp=1000,
    hold=900,
    tcp_reset=800,
)
TCP_TIMEOUT = {
    "SYN_SENT": 1100,
    "SYN_RECEIVED": 1100,
    "ESTABLISHED": 1500,
    "FIN_INSIDE": 1400,
    "FIN_OUTSIDE": 1400,
    "FIN_BOTH": 1300,
    "TIME_WAIT": 900,
    "RESET": 800,
}
NIL = 0xFFFFFFFF

STARTS = [0, 5, (1 << 31) - 700, (1 << 32) - 1, (1 << 32) - 700, (1 << 32) - 2000, (1 << 33) - 9]


@pytest.mark.requirement("RFC7857-2.1", profile="both")
@pytest.mark.requirement("RFC7857-2.2", profile="aws")
@pytest.mark.requirement("RFC5382-5", profile="aws")
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("state", TCP_TIMEOUT)
def test_tcp_state_lasts_its_time(state: str, start: int) -> None:
    pair = Pair(scenario.Setup(timeouts=TIMEOUTS), now=start)
    Connection(pair).bring_to(state)
    pair.now += TCP_TIMEOUT[state] - 1
    assert pair.expire(10) == 0
    pair.now += 1
    assert pair.expire(10) == 1
    states = {flow[1] for flow in pair.target.flows()}
    assert states == (set() if state in ("TIME_WAIT", "RESET") else {"HELD"})
    if states:
        pair.now += 899
        assert pair.expire(10) == 0
        pair.now += 1
        assert pair.expire(10) == 1
    assert pair.target.flows() == set()
    assert pair.engine.next_deadline() is None
    pair.compare_counters()
    pair.close()


@pytest.mark.parametrize("start", STARTS)
def test_udp_and_icmp_last_their_time(start: int) -> None:
    pair = Pair(scenario.Setup(timeouts=TIMEOUTS), now=start)
    pair.translate(traffic.datagram(1, 5000), INSIDE, 1)
    message = packet.echo(packet.ECHO_REQUEST, 7, 1)
    body = packet.ipv4(scenario.ENVIRONMENT, scenario.WEB, packet.ICMP, message)
    pair.translate(traffic.frame_in(INSIDE, 1, body), INSIDE, 1)
    for step, ended in ((999, 0), (1, 1), (199, 0), (1, 1), (699, 0), (1, 1), (199, 0), (1, 1)):
        pair.now += step
        assert pair.expire(10) == ended
    assert pair.target.flows() == set()
    pair.close()


@pytest.mark.parametrize("start", [0, (1 << 32) - 3000])
@pytest.mark.parametrize("pause", [1, 100, 999, 1499])
def test_a_flow_in_use_never_expires(start: int, pause: int) -> None:
    """For three wraps' worth of checks: what is refreshed stays, however often it is looked at."""
    pair = Pair(scenario.Setup(timeouts=TIMEOUTS), now=start)
    connection = Connection(pair)
    connection.bring_to("ESTABLISHED")
    for number in range(60):
        pair.now += pause
        assert pair.expire(10) == 0
        connection.send(number % 2, packet.ACK)
    assert connection.state == "ESTABLISHED"
    pair.close()


def test_late_packets_meet_an_ended_flow() -> None:
    """A flow ends at its deadline, not when somebody calls expire: late data is refused."""
    pair = Pair(scenario.Setup(timeouts=TIMEOUTS))
    connection = Connection(pair)
    connection.bring_to("ESTABLISHED")
    pair.now += 1500
    assert connection.send(OUTSIDE, packet.ACK).reason == "flow_held"
    assert connection.send(INSIDE, packet.RST).reason == "tcp_no_flow"
    assert connection.send(INSIDE, packet.ACK).action == "reply"
    pair.now += 900
    assert connection.send(OUTSIDE, packet.ACK).reason == "no_flow"
    pair.compare_counters()
    pair.close()


@pytest.mark.parametrize("budget", [1, 2, 7, 100])
def test_budget(budget: int) -> None:
    """No call looks at more than its budget; calls together end all that is due."""
    setup = scenario.Setup(flows_max=64, ports=Ports(40000, 40063, 64), timeouts=TIMEOUTS)
    pair = Pair(setup)
    for number in range(64):
        pair.translate(traffic.datagram(1, 5000 + number), INSIDE, 1)
    pair.now = 1200
    calls = 0
    while any(flow[1] != "HELD" for flow in pair.target.flows()):
        ended = pair.expire(budget)
        assert 0 < ended <= budget
        calls += 1
    assert calls == -(-64 // budget)
    assert pair.expire(1000) == 0
    pair.compare_counters()
    pair.close()


def test_many_of_one_tick_that_are_not_due_yet() -> None:
    """More than the budget in the present tick: none is met twice before all were met once."""
    setup = scenario.Setup(flows_max=64, ports=Ports(40000, 40063, 64), timeouts=TIMEOUTS)
    pair = Pair(setup, now=10)
    for number in range(64):
        pair.translate(traffic.datagram(1, 5000 + number), INSIDE, 1)
    due = 10 + TIMEOUTS.udp
    begin = pair.engine.next_deadline()
    assert begin is not None
    assert begin < due - 1
    rounds = [[pair.engine.expire(now, 7) for _ in range(10)] for now in (begin, due - 1)]
    assert rounds == [[7] * 9 + [1]] * 2
    # A round that is under way when they are due does not hide those it has met before.
    pair.now = due - 1
    assert [pair.expire(7) for _ in range(2)] == [0, 0]
    pair.now = due
    calls = 0
    while any(flow[1] != "HELD" for flow in pair.target.flows()):
        pair.expire(7)
        calls += 1
    assert calls == 8 + 2
    pair.compare_counters()
    pair.close()


def test_deadlines_lead_to_the_end() -> None:
    """Sleeping until each deadline ends every flow in few calls."""
    setup = scenario.Setup(flows_max=64, ports=Ports(40000, 40063, 64), timeouts=TIMEOUTS)
    start = (1 << 32) - 900
    pair = Pair(setup, now=start)
    source = random.Random(3)
    for number in range(60):
        pair.now += source.randrange(18)
        frame = traffic.datagram(1, 5000 + number)
        pair.engine.translate(frame, INSIDE, 1, pair.now)
        pair.model.translate(frame, INSIDE, 1, pair.now, nat_port=_nat_port(pair, number))
    pair.compare_flows()
    calls = 0
    while (deadline := pair.engine.next_deadline()) is not None:
        # A deadline may be early, never late: the wheel's slots are coarser than a millisecond.
        pair.now = max(deadline, pair.now + 1)
        pair.expire(10_000)
        calls += 1
        assert calls < 1500
    assert pair.target.flows() == set()
    pair.close()


def _nat_port(pair: Pair, number: int) -> int:
    (port,) = [flow.nat_port for flow in pair.engine.flows() if flow.inside_port == 5000 + number]
    return port


@pytest.mark.parametrize("hours", [1, 24, 24 * 20])
def test_long_timeouts(hours: int) -> None:
    """RFC 5382 REQ-5 asks for hours; the clock's half turn of 24 days is the bound."""
    milliseconds = hours * 3_600_000
    pair = Pair(scenario.Setup(timeouts=Timeouts(udp=milliseconds, hold=milliseconds)), now=77)
    pair.translate(traffic.datagram(1, 5000), INSIDE, 1)
    for _ in range(2):
        pair.now += milliseconds - 1
        assert pair.expire(10) == 0
        pair.now += 1
        assert pair.expire(10) == 1
    assert pair.target.flows() == set()
    pair.close()


def test_idle_engine_has_no_deadline() -> None:
    target = EngineTarget(scenario.Setup())
    assert target.engine.next_deadline() is None
    assert target.engine.expire(1 << 40) == 0
    target.close()


DAY_MS = 86_400_000


def test_a_mapping_whose_last_flow_ends_in_its_own_tick() -> None:
    """A mapping is looked at once a day.  Here its last flow ends in the round in which it was met
    and not due: it has one timer all the same, and the round ends.
    """
    setup = scenario.Setup(
        flows_max=64,
        ports=Ports(40000, 40063, 55_000),
        timeouts=Timeouts(udp=300_000, hold=60_000),
        behaviour=Behaviour(endpoint_independent=True),
    )
    start = (2 - 86_720_000) % 64
    target = EngineTarget(setup, now=start)
    engine = target.engine
    # One flow goes on for a day; a second one ends soon, and from then on the mapping is looked at.
    packets = {start + 290_000 * number: 7 for number in range(299)} | {start + 20_040: 9}
    tick = start + 20_040 + 300_000 + DAY_MS - 42
    assert max(packets) + 300_000 == tick + 2
    for now in sorted({*packets, *range(start, tick - 64, 64_000)}):
        engine.expire(now, 1000)
        if now in packets:
            traffic.opened(engine, 1, 5000, now, remote_port=packets[now])
        if (due := engine.next_deadline()) is not None:
            engine.expire(max(now, min(due, tick - 64)), 1000)
    assert len(engine.flows()) == 1
    for now in (tick + 10, tick + 20, tick + 64):
        assert engine.expire(now, 1000) < 1000
        assert engine.verify() == []
    assert engine.flows() == []
    assert [each.state for each in engine.mappings()] == ["HELD"]
    for number in range(8):
        traffic.opened(engine, 1, 6001 + number, now)
    for _ in range(20):
        now += 61_000
        assert engine.expire(now, 1000) < 1000
        assert engine.verify() == []
    assert engine.flows() == []
    assert engine.mappings() == []
    target.close()


def test_verify_finds_a_flow_that_is_in_two_lists() -> None:
    setup = scenario.Setup(flows_max=64, ports=Ports(40000, 40063, 64), timeouts=TIMEOUTS)
    target = EngineTarget(setup)
    for number in range(3):
        traffic.opened(target.engine, 1, 5000 + number, number * 100)
    assert target.problems() == []
    following = first_link(target.engine)
    assert following.value == NIL
    # The end of one list leads to the flow of another.
    following.value = 2
    assert any("in another place" in line for line in target.problems())
    following.value = NIL
    assert target.problems() == []
    target.close()


@pytest.mark.parametrize("late", [0, 647, 5_000, DAY_MS, 10 * DAY_MS])
def test_the_longest_timeout_ends_however_late_it_is_noticed(late: int) -> None:
    """Beyond 2^31 ms, where a 32-bit difference has another sign."""
    longest = 2**31 - 1
    target = EngineTarget(scenario.Setup(timeouts=Timeouts(udp=longest, hold=1000)), now=7)
    engine = target.engine
    traffic.opened(engine, 1, 5000, 7)
    now = 7
    while now + 500_000 < 7 + longest:
        now += 500_000
        engine.expire(now, 10)
    assert [flow.state for flow in engine.flows()] == ["UDP"]
    engine.expire(7 + longest + late, 10)
    assert [flow.state for flow in engine.flows()] == ([] if late >= 1000 else ["HELD"])
    assert engine.verify() == []
    target.close()


def test_a_timeout_that_32_bits_cannot_tell_is_refused() -> None:
    with pytest.raises(ValueError, match="timeout udp is not from 0 to 2147483647 ms"):
        EngineTimeouts(udp=2**31)
    with pytest.raises(ValueError, match="timeout hold"):
        EngineTimeouts(hold=-1)


@pytest.mark.parametrize("budget", [1, 10, 1000])
def test_other_timeouts_hold_for_flows_there_are(budget: int) -> None:
    """Shorter or longer: each flow ends at the new deadline, and no call exceeds its budget."""
    setup = scenario.Setup(flows_max=256, ports=Ports(40000, 40255, 256), timeouts=TIMEOUTS)
    target = EngineTarget(setup)
    engine = target.engine
    for number in range(200):
        traffic.opened(engine, 1, 5000 + number, number)
    for udp, now in ((100_000_000, 300), (700, 800)):
        engine.configure(timeouts_ms=EngineTimeouts(udp=udp, hold=900), now_ms=now)
        assert engine.next_deadline() is not None
        assert engine.verify() == []
        # Each entry for its timer, then each flow whose tick has come.
        for _ in range(-(-600 // budget)):
            assert engine.expire(now, budget) <= budget
        assert engine.verify() == []
        ended = {flow.inside_port - 5000 for flow in engine.flows() if flow.state == "HELD"}
        assert ended == {number for number in range(200) if number + udp <= now}
    engine.expire(899, 10_000)
    ended = {flow.inside_port - 5000 for flow in engine.flows() if flow.state == "HELD"}
    assert ended == set(range(200))
    target.close()
