# SPDX-License-Identifier: Apache-2.0
"""A lab drawn by a seed to trace in, what listens in it, and packets that are really sent.

Theory of operation
-------------------
Route tables of subnets, groups, their rules, who has which of them, public addresses, and who
listens where are drawn; what there is of each kind is not, so that every kind of obstacle is met.
Functions have an environment each, which nobody uses: the test's sockets are opened in its
namespace.

What counts as an answer: a connection that is accepted, a datagram that comes back, an echo reply.
A datagram is a DNS query, which resolvers answer and echo servers send back. All packets of a batch
are under way at once; who is said to be reached is waited for longer than who is not.
"""

from __future__ import annotations

import contextlib
import errno
import random
import select
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dns.message

from netns import namespace, sockets, topology
from tests.live.lab import Lab, wait_until
from tests.live.trace_listeners import PORTS, Listeners

SITE, CLOCK = "198.51.100.80", "198.51.100.81"
WEB, GUARDED, ECHO = "10.0.9.80", "10.0.9.81", "10.0.9.82"
NODE = "10.0.5.100"
ENDPOINTS = "10.0.5.200", "10.0.0.200"
"""In the balancer's VPC, and in another."""
LISTENERS = {
    80: ("TCP", "single"),
    81: ("TCP", "many"),
    53: ("UDP", "datagrams"),
    5432: ("TCP", "router"),
}
"""Of the balancer: protocol and target group by port."""
TABLES = ("main", "public", "private", "private", "audit", "astray")
SUBNETS = ("a", "b", "c", "d")
GROUPS = ("g0", "g1", "g2", "g3")
HOSTS = 8
FUNCTIONS = 5

PATIENCE_SECONDS, IMPATIENCE_SECONDS = 30.0, 1.5
AGAIN_SECONDS = 0.4

Where = tuple[str, str, int]
"""Protocol, address, and port, 0 for ICMP."""


