# SPDX-License-Identifier: Apache-2.0
"""Every state, every segment, both directions: the whole transition table, through packets.

`=` stays, a state's name changes to it, `!` drops (`!idle` with a reset), `+` opens anew. What
follows the slash tells whether the flow's clock is set: `r` refreshed, `-` not.
"""

import pytest

from tests.engine import scenario
from tests.engine.connection import SEGMENTS, SYNACK, Connection
from tests.engine.pair import Pair
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import Timeouts, packet

TABLE = """
state         side     SYN             SYNACK          ACK             FIN             RST
SYN_SENT      inside   =/r             SYN_RECEIVED/r  =/r             =/r             =/-
SYN_SENT      outside  SYN_RECEIVED/r  SYN_RECEIVED/r  =/-             =/-             RESET/r
SYN_RECEIVED  inside   =/r             =/r             ESTABLISHED/r   FIN_INSIDE/r    RESET/r
SYN_RECEIVED  outside  =/r             =/r             =/r             FIN_OUTSIDE/r   RESET/r
ESTABLISHED   inside   =/r             =/r             =/r             FIN_INSIDE/r    RESET/r
ESTABLISHED   outside  !syn/-          =/r             =/r             FIN_OUTSIDE/r   RESET/r
FIN_INSIDE    inside   =/r             =/r             =/r             =/r             RESET/r
FIN_INSIDE    outside  !syn/-          =/r             =/r             FIN_BOTH/r      RESET/r
FIN_OUTSIDE   inside   =/r             =/r             =/r             FIN_BOTH/r      RESET/r
FIN_OUTSIDE   outside  !syn/-          =/r             =/r             =/r             RESET/r
FIN_BOTH      inside   =/r             =/r             =/r             =/r             RESET/r
FIN_BOTH      outside  !syn/-          =/r             TIME_WAIT/r     =/r             RESET/r
TIME_WAIT     inside   =/r             =/-             =/-             =/-             =/-
TIME_WAIT     outside  !syn/-          =/-             =/-             =/-             =/-
RESET         inside   =/r             =/r             =/r             =/r             =/-
RESET         outside  !syn/-          =/r             =/r             =/r             =/-
HELD          inside   +SYN_SENT/r     !idle/-         !idle/-         !idle/-         !no_flow/-
HELD          outside  !held/-         !held/-         !held/-         !held/-         !held/-
"""

DROPS = {
    "!no_flow": ("drop", "tcp_no_flow"),
    "!held": ("drop", "flow_held"),
    "!syn": ("drop", "tcp_syn_unsolicited"),
    "!idle": ("reply", None),
}

CASES = [
    (state, side, segment, cell)
    for state, side, *cells in (line.split() for line in TABLE.split("\n")[2:-1])
    for segment, cell in zip(SEGMENTS, cells, strict=True)
]

SETUP = scenario.Setup(
    timeouts=Timeouts(
        tcp_opening=60_000,
        tcp_established=61_000,
        tcp_half_closed=62_000,
        tcp_closing=63_000,
        hold=64_000,
        tcp_reset=64_000,
    )
)


def test_table_is_whole() -> None:
    assert len(CASES) == 9 * 2 * 5


@pytest.mark.requirement("RFC5382-2", profile="both")
@pytest.mark.parametrize(("state", "side", "segment", "cell"), CASES)
def test_transition(state: str, side: str, segment: str, cell: str) -> None:
    pair = Pair(SETUP)
    connection = Connection(pair)
    connection.bring_to(state)
    entry = connection.entry
    assert entry is not None
    before, port, packets = entry.last_seen, entry.nat_port, entry.packets_out + entry.packets_in
    pair.now += 5
    # The peer's acknowledgement makes a reset the next octet it expects.
    newer = 70_000 if segment == "SYN" else None
    result = connection.send(scenario.SIDES[side], SEGMENTS[segment], seq=newer)

    expected, clock = cell.split("/")
    (flow,) = pair.target.flows()
    if expected in DROPS:
        assert (result.action, result.reason) == DROPS[expected]
        assert flow[1] == state
    else:
        assert result.action == "forward"
        assert flow[1] == (state if expected == "=" else expected.lstrip("+"))
    assert flow[15] == (pair.now if clock == "r" else before)
    assert flow[9] == port
    total = flow[10] + flow[12]
    assert total == (1 if expected[0] == "+" else packets if expected[0] == "!" else packets + 1)
    pair.compare_counters()
    pair.close()


AGAIN = ("SYN_SENT", "SYN_RECEIVED", "ESTABLISHED", "FIN_INSIDE", "FIN_OUTSIDE", "FIN_BOTH")


