# SPDX-License-Identifier: Apache-2.0
"""The sections that say how the NAT behaves, and the two profiles.

Theory of operation
-------------------
The defaults of the sections are the profile `aws`: what AWS documents for NAT gateways and for
Lambda in a VPC. `nat.profile = "rfc"` replaces the defaults listed in `RFC_VALUES` by what RFC
4787, 5382, 5508, 6888 and 7857 require or recommend. A profile only sets defaults: whatever the
file says stands, in either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from hyperplane_nat.config.values import (
    DURATION_MAX_MILLISECONDS,
    FieldError,
    Port,
    Seconds,
    Section,
)

Profile = Literal["aws", "rfc"]
Protocol = Literal["tcp", "udp", "icmp"]

RFC_VALUES: dict[tuple[str, str], object] = {
    ("nat", "mapping"): "endpoint-independent",
    ("nat", "filtering"): "address-dependent",
    ("nat", "hairpinning"): True,
    ("nat", "paired_pooling"): True,
    ("nat", "exhaustion"): "unreachable",
    ("nat", "idle"): "drop",
    ("nat", "fragments"): ["tcp", "udp", "icmp"],
    ("timeouts", "tcp_opening_seconds"): 240,
    ("timeouts", "tcp_established_seconds"): 7440,
    ("timeouts", "tcp_half_closed_seconds"): 7440,
    ("timeouts", "tcp_closing_seconds"): 240,
    ("timeouts", "tcp_reset_seconds"): 240,
    ("timeouts", "udp_seconds"): 300,
    ("ports", "limit_per_remote"): 64512,
    ("ports", "limit_per_interface"): 0,
    ("ports", "hold_seconds"): 120,
}
"""Where the profile `rfc` differs from the defaults, by section and field."""


class Nat(Section):
    """How addresses and ports are translated. The profile sets the defaults of this section and of
    `timeouts` and `ports`.
    """

    profile: Profile = Field(
        default="aws",
        description="`aws`: as Hyperplane and NAT gateways behave; `rfc`: as RFC 4787, 5382, 5508, "
        "6888 and 7857 ask.",
    )
    mapping: Literal["address-and-port-dependent", "endpoint-independent"] = Field(
        default="address-and-port-dependent",
        description="Whether an environment's port gets a source port per remote address and port "
        "(AWS), or one for all (RFC 4787, requirement 1).",
    )
    filtering: Literal[
        "address-and-port-dependent", "address-dependent", "endpoint-independent"
    ] = Field(
        default="address-and-port-dependent",
        description="Who may send to a mapping: the remote address and port that the environment "
        "sent to, any port of an address it sent to, or anybody (RFC 4787, requirement 8). The "
        "last two need endpoint-independent mapping.",
    )
    hairpinning: bool = Field(
        default=False,
        description="Whether environments reach each other's mappings by the interface's address "
        "(RFC 4787, requirement 9). Needs endpoint-independent mapping.",
    )
    paired_pooling: bool = Field(
        default=False,
        description="Whether an environment keeps one of an interface's addresses (RFC 4787, "
        "requirement 2); otherwise any with a free port is taken.",
    )
    exhaustion: Literal["drop", "unreachable"] = Field(
        default="drop",
        description="What a packet gets for which no port is left: nothing (AWS), or ICMP type 3 "
        "code 13 (RFC 6888, requirement 11). It is counted either way.",
    )
    idle: Literal["reset", "drop"] = Field(
        default="reset",
        description="What a TCP segment of an environment gets whose connection was idle too long: "
        "a reset (AWS) or nothing.",
    )
    idle_remembered: int = Field(
        default=65536,
        ge=0,
        le=2**24,
        description="Idle connections remembered for that after their ports are free.",
    )
    fragments: list[Protocol] = Field(
        default=["udp"],
        description="Protocols whose fragments are forwarded (AWS: UDP only).",
    )
    fragment_seconds: Seconds = Field(
        default=30, description="How long the fragments of a datagram are waited for."
    )
    mss_clamping: bool = Field(
        default=True,
        description="Whether the MSS option of a SYN is lowered to what the links carry (AWS: "
        "yes).",
    )

    def problems(self) -> Iterator[FieldError]:
        """What does not fit."""
        if self.mapping != "endpoint-independent":
            remedy = 'set nat.mapping to "endpoint-independent" or leave it out'
            if self.filtering != "address-and-port-dependent":
                yield FieldError(
                    "filtering", f"{self.filtering} needs endpoint-independent mapping", remedy
                )
            if self.hairpinning:
                yield FieldError("hairpinning", "needs endpoint-independent mapping", remedy)


class Flows(Section):
    """The flow table."""

    max: int = Field(
        default=1048576,
        ge=1,
        le=2**24,
        description="Flows the table holds, those whose port is held after their end included. "
        "Memory for all of them is taken at start; a full table refuses new flows and never drops "
        "a live one.",
    )


class Timeouts(Section):
    """How long an idle flow lives."""

    tcp_opening_seconds: Seconds = Field(
        default=60, description="TCP, until the handshake is done."
    )
    tcp_established_seconds: Seconds = Field(
        default=350, description="TCP, open on both sides (AWS: 350)."
    )
    tcp_half_closed_seconds: Seconds = Field(
        default=350, description="TCP, closed by one side only."
    )
    tcp_closing_seconds: Seconds = Field(
        default=60, description="TCP, closed by both sides with the last segment outstanding."
    )
    tcp_reset_seconds: Seconds = Field(
        default=60, description="TCP, after a reset (RFC 7857: 240, as its receiver may ignore it)."
    )
    udp_seconds: Seconds = Field(default=350, description="UDP (AWS: 350).")
    icmp_seconds: Seconds = Field(default=60, description="ICMP echo (RFC 5508: at least 60).")
    time_scale: float = Field(
        default=1.0,
        gt=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="All these durations, `ports.hold_seconds` and `nat.fragment_seconds` are "
        "divided by it: 10 makes 350 seconds 35, for tests.",
    )


class Ports(Section):
    """Source ports of a network interface, one pool per protocol, remote address and port."""

    first: Port = Field(default=1024, description="First port to use (AWS: 1024).")
    last: Port = Field(default=65535, description="Last port to use (AWS: 65535).")
    limit_per_remote: Port = Field(
        default=55000,
        description="Ports in use or held towards one remote address, port and protocol at a time "
        "(AWS: 55,000).",
    )
    limit_per_interface: int = Field(
        default=65000,
        ge=0,
        le=2**24,
        description="Connections of one interface address at a time, held ports included (Lambda: "
        "65,000 per interface); 0 is no limit.",
    )
    limit_per_environment: int = Field(
        default=0,
        ge=0,
        le=2**24,
        description="Connections of one environment or host at a time, held ports included "
        "(RFC 6888, requirements 4 and 5); 0 is no limit.",
    )
    hold_seconds: int = Field(
        default=60,
        ge=0,
        le=DURATION_MAX_MILLISECONDS // 1000,
        description="How long a port is not used again after its flow has ended (AWS: about 60).",
    )

    def problems(self) -> Iterator[FieldError]:
        """What does not fit."""
        if self.first > self.last:
            yield FieldError("first", f"{self.first} is above ports.last, {self.last}", "swap them")


def with_profile(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the defaults of its profile where it says nothing."""
    result = dict(document)
    nat = result.get("nat", {})
    if not isinstance(nat, Mapping) or nat.get("profile") != "rfc":
        return result
    for (section, field), value in RFC_VALUES.items():
        table = result.get(section, {})
        if isinstance(table, Mapping):
            result[section] = {field: value, **table}
    return result


