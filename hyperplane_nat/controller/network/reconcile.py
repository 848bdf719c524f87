# SPDX-License-Identifier: Apache-2.0
"""From the configuration and the region to namespaces and processes. Pure functions: no process, no
file, no namespace.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.network.services import USER, ServiceSpec
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.program import identity
from hyperplane_nat.model.entities import InterfaceKind
from hyperplane_nat.model.names import LINK_LOCAL
from hyperplane_nat.model.wanted import Wanted, WantedInterface, WantedVpc
from hyperplane_nat.unix_socket import mailbox
from netns.topology import (
    InterfaceSpec,
    LabSpec,
    VpcSpec,
    host_namespace,
    vpc_namespace,
)


def lab_spec(config: Config, wanted: Wanted | None = None) -> LabSpec:
    """The lab file's environments, and the VPCs of a region with their addresses; interfaces that
    functions brought about are made when all of it stands.
    """
    inside = config.environment.interface
    vpcs, interfaces = ((), ()) if wanted is None else (wanted.vpcs, wanted.interfaces)
    return LabSpec(
        lab=config.lab.name,
        environments=config.lab.environments,
        inside_address=str(inside.ip),
        inside_prefix_length=inside.network.prefixlen,
        inside_gateway=config.environment.gateway,
        environment_mtu=config.environment.mtu_bytes,
        vpcs=tuple(
            VpcSpec(
                vpc.name,
                vpc.mtu_bytes,
                vpc.addresses,
                tuple(
                    interface_spec(each)
                    for each in interfaces
                    if each.vpc == vpc.name and each.kind is InterfaceKind.STATIC
                ),
            )
            for vpc in vpcs
        ),
    )


def interface_spec(wanted: WantedInterface) -> InterfaceSpec:
    """The link of a network interface."""
    secondary = tuple(address for _, address in wanted.secondary)
    return InterfaceSpec(wanted.link, wanted.address, secondary, wanted.way_back)


def addresses_of(config: Config) -> set[tuple[str, str]]:
    """Every VPC with every address that a lab gives it: routers', services' and the
    resolver's.
    """
    given = {(vpc.name, subnet.router) for vpc in config.vpc for subnet in vpc.subnet}
    given |= {
        (vpc.name, str(vpc.network.network_address + n)) for vpc in config.vpc for n in (1, 2)
    }
    given |= {(vpc.name, str(LINK_LOCAL)) for vpc in config.vpc}
    return given | {
        (vpc.name, each.address) for vpc in config.vpc for each in vpc.service if each.address
    }


def module_command(module: str) -> tuple[str, ...]:
    """How one of our own modules is run as a process."""
    # -P: a directory of that name in the working directory must not be imported instead.
    return (sys.executable, "-P", "-m", module)


def forwarder_command(
    config: Config, paths: LabPaths, program: tuple[str, ...], *, punted: bool = False
) -> tuple[str, ...]:
    """The command line of this lab's forwarder; `punted`: it receives by the punt link."""
    settings = config.forwarder
    return (
        *program,
        *("--state-file", str(paths.state_file)),
        *("--ring-slots", str(settings.ring_slots)),
        *("--ring-slot-bytes", str(settings.ring_slot_bytes)),
        *("--batch-frames", str(settings.batch_frames)),
        *("--budget-frames", str(settings.budget_frames)),
        *("--spin-microseconds", str(settings.spin_microseconds)),
        "--coalesce-udp" if settings.coalesce_udp else "--no-coalesce-udp",
        *(("--punt-link",) if punted else ()),
        *(("--flow-cache", str(settings.flow_cache_flows)) if punted else ()),
        *("--nice", str(settings.nice)),
        *("--time-slice-microseconds", str(settings.time_slice_microseconds)),
        *(("--flow-records", str(paths.records_file)) if config.flow_logs.enabled else ()),
        *("--uid", str(config.lab.process_uid)),
        *("--program", identity()),
    )


def service_specs(
    config: Config,
    vpcs: Iterable[WantedVpc],
    program: tuple[str, ...],
    hosts: Collection[int] = (),
) -> list[ServiceSpec]:
    """The servers of all VPCs, which have the user `lab.process_uid` when they listen.

    Of those that run on hosts, the ones on `hosts`, by number, which stand.
    """
    specs = []
    for vpc in vpcs:
        for service in vpc.services:
            where = vpc_namespace(config.lab.name, vpc.name)
            if service.host is not None:
                if service.host not in hosts:
                    continue
                where = host_namespace(config.lab.name, service.host)
            command = [
                *program,
                service.kind,
                *("--address", service.address),
                *("--port", str(service.port)),
                *("--namespace", where),
                *(USER, str(config.lab.process_uid)),
            ]
            if service.kind == "http":
                command += ["--size-bytes", str(service.size_bytes)]
            if service.kind == "mailbox":
                directory = Path(config.lab.runtime_directory) / config.lab.name
                command += ["--reader", str(directory / mailbox(vpc.name, service.name))]
            specs.append(ServiceSpec(vpc.name, service.name, tuple(command), program[-1]))
    return specs
