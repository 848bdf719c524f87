# SPDX-License-Identifier: Apache-2.0
"""CloudWatch's metrics of the lab: the figures that it serves to Prometheus, by AWS's names."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import generate_latest

from hyperplane_nat.aws import metrics
from hyperplane_nat.aws.errors import AwsError
from hyperplane_nat.metrics.cloudwatch import CLOUDWATCH, NODES, NodeFigures, TargetCount
from hyperplane_nat.metrics.collector import registry
from tests.aws.support import OTHER, Endpoint, Scene, refusal, scene
from tests.aws.test_load_balancers import balancer, forward, group
from tests.test_metrics import snapshot

Show = Callable[..., None]


@pytest.fixture
def found(endpoint: Endpoint) -> Scene:
    return scene(endpoint)


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    """`show(nodes=..., ...)`: what the lab serves from now on."""
    monkeypatch.setattr(metrics, "READ_SECONDS", 0.0)

    def served(**fields: Any) -> None:
        shown = replace(snapshot(), **fields)
        text = generate_latest(registry(lambda: shown)).decode()
        monkeypatch.setattr(metrics, "fetched", lambda _url: text)

    return served


@pytest.fixture(autouse=True)
def _forgotten(endpoint: Endpoint) -> None:
    """Figures of former tests are not of this one: gone with the accounts that they were of."""
    endpoint.lab.kept.figures.clear()
    endpoint.lab.kept.read.clear()


def name_of_vpc(endpoint: Endpoint, key: str) -> str:
    return endpoint.region.region.tables.vpcs[key].name


def sums(
    endpoint: Endpoint, namespace: str, name: str, stat: str = "Sum", **of: str
) -> list[float]:
    """One statistic of a metric, by the minute; GetMetricData answers the same."""
    minute = int(time.time()) // 60
    cloudwatch = endpoint.client("cloudwatch")
    dimensions = [{"Name": key, "Value": value} for key, value in of.items()]
    now = datetime.now(UTC)
    asked = {"StartTime": now - timedelta(minutes=5), "EndTime": now + timedelta(seconds=1)}
    points = cloudwatch.get_metric_statistics(
        Namespace=namespace,
        MetricName=name,
        Dimensions=dimensions,
        Period=60,
        Statistics=[stat],
        **asked,
    )["Datapoints"]
    metric = {"Namespace": namespace, "MetricName": name, "Dimensions": dimensions}
    (same,) = cloudwatch.get_metric_data(
        MetricDataQueries=[
            {"Id": "m", "MetricStat": {"Metric": metric, "Period": 60, "Stat": stat}}
        ],
        ScanBy="TimestampAscending",
        **asked,
    )["MetricDataResults"]
    if int(time.time()) // 60 != minute:
        # Each request has the lab's figures read, and the second one in a minute of its own.
        return sums(endpoint, namespace, name, stat, **of)
    assert same["StatusCode"] == "Complete"
    assert (same["Timestamps"], same["Values"]) == (
        [each["Timestamp"] for each in points],
        [each[stat] for each in points],
    )
    return [each[stat] for each in points]


def test_a_load_balancer_by_zone_and_in_sums(endpoint: Endpoint, found: Scene, show: Show) -> None:
    arn, web = balancer(endpoint, found), group(endpoint, found)
    endpoint.client("elbv2").create_listener(
        LoadBalancerArn=arn, Protocol="TCP", Port=80, DefaultActions=forward(web)
    )
    vpc = name_of_vpc(endpoint, found.vpc)
    front = {"LoadBalancer": arn.partition("loadbalancer/")[2]}
    of_group = {**front, "TargetGroup": web.rpartition(":")[2]}

    def pass_flows(tcp: int, udp: int, active: int) -> None:
        nodes = [
            NodeFigures(
                f"{vpc}/front",
                zone,
                {each.counter: 0 for each in NODES}
                | {"new_flows_tcp": tcp, "new_flows_udp": udp, "active_flows": active}
                | {"active_flows_udp": udp},
            )
            for zone in ("a", "b")
        ]
        targets = [TargetCount(f"{vpc}/front", f"{vpc}/web", "a", healthy=2, unhealthy=1)]
        show(nodes=nodes, targets=targets)

    elb = "AWS/NetworkELB"
    pass_flows(3, 1, 2)
    assert sum(sums(endpoint, elb, "NewFlowCount_TCP", **front)) == 6
    pass_flows(5, 1, 4)
    assert sum(sums(endpoint, elb, "NewFlowCount_TCP", **front)) == 10
    assert sum(sums(endpoint, elb, "NewFlowCount", **front)) == 12
    zone = {"AvailabilityZone": "us-east-1b"}
    assert sum(sums(endpoint, elb, "NewFlowCount_UDP", **front, **zone)) == 1
    assert max(sums(endpoint, elb, "ActiveFlowCount", "Maximum", **front)) == 8
    assert max(sums(endpoint, elb, "ActiveFlowCount_UDP", "Maximum", **front)) == 2
    assert set(sums(endpoint, elb, "HealthyHostCount", "Minimum", **of_group)) == {2}
    assert set(sums(endpoint, elb, "UnHealthyHostCount", "Average", **of_group)) == {1}
    # A metric has the dimensions that it has.
    assert sums(endpoint, elb, "NewFlowCount_TCP") == []
    listed = endpoint.client("cloudwatch").list_metrics(
        Namespace=elb, MetricName="ActiveFlowCount", Dimensions=[{"Name": "LoadBalancer"}]
    )["Metrics"]
    assert [len(each["Dimensions"]) for each in listed] == [2, 2, 1]
    others = endpoint.client("cloudwatch", OTHER).list_metrics(Namespace=elb)["Metrics"]
    assert others == []


def test_nat_gateways_and_functions(endpoint: Endpoint, found: Scene, show: Show) -> None:
    (gateway,) = endpoint.client("ec2").describe_nat_gateways()["NatGateways"]
    interface = gateway["NatGatewayAddresses"][0]["NetworkInterfaceId"]
    figures = {each.aws: 0.0 for each in CLOUDWATCH}
    show(
        interfaces={interface: figures | {"ErrorPortAllocation": 4.0, "PeakBytesPerSecond": 70.0}},
        invocations={("fetch", "cold"): 1, ("fetch", "warm"): 2, ("other", "cold"): 9},
    )
    nat = {"NatGatewayId": found.nat}
    assert sum(sums(endpoint, "AWS/NATGateway", "ErrorPortAllocation", **nat)) == 4
    assert max(sums(endpoint, "AWS/NATGateway", "PeakBytesPerSecond", "Maximum", **nat)) == 70
    assert sum(sums(endpoint, "AWS/Lambda", "Invocations", FunctionName="fetch")) == 3
    assert sum(sums(endpoint, "AWS/Lambda", "Invocations")) == 3
    assert sums(endpoint, "AWS/Lambda", "Invocations", FunctionName="other") == []


def test_what_others_put_is_theirs(endpoint: Endpoint, found: Scene, show: Show) -> None:
    show()
    cloudwatch = endpoint.client("cloudwatch")
    name = f"m{time.time_ns()}"
    cloudwatch.put_metric_data(Namespace="own", MetricData=[{"MetricName": name, "Value": 7.0}])
    now = datetime.now(UTC)
    (point,) = cloudwatch.get_metric_statistics(
        Namespace="own",
        MetricName=name,
        StartTime=now - timedelta(minutes=5),
        EndTime=now + timedelta(seconds=2),
        Period=60,
        Statistics=["Sum"],
    )["Datapoints"]
    assert point["Sum"] == 7
    for namespace in ({}, {"Namespace": "own"}):
        listed = cloudwatch.list_metrics(MetricName=name, **namespace)["Metrics"]
        assert [each["Namespace"] for each in listed] == ["own"]


def test_wrong_calls(endpoint: Endpoint, found: Scene, show: Show) -> None:
    show()
    cloudwatch, now = endpoint.client("cloudwatch"), datetime.now(UTC)
    good: dict[str, Any] = {
        "Namespace": "AWS/NetworkELB",
        "MetricName": "ActiveFlowCount",
        "StartTime": now - timedelta(hours=1),
        "EndTime": now,
        "Period": 60,
        "Statistics": ["Sum"],
    }
    for changes, code in (
        ({"Period": 30}, "InvalidParameterValue"),
        ({"EndTime": now - timedelta(hours=2)}, "InvalidParameterValue"),
        ({"StartTime": now - timedelta(days=9)}, "InvalidParameterCombination"),
        ({"Statistics": []}, "MissingParameter"),
        ({"MetricName": None}, "MissingParameter"),
        ({"EndTime": None}, "MissingParameter"),
        ({"ExtendedStatistics": ["p99"]}, "UnsupportedOperation"),
    ):
        said = {name: value for name, value in {**good, **changes}.items() if value is not None}
        assert refusal(cloudwatch.get_metric_statistics, **said)[0] == code, changes
    metric = {"Namespace": "AWS/NetworkELB", "MetricName": "ActiveFlowCount"}
    stat = {"Metric": metric, "Period": 60, "Stat": "Sum"}
    mixed = [{"Id": "a", "MetricStat": stat}, {"Id": "b", "Expression": "a * 2"}]
    times = {"StartTime": good["StartTime"], "EndTime": now}
    code, *_ = refusal(cloudwatch.get_metric_data, MetricDataQueries=mixed, **times)
    assert code == "UnsupportedOperation"
    percentile = [{"Id": "a", "MetricStat": {**stat, "Stat": "p99"}}]
    code, *_ = refusal(cloudwatch.get_metric_data, MetricDataQueries=percentile, **times)
    assert code == "UnsupportedOperation"
    assert cloudwatch.get_metric_statistics(**good, Unit="Bytes")["Datapoints"] == []


def test_a_lab_that_serves_no_figures_is_an_error(endpoint: Endpoint, found: Scene) -> None:
    with pytest.raises(AwsError) as caught:
        metrics.fetched("http://127.0.0.1:1/metrics")
    assert caught.value.code == "InternalServiceError"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"Period": 0}, "InvalidParameterValue"),
        ({"Period": -60}, "InvalidParameterValue"),
        ({"Period": None}, "MissingParameter"),
        ({"StartTime": None}, "MissingParameter"),
        ({"StartTime": 0, "Period": 1}, "InvalidParameterCombination"),
    ],
)
def test_what_others_have_put_is_counted_in_periods_that_end(
    endpoint: Endpoint, changes: dict[str, Any], code: str
) -> None:
    asked = {"Period": 60, "StartTime": 1_700_000_000, "EndTime": 1_700_000_600, **changes}
    times = {name: value for name, value in asked.items() if value is not None}
    metric = {"Namespace": "App", "MetricName": "m"}
    client = endpoint.client("cloudwatch")
    said = refusal(client.get_metric_statistics, **metric, **times, Statistics=["Sum"])
    assert said[0] == code
    period = {"Period": times.pop("Period")} if "Period" in times else {}
    query = {"Id": "a", "MetricStat": {"Metric": metric, "Stat": "Sum", **period}}
    assert refusal(client.get_metric_data, MetricDataQueries=[query], **times)[0] == code
