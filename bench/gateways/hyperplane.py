# SPDX-License-Identifier: Apache-2.0
"""hyperplane-nat as a user runs it: `up` and `down`, defaults throughout."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import addresses, kernel_lab, processes
from bench.errors import BenchError
from bench.gateways.base import Gateway, Options
from hyperplane_nat.client import Client, ClientError
from netns import links, topology

START_SECONDS = 120.0
DIRECTORY_PREFIX = "hyperplane-nat-bench-"
"""Of the temporary directories with a lab's configuration and its runtime directory."""


SUBNET = f"""
[[vpc.subnet]]
name = "private-a"
cidr = "{addresses.SUBNET_CIDR}"
"""


def configuration(lab: str, runtime_directory: Path, options: Options, *, vpc: str = SUBNET) -> str:
    """The lab's TOML: what differs from the defaults, and a VPC without servers of its own.

    `vpc` is what is in the VPC, a subnet "private-a" at least.
    """
    return f"""\
[lab]
name = "{lab}"
environments = {options.environments}
runtime_directory = "{runtime_directory}"

[flows]
max = {options.flows_max}

[timeouts]
udp_seconds = {options.udp_seconds}
time_scale = {60 if options.flow_logs else 1}

[ports]
hold_seconds = {options.hold_seconds}
limit_per_interface = 0

[metrics]
port = 0

[[vpc]]
name = "customer"
cidr = "{addresses.VPC_CIDR}"
{vpc}
[[network_interface]]
name = "{addresses.INTERFACE}"
subnet = "private-a"
address = "{addresses.INTERFACE_ADDRESS}"
{_FLOW_LOGS if options.flow_logs else ""}"""


_FLOW_LOGS = """
[flow_logs]
enabled = true
aggregation_seconds = 60
"""


def rules(count: int) -> list[dict[str, Any]]:
    """So many rules, all different: networks and port ranges that overlap, and the black hole."""
    others = [
        {
            "protocol": "udp",
            "cidr": f"10.0.{128 + number // 4}.{64 * (number % 4)}/26",
            "first": 1024 + 7 * number,
            "last": 30000 + 11 * number,
        }
        for number in range(count - 1)
    ]
    through = {"cidr": f"{addresses.BLACK_HOLE}/32", "first": 0, "last": 65535}
    return [*others, {"protocol": "udp", **through}]


