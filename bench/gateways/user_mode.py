# SPDX-License-Identifier: Apache-2.0
"""slirp4netns and pasta: a process per environment that ends its connections and opens its own.

Both run inside the gateway namespace, whose kernel knows no NAT: the sockets they open there reach
the VPC from the interface's address. Both get the largest MTU they take (TCP segments of 64 KiB,
where the others have GSO), which is what their users get as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from bench import addresses, jobs, kernel_lab, processes
from bench.errors import BenchError
from bench.gateways.base import Gateway, Options
from netns import links, namespace, topology
from netns.netlink import RouteSocket

MTU_BYTES = 65520
START_SECONDS = 10.0
_LINK = "eth0"


def slirp4netns_command(environment_file: str) -> list[str]:
    """slirp4netns for a namespace that exists."""
    return [
        *("slirp4netns", "--configure", f"--mtu={MTU_BYTES}", "--disable-dns"),
        *("--netns-type=path", environment_file, _LINK),
    ]


def pasta_command() -> list[str]:
    """Pasta with a namespace of its own, held by a process that does nothing."""
    nothing = [option for kind in "tuTU" for option in (f"-{kind}", "none")]
    link = kernel_lab.Link.number(1)
    return [
        *("pasta", "--foreground", "--quiet", "--config-net", "--ipv4-only", "--no-map-gw"),
        *("--no-dhcp", "--no-ndp", "--no-ra", *nothing),
        *("--interface", addresses.INTERFACE, "--ns-ifname", _LINK, "--mtu", str(MTU_BYTES)),
        *("--address", link.environment, "--netmask", "30", "--gateway", link.gateway),
        *("--", "sleep", "infinity"),
    ]


class UserMode(Gateway):
    """What the two have in common."""

    environments_max = 16

    def start(self, stack: contextlib.ExitStack) -> None:
        """A gateway without forwarding, and one process for each environment."""
        kernel_lab.build_vpc(self.lab)
        gateway = kernel_lab.build_gateway(self.lab, forward=False)
        file = str(namespace.path(gateway))
        for number in range(1, self.options.environments + 1):
            self.attach(stack, file, number)

    def attach(self, stack: contextlib.ExitStack, gateway_file: str, number: int) -> None:
        """Start the process for one environment and wait until its link is up."""
        raise NotImplementedError


class Slirp4netns(UserMode):
    """slirp4netns as root, which it supports."""

    name = "slirp4netns"
    tools = ("slirp4netns",)
    remark = f"one process per environment, MTU {MTU_BYTES}"

    def start(self, stack: contextlib.ExitStack) -> None:
        """It joins environments that exist."""
        kernel_lab.create_environments(self.lab, self.options.environments)
        super().start(stack)

    def attach(self, stack: contextlib.ExitStack, gateway_file: str, number: int) -> None:
        """It is ready when the link it makes has an address."""
        command = slirp4netns_command(self.environment_file(number))
        job = jobs.Execute(namespace=gateway_file, command=command)
        process = stack.enter_context(
            processes.Process(processes.worker_command(job), "slirp4netns")
        )
        name = topology.environment_namespace(self.lab, number)

        def configured() -> bool:
            if process.popen.poll() is not None:
                raise BenchError(f"slirp4netns ended: {process.errors()}")
            return namespace.call(name, has_default_route)

        processes.wait_for(configured, START_SECONDS, "slirp4netns did not configure its link")


class Pasta(UserMode):
    """pasta as an ordinary user: as root it refuses to, or drops to nobody by itself."""

    name = "pasta"
    tools = ("pasta", "setpriv")
    remark = f"as user nobody, one process per environment, MTU {MTU_BYTES}"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._files: dict[int, str] = {}

    def attach(self, stack: contextlib.ExitStack, gateway_file: str, number: int) -> None:
        """It makes a namespace for its child; that child's is the environment."""
        job = jobs.Execute(namespace=gateway_file, command=pasta_command(), ordinary_user=True)
        process = stack.enter_context(processes.Process(processes.worker_command(job), "pasta"))
        child = self._child(process)
        holder = os.pidfd_open(child)
        stack.callback(end, holder)
        self._files[number] = f"/proc/{child}/ns/net"

        def configured() -> bool:
            if process.popen.poll() is not None:
                raise BenchError(f"pasta ended: {process.errors()}")
            routes = Path(f"/proc/{child}/net/route").read_text()
            return any(line.split()[1] == "00000000" for line in routes.splitlines()[1:])

        processes.wait_for(configured, START_SECONDS, "pasta did not configure its link")

    @staticmethod
    def _child(process: processes.Process) -> int:
        deadline = time.monotonic() + START_SECONDS
        pid = process.popen.pid
        while time.monotonic() < deadline:
            if process.popen.poll() is not None:
                raise BenchError(f"pasta cannot run as an ordinary user here: {process.errors()}")
            with contextlib.suppress(OSError, ValueError, IndexError):
                child = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
                if Path(f"/proc/{child}/comm").read_text().strip() == "sleep":
                    return child
            time.sleep(0.01)
        raise BenchError("pasta: its child did not start (are user namespaces allowed?)")

    def environment_file(self, number: int) -> str:
        """The namespace of its child."""
        return self._files[number]


def has_default_route() -> bool:
    """Whether the calling thread's namespace has one."""
    with RouteSocket() as route:
        return any(each.destination == "0.0.0.0/0" for each in links.routes(route))


def end(descriptor: int) -> None:
    """Kill the process behind a descriptor, if it still runs, and close it."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    os.close(descriptor)
