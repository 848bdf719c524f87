# SPDX-License-Identifier: Apache-2.0
"""The cost of a hit: one tiny round with real packets, and nothing left after it."""

from __future__ import annotations

import shutil

import pytest

from bench import flow_cache
from bench.processes import PACKAGES
from hyperplane_nat.flow_cache import probe
from netns import namespace
from tests.conftest import in_ci


@pytest.mark.live
def test_a_round_of_all_contenders() -> None:
    if shutil.which("nft") is None and not in_ci():
        pytest.skip(f"nft is not installed (apt-get install {PACKAGES['nft']})")
    if lacking := probe.missing():
        pytest.skip("; ".join(map(str, lacking)))
    others = set(namespace.names("hp-bench-"))
    found = flow_cache.run(1, 0.1)
    assert list(found) == ["direct", "nft", "flow cache", "flow cache, by the near end"]
    for name, (cost,) in found.items():
        assert cost.nanoseconds > 100, name
        assert cost.arrived > 0.9, name
        assert cost.rate > 1000, name
    assert set(namespace.names("hp-bench-")) <= others


def test_without_root_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert flow_cache.main(["--rounds", "1"]) == 2
    assert capsys.readouterr().err == "bench: namespaces need root (run it with sudo)\n"


def test_nothing_to_measure_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        flow_cache.main(["--rounds", "0"])
    assert caught.value.code == 2
    assert "a round at least" in capsys.readouterr().err
