# SPDX-License-Identifier: Apache-2.0
"""Real programs talk through the gateway: nginx, curl, iperf3, redis, ping, traceroute."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import socket
from pathlib import Path

import pytest

from bench import nginx
from netns import content, namespace, sysctl
from tests.live import wire
from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    INSIDE_GATEWAY,
    INTERFACE_ADDRESS,
    WEB,
    Lab,
    difference,
    program,
    receive,
    require_program,
    run,
    tcp_socket,
    udp_socket,
    wait_listening,
    wait_until,
)

pytestmark = [pytest.mark.live, pytest.mark.alone]

MTU = 1500
CLOSED_PORT = 9
SO_NO_CHECK = 11
SOURCE_PORT = 40000


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    found = launch_shared(environments=2)

    # A host sends some six ICMP errors at once and then one a second to each peer; here all
    # environments are one peer, and tests are to get each error they ask for.
    def unlimited() -> None:
        with sysctl.Writer() as writer:
            writer.write({"ipv4/icmp_ratelimit": "0"})

    namespace.call(found.vpc, unlimited)
    return found


@pytest.mark.requirement("AWS-protocols", profile="both")
def test_curl_fetches_from_nginx(lab: Lab, tmp_path: Path) -> None:
    """The bytes that nginx serves are the bytes that curl gets, through `hyperplane-nat exec`."""
    require_program("nginx", "nginx-light")
    curl = require_program("curl", "curl")
    size = 32 << 20
    found = nginx.find()
    assert found is not None
    with nginx.serving(found, lab.vpc, WEB[0], 8080, {"file": content.read(size)}):
        for number in (1, 2):
            file = tmp_path / f"fetched-{number}"
            url = f"http://{WEB[0]}:8080/file"
            lab.cli("exec", f"env-{number}", "--", curl, "-sSf", "-m", "60", "-o", str(file), url)
            with file.open("rb") as body:
                assert hashlib.file_digest(body, "sha256").hexdigest() == content.sha256(size)
            file.unlink()


def test_exec_returns_the_status_of_the_program(lab: Lab) -> None:
    curl = require_program("curl", "curl")
    closed = f"http://{WEB[0]}:{CLOSED_PORT}/"
    # 7: curl could not connect.
    assert lab.cli("exec", "env-1", "--", curl, "-sS", closed, check=False).returncode == 7


@pytest.mark.parametrize("reverse", [False, True], ids=["upload", "download"])
def test_super_frames_travel_whole(launch: Launch, tmp_path: Path, reverse: bool) -> None:
    """During iperf3 a frame on the ring holds many segments: nothing is cut to the MTU."""
    # What the flow cache forwards is on no ring.
    lab = launch(environments=1, toml="[forwarder]\nflow_cache = false\n")
    iperf = require_program("iperf3", "iperf3")
    log = tmp_path / "iperf3.log"
    command = [iperf, "-s", "-B", WEB[0], "-p", "5201", "--forceflush"]
    with program(lab.vpc, *command, log=log) as server:
        # Connecting to find out would be taken for a test.
        wait_until(
            lambda: "listening" in log.read_text() or server.poll() is not None, "iperf3 listens"
        )
        before = lab.status()["counters"]
        options = ["-c", WEB[0], "-p", "5201", "-t", "2", "-J"] + ["-R"] * reverse
        done = run(lab.environment(1), iperf, *options)
        after = lab.status()["counters"]
    report = json.loads(done.stdout)
    change = difference(before, after)
    average = change["ring_bytes"] / change["ring_received"]
    rate = report["end"]["sum_received"]["bits_per_second"] / 1e9
    print(
        f"{rate:.1f} Gbit/s, {average:.0f} bytes per frame on the ring, acknowledgements included"
    )
    assert report["end"]["sum_received"]["bytes"] > 0
    # Acknowledgements included; a slow sender makes smaller ones.
    assert average > 2 * MTU
    assert change["ring_oversize"] > 0
    assert "transmit_errors" not in change


def test_redis(lab: Lab, tmp_path: Path) -> None:
    """Many small requests on many connections; what one environment sets another one gets."""
    server = require_program("redis-server", "redis-server")
    benchmark = require_program("redis-benchmark", "redis-tools")
    client = require_program("redis-cli", "redis-tools")
    log = tmp_path / "redis.log"
    options = ["--bind", WEB[0], "--port", "6379", "--save", "", "--dir", str(tmp_path)]
    options += ["--protected-mode", "no", "--daemonize", "no"]
    target = ("-h", WEB[0], "-p", "6379")
    with program(lab.vpc, server, *options, log=log) as process:
        wait_listening(lab.vpc, (WEB[0], 6379), process, log)
        load = ("-t", "ping_mbulk,set,get", "-n", "10000", "-c", "20", "-q")
        done = run(lab.environment(1), benchmark, *target, *load)
        results = re.findall(r"^(\S+): [\d.]+ requests per second", done.stdout, re.MULTILINE)
        assert results == ["PING_MBULK", "SET", "GET"], done.stdout
        assert run(lab.environment(1), client, *target, "SET", "key", "of env-1").stdout == "OK\n"
        assert run(lab.environment(2), client, *target, "GET", "key").stdout == "of env-1\n"


@pytest.mark.requirement("AWS-protocols", profile="both")
@pytest.mark.requirement("RFC5508-1", profile="both")
@pytest.mark.parametrize("size", [56, 1372, MTU - 28])
def test_ping(lab: Lab, size: int) -> None:
    ping = require_program("ping", "iputils-ping")
    options = ("-n", "-c", "5", "-i", "0.01", "-w", "30", "-M", "do", "-s", str(size))
    for where in lab.environments():
        done = run(where, ping, *options, ECHO[0])
        # On a slow machine it asks more often until it has them.
        assert ", 5 received" in done.stdout


@pytest.mark.requirement("RFC5508-10", profile="both")
@pytest.mark.parametrize("method", ["-U", "-I", "-T"], ids=["udp", "icmp", "tcp"])
def test_traceroute_shows_the_gateway_then_the_host(lab: Lab, method: str) -> None:
    traceroute = require_program("traceroute", "traceroute")
    options = ("-n", "-q", "1", "-N", "1", "-m", "5", "-w", "5", method)
    done = run(lab.environment(1), traceroute, *options, WEB[0])
    hops = re.findall(r"^ *(\d+)  (\S+)", done.stdout, re.MULTILINE)
    assert hops == [("1", INSIDE_GATEWAY), ("2", WEB[0])], done.stdout


@pytest.mark.requirement("AWS-protocols", profile="both")
def test_udp_echo(lab: Lab) -> None:
    for where in lab.environments():
        with udp_socket(where) as endpoint:
            for size in (0, 1, 7, 512, MTU - 28):
                payload = content.read(size)
                endpoint.sendto(payload, ECHO)
                assert endpoint.recvfrom(2048) == (payload, ECHO)


def test_udp_without_checksum_and_with_options(lab: Lab) -> None:
    """Neither is common, both are allowed: RFC 768 and RFC 791."""
    with udp_socket(lab.environment(1)) as endpoint:
        endpoint.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        endpoint.sendto(b"unchecked", ECHO)
        assert endpoint.recv(64) == b"unchecked"
    with udp_socket(lab.environment(1)) as endpoint:
        # Two that do nothing, the end of the list, padding.
        endpoint.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x01\x01\x00\x00")
        endpoint.sendto(b"with options", ECHO)
        assert endpoint.recv(64) == b"with options"


def test_udp_segments_of_one_send(lab: Lab) -> None:
    """One send of many datagrams (UDP_SEGMENT, as QUIC does it) arrives as these datagrams."""
    size, count = 1200, 20
    payload = content.read(size * count)
    with udp_socket(lab.vpc) as server, udp_socket(lab.environment(1)) as endpoint:
        server.bind((WEB[0], 5004))
        endpoint.setsockopt(socket.IPPROTO_UDP, wire.UDP_SEGMENT, size)
        endpoint.sendto(payload, (WEB[0], 5004))
        assert b"".join(server.recv(2048) for _ in range(count)) == payload


@pytest.mark.requirement("AWS-port-range", profile="both")
@pytest.mark.requirement("AWS-shared-interface", profile="both")
@pytest.mark.requirement("RFC4787-7", profile="both")
def test_a_server_sees_the_interface_and_a_port_for_each_flow(lab: Lab) -> None:
    with udp_socket(lab.vpc) as server:
        server.bind((WEB[0], 5000))
        peers = []
        for where in lab.environments():
            with udp_socket(where, port=SOURCE_PORT) as endpoint:
                endpoint.sendto(where.encode(), (WEB[0], 5000))
                payload, peer = server.recvfrom(2048)
                assert payload == where.encode()
                peers.append(peer)
    assert {address for address, _port in peers} == {INTERFACE_ADDRESS}
    assert len({port for _address, port in peers}) == 2
    assert all(port >= 1024 for _address, port in peers)


def refused(endpoint: socket.socket) -> int:
    """The error that waits on a socket."""
    return endpoint.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


@pytest.mark.requirement("RFC5508-4", profile="both")
@pytest.mark.requirement("RFC4787-12", profile="both")
@pytest.mark.requirement("RFC5382-9", profile="both")
@pytest.mark.requirement("AWS-icmp-errors", profile="both")
def test_port_unreachable_reaches_the_right_environment(lab: Lab) -> None:
    """Two environments with the same port towards the same server: each gets its own error."""
    target = (WEB[0], 5001)
    before = lab.counters()["icmp_errors_translated"]
    first, second = (udp_socket(where, port=SOURCE_PORT) for where in lab.environments())
    with first, second:
        with udp_socket(lab.vpc) as server:
            server.bind(target)
            for endpoint in (first, second):
                endpoint.connect(target)
                endpoint.send(b"flow")
                assert server.recv(16) == b"flow"
        second.send(b"nobody listens")
        with pytest.raises(ConnectionRefusedError):
            second.recv(16)
        assert refused(first) == 0
        first.send(b"nobody listens")
        with pytest.raises(ConnectionRefusedError):
            first.recv(16)
        assert refused(second) == 0
    assert lab.counters()["icmp_errors_translated"] - before == 2


@pytest.mark.requirement("RFC5508-5", profile="both")
def test_port_unreachable_of_an_environment_reaches_the_server(lab: Lab) -> None:
    before = lab.counters()["icmp_errors_translated"]
    with udp_socket(lab.vpc) as server:
        server.bind((WEB[0], 5002))
        with udp_socket(lab.environment(1)) as endpoint:
            endpoint.sendto(b"flow", (WEB[0], 5002))
            _payload, peer = server.recvfrom(16)
        server.connect(peer)
        server.send(b"too late")
        with pytest.raises(ConnectionRefusedError):
            server.recv(16)
    assert lab.counters()["icmp_errors_translated"] - before == 1


def test_connecting_to_a_closed_port_is_refused(lab: Lab) -> None:
    for where in lab.environments():
        with tcp_socket(where, port=SOURCE_PORT) as connection:
            assert connection.connect_ex((WEB[0], CLOSED_PORT)) == errno.ECONNREFUSED
    assert lab.counters()["flows_ended_tcp_rst"] > 0


@pytest.mark.requirement("RFC5382-2", profile="both")
def test_half_closed_connection_goes_on(lab: Lab) -> None:
    """The client closes its direction; the server's answer still comes, then its end."""
    with tcp_socket(lab.vpc) as listener:
        listener.bind((WEB[0], 5003))
        listener.listen()
        with tcp_socket(lab.environment(1)) as client:
            client.connect((WEB[0], 5003))
            server, _peer = listener.accept()
            with server:
                server.settimeout(30)
                client.sendall(b"question")
                client.shutdown(socket.SHUT_WR)
                assert receive(server, 8) == b"question"
                assert server.recv(1) == b""
                server.sendall(b"answer")
                assert receive(client, 6) == b"answer"
            assert client.recv(1) == b""


def test_nothing_was_wrong(lab: Lab) -> None:
    """After all of the above: tables agree, no forwarder was replaced, no frame was refused."""
    assert lab.verify() == []
    status = lab.status()
    assert status["forwarder"]["restarts"] == 0
    assert status["counters"]["ring_dropped"] == 0
    assert status["counters"]["transmit_errors"] == 0
