# SPDX-License-Identifier: Apache-2.0
"""The names that a VPC's resolver answers for: a pure function of the region.

Theory of operation
-------------------
A host or service of a VPC is `NAME.VPC.internal`; where both have a name, the host has it. Public
hosts are `NAME.internet.internal` and plain `NAME`, in every VPC and for functions outside all of
them: whether they can be reached from there is a matter of routes. Names of another VPC are no
names.

A load balancer has the names that AWS gives it, of which one has an address for each zone, and
each zone has one ("Network Load Balancers", "DNS name"), and `NAME.VPC.internal`. Those of an
internet-facing one are public, with public addresses: in every VPC and outside all of them. Zones
without healthy targets enough are left out. An endpoint that is available has AWS's names in the
same way, and the private one of its service where that is wanted.

With `enable_dns_hostnames` every address of a VPC has the private name that AWS gives it as well
("DNS attributes for your VPC"). These follow from the address, so nobody lists them: whatever comes
and goes in a VPC changes only what is named here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from hyperplane_nat.model.balancer_entities import LoadBalancer
from hyperplane_nat.model.balancer_resources import Scheme
from hyperplane_nat.model.balancer_wanted import WantedNode
from hyperplane_nat.model.entities import Vpc
from hyperplane_nat.model.private_link_checks import endpoint_name, zone_name
from hyperplane_nat.model.states import EndpointState, LoadBalancerState
from hyperplane_nat.model.tables import Tables
from hyperplane_nat.model.target_health import zone_of_node
from hyperplane_nat.model.validation import INTERNET, INTERNET_EGRESS

LINK_LOCAL = IPv4Address("169.254.169.253")
"""Where the resolver of any VPC answers, besides its base + 2 ("Amazon DNS server")."""

DOMAIN = "internal"
"""What the lab's own names end in."""


@dataclass(frozen=True, slots=True)
class WantedResolver:
    """The resolver of a VPC: where it answers, whom, and what."""

    addresses: tuple[str, ...]
    clients: str
    """Network of those who may ask."""
    names: tuple[tuple[str, str], ...]
    """Each with its address, without the last dot. A name comes once; of those of one address that
    of a host comes first."""
    hostnames: bool
    """Whether the addresses of `clients` have the private names of AWS."""
    balanced: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Names of load balancers and endpoints, each with their addresses."""


def resolver_of(
    tables: Tables, vpc: Vpc, region: str, nodes: Iterable[WantedNode]
) -> WantedResolver | None:
    """The resolver of a VPC; None when it is to have none (`enableDnsSupport`).

    `nodes` are those of load balancers, of all VPCs.
    """
    if not vpc.enable_dns_support:
        return None
    names = _names(tables, vpc)
    balanced = {
        name: addresses
        for name, addresses in (
            *_endpoints(tables, vpc, region).items(),
            *_balanced(tables, vpc, region, nodes).items(),
        )
        if name not in names
    }
    return WantedResolver(
        addresses=resolver_addresses(vpc),
        clients=INTERNET_EGRESS if vpc.name == INTERNET else str(vpc.cidr),
        names=tuple(names.items()),
        balanced=tuple(balanced.items()),
        hostnames=vpc.enable_dns_hostnames,
    )


def resolver_addresses(vpc: Vpc) -> tuple[str, ...]:
    """Where the resolver of a VPC answers; nowhere when it has none."""
    if not vpc.enable_dns_support:
        return ()
    if vpc.name == INTERNET or vpc.cidr.num_addresses <= 2:
        return (str(LINK_LOCAL),)
    return (str(vpc.cidr.network_address + 2), str(LINK_LOCAL))


def _names(tables: Tables, vpc: Vpc) -> dict[str, str]:
    found: dict[str, str] = {}
    if vpc.name != INTERNET:
        for name, address in _of(tables, vpc):
            found.setdefault(f"{name}.{vpc.name}.{DOMAIN}", str(address))
    for each in tables.vpcs.values():
        if each.name == INTERNET:
            for name, address in _of(tables, each):
                found[name] = str(address)
                found[f"{name}.{INTERNET}.{DOMAIN}"] = str(address)
    return found


def _balanced(
    tables: Tables, vpc: Vpc, region: str, nodes: Iterable[WantedNode]
) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    named = {each.number for each in nodes if each.named}
    for balancer in tables.load_balancers.values():
        public = balancer.scheme is Scheme.INTERNET_FACING
        if balancer.state is not LoadBalancerState.ACTIVE:
            continue
        if balancer.vpc_id != vpc.id and not public:
            continue
        name, place = dns_name(balancer, region), tables.vpcs[balancer.vpc_id].name
        all_of_them = {
            node: str(
                tables.elastic_addresses[node.allocation_id].address if public else node.address
            )
            for node in balancer.nodes
        }
        # All, where none has healthy targets enough.
        addresses = tuple(
            address
            for node, address in all_of_them.items()
            if tables.interfaces[node.interface_id].number in named
        ) or tuple(all_of_them.values())
        found[name] = addresses
        found.setdefault(f"{balancer.name.lower()}.{place}.{DOMAIN}", addresses)
        for node, address in all_of_them.items():
            zone = f"{region}{zone_of_node(tables, node)}"
            found[f"{zone}.{name}"] = (address,)
    return found


def _endpoints(tables: Tables, vpc: Vpc, region: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for endpoint in tables.endpoints.values():
        if endpoint.vpc_id != vpc.id or endpoint.state is not EndpointState.AVAILABLE:
            continue
        addresses = tuple(str(node.address) for node in endpoint.nodes)
        found[endpoint_name(endpoint, region)] = addresses
        found.setdefault(f"{endpoint.name.lower()}.{vpc.name}.{DOMAIN}", addresses)
        for node in endpoint.nodes:
            zone = tables.subnets[node.subnet_id].availability_zone
            found[zone_name(endpoint, zone, region)] = (str(node.address),)
        service = tables.endpoint_services.get(endpoint.service_id)
        if endpoint.private_dns and service is not None and service.private_dns_name:
            found[service.private_dns_name] = addresses
    return found


def dns_name(balancer: LoadBalancer, region: str) -> str:
    """`DNSName` of a load balancer, in small letters."""
    return f"{balancer.name.lower()}-{balancer.id}.elb.{region}.amazonaws.com"


def _of(tables: Tables, vpc: Vpc) -> Iterator[tuple[str, IPv4Address]]:
    """What a VPC has under a name; of two of one name the first one counts."""
    for host in tables.hosts_in(vpc.id):
        yield host.name, host.address
    for service in tables.services.values():
        if service.vpc_id == vpc.id:
            yield service.name, service.address


def private_domain(region: str) -> str:
    """What the private names of instances end in, "ip-10-0-1-80.ec2.internal".

    Source: "DNS hostnames in your VPC".
    """
    return f"ec2.{DOMAIN}" if region == "us-east-1" else f"{region}.compute.{DOMAIN}"
