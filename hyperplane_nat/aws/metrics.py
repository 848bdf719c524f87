# SPDX-License-Identifier: Apache-2.0
"""CloudWatch's metrics of what the lab has: AWS/NetworkELB, AWS/NATGateway and AWS/Lambda.

The lab counts by itself and serves its figures to Prometheus (`hyperplane_nat.metrics`). Whoever
asks CloudWatch has them read first; what a counter has grown by since it was last read is of the
minute in which it is read. Nothing is read by itself. Metrics of other namespaces are whose who
puts them, and moto's.
"""

from __future__ import annotations

import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from hyperplane_nat.aws import functions
from hyperplane_nat.aws.call import NAT_GATEWAY, Call, Operation, Params, Row, operation
from hyperplane_nat.aws.elb import LOAD_BALANCER, TARGET_GROUP
from hyperplane_nat.aws.errors import AwsError, unsupported
from hyperplane_nat.aws.figures import MINUTE, STATISTICS, Aggregate, Series
from hyperplane_nat.aws.filters import page
from hyperplane_nat.metrics.cloudwatch import CLOUDWATCH, NODES
from hyperplane_nat.metrics.families import METRICS

ELB, NAT, LAMBDA = "AWS/NetworkELB", "AWS/NATGateway", "AWS/Lambda"
NAMESPACES = (ELB, NAT, LAMBDA)

DATAPOINTS_MAX = 1440
"""Of one answer (GetMetricStatistics)."""

DATA_MAX = 100_800
"""Of one answer of GetMetricData, of all of its metrics."""

READ_SECONDS = 1.0
"""Figures that are younger are not read again."""

_TIMEOUT_SECONDS = 10.0

Families = Mapping[str, list[tuple[Mapping[str, str], float]]]
"""Labels and values by the names of Prometheus's metrics."""

_EXPORTED = {spec.name: spec.exported for spec in METRICS}


def of_the_lab(name: str, params: Params) -> bool:
    """Whether an operation is about what is read here. UnsupportedOperation for both at once."""
    if name == "ListMetrics":
        return params.get("Namespace") in (None, *NAMESPACES)
    if name == "GetMetricStatistics":
        return params.get("Namespace") in NAMESPACES
    asked = [
        ((each.get("MetricStat") or {}).get("Metric") or {}).get("Namespace") in NAMESPACES
        for each in _queries(params)
    ]
    if any(asked) and not all(asked):
        raise unsupported(
            "Metrics of the lab are asked for without expressions and metrics of others."
        )
    return any(asked)


def check_periods(name: str, params: Params) -> None:
    """Refuse what moto would count periods of without an end, or for minutes.

    MissingParameter, InvalidParameterValue, InvalidParameterCombination.
    """
    if name == "GetMetricStatistics":
        _check_count(_count(params, params.get("Period")), DATAPOINTS_MAX)
    elif name == "GetMetricData":
        asked = [each["MetricStat"] for each in _queries(params) if each.get("MetricStat")]
        _check_count(sum(_count(params, each.get("Period")) for each in asked), DATA_MAX)


def get_metric_statistics(call: Call, params: Params) -> Row:
    """GetMetricStatistics: InvalidParameterValue, InvalidParameterCombination, MissingParameter."""
    series = _series(params)
    statistics = params.get("Statistics") or []
    if params.get("ExtendedStatistics"):
        raise unsupported("Percentiles are not emulated.")
    if not statistics:
        raise AwsError(
            "MissingParameter", "At least one of Statistics and ExtendedStatistics is required"
        )
    for each in statistics:
        _check_statistic(each)
    found = _periods(call, series, params, params.get("Period"))
    if not _is_unit(series, params.get("Unit")):
        found = {}
    return {
        "Label": series.name,
        "Datapoints": [
            {
                "Timestamp": datetime.fromtimestamp(start, UTC),
                "Unit": _unit(series),
                **{name: found[start].statistic(name) for name in statistics},
            }
            for start in sorted(found)
        ],
    }


def get_metric_data(call: Call, params: Params) -> Row:
    """GetMetricData without expressions: ValidationError, InvalidParameterValue."""
    scan = params.get("ScanBy") or "TimestampDescending"
    results = []
    for query in _queries(params):
        asked = query["MetricStat"]
        series = _series(asked["Metric"])
        _check_statistic(asked.get("Stat") or "")
        found = _periods(call, series, params, asked.get("Period"))
        if not _is_unit(series, asked.get("Unit")):
            found = {}
        starts = sorted(found, reverse=scan == "TimestampDescending")
        if query.get("ReturnData") is not False:
            results.append(
                {
                    "Id": query.get("Id"),
                    "Label": query.get("Label") or series.name,
                    "StatusCode": "Complete",
                    "Timestamps": [datetime.fromtimestamp(start, UTC) for start in starts],
                    "Values": [found[start].statistic(asked["Stat"]) for start in starts],
                }
            )
    return {"MetricDataResults": results, "Messages": []}


