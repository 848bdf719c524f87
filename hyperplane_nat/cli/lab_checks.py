# SPDX-License-Identifier: Apache-2.0
"""What of a running lab is not as it should be, each as a check: `doctor --lab`.

It looks for itself, at processes, the state map and the kernel, so that what is dead or hangs is
found all the same. Only which environments and network interfaces functions have brought about, and
what there is of VPCs since the last `apply`, is asked of the controller; without one these parts
are not judged. What the flow table says is `verify`'s matter.

A part that comes or goes at the moment is no leftover: only what two looks have found is one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hyperplane_nat.cli import common
from hyperplane_nat.cli.checks import Check, Outcome, bad, good
from hyperplane_nat.client import Client, ClientError, NotRunningError
from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller import aws, flow_logs
from hyperplane_nat.controller.forwarder.supervisor import SILENT_SECONDS
from hyperplane_nat.controller.network.punt import LOOKS
from hyperplane_nat.controller.network.reconcile import lab_spec
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.processes import Process, living, resident_bytes
from hyperplane_nat.controller.resources import lifecycle_of, resources_of
from hyperplane_nat.controller.standing import standing
from hyperplane_nat.engine import StateMap, StateMapError
from hyperplane_nat.flow_cache.program import attached
from hyperplane_nat.model.entities import WITHOUT_LINK
from hyperplane_nat.model.identifiers import environment_name
from hyperplane_nat.model.region import Region
from netns import links, namespace, offloads, privileges
from netns.interior import route_socket
from netns.names import (
    ENVIRONMENT_LINK,
    environment_namespace,
    gateway_namespace,
    host_link,
    host_namespace,
    punt_namespace,
    slot_link,
    vpc_namespace,
)
from netns.netlink import RouteSocket
from netns.spec import LabSpec
from netns.survey import Survey, strays, survey

IPV4_LONGEST = 65536
"""Bytes of the longest super-frame whose length an IPv4 header can say, by the kernel's count."""

ANSWER_SECONDS = 10.0
"""How long the controller may take for an answer."""

SECOND_LOOK_SECONDS = 0.5

DROP_SECONDS = 30.0
"""How long a process that starts may take until it has given up its privileges."""

SHOWN = 8
"""Names in a finding."""

MEND = "end the controller with SIGKILL and start another: up (docs/upgrade.md)"
"""Whoever takes over mends what the one before has not seen."""

BARE = (
    "hyperplane_nat.forwarder",
    "hyperplane_nat.flow_logs",
    "hyperplane_nat.resolver",
    "hyperplane_nat.health",
    "hyperplane_nat.aws",
    "netns.services",
)
"""Modules of the processes that keep no privilege."""

IN_FLUX = frozenset({"initializing", "terminating"})
"""States of environments whose namespace may not be there yet, or any more."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the controller says that there is."""

    environments: frozenset[int]
    """Numbers of all."""
    settled: frozenset[int]
    """Of those that are neither begun nor ended at the moment."""
    interfaces: frozenset[str]
    """Names of network interfaces as links."""
    vpcs: frozenset[str]
    """All, the internet's hosts' too."""
    config: Config
    hosts: frozenset[int] = frozenset()
    """Numbers of hosts, and of those that health checks come from."""

    @classmethod
    def by(cls, connection: Client) -> Self:
        """Ask a controller; ClientError."""
        rows = common.rows(connection.get("/v1/environments"))
        interfaces = common.rows(connection.get("/v1/interfaces"))
        return cls(
            frozenset(row["number"] for row in rows),
            frozenset(row["number"] for row in rows if row["state"] not in IN_FLUX),
            frozenset(row["name"] for row in interfaces if row["kind"] not in WITHOUT_LINK),
            frozenset(row["VpcName"] for row in common.rows(connection.get("/v1/vpcs"))),
            Config.model_validate(connection.get("/v1/config")),
            frozenset(row["Number"] for row in common.rows(connection.get("/v1/hosts")))
            | frozenset(
                row["HealthCheckerNumber"]
                for row in common.rows(connection.get("/v1/load-balancers"))
            ),
        )


