# SPDX-License-Identifier: Apache-2.0
"""The punt link: made once, mended, told from what others have made, removed."""

from __future__ import annotations

import pytest

from netns import NetnsError, ingress, links, namespace, topology
from netns.interior import route_socket
from netns.names import PUNT_LINK
from tests.live.lab import run
from tests.netns.conftest import inspect, lab_spec

pytestmark = pytest.mark.live


def ends(lab: str) -> tuple[links.Link | None, links.Link | None]:
    """The near and the far end."""
    with route_socket(topology.gateway_namespace(lab)) as route:
        near = links.link(route, PUNT_LINK)
    with route_socket(topology.punt_namespace(lab)) as inside:
        return near, links.link(inside, PUNT_LINK)


def dropped(where: str) -> bool:
    """Whether nothing gets past the taps of a namespace's end."""
    with route_socket(where) as route:
        link = links.existing(route, PUNT_LINK)
        return ingress.missing(route, [link.index]) == []


def test_it_is_made_once_and_is_no_stray_of_the_lab(lab: str) -> None:
    spec = lab_spec(lab, 1)
    built = topology.build(spec)
    index = topology.make_punt_link(lab)
    near, far = ends(lab)
    assert near is not None
    assert far is not None
    assert near.index == index
    assert near.up
    assert far.up
    assert dropped(topology.gateway_namespace(lab))
    assert dropped(topology.punt_namespace(lab))
    assert topology.make_punt_link(lab) == index
    assert inspect(spec) == built
    mended = topology.mend(spec)
    assert mended is not None
    assert mended.notes == ()
    topology.remove_punt_link(lab)
    topology.remove_punt_link(lab)
    assert not namespace.exists(topology.punt_namespace(lab))
    with route_socket(built.gateway) as route:
        assert PUNT_LINK not in links.links(route)
    assert inspect(spec) == built


DAMAGE = {
    "link": ("ip", "link", "del", PUNT_LINK),
    "far end down": ("ip", "link", "set", PUNT_LINK, "down"),
    "drop": ("tc", "qdisc", "del", "dev", PUNT_LINK, "clsact"),
}


@pytest.mark.parametrize("damage", [*DAMAGE, "namespace"])
def test_one_that_is_not_whole_gets_another_in_its_place(lab: str, damage: str) -> None:
    topology.build(lab_spec(lab, 0))
    first = topology.make_punt_link(lab)
    where = topology.punt_namespace(lab)
    if damage == "namespace":
        namespace.delete([where])
    else:
        run(where, *DAMAGE[damage])
    again = topology.make_punt_link(lab)
    assert again != first
    near, far_end = ends(lab)
    assert near is not None
    assert far_end is not None
    assert (near.index, near.up, far_end.up) == (again, True, True)
    assert dropped(where)
    topology.destroy(lab)
    assert topology.strays(lab) == []


def test_without_a_lab_there_is_none(lab: str) -> None:
    with pytest.raises(NetnsError):
        topology.make_punt_link(lab)
    assert topology.strays(lab) == []
