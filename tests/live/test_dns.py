# SPDX-License-Identifier: Apache-2.0
"""Names: a VPC's resolver is there for all of it, whatever groups say, and knows what there is."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.conftest import Launch
from tests.live.lab import Lab, require_program, run, wait_until
from tests.live.test_crash import kill_controller
from tests.live.test_hosts import apply, scrape

pytestmark = pytest.mark.live

LINK_LOCAL = "169.254.169.253"
BASE_PLUS_2 = "10.0.0.2"

# No group lets anything out or in.
TOML = """
[lambda]
region = "eu-central-1"

[lifecycle]
time_scale = 1000

[[vpc]]
name = "customer"
cidr = "10.0.0.0/16"
enable_dns_hostnames = true
subnet = [{ name = "private-a", cidr = "10.0.1.0/24" }]
security_group = [{ name = "shut", egress = [] }, { name = "open" }]
host = [
  { name = "one", subnet = "private-a", security_groups = ["shut"] },
  { name = "two", subnet = "private-a", security_groups = ["open"] },
  { name = "store", subnet = "private-a", address = "10.0.1.54" },
]
service = [
  { name = "web", kind = "http", address = "10.0.1.80", port = 80 },
  { name = "postgres", kind = "http", host = "store", port = 5432 },
]

[[internet]]
name = "api"
kind = "http"
address = "203.0.113.9"
port = 80

[[function]]
name = "inside"
subnets = ["private-a"]
security_groups = ["shut"]

[[function]]
name = "reader"
subnets = ["private-a"]
security_groups = ["open"]
code = "CODE"
handler = "app.handler"
timeout_seconds = 60

[[function]]
name = "outside"
networking = "none"
"""
RESOLVER = "Resolver/customer"


def dig(*words: str) -> list[str]:
    """Any number of questions; what is behind one is about that."""
    return [require_program("dig", "bind9-dnsutils"), "+time=5", "+tries=4", *words]


def status_of(text: str) -> str:
    return text.partition("status: ")[2].partition(",")[0]


def pid_of(lab: Lab, service: str = RESOLVER) -> int:
    return int(lab.status()["privileges"][service]["pid"])


HANDLER = """
import socket, urllib.request

def handler(event, context):
    with urllib.request.urlopen(event["url"], timeout=30) as answer:
        answer.read()
        return [socket.gethostname(), socket.gethostbyaddr("10.0.1.54")[0], answer.status]