def toml(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {toml(each)}" for name, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else f'"{value}"'


def section(name: str, fields: dict[str, Any]) -> str:
    return "\n".join([f"[[{name}]]", *(f"{key} = {toml(each)}" for key, each in fields.items())])


@dataclass(frozen=True)
class Pair:
    """Who sends what to whom."""

    source: str
    """As `trace` takes it."""
    namespace: str
    target: str
    """An address or a name."""
    protocol: str
    port: int

    @property
    def query(self) -> dict[str, object]:
        """Of GET /v1/trace."""
        port = None if self.protocol == "icmp" else self.port
        return {
            "source": self.source,
            "target": self.target,
            "protocol": self.protocol,
            "port": port,
        }


def rule_of(permission: dict[str, Any]) -> dict[str, Any]:
    """A rule of a group as requests have it."""
    protocol = permission["IpProtocol"].replace("-1", "all")
    fields: dict[str, Any] = {"protocol": protocol}
    if protocol in ("tcp", "udp"):
        fields["ports"] = f"{permission['FromPort']}-{permission['ToPort']}"
    if permission.get("IpRanges"):
        return fields | {"cidr": permission["IpRanges"][0]["CidrIp"]}
    return fields | {"group": permission["UserIdGroupPairs"][0]["GroupId"]}


class Draft:
    """What a seed draws before the lab is there."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def rule(self, *, ingress: bool) -> dict[str, Any]:
        draw = self.random
        protocol = draw.choice(("tcp", "tcp", "udp", "icmp", "all"))
        fields: dict[str, Any] = {"protocol": protocol}
        if protocol in ("tcp", "udp"):
            first, last = sorted((draw.choice(PORTS), draw.choice(PORTS)))
            fields["ports"] = str(first) if draw.random() < 0.4 else f"{first}-{last}"
        if draw.random() < 0.4:
            fields["group"] = draw.choice(GROUPS)
        else:
            networks = ["0.0.0.0/0", "10.0.0.0/16", "10.0.9.0/24", f"10.0.{draw.randrange(4)}.0/24"]
            networks += ["192.0.2.0/24"] if ingress else ["198.51.100.0/24", "10.0.9.80/31"]
            fields["cidr"] = draw.choice(networks)
        return fields

    def group(self, name: str) -> dict[str, Any]:
        draw = self.random
        ingress = [self.rule(ingress=True) for _ in range(draw.randint(1, 5))]
        if draw.random() < 0.5:
            ingress.append({"protocol": "all", "cidr": "10.0.0.0/16"})
        fields: dict[str, Any] = {"name": name, "ingress": ingress}
        if draw.random() < 0.3:
            fields["egress"] = [self.rule(ingress=False) for _ in range(draw.randint(2, 6))]
        return fields

    def acl(self, name: str, subnets: list[str]) -> dict[str, Any]:
        """Ports from which answers are drawn are allowed or denied as a whole: else it would depend
        on the draw.
        """
        draw = self.random
        fields: dict[str, Any] = {"name": name, "subnets": subnets}
        for direction in ("ingress", "egress"):
            rules = [self.acl_rule(10 + each) for each in range(draw.randint(1, 3))]
            if draw.random() < 0.9:
                whole = {"protocol": draw.choice(("tcp", "udp")), "ports": "1024-65535"}
                rules.append({"rule": 50, "action": "allow", "cidr": "0.0.0.0/0"} | whole)
            if draw.random() < 0.9:
                rules.append({"rule": 100, "action": "allow", "cidr": "0.0.0.0/0"})
            draw.shuffle(rules)
            fields[direction] = rules
        return fields

    def acl_rule(self, number: int) -> dict[str, Any]:
        draw = self.random
        protocol = draw.choice(("tcp", "udp", "icmp", "all"))
        networks = ("0.0.0.0/0", "10.0.0.0/16", "198.51.100.0/24", "10.0.9.80/31")
        fields: dict[str, Any] = {
            "rule": number,
            "action": draw.choice(("allow", "deny", "deny")),
            "protocol": protocol,
            "cidr": draw.choice((*networks, *(f"10.0.{net}.0/24" for net in (0, 1, 2, 3, 8)))),
        }
        if protocol in ("tcp", "udp"):
            first, last = sorted(draw.choice([port for port in PORTS if port < 1024]) for _ in "ab")
            fields["ports"] = draw.choice((f"{first}-{last}", str(first)))
        if protocol == "icmp" and draw.random() < 0.5:
            fields["icmp_type"] = draw.choice((0, 8))
        return fields

    def balancer(self) -> dict[str, Any]:
        return {
            "name": "front",
            "security_groups": self.groups(0),
            "node": [{"subnet": "balancers", "address": NODE}],
            "listener": [
                {"protocol": protocol, "port": port, "target_group": group}
                for port, (protocol, group) in LISTENERS.items()
            ],
        }

    def endpoint(self, name: str, subnet: str, address: str) -> dict[str, Any]:
        groups = self.groups(0) if subnet == "balancers" else []
        place = {"subnet": subnet, "address": address}
        return {
            "name": name,
            "service": "shop/front",
            "security_groups": groups,
            "node": [place],
        }

    def target_group(
        self, name: str, protocol: str, port: int, hosts: Sequence[str]
    ) -> dict[str, Any]:
        targets = [{"host": each} for each in self.random.sample(hosts, self.random.randint(1, 2))]
        group = {"name": name, "protocol": protocol, "port": port, "target": targets}
        return group | {"minimum_healthy": 9}

    def acls(self) -> list[dict[str, Any]]:
        """One of several subnets, one of one, and now and then another default one."""
        draw = self.random
        named = draw.sample((*SUBNETS, "gateways", "router", "balancers"), 3)
        found = [self.acl("two", named[:2]), self.acl("one", named[2:])]
        if draw.random() < 0.2:
            found.append(self.acl("rest", []) | {"default": True})
        return found

    def groups(self, least: int) -> list[str]:
        return sorted(self.random.sample(GROUPS, self.random.randint(least, 2)))

    def table(self, name: str, subnets: list[str], *routes: dict[str, Any]) -> dict[str, Any]:
        return {"name": name, "subnets": subnets, "routes": list(routes)}

    def internet(self, name: str, kind: str, address: str, port: int, service: str) -> str:
        fields = {"name": name, "kind": kind, "address": address, "port": port}
        return section("internet", fields | {"aws_service": service})

    def gateway_endpoint(self, name: str, service: str) -> dict[str, Any]:
        tables = sorted(set(TABLES) - {"main"})
        named = self.random.sample(tables, self.random.randint(0, 2))
        return {
            "name": name,
            "service": f"com.amazonaws.us-east-1.{service}",
            "route_tables": named,
        }

    def toml(self) -> str:
        draw, anywhere = self.random, "0.0.0.0/0"
        chosen = {each: draw.choice(TABLES) for each in SUBNETS}
        # One of each way out there is at any rate.
        chosen |= dict(zip(draw.sample(SUBNETS, 2), ("public", "private"), strict=True))

        def having(name: str) -> list[str]:
            return [each for each, table in chosen.items() if table == name]

        services = {"name": "router", "cidr": "10.0.9.0/24"}
        shop: dict[str, Any] = {
            "name": "shop",
            "cidr": "10.0.0.0/16",
            "internet_gateway": True,
            "enable_dns_hostnames": draw.random() < 0.5,
            "subnet": [
                *({"name": each, "cidr": f"10.0.{n}.0/24"} for n, each in enumerate(SUBNETS)),
                {"name": "gateways", "cidr": "10.0.8.0/24"},
                {"name": "nowhere", "cidr": "10.0.7.0/24"},
                {"name": "balancers", "cidr": "10.0.5.0/24"},
                services,
            ],
            "security_group": [self.group(each) for each in GROUPS],
            "nat_gateway": [
                {"name": "out", "subnet": "gateways", "elastic_addresses": ["203.0.113.10"]},
                {"name": "inside", "subnet": "gateways", "connectivity": "private"},
                {"name": "lost", "subnet": "nowhere", "elastic_addresses": ["203.0.113.11"]},
            ],
            "route_table": [
                self.table(
                    "public",
                    [*having("public"), "gateways"],
                    {"destination": anywhere, "internet_gateway": True},
                ),
                self.table(
                    "private",
                    having("private"),
                    {"destination": anywhere, "nat_gateway": "out"},
                    {"destination": f"{CLOCK}/32", "nat_gateway": "inside"},
                    {"destination": "192.0.2.192/26", "host": "h0"},
                ),
                self.table(
                    "audit", having("audit"), {"destination": anywhere, "nat_gateway": "inside"}
                ),
                self.table(
                    "astray", having("astray"), {"destination": anywhere, "nat_gateway": "lost"}
                ),
            ],
            "network_acl": self.acls(),
            "load_balancer": [self.balancer()],
            "endpoint_service": [
                {"name": "front", "load_balancer": "front", "acceptance_required": False}
            ],
            "endpoint": [self.endpoint("inner", "balancers", ENDPOINTS[0])],
            "gateway_endpoint": [
                self.gateway_endpoint("store", "s3"),
                self.gateway_endpoint("items", "dynamodb"),
            ],
            "target_group": [
                {"name": "single", "port": 8080, "target": [{"host": "h1"}]},
                # With fewer healthy ones than that all are used: none depends on a check's time.
                self.target_group("many", "TCP", 80, ("h1", "h2", "h3")),
                self.target_group("datagrams", "UDP", 53, ("h1", "h4")),
                {"name": "router", "type": "ip", "port": 80, "target": [{"address": WEB}]},
            ],
            "host": [self.host(number) for number in range(HOSTS)],
            "service": [
                {"name": "web", "kind": "http", "address": WEB, "port": 80},
                {"name": "echo", "kind": "udp-echo", "address": ECHO, "port": 7},
                {
                    "name": "guarded",
                    "kind": "http",
                    "address": GUARDED,
                    "port": 80,
                    "security_groups": self.groups(1),
                },
                {"name": "on-host", "kind": "http", "host": "h1", "port": 8080},
            ],
        }
        other = {
            "name": "other",
            "cidr": "10.0.0.0/16",
            "enable_dns_support": False,
            "subnet": [{"name": "o", "cidr": "10.0.0.0/24"}],
            "security_group": [{"name": "all"}],
            "endpoint": [self.endpoint("outer", "o", ENDPOINTS[1])],
            "host": [
                {"name": "x0", "subnet": "o", "address": "10.0.0.20"},
                {"name": "x1", "subnet": "o", "address": "10.0.0.99"},
            ],
        }
        functions = [
            {
                "name": f"f{number}",
                "vpc": "shop",
                "subnets": [draw.choice(SUBNETS)],
                "security_groups": self.groups(1),
                "networking": "interface-per-environment" if number == 0 else "hyperplane",
            }
            for number in range(FUNCTIONS)
        ]
        functions += [
            {"name": "hook", "networking": "none"},
            {"name": "abroad", "vpc": "other", "subnets": ["o"], "security_groups": ["all"]},
        ]
        return "\n".join(
            [
                "[lifecycle]\ntime_scale = 1000.0\nwarm_idle_seconds = 1e6\n[pool]\nsize = 10",
                f"[lambda]\nicmp = {toml(draw.random() < 0.5)}",
                self.internet("site", "http", SITE, 80, "s3"),
                self.internet("clock", "udp-echo", CLOCK, 7, "dynamodb"),
                section("vpc", shop),
                section("vpc", other),
                *(section("function", each) for each in functions),
            ]
        )

    def host(self, number: int) -> dict[str, Any]:
        draw = self.random
        fields: dict[str, Any] = {
            "name": f"h{number}",
            "subnet": draw.choice(SUBNETS),
            "security_groups": self.groups(0),
        }
        if draw.random() < 0.5:
            fields["public_address"] = True
        return fields


@dataclass
class Shot:
    """A packet that is under way, or has arrived or not."""

    pair: Pair
    address: str
    deadline: float
    socket: socket.socket
    answered: bool | None = None
    last: float = 0.0

    def go(self, now: float) -> None:
        """Send, or send again."""
        self.last = now
        if self.pair.protocol == "udp":
            query = dns.message.make_query("trace.internal", "A").to_wire()
            with contextlib.suppress(OSError):
                self.socket.sendto(query, (self.address, self.pair.port))
        elif self.pair.protocol == "icmp":
            with contextlib.suppress(OSError):
                self.socket.sendto(sockets.echo_request(1, 1, b"x"), (self.address, 0))

    def look(self) -> None:
        """See what has come."""
        if self.pair.protocol == "tcp":
            error = self.socket.connect_ex((self.address, self.pair.port))
            if error in (0, errno.EISCONN):
                self.answered = True
            elif error not in (errno.EINPROGRESS, errno.EALREADY):
                self.answered = False
            return
        try:
            if self.socket.recvfrom(2048)[1][0] == self.address:
                self.answered = True
        except BlockingIOError:
            return
        except OSError:
            self.answered = False


def shoot(pairs: Sequence[tuple[Pair, str, bool]]) -> list[bool]:
    """Whether each pair's address answers; with whether that is expected, for patience."""
    with contextlib.ExitStack() as stack:
        shots: list[Shot] = []
        now = time.monotonic()
        for pair, address, expected in pairs:
            kind: Any = "ping" if pair.protocol == "icmp" else pair.protocol
            opened = stack.enter_context(sockets.open_one(pair.namespace, kind))
            deadline = now + (PATIENCE_SECONDS if expected else IMPATIENCE_SECONDS)
            shots.append(Shot(pair, address, deadline, opened))
        while waiting := [each for each in shots if each.answered is None]:
            now = time.monotonic()
            for each in waiting:
                if now - each.last > AGAIN_SECONDS:
                    each.go(now)
                each.look()
                if each.answered is None and now > each.deadline:
                    each.answered = False
            select.select([], [], [], 0.005)
        return [bool(each.answered) for each in shots]


class World:
    """The lab of a seed, up."""

    def __init__(self, lab: Lab, draft: Draft) -> None:
        self.lab, self._draft, self._draw = lab, draft, draft.random
        lab.cli("wait", "--timeout", "60")
        wait_until(lambda: len(self._serving()) == 3, "all NAT gateways serve")
        wait_until(
            lambda: [row["State"] for row in lab.rows("load-balancers")] == ["active"],
            "the load balancer is active",
        )
        wait_until(
            lambda: {row["State"] for row in lab.rows("endpoints")} == {"Available"},
            "the endpoints are available",
        )
        for row in lab.rows("functions"):
            lab.client.post(f"/v1/functions/{row['FunctionName']}/provision", {"count": 1})
        hosts, environments = lab.rows("hosts"), lab.rows("environments")
        self.sources = {
            f"{row['VpcName']}/{row['HostName']}": topology.host_namespace(lab.name, row["Number"])
            for row in hosts
        }
        self._own = {
            f"{row['VpcName']}/{row['HostName']}": row["PrivateIpAddress"] for row in hosts
        }
        for row in environments:
            if row["state"] != "pooled":
                name = row["name"] if self._draw.random() < 0.5 else row["function"] or row["name"]
                self.sources[name] = row["namespace"]
        self._others = [
            *(row["address"] for row in lab.rows("interfaces")),
            *(row["PublicIpAddress"] for row in hosts if row["PublicIpAddress"]),
            *("10.0.0.1", "10.0.0.2", "10.0.9.1", "10.0.2.77", "169.254.169.253"),
            *("198.51.100.99", "203.0.113.10", "192.0.2.200", "192.0.2.1", "8.8.8.8"),
            "169.254.100.1",
        ]
        self._likely = [*(row["PrivateIpAddress"] for row in hosts), WEB, GUARDED, ECHO]
        self._likely += [SITE, CLOCK, NODE, *ENDPOINTS] * 3
        self._names = [
            *(f"{row['HostName']}.{row['VpcName']}.internal" for row in hosts),
            *("front.shop.internal", "inner.shop.internal"),
            *("site", "clock.internet.internal", "web.shop.internal", "nobody.internal"),
            "ip-10-0-9-80.ec2.internal",
        ]
        self.places: list[tuple[str, Sequence[str]]] = [
            (self.sources[name], (address,)) for name, address in self._own.items()
        ]
        self.places += [
            (lab.vpc_namespace("shop"), (WEB, GUARDED, ECHO, "10.0.0.1", "10.0.0.2")),
            (lab.vpc_namespace("internet"), (SITE, CLOCK)),
        ]

    def _serving(self) -> set[str]:
        """NAT gateways that packets pass."""
        return {
            row["NatGatewayName"]
            for row in self.lab.rows("nat-gateways")
            if row["State"] in ("available", "deleting")
        }

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Servers of the test meanwhile."""
        with contextlib.closing(Listeners(self._draw, self.places)):
            yield

    def change(self) -> None:
        """A NAT gateway, a host and the rules of a group go, a rule comes, a network ACL is another
        subnet's and has another rule first.
        """
        lab, gateway = self.lab, self._draw.choice(("out", "inside"))
        lab.client.delete(f"/v1/nat-gateways/shop%2F{gateway}")
        wait_until(lambda: gateway not in self._serving(), f"NAT gateway {gateway} is gone")
        name = self._draw.choice(GROUPS)
        (group,) = (row for row in lab.rows("security-groups") if row["GroupName"] == name)
        if group["IpPermissions"]:
            revoked = {"revoke_ingress": [rule_of(each) for each in group["IpPermissions"]]}
            lab.client.patch(f"/v1/security-groups/{group['GroupId']}", revoked)
        rule = {"protocol": "all", "cidr": f"10.0.{self._draw.randrange(4)}.0/24"}
        lab.client.patch(f"/v1/security-groups/{group['GroupId']}", {"authorize_ingress": [rule]})
        rule = self._draft.acl_rule(5) | {"egress": self._draw.random() < 0.5}
        changed = {"create_entries": [rule], "associate": [self._draw.choice(SUBNETS)]}
        lab.client.patch("/v1/network-acls/shop%2Fone", changed)
        gone = f"shop/h{self._draw.randrange(2, HOSTS)}"
        lab.client.delete(f"/v1/hosts/{gone.replace('/', '%2F')}")
        del self.sources[gone]

    def pairs(self, count: int) -> list[Pair]:
        """Drawn, so many."""
        found: list[Pair] = []
        names = sorted(self.sources)
        while len(found) < count:
            source = self._draw.choice(names)
            targets = (self._likely, self._likely, self._likely, self._others, self._names)
            target = self._draw.choice(self._draw.choice(targets))
            vpc, _, host = source.partition("/")
            # No packet leaves it.
            if target in (self._own.get(source), f"{host}.{vpc}.internal"):
                continue
            protocol = self._draw.choice(("tcp", "tcp", "udp", "udp", "icmp"))
            port = 0 if protocol == "icmp" else self._draw.choice(PORTS)
            if target in (NODE, *ENDPOINTS) and self._draw.random() < 0.7:
                # One of any would seldom have a listener.
                port = self._draw.choice(list(LISTENERS))
                protocol = LISTENERS[port][0].lower()
            found.append(Pair(source, self.sources[source], target, protocol, port))
        return found

    def resolved(self, pair: Pair, *, expected: bool) -> str | None:
        """What the resolver answers the source of a pair for its target; an answer that is expected
        is waited for longer.
        """
        if pair.target[0].isdigit():
            return pair.target
        query = dns.message.make_query(pair.target, "A")
        opened = namespace.call(pair.namespace, socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        with opened:
            opened.settimeout(AGAIN_SECONDS)
            deadline = time.monotonic() + (PATIENCE_SECONDS if expected else IMPATIENCE_SECONDS)
            while time.monotonic() < deadline:
                try:
                    opened.sendto(query.to_wire(), ("169.254.169.253", 53))
                    answer = dns.message.from_wire(opened.recv(2048))
                except OSError:
                    # Also when nothing can be sent from there, which is known at once.
                    time.sleep(0.01)
                    continue
                records = [item.to_text() for rrset in answer.answer for item in rrset]
                return records[0] if records else None
        return None
