# SPDX-License-Identifier: Apache-2.0
"""The two worlds a conversation is played in: the same ends and links, with one NAT or the other.

`gateway` brings up a lab of this project in the profile `rfc`, `nft` the bench's namespaces with
`masquerade random`, as strict as the gateway is: what is not part of a connection is dropped, and
connections begin with a SYN (`nf_conntrack_tcp_loose = 0`). Both forget at the same times, a
twentieth of those of the RFCs, so that a conversation can outlive what the NAT remembers of it; and
half-closed connections as early as closed ones, so that one can outlive that as well.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import secrets
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench import addresses, kernel_lab
from netns import namespace, sysctl, topology
from tests.differential.conversation import End
from tests.differential.middlebox import MTU, TUN_NAME, Middlebox, Port
from tests.live import wire
from tests.live.lab import Lab, launched, require_program, run

CLEAN = "10.0.1.80"
IMPAIRED = "10.0.1.90"
"""The server's addresses: straight over the links, and through the middlebox."""

ROUTES = "90"
"""Number of the server's routing table for what it sends from its impaired address."""

TIME_SCALE = 20
OPENING, ESTABLISHED, CLOSING = 240, 7440, 240
CLOSING_SECONDS = CLOSING / TIME_SCALE
"""
How long both remember what is half closed, closed or reset. Far longer than the kernels' timers for
sending again, which are not scaled.
"""

ENVIRONMENTS: dict[int, dict[str, str]] = {
    1: {"ipv4/tcp_timestamps": "1", "ipv4/tcp_tw_reuse": "1"},
    2: {"ipv4/tcp_timestamps": "0"},
    3: {"ipv4/tcp_timestamps": "1", "ipv4/tcp_max_tw_buckets": "0"},
    4: {"ipv4/tcp_timestamps": "0", "ipv4/tcp_max_tw_buckets": "0"},
}
"""
What distinguishes the environments: whether numbers are protected by timestamps (RFC 7323), and
whether a client that closed first may use its port again at once, having no TIME_WAIT.
"""

HASTY = (3, 4)
"""Environments without TIME_WAIT."""

_ENDS = {
    # A destination's round-trip time is no business of the next connection there.
    "ipv4/tcp_no_metrics_save": "1",
    "ipv4/tcp_fastopen": "3",
}

_TOML = f"""
[timeouts]
time_scale = {TIME_SCALE}
tcp_opening_seconds = {OPENING}
tcp_established_seconds = {ESTABLISHED}
tcp_half_closed_seconds = {CLOSING}
tcp_closing_seconds = {CLOSING}
tcp_reset_seconds = {CLOSING}

[ports]
hold_seconds = {CLOSING}

[nat]
profile = "rfc"
"""

_RULES = f"""\
table ip differential {{
  chain forward {{
    type filter hook forward priority filter
    ct state invalid drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat
    oifname "{addresses.INTERFACE}" masquerade random
  }}
}}
"""

_DIVERSION = """\
table netdev differential {{
  chain ingress {{
    type filter hook ingress device "{link}" priority 0
    ip {direction} {address} drop
  }}
}}
"""

_CONNTRACK = {
    "tcp_loose": 0,
    "tcp_be_liberal": 0,
    "tcp_timeout_syn_sent": OPENING // TIME_SCALE,
    "tcp_timeout_syn_recv": OPENING // TIME_SCALE,
    "tcp_timeout_established": ESTABLISHED // TIME_SCALE,
    "tcp_timeout_fin_wait": CLOSING // TIME_SCALE,
    "tcp_timeout_close_wait": CLOSING // TIME_SCALE,
    "tcp_timeout_last_ack": CLOSING // TIME_SCALE,
    "tcp_timeout_time_wait": CLOSING // TIME_SCALE,
    "tcp_timeout_close": CLOSING // TIME_SCALE,
    "tcp_timeout_max_retrans": ESTABLISHED // TIME_SCALE,
    "tcp_timeout_unacknowledged": ESTABLISHED // TIME_SCALE,
}


class _Opener:
    """Opens sockets in namespaces for a thread that stays where it is."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._wanted: queue.SimpleQueue[tuple[str, Future[socket.socket]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name="opener", daemon=True)
        self._thread.start()

    def open(self, where: str) -> socket.socket:
        """A TCP socket in namespace `where`, non-blocking."""
        result: Future[socket.socket] = Future()
        self._wanted.put((where, result))
        return result.result()

    def close(self) -> None:
        self._wanted.put(None)
        self._thread.join()

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            places = {name: stack.enter_context(namespace.opened(name)) for name in self._names}
            while (wanted := self._wanted.get()) is not None:
                where, result = wanted
                try:
                    namespace.join(places[where], where)
                    opened = socket.socket()
                    opened.setblocking(False)
                    result.set_result(opened)
                except BaseException as error:
                    result.set_exception(error)


class Nat(Protocol):
    """The namespaces around a NAT."""

    @property
    def gateway(self) -> str:
        """The NAT's own."""

    @property
    def vpc(self) -> str:
        """The server's."""

    def environment(self, number: int) -> str:
        """A client's, counted from 1."""


