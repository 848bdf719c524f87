# SPDX-License-Identifier: Apache-2.0
"""Ids look like AWS's."""

from __future__ import annotations

import re

from hyperplane_nat.model.identifiers import (
    account_id,
    link_name,
    resource_id,
    seeded_hex,
    system_hex,
    uuid,
)


def test_resource_ids() -> None:
    assert re.fullmatch(r"eni-[0-9a-f]{17}", resource_id("eni", system_hex))
    assert resource_id("vpc", seeded_hex(7)) == resource_id("vpc", seeded_hex(7))
    assert resource_id("vpc", seeded_hex(7)) != resource_id("vpc", seeded_hex(8))


def test_uuids_and_accounts() -> None:
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", uuid(system_hex))
    assert all(re.fullmatch(r"[1-9][0-9]{11}", account_id(system_hex)) for _ in range(100))


def test_link_names_fit() -> None:
    assert len(link_name(resource_id("eni", system_hex))) == 15
