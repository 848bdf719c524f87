# SPDX-License-Identifier: Apache-2.0
"""What becomes of flows that the kernel forwards when something changes: the same as without.

And what hostile frames do to them: nothing, and they go nowhere.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import json
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Dot1Q, Ether

from hyperplane_nat.client import Client
from hyperplane_nat.flow_cache.program import FlowCache, attached
from netns import NetnsError, links
from netns.interior import route_socket
from tests.live import wire
from tests.live.configurations import FUNCTIONS_VPC
from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    INSIDE_ADDRESS,
    INTERFACE,
    INTERFACE_ADDRESS,
    ROUTER,
    WAIT_SECONDS,
    WEB,
    Lab,
    receive,
    run,
    tcp_socket,
    udp_socket,
    wait_until,
)
from tests.live.scene import tell_forwarder
from tests.live.test_cached_flows import (
    ARP_FRAMES,
    EARNING,
    cached,
    cached_tcp,
    cached_udp,
    exchange,
    flow_of,
    talk,
    told,
)
from tests.live.test_crash import tcp_echo
from tests.live.test_flow_cache import ON, punted
from tests.live.test_flow_logs import Logs
from tests.live.test_flow_logs import toml as with_flow_logs
from tests.live.test_freezing import stands_still
from tests.live.test_handlers import invoke
from tests.live.test_isolation import VPC_NUMBER

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("flow_cache")]

FAST = 1000.0
"""Modelled time goes by so much quicker."""

ECHO_OF_FUNCTIONS = f"""
[[vpc.service]]
name = "echo"
kind = "udp-echo"
address = "{ECHO[0]}"
port = {ECHO[1]}

[[function]]
name = "orders"
subnets = ["a"]
security_groups = ["functions"]
"""
PORTS = "[ports]\nfirst = 40000\nlast = 40255\nhold_seconds = 1\n"
"""So few that environments get ports that others had."""

NARROW = 1000
IP_MTU_DISCOVER, IP_MTU, PMTUDISC_DO = 10, 14, 2
ETHERNET_BYTES, ETH_P_IP = 14, 0x0800
NEW_MAC = "02:00:5e:00:53:01"
GSO_UDP_L4 = 5


def functions(idle_seconds: float, time_scale: float) -> str:
    """A function whose environments are kept for so many modelled seconds."""
    head = f"[lifecycle]\ntime_scale = {time_scale}\nwarm_idle_seconds = {idle_seconds}\n"
    return f"{ON}{head}[pool]\nsize = 4\n{PORTS}{FUNCTIONS_VPC}{ECHO_OF_FUNCTIONS}"


def provisioned(lab: Lab, count: int) -> list[int]:
    """Numbers of environments of the function, after so many more were started."""
    lab.client.post("/v1/functions/orders/provision", {"count": count})
    return living(lab)


def living(lab: Lab) -> list[int]:
    rows = lab.rows("environments", limit=1000)
    return [row["number"] for row in rows if row["function"] == "orders"]


def hits_again(lab: Lab, client: socket.socket) -> None:
    """Wait until the kernel forwards a flow again, both ways."""

    def is_hit() -> bool:
        for _ in range(EARNING):
            exchange(client, b"earning it again")
        frames = punted(lab)
        for _ in range(EARNING):
            exchange(client, b"by the kernel")
        return punted(lab) == frames

    wait_until(is_hit, "a cached flow")


@pytest.mark.slow
def test_a_group_that_admits_less_leaves_cached_flows(launch: Launch) -> None:
    """Connection tracking, as on AWS: what was admitted goes on, what is new is refused."""
    lab = launch(environments=0, toml=functions(3600 * FAST, FAST))
    lab.cli("wait")
    number = provisioned(lab, 1)[0]
    with tcp_echo(lab), cached_tcp(lab, number) as client:
        everything = [{"protocol": "all", "cidr": "0.0.0.0/0"}]
        path = "/v1/security-groups/customer%2Ffunctions"
        lab.client.patch(path, {"revoke_egress": everything})

        def refused() -> bool:
            with tcp_socket(lab.environment(number), seconds=0.3) as other:
                return other.connect_ex((WEB[0], 7007)) == errno.EAGAIN

        wait_until(refused, "a new connection is refused")
        frames = punted(lab)
        talk(client, 200)
        assert punted(lab) - frames <= ARP_FRAMES
        lab.client.patch(path, {"authorize_egress": everything})
        wait_until(lambda: not refused(), "a new connection")
        talk(client)
    assert lab.verify() == []


def served(lab: Lab) -> dict[str, Any]:
    """The VPC's interface, as the forwarder is told of it."""
    (link,) = json.loads(run(lab.gateway, "ip", "-json", "link", "show", INTERFACE).stdout)
    return {
        "number": lab.rows("interfaces")[0]["number"],
        "name": INTERFACE,
        "ifindex": link["ifindex"],
        "address": INTERFACE_ADDRESS,
        "mac": link["address"],
        "subnet": "10.0.1.0/24",
        "router": ROUTER,
        "destinations": ["10.0.0.0/16"],
        "vpc": VPC_NUMBER,
    }


