# SPDX-License-Identifier: Apache-2.0
"""One tiny round with real packets, and nothing left after it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.application import app
from bench.processes import PACKAGES
from hyperplane_nat.flow_cache import probe
from netns import namespace
from tests.conftest import in_ci

ROOT = Path(__file__).parents[2]
LIMITS = Path("/proc/sys/net/netfilter/nf_conntrack_max")


@pytest.mark.live
def test_udp_round_of_ours_and_nft(tmp_path: Path) -> None:
    if shutil.which("nft") is None and not in_ci():
        pytest.skip(f"nft is not installed (apt-get install {PACKAGES['nft']})")
    before = LIMITS.read_text() if LIMITS.exists() else None
    arguments = ["udp", "--brief", "--rounds", "1", "-c", "nft", "--results", str(tmp_path)]
    contenders = ["hyperplane-nat", "nft"]
    if not probe.missing():
        contenders.append("cache on")
        arguments += ["-c", "cache on"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "latest.json").read_text())
    assert document["skipped"] == {}, document["skipped"]
    # Every flow was answered before the load.
    assert not [text for text in document["warnings"] if "no answer" in text]
    names = [entry["name"] for entry in document["workloads"]]
    assert names == ["udp_64b_1_sender", "udp_64b_2_senders"]
    for entry in document["workloads"]:
        for contender in contenders:
            assert entry["results"][contender]["median"] > 1000, entry
        assert entry["ratio_to_nft"] > 0
        assert entry["met"] is not None
    assert list(tmp_path.glob("*.html"))
    assert namespace.names("hp-bench-") == []
    if before is not None:
        assert LIMITS.read_text() == before


@pytest.mark.live
def test_a_round_against_another_build(tmp_path: Path) -> None:
    """The other one is a copy, which notes which of its modules were imported."""
    packages = tmp_path / "packages"
    for name in ("hyperplane_nat", "netns"):
        shutil.copytree(
            ROOT / name, packages / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyx")
        )
    for name in ("forwarder", "controller"):
        module = packages / "hyperplane_nat" / name / "__main__.py"
        first = "from __future__ import annotations\n"
        text = module.read_text()
        assert first in text
        note = f"open({str(tmp_path / name)!r}, 'w').close()\n"
        module.write_text(text.replace(first, first + note, 1))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexport PYTHONPATH={packages}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    arguments = ["against", "--python", str(python), "--rounds", "1", "--json", "udp"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["other"]["directory"] == str(packages / "hyperplane_nat")
    names = [entry["name"] for entry in document["comparisons"]]
    assert names == ["udp_64b_1_sender", "udp_64b_2_senders"]
    for entry in document["comparisons"]:
        assert entry["ratio"] > 0
        assert entry["interval"] is None
        assert min(*entry["ours"]["runs"], *entry["other"]["runs"]) > 1000
    assert (tmp_path / "forwarder").exists()
    assert (tmp_path / "controller").exists()
    assert namespace.names("hp-bench-") == []
