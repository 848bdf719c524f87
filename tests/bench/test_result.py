# SPDX-License-Identifier: Apache-2.0
"""Medians, ratios and verdicts."""

from __future__ import annotations

import pytest

from bench import gateways, targets
from bench.result import Summary, quotient
from tests.bench.figures import add, measured


def test_median_of_an_odd_and_an_even_number_of_runs() -> None:
    assert Summary((5.0, 1.0, 2.0)).median == 2.0
    assert Summary((4.0, 1.0, 2.0, 3.0)).median == 2.5


def test_a_summary_tells_the_lowest_and_the_highest_run() -> None:
    summary = Summary((5.0, 1.0, 2.0))
    assert summary.document() == {"median": 2.0, "min": 1.0, "max": 5.0, "runs": [5.0, 1.0, 2.0]}


def test_no_runs_have_no_summary() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        Summary(())


@pytest.mark.parametrize(("value", "base"), [(None, 1.0), (1.0, None), (1.0, 0.0)])
def test_no_ratio_without_both_numbers(value: float | None, base: float | None) -> None:
    assert quotient(value, base) is None


def test_a_target_against_nft_compares_medians() -> None:
    found = measured(hyperplane_nat=[9.0, 13.0, 12.0], nft=[10.0, 10.0, 1.0])
    (check,) = targets.checks(found.all()[0], found)
    assert check.value == pytest.approx(1.2)
    assert check.met
    assert check.text == "≥ 1.20 × nft"


def test_a_missed_target_is_missed() -> None:
    found = measured(hyperplane_nat=[11.9], nft=[10.0])
    checks = targets.checks(found.all()[0], found)
    assert targets.met(checks) is False


def test_two_senders_must_keep_up_with_nft_and_with_one_sender() -> None:
    found = measured("udp_64b_1_sender", hyperplane_nat=[100.0], nft=[80.0])
    add(found, "udp_64b_2_senders", hyperplane_nat=[70.0], nft=[100.0])
    to_nft, to_own = targets.checks(found.all()[1], found)
    assert to_nft.met
    assert not to_own.met
    assert to_own.value == pytest.approx(0.7)


def test_a_comparison_with_what_was_not_measured_is_left_out() -> None:
    found = measured("scale_1000_environments", hyperplane_nat=[70.0])
    assert targets.checks(found.all()[0], found) == []
    assert targets.met([]) is None


def test_a_latency_target_is_met_from_below() -> None:
    found = measured("latency_p50", hyperplane_nat=[20.0], nft=[25.0])
    found.all()[0].higher_is_better = False
    (check,) = targets.checks(found.all()[0], found)
    assert check.met
    assert check.text == "≤ 1.00 × nft"


@pytest.mark.parametrize(("better", "ahead"), [(True, True), (False, False)])
def test_user_mode_must_be_behind_wherever_it_runs(better: bool, ahead: bool) -> None:
    found = measured("anything", hyperplane_nat=[2.0], pasta=[1.0], slirp4netns=[1.0])
    found.all()[0].higher_is_better = better
    checks = targets.checks(found.all()[0], found)
    assert [check.text for check in checks] == ["ahead of slirp4netns", "ahead of pasta"]
    assert targets.met(checks) is ahead


def test_a_fixed_target_needs_no_other_contender() -> None:
    found = measured("flow_table_bytes_per_flow", hyperplane_nat=[122.6])
    (check,) = targets.checks(found.all()[0], found)
    assert check.met
    assert check.threshold == 144


def test_another_contender_in_the_same_workload() -> None:
    found = measured("services_tcp_1_balancer", hyperplane_nat=[6.0], haproxy=[4.0])
    (check,) = targets.checks(found.all()[0], found)
    assert (check.text, check.value, check.met) == ("≥ 2.00 × haproxy", 1.5, False)


def test_every_target_names_workloads_that_exist() -> None:
    from bench.workloads import flow_table, latency, new_flows, scale, services, tcp, udp

    known = {case.name for case in udp.CASES} | {case.name for case in tcp.CASES}
    known |= {f"new_udp_flows_{word}" for word in new_flows.COUNTS}
    known |= {f"new_udp_flows_{word}_{new_flows.RULES}_rules" for word in new_flows.COUNTS}
    known |= {f"scale_{scale.word(count)}" for count in (1, 10, 100, 1000)}
    known |= {f"flow_table_hit_{word}" for word in flow_table.SIZES}
    known |= {f"flow_table_batch_hit_{word}" for word in flow_table.SIZES}
    known |= {
        f"{prefix}_{part}"
        for prefix in ("latency", "latency_idle", "latency_scraped", "latency_watched")
        for part in latency.PARTS.values()
    }
    known |= {"tcp_connect_request_close", "udp_1k_flows", "udp_1m_flows"}
    known |= {"flow_table_bytes_per_flow"}
    known |= {"flood_tcp_kept", "flood_tcp_full_rate_kept", "flood_p99"}
    known |= {"observed_off", "observed_flow_logs", "observed_capture"}
    known |= {"listing_1m_seconds", "listing_1m_memory"}
    kinds = ("udp", "connections", *(f"tcp_{each}" for each in services.STREAMS))
    known |= {f"services_{kind}_{way}" for kind in kinds for way in services.TITLES}
    known |= {"services_crowd_file", "services_crowd_api", "services_endpoints_file"}
    known |= {"services_bytes_per_flow"}
    mentioned = set(targets.TARGETS)
    everything = [each for own in targets.TARGETS.values() for each in own]
    mentioned |= {each.other for each in everything if each.base == "own"}
    assert {each.other for each in everything if each.base == "other"} <= set(gateways.REPORTED)
    assert mentioned <= known
