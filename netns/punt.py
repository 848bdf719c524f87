# SPDX-License-Identifier: Apache-2.0
"""The punt link: where frames of all links of a lab's gateway arrive that are for its forwarder.

A program at the ingress of these sends them there (`hyperplane_nat.flow_cache`). The near end,
`punt.0`, is in the gateway, and nothing passes it: `bpf_redirect_peer` is told a link's near end
and hands the frame to its far end, which has to be in another namespace, `hp-<lab>-punt`. There
packet sockets see it, and what is behind them drops it.
"""

from __future__ import annotations

from netns import ingress, links, namespace
from netns.interior import GATEWAY_SETTINGS, created, route_socket
from netns.names import PUNT_LINK, gateway_namespace, punt_namespace
from netns.netlink import RouteSocket
from netns.spec import hardware_address

_MTU = 65535
"""Of no consequence: a redirected frame may be longer."""


def make_punt_link(lab: str) -> int:
    """The index of a punt link's near end in a lab that stands; made if there is none.

    One that is not as it was made gets another in its place. Raises `NetnsError`: the lab is not
    there, or a privilege is missing.
    """
    where = punt_namespace(lab)

    def work() -> int:
        with route_socket(gateway_namespace(lab)) as route:
            if namespace.is_complete(where):
                with route_socket(where) as inside:
                    return _whole(route, inside) or _link(lab, route, inside)
            links.delete(route, [PUNT_LINK])
            namespace.delete([where])
            with created([where], GATEWAY_SETTINGS) as (inside,):
                try:
                    return _link(lab, route, inside)
                except BaseException:
                    namespace.delete([where])
                    raise

    return namespace.run_in_thread(work)


def remove_punt_link(lab: str) -> None:
    """Remove the punt link of a lab that stands; none there is no error."""
    with route_socket(gateway_namespace(lab)) as route:
        links.delete(route, [PUNT_LINK])
    namespace.delete([punt_namespace(lab)])


def _whole(route: RouteSocket, inside: RouteSocket) -> int | None:
    """The index of the near end, where both are up, tied, and nothing passes the far one."""
    near, far = links.link(route, PUNT_LINK), links.link(inside, PUNT_LINK)
    if near is None or far is None or not (near.up and far.up):
        return None
    tied = near.peer_index == far.index and far.peer_index == near.index
    return near.index if tied and not ingress.missing(inside, [far.index]) else None


def _link(lab: str, route: RouteSocket, inside: RouteSocket) -> int:
    links.delete(route, [PUNT_LINK])
    links.delete(inside, [PUNT_LINK])
    with namespace.opened(punt_namespace(lab)) as descriptor:
        pair = links.Pair(
            name=PUNT_LINK,
            mac=hardware_address(lab, "punt", "near"),
            mtu=_MTU,
            peer_name=PUNT_LINK,
            peer_mac=hardware_address(lab, "punt", "far"),
            peer_namespace=descriptor,
        )
        links.create_pairs(route, [pair])
    near, far = links.existing(route, PUNT_LINK), links.existing(inside, PUNT_LINK)
    try:
        ingress.drop(inside, [far.index])
        ingress.drop(route, [near.index])
        inside.request([links.up(far.index)], f"cannot set up {punt_namespace(lab)}")
    except BaseException:
        links.delete(route, [PUNT_LINK])
        raise
    return near.index
