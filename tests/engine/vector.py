# SPDX-License-Identifier: Apache-2.0
"""Vectors as data: what a frame in a TOML table looks like on the wire.

A vector is a list of steps; a step is a frame with the link it arrives on and the clock, and what
is expected of it. The expected frame is written as what differs from the one that came in
(`out`), and is built with all lengths and checksums computed; so a vector states the result, not
the way to it. A field written "$name" stands for a port of the engine's choosing: the first
expectation to use it binds it, later steps use the same number.

`cut` makes a fragment of a packet: the packet is built as a whole, and `cut = [OFFSET, BYTES]` says
which part of its payload is in the frame. What leaves besides the expected frame is in a list,
`extra`.
`filled` makes a payload of so many bytes.

`gso_size` is the payload of a segment, of a frame that is yet to be segmented. `checksum_at =
[START, OFFSET]` says where in it a checksum is to be completed.
What leaves from an address of ours has an identification of the gateway's choice, unless it is an
atomic datagram: `identification = "$name"` in `out` binds it as a port is bound, and without any
that of the frame is right. Different names are different numbers, and all frames that leave in one
step have the same.

`requirements = ["RFC5508-6 both"]` names rows of docs/conformance.md, each with the profile in
which the vector shows it.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from tests.engine import scenario
from tests.reference import Behaviour, Policy, Ports, Result, Rule, Timeouts, packet
from tests.reference.settings import Listener

Fields = Mapping[str, Any]

DONT_FRAGMENT = 0x4000

_POLICY = {"egress", "guarded", "withheld"}
"""What a setup says of interface 0."""

DIRECTORY = Path(__file__).parent / "vectors"

_FLAGS = {
    "F": packet.FIN,
    "S": packet.SYN,
    "R": packet.RST,
    "P": packet.PSH,
    "A": packet.ACK,
    "U": packet.URG,
    "E": 0x40,
    "C": 0x80,
}


@dataclass(frozen=True)
class Step:
    """One frame, or one call of expire."""

    at: int
    expect: str
    side: int = 0
    port: int = 0
    frame: Fields | None = None
    out: Fields | None = None
    extra: tuple[Fields, ...] = ()
    partial: bool = False
    gso_size: int = 0
    checksum_at: tuple[int, int] | None = None
    state: str | None = None
    budget: int = 1000


@dataclass(frozen=True)
class Vector:
    """A named sequence and a line saying what it shows."""

    feature: str
    name: str
    shows: str
    setup: scenario.Setup
    steps: tuple[Step, ...]
    requirements: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.feature}/{self.name}"


def load_all() -> list[Vector]:
    """Every vector of every file, in the order of the files' names."""
    return [vector for path in sorted(DIRECTORY.glob("*.toml")) for vector in load(path)]