def run(lab: str, runtime_directory: Path) -> Iterator[Check]:
    """All checks, processes first; NotRunningError when nothing of the lab runs."""
    stands = standing(lab, runtime_directory)
    controller = stands.controller()
    if controller is None and stands.forwarder is None:
        raise NotRunningError(lab, runtime_directory)
    up = common.with_lab("hyperplane-nat up", lab)
    told = None
    connection = Client(lab, runtime_directory=runtime_directory, timeout=ANSWER_SECONDS)
    try:
        told = Told.by(connection)
    except ClientError as error:
        yield bad("controller", str(error), f"see {connection.path.parent / 'controller.log'}")
    else:
        yield good("controller", f"pid {controller} answers")
    config = stands.config if told is None else told.config
    if config is None:
        yield bad("record", stands.problem or "lab.json is missing", f"{up} --replace -c LAB.toml")
        return
    paths = LabPaths.of(lab, runtime_directory, config.lab.state_directory)
    yield from processes(paths, config, up)
    yield heartbeat(paths, up)
    yield unprivileged(paths)
    yield memory(paths)
    region = Region(settings=lifecycle_of(config))
    region.apply(region.plan(resources_of(config)))
    spec = lab_spec(config, region.wanted())
    found = survey(lab)
    if found.gateway is None:
        yield bad("namespaces", "the gateway's namespace is missing", f"{up} --replace")
        return
    yield from parts(spec, connection, found, told)
    yield sizes(spec, found)
    if namespace.exists(punt_namespace(lab)):
        yield punted(lab, found)
    yield tunnels(lab, found)
    yield big_tcp(lab)
    if told is not None:
        yield leftovers(lab, connection, found, told)


def processes(paths: LabPaths, config: Config, up: str) -> Iterator[Check]:
    """Whether whatever a controller has started lives."""
    again = f"a controller starts it again: see {paths.log}; without one: {up}"
    pid = living(paths.forwarder_pid, paths.directory)
    yield good("forwarder", f"pid {pid}") if pid else bad("forwarder", "none runs", again)
    pid = living(paths.standby_pid, paths.directory)
    if pid:
        yield good("standby", f"pid {pid}")
    else:
        found = "none waits: the next change of forwarders takes longer"
        yield Check("standby", Outcome.NOTED, found, again)
    wanted = [(vpc.name, service.name) for vpc in config.vpc for service in vpc.service]
    kept = flow_logs.writer_specs(config) + aws.endpoint_specs(config)
    wanted += [(spec.vpc, spec.name) for spec in kept]
    dead = [
        f"{vpc}/{name}"
        for vpc, name in wanted
        if not living(paths.service_pid(vpc, name), paths.directory)
    ]
    if dead:
        yield bad("servers", f"not alive: {_named(dead)}", again)
    else:
        yield good("servers", f"{len(wanted)} alive")


def unprivileged(paths: LabPaths) -> Check:
    """Whether what stands in the way of packets has given up what it had."""
    name = "privileges"
    deadline = time.monotonic() + DROP_SECONDS
    # Who starts begins with them.
    while having := _privileged(paths):
        if time.monotonic() > deadline:
            return bad(
                name,
                f"not given up by: {', '.join(having)}",
                "end it with SIGTERM: another one is started (a server of 0.1.0 keeps them)",
            )
        time.sleep(SECOND_LOOK_SECONDS)
    return good(name, f"none of {', '.join(BARE)} has any")


def _privileged(paths: LabPaths) -> list[str]:
    """Those of the lab's processes that have privileges which they should not have."""
    having = []
    for process in Process.strays(paths.directory):
        has = privileges.of(process.pid)
        command = process.command
        process.close()
        word = command[command.index("-m") + 1] if "-m" in command else ""
        if word in BARE and has is not None and not has.dropped:
            having.append(f"{word} ({process.pid})")
    return having


def heartbeat(paths: LabPaths, up: str) -> Check:
    """Whether the forwarder is at work, by what it notes in the state map."""
    name = "heartbeat"
    try:
        state = StateMap.open(paths.state_file)
    except StateMapError as error:
        return bad(name, str(error), f"{up} discards a map that is damaged")
    try:
        silent = time.monotonic() - state.heartbeat / 1000
    finally:
        state.close()
    if silent < SILENT_SECONDS:
        return good(name, f"{silent * 1000:.0f} ms ago")
    return bad(
        name,
        f"none for {silent:.1f} s: the forwarder is dead or hangs",
        f"a controller replaces it after two seconds; without one: {up}",
    )


