# SPDX-License-Identifier: Apache-2.0
"""The sections for the lab itself: environments, network interfaces, forwarder, metrics."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from pydantic import Field

from hyperplane_nat import unix_socket
from hyperplane_nat.config.resources import (
    Service as Service,
)
from hyperplane_nat.config.values import (
    AbsolutePath,
    Address,
    AddressWithPrefix,
    FieldError,
    GroupOfHost,
    HostName,
    InterfaceName,
    LabName,
    LinkName,
    Mtu,
    PowerOfTwo,
    Seconds,
    Section,
)
from hyperplane_nat.errors import ConfigError as ConfigError
from netns.users import UID

SLOTS_MAX = 16384
INTERFACES_MAX = 256

INTERFACE_MTU = 8500
"""MTU of a NAT gateway (AWS)."""


class Lab(Section):
    """The lab as a whole."""

    name: LabName = Field(
        default="default",
        description="Name of the lab; part of the names of its namespaces and files.",
    )
    environments: int = Field(
        default=100,
        ge=0,
        le=SLOTS_MAX,
        description="Execution environments to create, spread round-robin over the network "
        "interfaces. 0 in a lab with functions, or without subnets, if neither this nor a network "
        "interface is given.",
    )
    runtime_directory: AbsolutePath = Field(
        default="/run/hyperplane-nat",
        description="Directory for sockets, pid files and logs; each lab has a directory of its "
        "name in it.",
    )
    state_directory: AbsolutePath = Field(
        default="/dev/shm",
        description="Directory for the state file. It must be a tmpfs: on a disk the write-back of "
        "dirty pages would stall packets.",
    )
    process_uid: int = Field(
        default=UID,
        ge=0,
        le=(1 << 32) - 2,
        description="User and group, by number, of the processes that need no privilege: "
        "forwarder, standby and servers of all labs. Best one that nobody else has. 0 keeps root, "
        "without capabilities, for containers that have no such user.",
    )
    socket_group: GroupOfHost | None = Field(
        default=None,
        description="Group of the host, by name or number, whose members may use the control "
        "socket; without one only root may. Whoever may use it can run programs as root.",
    )

    def problems(self) -> Iterator[FieldError]:
        """What does not fit."""
        longest = Path(self.runtime_directory) / self.name / unix_socket.FORWARDER
        if (problem := unix_socket.too_long(longest)) is not None:
            yield FieldError("runtime_directory", problem, "choose a shorter directory")


class Environment(Section):
    """What every execution environment looks like from inside; all are the same."""

    address: AddressWithPrefix = Field(
        default="169.254.100.2/30",
        description="Address and prefix length of eth0, the same in every environment.",
    )
    gateway: Address = Field(
        default="169.254.100.1",
        description="Default gateway of every environment, in the network of `address`. The "
        "gateway answers ARP for it.",
    )
    mtu_bytes: Mtu = Field(default=1500, description="MTU of eth0.")

    @property
    def interface(self) -> IPv4Interface:
        """`address` to calculate with."""
        return IPv4Interface(self.address)

    def problems(self) -> Iterator[FieldError]:
        """What does not fit."""
        interface = self.interface
        network = interface.network
        if network.prefixlen > 30:
            yield FieldError(
                "address", f"a /{network.prefixlen} has no room for a gateway", "use /30 or shorter"
            )
            return
        for name, address in (("address", interface.ip), ("gateway", IPv4Address(self.gateway))):
            if address not in network:
                yield FieldError(
                    name, f"{address} is outside {network}", "choose an address inside the network"
                )
            elif address in (network.network_address, network.broadcast_address):
                yield FieldError(
                    name,
                    f"{address} is the network or broadcast address of {network}",
                    "choose a host address",
                )
        if str(interface.ip) == self.gateway:
            yield FieldError(
                "gateway", f"{self.gateway} is the environment's own address", "choose another one"
            )


class NetworkInterface(Section):
    """
    A network interface in a subnet, shared by any number of environments. Those of functions are
    made for them and are not listed.
    """

    name: InterfaceName = Field(
        description="Name of the interface, unique in the lab; also of its link, so 15 characters "
        "at most."
    )
    subnet: LinkName = Field(description="Name of the subnet it is in.")
    address: Address = Field(
        description="Its address: what servers in the VPC see environments come from."
    )
    mtu_bytes: Mtu = Field(
        default=INTERFACE_MTU,
        description="The largest packet it sends into the VPC, if `mtu_bytes` of the VPC is not "
        "smaller (AWS: 8500).",
    )
    secondary_addresses: list[Address] = Field(
        default=[],
        max_length=7,
        description="Further addresses in the same subnet, each with source ports of its own (AWS: "
        "at most 8 in all, 55,000 ports each towards a destination).",
    )

    @property
    def addresses(self) -> list[str]:
        """All of them, the primary first."""
        return [self.address, *self.secondary_addresses]


class Neighbours(Section):
    """Resolution of next hops in the VPCs (ARP)."""

    reachable_seconds: Seconds = Field(
        default=30, description="How long an answer is trusted before it is asked for again."
    )
    retry_milliseconds: int = Field(
        default=1000, ge=1, le=60_000, description="Time between two requests."
    )
    attempts: int = Field(
        default=3, ge=1, le=100, description="Requests sent before the next hop counts as failed."
    )
    failed_seconds: Seconds = Field(
        default=3, description="How long frames to a failed next hop are dropped without asking."
    )
    queue_frames: int = Field(
        default=256, ge=1, le=1024, description="Frames kept per next hop while it is asked for."
    )


class Forwarder(Section):
    """The process that moves packets."""

    ring_slots: PowerOfTwo = Field(
        default=4096,
        ge=64,
        le=65536,
        description="Frames in the receive ring; a power of two. More is slower: the ring leaves "
        "the cache.",
    )
    ring_slot_bytes: PowerOfTwo = Field(
        default=2048,
        ge=1024,
        le=65536,
        description="Room for one frame in the ring, its header included; a power of two. Larger "
        "frames are taken from the socket's queue.",
    )
    batch_frames: int = Field(
        default=128, ge=1, le=512, description="Frames handed to the kernel in one send call."
    )
    budget_frames: int = Field(
        default=2048,
        ge=1,
        le=1_000_000,
        description="Frames handled before timers and commands have their turn.",
    )
    nice: int = Field(
        default=-10,
        ge=-20,
        le=19,
        description="Its scheduling priority, as in nice(1): who fills the machine with packets "
        "should not starve who forwards them. Below 0 needs CAP_SYS_NICE.",
    )
    time_slice_microseconds: int = Field(
        default=100,
        ge=100,
        le=100_000,
        description="How long it runs before other processes have their turn (Linux 6.12 and "
        "later). The shorter, the sooner it runs when a packet comes, and the sooner so do the "
        "programs that wait for one.",
    )
    spin_microseconds: int = Field(
        default=100,
        ge=0,
        le=1000,
        description="How long to look for the next frame while frames come at such intervals, "
        "instead of sleeping; 0 never. Where they come at longer ones, it is now and then tried "
        "whether they would come faster, for at most a sixteenth of one processor.",
    )
    coalesce_udp: bool = Field(
        default=True,
        description="Whether UDP datagrams of one flow that arrive together leave as one frame, "
        "which the kernel cuts up again where they are read one by one (Linux 6.2 and later).",
    )
    flow_cache: bool = Field(
        default=False,
        description="Whether established flows are forwarded by the flow cache's "
        "program where their frames arrive; all others lead to the forwarder by a punt link. A "
        "kernel that lacks something for it is served without; an event and `doctor` say so.",
    )
    flow_cache_flows: int = Field(
        default=262_144,
        ge=1,
        le=1_048_576,
        description="How many flows the flow cache has room for, with 304 bytes of the kernel's "
        "memory each, taken when the lab starts. One more is forwarded without it.",
    )

    def problems(self) -> Iterator[FieldError]:
        """What does not fit."""
        if self.budget_frames < self.batch_frames:
            yield FieldError(
                "budget_frames",
                f"{self.budget_frames} is less than forwarder.batch_frames, {self.batch_frames}",
                "raise it or lower the other",
            )


class Aws(Section):
    """AWS's APIs for SDKs on this host. docs/aws.md tells more."""

    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port of 127.0.0.1 on which AWS's APIs are served as long as the lab is up; "
        "left out: on none. It takes the extra `hyperplane-nat[aws]`.",
    )


class Metrics(Section):
    """The Prometheus endpoint."""

    address: Address = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(
        default=9109,
        ge=0,
        le=65535,
        description="Port to listen on; 0 takes any free one. Where it is left out and taken, the "
        "next free one is. `hyperplane-nat status` tells which.",
    )
    hosts: list[HostName] = Field(
        default=[],
        description="Names by which scrapers ask for it, besides `localhost` and its address. A "
        "request for any other host is refused: a web page could send it.",
    )
