# SPDX-License-Identifier: Apache-2.0
"""Load balancers with their targets, endpoint services and endpoints, as the page shows them."""

from __future__ import annotations

from collections import Counter

from hyperplane_nat.ui.look import Looker, Row

TARGETS_SHOWN = 64
"""Of a target group, those that something is the matter with first; the rest is counted."""

HEALTHY = "healthy"


class Balancing:
    """What is asked of them besides a look."""

    def __init__(self, looker: Looker) -> None:
        """Ask; ClientError."""
        self.load_balancers = looker.rows("/v1/load-balancers")
        self.target_groups = looker.rows("/v1/target-groups")
        self.services = looker.rows("/v1/endpoint-services")
        self.endpoints = looker.rows("/v1/endpoints")
        self.gateway_endpoints = looker.rows("/v1/gateway-endpoints")

    def document(self) -> Row:
        """Their part of the page's document."""
        return {
            "load_balancers": [_load_balancer(row) for row in self.load_balancers],
            "target_groups": [_target_group(row) for row in self.target_groups],
            "endpoint_services": [_service(row) for row in self.services],
            "endpoints": [
                *(_endpoint(row) for row in self.endpoints),
                *(_gateway_endpoint(row) for row in self.gateway_endpoints),
            ],
        }


def _load_balancer(row: Row) -> Row:
    return {
        "id": row["LoadBalancerId"],
        "name": row["LoadBalancerName"],
        "vpc": row["VpcName"],
        "state": row["State"],
        "scheme": row["Scheme"],
        "dns_name": row["DNSName"],
        "groups": [each["GroupName"] for each in row["SecurityGroups"]],
        "nodes": [
            {
                "zone": node["ZoneName"],
                "subnet": node["SubnetName"],
                "address": node["PrivateIPv4Address"],
                "public_address": node["IpAddress"],
                "interface": node["NetworkInterfaceId"],
            }
            for node in row["AvailabilityZones"]
        ],
        "listeners": [
            {
                "protocol": each["Protocol"],
                "port": each["Port"],
                "target_group": each["TargetGroupId"],
            }
            for each in row["Listeners"]
        ],
    }


def _target_group(row: Row) -> Row:
    targets = sorted(
        (
            {
                "id": each["Id"],
                "host": each["HostName"],
                "address": each["Address"],
                "port": each["Port"],
                "zone": each["AvailabilityZone"],
                "state": each["State"],
                "reason": each["Reason"],
                "description": each["Description"],
            }
            for each in row["Targets"]
        ),
        key=lambda each: (each["state"] == HEALTHY, str(each["host"] or each["address"])),
    )
    return {
        "id": row["TargetGroupId"],
        "name": row["TargetGroupName"],
        "vpc": row["VpcName"],
        "protocol": row["Protocol"],
        "port": row["Port"],
        "type": row["TargetType"],
        "check": f"{row['HealthCheckProtocol']} {row['HealthCheckPort']}"
        + (row["HealthCheckPath"] or ""),
        "states": dict(sorted(Counter(each["state"] for each in targets).items())),
        "targets": targets[:TARGETS_SHOWN],
    }


def _service(row: Row) -> Row:
    return {
        "id": row["ServiceId"],
        "name": row["Name"],
        "vpc": row["VpcName"],
        "service_name": row["ServiceName"],
        "load_balancer": row["LoadBalancerId"],
        "acceptance_required": row["AcceptanceRequired"],
        "principals": row["AllowedPrincipals"],
        "private_dns_name": row["PrivateDnsName"],
    }


def _endpoint(row: Row) -> Row:
    return _any_endpoint(row) | {
        "service": row["EndpointService"],
        "nodes": [
            {
                "zone": each["ZoneName"],
                "subnet": each["SubnetName"],
                "address": each["PrivateIPv4Address"],
                "interface": each["NetworkInterfaceId"],
            }
            for each in row["Subnets"]
        ],
        "groups": [each["GroupName"] for each in row["Groups"]],
        "private_dns_name": row["PrivateDnsName"] if row["PrivateDnsEnabled"] else None,
        "route_tables": [],
    }


def _gateway_endpoint(row: Row) -> Row:
    return _any_endpoint(row) | {
        "service": None,
        "nodes": [],
        "groups": [],
        "private_dns_name": None,
        "route_tables": [each["RouteTableName"] for each in row["RouteTables"]],
    }


def _any_endpoint(row: Row) -> Row:
    return {
        "id": row["VpcEndpointId"],
        "name": row["Name"],
        "vpc": row["VpcName"],
        "type": row["VpcEndpointType"],
        "state": row["State"],
        "service_name": row["ServiceName"],
    }
