# SPDX-License-Identifier: Apache-2.0
"""A lab that somebody has tampered with, made whole again part by part.

What stands is kept, what is missing is made again under its old name, number and address, and what
others have added stays. Nobody else's part is touched: a controller that takes over a lab must not
pass on to all tenants what one has done to itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from netns import namespace, vpcs
from netns.environments import add_environments, remove_environments, renew_links
from netns.errors import NetnsError
from netns.names import environment_namespace, vpc_namespace
from netns.spec import LabSpec, VpcSpec, check
from netns.survey import StandingVpc, Survey, survey


@dataclass(frozen=True, slots=True)
class Mended:
    """A lab that stands as its spec asks."""

    found: Survey
    """All that stands, the parts of the spec among it."""
    notes: tuple[str, ...]
    """What was not as it should be, and what was done, a line each."""


def mend(spec: LabSpec) -> Mended | None:
    """Make what stands of a lab what its spec asks for; None when there is no gateway to it.

    Beside the spec's there may be any other environments, VPCs and network interfaces. Raises
    `NetnsError` when a part cannot be made.
    """
    check(spec)
    found = survey(spec.lab)
    if found.gateway is None:
        return None
    notes = [*_mend_environments(spec, found), *_mend_vpcs(spec, found)]
    if notes:
        found = survey(spec.lab)
    numbers = range(1, spec.environments + 1)
    notes += [
        f"environment {each.slot.number} has changed its own network: left as it is"
        for each in found.altered
        if each.slot.number in numbers
    ]
    standing = {(each.vpc, each.name) for each in found.interfaces}
    missing = [f"environment {number}" for number in numbers if number not in found.served]
    missing += [
        f"network interface {each.name}"
        for vpc in spec.vpcs
        for each in vpc.interfaces
        if (vpc.name, each.name) not in standing
    ]
    if missing:
        raise NetnsError(f"{missing[0]} was made and is not there", "somebody is at it: again")
    return Mended(found, tuple(notes))


def _mend_environments(spec: LabSpec, found: Survey) -> Iterator[str]:
    sizes = {number: mtu for number, (_, mtu) in found.served.items()}
    for number in range(1, spec.environments + 1):
        if sizes.get(number) == spec.environment_mtu:
            continue
        if namespace.is_complete(environment_namespace(spec.lab, number)):
            try:
                renew_links(spec, [number])
            except NetnsError:
                # Something of its own is in the place of eth0.
                pass
            else:
                yield f"environment {number} had lost its link: it has a new one"
                continue
        remove_environments(spec.lab, [number])
        add_environments(spec, [number])
        yield f"environment {number} was missing: it is made anew"


def _mend_vpcs(spec: LabSpec, found: Survey) -> Iterator[str]:
    standing = {vpc.name: vpc for vpc in found.vpcs}
    for vpc in spec.vpcs:
        if vpc.name in standing:
            yield from _mend_vpc(spec.lab, vpc, standing[vpc.name])
            continue
        vpcs.remove_vpc(spec.lab, vpc.name)
        # Of a namespace that only its processes keep.
        vpcs.remove_interfaces(spec.lab, [each.name for each in vpc.interfaces])
        vpcs.add_vpc(spec.lab, vpc)
        yield f"VPC {vpc.name} was missing: {vpc_namespace(spec.lab, vpc.name)} is made anew"


def _mend_vpc(lab: str, vpc: VpcSpec, standing: StandingVpc) -> Iterator[str]:
    if missing := [each for each in vpc.addresses if each not in standing.addresses]:
        vpcs.add_addresses(lab, vpc.name, missing)
        yield f"VPC {vpc.name} had lost {', '.join(missing)}: added"
    whole = {
        each.interface.name: each.addresses for each in standing.interfaces if each.mtu == vpc.mtu
    }
    for wanted in vpc.interfaces:
        if wanted.addresses <= whole.get(wanted.name, frozenset()):
            continue
        vpcs.remove_interfaces(lab, [wanted.name])
        vpcs.add_interfaces(lab, vpc.name, [wanted], mtu=vpc.mtu)
        yield f"network interface {wanted.name} of VPC {vpc.name} was broken: it is made anew"
