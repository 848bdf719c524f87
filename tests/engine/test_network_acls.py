# SPDX-License-Identifier: Apache-2.0
"""Network ACLs: every packet is asked about at each border that it crosses, whatever its flow."""

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperplane_nat.engine import (
    Action,
    Behaviour,
    DropReason,
    Filtering,
    NetworkAclEntry,
    SubnetAcl,
)
from hyperplane_nat.engine import Mapping as NatMapping
from hyperplane_nat.engine.state.constants import RouteTarget
from tests.engine import gateways, scenario
from tests.engine.balancers import CLIENT, NODE, SERVICE, SYN, SYNACK, WEB, Scene, listener
from tests.engine.border import APART, CONVERSATIONS, TOGETHER, told
from tests.engine.caching import CachingTarget
from tests.engine.gateways import (
    ENVIRONMENT,
    FAR,
    FIRST,
    HOST,
    INSIDE,
    LAMBDA,
    OUTSIDE,
    SECOND,
    VPC,
)
from tests.engine.test_cached_flows import SETUP, exchange, promoted
from tests.reference import packet
from tests.reference.network_acl import Acl, Asked, Entry, refusal

PORT = 53
ALL = (Entry(True),)
OPEN = Acl(ALL, ALL)
SHUT = Acl((), ())
FIRSTS = IPv4Network(f"{FIRST}/32")
SECONDS = IPv4Network(f"{SECOND}/32")

# Few values, so that entries touch what is sent all the time.
ports = st.sampled_from((0, 52, 53, 54, 80, 4999, 5000, 8080, 39_999, 40_000, 40_064, 65535))
cidrs = st.sampled_from(
    tuple(
        IPv4Network(text)
        for text in (
            *("0.0.0.0/0", "10.0.0.0/16", "10.0.1.0/24", f"{FAR}/32", f"{LAMBDA}/32"),
            *(f"{FIRST}/32", f"{FIRST}/31", f"{NODE}/32", f"{CLIENT}/32", "192.0.2.0/24"),
        )
    )
)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    first, last = sorted((draw(ports), draw(ports)))
    protocol = draw(st.sampled_from(("udp", "udp", "udp", "tcp", "icmp", "all")))
    return Entry(draw(st.booleans()), protocol, draw(cidrs), first, last)


sides = st.one_of(
    st.just(ALL),
    st.lists(entries(), max_size=5).map(tuple),
    # What is denied is an exception.
    st.lists(entries(), max_size=3).map(lambda each: (*each, *ALL)),
)
acls = st.builds(Acl, sides, sides)
networks = st.sampled_from((APART, TOGETHER)).flatmap(
    lambda subnets: st.dictionaries(st.sampled_from(subnets), acls, max_size=len(subnets))
)


@pytest.fixture
def scene() -> Iterator[Scene]:
    result = Scene(listener(WEB, protocol="udp", preserve=False))
    yield result
    assert result.engine.verify() == []
    result.close()


@pytest.mark.requirement("VPC-acl-stateless", profile="both")
@pytest.mark.requirement("VPC-acl-load-balancer", profile="both")
@pytest.mark.parametrize("name", CONVERSATIONS)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
@given(subnets=networks, port=st.sampled_from((53, 80)))
def test_what_passes_is_what_the_entries_say(
    name: str, subnets: Mapping[IPv4Network, Acl], port: int
) -> None:
    """Of a flow that begins, and of both directions of one that there is."""
    world = dict(subnets)
    fresh = Scene()
    told(fresh, world)
    begun = CONVERSATIONS[name](fresh, port).begins()
    assert begun.reason == refusal(world, begun.legs)
    if begun.reason is not None:
        assert fresh.engine.counters()["flows_entries_used"] == 0
    assert fresh.engine.verify() == []
    fresh.close()
    there = Scene()
    conversation = CONVERSATIONS[name](there, port)
    assert conversation.begins().reason is None
    told(there, world)
    for sent in (conversation.begins(), conversation.answers()):
        assert sent.reason == refusal(world, sent.legs), sent.legs
    told(there, {})
    assert conversation.answers().reason is None
    there.close()


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_border_that_lets_nothing_pass(scene: Scene, name: str) -> None:
    """Everybody in a subnet of his own that is shut: the sender's is asked first."""
    told(scene, dict.fromkeys(APART, SHUT))
    sent = CONVERSATIONS[name](scene, PORT).begins()
    ingress = name == "from the internet"
    assert sent.reason == ("network_acl_ingress" if ingress else "network_acl_egress")
    assert scene.drops() == {sent.reason: 1}