def timeouts_ms(timeouts: Timeouts, ports: Ports) -> dict[str, int]:
    """The data path's timeouts in milliseconds, scaled; none is less than 1 but a hold of 0."""
    seconds = {
        "tcp_opening": timeouts.tcp_opening_seconds,
        "tcp_established": timeouts.tcp_established_seconds,
        "tcp_half_closed": timeouts.tcp_half_closed_seconds,
        "tcp_closing": timeouts.tcp_closing_seconds,
        "tcp_reset": timeouts.tcp_reset_seconds,
        "udp": timeouts.udp_seconds,
        "icmp": timeouts.icmp_seconds,
        "hold": ports.hold_seconds,
    }
    return {name: scaled_ms(value, timeouts) for name, value in seconds.items()}


def scaled_ms(seconds: int, timeouts: Timeouts) -> int:
    """A duration in milliseconds under `time_scale`; at least 1 unless it is 0."""
    return max(round(seconds * 1000 / timeouts.time_scale), min(seconds, 1))


def behaviour(nat: Nat, timeouts: Timeouts) -> dict[str, object]:
    """What the forwarder's `configure` takes as `behaviour`."""
    return {
        "mapping": nat.mapping.replace("-", "_"),
        "filtering": nat.filtering.replace("-", "_"),
        "hairpinning": nat.hairpinning,
        "paired_pooling": nat.paired_pooling,
        "exhaustion_icmp": nat.exhaustion == "unreachable",
        "idle_reset": nat.idle == "reset",
        "tombstones": nat.idle_remembered,
        **{f"{name}_fragments": name in nat.fragments for name in ("tcp", "udp", "icmp")},
        "fragment_ms": scaled_ms(nat.fragment_seconds, timeouts),
        "mss_clamping": nat.mss_clamping,
    }