def memory(paths: LabPaths) -> Check:
    """Whether the state map can still grow to its size, and what the processes take."""
    name = "memory"
    try:
        file, directory = paths.state_file.stat(), paths.state_file.parent
        system = os.statvfs(directory)
    except OSError as error:
        return bad(name, f"{paths.state_file}: {error.strerror}", "is another program at it?")
    used, free = file.st_blocks * 512, system.f_bavail * system.f_frsize
    pid = living(paths.forwarder_pid, paths.directory)
    size = common.byte_count
    text = f"state map {size(used)} of {size(file.st_size)}, {size(free)} free in {directory}"
    if pid is not None:
        text += f"; forwarder {size(resident_bytes(pid))} resident"
    if file.st_size - used > free:
        return Check(
            name, Outcome.NOTED, text, f"enlarge it: mount -o remount,size=... {directory}"
        )
    return good(name, text)


def parts(spec: LabSpec, connection: Client, found: Survey, told: Told | None) -> Iterator[Check]:
    """Environments, VPCs and hosts: what is missing was looked for twice, for it may just end."""

    def looked() -> list[Check]:
        checks = [environments(spec, found, told), vpcs(spec, found, told)]
        return checks if told is None or not told.hosts else [*checks, hosts(found, told)]

    first = looked()
    if told is not None and any(each.outcome is Outcome.FAILED for each in first):
        time.sleep(SECOND_LOOK_SECONDS)
        told, found = Told.by(connection), survey(spec.lab)
        seconds = {each.name: each for each in looked()}
        first = [
            each if each.outcome is not Outcome.FAILED else seconds.get(each.name, each)
            for each in first
        ]
    yield from first


def environments(spec: LabSpec, found: Survey, told: Told | None) -> Check:
    """Whether each environment has its namespace and its link, and is as it was made."""
    name = "environments"
    wanted = set(range(1, spec.environments + 1)) if told is None else told.settled
    if missing := sorted(wanted - found.served.keys()):
        text = f"without namespace or link: {_named(map(environment_name, missing))}"
        return bad(name, text, MEND)
    if altered := [environment_name(each.slot.number) for each in found.altered]:
        text = f"have changed their own network: {_named(altered)}"
        return Check(name, Outcome.NOTED, text, "none: they are served as they are")
    return good(name, f"{len(found.served)} with namespace and link")


def vpcs(spec: LabSpec, found: Survey, told: Told | None) -> Check:
    """Whether each VPC has its namespace, its addresses and its network interfaces."""
    standing_vpcs = {vpc.name: vpc for vpc in found.vpcs}
    problems = []
    for vpc in spec.vpcs:
        there = standing_vpcs.get(vpc.name)
        if there is None:
            problems.append(f"VPC {vpc.name}")
            continue
        lost = [each for each in vpc.addresses if each not in there.addresses]
        problems += [f"address {address} of VPC {vpc.name}" for address in lost]
    wanted = {each.name for vpc in spec.vpcs for each in vpc.interfaces}
    if told is not None:
        wanted |= told.interfaces
    links_there = {each.name for each in found.interfaces}
    problems += [f"network interface {each}" for each in sorted(wanted - links_there)]
    if problems:
        text = f"missing or broken: {_named(problems)}"
        return bad("VPCs", text, MEND)
    return good("VPCs", f"{len(found.vpcs)}; network interfaces: {len(links_there)}")


def hosts(found: Survey, told: Told) -> Check:
    """Whether each host has its namespace and its link."""
    standing = {each.host.number for each in found.hosts}
    if missing := sorted(told.hosts - standing):
        text = f"without namespace or link: {_named(f'host {number}' for number in missing)}"
        return bad("hosts", text, MEND)
    return good("hosts", f"{len(standing)} with namespace and link")


def sizes(spec: LabSpec, found: Survey) -> Check:
    """Whether links are of the sizes that the configuration names."""
    mtus = {vpc.name: vpc.mtu for vpc in spec.vpcs}
    wrong = [
        f"{environment_name(number)} {mtu}"
        for number, (_, mtu) in found.served.items()
        if mtu != spec.environment_mtu
    ]
    wrong += [
        f"{each.interface.name} {each.mtu}"
        for vpc in found.vpcs
        for each in vpc.interfaces
        if each.mtu != mtus.get(vpc.name, each.mtu)
    ]
    if wrong:
        text = f"not as configured: {_named(wrong)}"
        return Check("MTUs", Outcome.NOTED, text, "ip -n NAMESPACE link set dev LINK mtu BYTES")
    used = sorted({spec.environment_mtu, *mtus.values()})
    return good("MTUs", f"as configured: {', '.join(map(str, used))}")