def test_within_a_subnet_nothing_is_asked(scene: Scene) -> None:
    told(scene, {TOGETHER[0]: SHUT})
    assert CONVERSATIONS["host to host"](scene, PORT).begins().reason is None
    assert CONVERSATIONS["environment by node"](scene, PORT).begins().reason is None
    assert CONVERSATIONS["NAT gateway"](scene, PORT).begins().reason == "network_acl_egress"


def test_the_first_entry_that_matches_decides(scene: Scene) -> None:
    denied = Entry(False, "udp", first=PORT, last=PORT)
    told(scene, {SECONDS: Acl((denied, *ALL), ALL)})
    assert CONVERSATIONS["host to host"](scene, PORT).begins().reason == "network_acl_ingress"
    assert CONVERSATIONS["host to host"](scene, PORT + 1).begins().reason is None
    told(scene, {SECONDS: Acl((*ALL, denied), ALL)})
    assert CONVERSATIONS["host to host"](scene, PORT).begins().reason is None


@pytest.mark.requirement("VPC-acl-nat", profile="both")
def test_answers_need_entries_of_their_own(scene: Scene) -> None:
    """As on AWS: without 1024 to 65535 inbound nothing comes back (VPC user guide, "Ephemeral
    ports").
    """
    conversation = CONVERSATIONS["NAT gateway"](scene, PORT)
    low = Acl((Entry(True, "udp", first=0, last=1023),), ALL)
    told(scene, {APART[0]: low})
    assert conversation.begins().reason is None
    assert conversation.answers().reason == "network_acl_ingress"
    told(scene, {APART[0]: Acl((Entry(True, "udp", first=1024, last=65535),), ALL)})
    assert conversation.answers().reason is None


def test_what_is_refused_does_not_act_on_its_flow(scene: Scene) -> None:
    """A reset that does not arrive ends nothing, and nothing is kept alive by what is refused."""
    near, far = (FIRST, 5000), (SECOND, 80)
    scene.tcp((HOST, 0), near, far, SYN, (100, 0))
    scene.tcp((HOST, 1), far, near, SYNACK, (500, 101))
    scene.tcp((HOST, 0), near, far, packet.ACK, (101, 501))
    told(scene, {SECONDS: SHUT})
    scene.now = 1000
    for flags in (packet.ACK, packet.RST):
        refused = scene.tcp((HOST, 0), near, far, flags, (101, 501))
        assert refused.reason is DropReason.NETWORK_ACL_INGRESS
    [flow] = scene.engine.host_flows()
    assert (flow.state, flow.last_seen_ms, flow.packets_out) == ("ESTABLISHED", 0, 2)
    told(scene, {})
    assert scene.tcp((HOST, 0), near, far, packet.ACK, (101, 501)).action is Action.FORWARD


def _echo(kind: int, source: str, destination: str) -> bytes:
    content = packet.icmp(kind, 0, (77).to_bytes(2) + bytes(2), b"x")
    return packet.ipv4(source, destination, packet.ICMP, content)


