# SPDX-License-Identifier: Apache-2.0
"""A real lab for a test: brought up by the command line, asked through the control API, taken down.

Theory of operation
-------------------
`launched` writes a TOML file, runs `hyperplane-nat up -c FILE` as a user would and yields a `Lab`.
Whatever happens then, `hyperplane-nat down` runs in the end; when that fails the test fails. The
lab's name is random and its metrics port is whatever was free, so labs of several runs do not meet.
The default VPC is `customer` with the services web (HTTP, 10.0.1.80:80) and echo (UDP, 10.0.1.81:7)
behind the interface eni-a, 10.0.1.10.

Programs and sockets go into a namespace with `run`, `program` and `netns.namespace.call`; the
test's own thread never leaves its namespace. Nothing sleeps for a fixed time: `wait_until` polls a
condition up to a deadline.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from hyperplane_nat.client import Client
from hyperplane_nat.engine import StateMap
from hyperplane_nat.unix_socket import RUNTIME_DIRECTORY
from netns import namespace, topology

VPC = "customer"
INTERFACE = "eni-a"
INTERFACE_ADDRESS = "10.0.1.10"
ROUTER = "10.0.1.1"
WEB = ("10.0.1.80", 80)
ECHO = ("10.0.1.81", 7)
INSIDE_ADDRESS = "169.254.100.2"
INSIDE_GATEWAY = "169.254.100.1"

COMMAND = Path(sys.executable).with_name("hyperplane-nat")

UP_SECONDS = 120.0
"""How long `up`, `down` and other programs may take on a loaded machine; then the test gives up."""

WAIT_SECONDS = 60.0
"""The same of a condition, which usually comes true at once."""

POLL_SECONDS = 0.01
LOG_TAIL_BYTES = 4000

T = TypeVar("T")


def patience(*, answered: bool) -> str:
    """
    Seconds that a program such as curl may wait, as its option has them.

    Who is answered may be kept waiting on a loaded machine; who is not waits in vain each time.
    """
    return "30" if answered else "2"


class Switch:
    """Whether labs are written with `forwarder.flow_cache`."""

    on = False


FLOW_CACHE = Switch()

LABS: list[Lab] = []
"""The labs that are up, whose logs belong in the report of a failing test."""


def wait_until(
    condition: Callable[[], T], what: str | Callable[[], str], seconds: float = WAIT_SECONDS
) -> T:
    """
    The first true value of `condition()`, polled.

    Fails the test with `what` (a text, or a function called for it) after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            text = what if isinstance(what, str) else what()
            pytest.fail(f"not within {seconds:g} seconds: {text}")
        time.sleep(POLL_SECONDS)
    return value


def require_program(name: str, package: str) -> str:
    """The path of a program; fails the test with the Debian package to install if it is missing."""
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is None:
        pytest.fail(f"{name} is missing (apt-get install {package}, or make deps)", pytrace=False)
    return path


