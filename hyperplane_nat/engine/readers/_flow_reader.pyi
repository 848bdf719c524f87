# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterable, Mapping
from mmap import mmap

class FlowScan:
    """One walk through the flows of a map.

    ``names`` are those of the interfaces by number, ``hosts`` of the hosts; what is not given is
    not asked for.  ``sort`` is one of age, idle, packets_out, bytes_out, packets_in, bytes_in,
    packets, bytes, environment, remote, inside_port, nat_port, the largest first unless
    ``reverse``, and needs a limit.

    A flow of a host has no slot and no environment but ``host``, its name, or null where the router
    of the VPC or somebody in the internet began it; its interface is the one between the ends, if
    there is one, and its NAT address is that of its source, or what a public address becomes.
    A flow by a NAT gateway has ``hops``: of an environment's its interface, then the gateway, each
    with the address and port that it has there; its interface is the first.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        *,
        hosts: Mapping[int, str] | None = None,
        slots: Iterable[int] | None = None,
        interfaces: Iterable[int] | None = None,
        protocol: str | None = None,
        state: str | None = None,
        address: str | None = None,
        port: int | None = None,
        min_age_ms: int = 0,
        max_age_ms: int | None = None,
        sort: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> None: ...
    @property
    def done(self) -> bool: ...
    def read(self, memory: mmap, start: int, limit: int, now_ms: int) -> bytes: ...
    def rest(self, limit: int) -> bytes: ...