"""
# What a program of any language comes to: getaddrinfo(3), getnameinfo(3).
LOOK_UP = (
    "import socket; "
    "print(socket.getaddrinfo('api', 80, socket.AF_INET)[0][4][0], socket.getfqdn('203.0.113.9'))"
)


@pytest.fixture(scope="module")
def toml(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("code")
    directory.chmod(0o755)
    (directory / "app.py").write_text(HANDLER)
    (directory / "app.py").chmod(0o644)
    return TOML.replace("CODE", str(directory))


@pytest.fixture(scope="module")
def lab(launch_shared: Launch, toml: str) -> Iterator[Lab]:
    made = launch_shared(environments=0, toml=toml)
    made.cli("wait")
    before = Path("/etc/resolv.conf").read_bytes()
    yield made
    assert Path("/etc/resolv.conf").read_bytes() == before


@pytest.mark.requirement("AWS-dns-resolver", profile="both")
def test_all_of_a_vpc_is_answered_at_both_addresses_and_by_both_transports(lab: Lab) -> None:
    questions = [
        word
        for server in (BASE_PLUS_2, LINK_LOCAL)
        for transport in ("+notcp", "+tcp")
        for name in (("store.customer.internal",), ("-x", "10.0.1.80"), ("api",))
        for word in (*name, f"@{server}", transport)
    ]
    for who in (("exec", "one"), ("invoke", "inside")):
        told = lab.cli(*who, "--", *dig("+short", *questions)).stdout.split()
        assert told == 4 * [
            "10.0.1.54",
            "web.customer.internal.",
            "ip-10-0-1-80.eu-central-1.compute.internal.",
            "203.0.113.9",
        ], who
    # The groups hold for all else.
    command = ("curl", "-sS", "-m", "1", "http://10.0.1.54")
    assert lab.cli("exec", "one", "--", *command, check=False).returncode == 28


def test_what_is_not_there_is_said_at_once(lab: Lab) -> None:
    questions = ("no.customer.internal", "example.com", "store.internet.internal")
    told = lab.cli("exec", "one", "--", *dig(f"@{LINK_LOCAL}", *questions, "api", "+norecurse"))
    assert [status_of(each) for each in told.stdout.split("Got answer:")[1:]] == [
        *["NXDOMAIN"] * 3,
        "REFUSED",
    ]


def test_outside_every_vpc_there_are_the_names_of_the_internet(lab: Lab) -> None:
    told = lab.cli(
        "invoke", "outside", "--", *dig(f"@{LINK_LOCAL}", "api", "store.customer.internal")
    )
    first, second = told.stdout.split("Got answer:")[1:]
    assert (status_of(first), "203.0.113.9" in first) == ("NOERROR", True)
    assert status_of(second) == "NXDOMAIN"


def test_programs_and_handlers_reach_each_other_by_name(lab: Lab) -> None:
    url = "http://store.customer.internal:5432/peer"
    told = lab.cli("exec", "two", "--", "curl", "-sSf", "-m", "10", url).stdout
    assert '"address": "10.0.1.' in told
    event = json.dumps({"url": "http://web.customer.internal/"})
    answer = json.loads(lab.cli("invoke", "reader", "--payload", event).stdout)
    assert answer == ["169.254.100.2", "store.customer.internal", 200]
    outside = lab.cli("invoke", "outside", "--", sys.executable, "-c", LOOK_UP).stdout
    assert outside.split() == ["203.0.113.9", "api"]
    url = "http://api.internet.internal/peer"
    assert "192.0.2." in lab.cli("invoke", "outside", "--", "curl", "-sSf", "-m", "10", url).stdout


def test_who_is_of_another_network_is_refused(lab: Lab) -> None:
    # What reaches the router's namespace with an address that the VPC does not have.
    run(lab.vpc, "ip", "address", "add", "198.51.100.7/32", "dev", "lo")
    try:
        told = run(lab.vpc, *dig(f"@{BASE_PLUS_2}", "-b", "198.51.100.7", "api")).stdout
    finally:
        run(lab.vpc, "ip", "address", "del", "198.51.100.7/32", "dev", "lo")
    assert status_of(told) == "REFUSED"


def test_it_outlives_its_controller_and_is_begun_again_when_it_dies(lab: Lab) -> None:
    before = pid_of(lab)
    kill_controller(lab)
    told = run(lab.vpc, *dig(f"@{BASE_PLUS_2}", "+short", "store.customer.internal")).stdout
    assert told == "10.0.1.54\n"
    lab.up()
    assert pid_of(lab) == before
    os.kill(before, signal.SIGKILL)
    again = wait_until(lambda: lab.status()["services"][RESOLVER]["restarts"], "another one")
    assert again == 1
    wait_until(
        lambda: (
            run(lab.vpc, *dig(f"@{BASE_PLUS_2}", "+short", "api"), check=False).stdout
            == "203.0.113.9\n"
        ),
        "an answer",
    )


@pytest.mark.requirement("AWS-dns-attributes", profile="both")
def test_names_follow_the_region_and_attributes_their_vpc(lab: Lab, toml: str) -> None:
    """The last: it changes the lab."""
    before = pid_of(lab)
    more = toml.replace("host = [", 'host = [{ name = "new", subnet = "private-a" },', 1)
    assert apply(lab, more) == [("create", "host", "customer/new")]
    asked = dig(f"@{LINK_LOCAL}", "+short", "new.customer.internal")
    (address,) = lab.cli("exec", "one", "--", *asked).stdout.split()
    assert address.startswith("10.0.1.")
    assert apply(lab, toml) == [("delete", "host", "customer/new")]
    assert lab.cli("exec", "one", "--", *asked).stdout == ""
    # It was told, and not begun again.
    assert pid_of(lab) == before
    counted = [line for line in scrape(lab).splitlines() if "dns_queries" in line]
    assert any('outcome="no_such_name",vpc="customer"' in line for line in counted), counted
    assert lab.client.patch("/v1/vpcs/customer", {"enable_dns_hostnames": False})
    private = dig(f"@{LINK_LOCAL}", "ip-10-0-1-80.eu-central-1.compute.internal")
    assert status_of(lab.cli("exec", "one", "--", *private).stdout) == "NXDOMAIN"
    assert apply(lab, toml.replace("enable_dns_hostnames", "enable_dns_support = false\n#")) == [
        ("change", "vpc", "customer")
    ]
    assert RESOLVER not in lab.status()["services"]
    addresses = run(lab.vpc, "ip", "-br", "address").stdout
    assert BASE_PLUS_2 not in addresses
    assert LINK_LOCAL not in addresses
    drops = lab.drops().get("destination_invalid", 0)
    lab.cli("exec", "one", "--", *dig(f"@{LINK_LOCAL}", "+time=1", "api"), check=False)
    wait_until(lambda: lab.drops().get("destination_invalid", 0) > drops, "a refused question")
