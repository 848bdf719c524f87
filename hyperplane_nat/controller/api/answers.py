# SPDX-License-Identifier: Apache-2.0
"""What the control API answers, as models: the OpenAPI document is made of them, and tests hold
answers against them. Nothing is checked when an answer is sent.

A key that is here stays what it is as long as the path says v1. Answers may have more keys than
these; whoever reads them leaves aside what it does not know. Keys written like `FunctionName` are
AWS's.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from hyperplane_nat.controller.api.requests import Base64


class ProblemRow(BaseModel):
    """One thing that is wrong with a configuration."""

    source: str
    line: int | None = Field(description="In a file; null for a configuration that came as JSON.")
    entry: str = Field(description='The entry of a list that it is in, `[[vpc]] "customer"`.')
    field: str = Field(description="The field in the entry, or `section.field`.")
    what: str
    remedy: str


class Error(BaseModel):
    """Why a request was not done."""

    error: str = Field(
        description="A code: AWS's name where it has one, such as ResourceNotFoundException."
    )
    message: str = Field(description="One line: what is wrong, and in parentheses what to do.")
    problems: list[ProblemRow] | None = Field(
        default=None, description="Each problem of a configuration; left out for other errors."
    )


class FlowCacheStatus(BaseModel):
    """Established flows that the kernel forwards."""

    flows: int = Field(ge=0, description="How many there are.")
    room: int = Field(ge=0, description="How many there may be.")
    hit_ratio: float = Field(
        ge=0, le=1, description="The part of all packets, as long as the lab is, that it forwarded."
    )
    problem: str | None = Field(description="Why no flow is, although that is wanted.")


class ForwarderStatus(BaseModel):
    """The process that moves packets."""

    pid: int | None
    up: bool
    restarts: int = Field(ge=0)
    hangs: int = Field(ge=0, description="Restarts of those that gave no sign of life.")
    rss_bytes: int = Field(ge=0)
    cpu_seconds: float = Field(ge=0, description="Processor time it has used.")
    uptime_seconds: float | None
    standby_pid: int | None
    failover_seconds: float | None
    problem: str | None = Field(default=None, description="Why it does not answer.")
    punt_link: bool = Field(
        description="Whether it receives by the punt link (`forwarder.flow_cache`)."
    )
    flow_cache: FlowCacheStatus | None = Field(
        description="None where the flow cache is off, or the forwarder does not answer."
    )


class ServiceStatus(BaseModel):
    """A server of the lab's own."""

    up: bool
    restarts: int = Field(ge=0)


class ProcessPrivileges(BaseModel):
    """What a process of the lab may do, by the kernel's account."""

    pid: int
    uid: int
    gid: int
    capabilities: str = Field(
        description="Those in any of its sets, the bounding set included, in hexadecimal."
    )
    no_new_privs: bool
    seccomp: int = Field(description="2 when its system calls are those of a list.")
    dropped: bool = Field(description="Whether it has no capability, can get none, and has a list.")


class FlowCounts(BaseModel):
    """The flow table."""

    tcp: int
    udp: int
    icmp: int
    entries: int = Field(description="Entries in use, those being held included.")
    max: int


class Traffic(BaseModel):
    """What has passed."""

    packets_out: int = Field(description="To the VPCs.")
    bytes_out: int
    packets_in: int = Field(description="From the VPCs.")
    bytes_in: int


class StateFile(BaseModel):
    """The file that the flow table is mapped from."""

    path: str
    bytes: int
    bytes_per_flow: float