def test_a_link_that_carries_less_carries_less_at_once(launch: Launch) -> None:
    """What no longer fits is told to its sender, and nothing that is too large arrives."""
    lab = launch(environments=1, toml=ON)
    with cached_udp(lab) as client:
        client.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
        client.connect(ECHO)
        client.send(bytes(1200))
        assert len(client.recv(2048)) == 1200
        tell_forwarder(lab, "configure", interfaces=[served(lab) | {"mtu": NARROW}])

        with wire.capturing((lab.vpc, INTERFACE)) as (capture,):
            client.send(bytes(1200))
            wait_until(
                lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EMSGSIZE,
                "the sender is told",
            )
            assert client.getsockopt(socket.IPPROTO_IP, IP_MTU) == NARROW
            hits_again(lab, client)
            client.send(bytes(NARROW - 28))
            assert len(client.recv(2048)) == NARROW - 28
            assert max(map(len, capture.take())) == NARROW + ETHERNET_BYTES
    assert lab.verify() == []


def test_a_next_hop_with_another_address_is_sent_all_from_then_on(launch: Launch) -> None:
    """From when it is asked for again; until then it takes hits by its old one, too."""
    lab = launch(environments=1, toml=ON)
    with cached_udp(lab) as client, wire.capturing((lab.vpc, INTERFACE)) as (capture,):
        run(lab.vpc, "ip", "link", "set", "dev", INTERFACE, "address", NEW_MAC)
        # What was asked for is not believed for long when it does not answer to its name.
        exchange_in_time(lab, client)

        def all_by_the_new_one() -> bool:
            capture.take()
            hits_again(lab, client)
            received = [frame for frame in capture.take() if wire.ethertype(frame) == ETH_P_IP]
            return {frame[:6].hex(":") for frame in received} == {NEW_MAC}

        wait_until(all_by_the_new_one, "the new address")
    assert lab.verify() == []


def exchange_in_time(lab: Lab, client: socket.socket) -> None:
    """Send until something comes back."""
    client.settimeout(0.5)
    numbers = itertools.count()

    def answered() -> bool:
        question = b"who is there %d" % next(numbers)
        client.sendto(question, ECHO)
        with contextlib.suppress(TimeoutError):
            # Those of before come first, however late: none is left for who asks next.
            while client.recv(64) != question:
                pass
            return True
        return False

    wait_until(answered, "an answer")
    client.settimeout(WAIT_SECONDS)


def test_a_connection_that_is_idle_by_the_lab_s_clock_is_reset(launch: Launch) -> None:
    lab = launch(environments=1, toml=ON)
    with tcp_echo(lab), cached_tcp(lab) as client:
        lab.cli("advance", "300")
        talk(client)
        lab.cli("advance", "340")
        talk(client)
        lab.cli("advance", "351")
        with pytest.raises(ConnectionResetError):
            talk(client, 2)
        assert cached(lab) == 0
    assert lab.verify() == []


HANDLER = """
import socket
pool = None

def handler(event, context):
    global pool
    if pool is None:
        pool = socket.create_connection(("10.0.1.80", 7007), timeout=20)
    for _ in range(event["times"]):
        pool.sendall(b"ping")
        answer = pool.recv(4)
        if answer == b"done":
            break
        if answer != b"pong":
            raise ConnectionError("no pong")
    return event["times"]
"""
HANDLED = f"""
{ON}
[lifecycle]
time_scale = 100
warm_idle_seconds = 60000

{FUNCTIONS_VPC}

[[function]]
name = "orders"
subnets = ["a"]
security_groups = ["functions"]
code = "{{code}}"
handler = "app.handler"
memory_mb = 512
timeout_seconds = 30
"""