def list_metrics(call: Call, params: Params) -> Row:
    """ListMetrics; without a namespace those that were put, too."""
    _read(call)
    kept = call.lab.kept
    with kept.lock:
        found = {
            (each.namespace, each.name, tuple(sorted(each.dimensions)))
            for each in kept.figures[call.account].known()
        }
    if params.get("Namespace") is None:
        found |= _put(call)
    wanted = {(each.get("Name"), each.get("Value")) for each in params.get("Dimensions") or ()}
    listed = [
        {
            "Namespace": namespace,
            "MetricName": name,
            "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions],
        }
        for namespace, name, dimensions in sorted(found)
        if params.get("Namespace") in (None, namespace)
        and params.get("MetricName") in (None, name)
        and all(
            any(key == each and said in (None, value) for each, value in dimensions)
            for key, said in wanted
        )
    ]
    return page({**params, "MaxResults": 500}, "Metrics", listed)


def _put(call: Call) -> set[tuple[str, str, tuple[tuple[str, str], ...]]]:
    from moto.cloudwatch.models import cloudwatch_backends

    backend: Any = cloudwatch_backends[call.account][call.lab.region]
    return {
        (each.namespace, each.name, tuple((one.name, one.value) for one in each.dimensions))
        for each in backend.metric_data
    }


# -- what a request says


def _queries(params: Params) -> list[Row]:
    return params.get("MetricDataQueries") or []


def _count(params: Params, period: int | None) -> float:
    """How many periods a request is about. MissingParameter, InvalidParameterValue."""
    for name, value in (
        ("StartTime", params.get("StartTime")),
        ("EndTime", params.get("EndTime")),
        ("Period", period),
    ):
        if value is None:
            raise AwsError("MissingParameter", f"The parameter {name} is required.")
    seconds = int(period or 0)
    if seconds < 1:
        raise AwsError("InvalidParameterValue", f"Period {seconds} is not a positive number")
    return (_seconds(params["EndTime"]) - _seconds(params["StartTime"])) / seconds


def _check_count(count: float, most: int) -> None:
    if count > most:
        raise AwsError(
            "InvalidParameterCombination",
            f"You have requested up to {int(count):,} datapoints, which exceeds the limit of "
            f"{most:,}. You may reduce the datapoints requested by increasing Period, or "
            "decreasing the time range.",
        )


def _series(said: Params) -> Series:
    for name in ("Namespace", "MetricName"):
        if not said.get(name):
            raise AwsError("MissingParameter", f"The parameter {name} is required.")
    dimensions = {
        each.get("Name", ""): each.get("Value", "") for each in said.get("Dimensions") or ()
    }
    return Series(said["Namespace"], said["MetricName"], frozenset(dimensions.items()))


def _check_statistic(name: str) -> None:
    if name not in STATISTICS:
        raise unsupported(f"The statistic {name} is not emulated.")


