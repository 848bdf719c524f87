# SPDX-License-Identifier: Apache-2.0
"""A load balancer and its targets: who reaches them as whom, what becomes of a target that dies,
drains or is idle.

The lab is the one of docs/examples/load-balancer.toml, under a name of its own, with the table at
its top. Tests that change something have a target group and a listener of their own.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import nginx
from hyperplane_nat.client import ClientError
from netns import namespace
from tests.live.conftest import Launch
from tests.live.lab import (
    Lab,
    difference,
    patience,
    require_program,
    run,
    tcp_socket,
    udp_socket,
    wait_until,
)
from tests.live.test_crash import kill_controller, kill_forwarder
from tests.live.test_host_traffic import refused, where

pytestmark = pytest.mark.live

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "load-balancer.toml"
NODES = ("10.0.1.100", "10.0.2.100")
CLIENT = "10.0.1.50"
HOSTS = {"web-a": "10.0.1.11", "web-b": "10.0.2.12", "web-c": "10.0.2.13"}
PORT = 9000
INTERVAL_SECONDS = TIMEOUT_SECONDS = 1.0
"""Of the tests' own checks, as the example scales them."""


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    """The example, when its targets are healthy."""
    text = EXAMPLE.read_text(encoding="utf-8").replace('[lab]\nname = "load-balancer"\n', "")
    lab = launch_shared(environments=0, toml=text)
    lab.cli("wait", "--timeout", "60")
    wait_until(lambda: set(states(lab)) == {"healthy"}, lambda: f"health: {states(lab)}")
    return lab


def states(lab: Lab, group: str | None = None) -> list[str]:
    rows = lab.rows("target-health")
    return [row["State"] for row in rows if group in (None, row["TargetGroupName"])]


def state(lab: Lab, group: str, host: str) -> tuple[str, str | None] | None:
    for row in lab.rows("target-health"):
        if (row["TargetGroupName"], row["HostName"]) == (group, host):
            return row["State"], row["Reason"]
    return None


def inside(lab: Lab, who: str, *command: str) -> subprocess.CompletedProcess[str]:
    verb = "invoke" if who == "caller" else "exec"
    return lab.cli(verb, who, "--", *command, check=False)


def seen(lab: Lab, who: str, where_to: str, *, answered: bool = True) -> str | None:
    """The address that a host sees of who asks; None when nobody answers."""
    limit = ("-m", patience(answered=answered))
    done = inside(lab, who, "curl", "-sS", *limit, f"http://{where_to}/peer")
    return str(json.loads(done.stdout)["address"]) if done.returncode == 0 else None


def echoes(lab: Lab, who: str, address: str, *, answered: bool) -> bool:
    seconds = patience(answered=answered)
    script = (
        f"import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout({seconds}); "
        f"s.sendto(b'hello', ('{address}', 7)); assert s.recv(9) == b'hello'"
    )
    return inside(lab, who, "python3", "-c", script).returncode == 0


def word(lab: Lab, address: str | None) -> str:
    """An address as the example's table has it."""
    functions = [row["address"] for row in lab.rows("interfaces") if row["kind"] == "hyperplane"]
    if address is None:
        return "-"
    return "node" if address in NODES else "interface" if address in functions else address


@pytest.mark.requirement("NLB-rewritten", profile="both")
@pytest.mark.requirement("NLB-return-path", profile="both")
@pytest.mark.requirement("NLB-security-groups", profile="both")
def test_who_reaches_the_hosts_as_whom(lab: Lab) -> None:
    rows = re.findall(r"^#   (\w+) +app-a +(\S+) +(\S+) +(\S+) +(\S+)$", EXAMPLE.read_text(), re.M)
    assert [who for who, *_ in rows] == ["client", "caller", "guest"]
    for node in NODES:
        found = [
            (
                who,
                word(lab, seen(lab, who, node, answered=hosts != "-")),
                word(lab, seen(lab, who, f"{node}:8080", answered=addresses != "-")),
                "yes" if echoes(lab, who, node, answered=echo != "-") else "-",
                word(lab, seen(lab, who, HOSTS["web-a"], answered=direct != "-")),
            )
            for who, hosts, addresses, echo, direct in rows
        ]
        assert found == rows
    assert lab.verify() == []