def load(path: Path) -> Iterator[Vector]:
    """The vectors of one file."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    for table in document["vector"]:
        yield Vector(
            feature=path.stem,
            name=table["name"],
            shows=table["shows"],
            setup=_setup(table.get("setup", {})),
            steps=tuple(_step(step) for step in table["step"]),
            requirements=tuple(table.get("requirements", ())),
        )


def _setup(table: Fields) -> scenario.Setup:
    first, last = table.get("ports", (40000, 40000))
    return scenario.Setup(
        flows_max=table.get("flows_max", 64),
        ports=Ports(
            first,
            last,
            table.get("limit_per_remote", 55_000),
            table.get("limit_per_interface", 0),
            table.get("limit_per_environment", 0),
        ),
        timeouts=Timeouts(**table.get("timeouts", {})),
        neighbours_known=table.get("neighbours_known", True),
        slot_mtu=table.get("slot_mtu", 65535),
        interface_mtu=table.get("interface_mtu", 65535),
        behaviour=Behaviour(**table.get("behaviour", {})),
        secondary=tuple((0, address) for address in table.get("secondary_addresses", ())),
        policies={0: _policy(table)} if table.keys() & _POLICY else {},
        host_mtu=table.get("host_mtu", 65535),
        host_policies={each["host"]: _policy(each) for each in table.get("host_groups", ())},
        hosts_since=table.get("hosts_since", 0),
        gateways=table.get("gateways", False),
        balancer=tuple(_listener(each) for each in table.get("listeners", ())),
        node_addresses=table.get("node_addresses", 1),
        node_policy=_policy(table["node_groups"]) if "node_groups" in table else None,
    )


def _listener(table: Fields) -> Listener:
    return Listener(
        protocol={"tcp": packet.TCP, "udp": packet.UDP}[table["protocol"]],
        port=table["port"],
        idle=table.get("idle", 350_000),
        sticky=table.get("sticky", False),
        preserves=table.get("preserve_client_ip", True),
        targets=tuple((IPv4Address(address), port) for address, port in table["targets"]),
        proxies=table.get("proxy_protocol", False),
    )


def _policy(table: Fields) -> Policy:
    egress = _rules(table["egress"]) if "egress" in table else None
    guarded = {
        IPv4Address(item["address"]): _rules(item["ingress"]) for item in table.get("guarded", [])
    }
    ingress = _rules(table["ingress"]) if "ingress" in table else None
    return Policy(egress, guarded, ingress, _rules(table.get("withheld", ())))


def _rules(items: list[Fields]) -> tuple[Rule, ...]:
    return tuple(Rule(**{**item, "cidr": IPv4Network(item["cidr"])}) for item in items)


def _step(table: Fields) -> Step:
    if "expire" in table:
        return Step(
            at=table["at"],
            expect=f"expire {table['expire']}",
            state=table.get("state"),
            budget=table.get("budget", 1000),
        )
    side, port = table["from"].split()
    return Step(
        at=table.get("at", 0),
        expect=table["expect"],
        side=scenario.SIDES[side],
        port=int(port),
        frame=table["frame"],
        out=table.get("out"),
        extra=tuple(table.get("extra", ())),
        partial=table.get("partial", False),
        gso_size=table.get("gso_size", 0),
        checksum_at=tuple(table["checksum_at"]) if "checksum_at" in table else None,
        state=table.get("state"),
    )


def play(vector: Vector, target: scenario.Target) -> None:
    """Run the steps and compare everything each one says."""
    names: dict[str, int] = {}
    for number, step in enumerate(vector.steps):
        where = f"{vector} step {number}: {vector.shows}"
        if step.frame is None:
            ended = target.expire(step.at, step.budget)
            assert f"expire {ended}" == step.expect, where
        else:
            frame = build(_bound(step.frame, names), step.side, step.port, step.partial)
            result = target.translate(
                frame,
                step.side,
                step.port,
                step.at,
                partial=step.partial,
                gso_size=step.gso_size,
                checksum_at=step.checksum_at,
            )
            _compare(step, result, target.take_extra(), names, where)
        if step.state is not None:
            states = sorted(flow[1] for flow in target.flows())
            assert states == sorted(step.state.split()), where
    assert target.problems() == []


def _compare(
    step: Step, result: Result, extra: list[Result], names: dict[str, int], where: str
) -> None:
    action, *rest = step.expect.split()
    assert result.action == action, f"{where}: {result}"
    assert len(extra) == len(step.extra), where
    if action in ("drop", "wait", "learn"):
        if action == "drop":
            assert result.reason == rest[0], where
        # What leaves besides leaves on the link on which the frame came, and says what it is.
        for got, fields in zip(extra, step.extra, strict=True):
            frame = build(_bound(fields, names), step.side, step.port, sent=True)
            assert got.frame.hex(" ") == frame.hex(" "), where
            assert (got.action, got.side, got.port) == ("forward", step.side, step.port), where
        return
    side, port = scenario.SIDES[rest[0]], int(rest[1])
    assert (result.side, result.port) == (side, port), where
    assert step.frame is not None
    out = step.out or {}
    fields = out if "kind" in out else _merged(_plain(step.frame), out)
    ours = (side == scenario.OUTSIDE and (step.side != scenario.HOST or "src" in out)) or (
        step.side == scenario.INSIDE and action != "reply"
    )
    # From a listener, to whom its target has answered, or from a node's address.
    ours = ours or (step.side != scenario.INSIDE and side != scenario.OUTSIDE and "src" in out)
    if ours and "identification" not in out and fields["kind"] not in ("arp", "raw"):
        fields = _merged(fields, _identified(fields, result.frame))
    _bind(fields, result.frame, names)
    for got, changes in zip((result, *extra), ({}, *step.extra), strict=True):
        each = _bound(_merged(fields, changes), names)
        partial = step.partial and action != "reply" and "cut" not in each
        expected = build(each, side, port, partial, sent=True)
        if got.action == "hold":
            expected = bytes(6) + expected[6:]
        assert got.frame.hex(" ") == expected.hex(" "), where
        assert (got.side, got.port) == (side, port), where
        assert got.action == ("forward" if changes and action in ("hold", "reply") else action), (
            where
        )


def _identified(fields: Fields, frame: bytes) -> Fields:
    """What the gateway chose for the packet that `fields` describe, if it was to choose."""
    if fields.get("fragment", 0) & DONT_FRAGMENT and "cut" not in fields:
        return {}
    return {"identification": packet.word(frame, 18)}


_LIES = ("padding", "truncate", "header_checksum", "destination_mac", "source_mac")


def _plain(fields: Fields) -> dict[str, Any]:
    """The fields without what does not survive the gateway: padding and Ethernet addresses."""
    return {key: value for key, value in fields.items() if key not in _LIES}


def _merged(fields: Fields, changes: Fields) -> dict[str, Any]:
    result = dict(fields)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            result[key] = _merged(old, value)
        else:
            result[key] = value
    return result


def _bind(fields: Fields, frame: bytes, names: dict[str, int]) -> None:
    """Learn the port behind a "$name" that stands in the outermost packet."""
    header = (frame[14] & 0x0F) * 4 + 14
    for key, offset in (("sport", 0), ("dport", 2), ("id", 4)):
        value = fields.get(key)
        if isinstance(value, str) and value not in names:
            names[value] = packet.word(frame, header + offset)
    value = fields.get("identification")
    if isinstance(value, str) and value not in names:
        number = packet.word(frame, 18)
        assert number not in names.values(), f"{value} is another datagram's"
        names[value] = number


def _bound(fields: Fields, names: Mapping[str, int]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, Mapping):
            result[key] = _bound(value, names)
        elif isinstance(value, str) and value.startswith("$"):
            result[key] = names[value]
        else:
            result[key] = value
    return result


def build(
    fields: Fields, side: int, port: int, partial: bool = False, *, sent: bool = False
) -> bytes:
    """The frame that `fields` describe on the link of a slot or an interface.

    `sent`: by the gateway; else it was received.
    """
    if fields["kind"] == "raw" and "ethertype" not in fields:
        return bytes.fromhex(fields["octets"])
    ours, theirs = scenario.ethernet_addresses(side, port)
    if sent and side == scenario.OUTSIDE and "dst" in fields:
        theirs = _next_hop_mac(port, fields["dst"])
    destination, source = (theirs, ours) if sent else (ours, theirs)
    destination = fields.get("destination_mac", destination)
    source = fields.get("source_mac", source)
    kind = fields["kind"]
    if kind == "raw":
        frame = bytes.fromhex(fields["octets"])
        if "ethertype" in fields:
            frame = packet.ethernet(destination, source, fields["ethertype"], frame)
    elif kind == "arp":
        frame = packet.ethernet(destination, source, packet.ETHERTYPE_ARP, _arp(fields))
    else:
        body = _ipv4(fields, partial)
        ethertype = fields.get("ethertype", packet.ETHERTYPE_IPV4)
        frame = packet.ethernet(destination, source, ethertype, body)
    frame += bytes.fromhex(fields.get("padding", ""))
    return frame[: fields.get("truncate")]


def _next_hop_mac(interface: int, destination: str) -> str:
    known = scenario.neighbours_at(interface)
    return scenario.neighbour_mac(interface, destination if destination in known else known[0])


def _arp(fields: Fields) -> bytes:
    optional = (
        "hardware",
        "protocol",
        "hardware_length",
        "protocol_length",
        "target_mac",
    )
    return packet.arp(
        operation=fields["operation"],
        sender_mac=fields["sender_mac"],
        sender=fields["sender"],
        target=fields["target"],
        **{key: fields[key] for key in optional if key in fields},
    )


def _ipv4(fields: Fields, partial: bool = False) -> bytes:
    protocol, payload = _transport(fields, partial)
    payload += bytes.fromhex(fields.get("slack", ""))
    cut = {}
    if "cut" in fields:
        start, size = fields["cut"]
        more = 0x2000 if start + size < len(payload) else 0
        payload = payload[start : start + size]
        cut["fragment"] = fields.get("fragment", 0) | more | start // 8
    optional = (
        "tos",
        "identification",
        "fragment",
        "version",
        "header_words",
        "total_length",
        "header_checksum",
    )
    return packet.ipv4(
        fields["src"],
        fields["dst"],
        fields.get("protocol", protocol),
        payload,
        ttl=fields.get("ttl", 64),
        options=bytes.fromhex(fields.get("ip_options", "")),
        **{**{key: fields[key] for key in optional if key in fields}, **cut},
    )


def _transport(fields: Fields, partial: bool) -> tuple[int, bytes]:
    """Protocol number and octets of what the IP header carries."""
    payload = bytes.fromhex(fields.get("payload", ""))
    if "filled" in fields:
        payload = bytes(number & 255 for number in range(fields["filled"]))
    value = fields.get("checksum")
    match fields["kind"]:
        case "tcp":
            return packet.TCP, packet.tcp(
                fields["src"],
                fields["dst"],
                fields["sport"],
                fields["dport"],
                sum(_FLAGS[letter] for letter in fields["flags"]),
                seq=fields.get("seq", 0),
                ack=fields.get("ack", 0),
                window=fields.get("window", 65535),
                options=bytes.fromhex(fields.get("options", "")),
                payload=payload,
                header_words=fields.get("tcp_header_words"),
                checksum_field=value,
                partial=partial,
            )
        case "udp":
            return packet.UDP, packet.udp(
                fields["src"],
                fields["dst"],
                fields["sport"],
                fields["dport"],
                payload,
                length=fields.get("udp_length"),
                checksum_field=value,
                partial=partial,
            )
        case "echo":
            return packet.ICMP, packet.echo(
                fields["type"],
                fields["id"],
                fields.get("sequence", 1),
                payload,
                code=fields.get("code", 0),
                checksum_field=value,
            )
        case "icmp":
            quoted = payload
            if "quote" in fields:
                quoted = _ipv4(fields["quote"])[: fields["quote"].get("octets")]
            rest = bytes.fromhex(fields.get("rest", "00000000"))
            return packet.ICMP, packet.icmp(
                fields["type"], fields.get("code", 0), rest, quoted, checksum_field=value
            )
        case "ip":
            return fields["protocol"], payload
    raise ValueError(f"a vector cannot be of kind {fields['kind']!r}")
