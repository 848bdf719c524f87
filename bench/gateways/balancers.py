# SPDX-License-Identifier: Apache-2.0
"""Other load balancers on layer 4: nftables, haproxy, and nginx with its module `stream`.

All stand where the kernel's NAT stands otherwise, at `addresses.BALANCER`, and have one server
behind them, whose ports are the targets. haproxy and nginx end connections and open their own.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from bench import addresses, jobs, kernel_lab, processes
from bench.errors import BenchError
from bench.gateways.base import Gateway
from bench.gateways.nft import RULES, Nft
from bench.listening import listening
from netns import links, namespace, sysctl

START_SECONDS = 10.0
CONNECTION_PORTS = (
    f"{addresses.CONNECTION_PORT}-{addresses.CONNECTION_PORT + addresses.BALANCED_PORTS - 1}"
)
_FIRST_UDP_PORT = addresses.UDP_PORT + 1
_TARGETS = ", ".join(
    f"{number} : {addresses.BLACK_HOLE} . {_FIRST_UDP_PORT + number}"
    for number in range(addresses.BALANCED_TARGETS)
)
DNAT = f"""\
table ip balancer {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    ip daddr {addresses.BALANCER} udp dport {_FIRST_UDP_PORT} \
dnat ip to jhash ip saddr . udp sport mod {addresses.BALANCED_TARGETS} map {{ {_TARGETS} }}
    ip daddr {addresses.BALANCER} ip protocol tcp dnat to {addresses.SERVER}
  }}
}}
"""
_SETTINGS = {"core/somaxconn": "65535", "ipv4/ip_local_port_range": "1024 65535"}


class NftBalancer(Nft):
    """`dnat` by a map of `jhash`, and `masquerade random`."""

    rules = DNAT + RULES
    remark = "nft dnat to jhash map and masquerade random, limits as in the other workloads"


class Proxy(Gateway):
    """A process in a namespace that does not forward."""

    def start(self, stack: contextlib.ExitStack) -> None:
        """Build, give the gateway the balancer's address, and start the program."""
        kernel_lab.build_vpc(self.lab)
        gateway = kernel_lab.build_gateway(self.lab, forward=False)
        kernel_lab.create_environments(self.lab, self.options.environments)
        numbers = range(1, self.options.environments + 1)
        kernel_lab.connect_environments(self.lab, gateway, numbers)
        with kernel_lab.route_in(gateway) as route:
            message = links.address(links.LOOPBACK_INDEX, addresses.BALANCER, 32)
            route.request([message], f"cannot add {addresses.BALANCER}")
        namespace.call(gateway, _write, _SETTINGS)
        directory = Path(tempfile.mkdtemp(prefix="hyperplane-nat-bench-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        job = jobs.Execute(namespace=str(namespace.path(gateway)), command=self.command(directory))
        process = stack.enter_context(processes.Process(processes.worker_command(job), self.name))

        def ready() -> bool:
            if process.popen.poll() is not None:
                raise BenchError(f"{self.name} ended: {process.errors()}")
            file = "/proc/thread-self/net/tcp"
            return namespace.call(gateway, listening, file, addresses.IPERF_PORT)

        processes.wait_for(ready, START_SECONDS, f"{self.name} does not listen")

    def command(self, directory: Path) -> list[str]:
        """Write its configuration there; how it is started in the foreground."""
        raise NotImplementedError


def _write(settings: Mapping[str, str]) -> None:
    with sysctl.Writer() as writer:
        writer.write(dict(settings))


class Haproxy(Proxy):
    """haproxy in TCP mode."""

    name = "haproxy"
    tools = ("haproxy",)
    remark = "mode tcp, as many threads as processors, its default"
    configuration: ClassVar[str] = f"""\
global
  maxconn 8000
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen balanced
  bind {addresses.BALANCER}:{addresses.IPERF_PORT}
  bind {addresses.BALANCER}:{CONNECTION_PORTS}
  server target {addresses.SERVER}
"""

    def command(self, directory: Path) -> list[str]:
        """One process in the foreground."""
        file = directory / "haproxy.cfg"
        file.write_text(self.configuration, encoding="utf-8")
        return ["haproxy", "-db", "-f", str(file)]


class NginxStream(Proxy):
    """nginx with `stream`."""

    name = "nginx"
    tools = ("nginx",)
    remark = "stream, as many processes as processors (worker_processes auto)"
    configuration: ClassVar[str] = f"""\
include /etc/nginx/modules-enabled/*-mod-stream.conf;
daemon off;
worker_processes auto;
pid DIRECTORY/nginx.pid;
error_log DIRECTORY/error.log;
events {{ worker_connections 8192; }}
stream {{
  server {{
    listen {addresses.BALANCER}:{addresses.IPERF_PORT} backlog=8192;
    listen {addresses.BALANCER}:{CONNECTION_PORTS} backlog=8192;
    proxy_pass {addresses.SERVER}:$server_port;
  }}
}}
"""

    def command(self, directory: Path) -> list[str]:
        """One master in the foreground."""
        file = directory / "nginx.conf"
        text = self.configuration.replace("DIRECTORY", str(directory))
        file.write_text(text, encoding="utf-8")
        return ["nginx", "-c", str(file)]


OTHERS: Mapping[str, type[Gateway]] = {
    each.name: each for each in (NftBalancer, Haproxy, NginxStream)
}
"""In the order of the report."""