@pytest.mark.requirement("NLB-names", profile="both")
def test_the_names_of_a_load_balancer_are_its_nodes(lab: Lab) -> None:
    dig = require_program("dig", "bind9-dnsutils")
    (row,) = lab.rows("load-balancers")

    def asked(name: str) -> list[str]:
        done = inside(lab, "client", dig, "+short", name)
        return sorted(done.stdout.split())

    assert asked(row["DNSName"]) == sorted(NODES)
    assert asked("front.shop.internal") == sorted(NODES)
    assert asked(f"us-east-1b.{row['DNSName']}") == [NODES[1]]
    assert seen(lab, "caller", row["DNSName"]) is not None


@pytest.mark.requirement("NLB-choice-tcp", profile="both")
@pytest.mark.requirement("NLB-stickiness", profile="both")
def test_connections_are_spread_over_nginx_on_all_hosts(lab: Lab) -> None:
    found = nginx.find()
    assert found is not None, "nginx is missing (apt-get install nginx-light, or make deps)"
    curl = require_program("curl", "curl")
    with contextlib.ExitStack() as stack:
        for name, address in HOSTS.items():
            stack.enter_context(
                nginx.serving(
                    found, where(lab, name, "shop"), address, PORT, {"name": name.encode()}
                )
            )
        check = {"protocol": "HTTP", "path": "/name", "codes": "200"}
        stack.enter_context(own_group(lab, health_check=check))

        def answers() -> Counter[str]:
            url = f"http://{NODES[0]}:{PORT}/name"
            script = f"for i in $(seq 40); do {curl} -sSf -m 30 {url}; echo; done"
            return Counter(run(where(lab, "client", "shop"), "sh", "-c", script).stdout.split())

        assert answers().keys() == HOSTS.keys()
        change(lab, {"stickiness": True})
        assert len(answers()) == 1


