# SPDX-License-Identifier: Apache-2.0
"""docs/examples/services.toml: the table at its top, for every pair, by name and by address, with
programs that everybody knows.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import nginx
from netns import namespace
from tests.live.conftest import Launch
from tests.live.lab import (
    Lab,
    patience,
    program,
    require_program,
    run,
    tcp_socket,
    wait_listening,
    wait_until,
)
from tests.live.test_host_traffic import where
from tests.live.test_proxy_protocol import exactly

pytestmark = pytest.mark.live

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "services.toml"
TEXT = EXAMPLE.read_text(encoding="utf-8")
FUNCTIONS = ("caller", "report")
SIZES = {11000: "web-a", 22000: "printer"}
"""Of the files, by whose they are."""
HOSTS = {"web-a": "10.0.1.11", "web-b": "10.0.2.12", "web-c": "10.0.2.13"}
NODES = ("10.0.1.100", "10.0.2.100")
FRONT = ("front.shop.internal", *NODES)
ENDPOINT = ("front.office.internal", "10.0.1.200")
WAYS = {"shop": FRONT, "office": ENDPOINT}
"""Of each account, by name and by address."""


def rows() -> list[tuple[str, ...]]:
    """Who, whose, and what the table says of each destination."""
    words = r" +".join([r"(\S+)"] * 7)
    found = re.findall(rf"^#   {words}$", TEXT, re.M)
    return [row for row in found if row[1] in ("shop", "office")]


def names() -> dict[str, tuple[str, list[str]]]:
    """What each destination is called, and its addresses."""
    found = re.findall(r"^#   (\S+) +(\1|\S+\.internal) +(\d[\d.]+(?:, \d[\d.]+)*)", TEXT, re.M)
    return {key: (name, places.split(", ")) for key, name, places in found}


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    """The example, when all of it serves."""
    text = TEXT.replace('[lab]\nname = "services"\n', "")
    lab = launch_shared(environments=0, toml=text)
    lab.cli("wait", "--timeout", "60")
    wait_until(
        lambda: {row["State"] for row in lab.rows("target-health")} == {"healthy"},
        lambda: f"health: {lab.rows('target-health')}",
    )
    wait_until(
        lambda: [row["State"] for row in lab.rows("nat-gateways")] == ["available"],
        "the NAT gateway is there",
    )
    wait_until(
        lambda: [row["State"] for row in lab.rows("endpoints")] == ["Available"],
        "the endpoint is there",
    )
    return lab


def inside(lab: Lab, who: str, *command: str) -> str | None:
    """What a program says there; None when it fails."""
    done = lab.cli("invoke" if who in FUNCTIONS else "exec", who, "--", *command, check=False)
    return done.stdout if done.returncode == 0 else None


def word(lab: Lab, address: str) -> str:
    """An address as the table has it."""
    if address in NODES:
        return "node"
    functions = [row["address"] for row in lab.rows("interfaces") if row["kind"] == "hyperplane"]
    return "interface" if address in functions else address


def seen(lab: Lab, who: str, destination: str, *, answered: bool) -> str:
    """Whom the server there sees, as the table has it."""
    limit = ("-m", patience(answered=answered))
    said = inside(lab, who, "curl", "-sSf", *limit, f"http://{destination}/peer")
    return "-" if said is None else word(lab, json.loads(said)["address"])


def answering(lab: Lab, who: str, destination: str, *, answered: bool) -> str:
    """Who answers there, by the size of its file."""
    limit = ("-m", patience(answered=answered))
    command = ("curl", "-sSf", *limit, "-o", "/dev/null", "-w", "%{size_download}")
    said = inside(lab, who, *command, f"http://{destination}/file")
    return "-" if said is None else SIZES[int(said)]


def test_the_table_is_complete() -> None:
    assert [row[:2] for row in rows()] == [
        ("worker", "shop"),
        ("caller", "shop"),
        ("clerk", "office"),
        ("report", "office"),
    ]
    assert names() == {
        "site": ("site", ["198.51.100.80"]),
        "front": (FRONT[0], list(NODES)),
        "web-a": ("web-a.shop.internal", [HOSTS["web-a"]]),
        "endpoint": (ENDPOINT[0], list(ENDPOINT[1:])),
    }


@pytest.mark.parametrize("row", rows(), ids=[row[0] for row in rows()])
def test_who_reaches_what_as_whom(lab: Lab, row: tuple[str, ...]) -> None:
    who, account, site, front, web, endpoint, at = row
    said = {"site": site, "front": front, "web-a": web, "endpoint": endpoint}
    for key, expected in said.items():
        name, addresses = names()[key]
        answered = expected != "-"
        assert seen(lab, who, name, answered=answered) == expected, name
        for address in addresses:
            if key == "web-a" and account == "office":
                # It is somebody else's there: the last column.
                continue
            assert seen(lab, who, address, answered=answered) == expected, address
    assert answering(lab, who, HOSTS["web-a"], answered=at != "-") == at
    assert lab.verify() == []


@pytest.mark.parametrize("row", rows(), ids=[row[0] for row in rows()])
def test_whose_names_are_whose(lab: Lab, row: tuple[str, ...]) -> None:
    dig = require_program("dig", "bind9-dnsutils")
    who, account = row[:2]
    for key, (name, addresses) in names().items():
        said = inside(lab, who, dig, name)
        assert said is not None
        found = re.findall(r"\sIN[ \t]+A[ \t]+(\S+)", said)
        if key == "site" or (key == "endpoint") == (account == "office"):
            assert "status: NOERROR" in said
            assert sorted(found) == addresses
        else:
            assert "status: NXDOMAIN" in said
            assert found == []


def test_nginx_on_all_three_hosts(lab: Lab) -> None:
    found = nginx.find()
    assert found is not None, "nginx is missing (apt-get install nginx-light, or make deps)"
    with contextlib.ExitStack() as stack:
        for name, address in HOSTS.items():
            there = where(lab, name, "shop")
            files = {"name": name.encode()}
            stack.enter_context(nginx.serving(found, there, address, 8080, files))
        for who, account, *_ in rows():
            for destination in (*FRONT, *ENDPOINT):
                url = f"http://{destination}:8080/name"
                limit = patience(answered=destination in WAYS[account])
                # By chance one of three would be left out of 30 once in some thousand runs.
                loop = f"for i in $(seq 50); do curl -sSf -m {limit} {url} || exit 1; echo; done"
                said = inside(lab, who, "sh", "-c", loop)
                if destination in WAYS[account]:
                    assert said is not None, (who, destination)
                    assert Counter(said.split()).keys() == HOSTS.keys(), (who, destination)
                else:
                    assert said is None, (who, destination)


def test_nginx_behind_the_proxy_protocol(lab: Lab) -> None:
    """It learns whom the table's servers do not see: who is behind a node, in another VPC, too."""
    found = nginx.find()
    assert found is not None, "nginx is missing (apt-get install nginx-light, or make deps)"
    place = where(lab, "web-a", "shop")
    clients = {"worker": "10.0.1.50", "clerk": "10.0.1.50"}
    with nginx.serving(found, place, HOSTS["web-a"], 8081, {}, proxy_protocol=True):
        for who, account, *_ in rows():
            for destination in (*FRONT, *ENDPOINT):
                limit = ("-m", patience(answered=destination in WAYS[account]))
                command = ("curl", "-sSf", *limit, "-w", " %{local_port}")
                said = inside(lab, who, *command, f"http://{destination}:8081/client")
                if destination not in WAYS[account]:
                    assert said is None, (who, destination)
                    continue
                assert said is not None, (who, destination)
                client, listener, port = said.split()
                address = client.partition(":")[0]
                if who in clients:
                    assert client == f"{clients[who]}:{port}", destination
                else:
                    assert word(lab, address) == "interface", destination
                # Who has connected to a name has connected to one of its addresses.
                taken = names()["front" if account == "shop" else "endpoint"][1]
                assert listener in [f"{each}:8081" for each in taken], destination


