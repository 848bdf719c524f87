# SPDX-License-Identifier: Apache-2.0
"""Execution environments: their namespaces and the slots that tie them to the gateway.

In the gateway each environment has a *slot*, a link named `env<n>` with no address; its peer is
`eth0` in the environment. Environments are made in chunks, because each needs two descriptors
while in work, and because a request to the kernel that covers many links costs less than many.

The namespace's name is what reserves a number: whoever made it owns the slot too.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from netns import ingress, links, namespace, offloads
from netns.errors import from_errno
from netns.interior import ENVIRONMENT_SETTINGS, created, route_socket
from netns.names import ENVIRONMENT_LINK, environment_namespace, gateway_namespace, slot_link
from netns.netlink import RouteSocket
from netns.spec import LabSpec, Slot, check, check_numbers, hardware_address

_CHUNK = 64
_NEIGHBOURS_BY_DEFAULT = 512
_NEIGHBOUR_LIMITS = Path("/proc/sys/net/ipv4/neigh/default")

Progress = Callable[[int, int], None]
"""Called as (environments done, environments in all), in the helper thread."""

_log = logging.getLogger(__name__)


def add_environments(
    spec: LabSpec, numbers: Iterable[int], progress: Progress | None = None
) -> tuple[Slot, ...]:
    """Add environments with these numbers to a lab that stands; all or nothing."""
    check(spec)
    wanted = list(numbers)
    check_numbers(wanted)
    raise_neighbour_limits(max(wanted, default=0))

    def work() -> tuple[Slot, ...]:
        with route_socket(gateway_namespace(spec.lab)) as route:
            done: list[int] = []
            try:
                return make(spec, route, wanted, progress or silent, done)
            except BaseException:
                take_away(spec.lab, route, done)
                raise

    return namespace.run_in_thread(work)


def renew_links(spec: LabSpec, numbers: Iterable[int]) -> None:
    """Give environments that stand a new link to the gateway in the place of what is left of it.

    What runs in them goes on. `NetnsError`: the namespace has something of its own in the place.
    """
    wanted = list(numbers)
    check_numbers(wanted)

    def work() -> None:
        with route_socket(gateway_namespace(spec.lab)) as route:
            links.delete(route, [slot_link(number) for number in wanted])
            for pair, number in zip(_create_slots(spec, route, wanted), wanted, strict=True):
                with route_socket(environment_namespace(spec.lab, number)) as inside:
                    _set_up_environment(spec, inside, number)
                ingress.drop(route, [links.existing(route, pair.name).index])

    namespace.run_in_thread(work)


def remove_environments(lab: str, numbers: Iterable[int]) -> None:
    """Remove environments from a lab that stands; those not there are no error."""
    wanted = list(numbers)
    check_numbers(wanted)
    with route_socket(gateway_namespace(lab)) as route:
        take_away(lab, route, wanted)


def silent(_done: int, _total: int) -> None:
    """Progress that nobody follows."""


def namespaces(lab: str, numbers: Iterable[int]) -> list[str]:
    """Names of the namespaces of environments."""
    return [environment_namespace(lab, number) for number in numbers]


def make(
    spec: LabSpec,
    route: RouteSocket,
    numbers: Sequence[int],
    progress: Progress,
    done: list[int],
) -> tuple[Slot, ...]:
    """Make environments; `done` gets the numbers of those that exist, also when this fails."""
    slots: list[Slot] = []
    progress(0, len(numbers))
    for start in range(0, len(numbers), _CHUNK):
        chunk = numbers[start : start + _CHUNK]
        with created(namespaces(spec.lab, chunk), ENVIRONMENT_SETTINGS) as sockets:
            done.extend(chunk)
            pairs = _create_slots(spec, route, chunk)
            for number, inside, pair in zip(chunk, sockets, pairs, strict=True):
                _set_up_environment(spec, inside, number)
                slots.append(
                    Slot(
                        number=number,
                        ifindex=links.existing(route, pair.name).index,
                        namespace=environment_namespace(spec.lab, number),
                        environment_mac=pair.peer_mac,
                        gateway_mac=pair.mac,
                    )
                )
        ingress.drop(route, [slot.ifindex for slot in slots[start:]])
        progress(len(slots), len(numbers))
    return tuple(sorted(slots, key=lambda slot: slot.number))


def _create_slots(spec: LabSpec, route: RouteSocket, numbers: Sequence[int]) -> list[links.Pair]:
    with contextlib.ExitStack() as descriptors:
        pairs = [
            links.Pair(
                name=slot_link(number),
                mac=hardware_address(spec.lab, "slot", str(number)),
                mtu=spec.environment_mtu,
                peer_name=ENVIRONMENT_LINK,
                peer_mac=hardware_address(spec.lab, "environment", str(number)),
                peer_namespace=descriptors.enter_context(
                    namespace.opened(environment_namespace(spec.lab, number))
                ),
            )
            for number in numbers
        ]
        links.create_pairs(route, pairs)
    return pairs


def _set_up_environment(spec: LabSpec, inside: RouteSocket, number: int) -> None:
    index = links.existing(inside, ENVIRONMENT_LINK).index
    offloads.tunnel_segmentation_off(inside, ENVIRONMENT_LINK)
    inside.request(
        [
            links.up(links.LOOPBACK_INDEX),
            links.up(index),
            links.address(index, spec.inside_address, spec.inside_prefix_length),
            links.default_route(index, spec.inside_gateway),
        ],
        f"cannot set up {environment_namespace(spec.lab, number)}",
    )


def take_away(lab: str, route: RouteSocket, numbers: Sequence[int]) -> None:
    """Remove environments, with `route` in the gateway; those not there are no error."""
    links.delete(route, [slot_link(number) for number in numbers])
    namespace.delete(namespaces(lab, numbers))


def raise_neighbour_limits(environments: int) -> None:
    """Make room for the environments' ARP entries.

    All namespaces of the host share one neighbour table; its limits exist in the initial
    namespace only. Above gc_thresh2 (512) the kernel evicts entries that are five seconds old,
    at gc_thresh3 (1024) it drops packets. An environment has one entry for its gateway and may
    have one for its loopback link. The limits are raised, never lowered again: they only bound
    memory, and other labs may rely on them.
    """
    wanted = 2 * environments + 128
    limits = {"gc_thresh3": 2 * wanted, "gc_thresh2": wanted}
    if wanted <= _NEIGHBOURS_BY_DEFAULT:
        return
    for name, least in limits.items():
        file = _NEIGHBOUR_LIMITS / name
        try:
            if int(file.read_text()) < least:
                file.write_text(str(least))
                _log.info("raised net.ipv4.neigh.default.%s to %d", name, least)
        except FileNotFoundError:
            _log.warning(
                "cannot see the host's neighbour table limits from this namespace: "
                "on the host set net.ipv4.neigh.default.%s to at least %d",
                name,
                least,
            )
        except OSError as error:
            raise from_errno(f"cannot raise {file}", error.errno or 0) from None
