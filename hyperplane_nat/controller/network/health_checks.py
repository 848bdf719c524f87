# SPDX-License-Identifier: Apache-2.0
"""The health checkers of VPCs as the controller sees them: one more service each, and two files.

A checker (`hyperplane_nat.health`) is told what it checks by a file and tells what it has found in
another. It is started, adopted and restarted like the servers in the VPCs; a target that comes or
goes is no reason for that.

What several nodes find of a target counts when more than half of them agree, so that one node alone
takes no target from the others; until then the target stays what it was.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass

from hyperplane_nat import whole_file
from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.network.reconcile import module_command
from hyperplane_nat.controller.network.services import USER, ServiceSpec
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.program import identity
from hyperplane_nat.health.checks import (
    Check,
    body_of,
    decode_verdicts,
    encode_check,
    line_of,
)
from hyperplane_nat.model.balancer_wanted import WantedCheck, WantedNode
from hyperplane_nat.model.wanted import Wanted, WantedHost
from netns.errors import from_errno
from netns.topology import host_namespace

PROGRAM = module_command("hyperplane_nat.health")

GROUP = "HealthChecks"
"""What they are grouped under, as servers are under their VPC; no VPC has a name like this."""

Place = tuple[str, int]
"""Id and port of a target."""


def checkers(wanted: Wanted) -> Iterator[WantedHost]:
    """The hosts that checks come from, one of each VPC with load balancers."""
    return (host for host in wanted.hosts if host.checks_from is not None)


def checker_specs(config: Config, wanted: Wanted, standing: Collection[int]) -> list[ServiceSpec]:
    """The checkers of those VPCs whose host stands."""
    paths = LabPaths.of(config.lab.name, config.lab.runtime_directory, config.lab.state_directory)
    return [
        ServiceSpec(
            GROUP,
            host.vpc,
            (
                *PROGRAM,
                *("--namespace", host_namespace(config.lab.name, host.number)),
                *("--checks", str(paths.health_checks(host.vpc))),
                *("--verdicts", str(paths.health_verdicts(host.vpc))),
                *(USER, str(config.lab.process_uid)),
                *("--program", identity()),
            ),
            PROGRAM[-1],
        )
        for host in checkers(wanted)
        if host.number in standing
    ]


@dataclass(frozen=True, slots=True)
class _Written:
    """How the checks of a node are written down."""

    node: WantedNode
    checks: dict[tuple[str, Place], tuple[WantedCheck, bytes]]
    """By target group and target."""
    line: bytes


class Orders:
    """What the checkers of a lab are told to check."""

    def __init__(self, paths: LabPaths) -> None:
        self._paths = paths
        self._told: object = None
        """The nodes and hosts that the files are of."""
        self._written: dict[int, _Written] = {}
        """By node."""

    def knows(self, wanted: Wanted) -> bool:
        """Whether the files say this."""
        return self._told == (wanted.load_balancer_nodes, wanted.hosts)

    def tell(self, wanted: Wanted) -> None:
        """Write down what each checker checks from now on; NetnsError."""
        if self.knows(wanted):
            return
        self._told = None
        before, self._written = self._written, {}
        for node in wanted.load_balancer_nodes:
            known = before.get(node.number)
            if known is None or known.node is not node:
                known = _written(node, known)
            self._written[node.number] = known
        for host in checkers(wanted):
            path = self._paths.health_checks(host.vpc)
            body = body_of(
                self._written[node.number].line
                for node in wanted.load_balancer_nodes
                if node.vpc == host.vpc
            )
            try:
                whole_file.write(path, body)
            except OSError as error:
                raise from_errno(f"cannot write {path}", error.errno or 0) from None
        self._told = (wanted.load_balancer_nodes, wanted.hosts)


def _written(node: WantedNode, former: _Written | None) -> _Written:
    known = {} if former is None else former.checks
    checks = {}
    for check in node.checks:
        key = (check.group_id, check.target)
        found = known.get(key)
        if found is None or found[0] is not check:
            found = check, encode_check(_check(check))
        checks[key] = found
    return _Written(node, checks, line_of(text for _, text in checks.values()))


def forget(paths: LabPaths, wanted: Wanted) -> None:
    """Remove the files of checkers that are gone."""
    kept = {host.vpc for host in checkers(wanted)}
    for name in paths.health_checkers():
        if name not in kept:
            paths.health_checks(name).unlink(missing_ok=True)
            paths.health_verdicts(name).unlink(missing_ok=True)


def _check(wanted: WantedCheck) -> Check:
    return Check(
        name=_name(wanted),
        source=wanted.node,
        address=wanted.address,
        port=wanted.port,
        protocol=wanted.protocol,
        path=wanted.path,
        codes=wanted.codes,
        host=wanted.host,
        interval_seconds=wanted.interval_seconds,
        timeout_seconds=wanted.timeout_seconds,
        healthy_count=wanted.healthy_count,
        unhealthy_count=wanted.unhealthy_count,
        proxy_protocol=wanted.proxy_protocol,
    )


def _name(wanted: WantedCheck) -> str:
    id_, port = wanted.target
    return f"{wanted.group_id} {id_} {port} {wanted.node}"


class Verdicts:
    """What the checkers of a lab have found."""

    def __init__(self, paths: LabPaths) -> None:
        self._paths = paths
        self._found: dict[str, tuple[bytes, dict[str, str]]] = {}

    def changed(self, vpcs: Iterable[str]) -> set[str]:
        """Look at the files of these VPCs; target groups of which one says something new."""
        changed: set[str] = set()
        for vpc in vpcs:
            with contextlib.suppress(OSError, ValueError):
                changed |= self._look(vpc)
        return changed

    def _look(self, vpc: str) -> set[str]:
        descriptor = os.open(self._paths.health_verdicts(vpc), os.O_RDONLY | os.O_CLOEXEC)
        try:
            reader = whole_file.Reader(descriptor)
            digest, before = self._found.get(vpc, (b"", {}))
            if reader.first_line == digest:
                return set()
            found = decode_verdicts(reader.read())
            self._found[vpc] = (reader.first_line, found)
            return {name.partition(" ")[0] for name, _ in before.items() ^ found.items()}
        finally:
            os.close(descriptor)

    def agreed(self, wanted: Wanted, groups: Container[str]) -> Mapping[str, Mapping[Place, str]]:
        """By target group, of these, and target what more than half of its nodes have found:
        nothing, or the most frequent reason for which it is unhealthy.
        """
        reasons: dict[tuple[str, Place], list[str | None]] = {}
        for node in wanted.load_balancer_nodes:
            _, verdicts = self._found.get(node.vpc, (b"", {}))
            for check in node.checks:
                if check.group_id in groups:
                    key = (check.group_id, check.target)
                    reasons.setdefault(key, []).append(verdicts.get(_name(check)))
        result: dict[str, dict[Place, str]] = {}
        for (group_id, target), found in reasons.items():
            bad = Counter(reason for reason in found if reason)
            if found.count("") * 2 > len(found):
                result.setdefault(group_id, {})[target] = ""
            elif bad.total() * 2 > len(found):
                result.setdefault(group_id, {})[target] = bad.most_common(1)[0][0]
        return result
