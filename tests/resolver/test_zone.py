# SPDX-License-Identifier: Apache-2.0
"""What a resolver knows, and how it is told."""

from __future__ import annotations

import os
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from hyperplane_nat.resolver.zone import Zone, ZoneFile, write

NETWORK = IPv4Network("10.0.0.0/16")
STORE = {"store.customer.internal": "10.0.1.54"}


def test_names_have_addresses_and_addresses_have_names() -> None:
    zone = Zone(NETWORK, {**STORE, "db.customer.internal": "10.0.1.54", "api": "203.0.113.9"})
    assert zone.address("store.customer.internal") == "10.0.1.54"
    assert zone.pointers("54.1.0.10.in-addr.arpa") == [
        "store.customer.internal",
        "db.customer.internal",
    ]
    assert zone.pointers("9.113.0.203.in-addr.arpa") == ["api"]
    assert zone.pointers("store.customer.internal") == []
    assert zone.address("store.other.internal") is None


def test_what_is_above_a_name_exists_and_has_nothing() -> None:
    zone = Zone(NETWORK, STORE)
    assert [
        zone.exists(name)
        for name in ("customer.internal", "internal", "other.internal", "omer.internal")
    ] == [True, True, False, False]
    assert zone.address("customer.internal") is None


@pytest.mark.parametrize("domain", ["eu-west-1.compute.internal", "internal"])
def test_private_names_are_those_of_the_networks_addresses(domain: str) -> None:
    zone = Zone(NETWORK, {}, hostnames=True, domain="eu-west-1.compute.internal")
    assert zone.address(f"ip-10-0-1-80.{domain}") == "10.0.1.80"
    for wrong in ("ip-10-1-1-80", "ip-10-0-1-080", "ip-10-0-1-256", "ip-10-0-1", "ip-10-0-1-80-1"):
        assert zone.address(f"{wrong}.{domain}") is None
    assert zone.address("ip-10-0-1-80.ec2.internal") is None
    assert zone.pointers("80.1.0.10.in-addr.arpa") == ["ip-10-0-1-80.eu-west-1.compute.internal"]
    assert zone.pointers("80.1.1.10.in-addr.arpa") == []
    without = Zone(NETWORK, {}, domain="eu-west-1.compute.internal")
    assert without.address(f"ip-10-0-1-80.{domain}") is None
    assert without.pointers("80.1.0.10.in-addr.arpa") == []


def test_nobody_else_is_asked_about_the_labs_own_names() -> None:
    zone = Zone(NETWORK, {"api": "203.0.113.9"})
    for own in ("a.customer.internal", "internal", "api", "9.9.0.10.in-addr.arpa"):
        assert zone.owns(own)
    for others in ("example.com", "internal.example.com", "8.8.8.8.in-addr.arpa", "x.api"):
        assert not zone.owns(others)


def test_a_file_is_believed_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "names"
    write(path, Zone(NETWORK, STORE))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        file = ZoneFile(descriptor)
        assert file.zone == Zone(NETWORK, STORE)
        # As long as before, and at once: no time stamp tells it apart.
        other = Zone(NETWORK, {"store.customer.internal": "10.0.1.55"}, True, "x")
        write(path, other)
        assert file.zone == other
        content = path.read_bytes()
        os.truncate(path, len(content) - 3)
        with path.open("r+b") as half:
            half.write(b"0" * 64)
        assert file.zone == other
        write(path, Zone(NETWORK))
        assert file.zone == Zone(NETWORK)
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.close(descriptor)


def test_an_empty_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "names").touch()
    descriptor = os.open(tmp_path / "names", os.O_RDONLY)
    try:
        with pytest.raises(ValueError, match="half-written"):
            ZoneFile(descriptor)
    finally:
        os.close(descriptor)
