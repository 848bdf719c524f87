# SPDX-License-Identifier: Apache-2.0
"""Lists of TCP options that anybody may have written: what is read of them, and what never is."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine import scenario
from tests.engine.compiled import EngineTarget
from tests.engine.connection import ACK, RST, SYN, SYNACK, Connection
from tests.engine.pair import Pair
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.engine.traffic import frame_in
from tests.reference import packet

MTU = 1400
MSS = bytes.fromhex("020405b4")
SCALE = b"\x03\x03\x07"
SETUP = scenario.Setup(interface_mtu=MTU)
BEHIND = MSS + SCALE
"""Options that are seen when the walk comes to them."""

option = st.one_of(
    st.sampled_from(
        (b"\0", b"\x01", MSS, SCALE, b"\x02\x03\xff", b"\x03\x02", b"\x03\x04\x0e\x0e")
    ),
    st.builds(lambda kind, size: bytes((kind, size)), st.integers(2, 4), st.integers(0, 44)),
    st.binary(min_size=1, max_size=6),
)
option_lists = st.lists(option, max_size=10).map(lambda parts: b"".join(parts)[:40])


def padded(options: bytes) -> bytes:
    """As many as fill words; what is added is a last option without its length."""
    return options + b"\x05" * (-len(options) % 4)


@settings(max_examples=200)
@given(ours=option_lists, theirs=option_lists)
def test_engine_reads_what_the_model_reads(ours: bytes, theirs: bytes) -> None:
    """The MSS is seen in the frame, the window scale in which resets are believed."""
    pair = Pair(SETUP)
    try:
        connection = Connection(pair)
        connection.send(INSIDE, SYN, options=padded(ours))
        connection.send(OUTSIDE, SYNACK, options=padded(theirs))
        connection.send(INSIDE, ACK, window=50)
        connection.send(OUTSIDE, RST, seq=9001 + 51)
        pair.compare_counters()
    finally:
        pair.close()


def seen(options: bytes) -> bool:
    """Whether the engine comes to the MSS option in this list."""
    target = EngineTarget(SETUP)
    ends = (scenario.ENVIRONMENT, scenario.WEB)
    segment = packet.tcp(*ends, 5000, 80, SYN, options=options)
    frame = frame_in(INSIDE, 1, packet.ipv4(*ends, packet.TCP, segment))
    target.translate(frame, INSIDE, 1, 0)
    clamped = target.count("mss_clamped")
    target.close()
    return clamped == 1


def test_lengths_that_cannot_be_end_the_walk() -> None:
    """0 and 1 would never get past the option; others would leave the header."""
    assert seen(b"\x05\x02" + BEHIND + b"\0" * 3)
    assert not seen(b"\x05\x00" + BEHIND + b"\0" * 3)
    assert not seen(b"\x05\x01" + BEHIND + b"\0" * 3)
    assert not seen(b"\x05\xff" + BEHIND + b"\0" * 3)
    assert not seen(b"\x05\x0d" + BEHIND + b"\0" * 3)
    assert not seen(b"\0\0" + BEHIND + b"\0" * 3)


def test_an_option_at_the_end_without_room_for_its_length() -> None:
    """The byte that follows is the payload's, and is not read as a length."""
    assert seen(MSS + b"\x01\x01\x01\x02")
    assert not seen(b"\x01\x01\x01\x02")
    assert not seen(b"\x01\x01\x02\x04")
