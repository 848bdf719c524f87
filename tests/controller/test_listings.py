# SPDX-License-Identifier: Apache-2.0
"""Lists are what the region holds, and are made once for as long as it holds the same."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hyperplane_nat.controller.listings import Listings
from hyperplane_nat.model.description import describe_functions, describe_vpcs
from hyperplane_nat.model.region import Region
from tests.model.support import Scene, function


def test_a_list_is_made_again_when_something_has_changed() -> None:
    scene, asked = Scene(function("orders")), []
    listings = Listings(scene.region)

    def describe(region: Region) -> list[dict[str, Any]]:
        asked.append(region)
        return describe_functions(region)

    def listed() -> Any:
        return json.loads(asyncio.run(listings.encoded(describe)))

    assert [row["State"] for row in listed()] == ["Pending"]
    assert listed() == describe_functions(scene.region)
    assert len(asked) == 1
    scene.active()
    assert [row["State"] for row in listed()] == ["Active"]
    scene.run("orders")
    assert listed() == describe_functions(scene.region)
    assert len(asked) == 3
    vpcs = json.loads(asyncio.run(listings.encoded(describe_vpcs)))
    assert vpcs == describe_vpcs(scene.region)
