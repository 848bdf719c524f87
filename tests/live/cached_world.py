# SPDX-License-Identifier: Apache-2.0
"""A lab with the flow cache in which there are flows of all kinds, and talks that do not stop.

It is that of docs/examples/services.toml with a host that has a public address and an echo service
behind a VPC's router. What kinds there are is `WAYS`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.live.conftest import Launch
from tests.live.lab import Lab, receive, tcp_socket, udp_socket, wait_until
from tests.live.test_crash import echo_server
from tests.live.test_flow_cache import ON
from tests.live.test_host_traffic import where

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "services.toml"
PUBLIC = "203.0.113.9"
ECHO = ("10.0.1.81", 7)
SITE, FRONT, ENDPOINT = "198.51.100.80", "10.0.1.100", "10.0.1.200"
"""In the internet, the load balancer's node, and the endpoint that leads there."""
WEB = {"web-a": "10.0.1.11", "web-b": "10.0.2.12", "web-c": "10.0.2.13"}
DIRECT, BALANCED, OTHER = 7007, 6379, 5201
"""Ports: of servers, and of listeners that lead to web-b and to web-c."""

MORE = f"""
[[vpc.service]]
name = "echo"
kind = "udp-echo"
address = "{ECHO[0]}"
port = {ECHO[1]}

[[vpc.host]]
name = "bastion"
subnet = "public-a"
public_address = "{PUBLIC}"

# ---- office"""
PAUSE_SECONDS = 0.02
"""Between two questions: more than 16 packets a second all the same."""
ANSWER_SECONDS = 60.0
"""In which TCP has repeated what was lost, whatever happened."""


@dataclass(frozen=True, slots=True)
class Way:
    """A kind of flow: who begins it, and where to."""

    vpc: str
    who: str
    to: tuple[str, int]
    udp: bool = False

    def place(self, world: World) -> str:
        """The namespace of who begins it."""
        if self.vpc == "internet":
            return world.lab.vpc_namespace("internet")
        if self.who in world.environments:
            return world.lab.environment(world.environments[self.who])
        return where(world.lab, self.who, self.vpc)


WAYS = {
    "function": Way("shop", "caller", ECHO, udp=True),
    "function to host": Way("shop", "caller", (WEB["web-a"], DIRECT)),
    "function by NAT gateway": Way("shop", "caller", (SITE, DIRECT)),
    "function to balancer": Way("shop", "caller", (FRONT, BALANCED)),
    "function to endpoint": Way("office", "report", (ENDPOINT, BALANCED)),
    "host to host": Way("shop", "worker", (WEB["web-a"], DIRECT)),
    "host to service": Way("shop", "worker", ECHO, udp=True),
    "host by NAT gateway": Way("shop", "worker", (SITE, DIRECT)),
    "host to internet": Way("shop", "bastion", (SITE, DIRECT)),
    "internet to host": Way("internet", "", (PUBLIC, DIRECT)),
    "host to balancer": Way("shop", "worker", (FRONT, BALANCED)),
    "host to endpoint": Way("office", "clerk", (ENDPOINT, OTHER)),
}


@dataclass(slots=True)
class World:
    """The lab, and the environments of its functions by their names."""

    lab: Lab
    environments: dict[str, int] = field(default_factory=dict)

    @contextlib.contextmanager
    def connected(self, way: Way) -> Iterator[Callable[[], None]]:
        """A socket whose flow goes that way; each call is a question and its answer."""
        make = udp_socket if way.udp else tcp_socket
        with make(way.place(self)) as client:
            client.connect(way.to)
            client.settimeout(ANSWER_SECONDS)
            number = 0
            own = b"%d of " % client.getsockname()[1]

            def exchange() -> None:
                nonlocal number
                number += 1
                question = own + b"%20d" % number
                if way.udp:
                    asked(client, question, own)
                else:
                    client.sendall(question)
                    assert receive(client, len(question)) == question

            yield exchange


def asked(client: socket.socket, question: bytes, own: bytes) -> None:
    """Send a datagram until it comes back; another that does is an older one of the same socket."""
    client.settimeout(0.5)
    for _ in range(int(ANSWER_SECONDS / 0.5)):
        client.send(question)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while (answer := client.recv(2048)) != question:
                assert answer.startswith(own), answer
            return
    raise TimeoutError(f"no answer to {question!r}")


def world(launch: Launch, more: str = "") -> World:
    """The lab, when all of it serves; `more` are sections that the example has not."""
    text = EXAMPLE.read_text(encoding="utf-8").replace('[lab]\nname = "services"\n', "")
    text = text.replace("time_scale = 60\n", "time_scale = 60\nwarm_idle_seconds = 1000000\n")
    lab = launch(environments=0, toml=ON + more + text.replace("\n# ---- office", MORE))
    lab.cli("wait", "--timeout", "60")
    for what, state in (
        ("target-health", "healthy"),
        ("nat-gateways", "available"),
        ("endpoints", "Available"),
    ):
        wait_until(lambda w=what, s=state: {row["State"] for row in lab.rows(w)} == {s}, what)  # type: ignore[misc]
    made = World(lab)
    for name in ("caller", "report"):
        lab.client.post(f"/v1/functions/{name}/provision", {"count": 1})
        (row,) = (row for row in lab.rows("environments") if row["function"] == name)
        made.environments[name] = row["number"]
    return made


@contextlib.contextmanager
def servers(it: World) -> Iterator[None]:
    """What answers at the far end of each way."""
    lab = it.lab
    with contextlib.ExitStack() as stack:
        for place, address in (
            (where(lab, "web-a", "shop"), (WEB["web-a"], DIRECT)),
            (where(lab, "web-b", "shop"), (WEB["web-b"], BALANCED)),
            (where(lab, "web-c", "shop"), (WEB["web-c"], OTHER)),
            (where(lab, "bastion", "shop"), ("", DIRECT)),
            (lab.vpc_namespace("internet"), (SITE, DIRECT)),
        ):
            stack.enter_context(echo_server(place, address))
        yield


class Talk:
    """Questions and answers all the time, on one flow, until it ends."""

    def __init__(self, it: World, way: Way) -> None:
        self.answers = 0
        self.failure: BaseException | None = None
        self._world = it
        self._way = way
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self._go_on()
        except BaseException as error:
            self.failure = error

    def _go_on(self) -> None:
        with self._world.connected(self._way) as exchange:
            while not self._stop.wait(PAUSE_SECONDS):
                exchange()
                self.answers += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(ANSWER_SECONDS)


class Churn(Talk):
    """One flow after the other, each of which is cached and then ends."""

    EACH = 60

    def _go_on(self) -> None:
        while not self._stop.is_set():
            with self._world.connected(self._way) as exchange:
                for _ in range(self.EACH):
                    exchange()
                    self.answers += 1


@contextlib.contextmanager
def talking(it: World) -> Iterator[dict[str, Talk]]:
    """A conversation by each way, and beside them flows that come and go."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(servers(it))
        for name in ("function to host", "host to balancer", "host to endpoint"):
            stack.enter_context(Churn(it, WAYS[name]))
        yield {name: stack.enter_context(Talk(it, way)) for name, way in WAYS.items()}