class Status(BaseModel):
    """The lab in a few figures."""

    lab: str
    state: Literal["running", "stopping"]
    pid: int
    uptime_seconds: float
    environments: int
    interfaces: int
    vpcs: int
    hosts: int = Field(description="Of VPCs, attached namespaces among them.")
    metrics_url: str
    lambda_endpoint: str | None = Field(
        default=None,
        description="Where functions are invoked as by the Lambda API; null: none has a handler.",
    )
    aws_endpoint: str | None = Field(
        default=None, description="Where AWS's APIs are served; null: aws.port names no port."
    )
    clock_offset_seconds: float = Field(
        default=0, ge=0, description="What the lab's clock was advanced by (POST /v1/advance)."
    )
    metrics_port_passed_over: int | None = Field(
        default=None, description="The default port, where it was taken and another one is used."
    )
    forwarder: ForwarderStatus
    services: dict[str, ServiceStatus]
    privileges: dict[str, ProcessPrivileges] = Field(
        description="Of forwarder, standby and services, by name; one that is just starting has "
        "not dropped its own yet."
    )
    flows: FlowCounts
    traffic: Traffic
    drops: dict[str, int] = Field(description="Packets dropped, by reason; none without packets.")
    counters: dict[str, int]
    state_file: StateFile


class EnvironmentRow(BaseModel):
    """An execution environment with its traffic."""

    name: str
    number: int
    namespace: str | None
    address: str
    interface: str | None = Field(description="Name of its interface; null while it is pooled.")
    interface_address: str | None
    packets_out: int
    bytes_out: int
    packets_in: int
    bytes_in: int
    drops: int
    flows: int
    function: str | None = Field(description="Function that it belongs to.")
    state: Literal["static", "pooled", "initializing", "busy", "idle", "terminating"]


class EnvironmentSums(BaseModel):
    """The environments of a function on an interface, in sums."""

    function: str | None = Field(description="Null: of environments that belong to none.")
    interface: str | None = Field(
        description="Name of their interface, id of one of functions; null of those in the pool."
    )
    environments: int
    states: dict[str, int] = Field(description="How many are in which state; none without any.")
    packets_out: int
    bytes_out: int
    packets_in: int
    bytes_in: int
    drops: int
    flows: int
    tcp_flows: int


class InterfaceRow(BaseModel):
    """A network interface, configured or made for functions."""

    name: str = Field(description="Name of its link.")
    number: int
    vpc: str
    subnet: str
    address: str
    secondary_addresses: list[str] = Field(description="Its further addresses.")
    secondary_numbers: list[int] = Field(description="Their numbers, in the same order.")
    mac: str | None
    environments: int = Field(description="Environments attached to it.")
    flows: int
    packets_out: int = Field(description="To the VPC, of all its addresses.")
    bytes_out: int
    packets_in: int = Field(description="From the VPC, of all its addresses.")
    bytes_in: int
    ports: list[int] = Field(
        description="Source ports that each address has taken, held ones included: of `address`, "
        "then of `secondary_addresses`."
    )
    ports_limit: int | None = Field(description="Of each address; null is no limit.")
    port_allocation_errors: int = Field(
        description="New flows refused (AWS: ErrorPortAllocation), of all its addresses."
    )
    id: str | None = Field(description="Its id; null for a configured one.")
    kind: Literal[
        "static",
        "hyperplane",
        "per-environment",
        "internet",
        "router",
        "internet-gateway",
        "gateway-endpoint",
        "nat-gateway",
        "load-balancer",
        "vpc-endpoint",
    ] = Field(
        description="`router`: that of a VPC's hosts, in no subnet; it leads to the VPC's router. "
        "`internet-gateway`, and `gateway-endpoint`, which all of a VPC share: that of a VPC, in "
        "the internet. `nat-gateway` and "
        "`load-balancer`, a node of one, and `vpc-endpoint`: they have no link."
    )
    status: str = Field(description="EC2's Status: pending, available, in-use; and deleting.")
    description: str
    groups: list[str] = Field(description="Names of its security groups.")
    owner: str = Field(description="Account id of its owner.")


class TargetRow(BaseModel):
    """Whom a load balancer's listener has sent a flow to."""

    address: str
    port: int


class HopRow(BaseModel):
    """An address on the way of a flow by a NAT gateway, and the port that is taken there."""

    interface: str
    address: str
    port: int


