# SPDX-License-Identifier: Apache-2.0
"""A whole lab: one gateway, its environments, its VPCs and the links between them.

Theory of operation
-------------------
A lab is nothing but namespaces with well-known names, see `names`. `build` reserves the gateway's
name first, which makes it the one builder of that lab, and removes everything again when it
fails. `destroy` goes by the names alone, so it works after a crash at any point of `build` or of
itself. `survey` tells what stands, whatever that is; `mend` makes of it what a spec asks for, part
by part.

A lab that stands changes by parts: environments, VPCs, hosts, network interfaces and addresses
come and go, each change all or nothing. One writer per lab: these functions keep nobody else out.

Everything runs in a helper thread, which changes namespace at will; the calling thread stays
where it is.
"""

from __future__ import annotations

from netns import environments, links, namespace, vpcs
from netns.environments import Progress, add_environments, remove_environments, renew_links
from netns.errors import NetnsError
from netns.hosts import add_host, check_attachable, prepare_checks, remove_hosts
from netns.interior import GATEWAY_SETTINGS, created, route_socket
from netns.mending import Mended, mend
from netns.names import (
    ENVIRONMENT_LINK,
    environment_namespace,
    gateway_namespace,
    host_namespace,
    punt_namespace,
    slot_link,
    vpc_namespace,
)
from netns.punt import make_punt_link, remove_punt_link
from netns.spec import (
    Host,
    HostSpec,
    Interface,
    InterfaceSpec,
    LabSpec,
    Slot,
    Topology,
    VpcSpec,
    check,
)
from netns.survey import Survey, strays, survey
from netns.vpcs import (
    add_addresses,
    add_interfaces,
    add_routes,
    add_vpc,
    forward,
    remove_addresses,
    remove_interfaces,
    remove_routes,
    remove_vpc,
)

__all__ = [
    "ENVIRONMENT_LINK",
    "Host",
    "HostSpec",
    "Interface",
    "InterfaceSpec",
    "LabSpec",
    "Mended",
    "Progress",
    "Slot",
    "Survey",
    "Topology",
    "VpcSpec",
    "add_addresses",
    "add_environments",
    "add_host",
    "add_interfaces",
    "add_routes",
    "add_vpc",
    "build",
    "check",
    "check_attachable",
    "destroy",
    "environment_namespace",
    "forward",
    "gateway_namespace",
    "host_namespace",
    "make_punt_link",
    "mend",
    "prepare_checks",
    "punt_namespace",
    "remove_addresses",
    "remove_environments",
    "remove_hosts",
    "remove_interfaces",
    "remove_punt_link",
    "remove_routes",
    "remove_vpc",
    "renew_links",
    "slot_link",
    "strays",
    "survey",
    "vpc_namespace",
]


def build(spec: LabSpec, progress: Progress | None = None) -> Topology:
    """Make the whole lab; all or nothing.

    Raises `NetnsError` when the spec is impossible, a privilege is missing, or anything of the
    lab is there already; and passes on what `progress` raises. In every case but the last
    nothing of the lab is left; the last leaves things as they were.
    """
    check(spec)
    if found := strays(spec.lab):
        raise NetnsError(
            f"lab {spec.lab} is there already: namespace {found[0]}"
            + (f" and {len(found) - 1} more" if len(found) > 1 else ""),
            "destroy it first, or choose another lab name",
        )
    environments.raise_neighbour_limits(spec.environments)
    built: list[Topology] = []

    def work() -> Topology:
        built.append(_build(spec, progress or environments.silent))
        return built[0]

    try:
        return namespace.run_in_thread(work)
    except BaseException:
        # Interrupted while waiting: the lab was completed all the same, yet nobody gets it.
        if built:
            destroy(spec.lab)
        raise


def destroy(lab: str) -> None:
    """Remove every namespace of the lab with its links; nothing to remove is no error.

    Processes in them are left alone: they keep a namespace, but find no link in it any more.
    """
    found = strays(lab)
    gateway = gateway_namespace(lab)
    if gateway in found and namespace.is_complete(gateway):
        # Before the namespaces, so that no link is left when this returns: the kernel destroys
        # namespaces in the background.
        with route_socket(gateway) as route:
            links.delete_all(route)
    # The gateway's name goes last: as long as it is there nobody builds the lab anew.
    namespace.delete([name for name in found if name != gateway])
    namespace.delete([gateway])


def _build(spec: LabSpec, progress: Progress) -> Topology:
    gateway = gateway_namespace(spec.lab)
    # From here on the lab's names are ours: if somebody else builds it too, this line fails for
    # one of the two, and the other's work is left alone.
    with created([gateway], GATEWAY_SETTINGS) as (route,):
        try:
            interfaces = [each for vpc in spec.vpcs for each in vpcs.make(spec.lab, route, vpc)]
            numbers = range(1, spec.environments + 1)
            slots = environments.make(spec, route, numbers, progress, [])
        except BaseException:
            destroy(spec.lab)
            raise
    return Topology(gateway=gateway, slots=slots, interfaces=tuple(interfaces))
