# SPDX-License-Identifier: Apache-2.0
"""The drop behind the tap: where it stands among other filters."""

from __future__ import annotations

import json

import pytest

from netns import ingress, links, namespace
from netns.interior import created, route_socket
from tests.live.lab import run

pytestmark = pytest.mark.live


def priorities(where: str) -> list[int]:
    """Those of the filters at the loopback's ingress."""
    text = run(where, "tc", "-j", "filter", "show", "dev", "lo", "ingress").stdout
    return sorted({each["pref"] for each in json.loads(text) if "options" in each})


def test_a_former_version_s_drop_is_put_behind_others(
    lab: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with created([lab], {}):
        pass
    try:
        with route_socket(lab) as route:
            ingress.put_behind(route, [links.LOOPBACK_INDEX])
            with monkeypatch.context() as former:
                former.setattr(ingress, "PRIORITY", 1)
                ingress.drop(route, [links.LOOPBACK_INDEX])
            assert priorities(lab) == [1]
            for _ in range(2):
                ingress.put_behind(route, [links.LOOPBACK_INDEX])
                assert priorities(lab) == [2]
                assert ingress.missing(route, [links.LOOPBACK_INDEX]) == []
    finally:
        namespace.delete([lab])