class FlowRow(BaseModel):
    """A flow as it is translated. One of a host has a host, and neither slot nor environment."""

    entry: int
    protocol: str
    state: str
    slot: int
    environment: str
    interface: str
    inside_address: str
    inside_port: int
    remote_address: str
    remote_port: int
    nat_address: str
    nat_port: int
    packets_out: int
    bytes_out: int
    packets_in: int
    bytes_in: int
    age_seconds: float
    idle_seconds: float
    host: str | None = Field(
        default=None, description="VPC/name of the host that began it, or whose it is."
    )
    hops: list[HopRow] | None = Field(
        default=None,
        description="Of a flow by a NAT gateway or a load balancer: the function's interface, if it"
        " is one's, then the gateway's or the node's, whose port is 0 where the client's address is"
        " kept. What the remote sees is nat_address.",
    )
    target: TargetRow | None = Field(
        default=None, description="Of a flow by a load balancer: the target that it is to."
    )


class FunctionPorts(BaseModel):
    """Ports of a function's environments."""

    function: str | None = Field(description="Null: of environments that belong to none.")
    in_use: int
    held: int


class EnvironmentPorts(BaseModel):
    """Ports of an environment."""

    environment: str | None = Field(
        description="Null: of a host, or of environments that are gone."
    )
    host: str | None = Field(description="VPC/name.")
    function: str | None
    in_use: int
    held: int


class PortFigures(BaseModel):
    """Ports of an address of a network interface, and who has the most of them."""

    interface: str
    address: str
    in_use: int
    held: int = Field(description="Of flows that have ended: not used again for the hold time.")
    limit: int | None = Field(description="Ports there may be; null is no limit.")
    used_percent: float | None
    allocation_errors: int = Field(description="New flows refused (AWS: ErrorPortAllocation).")
    last_error_seconds: float | None = Field(description="Since the last of them.")
    last_error_reason: str | None = Field(description="The reason of the drop.")
    last_error_environment: str | None
    last_error_host: str | None
    functions: list[FunctionPorts]
    environments: list[EnvironmentPorts]


class RemotePortsRow(PortFigures):
    """Ports towards one remote endpoint."""

    protocol: str
    remote_address: str = Field(
        description="0.0.0.0 with port 0: ports of endpoint-independent mappings, towards any."
    )
    remote_port: int
    high_water: int = Field(description="The most at a time since there was none.")


class PortUsage(BaseModel):
    """Who takes which source ports, and towards what."""

    interfaces: list[PortFigures] = Field(
        description="Each address with all its connections, held ports and mappings."
    )
    remotes: list[RemotePortsRow] = Field(description="The fullest first.")


class TraceStep(BaseModel):
    """What decides at one place of a packet's way."""

    step: str = Field(description="name, source, egress, route, NAT gateway and so on.")
    outcome: Literal["passes", "fails"]
    rule: str = Field(description="The rule, route or thing that decides; empty without one.")
    text: str


class Trace(BaseModel):
    """What the first packet of a flow meets, in order."""

    source: str = Field(description="Who sends, in words.")
    target: str
    address: str | None = Field(description="Of the target; null where its name has none.")
    port: int | None
    protocol: Literal["tcp", "udp", "icmp"]
    reachable: bool = Field(description="Whether no step fails.")
    verdict: str = Field(description="One line, with what fails.")
    drop_reason: str | None = Field(
        description="What the gateway would count for it, where it drops it by its rules."
    )
    steps: list[TraceStep] = Field(
        description="Those that its way leads by; behind the gateway only if it leaves that."
    )


