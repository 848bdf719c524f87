# SPDX-License-Identifier: Apache-2.0
"""The PROXY protocol's header at real servers: who the client is, that nothing else of the stream
changes, also where packets are lost, and that whoever speaks first has it.

The lab is the one of docs/examples/load-balancer.toml.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench import nginx
from hyperplane_nat.client import ClientError
from netns import namespace
from tests.live.conftest import Launch
from tests.live.lab import Lab, require_program, run, tcp_socket, wait_until
from tests.live.test_host_traffic import where
from tests.live.test_load_balancers import (
    CLIENT,
    EXAMPLE,
    HOSTS,
    NODES,
    PORT,
    inside,
    own_group,
    states,
)

pytestmark = pytest.mark.live

TARGET = "web-b"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
HEADER = struct.Struct("!12sBBH4s4sHH")
BULK_BYTES = 6 << 20
CONNECTIONS = 40
"""So many that some of their packets are lost at either end, in every run."""


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    """The example, when its targets are healthy."""
    text = EXAMPLE.read_text(encoding="utf-8").replace('[lab]\nname = "load-balancer"\n', "")
    lab = launch_shared(environments=0, toml=text)
    lab.cli("wait", "--timeout", "60")
    wait_until(lambda: set(states(lab)) == {"healthy"}, lambda: f"health: {states(lab)}")
    return lab


def exactly(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = connection.recv(count - len(found))
        if not piece:
            raise EOFError(f"the stream ended after {len(found)} of {count} bytes")
        found += piece
    return found


def client_of(header: bytes) -> tuple[str, int]:
    """Whom a header names, which is one for this listener."""
    signature, version, family, length, source, destination, port, own = HEADER.unpack(header)
    assert (signature, version, family) == (SIGNATURE, 0x21, 0x11)
    assert length == HEADER.size - 16
    assert (socket.inet_ntoa(destination), own) == (NODES[0], PORT)
    return socket.inet_ntoa(source), port


class Server:
    """It says whom the header names, and then all that comes back, once."""

    def __init__(self, lab: Lab) -> None:
        self._listener = namespace.call(
            where(lab, TARGET, "shop"), socket.create_server, (HOSTS[TARGET], PORT)
        )
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, EOFError):
            begin = exactly(connection, 16)
            if begin[:13] != SIGNATURE + b"\x21":
                # It names nobody, or is none.
                return
            address, port = client_of(begin + exactly(connection, HEADER.size - 16))
            connection.sendall(f"220 {address} {port}\n".encode())
            while piece := connection.recv(1 << 16):
                connection.sendall(piece)


@pytest.fixture
def server(lab: Lab) -> Iterator[None]:
    with (
        contextlib.closing(Server(lab)),
        own_group(lab, TARGET, proxy_protocol_v2=True),
    ):
        yield


@contextlib.contextmanager
def losses(lab: Lab, *hosts: str) -> Iterator[None]:
    """Of what comes to these hosts about one packet in ten is lost, be it a super-frame."""
    nft = require_program("nft", "nftables")
    rule = f"tcp sport {PORT} numgen random mod 10 == 0 counter drop"
    text = (
        "table ip loss { chain input { type filter hook input priority 0; "
        f"{rule}; {rule.replace('sport', 'dport')}; }}; }}"
    )
    places = [where(lab, name, "shop") for name in hosts]
    try:
        for place in places:
            run(place, nft, text)
        yield
        listed = [run(place, nft, "list", "ruleset").stdout for place in places]
        assert all(re.search(r"counter packets [1-9]", text) for text in listed), listed
    finally:
        for place in places:
            run(place, nft, "delete table ip loss", check=False)


def connected(lab: Lab) -> socket.socket:
    connection = tcp_socket(where(lab, "client", "shop"), seconds=240)
    connection.connect((NODES[0], PORT))
    return connection


def greeting(connection: socket.socket) -> str:
    found = b""
    while not found.endswith(b"\n"):
        found += exactly(connection, 1)
    return found.decode()


@pytest.mark.requirement("NLB-proxy-protocol", profile="both")
@pytest.mark.parametrize("preserve", [True, False])
def test_nginx_learns_the_client(lab: Lab, preserve: bool) -> None:
    """It is healthy by requests behind headers, too."""
    found = nginx.find()
    assert found is not None, "nginx is missing (apt-get install nginx-light, or make deps)"
    curl = require_program("curl", "curl")
    check = {"protocol": "HTTP", "path": "/name", "codes": "200"}
    files = {"name": b"it", "file": random.Random(1).randbytes(BULK_BYTES)}
    address = HOSTS[TARGET], PORT
    with (
        nginx.serving(found, where(lab, TARGET, "shop"), *address, files, proxy_protocol=True),
        own_group(
            lab, TARGET, health_check=check, proxy_protocol_v2=True, preserve_client_ip=preserve
        ),
    ):
        url = f"http://{NODES[0]}:{PORT}"
        asked = (curl, "-sSf", "-m", "10", "-w", " %{local_port}", f"{url}/client")
        client, listener, port = run(where(lab, "client", "shop"), *asked).stdout.split()
        assert (client, listener) == (f"{CLIENT}:{port}", f"{NODES[0]}:{PORT}")
        functions = [
            row["address"] for row in lab.rows("interfaces") if row["kind"] == "hyperplane"
        ]
        client, _, _ = inside(lab, "caller", *asked).stdout.split()
        assert client.partition(":")[0] in functions
        script = f"{curl} -sSf -m 30 {url}/file | sha256sum"
        summed = run(where(lab, "client", "shop"), "sh", "-c", script).stdout.split()[0]
        assert summed == hashlib.sha256(files["file"]).hexdigest()
    assert lab.verify() == []


@pytest.mark.requirement("NLB-proxy-placement", profile="both")
@pytest.mark.usefixtures("server")
def test_a_server_that_speaks_first_knows_of_whom(lab: Lab) -> None:
    with losses(lab, "client", TARGET), ThreadPoolExecutor(CONNECTIONS) as executor:

        def greeted(_number: int) -> bool:
            with connected(lab) as connection:
                return greeting(connection) == f"220 {CLIENT} {connection.getsockname()[1]}\n"

        assert all(executor.map(greeted, range(CONNECTIONS)))


@pytest.mark.usefixtures("server")
def test_both_streams_are_whole_where_packets_are_lost(lab: Lab) -> None:
    sent = random.Random(2).randbytes(BULK_BYTES)
    with losses(lab, "client", TARGET), connected(lab) as connection:
        # It speaks at once: the data are on their way before the header is acknowledged.
        sender = threading.Thread(target=connection.sendall, args=(sent,))
        sender.start()
        assert greeting(connection) == f"220 {CLIENT} {connection.getsockname()[1]}\n"
        assert exactly(connection, len(sent)) == sent
        sender.join()
    assert lab.verify() == []


@pytest.mark.usefixtures("server")
def test_a_change_is_for_new_connections(lab: Lab) -> None:
    with connected(lab) as old:
        greeting(old)
        lab.client.patch("/v1/target-groups/own", {"attributes": {"proxy_protocol_v2": False}})
        old.sendall(b"still")
        assert exactly(old, 5) == b"still"
        with connected(lab) as new:
            # It waits for a header.
            new.sendall(b"x" * 16)
            assert new.recv(1) == b""


def test_datagrams_have_none(lab: Lab) -> None:
    asked = {"vpc": "shop", "name": "own", "protocol": "UDP", "port": PORT}
    with pytest.raises(ClientError, match="InvalidConfigurationRequest"):
        lab.client.post("/v1/target-groups", {**asked, "attributes": {"proxy_protocol_v2": True}})
