# SPDX-License-Identifier: Apache-2.0
"""Durations and quotas of the Lambda model: every figure of AWS's, named, in one place."""

from __future__ import annotations

from dataclasses import dataclass

MINUTE = 60.0
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class LifecycleSettings:
    """
    Defaults are what AWS documents; durations are in seconds and divided by `time_scale`.

    Sources: "Giving Lambda functions access to resources in an Amazon VPC", "Lambda quotas",
    "Amazon VPC quotas", and the AWS Compute Blog of September 3, 2019 on improved VPC networking.
    """

    time_scale: float = 1.0
    """How much faster than on AWS time passes."""
    interface_creation_seconds: float = 90.0
    """Until a shared interface is available (blog: up to 90 seconds). Always the full value."""
    interface_deletion_seconds: float = 20 * MINUTE
    """From the end of the last user to the deletion of a shared interface (AWS: up to 20 min)."""
    per_environment_interface_seconds: float = 12.0
    """Creating and attaching an interface in a cold start (before 2019: 10 to 15 seconds)."""
    per_environment_deletion_seconds: float = 20 * MINUTE
    """From the end of an environment to the deletion of the interface it had to itself."""
    shared_attach_seconds: float = 0.0002
    """Attaching an environment to a shared interface (AWS, talk of 2026: 150 ms became 200 us)."""
    function_idle_seconds: float = 14 * DAY
    """Without an invocation for so long a function becomes Inactive (AWS: 14 days)."""
    warm_idle_seconds: float = 10 * MINUTE
    """How long an environment is kept for the next invocation (AWS does not say: minutes)."""
    interfaces_per_vpc: int = 500
    """Interfaces that Lambda may have in one VPC ("Lambda quotas": 500, raised on request)."""
    subnets_per_function: int = 16
    groups_per_function: int = 5
    rules_per_direction: int = 60
    """Rules of a security group, inbound and outbound counted apart (AWS: 60)."""
    route_tables_per_vpc: int = 200
    routes_per_table: int = 500
    """Local routes aside (AWS: 500, 50 until June 2025)."""
    network_acls_per_vpc: int = 200
    """The default one too (AWS: 200)."""
    network_acl_rules_per_direction: int = 20
    """Of a network ACL, without the last one (AWS: 20, up to 40 on request)."""
    elastic_addresses: int = 5
    """Of an account, without those that are assigned to what needs one."""
    nat_gateways_per_zone: int = 5
    nat_gateway_elastic_addresses: int = 2
    """Public addresses of a NAT gateway (AWS: 2, up to 8 on request)."""
    nat_gateway_creation_seconds: float = MINUTE
    """Until a NAT gateway is available, or failed (AWS does not say)."""
    nat_gateway_deletion_seconds: float = MINUTE
    """How long one is deleting (AWS does not say)."""
    nat_gateway_described_seconds: float = 60 * MINUTE
    """How long one that has ended is described (AWS: about an hour)."""
    load_balancers_per_region: int = 50
    listeners_per_load_balancer: int = 50
    target_groups_per_region: int = 3000
    targets_per_group: int = 1000
    load_balancer_creation_seconds: float = 2 * MINUTE
    """Until a load balancer is active (AWS does not say: minutes)."""
    endpoints_per_vpc: int = 50
    gateway_endpoints: int = 20
    """Of the region ("AWS PrivateLink quotas")."""
    endpoint_creation_seconds: float = MINUTE
    """Until an endpoint that was accepted is available (AWS does not say: minutes)."""
    connections_per_interface: int = 65_000
    """A shared interface with so many connections gets another one beside it (AWS: 65,000)."""
    client_token_seconds: float = DAY
    """How long an answer is remembered for its client token. Not scaled: clients retry in real
    time."""
    client_tokens_max: int = 4096
    """Answers remembered; the oldest is forgotten first."""

    blocked_tcp_ports: tuple[int, ...] = (25,)
    """Ports to which no function begins a connection (AWS re:Post, "port 25 restriction")."""
    flow_log_aggregation_seconds: int | None = None
    """How often flow logs are written; None: not at all."""
    region: str = "us-east-1"
    """Its name, which names of load balancers have in them."""
    icmp: bool = False
    """Whether functions' ICMP is carried (AWS names TCP and UDP)."""

    def scaled(self, seconds: float) -> float:
        """A duration of AWS's in the time of this region."""
        return seconds / self.time_scale