def _periods(
    call: Call, series: Series, params: Params, period: int | None
) -> dict[int, Aggregate]:
    """What a series was given, by the beginning of periods."""
    count, seconds = _count(params, period), int(period or 0)
    if seconds % MINUTE:
        raise AwsError("InvalidParameterValue", f"Period {seconds} is not a multiple of {MINUTE}")
    # Figures are of whole minutes, and the minute that is not over has some, too.
    first, last = (_seconds(params[name]) for name in ("StartTime", "EndTime"))
    if first >= last:
        raise AwsError(
            "InvalidParameterValue",
            "The parameter StartTime must be less than the parameter EndTime.",
        )
    _check_count(count, DATAPOINTS_MAX)
    _read(call)
    kept = call.lab.kept
    with kept.lock:
        figures = kept.figures[call.account]
        return figures.periods(series, first // MINUTE * MINUTE, last, seconds)


def _seconds(said: Any) -> float:
    return float(said.timestamp()) if isinstance(said, datetime) else float(said)


def _unit(series: Series) -> str:
    if series.name.startswith("Peak"):
        return "None"
    return "Bytes" if "Bytes" in series.name else "Count"


def _is_unit(series: Series, wanted: str | None) -> bool:
    return wanted in (None, _unit(series))


# -- what the lab has counted


def _read(call: Call) -> None:
    """Add what there is now. A lab that does not say it leaves what there was."""
    kept = call.lab.kept
    status: Any = call.lab.client.get("/v1/status")
    with kept.lock:
        now = time.time()
        if now - kept.read.get(call.account, 0) < READ_SECONDS:
            return
        kept.read[call.account] = now
        figures = kept.figures[call.account]
        for series, value, grows in readings(call, families(fetched(status["metrics_url"]))):
            (figures.counter if grows else figures.gauge)(series, now, value)


def fetched(url: str) -> str:
    """What the lab serves to Prometheus. InternalServiceError."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:
            content: bytes = answer.read()
            return content.decode()
    except OSError as error:
        raise AwsError("InternalServiceError", f"the lab's figures: {error}", 500) from None


def families(text: str) -> Families:
    """By name, as Prometheus would know them."""
    found: dict[str, list[tuple[Mapping[str, str], float]]] = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name].append((sample.labels, sample.value))
    return found


def readings(call: Call, found: Families) -> Iterator[tuple[Series, float, bool]]:
    """The series of an account, each with its value and whether it is a counter."""
    yield from _of_gateways(call, found)
    yield from _of_balancers(call, found)
    yield from _of_functions(call, found)


def _of_gateways(call: Call, found: Families) -> Iterator[tuple[Series, float, bool]]:
    gateways = {row["NetworkInterfaceId"]: row["NatGatewayId"] for row in call.own(NAT_GATEWAY)}
    for metric in CLOUDWATCH:
        for labels, value in found.get(_EXPORTED[metric.name], ()):
            if (gateway := gateways.get(labels["interface"])) is not None:
                series = Series.of(NAT, metric.aws, NatGatewayId=gateway)
                yield series, value, metric.kind == "counter"


def _of_balancers(call: Call, found: Families) -> Iterator[tuple[Series, float, bool]]:
    balancers = {
        f"{row['VpcName']}/{row['LoadBalancerName']}": LOAD_BALANCER.resource(row).partition("/")[2]
        for row in call.own(LOAD_BALANCER.kind)
    }
    sums: dict[tuple[str, str, str | None], float] = defaultdict(float)
    counters = {each.aws for each in NODES if each.kind == "counter"}
    for metric in NODES:
        names = [metric.aws]
        if metric.aws.startswith("NewFlowCount_"):
            counters.add("NewFlowCount")
            names.append("NewFlowCount")
        for labels, value in found.get(_EXPORTED[metric.name], ()):
            if (balancer := balancers.get(labels["load_balancer"])) is None:
                continue
            zone = call.zone(labels["zone"])
            for name in names:
                sums[name, balancer, zone] += value
                sums[name, balancer, None] += value
    for (name, balancer, of), value in sums.items():
        where = {} if of is None else {"AvailabilityZone": of}
        yield Series.of(ELB, name, LoadBalancer=balancer, **where), value, name in counters
    groups = {
        f"{row['VpcName']}/{row['TargetGroupName']}": TARGET_GROUP.resource(row)
        for row in TARGET_GROUP.rows(call)
    }
    for aws, name in (
        ("HealthyHostCount", "networkelb_healthy_host"),
        ("UnHealthyHostCount", "networkelb_unhealthy_host"),
    ):
        for labels, value in found.get(_EXPORTED[name], ()):
            balancer = balancers.get(labels["load_balancer"])
            group = groups.get(labels["target_group"])
            if balancer is not None and group is not None:
                of_group = {"LoadBalancer": balancer, "TargetGroup": group}
                yield Series.of(ELB, aws, **of_group), value, False
                zone = call.zone(labels["zone"])
                yield Series.of(ELB, aws, **of_group, AvailabilityZone=zone), value, False


def _of_functions(call: Call, found: Families) -> Iterator[tuple[Series, float, bool]]:
    own = {row["FunctionName"] for row in functions.own(call, functions.FUNCTIONS)}
    sums: dict[str, float] = defaultdict(float)
    for labels, value in found.get(_EXPORTED["invocations"], ()):
        name = labels["function"].partition(":")[0]
        if name in own:
            sums[name] += value
    for name, value in sums.items():
        yield Series.of(LAMBDA, "Invocations", FunctionName=name), value, True
    if sums:
        yield Series.of(LAMBDA, "Invocations"), sum(sums.values()), True


OPERATIONS: Mapping[str, Operation] = {
    "GetMetricData": operation(get_metric_data, "MetricDataQueries StartTime EndTime ScanBy"),
    "GetMetricStatistics": operation(
        get_metric_statistics,
        "Namespace MetricName Dimensions StartTime EndTime Period Statistics ExtendedStatistics "
        "Unit",
    ),
    "ListMetrics": operation(list_metrics, "Namespace MetricName Dimensions"),
}
"""Of NAMESPACES; those of others are moto's (`of_the_lab`)."""