@pytest.mark.slow
def test_an_environment_that_stands_still_gets_nothing_and_goes_on(
    launch: Launch, tmp_path: Path
) -> None:
    """Its cached flow has no hits while it is frozen, and is as good afterwards."""
    directory = tmp_path / "code"
    directory.mkdir(mode=0o755)
    (directory / "app.py").write_text(HANDLER, encoding="utf-8")
    for each in (*tmp_path.parents[:2], tmp_path):
        each.chmod(0o755)
    lab = launch(environments=0, toml=HANDLED.format(code=directory))
    lab.cli("wait")

    def asked(times: int) -> Callable[[], Any]:
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(invoke(lab, times=times)))
        thread.start()

        def finished() -> Any:
            thread.join(60)
            return answers[0]

        return finished

    with tcp_socket(lab.vpc, seconds=30) as listener:
        listener.bind((WEB[0], 7007))
        listener.listen()
        first = asked(200)
        server, _peer = listener.accept()
        with server:
            server.settimeout(30)
            for _ in range(200):
                assert receive(server, 4) == b"ping"
                server.sendall(b"pong")
            number = stands_still(lab, first())
            wait_until(lambda: lab.counters()["flow_cache_packets"] > 100, "hits")
            hits = lab.counters()["flow_cache_packets"]
            before = lab.drops().get("environment_frozen", 0)
            # Before it asks: one that comes while nobody is there.
            server.sendall(b"pong")
            wait_until(
                lambda: lab.drops().get("environment_frozen", 0) >= before + 2,
                "repetitions are dropped",
            )
            again = asked(10_000_000)

            def hit() -> bool:
                # It is not cached again at once.
                for _ in range(100):
                    assert receive(server, 4) == b"ping"
                    server.sendall(b"pong")
                return bool(lab.counters()["flow_cache_packets"] > hits + 100)

            wait_until(hit, "hits again")
            assert receive(server, 4) == b"ping"
            server.sendall(b"done")
            assert stands_still(lab, again()) == number
    assert lab.verify() == []


def test_a_program_that_is_taken_off_or_changed_comes_back(launch: Launch) -> None:
    """Flows go on: by nobody for a while, since nothing else passes the link."""
    lab = launch(environments=1, toml=ON)
    with (
        cached_udp(lab) as client,
        route_socket(lab.gateway) as route,
        FlowCache.load(flows=1, attachments=1) as stranger,
    ):
        index = links.existing(route, "env1").index
        ours = attached(route, index)
        assert ours is not None
        # One that knows no flow, with another's number.
        stranger.attach(route, {index: 2})
        wait_until(lambda: attached(route, index) == ours, "the program on env1")
        exchange_in_time(lab, client)
        hits_again(lab, client)
        run(lab.gateway, "tc", "qdisc", "del", "dev", "env1", "clsact")
        wait_until(lambda: attached(route, index) == ours, "the program on env1")
        exchange_in_time(lab, client)
        hits_again(lab, client)
    assert "flow-cache-restored" in {each["kind"] for each in lab.rows("events")}
    assert lab.verify() == []


