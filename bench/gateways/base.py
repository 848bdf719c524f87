# SPDX-License-Identifier: Apache-2.0
"""What a contender is to the workloads: environments on one side, a VPC on the other."""

from __future__ import annotations

import abc
import contextlib
import secrets
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Protocol, Self

from bench import addresses, black_hole, processes
from netns import namespace, topology

LAB_PREFIX = "bench-"
"""Of the names of all labs here; eight random hexadecimal digits follow."""

FLOWS_MAX = 1 << 20
"""Flows that a contender with a table can hold."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a contender is to be set up."""

    environments: int = 2
    udp_seconds: int = 600
    """How long an idle UDP flow is kept: longer than any workload, unless that is the point."""
    hold_seconds: int = 60
    """How long a port rests after its flow, where a contender has that."""
    flows_max: int = FLOWS_MAX
    flow_logs: bool = False
    """Whether flow logs are written, aggregated every second."""
    flow_cache_flows: int = 0
    """Flows that the flow cache has room for, where a contender has one; 0 is the default."""
    rules: int = 0
    """Egress rules of the network interface's security groups; 0 is no groups at all."""


class Ends(Protocol):
    """Two ends of a way through a contender."""

    @property
    def name(self) -> str:
        """Of the contender."""

    @property
    def vpc(self) -> str:
        """Name of the namespace in which what is sent arrives."""

    @property
    def vpc_file(self) -> str:
        """Its file."""

    def environment_file(self, number: int) -> str:
        """The file of a sender's namespace; they are counted from 1."""


class Gateway(abc.ABC):
    """A contender in a lab of its own with a random name; a context that removes everything."""

    name: ClassVar[str]
    tools: ClassVar[tuple[str, ...]] = ()
    """Programs it needs."""
    environments_max: ClassVar[int] = 16384
    holds_flows: ClassVar[bool] = False
    """Whether a million flows are something it can hold."""
    remark: ClassVar[str] = ""
    """How it is set up, for the report."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.lab = f"{LAB_PREFIX}{secrets.token_hex(4)}"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Build and start it; BenchError (or NetnsError) when it cannot, with nothing left."""
        processes.require(*self.tools)
        with contextlib.ExitStack() as stack:
            stack.callback(topology.destroy, self.lab)
            self.start(stack)
            black_hole.make(self.vpc, addresses.BLACK_HOLE)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @abc.abstractmethod
    def start(self, stack: contextlib.ExitStack) -> None:
        """Build the lab and start what it needs; `stack` gets whatever has to be undone."""

    @property
    def vpc(self) -> str:
        """Name of the VPC's namespace."""
        return topology.vpc_namespace(self.lab, "customer")

    @property
    def vpc_file(self) -> str:
        """Its file."""
        return str(namespace.path(self.vpc))

    def environment_file(self, number: int) -> str:
        """The file of an environment's namespace; environments are counted from 1."""
        return str(namespace.path(topology.environment_namespace(self.lab, number)))

    def flush(self) -> None:
        """Forget all flows, where it can be asked to; the others wait for their timeouts."""
        return

    def held(self) -> int:
        """Flows it holds at the moment, where it can tell."""
        raise NotImplementedError

    def diagnosis(self) -> str:
        """What it has to say about losses, if anything."""
        return ""
