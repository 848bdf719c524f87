# SPDX-License-Identifier: Apache-2.0
"""The JSON, the table, the page, the plots."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from bench import cache_targets
from bench.errors import BenchError
from bench.report import document, host, overview, page, plots, table
from bench.session import FULL
from bench.workloads import latency, new_flows, scale, services, tcp, udp
from tests.bench.figures import STARTED, add, built, measured


def test_shape_of_the_json() -> None:
    found = measured(hyperplane_nat=[13.0, 12.0, 14.0], nft=[10.0, 10.0, 10.0])
    result = json.loads(json.dumps(built(found)))
    assert result["host"]["kernel"] == "6.1.0"
    assert result["started"] == "2026-01-31T23:59:58Z"
    assert result["duration_seconds"] == 12.3
    (entry,) = result["workloads"]
    assert entry["name"] == "udp_64b_1_sender"
    assert entry["unit"] == "things/s"
    assert entry["higher_is_better"] is True
    assert entry["results"]["nft"] == {
        "median": 10.0,
        "min": 10.0,
        "max": 10.0,
        "runs": [10.0, 10.0, 10.0],
    }
    assert entry["ratio_to_nft"] == pytest.approx(1.3)
    assert entry["target"] == 1.2
    assert entry["met"] is True


def test_a_workload_without_a_target_has_no_verdict() -> None:
    (entry,) = built(measured("udp_512b_1_sender", hyperplane_nat=[1.0]))["workloads"]
    assert (entry["target"], entry["met"], entry["ratio_to_nft"]) == (None, None, None)


def test_a_measurement_without_runs_is_not_reported() -> None:
    assert built(measured("udp_512b_1_sender"))["workloads"] == []


def test_files_of_a_run_and_the_latest(tmp_path: Path) -> None:
    path = document.write(built(measured(nft=[1.0])), tmp_path / "results", STARTED)
    assert path.name == "20260131T235958Z.json"
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name, "latest.json"]
    assert json.loads(path.read_text()) == json.loads((path.parent / "latest.json").read_text())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1_234_567, "1,230,000"),
        (1234, "1,230"),
        (999.4, "999"),
        (12.345, "12.3"),
        (0.456, "0.46"),
        (0.00048, "0.00048"),
        (0, "0"),
    ],
)
def test_numbers_are_rounded_for_people(value: float, text: str) -> None:
    assert table.number(value) == text


def test_the_table_says_plainly_what_is_missed() -> None:
    found = measured(hyperplane_nat=[11.0, 12.0, 10.0], nft=[10.0])
    add(found, "latency_p50", better=False, hyperplane_nat=[1.0], nft=[2.0], pasta=[0.5])
    console = Console(width=200, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    table.show(built(found), console)
    text = console.export_text()
    assert "MISSED  ≥ 1.20 × nft: 1.10" in text
    assert "met  ≤ 1.00 × nft: 0.50 (stretch 0.60 too)" in text
    assert "MISSED  ahead of pasta: 2.00" in text
    assert "10.0 – 12.0" in text
    assert "left out: pasta: pasta is not installed (apt-get install passt)" in text
    assert "0 of 2 workloads with a target meet it; missed: udp_64b_1_sender, latency_p50" in text


def test_the_page_is_whole_and_escaped(tmp_path: Path) -> None:
    picture = tmp_path / "udp.png"
    picture.write_bytes(b"\x89PNG")
    text = page.build(built(measured(hyperplane_nat=[11.0], nft=[10.0])), {"udp": picture})
    assert "something &lt;odd&gt;" in text
    assert "Example 1 &lt;fast&gt;" in text
    assert 'src="data:image/png;base64,iVBORw=="' in text
    assert "http" not in text.replace("http-equiv", "")


def test_plots_are_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = measured(hyperplane_nat=[11.0, 12.0], nft=[10.0, 9.0])
    add(found, "udp_512b_1_sender", hyperplane_nat=[1.0], direct=[2.0])
    pictures = plots.draw(built(found), tmp_path / "pictures")
    assert list(pictures) == ["udp"]
    assert pictures["udp"].read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(BenchError, match=r"pip install 'hyperplane-nat\[plots\]'"):
        plots.draw(built(measured(nft=[1.0])), tmp_path)


def test_host_is_read_from_what_linux_says() -> None:
    assert host.processor("processor : 0\nmodel name\t: Example CPU 3000\n") == "Example CPU 3000"
    assert host.memory_bytes("MemTotal:  2048 kB\nMemFree: 1 kB\n") == 2048 * 1024
    described = host.describe()
    assert described["processors"] >= 1
    assert set(described["tools"]) == {"iperf3", "nft", "pasta", "slirp4netns"}


def test_what_the_flow_cache_has_to_reach_is_judged_beside() -> None:
    found = measured(hyperplane_nat=[14.0], cache_on=[16.0], nft=[10.0], direct=[25.0])
    add(found, "tcp_2_streams", hyperplane_nat=[10.0], cache_on=[9.0])
    add(found, "latency_udp_p50", better=False, hyperplane_nat=[10.0], cache_on=[11.0])
    first, second, third = built(found)["workloads"]
    assert [(each["text"], each["met"]) for each in first["checks"]] == [
        ("≥ 1.20 × nft", True),
        ("cache on: ≥ 1.45 × nft", True),
        ("cache on: ≥ 0.80 × direct", False),
        ("cache on: ≥ 0.95 × cache off", True),
    ]
    assert [(each["text"], each["met"]) for each in second["checks"]] == [
        ("cache on: ≥ 0.95 × cache off", False)
    ]
    assert [(each["text"], each["met"]) for each in third["checks"]] == [
        ("cache on: ≤ 1.05 × cache off", False)
    ]


def test_workloads_with_a_target_of_the_flow_cache_are_there() -> None:
    """By the names that they are declared with."""
    declared = {each.name for each in udp.CASES} | {each.name for each in tcp.CASES}
    declared |= {f"new_udp_flows_{word}" for word in new_flows.COUNTS}
    declared |= {f"scale_{scale.word(count)}" for count in FULL.environments}
    declared |= {
        f"{prefix}_{part}"
        for prefix in ("latency", *latency.GROUPS)
        for part in latency.PARTS.values()
    }
    kinds = ("udp", *(f"tcp_{each}" for each in services.STREAMS))
    declared |= {f"services_{kind}_{way}" for kind in kinds for way in services.TITLES}
    others = {"tcp_connect_request_close", "udp_1m_flows", "flood_tcp_full_rate_kept"}
    assert cache_targets.TARGETS.keys() <= declared | others


def test_the_page_opens_with_a_picture_of_all_ratios() -> None:
    found = measured(hyperplane_nat=[14.0], cache_on=[20.0], nft=[10.0], direct=[40.0])
    add(found, "latency_p50", better=False, hyperplane_nat=[1.0], nft=[2.0])
    add(found, "alone", hyperplane_nat=[1.0])
    made = built(found)
    entry, latency_entry, _ = made["workloads"]
    assert overview.ratio(entry, "cache on", "direct") == 0.5
    assert overview.ratio(latency_entry, "hyperplane-nat", "nft") == 2
    assert overview.ratio(latency_entry, "cache on", "nft") is None
    assert len(overview.compared(made)) == 2
    text = page.build(made, {})
    assert text.index("<svg") < text.index("<table")
    assert "cache on: 2.00" in text
    assert "cache off: 2.00" in text
    assert overview.draw(built(measured(hyperplane_nat=[1.0]))) == ""


def test_what_is_in_process_comes_last() -> None:
    found = measured("flow_table_hit_1m", hyperplane_nat=[1.0])
    made = built(found)
    made["workloads"][0]["group"] = "flow_table"
    made["workloads"] += built(measured(nft=[1.0]))["workloads"]
    names = [each["name"] for each in page.inner_last(made)["workloads"]]
    assert names == ["udp_64b_1_sender", "flow_table_hit_1m"]
