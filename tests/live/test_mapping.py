# SPDX-License-Identifier: Apache-2.0
"""Who may send to an environment, under both profiles: mappings, filtering and hairpinning with
real sockets, and the ICMP errors that belong to them.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.l2 import Ether

from netns import content
from tests.live import wire
from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    INSIDE_ADDRESS,
    INSIDE_GATEWAY,
    INTERFACE_ADDRESS,
    WEB,
    Lab,
    difference,
    drops_exactly,
    require_program,
    run,
    tcp_socket,
    udp_socket,
    wait_until,
)

pytestmark = pytest.mark.live

RFC = '[nat]\nprofile = "rfc"\n'
OPEN = RFC + 'filtering = "endpoint-independent"\n'
PCP_PORT = 5351
ONE_PORT = "[ports]\nfirst = 40000\nlast = 40000\n"


@pytest.fixture(scope="module")
def aws(launch_shared: Launch) -> Lab:
    return launch_shared(environments=2)


@pytest.fixture(scope="module")
def rfc(launch_shared: Launch) -> Lab:
    return launch_shared(environments=3, toml=RFC)


@pytest.fixture(scope="module")
def everybody(launch_shared: Launch) -> Lab:
    return launch_shared(environments=2, toml=OPEN)


@contextlib.contextmanager
def server(lab: Lab, host: str, port: int) -> Iterator[socket.socket]:
    with udp_socket(lab.vpc, seconds=30) as endpoint:
        endpoint.bind((host, port))
        yield endpoint


def settled(lab: Lab, number: int = 1) -> None:
    """An echo through the gateway, after everything sent before."""
    with udp_socket(lab.environment(number)) as client:
        client.sendto(b"settled", ECHO)
        assert client.recvfrom(64) == (b"settled", ECHO)


def outside_of(client: socket.socket, observer: socket.socket) -> tuple[str, int]:
    """Where an observer in the VPC sees a socket of an environment."""
    client.sendto(b"where am I", observer.getsockname())
    data, source = observer.recvfrom(64)
    assert data == b"where am I"
    return str(source[0]), int(source[1])


@pytest.mark.requirement("RFC4787-1", profile="rfc")
def test_one_port_for_all_remotes(rfc: Lab) -> None:
    with (
        udp_socket(rfc.environment(1)) as client,
        server(rfc, WEB[0], 9001) as one,
        server(rfc, WEB[0], 9002) as two,
        server(rfc, ECHO[0], 9003) as three,
    ):
        seen = {outside_of(client, each) for each in (one, two, three)}
    assert len(seen) == 1
    assert rfc.counters()["mappings_active"] >= 1
    assert rfc.verify() == []


@pytest.mark.requirement("RFC4787-1", profile="aws")
def test_a_port_for_each_remote(aws: Lab) -> None:
    """Nobody can tell from the port at one remote which it is at another."""
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(udp_socket(aws.environment(1)))
        servers = [stack.enter_context(server(aws, WEB[0], 9001 + n)) for n in range(8)]
        seen = {outside_of(client, each) for each in servers}
    assert len(seen) > 1


@pytest.mark.requirement("RFC4787-8", profile="rfc")
def test_an_address_that_was_sent_to_may_answer_from_any_port(rfc: Lab) -> None:
    with (
        udp_socket(rfc.environment(1)) as client,
        server(rfc, WEB[0], 9001) as known,
        server(rfc, WEB[0], 9002) as same_address,
        server(rfc, ECHO[0], 9003) as stranger,
    ):
        here = outside_of(client, known)
        same_address.sendto(b"another port", here)
        assert client.recvfrom(64) == (b"another port", (WEB[0], 9002))
        with drops_exactly(rfc, {"filtered": 1}, lambda: settled(rfc, 2)):
            stranger.sendto(b"stranger", here)
        # Until the environment sends there, to whatever port.
        client.sendto(b"hello", (ECHO[0], 9))
        settled(rfc, 2)
        stranger.sendto(b"no stranger", here)
        assert client.recvfrom(64) == (b"no stranger", (ECHO[0], 9003))
    assert rfc.verify() == []


@pytest.mark.requirement("AWS-outbound-only", profile="aws")
def test_nobody_else_may_send_to_a_port(aws: Lab) -> None:
    with (
        udp_socket(aws.environment(1)) as client,
        server(aws, WEB[0], 9001) as known,
        server(aws, WEB[0], 9002) as stranger,
    ):
        here = outside_of(client, known)
        with drops_exactly(aws, {"no_flow": 1}, lambda: settled(aws)):
            stranger.sendto(b"stranger", here)
        known.sendto(b"known", here)
        assert client.recvfrom(64) == (b"known", (WEB[0], 9001))


@pytest.mark.requirement("RFC5382-2", profile="rfc")
@pytest.mark.requirement("RFC5382-3", profile="rfc")
def test_a_connection_from_outside(everybody: Lab) -> None:
    """To the port of a listener that has a mapping by a connection of its own from there."""
    with (
        tcp_socket(everybody.vpc) as far,
        tcp_socket(everybody.environment(1), port=6000) as listener,
        tcp_socket(everybody.environment(1)) as outgoing,
        tcp_socket(everybody.vpc) as caller,
    ):
        far.bind((WEB[0], 7100))
        far.listen()
        for each in (listener, outgoing):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        outgoing.bind(("", 6000))
        outgoing.connect((WEB[0], 7100))
        accepted, here = far.accept()
        listener.listen()
        caller.bind((ECHO[0], 0))
        with accepted:
            caller.connect(here)
            inside, peer = listener.accept()
            with inside:
                assert peer == caller.getsockname()
                # Before anybody says a word: RFC 5382 REQ-5 counts from here.
                states = {flow["state"] for flow in everybody.rows("flows")}
                assert states == {"ESTABLISHED"}
                caller.sendall(b"question")
                assert inside.recv(64) == b"question"
                inside.sendall(b"answer")
                assert caller.recv(64) == b"answer"
    assert everybody.verify() == []


@pytest.mark.requirement("AWS-no-hairpin", profile="rfc")
@pytest.mark.requirement("RFC4787-9", profile="rfc")
def test_two_environments_meet_by_their_outside_addresses(rfc: Lab) -> None:
    """Each must have sent to the other, as hole punching does; each sees the outside address."""
    with (
        udp_socket(rfc.environment(1)) as one,
        udp_socket(rfc.environment(2)) as two,
        server(rfc, WEB[0], 9001) as rendezvous,
    ):
        first, second = outside_of(one, rendezvous), outside_of(two, rendezvous)
        assert first[0] == second[0] == INTERFACE_ADDRESS
        with drops_exactly(rfc, {"filtered": 1}, lambda: settled(rfc, 3)):
            one.sendto(b"too early", second)
        two.sendto(b"from two", first)
        assert one.recvfrom(64) == (b"from two", second)
        one.sendto(b"from one", second)
        assert two.recvfrom(64) == (b"from one", first)
    assert rfc.counters()["packets_hairpinned"] >= 3
    assert rfc.verify() == []


@pytest.mark.requirement("RFC4787-9", profile="rfc")
def test_neighbours_are_one_address_to_a_filter(rfc: Lab) -> None:
    """Who has sent to one of them is reached by all behind the interface, and no other is."""
    with (
        udp_socket(rfc.environment(1)) as one,
        udp_socket(rfc.environment(2)) as two,
        udp_socket(rfc.environment(3)) as three,
        server(rfc, WEB[0], 9001) as rendezvous,
    ):
        first, second = outside_of(one, rendezvous), outside_of(two, rendezvous)
        third = outside_of(three, rendezvous)
        with drops_exactly(rfc, {"filtered": 2}, lambda: settled(rfc, 3)):
            one.sendto(b"unasked", second)
            three.sendto(b"unasked", second)
        two.sendto(b"from two", first)
        assert one.recvfrom(64) == (b"from two", second)
        three.sendto(b"from three", second)
        assert two.recvfrom(64) == (b"from three", third)


@pytest.mark.requirement("RFC4787-9", profile="rfc")
@pytest.mark.requirement("RFC4787-14", profile="rfc")
@pytest.mark.parametrize("size", [1473, 65507])
def test_neighbours_exchange_datagrams_in_pieces(everybody: Lab, size: int) -> None:
    """The environments' kernels cut them and put them together."""
    before = everybody.counters()
    payload = content.read(size)
    with (
        udp_socket(everybody.environment(1)) as one,
        udp_socket(everybody.environment(2)) as two,
        server(everybody, WEB[0], 9001) as rendezvous,
    ):
        first, second = outside_of(one, rendezvous), outside_of(two, rendezvous)
        one.sendto(payload, second)
        assert two.recvfrom(1 << 16) == (payload, first)
        two.sendto(payload, first)
        assert one.recvfrom(1 << 16) == (payload, second)
    change = difference(before, everybody.counters())
    pieces = 2 * -(-(size + 8) // 1480)
    assert change["packets_hairpinned"] == change["fragments_forwarded"] == pieces
    assert not [name for name in change if name.startswith("drop_")]
    assert everybody.verify() == []


@pytest.mark.requirement("RFC4787-9", profile="rfc")
@pytest.mark.requirement("RFC4787-14", profile="rfc")
def test_pieces_for_a_neighbour_in_any_order(everybody: Lab) -> None:
    """Written by hand, the last first; those before the first one wait for it."""
    where = everybody.environment(1)
    with (
        udp_socket(everybody.environment(2)) as two,
        server(everybody, WEB[0], 9001) as rendezvous,
    ):
        address, port = outside_of(two, rendezvous)
        payload = content.read(4000)
        whole = IP(src=INSIDE_ADDRESS, dst=address, id=7) / UDP(sport=6003, dport=port) / payload
        link = Ether(
            src=wire.mac_of(where, "eth0"), dst=wire.mac_of(everybody.gateway, "env1"), type=0x0800
        )
        pieces = [bytes(link / each) for each in fragment(IP(bytes(whole)), fragsize=800)]  # type: ignore[no-untyped-call]
        assert len(pieces) == 6
        wire.inject(where, "eth0", pieces[::-1])
        assert two.recv(1 << 16) == payload
    assert everybody.counters()["fragments_waiting"] == 0
    assert everybody.verify() == []


@pytest.mark.requirement("RFC5508-7", profile="rfc")
def test_an_error_comes_back_by_the_hairpin(everybody: Lab) -> None:
    """A neighbour whose socket is gone: the sender's send fails as it would on a LAN."""
    with (
        udp_socket(everybody.environment(1)) as one,
        server(everybody, WEB[0], 9001) as rendezvous,
    ):
        with udp_socket(everybody.environment(2)) as two:
            gone = outside_of(two, rendezvous)
            one.connect(gone)
            one.send(b"hello")
            assert two.recv(64) == b"hello"
        one.send(b"anybody there?")
        with pytest.raises(ConnectionRefusedError):
            one.recv(64)
    assert everybody.verify() == []


def test_an_interface_cannot_be_scanned_by_hairpin(rfc: Lab) -> None:
    before = len(rfc.rows("flows"))
    with (
        udp_socket(rfc.environment(1)) as client,
        drops_exactly(rfc, {"hairpin_no_mapping": 20}, lambda: settled(rfc, 3)),
    ):
        for port in range(100, 120):
            client.sendto(b"anybody?", (INTERFACE_ADDRESS, port))
    flows = [flow for flow in rfc.rows("flows") if flow["remote_address"] == INTERFACE_ADDRESS]
    assert not any(100 <= flow["remote_port"] < 120 for flow in flows)
    assert len(rfc.rows("flows")) <= before + 1


@pytest.mark.requirement("AWS-no-hairpin", profile="aws")
@pytest.mark.requirement("RFC4787-9", profile="aws")
def test_no_hairpin(aws: Lab) -> None:
    with udp_socket(aws.environment(1)) as one, server(aws, WEB[0], 9001) as rendezvous:
        here = outside_of(one, rendezvous)
        with (
            udp_socket(aws.environment(2)) as two,
            drops_exactly(aws, {"destination_hairpin": 1}, lambda: settled(aws, 2)),
        ):
            two.sendto(b"neighbour", here)


@pytest.mark.requirement("RFC6888-11", profile="rfc")
def test_who_gets_no_port_is_told(launch: Launch) -> None:
    """ICMP 3/13 ends up as an error of the socket; the flow there is goes on."""
    lab = launch(environments=2, toml=RFC + ONE_PORT)
    with udp_socket(lab.environment(1)) as one, udp_socket(lab.environment(2)) as two:
        one.connect(ECHO)
        one.send(b"mine")
        assert one.recv(64) == b"mine"
        two.connect(ECHO)
        two.send(b"none left")
        # Linux: the host is unreachable (icmp(7), EHOSTUNREACH of code 13).
        with pytest.raises(OSError, match="No route to host"):
            two.recv(64)
        one.send(b"still mine")
        assert one.recv(64) == b"still mine"
    assert lab.drops()["port_allocation"] == 1


@pytest.mark.requirement("RFC6888-8", profile="rfc")
def test_a_mapping_is_held(launch: Launch) -> None:
    """For 120 seconds after its last flow, 1.2 under a time scale of 100."""
    lab = launch(environments=2, toml=RFC + ONE_PORT + "[timeouts]\ntime_scale = 100\n")
    with udp_socket(lab.environment(1)) as one, udp_socket(lab.environment(2)) as two:
        one.sendto(b"mine", ECHO)
        assert one.recvfrom(64) == (b"mine", ECHO)

        def owned() -> bool:
            two.settimeout(0.05)
            two.sendto(b"now?", ECHO)
            with contextlib.suppress(TimeoutError):
                return two.recvfrom(64) == (b"now?", ECHO)
            return False

        # 3 seconds until the flow ends, 1.2 until the port is free.
        wait_until(owned, "the port is free")
    assert lab.drops()["port_allocation"] >= 1
    assert lab.verify() == []


@pytest.mark.requirement("RFC6888-6", profile="both")
@pytest.mark.parametrize("profile", ["aws", "rfc"])
def test_nothing_leaves_untranslated(request: pytest.FixtureRequest, profile: str) -> None:
    """Whatever the destination: the addresses of the environments are all the same."""
    lab: Lab = request.getfixturevalue(profile)
    for where, port in ((WEB[0], 9001), (ECHO[0], 9001), (ECHO[0], 53)):
        with (
            udp_socket(lab.environment(1), port=6001) as one,
            udp_socket(lab.environment(2), port=6001) as two,
            server(lab, where, port) as observer,
        ):
            seen = [outside_of(each, observer) for each in (one, two)]
        assert {address for address, _port in seen} == {INTERFACE_ADDRESS}
        assert seen[0] != seen[1]


@pytest.mark.requirement("RFC6888-9", profile="both")
@pytest.mark.parametrize("profile", ["aws", "rfc"])
def test_nobody_may_ask_for_a_mapping(request: pytest.FixtureRequest, profile: str) -> None:
    """A PCP client asks its router (RFC 6887 section 8.1), which does not listen."""
    lab: Lab = request.getfixturevalue(profile)
    with udp_socket(lab.environment(1), port=6002, seconds=0.1) as client:
        with drops_exactly(lab, {"destination_gateway": 1}, lambda: settled(lab, 2)):
            client.sendto(pcp_map_request(6002), (INSIDE_GATEWAY, PCP_PORT))
        with pytest.raises(TimeoutError):
            client.recv(1100)
    assert not [flow for flow in lab.rows("flows") if flow["inside_port"] == 6002]


def pcp_map_request(port: int) -> bytes:
    """A request for a mapping of a UDP port for an hour (RFC 6887 sections 7.1 and 11.1)."""
    mapped = b"\xff\xff" + socket.inet_aton(INSIDE_ADDRESS)
    header = struct.pack("!BBHI16s", 2, 1, 0, 3600, mapped.rjust(16, b"\0"))
    anywhere = b"\xff\xff" + bytes(4)
    return header + struct.pack(
        "!12sB3xHH16s", b"nonce nonce ", 17, port, 0, anywhere.rjust(16, b"\0")
    )


@pytest.mark.requirement("RFC4787-2", profile="rfc")
@pytest.mark.requirement("RFC7857-4", profile="rfc")
def test_an_environment_keeps_its_address(launch: Launch) -> None:
    """The same for UDP, TCP and ICMP; environments that share one do so for all of them."""
    ping = require_program("ping", "iputils-ping")
    toml = RFC + (
        '[[network_interface]]\nname = "eni-a"\nsubnet = "private-a"\n'
        f'address = "{INTERFACE_ADDRESS}"\nsecondary_addresses = ["10.0.1.20", "10.0.1.21"]\n'
    )
    lab = launch(environments=4, toml=toml)
    with server(lab, WEB[0], 9001) as observer:
        for number in range(1, 5):
            where = lab.environment(number)
            run(where, ping, "-n", "-c", "1", "-W", "5", ECHO[0])
            for _ in range(10):
                with udp_socket(where) as client, tcp_socket(where) as connection:
                    outside_of(client, observer)
                    connection.connect(WEB)
    seen = {
        protocol: {
            (row["environment"], row["nat_address"]) for row in lab.rows("flows", protocol=protocol)
        }
        for protocol in ("udp", "tcp", "icmp")
    }
    assert seen["udp"] == seen["tcp"] == seen["icmp"]
    assert len(seen["udp"]) == 4
    addresses = {address for _environment, address in seen["udp"]}
    assert addresses == {INTERFACE_ADDRESS, "10.0.1.20", "10.0.1.21"}
