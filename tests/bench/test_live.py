# SPDX-License-Identifier: Apache-2.0
"""One tiny round with real packets, and nothing left after it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.application import app
from bench.processes import PACKAGES
from netns import namespace
from tests.conftest import in_ci

LIMITS = Path("/proc/sys/net/netfilter/nf_conntrack_max")


@pytest.mark.live
def test_udp_round_of_ours_and_nft(tmp_path: Path) -> None:
    if shutil.which("nft") is None and not in_ci():
        pytest.skip(f"nft is not installed (apt-get install {PACKAGES['nft']})")
    before = LIMITS.read_text() if LIMITS.exists() else None
    arguments = ["udp", "--brief", "--rounds", "1", "-c", "nft", "--results", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "latest.json").read_text())
    assert document["skipped"] == {}, document["skipped"]
    names = [entry["name"] for entry in document["workloads"]]
    assert names == ["udp_64b_1_sender", "udp_64b_2_senders"]
    for entry in document["workloads"]:
        for contender in ("hyperplane-nat", "nft"):
            assert entry["results"][contender]["median"] > 1000, entry
        assert entry["ratio_to_nft"] > 0
        assert entry["met"] is not None
    assert list(tmp_path.glob("*.html"))
    assert namespace.names("hp-bench-") == []
    if before is not None:
        assert LIMITS.read_text() == before