class EventRow(BaseModel):
    """Something that an operator wants to know."""

    number: int = Field(description="Goes up, across restarts of the controller too.")
    time: float = Field(description="Seconds since the epoch.")
    kind: Literal[
        "port-exhaustion",
        "flow-table-full",
        "forwarder-restarted",
        "forwarder-hung",
        "state-map-discarded",
        "interface-added",
        "interface-removed",
        "nat-gateway",
        "load-balancer",
        "endpoint",
        "target-health",
        "flow-cache-off",
        "flow-cache-restored",
        "flow-log-loss",
        "handlers-unbound",
        "reloaded",
        "reload-refused",
        "clock-advanced",
    ]
    message: str
    interface: str | None
    remote: str | None = Field(description="Protocol, address and port.")
    environment: str | None
    function: str | None = Field(description="Function that the environment belongs to.")
    suppressed: int = Field(
        ge=0, description="Events like this one, not shown since the last one that was."
    )


class ColdStartRow(BaseModel):
    """An environment that was started for an invocation, or ahead."""

    number: int = Field(description="Goes up, across restarts of the controller too.")
    time: float = Field(description="Seconds since the epoch.")
    function: str
    networking: Literal["none", "hyperplane", "interface-per-environment"]
    network_ready_seconds: float = Field(
        description="Measured: from the request to an attached environment."
    )
    modelled_seconds: float = Field(description="What AWS would take for it.")


class TcpState(BaseModel):
    """A state of a TCP flow."""

    state: str
    timer: str = Field(description="The timeout of the configuration that governs it.")


class TcpArrow(BaseModel):
    """What leads from a state to another."""

    before: str
    after: str
    segment: str = Field(description="What a segment is to the flow.")
    side: Literal["originator", "responder", "both"] = Field(description="Who sends it.")


class TcpDiagram(BaseModel):
    """The TCP tracker's table as a diagram; what changes no state is not in it."""

    states: list[TcpState] = Field(description="The first is where a flow begins.")
    arrows: list[TcpArrow]


class Verification(BaseModel):
    """What a walk through the flow table has found."""

    problems: list[str] = Field(description="Contradictions; none in a sound table.")
    entries: int = Field(description="Entries in use.")


class PlanStep(BaseModel):
    """One step of a plan."""

    action: Literal["create", "change", "delete"]
    kind: str = Field(
        description="account, vpc, subnet, security-group, host, service, pool and so on."
    )
    name: str
    detail: str
    waits_for: str = Field(
        description="Of a deletion that is left for later: what still uses it. Otherwise empty."
    )


class Applied(BaseModel):
    """What is to be done for a configuration, in order, and whether it was."""

    plan: list[PlanStep]
    applied: bool


class Advanced(BaseModel):
    """The lab's clock."""

    clock_offset_seconds: float = Field(ge=0, description="What it was advanced by, in all.")


class InvocationEnd(BaseModel):
    """How an invocation went."""

    status: int = Field(
        description="Exit status; negative: number of the signal that killed the program."
    )
    timed_out: bool
    environment: str
    cold: bool
    interface: str = Field(description="Id of the interface that it is attached to.")
    interface_created: bool = Field(description="Whether that was made for this environment.")
    network_ready_seconds: float = Field(
        description="Measured: from the request to an attached environment."
    )
    modelled_seconds: float = Field(description="What AWS would take for it.")
    elapsed_seconds: float = Field(description="Measured: the whole request.")


class Invocation(InvocationEnd):
    """The same with what the program wrote: the first 1 MiB of each kind."""

    stdout: Base64
    stderr: Base64
    truncated: bool = Field(description="Whether there was more output than was kept.")


class Refusal(BaseModel):
    """What the model refuses, under AWS's name."""

    code: str
    message: str


class Provisioned(BaseModel):
    """Environments that were started ahead."""

    requested: int
    started: int
    network_ready_seconds: list[float] = Field(description="Measured, one for each.")
    modelled_seconds: list[float] = Field(description="What AWS would take, one for each.")
    elapsed_seconds: float
    interfaces: list[str] = Field(description="Ids of the interfaces used.")
    addresses: int = Field(description="Addresses of subnets that they take.")
    error: Refusal | None = Field(description="Why no more were started.")


class Held(BaseModel):
    """An environment that goes on, whatever its handler does, as long as a process lives."""

    environment: str


class Down(BaseModel):
    """The lab is gone."""

    state: Literal["down"]