@pytest.mark.requirement("RFC5382-2", profile="both")
@pytest.mark.parametrize("state", [*AGAIN, "TIME_WAIT", "RESET"])
@pytest.mark.parametrize("distance", [-300_000_000, -9, 1, 99, (1 << 31) - 1, 1 << 31])
def test_the_answer_to_a_syn_begins_another_connection(state: str, distance: int) -> None:
    """Whatever its sequence number: whether it may is for its receiver to say (RFC 6191)."""
    pair = Pair(SETUP)
    connection = Connection(pair, start=(0xFFFFFFF0, 9000))
    connection.bring_to(state)
    entry = connection.entry
    assert entry is not None
    number = entry.tracker.directions[INSIDE].seq_end + distance & 0xFFFFFFFF
    port, created = entry.nat_port, entry.created
    pair.now += 5
    assert connection.send(INSIDE, packet.SYN, seq=number).action == "forward"
    assert (connection.state, entry.created) == (state, created)
    for wrong in (number, number + 2):
        connection.send(OUTSIDE, SYNACK, seq=777, ack=wrong & 0xFFFFFFFF)
        assert (connection.state, entry.created) == (state, created)
    pair.now += 5
    connection.send(OUTSIDE, SYNACK, seq=777, ack=number + 1 & 0xFFFFFFFF)
    (flow,) = pair.target.flows()
    assert (flow[1], flow[9], flow[10], flow[12], flow[14]) == (
        "SYN_RECEIVED",
        port,
        0,
        1,
        pair.now,
    )
    connection.send(INSIDE, packet.ACK, seq=number + 1 & 0xFFFFFFFF, ack=778)
    assert connection.state == "ESTABLISHED"
    # The numbers are the new connection's: old ones reset nothing, new ones do.
    assert connection.send(OUTSIDE, packet.RST, seq=9002).reason == "tcp_rst_window"
    assert connection.send(OUTSIDE, packet.RST, seq=778).action == "forward"
    assert connection.state == "RESET"
    assert pair.target.count("flows_created_tcp") == 2
    assert pair.target.count("flows_ended_tcp_replaced") == (state in AGAIN)
    pair.compare_counters()
    pair.close()


LIVE = [
    state for state, side, *_ in CASES if side == "inside" and state not in ("HELD", "SYN_SENT")
]


@pytest.mark.requirement("RFC7857-2.2", profile="both")
@pytest.mark.parametrize("side", [INSIDE, OUTSIDE])
@pytest.mark.parametrize("state", sorted(set(LIVE)))
@pytest.mark.parametrize("wrap", [False, True])
def test_reset_is_believed_in_window_only(state: str, side: int, wrap: bool) -> None:
    start = (0xFFFFFE00, 0xFFFFFF00) if wrap else (1000, 9000)
    for offset, believed in ((-1, False), (0, True), (1000, True), (1001, False), (1 << 31, False)):
        pair = Pair(SETUP)
        connection = Connection(pair, start=start)
        connection.bring_to(state)
        entry = connection.entry
        assert entry is not None
        peer = entry.tracker.directions[1 - side]
        if not peer.ack_seen:
            # Nothing acknowledged yet: only the very next octet is believed.
            believed = offset == 0
            base = entry.tracker.directions[side].seq_end
        else:
            base = peer.ack
        result = connection.send(side, packet.RST, seq=base + offset)
        # An end in SYN_RECEIVED refuses so what does not acknowledge its SYN: the environment may.
        refusal = (state, side) == ("SYN_RECEIVED", INSIDE)
        assert (result.action == "forward") == (believed or refusal), offset
        if not believed:
            assert result.reason == (None if refusal else "tcp_rst_window")
            assert connection.state == state
        elif state != "TIME_WAIT":
            assert connection.state == "RESET"
        pair.close()


@pytest.mark.parametrize("inside_scale", [None, 0, 3, 14, 15, 255])
@pytest.mark.parametrize("outside_scale", [None, 0, 7])
def test_window_scale(inside_scale: int | None, outside_scale: int | None) -> None:
    """RFC 7323: scaled when both offer, 14 at most, never in a segment with SYN."""

    def option(scale: int | None) -> bytes:
        return b"" if scale is None else bytes((1, 3, 3, scale))

    both = inside_scale is not None and outside_scale is not None
    window = 50 << min(inside_scale or 0, 14) if both else 50
    for offset, believed in ((window, True), (window + 1, False)):
        pair = Pair(SETUP)
        connection = Connection(pair)
        connection.send(INSIDE, packet.SYN, options=option(inside_scale))
        connection.send(OUTSIDE, packet.SYN | packet.ACK, options=option(outside_scale), window=3)
        # The window of the SYN-ACK is not scaled.
        connection.send(INSIDE, packet.RST, seq=1001 + 4)
        assert connection.state == "SYN_RECEIVED"
        connection.send(INSIDE, packet.ACK, window=50)
        result = connection.send(OUTSIDE, packet.RST, seq=9001 + offset)
        assert (result.action == "forward") == believed
        pair.close()


@pytest.mark.parametrize("flags", range(64))
def test_flags(flags: int) -> None:
    """Of all combinations only those an end sends pass; PSH and URG do not matter."""
    pair = Pair(SETUP)
    connection = Connection(pair)
    connection.bring_to("ESTABLISHED")
    control = flags & (packet.SYN | packet.ACK | packet.FIN | packet.RST)
    result = connection.send(OUTSIDE, flags)
    valid = {0x02, 0x12, 0x10, 0x11, 0x01, 0x04, 0x14}
    assert (result.reason == "tcp_flags") == (control not in valid)
    pair.close()