def punted(lab: str, found: Survey) -> Check:
    """Whether all links lead to the punt link; one that was made just now has a moment for it."""
    if _without_program(lab, found):
        time.sleep(SECOND_LOOK_SECONDS)
        found = survey(lab)
    if lost := _without_program(lab, found):
        text = f"the flow cache's program is not on {_named(lost)}: nothing passes"
        return bad("punt link", text, f"it is put back within {LOOKS} seconds, or {MEND}")
    return good("punt link", "all links lead to it")


def _without_program(lab: str, found: Survey) -> list[str]:
    near = {slot_link(number): slot.ifindex for number, (slot, _) in found.served.items()}
    near |= {host_link(each.host.number): each.host.ifindex for each in found.hosts}
    near |= {each.name: each.ifindex for each in found.interfaces}
    with route_socket(gateway_namespace(lab)) as route:
        return sorted(name for name, index in near.items() if attached(route, index) is None)


def tunnels(lab: str, found: Survey) -> Check:
    """Whether the kernel cuts up what it tunnels before it comes to the gateway."""
    places = [(each.slot.namespace, ENVIRONMENT_LINK) for each in found.environments]
    places += [(vpc_namespace(lab, each.vpc), each.name) for each in found.interfaces]
    wrong = [place for place in places if namespace.call(place[0], _takes_tunnels, place[1])]
    if wrong:
        where, link = wrong[0]
        features = " ".join(f"{feature} off" for feature in offloads.TUNNEL_FEATURES)
        return Check(
            "offloads",
            Outcome.NOTED,
            "super-frames inside tunnels are dropped: "
            + _named([f"{link} of {where}" for where, link in wrong]),
            f"ip netns exec {where} ethtool -K {link} {features}",
        )
    return good("offloads", f"what is tunnelled is segmented before: {len(places)} links")


def _takes_tunnels(link: str) -> bool:
    with RouteSocket() as route:
        return offloads.tunnel_segmentation(route, link)


def big_tcp(lab: str) -> Check:
    """Whether a link of the lab sends more than the ring takes (IPv4 BIG TCP)."""
    for where in filter(namespace.is_complete, strays(lab)):
        for name, size in namespace.call(where, _longest_ipv4).items():
            if size > IPV4_LONGEST:
                # The limit of all protocols lowers IPv4's with it, if it is another one than it
                # was: 65536 is what most links have. IPv4's alone is for iproute2 from 6.3 on.
                return Check(
                    "BIG TCP",
                    Outcome.NOTED,
                    f"{name} of {where} may send {size} bytes as one frame: they are dropped",
                    f"ip -n {where} link set dev {name} gso_max_size {IPV4_LONGEST - 1}",
                )
    return good("BIG TCP", "no link of the lab sends frames above 64 KiB")


def _longest_ipv4() -> dict[str, int]:
    with RouteSocket() as route:
        return links.longest_ipv4(route)


def leftovers(lab: str, connection: Client, found: Survey, told: Told) -> Check:
    """Whether there is anything with a name of the lab that is no part of it."""
    left = _left(lab, found, told)
    if left:
        time.sleep(SECOND_LOOK_SECONDS)
        found = survey(lab)
        left &= _left(lab, found, Told.by(connection))
    if left:
        text = f"no part of the lab: {_named(sorted(left))}"
        return Check("leftovers", Outcome.NOTED, text, "ip netns delete, ip -n GATEWAY link delete")
    return good("leftovers", "none")


def _left(lab: str, found: Survey, told: Told) -> set[str]:
    numbers = (found.served.keys() | set(found.broken.environments)) - told.environments
    known = {vpc.name for vpc in told.config.vpc} | told.vpcs
    vpcs_left = ({vpc.name for vpc in found.vpcs} | set(found.broken.vpcs)) - known
    interfaces = {each.name for each in found.interfaces} - told.interfaces
    hosts_left = {each.host.number for each in found.hosts} | set(found.broken.hosts)
    return {
        *(f"namespace {host_namespace(lab, number)}" for number in hosts_left - told.hosts),
        *(f"namespace {environment_namespace(lab, number)}" for number in numbers),
        *(f"namespace {vpc_namespace(lab, name)}" for name in vpcs_left),
        *(f"namespace {name}" for name in found.broken.namespaces),
        *(f"link {name}" for name in interfaces | set(found.broken.links) - told.interfaces),
        *(f"link {name}" for name in found.broken.foreign_links),
    }


def _named(names: Sequence[str] | Iterator[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more