@pytest.mark.requirement("NLB-proxy-endpoint", profile="both")
def test_the_header_has_the_endpoints_id(lab: Lab) -> None:
    """By an endpoint; else there is nothing behind the addresses."""
    listener = namespace.call(
        where(lab, "web-a", "shop"), socket.create_server, (HOSTS["web-a"], 8081)
    )
    listener.settimeout(30)
    (endpoint,) = lab.rows("endpoints")
    name = endpoint["VpcEndpointId"].encode()
    told = {
        ("clerk", "office", ENDPOINT[1]): bytes([0xEA, 0, 1 + len(name), 1]) + name,
        ("worker", "shop", NODES[0]): b"",
    }
    with listener:
        for (who, vpc, address), expected in told.items():
            with tcp_socket(where(lab, who, vpc), seconds=30) as client:
                client.connect((address, 8081))
                client.sendall(b"data")
                server, _ = listener.accept()
                with server:
                    server.settimeout(30)
                    begin = exactly(server, 16)
                    body = exactly(server, int.from_bytes(begin[14:]))
                    assert body[12:] == expected, who
                    assert exactly(server, 4) == b"data"


@pytest.fixture
def redis(lab: Lab, tmp_path: Path) -> Iterator[None]:
    """A server on web-b."""
    server = require_program("redis-server", "redis-server")
    place, log = where(lab, "web-b", "shop"), tmp_path / "redis.log"
    options = ["--bind", HOSTS["web-b"], "--port", "6379", "--save", "", "--dir", str(tmp_path)]
    options += ["--protected-mode", "no", "--daemonize", "no"]
    with program(place, server, *options, log=log) as process:
        wait_listening(place, (HOSTS["web-b"], 6379), process, log)
        yield


@pytest.mark.usefixtures("redis")
def test_redis(lab: Lab) -> None:
    client = require_program("redis-cli", "redis-tools")
    for who, account, *_ in rows():
        for destination in (*FRONT, *ENDPOINT):
            limit = patience(answered=destination in WAYS[account])
            asked = ("timeout", limit, client, "-h", destination, "INCR", "visits")
            reached = inside(lab, who, *asked) is not None
            assert reached == (destination in WAYS[account]), (who, destination)
    # Whoever came, by whatever way, came to the same one.
    place = where(lab, "web-b", "shop")
    done = run(place, client, "-h", HOSTS["web-b"], "GET", "visits")
    assert done.stdout == "10\n"


def test_iperf3(lab: Lab, tmp_path: Path) -> None:
    iperf = require_program("iperf3", "iperf3")
    place, log = where(lab, "web-c", "shop"), tmp_path / "iperf3.log"
    command = [iperf, "-s", "-B", HOSTS["web-c"], "-p", "5201", "--forceflush"]
    with program(place, *command, log=log) as server:
        wait_until(
            lambda: "listening" in log.read_text() or server.poll() is not None, "iperf3 listens"
        )
        for who, account, *_ in rows():
            for destination in (*FRONT, *ENDPOINT):
                limit = f"{patience(answered=destination in WAYS[account])}000"
                asked = (iperf, "-c", destination, "-n", "4M", "-J", "--connect-timeout", limit)
                # It says what went wrong, and ends well.
                report = json.loads(inside(lab, who, *asked) or "{}")
                if destination in WAYS[account]:
                    assert report["end"]["sum_received"]["bytes"] > 0, (who, destination)
                else:
                    assert "unable to connect" in report["error"], (who, destination)
