# SPDX-License-Identifier: Apache-2.0
"""Arbitrary segments of one connection, with numbers near those the tracker compares."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine import scenario
from tests.engine.connection import SEGMENTS, Connection
from tests.engine.pair import Pair
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import Behaviour, Timeouts, packet

TIMEOUTS = Timeouts(
    tcp_opening=500,
    tcp_established=2000,
    tcp_half_closed=1500,
    tcp_closing=400,
    hold=300,
    tcp_reset=300,
)
SETUPS = (
    scenario.Setup(timeouts=TIMEOUTS),
    scenario.Setup(
        timeouts=TIMEOUTS,
        behaviour=Behaviour(endpoint_independent=True, filtering="endpoint_independent"),
    ),
)

offsets = st.sampled_from(
    (None, None, None, None, 0, 1, -1, 999, 1000, 1001, 4000, 4001, 1 << 31, (1 << 31) - 1)
)
segments = st.tuples(
    st.integers(0, 1),
    st.sampled_from((*SEGMENTS.values(), packet.SYN, packet.ACK, packet.FIN, packet.RST)),
    offsets,
    st.one_of(offsets, st.just("latest SYN"), st.just("latest SYN")),
    st.sampled_from((0, 1000, 1000, 65535)),
    st.sampled_from((b"", b"", bytes((3, 3, 2, 0)), bytes((3, 3, 14, 0)), bytes((8, 1, 3, 3)))),
    st.sampled_from((b"", b"", b"abc", bytes(100))),
    st.sampled_from((0, 0, 1, 1, 299, 300, 500, 2001)),
    st.booleans(),
)


@settings(max_examples=300)
@given(
    setup=st.sampled_from(SETUPS),
    inside=st.sampled_from((0, 1000, 0x7FFFFFF0, 0xFFFFFF00, 0xFFFFFFFF)),
    outside=st.sampled_from((0, 9000, 0x80000000, 0xFFFFFF00)),
    state=st.sampled_from(
        ("SYN_SENT", "SYN_RECEIVED", "ESTABLISHED", "FIN_BOTH", "TIME_WAIT", "RESET", "HELD")
    ),
    steps=st.lists(segments, max_size=30),
)
def test_engine_and_model_agree(
    setup: scenario.Setup,
    inside: int,
    outside: int,
    state: str,
    steps: list[tuple[int, int, int | None, int | str | None, int, bytes, bytes, int, bool]],
) -> None:
    pair = Pair(setup, now=(1 << 32) - 100)
    connection = Connection(pair, start=(inside, outside))
    connection.bring_to(state)
    for side, flags, seq_offset, ack_offset, window, options, payload, pause, expire in steps:
        pair.now += pause
        if expire:
            pair.expire(10)
        entry = connection.entry
        seq = ack = None
        if entry is not None:
            mine, theirs = entry.tracker.directions[side], entry.tracker.directions[1 - side]
            if seq_offset is not None:
                seq = (theirs.ack if flags & packet.RST else mine.seq_end) + seq_offset
            if isinstance(ack_offset, int):
                ack = theirs.seq_end + ack_offset
            elif ack_offset is not None and entry.tracker.syn is not None:
                ack = entry.tracker.syn.seq + 1
        connection.send(
            side,
            flags,
            seq=seq,
            ack=ack,
            window=window,
            options=options if flags & packet.SYN else b"",
            payload=payload,
        )
    pair.compare_counters()
    pair.close()


@settings(max_examples=200)
@given(
    answer=st.sampled_from((0, 9000, 0x7FFFFFF0, 0xFFFFFFFF)),
    late=st.lists(
        st.tuples(
            st.one_of(st.integers(1, (1 << 32) - 1), st.sampled_from((1, 2, 4000, 1 << 31))),
            st.sampled_from((packet.ACK, packet.FIN | packet.ACK)),
            st.booleans(),
        ),
        max_size=6,
    ),
)
def test_nothing_late_ends_what_opens(answer: int, late: list[tuple[int, int, bool]]) -> None:
    """Acknowledgements of an old connection, refused or not, leave the new one to be established.

    The responder has answered its SYN, and refuses each by a reset of exactly its number (RFC 9293
    section 3.10.7.4).
    """
    pair = Pair(scenario.Setup())
    connection = Connection(pair, start=(1000, 5))
    connection.bring_to("ESTABLISHED")
    connection.send(INSIDE, packet.SYN, seq=70_000)
    connection.send(OUTSIDE, packet.SYN | packet.ACK, seq=answer, ack=70_001)
    right = answer + 1 & 0xFFFFFFFF
    for distance, flags, refused in late:
        number = right + distance & 0xFFFFFFFF
        connection.send(INSIDE, flags, seq=1001, ack=number)
        assert connection.state == "SYN_RECEIVED"
        if refused:
            assert connection.send(OUTSIDE, packet.RST, seq=number).action == "forward"
            assert connection.state == "SYN_RECEIVED"
    connection.send(INSIDE, packet.ACK, seq=70_001, ack=right)
    assert connection.state == "ESTABLISHED"
    assert pair.target.count("flows_established_tcp") == 2
    assert pair.target.count("flows_ended_tcp_rst") == 0
    assert connection.send(OUTSIDE, packet.RST, seq=right).action == "forward"
    assert connection.state == "RESET"
    pair.compare_counters()
    pair.close()
