# SPDX-License-Identifier: Apache-2.0
"""Requests for links, and the names that links can have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from netns import NetnsError, links, namespace
from netns.links import Pair
from netns.netlink import RouteSocket

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}", fullmatch=True)
MACS = st.binary(min_size=6, max_size=6).map(lambda data: data.hex(":"))


@given(
    pair=st.builds(
        Pair,
        name=NAMES,
        mac=MACS,
        mtu=st.integers(68, 65535),
        peer_name=NAMES,
        peer_mac=MACS,
        peer_namespace=st.integers(0, 1 << 20),
    )
)
def test_a_request_says_what_the_pair_is(pair: Pair) -> None:
    message = ifinfmsg(links._pair_request(pair))
    message.decode()
    assert message["flags"] == message["change"] == 1
    assert message.get_attr("IFLA_IFNAME") == pair.name
    assert message.get_attr("IFLA_ADDRESS") == pair.mac
    assert message.get_attr("IFLA_MTU") == pair.mtu
    assert message.get_attr("IFLA_GROUP") == links.GROUP
    peer = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "VETH_INFO_PEER")
    assert peer["flags"] == peer["change"] == 0
    assert peer.get_attr("IFLA_IFNAME") == pair.peer_name
    assert peer.get_attr("IFLA_ADDRESS") == pair.peer_mac
    assert peer.get_attr("IFLA_MTU") == pair.mtu
    assert peer.get_attr("IFLA_NET_NS_FD") == pair.peer_namespace


@given(name=NAMES)
def test_names_that_links_can_have(name: str) -> None:
    links.check_name(name)


@pytest.mark.parametrize("name", ["", "a" * 16, "-a", ".", "a/b", "a b", "ä", "a\n"])
def test_names_that_links_cannot_have(name: str) -> None:
    with pytest.raises(NetnsError):
        links.check_name(name)


@pytest.fixture
def ends(lab_name: str) -> Iterator[tuple[str, str]]:
    names = (f"{lab_name}-a", f"{lab_name}-b")
    namespace.create(names, lambda _name: None)
    yield names
    namespace.delete(names)


@pytest.mark.live
@pytest.mark.parametrize("name", ["a", "eth0", "a" * 15])
def test_a_pair_and_its_addresses(ends: tuple[str, str], name: str) -> None:
    near, far = (namespace.call(each, RouteSocket) for each in ends)
    with near, far, namespace.opened(ends[1]) as descriptor:
        links.create_pairs(
            near, [Pair(name, "02:00:00:00:00:01", 1400, name, "02:00:00:00:00:02", descriptor)]
        )
        mine, peer = links.existing(near, name), links.existing(far, name)
        assert mine == links.links(near)[name]
        assert (mine.name, mine.mac, mine.mtu) == (name, "02:00:00:00:00:01", 1400)
        assert (peer.name, peer.mac, peer.mtu) == (name, "02:00:00:00:00:02", 1400)
        assert (mine.up, peer.up, mine.group, peer.group) == (True, False, links.GROUP, 0)
        assert (mine.peer_index, peer.peer_index) == (peer.index, mine.index)

        far.request([links.address(peer.index, "10.0.0.1", 24)], "add")
        assert (peer.index, "10.0.0.1/24") in links.addresses(far)
        far.request([links.without_address(peer.index, "10.0.0.1", 24)], "take")
        assert links.addresses(far) == set()
        with pytest.raises(NetnsError, match="take"):
            far.request([links.without_address(peer.index, "10.0.0.1", 24)], "take")

        links.delete(near, [name, "never"])
        assert links.link(near, name) is None
        with pytest.raises(NetnsError, match="has vanished"):
            links.existing(far, name)
