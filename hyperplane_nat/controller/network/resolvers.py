# SPDX-License-Identifier: Apache-2.0
"""The resolvers of VPCs as the controller sees them: one more service each, and two files.

A resolver (`hyperplane_nat.resolver`) is told what it knows by a file and counts in another. It is
started, adopted and restarted like the servers in the VPCs; a name that comes or goes is no reason
for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network

from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.network.reconcile import module_command
from hyperplane_nat.controller.network.services import USER, ServiceSpec
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.program import identity
from hyperplane_nat.model.names import WantedResolver, private_domain
from hyperplane_nat.model.wanted import WantedVpc
from hyperplane_nat.resolver import figures, zone
from hyperplane_nat.resolver.zone import Zone
from netns.errors import from_errno
from netns.topology import vpc_namespace

PROGRAM = module_command("hyperplane_nat.resolver")

GROUP = "Resolver"
"""What they are grouped under, as servers are under their VPC; no VPC has a name like this."""


def resolver_specs(
    config: Config, vpcs: Iterable[WantedVpc], program: tuple[str, ...] = PROGRAM
) -> list[ServiceSpec]:
    """The resolver of every VPC that is to have one."""
    paths = LabPaths.of(config.lab.name, config.lab.runtime_directory, config.lab.state_directory)
    upstream = config.dns.upstream_endpoint
    return [
        ServiceSpec(
            GROUP,
            vpc.name,
            (
                *program,
                *("--namespace", vpc_namespace(config.lab.name, vpc.name)),
                *(word for each in vpc.resolver.addresses for word in ("--address", each)),
                *("--names", str(paths.resolver_names(vpc.name))),
                *("--figures", str(paths.resolver_figures(vpc.name))),
                *(("--upstream", upstream) if upstream else ()),
                *(USER, str(config.lab.process_uid)),
                *("--program", identity()),
            ),
            program[-1],
        )
        for vpc in vpcs
        if vpc.resolver is not None
    ]


def zone_of(config: Config, resolver: WantedResolver) -> Zone:
    """What a resolver is to know."""
    return Zone(
        IPv4Network(resolver.clients),
        dict(resolver.names),
        resolver.hostnames,
        private_domain(config.aws_lambda.region),
        dict(resolver.balanced),
    )


def tell(config: Config, vpcs: Iterable[WantedVpc]) -> None:
    """Write down what each resolver knows from now on; NetnsError."""
    paths = LabPaths.of(config.lab.name, config.lab.runtime_directory, config.lab.state_directory)
    for vpc in vpcs:
        if vpc.resolver is not None:
            path = paths.resolver_names(vpc.name)
            try:
                zone.write(path, zone_of(config, vpc.resolver))
            except OSError as error:
                raise from_errno(f"cannot write {path}", error.errno or 0) from None


def forget(config: Config, vpcs: Iterable[WantedVpc]) -> None:
    """Remove the files of resolvers that are gone."""
    paths = LabPaths.of(config.lab.name, config.lab.runtime_directory, config.lab.state_directory)
    kept = {vpc.name for vpc in vpcs if vpc.resolver is not None}
    for name in paths.resolvers():
        if name not in kept:
            paths.resolver_names(name).unlink(missing_ok=True)
            paths.resolver_figures(name).unlink(missing_ok=True)


def counts(paths: LabPaths) -> Mapping[str, Mapping[str, int]]:
    """What resolvers have counted, by VPC and what became of it."""
    return {
        name: {outcome.value: count for outcome, count in figures.read(path).items()}
        for name in paths.resolvers()
        for path in (paths.resolver_figures(name),)
    }