def test_icmp_by_type_and_code(scene: Scene) -> None:
    """Echo requests pass, their answers do not; a code that is not theirs is no match."""
    only = Acl((Entry(True, "icmp", icmp=(8, 0)),), ALL)
    told(scene, {FIRSTS: only, SECONDS: only})
    request = _echo(packet.ECHO_REQUEST, FIRST, SECOND)
    assert scene.arrives(HOST, 0, request).action is Action.FORWARD
    reply = scene.arrives(HOST, 1, _echo(packet.ECHO_REPLY, SECOND, FIRST))
    assert reply.reason is DropReason.NETWORK_ACL_INGRESS
    told(scene, {SECONDS: Acl((Entry(True, "icmp", icmp=(8, 1)),), ALL)})
    assert scene.arrives(HOST, 0, request).reason is DropReason.NETWORK_ACL_INGRESS
    told(scene, {SECONDS: Acl((Entry(True, "icmp", icmp=(None, None)),), ALL)})
    assert scene.arrives(HOST, 0, request).action is Action.FORWARD


@pytest.mark.parametrize("name", ["host to host", "environment to host", "environment by node"])
def test_an_icmp_error_is_asked_about_by_its_own_type(scene: Scene, name: str) -> None:
    conversation = CONVERSATIONS[name](scene, 80)
    frame = conversation.begins().verdict.frame
    reached = str(IPv4Address(frame[30:34]))
    error = packet.icmp(3, 3, bytes(4), frame[14:42])
    body = packet.ipv4(reached, str(IPv4Address(frame[26:30])), packet.ICMP, error)
    place = (HOST, [FIRST, SECOND].index(reached))
    other = IPv4Network(f"{reached}/32")
    told(scene, {other: Acl(ALL, (Entry(True, "udp"), Entry(True, "icmp", icmp=(8, None))))})
    assert scene.arrives(*place, body).reason is DropReason.NETWORK_ACL_EGRESS
    told(scene, {other: Acl(ALL, (Entry(True, "icmp", icmp=(3, 3)),))})
    assert scene.arrives(*place, body).action is Action.FORWARD


@pytest.mark.requirement("VPC-acl-not-filtered", profile="both")
def test_the_vpc_s_own_addresses_are_exempt(scene: Scene) -> None:
    """Queries and answers of the resolver pass; a host that takes its address is asked about."""
    resolver = "10.0.1.2"
    told(scene, dict.fromkeys(APART, SHUT), (f"{resolver}/32", "169.254.0.0/16"))
    scene.engine.set_neighbour(0, resolver, gateways.macs(OUTSIDE, 0)[1])
    assert scene.from_host(far=(resolver, 53)).action is Action.FORWARD
    assert scene.udp((OUTSIDE, 0), (resolver, 53), (FIRST, 5000)).action is Action.FORWARD
    scene.set_host(0, FIRST, source_check=False)
    forged = scene.udp((HOST, 0), (resolver, 53), (SECOND, 5000))
    assert forged.reason is DropReason.NETWORK_ACL_EGRESS


def test_a_checker_is_where_its_node_is(scene: Scene) -> None:
    """Whoever has a link-local address sends from others', as health checks do from a node's."""
    scene.set_host(3, "169.254.169.252", source_check=False)
    told(scene, {APART[1]: Acl(ALL, ())})
    checked = scene.udp((HOST, 3), (NODE, 500), WEB)
    assert checked.reason is DropReason.NETWORK_ACL_EGRESS
    told(scene, {FIRSTS: Acl(ALL, ()), APART[1]: OPEN})
    assert scene.udp((HOST, 3), (NODE, 500), WEB).action is Action.FORWARD
    assert scene.udp((HOST, 0), WEB, (NODE, 500)).reason is DropReason.NETWORK_ACL_EGRESS


def test_pieces_go_where_the_first_went(scene: Scene) -> None:
    def piece(start: int, content: bytes, more: bool) -> bytes:
        fragment = (0x2000 if more else 0) | start // 8
        return packet.ipv4(FIRST, SECOND, packet.UDP, content, identification=9, fragment=fragment)

    whole = packet.udp(FIRST, SECOND, 5000, PORT, bytes(40))
    told(scene, {SECONDS: SHUT})
    for first in (True, False):
        sent = piece(0, whole[:24], True) if first else piece(24, whole[24:], False)
        assert scene.arrives(HOST, 0, sent).reason is DropReason.NETWORK_ACL_INGRESS


