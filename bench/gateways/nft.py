# SPDX-License-Identifier: Apache-2.0
"""The kernel's own NAT: forwarding, connection tracking and `masquerade random` of nftables."""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path
from typing import ClassVar

from bench import addresses, host_settings, jobs, kernel_lab, processes
from bench.errors import BenchError
from bench.gateways.base import Gateway
from netns import namespace, sysctl, topology

RULES = f"""\
table ip bench {{
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    oifname "{addresses.INTERFACE}" masquerade random
  }}
}}
"""

_NETLINK_NETFILTER = 12
_CTNETLINK = 1
_CT_DELETE = 2
_NLM_F_REQUEST = 1
_NLM_F_ACK = 4
_HEADER = struct.Struct("=IHHII")


def flush_request() -> bytes:
    """The netlink message that removes all connections of a namespace."""
    # struct nfgenmsg: IPv4, version 0, no resource.
    body = struct.pack("=BBH", socket.AF_INET, 0, 0)
    kind = _CTNETLINK << 8 | _CT_DELETE
    return _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | _NLM_F_ACK, 1, 0) + body


def flush_here() -> None:
    """Remove all connections of the calling thread's namespace; OSError when it cannot."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
        netlink.settimeout(60)
        netlink.send(flush_request())
        answer = netlink.recv(1 << 16)
    code = -struct.unpack_from("=i", answer, _HEADER.size)[0]
    if code:
        raise OSError(code, "ctnetlink")


def count_here() -> int:
    """Connections of the calling thread's namespace."""
    return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())


class Nft(Gateway):
    """A namespace that forwards and masquerades."""

    name = "nft"
    tools = ("nft",)
    holds_flows = True
    rules: ClassVar[str] = RULES
    remark = (
        "ip_forward and nft masquerade random; nf_conntrack_max and its buckets raised to the "
        "same number of flows, UDP timeouts the same"
    )

    def start(self, stack: contextlib.ExitStack) -> None:
        """Build, load the rules, and let the connection table be as large as ours."""
        count = self.options.environments
        limits = host_settings.neighbours(count)
        stack.enter_context(host_settings.raised(limits))
        kernel_lab.build_vpc(self.lab)
        gateway = kernel_lab.build_gateway(self.lab, forward=True)
        kernel_lab.create_environments(self.lab, count)
        kernel_lab.connect_environments(self.lab, gateway, range(1, count + 1))
        job = jobs.Execute(namespace=str(namespace.path(gateway)), command=["nft", "-f", "-"])
        processes.run(processes.worker_command(job), "nft", text=self.rules)
        # The module is loaded now: its limits can be seen.
        flows = self.options.flows_max + self.options.flows_max // 8
        self.problems = stack.enter_context(
            host_settings.raised(host_settings.connection_tracking(flows))
        )
        timeout = str(self.options.udp_seconds)
        settings = {
            "netfilter/nf_conntrack_udp_timeout": timeout,
            "netfilter/nf_conntrack_udp_timeout_stream": timeout,
        }
        namespace.call(gateway, self._write, settings)
        stack.callback(self._forget)

    @staticmethod
    def _write(settings: dict[str, str]) -> None:
        with sysctl.Writer() as writer:
            writer.write(settings)

    def _forget(self) -> None:
        # Otherwise the kernel frees a million connections behind the back of the next contender.
        with contextlib.suppress(BenchError):
            self.flush()

    def flush(self) -> None:
        """Forget all flows; returns when they are gone."""
        try:
            namespace.call(topology.gateway_namespace(self.lab), flush_here)
        except OSError as error:
            raise BenchError(
                f"nft: cannot empty the connection table: {error.strerror} "
                "(load the module nf_conntrack_netlink)"
            ) from None

    def held(self) -> int:
        """Connections of the gateway's namespace."""
        return namespace.call(topology.gateway_namespace(self.lab), count_here)

    def diagnosis(self) -> str:
        """Limits of the host that could not be raised."""
        return "; ".join(self.problems)
