# SPDX-License-Identifier: Apache-2.0
"""Endpoint services, endpoints and prefix lists, in the field names of AWS's EC2 API: see
`description`.
"""

from __future__ import annotations

from typing import Any

from hyperplane_nat.model.changes import by_name
from hyperplane_nat.model.gateway_endpoints import prefix_list_id, prefix_lists
from hyperplane_nat.model.gateway_endpoints import service_name as service_name_of_aws
from hyperplane_nat.model.private_link_checks import (
    base_name,
    endpoint_name,
    endpoints_of,
    service_name,
    zone_name,
    zones_of,
)
from hyperplane_nat.model.private_link_entities import (
    EndpointService,
    GatewayEndpoint,
    VpcEndpoint,
)
from hyperplane_nat.model.region import Region


def describe_endpoint_services(region: Region) -> list[dict[str, Any]]:
    """All endpoint services, by name."""
    services = by_name(region.tables.endpoint_services.values())
    return [endpoint_service(region, each) for each in services]


def describe_endpoints(region: Region) -> list[dict[str, Any]]:
    """All endpoints, by name."""
    return [endpoint(region, each) for each in by_name(region.tables.endpoints.values())]


def describe_gateway_endpoints(region: Region) -> list[dict[str, Any]]:
    """All gateway endpoints, by name."""
    every = by_name(region.tables.gateway_endpoints.values())
    return [gateway_endpoint(region, each) for each in every]


def describe_prefix_lists(region: Region) -> list[dict[str, Any]]:
    """The prefix lists that AWS manages, as DescribeManagedPrefixLists and
    GetManagedPrefixListEntries have them.
    """
    return [
        {
            "PrefixListId": each.id,
            "PrefixListName": each.name,
            "AddressFamily": "IPv4",
            "OwnerId": "AWS",
            "Entries": [str(network) for network in each.entries],
        }
        for each in prefix_lists(region.tables, region.settings.region)
    ]


def endpoint_service(region: Region, service: EndpointService) -> dict[str, Any]:
    """As DescribeVpcEndpointServiceConfigurations, DescribeVpcEndpointServicePermissions and
    DescribeVpcEndpointConnections have it.
    """
    tables = region.tables
    service, vpc = tables.endpoint_services[service.id], tables.vpcs[service.vpc_id]
    balancer = tables.load_balancers.get(service.load_balancer_id)
    return {
        "ServiceId": service.id,
        "ServiceName": service_name(service, region.settings.region),
        "Name": service.name,
        "ServiceType": "Interface",
        "ServiceState": "Available",
        "OwnerId": vpc.account_id,
        "VpcId": vpc.id,
        "VpcName": vpc.name,
        "AvailabilityZones": sorted(zones_of(tables, service)),
        "AcceptanceRequired": service.acceptance_required,
        "LoadBalancerId": service.load_balancer_id,
        "LoadBalancerName": None if balancer is None else balancer.name,
        "BaseEndpointDnsName": base_name(service.id, region.settings.region),
        "PrivateDnsName": service.private_dns_name or None,
        "AllowedPrincipals": list(service.principals),
        "Connections": [
            {
                "VpcEndpointId": each.id,
                "VpcEndpointName": each.name,
                "VpcEndpointOwner": tables.vpcs[each.vpc_id].account_id,
                "VpcEndpointState": each.state.value,
                "VpcName": tables.vpcs[each.vpc_id].name,
            }
            for each in by_name(endpoints_of(tables, service))
        ],
        "Declared": service.declared,
    }


def endpoint(region: Region, item: VpcEndpoint) -> dict[str, Any]:
    """As DescribeVpcEndpoints has it."""
    tables, name = region.tables, region.settings.region
    item, vpc = tables.endpoints[item.id], tables.vpcs[item.vpc_id]
    service = tables.endpoint_services.get(item.service_id)
    zones = {
        each.subnet_id: tables.subnets[each.subnet_id].availability_zone for each in item.nodes
    }
    return {
        "VpcEndpointId": item.id,
        "Name": item.name,
        "VpcEndpointType": "Interface",
        "VpcId": vpc.id,
        "VpcName": vpc.name,
        "OwnerId": vpc.account_id,
        "ServiceName": (
            f"com.amazonaws.vpce.{name}.{item.service_id}"
            if service is None
            else service_name(service, name)
        ),
        "EndpointService": (
            None if service is None else f"{tables.vpcs[service.vpc_id].name}/{service.name}"
        ),
        "State": item.state.value,
        "CreationTimestamp": item.created,
        "Subnets": [
            {
                "ZoneName": zones[each.subnet_id],
                "SubnetId": each.subnet_id,
                "SubnetName": tables.subnets[each.subnet_id].name,
                "PrivateIPv4Address": str(each.address),
                "NetworkInterfaceId": each.interface_id,
            }
            for each in item.nodes
        ],
        "Groups": [
            {"GroupId": each, "GroupName": tables.groups[each].name} for each in item.group_ids
        ],
        "PrivateDnsEnabled": item.private_dns,
        "PrivateDnsName": None if service is None else service.private_dns_name or None,
        "DnsEntries": [
            endpoint_name(item, name),
            *(zone_name(item, zone, name) for zone in zones.values()),
        ],
        "Declared": item.declared,
    }


def gateway_endpoint(region: Region, item: GatewayEndpoint) -> dict[str, Any]:
    """As DescribeVpcEndpoints has one of type Gateway."""
    tables, name = region.tables, region.settings.region
    item = tables.gateway_endpoints[item.id]
    vpc = tables.vpcs[item.vpc_id]
    return {
        "VpcEndpointId": item.id,
        "Name": item.name,
        "VpcEndpointType": "Gateway",
        "VpcId": vpc.id,
        "VpcName": vpc.name,
        "OwnerId": vpc.account_id,
        "ServiceName": service_name_of_aws(item.service, name),
        "PrefixListId": prefix_list_id(item.service, name),
        "State": "Available",
        "CreationTimestamp": item.created,
        "RouteTables": [
            {"RouteTableId": each, "RouteTableName": tables.route_tables[each].name}
            for each in item.route_table_ids
        ],
        "PolicyDocument": item.policy or None,
        "Declared": item.declared,
    }