def test_other_vpcs_and_what_is_taken_back(scene: Scene) -> None:
    shut = [SubnetAcl(str(SECONDS), (), ())]
    scene.engine.set_network_acls(VPC + 256, shut)
    scene.engine.set_network_acls(VPC + 512, shut)
    assert scene.from_host(far=(SECOND, PORT)).action is Action.FORWARD
    scene.engine.set_network_acls(VPC, shut)
    scene.engine.set_network_acls(VPC + 256, [])
    assert scene.from_host(far=(SECOND, PORT)).reason is DropReason.NETWORK_ACL_INGRESS
    scene.engine.set_network_acls(VPC, [])
    assert scene.from_host(far=(SECOND, PORT)).action is Action.FORWARD


def test_neighbours_behind_interfaces_and_what_a_mapping_lets_in(scene: Scene) -> None:
    """With endpoint-independent mappings a flow may begin at either end, and turn round."""
    scene.engine.configure(
        behaviour=Behaviour(
            mapping=NatMapping.ENDPOINT_INDEPENDENT,
            filtering=Filtering.ENDPOINT_INDEPENDENT,
            hairpinning=True,
        )
    )
    out = scene.udp((INSIDE, 1), (ENVIRONMENT, 5000), (SERVICE, PORT))
    port = gateways.ends(out)[0][1]
    came = ((OUTSIDE, 1), ("10.0.1.81", 77), (LAMBDA, port))
    assert scene.udp(*came).action is Action.FORWARD
    told(scene, {APART[0]: Acl((), ALL)})
    assert scene.udp(*came).reason is DropReason.NETWORK_ACL_INGRESS
    # From the interface to itself is within a subnet.
    turned = scene.udp((INSIDE, 2), (ENVIRONMENT, 6000), (LAMBDA, port))
    assert turned.action is Action.FORWARD
    told(scene, {APART[0]: Acl(ALL, ())})
    mappings = scene.engine.counters()["mappings_active"]
    refused = scene.udp((INSIDE, 2), (ENVIRONMENT, 6001), (SERVICE, PORT))
    assert refused.reason is DropReason.NETWORK_ACL_EGRESS
    assert scene.engine.counters()["mappings_active"] == mappings


def test_whoever_is_routed_by_a_host_enters_its_subnet(scene: Scene) -> None:
    """The next hop's subnet is entered; what it sends on leaves it, whosever the source is."""
    route = ("172.16.0.0/12", RouteTarget.HOST, 1)
    scene.engine.set_route_table(gateways.HOSTS_TABLE, [route])
    told(scene, {SECONDS: Acl((), ALL)})
    far = ("172.16.0.9", PORT)
    assert scene.from_host(far=far).reason is DropReason.NETWORK_ACL_INGRESS
    scene.set_host(1, SECOND, source_check=False)
    told(scene, {SECONDS: Acl(ALL, ())})
    onward = scene.udp((HOST, 1), (FIRST, 5000), (CLIENT, PORT))
    assert onward.reason is DropReason.NETWORK_ACL_EGRESS


@pytest.mark.parametrize(
    ("subnets", "message"),
    [
        ([SubnetAcl("10.0.1.0/24", (NetworkAclEntry(True, "gre"),), ())], "protocol 'gre'"),
        ([SubnetAcl("10.0.1.0/24", (NetworkAclEntry(True, first=2, last=1),), ())], "ports 2 to 1"),
        ([SubnetAcl("10.0.1.0/24", (), (NetworkAclEntry(True, icmp_type=256),))], "256"),
        ([SubnetAcl("10.0.1.0/24", (), ()), SubnetAcl("10.0.0.0/16", (), ())], "overlap"),
        ([SubnetAcl("10.0.1.0/24", (), ()), SubnetAcl("10.0.1.0/24", (), ())], "two network ACLs"),
    ],
)
def test_what_cannot_be(scene: Scene, subnets: list[SubnetAcl], message: str) -> None:
    """And nothing has changed."""
    scene.engine.set_network_acls(VPC, [SubnetAcl(str(SECONDS), (), ())])
    with pytest.raises(ValueError, match=message):
        scene.engine.set_network_acls(VPC, subnets)
    assert scene.from_host(far=(SECOND, PORT)).reason is DropReason.NETWORK_ACL_INGRESS