class HyperplaneNat(Gateway):
    """The real daemon, controller and all."""

    name = "hyperplane-nat"
    holds_flows = True
    remark = "the daemon as `hyperplane-nat up` starts it, default ring, batch and budget"

    def start(self, stack: contextlib.ExitStack) -> None:
        """`up`, and `down` at the end; the VPC gets the server's address."""
        self.directory = Path(tempfile.mkdtemp(prefix=DIRECTORY_PREFIX))
        stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        runtime = self.directory / "run"
        file = self.directory / "lab.toml"
        file.write_text(self.configured(runtime), encoding="utf-8")
        # Before `up`: a start that is interrupted may have got far.
        stack.callback(self._down)
        up = self.command("up", "--config", str(file), *self.settings())
        processes.run(up, "hyperplane-nat up", seconds=START_SECONDS)
        with kernel_lab.route_in(self.vpc) as route:
            message = links.address(links.LOOPBACK_INDEX, addresses.SERVER, 32)
            route.request([message], f"cannot add {addresses.SERVER}")
        if self.options.rules:
            self._restrict(self.options.rules)

    def configured(self, runtime_directory: Path) -> str:
        """The lab's file."""
        return configuration(self.lab, runtime_directory, self.options)

    def settings(self) -> list[str]:
        """What `up` is told besides."""
        return []

    def _restrict(self, count: int) -> None:
        """Give the interface so many egress rules, of which one lets the load through."""
        with kernel_lab.route_in(topology.gateway_namespace(self.lab)) as route:
            link = links.existing(route, addresses.INTERFACE)
        item = {
            "number": 0,
            "name": addresses.INTERFACE,
            "ifindex": link.index,
            "address": addresses.INTERFACE_ADDRESS,
            "mac": link.mac,
            "subnet": addresses.SUBNET_CIDR,
            "router": addresses.VPC_ROUTER,
            "destinations": [addresses.VPC_CIDR],
            "egress": rules(count),
        }
        request = {"id": 1, "command": "configure", "arguments": {"interfaces": [item]}}
        with socket.socket(socket.AF_UNIX) as endpoint:
            endpoint.settimeout(START_SECONDS)
            endpoint.connect(str(self.directory / "run" / self.lab / "forwarder.sock"))
            endpoint.sendall(json.dumps(request).encode() + b"\n")
            with endpoint.makefile() as lines:
                answer = next(each for line in lines if "id" in (each := json.loads(line)))
        if not answer["ok"]:
            raise BenchError(f"hyperplane-nat: the rules were refused: {answer.get('error')}")

    def interpreter(self) -> list[str]:
        """What runs the build that is measured."""
        return [sys.executable]

    def command(self, *arguments: str) -> list[str]:
        """The command line of a `hyperplane-nat` that means this lab."""
        return [
            *(*self.interpreter(), "-m", "hyperplane_nat.cli", "--lab", self.lab),
            *("--runtime-directory", str(self.directory / "run"), *arguments),
        ]

    def _down(self) -> None:
        processes.run(self.command("down"), "hyperplane-nat down", seconds=START_SECONDS)

    def status(self) -> dict[str, Any]:
        """What the control API says of itself."""
        result = self.asked("/v1/status")
        if not isinstance(result, dict):
            raise BenchError("hyperplane-nat: the control API answered something unexpected")
        return result

    @property
    def client(self) -> Client:
        """Its control API."""
        return Client(self.lab, runtime_directory=self.directory / "run")

    def asked(self, path: str) -> Any:
        """What the control API answers there."""
        try:
            return self.client.get(path)
        except ClientError as error:
            raise BenchError(f"hyperplane-nat: {error}") from None

    def held(self) -> int:
        """Active flows."""
        flows = self.status()["flows"]
        return int(flows["tcp"]) + int(flows["udp"]) + int(flows["icmp"])

    def diagnosis(self) -> str:
        """Where its losses were: the drop counters that are not zero."""
        counters = self.status().get("counters", {})
        lost = {
            name: value
            for name, value in counters.items()
            if value and (name.startswith("drop_") or name in ("ring_dropped", "transmit_full"))
        }
        return ", ".join(f"{name} {value}" for name, value in sorted(lost.items()))


_WHO = """\
import os, hyperplane_nat
print(hyperplane_nat.__version__)
print(os.path.dirname(hyperplane_nat.__file__))
"""


class CacheOn(HyperplaneNat):
    """The same with the flow cache; without it is `HyperplaneNat`."""

    name = "cache on"
    remark = "the same with forwarder.flow_cache"

    def settings(self) -> list[str]:
        """With the flow cache, and room for so many flows."""
        flows = self.options.flow_cache_flows
        room = ["--set", f"forwarder.flow_cache_flows={flows}"] if flows else []
        return ["--set", "forwarder.flow_cache=true", *room]

    def start(self, stack: contextlib.ExitStack) -> None:
        """The same; BenchError where the kernel lacks something for it."""
        super().start(stack)
        cache = self.status()["forwarder"]["flow_cache"]
        if cache is None or cache["problem"]:
            raise BenchError(f"{self.name}: the lab does without the flow cache (see doctor)")


class OtherBuild(HyperplaneNat):
    """Another build of it, by the interpreter of the environment in which that is installed."""

    name = "other build"

    def __init__(self, options: Options, python: Path) -> None:
        super().__init__(options)
        self._python = python

    def interpreter(self) -> list[str]:
        """As a command that finds the modules of that environment and no others."""
        return isolated(self._python)


def isolated(python: Path) -> list[str]:
    """A command line that runs an interpreter so that it, and what it starts, import its own.

    Neither this tree, when it is the working directory, nor what PYTHONPATH names is seen.
    """
    # Not resolved: an environment is known by the link through which its interpreter is called.
    return [
        *("env", "--chdir=/", "--unset=PYTHONPATH", "--unset=PYTHONHOME", "PYTHONSAFEPATH=1"),
        str(python.absolute()),
    ]


@dataclass(frozen=True, slots=True)
class Build:
    """Which build it is."""

    version: str
    directory: str
    """Of its package."""


def build_of(interpreter: list[str]) -> Build:
    """The build that an interpreter's command imports; BenchError when there is none."""
    lines = processes.run([*interpreter, "-c", _WHO], interpreter[-1]).splitlines()
    if len(lines) != 2:
        raise BenchError(f"{interpreter[-1]}: said {lines!r} instead of its version and directory")
    return Build(*lines)
