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
    interfaces_per_vpc: int = 250
    """Interfaces that Lambda may have in one VPC (AWS: 250, raised on request)."""
    subnets_per_function: int = 16
    groups_per_function: int = 5
    rules_per_direction: int = 60
    """Rules of a security group, inbound and outbound counted apart (AWS: 60)."""
    connections_per_interface: int = 65_000
    """A shared interface with so many connections gets another one beside it (AWS: 65,000)."""
    client_token_seconds: float = DAY
    """How long an answer is remembered for its client token. Not scaled: clients retry in real
    time."""
    client_tokens_max: int = 4096
    """Answers remembered; the oldest is forgotten first."""

    def scaled(self, seconds: float) -> float:
        """A duration of AWS's in the time of this region."""
        return seconds / self.time_scale