# The flow cache

BORDER = [SubnetAcl("10.0.1.0/26", (NetworkAclEntry(True),), (NetworkAclEntry(True),))]
"""The interface's subnet, and not that of whom it sends to."""


def test_a_cached_flow_comes_back_when_its_subnet_gets_an_acl() -> None:
    target = CachingTarget(SETUP)
    port = promoted(target)
    target.target.engine.set_network_acls(0, BORDER)
    # At once, before the sweep has been there.
    assert exchange(target, 10) == (0, port)
    target.catch_up(10)
    assert target.count("flow_cache_flows") == 0
    target.target.engine.set_network_acls(0, [SubnetAcl("10.0.1.0/26", (), ())])
    refused = target.target.count("drop_network_acl_egress")
    target.translate(_datagram(), INSIDE, 1, 20)
    assert target.target.count("drop_network_acl_egress") == refused + 1
    assert target.problems() == []
    target.close()


def _datagram() -> bytes:
    content = packet.udp(ENVIRONMENT, scenario.WEB, 5000, 7, b"question")
    body = packet.ipv4(ENVIRONMENT, scenario.WEB, packet.UDP, content, fragment=0x4000)
    ours, theirs = scenario.ethernet_addresses(INSIDE, 1)
    addresses = bytes.fromhex((ours + theirs).replace(":", ""))
    return addresses + b"\x08\x00" + body


def test_no_flow_is_cached_across_a_border_with_an_acl() -> None:
    target = CachingTarget(SETUP)
    target.target.engine.set_network_acls(0, BORDER)
    for _ in range(40):
        assert exchange(target, 0)[0] == 0
    target.catch_up(0)
    assert (target.count("flow_cache_flows"), target.count("flow_cache_promotions")) == (0, 0)
    # It was not tried again with each packet.
    assert target.count("flow_cache_network_acl") == 1
    target.target.engine.set_network_acls(0, [])
    promoted(target, 10_000)
    target.close()


def test_within_a_subnet_flows_are_cached() -> None:
    target = CachingTarget(SETUP)
    target.target.engine.set_network_acls(0, [SubnetAcl("10.0.1.0/24", (), ())])
    promoted(target)
    target.close()


def test_the_model_by_itself() -> None:
    """What it says of the example in the VPC user guide, "Network ACL rules"."""
    web = Acl(
        (
            Entry(True, "tcp", first=80, last=80),
            Entry(True, "tcp", IPv4Network("192.0.2.0/24"), 22, 22),
            Entry(True, "tcp", first=32768, last=65535),
        ),
        (Entry(True, "tcp", first=32768, last=65535),),
    )
    subnets = {IPv4Network("10.0.0.0/24"): web}
    server, client = IPv4Address("10.0.0.9"), IPv4Address("198.51.100.9")

    def says(*, inward: bool, port: int, source: IPv4Address = client) -> str | None:
        ends = (source, server) if inward else (server, client)
        places = (None, server) if inward else (server, None)
        return refusal(subnets, [(*places, Asked(packet.TCP, *ends, port))])

    assert says(inward=True, port=80) is None
    assert says(inward=True, port=22) == "network_acl_ingress"
    assert says(inward=True, port=22, source=IPv4Address("192.0.2.7")) is None
    assert says(inward=False, port=50_000) is None
    assert says(inward=False, port=443) == "network_acl_egress"