def run(
    where: str, *command: str, seconds: float = UP_SECONDS, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """
    Run a program in namespace `where` and wait for it; its output as text.

    With `check`, any exit status but 0 fails the test with the program's output.
    """
    done = namespace.call(
        where,
        lambda: subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        ),
    )
    if check and done.returncode != 0:
        pytest.fail(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done


@contextlib.contextmanager
def program(
    where: str | None, *command: str, log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """
    A program that runs in namespace `where` (None: the test's own) while the context lasts.

    Its stdout and stderr go to `log`, or nowhere. It is ended with SIGTERM, after 5 seconds with
    SIGKILL; having ended by itself is no error.
    """
    with contextlib.ExitStack() as stack:
        output: Any = subprocess.DEVNULL if log is None else stack.enter_context(log.open("ab"))

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

        process = start() if where is None else namespace.call(where, start)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_listening(
    where: str | None,
    address: tuple[str, int],
    process: subprocess.Popen[bytes],
    log: Path | None = None,
) -> None:
    """Wait until `process` accepts TCP connections; fails the test with its log if it ends."""

    def connects() -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(address) == 0

    def listening() -> bool:
        if process.poll() is not None:
            words = log.read_text(errors="replace") if log is not None else ""
            pytest.fail(f"{process.args!r} ended with status {process.returncode}: {words}")
        return connects() if where is None else namespace.call(where, connects)

    wait_until(listening, f"{process.args!r} listens on {address[0]}:{address[1]}")


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process does not run meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        stat = Path(f"/proc/{pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it stands still")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def ring_unread(lab: Lab) -> Iterator[None]:
    """What comes meanwhile waits in the ring: forwarder and controller stand still.

    A forwarder alone would be taken for hung after two seconds.
    """
    status = lab.status()
    with stopped(int(status["pid"])), stopped(status["forwarder"]["pid"]):
        yield


def until_answered(endpoint: socket.socket, ask: Callable[[], object], answer: bytes) -> None:
    """Ask until the answer comes: a datagram may be lost on a loaded machine."""
    endpoint.settimeout(0.5)
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        ask()
        with contextlib.suppress(TimeoutError):
            while True:
                if endpoint.recv(1 << 16) == answer:
                    return
    pytest.fail(f"no answer within {WAIT_SECONDS:g} seconds")


def tcp_socket(where: str, *, port: int = 0, seconds: float = WAIT_SECONDS) -> socket.socket:
    """A TCP socket in namespace `where`, with a timeout; `port` is its own port, 0 for any."""
    return _inet_socket(where, socket.SOCK_STREAM, port, seconds)


def udp_socket(where: str, *, port: int = 0, seconds: float = WAIT_SECONDS) -> socket.socket:
    """A UDP socket in namespace `where`, with a timeout; `port` is its own port, 0 for any."""
    return _inet_socket(where, socket.SOCK_DGRAM, port, seconds)


def _inet_socket(where: str, kind: socket.SocketKind, port: int, seconds: float) -> socket.socket:
    result = namespace.call(where, socket.socket, socket.AF_INET, kind)
    try:
        result.settimeout(seconds)
        result.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if port:
            result.bind(("", port))
    except BaseException:
        result.close()
        raise
    return result


def receive(connection: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes of a stream; ConnectionError when it ends before."""
    pieces = bytearray()
    while len(pieces) < count:
        piece = connection.recv(count - len(pieces))
        if not piece:
            raise ConnectionError(f"the stream ended after {len(pieces)} of {count} bytes")
        pieces += piece
    return bytes(pieces)


def difference(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """What has changed between two readings of counters, by name."""
    return {
        name: after.get(name, 0) - before.get(name, 0)
        for name in {**before, **after}
        if after.get(name, 0) != before.get(name, 0)
    }


class Lab:
    """A lab by its name; `launched` makes one that is up."""

    def __init__(self, name: str, config_file: Path, environments: int) -> None:
        self.name = name
        self.config_file = config_file
        """The TOML file that `up` reads."""
        self.environment_count = environments
        self.client = Client(name, timeout=UP_SECONDS)
        self.runtime_directory = RUNTIME_DIRECTORY / name
        self.state_file = Path("/dev/shm") / f"hyperplane-nat-{name}.map"

    # --- the command line ---

    def cli(
        self, *arguments: str, seconds: float = UP_SECONDS, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `hyperplane-nat --lab NAME ARGUMENTS`; with `check` a failure fails the test."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("HYPERPLANE_NAT_")
        }
        done = subprocess.run(
            [str(COMMAND), "--lab", self.name, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=environment,
            check=False,
        )
        if check and done.returncode != 0:
            pytest.fail(
                f"hyperplane-nat {' '.join(arguments)}: status {done.returncode}\n"
                f"{done.stdout}{done.stderr}{self.logs()}"
            )
        return done

    def json(self, *arguments: str) -> Any:
        """What a command prints with --json."""
        return json.loads(self.cli(*arguments, "--json").stdout)

    def up(self) -> None:
        """`hyperplane-nat up -c FILE`; it returns when traffic can flow."""
        self.cli("up", "-c", str(self.config_file))

    def down(self) -> None:
        """`hyperplane-nat down`; nothing to take down is no error."""
        self.cli("down")

    # --- namespaces ---

    @property
    def gateway(self) -> str:
        """The gateway's namespace."""
        return topology.gateway_namespace(self.name)

    @property
    def vpc(self) -> str:
        """The namespace of the VPC called customer."""
        return self.vpc_namespace(VPC)

    def vpc_namespace(self, name: str) -> str:
        """The namespace of a VPC."""
        return topology.vpc_namespace(self.name, name)

    @contextlib.contextmanager
    def invoked(self, function: str, *command: str) -> Iterator[None]:
        """A program in an environment of a function meanwhile."""
        arguments = [str(COMMAND), "--lab", self.name, "invoke", function, "--", *command]
        with subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                yield
            finally:
                process.send_signal(signal.SIGINT)

    def environment(self, number: int) -> str:
        """The namespace of an environment, counted from 1."""
        return topology.environment_namespace(self.name, number)

    def environments(self) -> list[str]:
        """The namespaces of all environments, by number."""
        return [self.environment(number) for number in range(1, self.environment_count + 1)]

    # --- what the lab tells of itself ---

    def status(self) -> dict[str, Any]:
        """GET /v1/status."""
        document: Any = self.client.get("/v1/status")
        assert isinstance(document, dict)
        return document

    def rows(self, what: str, **query: object) -> list[dict[str, Any]]:
        """GET /v1/WHAT for what is a list: environments, interfaces or flows."""
        document: Any = self.client.get(f"/v1/{what}", query)
        assert isinstance(document, list)
        return document

    def verify(self) -> list[str]:
        """What the forwarder's checker finds wrong in the flow table; [] when nothing."""
        document: Any = self.client.verify()
        problems: list[str] = document["problems"]
        return problems

    def counters(self) -> dict[str, int]:
        """
        Every counter, read from the state file: it needs neither controller nor forwarder.

        Those of the socket (ring_dropped, ring_oversize, transmit...) are up to half a second old;
        `status()["counters"]` has them as of now.
        """
        state = StateMap.open(self.state_file)
        try:
            return state.counters()
        finally:
            state.close()

    def drops(self) -> dict[str, int]:
        """Frames dropped by reason, from the state file; reasons that did not occur are absent."""
        return {
            name.removeprefix("drop_"): value
            for name, value in self.counters().items()
            if name.startswith("drop_") and value
        }

    def logs(self) -> str:
        """The ends of the lab's logs."""
        texts = []
        for path in sorted(self.runtime_directory.glob("*.log")):
            with contextlib.suppress(OSError):
                text = path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
                texts.append(f"--- {path}\n{text}")
        return "\n".join(texts)


def switched(toml: str) -> str:
    """A configuration with the flow cache, where this module's labs have it and it says nothing."""
    if not FLOW_CACHE.on or "flow_cache" in toml:
        return toml
    section, line = "[forwarder]\n", "flow_cache = true\n"
    if section in toml:
        return toml.replace(section, section + line)
    # Before all others: tests cut off functions and what comes behind.
    return re.sub(r"^(?=\[)", section + line, toml, count=1, flags=re.MULTILINE)


def write_config(path: Path, name: str, environments: int, toml: str) -> None:
    """The TOML file of a lab: name, size and metrics port; `toml` has any other sections."""
    lab = f'[lab]\nname = "{name}"\nenvironments = {environments}\n'
    text = f"{lab}\n[metrics]\nport = 0\n\n{toml}\n"
    path.write_text(switched(text), encoding="utf-8")


@contextlib.contextmanager
def launched(directory: Path, name: str, *, environments: int = 2, toml: str = "") -> Iterator[Lab]:
    """
    A lab that is up while the context lasts.

    `directory` gets its TOML file; `name` is random, as the fixture `lab_name` makes it; `toml` is
    text with further sections, all but [lab] and [metrics]. The lab may be taken down, killed or
    brought up again in between.
    """
    lab = Lab(name, directory / f"{name}.toml", environments)
    write_config(lab.config_file, name, environments, toml)
    LABS.append(lab)
    try:
        lab.up()
        yield lab
    finally:
        LABS.remove(lab)
        lab.down()


@contextlib.contextmanager
def drops_exactly(
    lab: Lab, expected: Mapping[str, int], settle: Callable[[], object]
) -> Iterator[None]:
    """
    Check that what happens within the context is dropped for these reasons, so many times each.

    `settle()` is called when the drops have been counted: it makes sure that everything sent before
    has gone through the gateway (an exchange of the test's own will do). Drops beside the expected
    ones, before or after, fail the test.
    """
    before = lab.drops()
    yield
    total = sum(expected.values())

    def counted() -> bool:
        return sum(difference(before, lab.drops()).values()) >= total

    wait_until(counted, lambda: f"{dict(expected)} drops, only {difference(before, lab.drops())}")
    settle()
    assert difference(before, lab.drops()) == dict(expected)


@contextlib.contextmanager
def live_connection(lab: Lab, number: int, port: int) -> Iterator[Callable[[], None]]:
    """
    An open TCP connection of environment `number` to `port` of the web server's address.

    Calling it sends a piece each way, checks it and returns when the last of it is acknowledged: no
    segment of it is on the way afterwards. It is called once more at the end of the context.
    """
    with tcp_socket(lab.vpc) as listener, tcp_socket(lab.environment(number)) as client:
        listener.bind((WEB[0], port))
        listener.listen()
        client.connect((WEB[0], port))
        server, _peer = listener.accept()
        server.settimeout(WAIT_SECONDS)

        def exchange() -> None:
            piece = secrets.token_bytes(1000)
            for sender, receiver in ((client, server), (server, client)):
                sender.sendall(piece)
                assert receive(receiver, len(piece)) == piece
                # Now, instead of some time later.
                receiver.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                wait_until(functools.partial(all_acknowledged, sender), "the acknowledgement")

        with server:
            exchange()
            yield exchange
            exchange()


def all_acknowledged(connection: socket.socket) -> bool:
    """Whether nothing is in flight: `tcpi_unacked` of struct tcp_info, <linux/tcp.h>, is 0."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
    return info[24:28] == bytes(4)