class Target:
    """A server on a host: it tells its name and whom it sees for each line that it gets."""

    def __init__(self, lab: Lab, name: str, port: int = PORT) -> None:
        self.name = name
        self._place = (HOSTS[name], port)
        self._where = where(lab, name, "shop")
        self._connections: dict[tuple[str, int], socket.socket] = {}
        self.listen()

    def listen(self) -> None:
        """Take connections."""
        self._listener = namespace.call(self._where, socket.create_server, self._place)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def refuse(self) -> None:
        """Take no more; those that there are go on."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def close(self) -> None:
        """End all of it."""
        self.refuse()
        for connection in list(self._connections.values()):
            connection.close()

    def side_of(self, client: socket.socket) -> socket.socket:
        """Its side of a connection, whose client it sees."""
        return self._connections[client.getsockname()]

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, peer = listener.accept()
                self._connections[peer] = connection
                threading.Thread(
                    target=self._serve, args=(connection, peer[0]), daemon=True
                ).start()

    def _serve(self, connection: socket.socket, peer: str) -> None:
        with contextlib.suppress(OSError):
            while connection.recv(100):
                connection.sendall(f"{self.name} {peer}".encode())


@contextlib.contextmanager
def targets(lab: Lab) -> Iterator[dict[str, Target]]:
    """A server on each host."""
    with contextlib.ExitStack() as stack:
        found = {}
        for name in HOSTS:
            found[name] = stack.enter_context(contextlib.closing(Target(lab, name)))
        yield found


@contextlib.contextmanager
def own_group(
    lab: Lab,
    *hosts: str,
    protocol: str = "TCP",
    health_check: dict[str, Any] | None = None,
    **attributes: Any,
) -> Iterator[None]:
    """A target group `own` of hosts, all if none is named, with a listener; healthy from here."""
    asked = {
        "vpc": "shop",
        "name": "own",
        "protocol": protocol,
        "port": PORT,
        "targets": [{"host": name} for name in hosts or HOSTS],
        # A second of the lab's: what takes longer is no answer.
        "health_check": {"timeout_seconds": 30, **(health_check or {})},
        "attributes": {"cross_zone": True, **attributes},
    }
    with contextlib.ExitStack() as stack:
        lab.client.post("/v1/target-groups", asked)
        stack.callback(lab.client.delete, "/v1/target-groups/own")
        listener = {"load_balancer": "front", "protocol": protocol, "port": PORT}
        lab.client.post("/v1/listeners", {**listener, "target_group": "own"})
        stack.callback(lab.client.delete, f"/v1/listeners/front:{PORT}")
        wait_until(lambda: set(states(lab, "own")) == {"healthy"}, lambda: f"health: {states(lab)}")
        yield


def change(lab: Lab, attributes: dict[str, Any]) -> None:
    lab.client.patch("/v1/target-groups/own", {"attributes": attributes})


def opened(lab: Lab, who: str = "client") -> socket.socket:
    connection = tcp_socket(where(lab, who, "shop"))
    connection.connect((NODES[0], PORT))
    return connection


def ask(connection: socket.socket) -> tuple[str, str]:
    """Who answers a line, and whom it sees."""
    connection.sendall(b"?")
    name, _, peer = connection.recv(100).decode().partition(" ")
    return name, peer


def opened_to(lab: Lab, name: str) -> socket.socket:
    """A connection that this host answers."""

    def attempt() -> socket.socket | None:
        connection = opened(lab)
        if ask(connection)[0] == name:
            return connection
        connection.close()
        return None

    found = wait_until(attempt, f"a connection to {name}")
    assert found is not None
    return found


def reset(connection: socket.socket) -> bool:
    """Whether who sends is told that the connection is no more."""
    try:
        return ask(connection)[0] == ""
    except ConnectionResetError:
        return True


def new_ones(lab: Lab, count: int = 24) -> set[str]:
    """Who answers new connections; of two, one is left out by chance in no run."""
    found = set()
    for _ in range(count):
        with opened(lab) as connection:
            found.add(ask(connection)[0])
    return found


@pytest.mark.requirement("NLB-client-ip-limits", profile="both")
def test_a_change_of_preservation_is_for_new_connections(lab: Lab) -> None:
    with targets(lab), own_group(lab, "web-b"), opened(lab) as old:
        assert ask(old) == ("web-b", CLIENT)
        change(lab, {"preserve_client_ip": False})
        with opened(lab) as new:
            assert ask(new) == ("web-b", NODES[0])
        assert ask(old) == ("web-b", CLIENT)


@pytest.mark.requirement("NLB-checks", profile="both")
@pytest.mark.requirement("NLB-unhealthy", profile="both")
@pytest.mark.requirement("NLB-target-states", profile="both")
def test_a_dead_target_is_left_and_its_connections_are_reset(lab: Lab) -> None:
    with (
        targets(lab) as servers,
        own_group(lab),
        opened_to(lab, "web-b") as held,
        opened_to(lab, "web-a") as other,
    ):
        begin = time.monotonic()
        servers["web-b"].refuse()
        failed = ("unhealthy", "Target.FailedHealthChecks")
        wait_until(lambda: state(lab, "own", "web-b") == failed, "the target is unhealthy")
        # Two bad checks and the time-out of the last; what is more is this machine's.
        assert time.monotonic() - begin < 2 * INTERVAL_SECONDS + TIMEOUT_SECONDS + 5
        assert new_ones(lab) == {"web-a", "web-c"}
        wait_until(lambda: reset(held), "the connection is reset")
        assert ask(other)[0] == "web-a"
        place = f"{HOSTS['web-b']}:{PORT}"
        text = f"target {place} of target group shop/own is unhealthy: {failed[1]}"
        # Events of a target are shown every ten seconds.
        wait_until(lambda: text in [row["message"] for row in lab.rows("events")], "the event")
        servers["web-b"].listen()
        wait_until(lambda: state(lab, "own", "web-b") == ("healthy", None), "it is healthy again")
        with opened_to(lab, "web-b"):
            pass
    assert lab.verify() == []


@pytest.mark.requirement("NLB-unhealthy", profile="both")
@pytest.mark.requirement("NLB-target-states", profile="both")
def test_an_unhealthy_target_keeps_its_connections_where_the_group_says_so(lab: Lab) -> None:
    kept: dict[str, Any] = {"unhealthy_terminates": False, "unhealthy_draining_seconds": 90}
    failed = "Target.FailedHealthChecks"
    with targets(lab) as servers, own_group(lab, **kept), opened_to(lab, "web-b") as held:

        def is_left(expected: str) -> None:
            wait_until(lambda: state(lab, "own", "web-b") == (expected, failed), expected)
            assert new_ones(lab) == {"web-a", "web-c"}
            assert ask(held)[0] == "web-b"

        servers["web-b"].refuse()
        is_left("unhealthy.draining")
        is_left("unhealthy")


@pytest.mark.requirement("NLB-fail-open", profile="both")
def test_with_all_targets_unhealthy_all_are_used(lab: Lab) -> None:
    with targets(lab), own_group(lab), opened(lab) as held:
        # Nobody listens there.
        wrong = {"port": PORT + 1}
        lab.client.patch("/v1/target-groups/own", {"health_check": wrong})
        wait_until(lambda: set(states(lab, "own")) == {"unhealthy"}, "all are unhealthy")
        assert len(new_ones(lab, 40)) == 3
        assert ask(held)[0] in HOSTS


@pytest.mark.requirement("NLB-deregistration", profile="both")
def test_a_deregistered_target_keeps_its_connections(lab: Lab) -> None:
    with targets(lab), own_group(lab), opened_to(lab, "web-c") as held:
        gone = {"deregister_targets": [{"host": "web-c"}]}
        lab.client.patch("/v1/target-groups/own", gone)
        assert state(lab, "own", "web-c") == ("draining", "Target.DeregistrationInProgress")
        assert new_ones(lab) == {"web-a", "web-b"}
        assert ask(held)[0] == "web-c"
        wait_until(lambda: state(lab, "own", "web-c") is None, "it has drained")
        assert ask(held)[0] == "web-c"


@pytest.mark.requirement("NLB-deregistration", profile="both")
def test_connections_end_with_the_delay_where_the_group_says_so(lab: Lab) -> None:
    with (
        targets(lab),
        own_group(lab, deregistration_terminates=True, deregistration_delay_seconds=180),
        opened_to(lab, "web-c") as held,
        opened_to(lab, "web-a") as other,
    ):
        gone = {"deregister_targets": [{"host": "web-c"}]}
        lab.client.patch("/v1/target-groups/own", gone)
        assert ask(held)[0] == "web-c"
        wait_until(lambda: reset(held), "the connection is reset")
        wait_until(lambda: state(lab, "own", "web-c") is None, "it is gone")
        assert ask(other)[0] == "web-a"


@pytest.mark.requirement("NLB-idle", profile="both")
@pytest.mark.requirement("NLB-stray", profile="both")
@pytest.mark.parametrize("who", ["client", "target"])
def test_who_sends_on_an_idle_connection_is_reset(lab: Lab, who: str) -> None:
    with targets(lab) as servers, own_group(lab, "web-b"), opened(lab) as held:
        ask(held)
        lab.cli("advance", "340")
        assert ask(held)[0] == "web-b"
        lab.cli("advance", "360")
        if who == "client":
            assert reset(held)
            return
        connection = servers["web-b"].side_of(held)

        def told() -> bool:
            try:
                connection.sendall(b"late")
            except OSError:
                return True
            return False

        wait_until(told, "the target is told")


@pytest.mark.requirement("NLB-no-listener", profile="both")
def test_where_nobody_listens_there_is_silence(lab: Lab) -> None:
    before = lab.drops()
    assert refused(where(lab, "client", "shop"), NODES[0], 81)
    assert run(where(lab, "client", "shop"), "ping", "-c1", "-W1", NODES[0], check=False).returncode
    with udp_socket(where(lab, "client", "shop"), seconds=0.3) as asking:
        asking.connect((NODES[0], 80))
        asking.send(b"?")
        with pytest.raises(TimeoutError):
            asking.recv(10)
    told = {"load_balancer_no_listener", "load_balancer_icmp"}
    wait_until(lambda: told <= difference(before, lab.drops()).keys(), "all are dropped")


@pytest.mark.requirement("NLB-hairpin", profile="both")
def test_a_target_that_is_its_own_client_waits_in_vain(lab: Lab) -> None:
    rule = {"protocol": "all", "group": "web"}
    lab.client.patch("/v1/security-groups/front", {"authorize_ingress": [rule]})
    with targets(lab), own_group(lab, "web-b"):
        before = lab.drops()
        assert refused(where(lab, "web-b", "shop"), NODES[0], PORT)
        wait_until(lambda: difference(before, lab.drops()).get("load_balancer_hairpin"), "a drop")
        change(lab, {"preserve_client_ip": False})
        with opened(lab, "web-b") as connection:
            assert ask(connection) == ("web-b", NODES[0])


@pytest.mark.requirement("NLB-first-answer", profile="both")
def test_a_target_may_answer_after_a_while(lab: Lab) -> None:
    place = (HOSTS["web-b"], PORT)
    with (
        udp_socket(where(lab, "web-b", "shop"), port=PORT) as server,
        udp_socket(where(lab, "client", "shop")) as client,
        own_group(lab, "web-b", protocol="UDP", health_check={"port": 80}),
    ):
        client.connect((NODES[0], PORT))
        client.send(b"question")
        asked, peer = server.recvfrom(100)
        assert (asked, peer[0], place[0]) == (b"question", CLIENT, HOSTS["web-b"])
        lab.cli("advance", "40")
        server.sendto(b"answer", peer)
        assert client.recv(100) == b"answer"


@pytest.mark.requirement("NLB-metrics", profile="both")
def test_figures_have_the_names_of_cloudwatch(lab: Lab) -> None:
    def figures() -> dict[str, float]:
        with urllib.request.urlopen(lab.status()["metrics_url"]) as answer:
            text = answer.read().decode()
        found = re.findall(r"^hyperplane_nat_networkelb_(\w+)\{(.*)\} (\S+)$", text, re.M)
        return {f"{name} {labels}": float(value) for name, labels, value in found}

    node = 'load_balancer="shop/front",zone="a"'
    before = figures()
    with targets(lab) as servers, own_group(lab), opened_to(lab, "web-b") as held:
        found = figures()
        group = 'load_balancer="shop/front",target_group="shop/own",zone="a"'
        assert found[f"healthy_host {group}"] == 3
        assert found[f"new_flow_tcp_total {node}"] > before[f"new_flow_tcp_total {node}"]
        assert found[f"processed_bytes_total {node}"] > before[f"processed_bytes_total {node}"]
        assert found[f"active_flow_tcp {node}"] >= 1
        servers["web-b"].refuse()
        wait_until(lambda: figures()[f"unhealthy_host {group}"] == 1, "it counts as unhealthy")
        wait_until(lambda: reset(held), "the connection is reset")
        key = f"tcp_elb_reset_total {node}"
        assert figures()[key] > before[key]


def test_flows_name_node_and_target(lab: Lab) -> None:
    with targets(lab), own_group(lab, "web-b", preserve_client_ip=False), opened(lab) as held:
        ask(held)
        (flow,) = (
            row
            for row in lab.rows("flows")
            if (row["remote_port"], row["inside_port"]) == (PORT, held.getsockname()[1])
        )
        assert flow["host"] == "shop/client"
        assert flow["target"] == {"address": HOSTS["web-b"], "port": PORT}
        assert flow["hops"][-1]["address"] == NODES[0]


@pytest.mark.races
def test_killed_processes_keep_connections_and_health(lab: Lab) -> None:
    with targets(lab), own_group(lab), opened(lab) as held:
        name = ask(held)[0]
        kill_forwarder(lab)
        assert ask(held)[0] == name
        rows = lab.rows("load-balancers"), lab.rows("target-groups")
        kill_controller(lab)
        assert ask(held)[0] == name
        lab.up()
        assert ask(held)[0] == name
        assert (lab.rows("load-balancers"), lab.rows("target-groups")) == rows
        assert len(new_ones(lab, 40)) == 3
    assert lab.verify() == []


def test_refusals_have_the_names_of_aws(lab: Lab) -> None:
    node = {"subnet": "app-a"}
    attempts: list[tuple[str, dict[str, Any], str]] = [
        ("load-balancers", {"vpc": "shop", "name": "front", "nodes": [node]}, "DuplicateLoadB"),
        (
            "load-balancers",
            {"vpc": "shop", "name": "x", "nodes": [node], "scheme": "internet-facing"},
            "InvalidSubnet",
        ),
        (
            "listeners",
            {"load_balancer": "front", "port": 80, "target_group": "addresses"},
            "DuplicateListener",
        ),
        (
            "listeners",
            {"load_balancer": "front", "port": 81, "target_group": "none"},
            "TargetGroupNotFound",
        ),
    ]
    for path, body, code in attempts:
        with pytest.raises(ClientError, match=code):
            lab.client.post(f"/v1/{path}", body)
    own = {"register_targets": [{"address": NODES[0]}]}
    with pytest.raises(ClientError, match="InvalidTarget"):
        lab.client.patch("/v1/target-groups/addresses", own)


def test_all_of_it_goes_and_comes_back_by_apply(lab: Lab) -> None:
    """The last one: the load balancer is another one then."""
    text = lab.config_file.read_text(encoding="utf-8")
    bare = re.sub(r"\[\[vpc\.(target_group|load_balancer)\]\]\n(\w.*\n|    .*\n|\]\n)*", "", text)
    assert "target" not in bare
    apply: Callable[[str], None] = lambda said: _apply(lab, said)  # noqa: E731
    apply(bare)
    assert lab.rows("load-balancers") == lab.rows("target-health") == []
    assert "\nleftovers\tok\t" in lab.cli("doctor").stdout
    assert not list(lab.runtime_directory.glob("health-*"))
    apply(text)
    wait_until(lambda: set(states(lab)) == {"healthy"}, lambda: f"health: {states(lab)}")
    assert seen(lab, "client", "front.shop.internal") == CLIENT
    assert lab.verify() == []


def _apply(lab: Lab, text: str) -> None:
    lab.config_file.write_text(text, encoding="utf-8")
    lab.cli("apply", "--wait", "--timeout", "60", str(lab.config_file))