def test_flow_logs_have_every_packet_of_cached_flows(launch: Launch, tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    logs = Logs(launch(environments=1, toml=ON + with_flow_logs(directory)), directory)
    lab = logs.lab
    with cached_udp(lab) as client:
        frames = punted(lab)
        for _ in range(300):
            exchange(client, b"x" * 100)
        assert punted(lab) - frames <= ARP_FRAMES

        def agree() -> bool:
            now = told(lab, client)
            return now[0] == now[2] and now[0] > 300

        wait_until(agree, "the sweep")
        packets, size, *_ = told(lab, client)
        port = str(client.getsockname()[1])
        row = flow_of(lab, client)
        assert row is not None
        for wanted in (
            {"srcaddr": INSIDE_ADDRESS, "srcport": port},
            {"srcaddr": INTERFACE_ADDRESS, "dstaddr": INSIDE_ADDRESS, "dstport": port},
            {"srcaddr": INTERFACE_ADDRESS, "srcport": str(row["nat_port"])},
            {"srcaddr": ECHO[0], "dstaddr": INTERFACE_ADDRESS, "dstport": str(row["nat_port"])},
        ):
            logs.wait(
                functools.partial(lambda w: logs.packets(**w) == packets, wanted),
                f"{packets} packets of {wanted}",
            )
            assert sum(int(each["bytes"]) for each in logs.records(**wanted)) == size
    assert lab.verify() == []


def spoilt(lab: Lab, client: socket.socket) -> Iterator[bytes]:
    """Frames on the ends of a cached flow that are not its own, in ways that differ."""
    where = lab.environment(1)
    mac, gateway = wire.mac_of(where, "eth0"), wire.mac_of(lab.gateway, "env1")
    port = client.getsockname()[1]
    ethernet, datagram = Ether(src=mac, dst=gateway), UDP(sport=port, dport=ECHO[1]) / b"forged"
    whole = IP(src=INSIDE_ADDRESS, dst=ECHO[0], flags="DF")
    # From another's address, an address of the gateway, and of the flow as the VPC sees it.
    for source in ("169.254.100.6", "169.254.100.1", INTERFACE_ADDRESS, ECHO[0]):
        yield bytes(ethernet / IP(src=source, dst=ECHO[0], flags="DF") / datagram)
    yield bytes(ethernet / Dot1Q(vlan=1) / whole / datagram)
    yield bytes(ethernet / Dot1Q(vlan=2) / whole / datagram)
    yield bytes(ethernet / Dot1Q(vlan=0) / Dot1Q(vlan=7) / whole / datagram)
    # Lengths and checksums that do not agree, other stations' frames, the last hop.
    yield bytes(ethernet / whole / UDP(sport=port, dport=ECHO[1], len=200) / b"forged")
    yield bytes(ethernet / IP(src=INSIDE_ADDRESS, dst=ECHO[0], flags="DF", len=20) / datagram)
    yield bytes(ethernet / IP(src=INSIDE_ADDRESS, dst=ECHO[0], flags="DF", chksum=1) / datagram)
    yield bytes(Ether(src=mac, dst="02:de:ad:be:ef:01") / whole / datagram)
    yield bytes(ethernet / IP(src=INSIDE_ADDRESS, dst=ECHO[0], flags="DF", ttl=1) / datagram)


def test_hostile_frames_on_the_ends_of_a_cached_flow_go_nowhere(launch: Launch) -> None:
    lab = launch(environments=2, toml=ON)
    with cached_udp(lab) as client, wire.capturing((lab.vpc, INTERFACE)) as (capture,):
        frames = list(spoilt(lab, client))
        before = sum(lab.drops().values())
        wire.inject(lab.environment(1), "eth0", frames)
        wait_until(lambda: sum(lab.drops().values()) >= before + len(frames), "drops")
        # The same from an environment whose flow it is not, and from the VPC to the other's port.
        mac, gateway = wire.mac_of(lab.environment(2), "eth0"), wire.mac_of(lab.gateway, "env2")
        port = client.getsockname()[1]
        other = IP(src=INTERFACE_ADDRESS, dst=ECHO[0], flags="DF") / UDP(sport=port, dport=7)
        wire.inject(lab.environment(2), "eth0", [bytes(Ether(src=mac, dst=gateway) / other)])
        wait_until(lambda: sum(lab.drops().values()) >= before + len(frames) + 1, "the last drop")
        exchange_in_time(lab, client)
        assert not [frame for frame in capture.take() if b"forged" in frame]
        hits_again(lab, client)
    assert lab.verify() == []


def test_lying_offload_headers_on_a_cached_flow(launch: Launch) -> None:
    """Whatever the sender's kernel lets pass: it goes to nobody else, and both flows go on."""
    lab = launch(environments=1, toml=ON)
    where = lab.environment(1)
    with (
        tcp_echo(lab),
        cached_tcp(lab) as stream,
        cached_udp(lab) as client,
        wire.capturing((lab.vpc, INTERFACE)) as (capture,),
    ):
        ethernet = Ether(src=wire.mac_of(where, "eth0"), dst=wire.mac_of(lab.gateway, "env1"))
        ip = IP(src=INSIDE_ADDRESS, dst=ECHO[0], flags="DF")
        port = client.getsockname()[1]
        datagram = bytes(ethernet / ip / UDP(sport=port, dport=ECHO[1]) / (b"lie!" * 300))
        segment = bytes(
            ethernet
            / IP(src=INSIDE_ADDRESS, dst=WEB[0], flags="DF")
            / TCP(sport=stream.getsockname()[1], dport=7007, flags="A", seq=1, ack=1)
            / (b"lie!" * 300)
        )
        lies = [
            (wire.offload(**fields), frame)
            for frame in (datagram, segment)
            for fields in (
                {"checksum_start": 34, "checksum_offset": 6},
                {"checksum_start": 20, "checksum_offset": 0},
                {"checksum_start": 36, "checksum_offset": 16},
                {"checksum_start": len(frame) - 2, "checksum_offset": 0},
                {"flags": 0, "gso_type": 1, "header_length": 54, "gso_size": 100},
                {"gso_type": 1, "gso_size": 1, "checksum_start": 34, "checksum_offset": 16},
                {"gso_type": 1, "gso_size": 65535, "checksum_start": 34, "checksum_offset": 16},
                {"gso_type": GSO_UDP_L4, "gso_size": 7, "checksum_start": 34, "checksum_offset": 6},
                {"gso_type": 4, "gso_size": 500, "checksum_start": 54, "checksum_offset": 16},
            )
        ]
        for each in lies * 5:
            wire.inject_offloaded(where, "eth0", [each])
        exchange_in_time(lab, client)
        arrived = [frame for frame in capture.take() if b"lie!" in frame]
        assert all(frame[26:30] == socket.inet_aton(INTERFACE_ADDRESS) for frame in arrived)
        talk(stream, 5)
        hits_again(lab, client)
    assert lab.verify() == []


@dataclass
class Talker:
    """A socket in an environment, and what only it may be sent."""

    endpoint: socket.socket
    token: bytes
    answered: int = 0

    def send(self, datagrams: int) -> bool:
        """False when its environment is gone."""
        try:
            for _ in range(datagrams):
                self.endpoint.sendto(self.token, ECHO)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def take(self) -> None:
        """Everything that has come is its own."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while True:
                found = self.endpoint.recv(2048)
                assert found == self.token, (found, self.token)
                self.answered += 1


class Crowd:
    """Environments that talk all the time while they come and go."""

    def __init__(self, lab: Lab, stack: contextlib.ExitStack) -> None:
        self.lab = lab
        self.stack = stack
        self.talkers: dict[int, Talker] = {}
        self.met = self.answered = 0
        self.selector = stack.enter_context(selectors.DefaultSelector())

    def meet(self, number: int) -> None:
        """One more environment talks, from the port of all of them."""
        try:
            endpoint = udp_socket(self.lab.environment(number), port=5000)
        except (NetnsError, OSError):
            return
        self.stack.callback(endpoint.close)
        endpoint.setblocking(False)
        self.talkers[number] = Talker(endpoint, f"only env-{number}".encode())
        self.selector.register(endpoint, selectors.EVENT_READ, number)
        self.met += 1

    def turn(self) -> None:
        """Everybody says something; who is gone is forgotten."""
        for number in [n for n, each in self.talkers.items() if not each.send(4)]:
            gone = self.talkers.pop(number)
            gone.take()
            self.answered += gone.answered
            self.selector.unregister(gone.endpoint)
            gone.endpoint.close()
        for key, _ in self.selector.select(0.002):
            self.talkers[key.data].take()


@pytest.mark.slow
@pytest.mark.parametrize("total", [60, pytest.param(1000, marks=pytest.mark.long)])
def test_environments_come_and_go_and_nobody_gets_what_is_another_s(
    launch: Launch, total: int
) -> None:
    """All have one address and one port, and there are few NAT ports, which are used again."""
    lab = launch(environments=0, toml=functions(3 * FAST, FAST))
    lab.cli("wait")
    patient = Client(lab.name, timeout=60)
    at_once = total // 6
    with contextlib.ExitStack() as stack:
        crowd = Crowd(lab, stack)
        stop = threading.Event()

        def begin() -> None:
            # Provisioning keeps those that live, too: half of them end before it is asked for.
            while not stop.wait(0.2):
                if len(living(lab)) < at_once // 2:
                    patient.post("/v1/functions/orders/provision", {"count": at_once})

        thread = threading.Thread(target=begin)
        thread.start()
        stack.callback(thread.join)
        stack.callback(stop.set)
        known: set[int] = set()

        def all_met() -> bool:
            for number in living(lab):
                if number not in known:
                    known.add(number)
                    crowd.meet(number)
            for _ in range(20):
                crowd.turn()
            if crowd.met < total:
                return False
            counters = lab.counters()
            return (
                counters["flow_cache_promotions"] > total // 4
                and counters["flow_cache_packets"] > 10 * total
            )

        wait_until(all_met, lambda: f"{total} environments, {crowd.met} so far", 60 + total)
        assert crowd.answered + sum(each.answered for each in crowd.talkers.values()) > 0
    assert lab.verify() == []
