# SPDX-License-Identifier: Apache-2.0
"""
The configuration of a lab: one TOML file, every value with a default and its unit in its name.

Theory of operation: the pydantic models below are the only description of the configuration. The
TOML file, its validation, `hyperplane-nat config` and docs/configuration.md follow from them (the
last two are written by `config.text`; `python -m hyperplane_nat.config --markdown`). The sections
for what customers own are in `config.resources`. A model checks what can be told from its own
fields (`problems`); `Config` checks what needs the whole: names, subnets and addresses across
sections (`config.checks`, `config.resource_checks`). `config.values` has the kinds of values.

Environments are static, `lab.environments` of them on the interfaces of `[[network_interface]]`, or
belong to functions, whose environments and interfaces come and go; a lab may have both. A function
therefore changes what is left out: no static environment, no static interface, and a pool.

Whatever is wrong, all of it, ends as one `ConfigError` with a line for each problem,
`<file>:<line>: <entry>: <field>: <what> (<remedy>)`; `config.problems` collects them. Addresses
stay strings in the form they were written in; where arithmetic is needed, `ipaddress` objects are
made from them.

Figures marked "AWS" follow what AWS documents for NAT gateways and for Lambda in a VPC.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator

from hyperplane_nat import unix_socket
from hyperplane_nat.config import checks as config_checks
from hyperplane_nat.config import problems as config_problems
from hyperplane_nat.config import resource_checks as config_resource_checks
from hyperplane_nat.config.flow_logs import FlowLogs
from hyperplane_nat.config.nat import Flows, Nat, Ports, Timeouts, with_profile
from hyperplane_nat.config.resources import (
    POOL_SIZE,
    Account,
    Function,
    InternetHost,
    Lifecycle,
    Pool,
    Subnet,
    Vpc,
)
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
from netns.privileges import UID

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
        "interfaces. 0 is for a lab with functions, and what it has if neither this nor a network "
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
        default_factory=list,
        max_length=7,
        description="Further addresses in the same subnet, each with source ports of its own (AWS: "
        "at most 8 in all, 55,000 ports each towards a destination).",
    )

    @property
    def addresses(self) -> list[str]:
        """All of them, the primary first."""
        return [self.address, *self.secondary_addresses]


def _default_accounts() -> list[Account]:
    return [Account(name="default", id="111122223333")]


def _default_vpcs() -> list[Vpc]:
    return [
        Vpc(
            name="customer",
            cidr="10.0.0.0/16",
            subnet=[Subnet(name="private-a", cidr="10.0.1.0/24")],
            service=[
                Service(name="web", kind="http", address="10.0.1.80", port=80),
                Service(name="echo", kind="udp-echo", address="10.0.1.81", port=7),
            ],
        )
    ]


def _default_interfaces() -> list[NetworkInterface]:
    return [NetworkInterface(name="eni-a", subnet="private-a", address="10.0.1.10")]


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

    def problems(self) -> Iterator[FieldError]:
        """What does not fit."""
        if self.budget_frames < self.batch_frames:
            yield FieldError(
                "budget_frames",
                f"{self.budget_frames} is less than forwarder.batch_frames, {self.batch_frames}",
                "raise it or lower the other",
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
        default_factory=list,
        description="Names by which scrapers ask for it, besides `localhost` and its address. A "
        "request for any other host is refused: a web page could send it.",
    )


class Config(Section):
    """A whole lab."""

    lab: Lab = Field(default_factory=Lab)
    environment: Environment = Field(default_factory=Environment)
    account: list[Account] = Field(default_factory=_default_accounts, min_length=1)
    vpc: list[Vpc] = Field(default_factory=_default_vpcs, min_length=1)
    internet: list[InternetHost] = Field(default_factory=list)
    network_interface: list[NetworkInterface] = Field(
        default_factory=_default_interfaces, max_length=INTERFACES_MAX
    )
    function: list[Function] = Field(default_factory=list)
    pool: Pool = Field(default_factory=Pool)
    lifecycle: Lifecycle = Field(default_factory=Lifecycle)
    nat: Nat = Field(default_factory=Nat)
    flows: Flows = Field(default_factory=Flows)
    timeouts: Timeouts = Field(default_factory=Timeouts)
    ports: Ports = Field(default_factory=Ports)
    neighbours: Neighbours = Field(default_factory=Neighbours)
    forwarder: Forwarder = Field(default_factory=Forwarder)
    flow_logs: FlowLogs = Field(default_factory=FlowLogs)
    metrics: Metrics = Field(default_factory=Metrics)

    @property
    def runtime_directory(self) -> Path:
        """Directory with the sockets, pid files and logs of this lab."""
        return Path(self.lab.runtime_directory) / self.lab.name

    @property
    def state_file(self) -> Path:
        """The file that the flow table is mapped from."""
        return Path(self.lab.state_directory) / f"hyperplane-nat-{self.lab.name}.map"

    def account_of(self, item: Vpc | Function) -> str:
        """Name of the account that a VPC or function of this configuration belongs to."""
        if item.account is None and isinstance(item, Function) and item.networking != "none":
            return self.account_of(self.vpc_of(item))
        return item.account or self.account[0].name

    def vpc_of(self, function: Function) -> Vpc:
        """The VPC that a function of this configuration is in; KeyError if it is in none."""
        for vpc in self.vpc:
            if any(subnet.name in function.subnets for subnet in vpc.subnet):
                return vpc
        raise KeyError(function.name)

    def place(self, interface: NetworkInterface) -> tuple[Vpc, Subnet]:
        """The VPC and subnet that a network interface of this configuration is in."""
        for vpc in self.vpc:
            for subnet in vpc.subnet:
                if subnet.name == interface.subnet:
                    return vpc, subnet
        raise KeyError(interface.subnet)

    def interface_of(self, environment: int) -> NetworkInterface:
        """The network interface of environment `environment`, counted from 1: round-robin."""
        return self.network_interface[(environment - 1) % len(self.network_interface)]

    @model_validator(mode="wrap")
    @classmethod
    def _fill_in(cls, document: object, make: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(document, dict):
            return make(document)
        filled = with_profile(document)
        if filled.get("function"):
            defaults = [("pool", "size", POOL_SIZE)]
            if not filled.get("network_interface"):
                filled = filled | {"network_interface": []}
                defaults.append(("lab", "environments", 0))
            for section, field, value in defaults:
                table = filled.get(section, {})
                if isinstance(table, dict):
                    filled = filled | {section: {field: value} | table}
        result = make(filled)
        # Nobody has said what was filled in.
        for section in filled:
            if section not in document:
                result.model_fields_set.discard(section)
            elif isinstance(document[section], dict):
                fields = getattr(result, section).model_fields_set
                fields.difference_update(filled[section].keys() - document[section].keys())
        return result

    @model_validator(mode="after")
    def _check(self) -> Self:
        found = [
            *config_problems.inside(self),
            *config_checks.problems(self),
            *config_resource_checks.problems(self),
        ]
        if found:
            raise config_problems.ProblemsError(found)
        return self


def load(path: Path | None, overrides: Mapping[str, object] | None = None) -> Config:
    """
    Read the TOML file at `path`, or the default lab if there is none, and apply `overrides`.

    Overrides are keyed by dotted names, {"lab.environments": 10}; those that are None are ignored.
    Raises ConfigError for a file that cannot be read, or for all values that cannot be used.
    """
    document: dict[str, Any] = {}
    file, text = "default lab", None
    if path is not None:
        file = str(path)
        text, document = _read(path)
    applied = {name: value for name, value in (overrides or {}).items() if value is not None}
    for name, value in applied.items():
        _apply(document, name.split("."), value, file)
    return validated(document, file, applied, text)


def validated(
    document: object, file: str, applied: Collection[str] = (), text: str | None = None
) -> Config:
    """
    The configuration in a document that came from `file`; ConfigError says what is wrong with it.

    The fields named in `applied` came from the command line instead; `text` is what the file says,
    where it is TOML.
    """
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        problems = config_problems.explain(error, Config, document, file, applied, text)
        raise ConfigError.of(problems) from None


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file (hyperplane-nat config > {path} writes one to start from)"
        ) from None
    except OSError as error:
        remedy = "name a file" if isinstance(error, IsADirectoryError) else "see its mode"
        raise ConfigError(f"{path}: cannot be read: {error.strerror} ({remedy})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error} (see https://toml.io)") from None


def _apply(document: dict[str, Any], name: list[str], value: object, file: str) -> None:
    *tables, last = name
    for depth, table in enumerate(tables, start=1):
        document = document.setdefault(table, {})
        if not isinstance(document, dict):
            raise ConfigError(
                f"{file}: {'.'.join(name[:depth])}: not a table (write it as [{table}])"
            )
    document[last] = value
