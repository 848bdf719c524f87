# SPDX-License-Identifier: Apache-2.0
"""References between endpoints, endpoint services, load balancers, accounts and subnets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hyperplane_nat.config.checks import places, repeated, unknown
from hyperplane_nat.config.resources import Vpc
from hyperplane_nat.config.values import FieldError

if TYPE_CHECKING:
    from hyperplane_nat.config.whole import Whole

_OF_AWS = "com.amazonaws.vpce."
_EVERYBODY = "*"


def problems(config: Whole, region: str) -> Iterator[FieldError]:
    """What does not fit; `region` is the lab's."""
    accounts = {_EVERYBODY, *(each.name for each in config.account)}
    accounts |= {each.id for each in config.account if each.id is not None}
    services = {f"{vpc.name}/{each.name}" for vpc in config.vpc for each in vpc.endpoint_service}
    for number, vpc in enumerate(config.vpc):
        yield from _services(vpc, f"vpc[{number}].endpoint_service", accounts)
        yield from _endpoints(vpc, f"vpc[{number}].endpoint", services)
        yield from _gateway_endpoints(config, vpc, f"vpc[{number}].gateway_endpoint", region)


def _services(vpc: Vpc, location: str, accounts: set[str]) -> Iterator[FieldError]:
    yield from repeated(places(vpc.endpoint_service, location), "endpoint services")
    balancers = [each.name for each in vpc.load_balancer]
    for number, service in enumerate(vpc.endpoint_service):
        where = f"{location}[{number}]"
        at = f"{where}.load_balancer"
        yield from unknown(service.load_balancer, balancers, at, "load balancer", vpc)
        for place, name in enumerate(service.principals):
            yield from unknown(name, accounts, f"{where}.principals[{place}]", "account")


def _endpoints(vpc: Vpc, location: str, services: set[str]) -> Iterator[FieldError]:
    yield from repeated(places(vpc.endpoint, location), "endpoints")
    subnets = [each.name for each in vpc.subnet]
    groups = [each.name for each in vpc.security_group]
    for number, endpoint in enumerate(vpc.endpoint):
        where = f"{location}[{number}]"
        if not endpoint.service.startswith(_OF_AWS):
            at = f"{where}.service"
            yield from unknown(endpoint.service, services, at, "endpoint service")
        for place, node in enumerate(endpoint.node):
            yield from unknown(node.subnet, subnets, f"{where}.node[{place}].subnet", "subnet", vpc)
        for place, name in enumerate(endpoint.security_groups):
            at = f"{where}.security_groups[{place}]"
            yield from unknown(name, groups, at, "security group", vpc)


def _gateway_endpoints(config: Whole, vpc: Vpc, location: str, region: str) -> Iterator[FieldError]:
    yield from repeated(places(vpc.gateway_endpoint, location), "gateway endpoints")
    there = sorted({each.aws_service for each in config.internet if each.aws_service})
    tables = [each.name for each in vpc.route_table]
    owners: dict[tuple[str, str], str] = {}
    for number, endpoint in enumerate(vpc.gateway_endpoint):
        where = f"{location}[{number}]"
        service = endpoint.service.removeprefix(f"com.amazonaws.{region}.")
        if service not in there:
            known = ", ".join(f"com.amazonaws.{region}.{each}" for each in there)
            yield FieldError(
                f"{where}.service",
                f"no internet host stands for {endpoint.service!r}",
                f"known: {known}" if known else 'give an [[internet]] host aws_service = "s3"',
            )
        if any(endpoint.name == each.name for each in vpc.endpoint):
            yield FieldError(
                f"{where}.name", f"an endpoint is called {endpoint.name!r} as well", "rename one"
            )
        for place, name in enumerate(endpoint.route_tables):
            at = f"{where}.route_tables[{place}]"
            yield from unknown(name, tables, at, "route table", vpc)
            if other := owners.get((service, name)):
                yield FieldError(
                    at,
                    f"route table {name!r} leads to endpoint {other!r} of the same service",
                    "name it once",
                )
            owners[service, name] = endpoint.name