@dataclass(frozen=True)
class NftLab:
    """The namespaces of a lab of the bench."""

    name: str

    @property
    def gateway(self) -> str:
        return topology.gateway_namespace(self.name)

    @property
    def vpc(self) -> str:
        return topology.vpc_namespace(self.name, kernel_lab.VPC_NAME)

    def environment(self, number: int) -> str:
        return topology.environment_namespace(self.name, number)


class World:
    """A NAT with its ends and its middlebox; `around` makes one."""

    def __init__(self, name: str, nat: Nat, middlebox: Middlebox, opener: _Opener) -> None:
        self.name = name
        self.nat = nat
        self.middlebox = middlebox
        self._opener = opener
        # Below the ephemeral ports of either end. A port comes again when everything that was
        # known of it is forgotten.
        self._server_ports = itertools.cycle(range(2000, 32000))

    def server_port(self) -> int:
        """A port of the server that no conversation has now."""
        return next(self._server_ports)

    def socket(self, end: End, environment: int) -> socket.socket:
        """A TCP socket of an end, non-blocking."""
        where = self.nat.vpc if end is End.SERVER else self.nat.environment(environment)
        return self._opener.open(where)


@contextlib.contextmanager
def around(name: str, nat: Nat) -> Iterator[World]:
    """The world of a NAT that is up, while the context lasts."""
    with contextlib.ExitStack() as stack:
        environments = [nat.environment(number) for number in ENVIRONMENTS]
        for number, where in zip(ENVIRONMENTS, environments, strict=True):
            namespace.call(where, _write, {**_ENDS, **ENVIRONMENTS[number]})
        namespace.call(nat.vpc, _write, _ENDS)
        for address in (CLEAN, IMPAIRED):
            run(nat.vpc, _ip(), "address", "replace", f"{address}/32", "dev", "lo")
        ports = [
            _port(End.CLIENT, nat, where, topology.ENVIRONMENT_LINK, topology.slot_link(number))
            for number, where in zip(ENVIRONMENTS, environments, strict=True)
        ]
        ports.append(_port(End.SERVER, nat, nat.vpc, addresses.INTERFACE, addresses.INTERFACE))
        middlebox = stack.enter_context(Middlebox(ports))
        for port in ports:
            _divert(port)
        opener = _Opener([nat.vpc, *environments])
        stack.callback(opener.close)
        yield World(name, nat, middlebox, opener)


def _ip() -> str:
    return require_program("ip", "iproute2")


def _write(settings: dict[str, str]) -> None:
    with sysctl.Writer() as writer:
        writer.write(settings)


def _port(side: End, nat: Nat, where: str, link: str, far: str) -> Port:
    mac, gateway_mac = wire.mac_of(where, link), wire.mac_of(nat.gateway, far)
    return Port(side, where, link, mac, gateway_mac, IMPAIRED)


def _divert(port: Port) -> None:
    """Lead the impaired address's packets into the middlebox, and nowhere else."""
    where, direction = port.where, "saddr" if port.side is End.CLIENT else "daddr"
    rules = _DIVERSION.format(link=port.link, direction=direction, address=IMPAIRED)
    run(where, require_program("nft", "nftables"), rules)
    namespace.call(where, _write, {f"ipv4/conf/{TUN_NAME}/rp_filter": "0"})
    run(where, _ip(), "link", "set", TUN_NAME, "up", "mtu", str(MTU), "txqueuelen", "10000")
    if port.side is End.CLIENT:
        source = _own_address(where, port.link)
        run(where, _ip(), "route", "add", IMPAIRED, "dev", TUN_NAME, "src", source)
    else:
        run(where, _ip(), "rule", "add", "from", IMPAIRED, "lookup", ROUTES)
        run(where, _ip(), "route", "add", "default", "dev", TUN_NAME, "table", ROUTES)


def _own_address(where: str, link: str) -> str:
    words = run(where, _ip(), "-4", "-o", "address", "show", "dev", link).stdout.split()
    return words[words.index("inet") + 1].partition("/")[0]


@contextlib.contextmanager
def gateway(directory: Path) -> Iterator[Lab]:
    """A lab of this project; `directory` gets its configuration."""
    name = f"t-{secrets.token_hex(4)}"
    with launched(directory, name, environments=len(ENVIRONMENTS), toml=_TOML) as lab:
        yield lab


@contextlib.contextmanager
def nft() -> Iterator[NftLab]:
    """A lab behind the kernel's own NAT."""
    lab = NftLab(f"t-{secrets.token_hex(4)}")
    count = len(ENVIRONMENTS)
    with contextlib.ExitStack() as stack:
        stack.callback(topology.destroy, lab.name)
        kernel_lab.build_vpc(lab.name)
        kernel_lab.build_gateway(lab.name, forward=True)
        kernel_lab.create_environments(lab.name, count)
        kernel_lab.connect_environments(lab.name, lab.gateway, range(1, count + 1))
        run(lab.gateway, require_program("nft", "nftables"), _RULES)
        settings = {
            f"netfilter/nf_conntrack_{name}": str(value) for name, value in _CONNTRACK.items()
        }
        namespace.call(lab.gateway, _write, settings)
        yield lab
