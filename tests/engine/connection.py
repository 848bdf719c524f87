# SPDX-License-Identifier: Apache-2.0
"""One TCP connection through engine and model, and how to bring it into each state."""

from tests.engine import scenario
from tests.engine.pair import Pair
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import Result, packet
from tests.reference.flow import Entry

SYN = packet.SYN
SYNACK = packet.SYN | packet.ACK
ACK = packet.ACK
FIN = packet.FIN | packet.ACK
RST = packet.RST | packet.ACK

SEGMENTS = {"SYN": SYN, "SYNACK": SYNACK, "ACK": ACK, "FIN": FIN, "RST": RST}

PATHS: dict[str, tuple[tuple[int, int], ...]] = {
    "SYN_SENT": ((INSIDE, SYN),),
    "SYN_RECEIVED": ((INSIDE, SYN), (OUTSIDE, SYNACK)),
    "ESTABLISHED": ((INSIDE, SYN), (OUTSIDE, SYNACK), (INSIDE, ACK)),
    "FIN_INSIDE": ((INSIDE, SYN), (OUTSIDE, SYNACK), (INSIDE, ACK), (INSIDE, FIN)),
    "FIN_OUTSIDE": ((INSIDE, SYN), (OUTSIDE, SYNACK), (INSIDE, ACK), (OUTSIDE, FIN)),
    "FIN_BOTH": (
        (INSIDE, SYN),
        (OUTSIDE, SYNACK),
        (INSIDE, ACK),
        (OUTSIDE, FIN),
        (INSIDE, FIN),
    ),
    "TIME_WAIT": (
        (INSIDE, SYN),
        (OUTSIDE, SYNACK),
        (INSIDE, ACK),
        (OUTSIDE, FIN),
        (INSIDE, FIN),
        (OUTSIDE, ACK),
    ),
    "RESET": ((INSIDE, SYN), (OUTSIDE, SYNACK), (INSIDE, ACK), (OUTSIDE, RST)),
}
"""The segments that bring a new connection into a state."""


class Connection:
    """Slot 1 talks to WEB:80.  Sequence numbers default to those that come next."""

    def __init__(self, pair: Pair, *, start: tuple[int, int] = (1000, 9000)) -> None:
        self.pair = pair
        self.start = start

    @property
    def entry(self) -> Entry | None:
        """The model's view of the flow."""
        return next(iter(self.pair.model.inside.values()), None)

    @property
    def state(self) -> str:
        entry = self.entry
        return entry.state.name if entry is not None else "FREE"

    def send(
        self,
        side: int,
        flags: int,
        *,
        seq: int | None = None,
        ack: int | None = None,
        window: int = 1000,
        options: bytes = b"",
        payload: bytes = b"",
        remote: tuple[str, int] = (scenario.WEB, 80),
    ) -> Result:
        """One segment from a side; engine and model are compared.

        Numbers and the NAT port are those of the first flow, whoever the remote end is.
        """
        entry = self.entry
        if entry is None:
            next_seq, next_ack, nat_port = self.start[0], 0, 0
        else:
            mine = entry.tracker.directions[side]
            theirs = entry.tracker.directions[1 - side]
            next_seq = mine.seq_end if mine.seen else self.start[side]
            next_ack = theirs.seq_end
            nat_port = entry.nat_port
        if side == INSIDE:
            ends = (scenario.ENVIRONMENT, remote[0], 5000, remote[1])
            port = 1
        else:
            ends = (remote[0], scenario.INTERFACE_ADDRESSES[0], remote[1], nat_port)
            port = 0
        segment = packet.tcp(
            *ends,
            flags,
            seq=next_seq if seq is None else seq,
            ack=next_ack if ack is None else ack,
            window=window,
            options=options,
            payload=payload,
        )
        ours, theirs_mac = scenario.ethernet_addresses(side, port)
        body = packet.ipv4(ends[0], ends[1], packet.TCP, segment)
        frame = packet.ethernet(ours, theirs_mac, packet.ETHERTYPE_IPV4, body)
        return self.pair.translate(frame, side, port)

    def bring_to(self, state: str) -> None:
        """Send what leads to `state`; HELD is reached by letting an opening time out."""
        if state == "HELD":
            self.bring_to("SYN_SENT")
            self.pair.now += self.pair.model.timeouts.tcp_opening
            self.pair.expire(1000)
        else:
            for side, flags in PATHS[state]:
                self.pair.now += 1
                self.send(side, flags)
        assert self.state == state
