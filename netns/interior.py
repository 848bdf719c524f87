# SPDX-License-Identifier: Apache-2.0
"""Inside namespaces: the settings of each kind, and route sockets that belong to one.

Every setting a lab relies on is written when its namespace is made, see `sysctl`. A route socket
keeps the namespace it was opened in, so the calling thread never has to stay there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from netns import namespace, sysctl
from netns.netlink import RouteSocket

_NO_IPV6 = {"ipv6/conf/all/disable_ipv6": "1", "ipv6/conf/default/disable_ipv6": "1"}
_HOST = {
    **_NO_IPV6,
    "ipv4/ip_forward": "0",
    "ipv4/conf/all/arp_ignore": "0",
    "ipv4/conf/default/arp_ignore": "0",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
}
GATEWAY_SETTINGS = {
    **_NO_IPV6,
    "ipv4/ip_forward": "0",
    # 8: do not reply for any local address.
    "ipv4/conf/all/arp_ignore": "8",
    "ipv4/conf/default/arp_ignore": "8",
}
VPC_SETTINGS = {
    **_HOST,
    # A thousand environments connect in the same instant.
    "core/somaxconn": "65535",
    "ipv4/tcp_max_syn_backlog": "65535",
}
FORWARDING_SETTINGS = {
    "ipv4/ip_forward": "1",
    # Who is behind another link is nobody's neighbour.
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
}
"""Of a VPC that forwards between its links, besides `VPC_SETTINGS`."""
HOST_SETTINGS = {
    **VPC_SETTINGS,
    "ipv4/ping_group_range": "0 2147483647",
}
CHECKER_SETTINGS = {
    # The one cannot begin below the other.
    "ipv4/ip_unprivileged_port_start": "1",
    "ipv4/ip_local_port_range": "1 1023",
    # 2: who asks for the next hop has the host's own address, whatever the packet's.
    "ipv4/conf/all/arp_announce": "2",
}
"""Of a host from which checks come: its ports are told from those of whose addresses it has."""
ENVIRONMENT_SETTINGS = {
    **_HOST,
    # Unprivileged ping, as systemd allows it on the host.
    "ipv4/ping_group_range": "0 2147483647",
}


@contextlib.contextmanager
def route_socket(name: str) -> Iterator[RouteSocket]:
    """A route socket inside namespace `name`, closed at the end."""
    with namespace.call(name, RouteSocket) as route:
        yield route


@contextlib.contextmanager
def created(names: Sequence[str], settings: Mapping[str, str]) -> Iterator[list[RouteSocket]]:
    """New namespaces with these settings; yields a route socket in each, closed at the end."""
    with sysctl.Writer() as writer, contextlib.ExitStack() as sockets:

        def prepare(_name: str) -> RouteSocket:
            writer.write(settings)
            return sockets.enter_context(RouteSocket())

        yield namespace.create(names, prepare)
