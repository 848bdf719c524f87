# SPDX-License-Identifier: Apache-2.0
"""From the configuration to the model, and from the model to namespaces and processes. Pure
functions: no process, no file, no namespace.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from ipaddress import IPv4Address

from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.network.services import USER, ServiceSpec
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.program import identity
from hyperplane_nat.model import ExecutionEnvironment, Lab, NetworkInterface, Subnet, Vpc
from hyperplane_nat.model.wanted import WantedVpc
from netns.topology import (
    InterfaceSpec,
    LabSpec,
    VpcSpec,
    vpc_namespace,
)


def lab_of(config: Config) -> Lab:
    """The model of a configured lab; environments are spread round-robin over the interfaces."""
    vpcs = {
        vpc.name: Vpc(
            vpc.name,
            vpc.network,
            vpc.mtu_bytes,
            tuple(Subnet(subnet.name, subnet.network) for subnet in vpc.subnet),
        )
        for vpc in config.vpc
    }
    interfaces = []
    following = len(config.network_interface)
    for number, item in enumerate(config.network_interface):
        place = config.place(item)
        vpc = vpcs[place[0].name]
        subnet = next(subnet for subnet in vpc.subnets if subnet.name == item.subnet)
        interfaces.append(
            NetworkInterface(
                number,
                item.name,
                vpc,
                subnet,
                IPv4Address(item.address),
                tuple(enumerate(map(IPv4Address, item.secondary_addresses), following)),
            )
        )
        following += len(item.secondary_addresses)
    by_name = {interface.name: interface for interface in interfaces}
    environments = tuple(
        ExecutionEnvironment(number, by_name[config.interface_of(number).name])
        for number in range(1, config.lab.environments + 1)
    )
    return Lab(config.lab.name, tuple(vpcs.values()), tuple(interfaces), environments)


def lab_spec(config: Config, lab: Lab) -> LabSpec:
    """The namespaces, links and addresses that the lab needs."""
    inside = config.environment.interface
    services = {vpc.name: [service.address for service in vpc.service] for vpc in config.vpc}
    return LabSpec(
        lab=lab.name,
        environments=len(lab.environments),
        inside_address=str(inside.ip),
        inside_prefix_length=inside.network.prefixlen,
        inside_gateway=config.environment.gateway,
        environment_mtu=config.environment.mtu_bytes,
        vpcs=tuple(
            VpcSpec(
                name=vpc.name,
                mtu=vpc.mtu_bytes,
                # Two services may share an address on different ports.
                addresses=tuple(
                    dict.fromkeys(
                        [*(str(subnet.router) for subnet in vpc.subnets), *services[vpc.name]]
                    )
                ),
                interfaces=tuple(
                    InterfaceSpec(
                        interface.name,
                        str(interface.address),
                        tuple(str(address) for _, address in interface.secondary),
                    )
                    for interface in lab.interfaces
                    if interface.vpc.name == vpc.name
                ),
            )
            for vpc in lab.vpcs
        ),
    )


def addresses_of(config: Config) -> set[tuple[str, str]]:
    """Every VPC with every address that a lab gives it: routers' and services'."""
    given = {
        (vpc.name, str(Subnet(subnet.name, subnet.network).router))
        for vpc in config.vpc
        for subnet in vpc.subnet
    }
    return given | {(vpc.name, each.address) for vpc in config.vpc for each in vpc.service}


def module_command(module: str) -> tuple[str, ...]:
    """How one of our own modules is run as a process."""
    # -P: a directory of that name in the working directory must not be imported instead.
    return (sys.executable, "-P", "-m", module)


def forwarder_command(config: Config, paths: LabPaths, program: tuple[str, ...]) -> tuple[str, ...]:
    """The command line of this lab's forwarder."""
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
        *("--nice", str(settings.nice)),
        *("--time-slice-microseconds", str(settings.time_slice_microseconds)),
        *(("--flow-records", str(paths.records_file)) if config.flow_logs.enabled else ()),
        *("--uid", str(config.lab.process_uid)),
        *("--program", identity()),
    )


def service_specs(
    config: Config, vpcs: Iterable[WantedVpc], program: tuple[str, ...]
) -> list[ServiceSpec]:
    """The servers of all VPCs, which have the user `lab.process_uid` when they listen."""
    specs = []
    for vpc in vpcs:
        for service in vpc.services:
            command = [
                *program,
                service.kind,
                *("--address", service.address),
                *("--port", str(service.port)),
                *("--namespace", vpc_namespace(config.lab.name, vpc.name)),
                *(USER, str(config.lab.process_uid)),
            ]
            if service.kind == "http":
                command += ["--size-bytes", str(service.size_bytes)]
            specs.append(ServiceSpec(vpc.name, service.name, tuple(command), program[-1]))
    return specs


RESOURCES = ("account", "vpc", "internet", "function", "pool")
"""The sections of a configuration that `apply` may change."""
