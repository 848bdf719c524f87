# SPDX-License-Identifier: Apache-2.0
"""A VPC with a thousand listeners and a thousand targets, declared at once or made one by one.

Quotas are raised nowhere: twenty load balancers have fifty listeners each, ten to a target group,
and nodes in two zones. Targets are ports of one address, of which one is served.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from bench import addresses
from bench.errors import BenchError
from bench.gateways.base import Options
from bench.gateways.hyperplane import SUBNET, HyperplaneNat, configuration
from hyperplane_nat.client import Client, ClientError
from netns import namespace, topology

BALANCERS, LISTENERS, GROUPS, TARGETS = 20, 50, 5, 50
"""Listeners, target groups and targets are of each load balancer."""

SECONDS = 60.0
"""Bound on what is to take ten."""

_FIRST_LISTENER, _FIRST_TARGET = 1000, 20000
_ZONES = ("a", "b")


def _node(balancer: int, zone: str) -> str:
    return f"10.0.{2 + _ZONES.index(zone)}.{10 + balancer}"


def _group(balancer: int, listener: int) -> str:
    return f"group-{balancer}-{listener % GROUPS}"


def _listeners() -> Iterator[tuple[int, int]]:
    return itertools.product(range(BALANCERS), range(LISTENERS))


def _targets() -> Iterator[tuple[str, int]]:
    """Group and port of each."""
    for balancer, number in itertools.product(range(BALANCERS), range(TARGETS)):
        yield _group(balancer, number), _FIRST_TARGET + balancer * TARGETS + number


class Crowd(HyperplaneNat):
    """Load balancers and target groups, with all that is theirs in the file or with none of it."""

    filled = True

    def configured(self, runtime_directory: Path) -> str:
        """A VPC with two zones."""
        parts = [SUBNET]
        for place, zone in enumerate(_ZONES):
            parts.append(
                f'[[vpc.subnet]]\nname = "{zone}"\ncidr = "10.0.{2 + place}.0/24"\n'
                f'availability_zone = "{zone}"\n'
            )
        listeners: dict[int, list[str]] = {}
        targets: dict[str, list[str]] = {}
        if self.filled:
            for balancer, number in _listeners():
                listeners.setdefault(balancer, []).append(
                    f'{{ protocol = "TCP", port = {_FIRST_LISTENER + number}, '
                    f'target_group = "{_group(balancer, number)}" }}'
                )
            for group, port in _targets():
                targets.setdefault(group, []).append(
                    f'{{ address = "{addresses.SERVER}", port = {port} }}'
                )
        for balancer in range(BALANCERS):
            nodes = [
                f'{{ subnet = "{zone}", address = "{_node(balancer, zone)}" }}' for zone in _ZONES
            ]
            parts.append(
                f'[[vpc.load_balancer]]\nname = "balancer-{balancer}"\ncross_zone = true\n'
                f"node = [{', '.join(nodes)}]\n"
                f"listener = [{', '.join(listeners.get(balancer, ()))}]\n"
            )
            for number in range(GROUPS):
                name = _group(balancer, number)
                parts.append(
                    f'[[vpc.target_group]]\nname = "{name}"\nport = 80\ntype = "ip"\n'
                    f"target = [{', '.join(targets.get(name, ()))}]\n"
                )
        vpc = "\n".join(parts)
        lifecycle = "[lifecycle]\nload_balancer_creation_seconds = 0\n"
        return configuration(self.lab, runtime_directory, self.options, vpc=vpc) + lifecycle

    def fill(self) -> None:
        """Make all listeners and register all targets, each by a request of one connection."""
        client = Client(self.lab, runtime_directory=self.directory / "run", keeping=True)
        try:
            for balancer, number in _listeners():
                client.post(
                    "/v1/listeners",
                    {
                        "load_balancer": f"balancer-{balancer}",
                        "port": _FIRST_LISTENER + number,
                        "target_group": _group(balancer, number),
                    },
                )
            for group, port in _targets():
                target = {"address": addresses.SERVER, "port": port}
                client.patch(f"/v1/target-groups/{group}", {"register_targets": [target]})
        except ClientError as error:
            raise BenchError(f"hyperplane-nat: {error}") from None
        finally:
            client.close()

    def wait(self) -> None:
        """Until somebody has come through the last listener to the last target."""
        place = (addresses.SERVER, _FIRST_TARGET + BALANCERS * TARGETS - 1)
        node = _node(BALANCERS - 1, _ZONES[-1]), _FIRST_LISTENER + LISTENERS - 1
        environment = topology.environment_namespace(self.lab, 1)
        deadline = time.monotonic() + SECONDS
        with namespace.call(self.vpc, socket.create_server, place):
            while not namespace.call(environment, connects, node):
                if time.monotonic() > deadline:
                    raise BenchError(f"nobody comes through the last listener in {SECONDS:g} s")


class EmptyCrowd(Crowd):
    """The same, before there are listeners and targets."""

    filled = False


def connects(place: tuple[str, int]) -> bool:
    """Whether somebody takes a connection there, soon."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(place) == 0


OPTIONS = Options(environments=1)
