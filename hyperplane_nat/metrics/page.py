# SPDX-License-Identifier: Apache-2.0
"""docs/metrics.md, written from the list of metrics: `python -m hyperplane_nat.metrics`."""

from __future__ import annotations

from hyperplane_nat.engine.state.constants import counter_names
from hyperplane_nat.metrics.cloudwatch import CLOUDWATCH, NODES
from hyperplane_nat.metrics.families import METRICS
from hyperplane_nat.metrics.private_link import METRICS as PRIVATE_LINK


def markdown() -> str:
    """docs/metrics.md."""
    lines = [
        "<!-- Written by `python -m hyperplane_nat.metrics`; do not edit. -->",
        "# Metrics",
        "",
        "Served at `http://127.0.0.1:9109/metrics` unless `metrics.address` and `metrics.port` say "
        "otherwise. Counters are kept in the state map: they survive a restart of the forwarder or "
        "of the controller and start at zero with a new lab. Packets and bytes are counted as they "
        "are on a wire: a frame that is yet to be segmented is as many packets as it has segments, "
        "each with its headers. What is called a frame is what the sockets hand over or take. "
        "`process_*` are those of the controller's process. A request must name the host as "
        "`localhost`, by the address it is sent to, or as one of `metrics.hosts`; others get 421.",
        "",
        "`/healthz` beside it answers 200 when controller and forwarder do their work and else "
        '503: `{"status": "ok", "controller": "ok", "forwarder": "ok"}`. The status is `failing` '
        "when the controller is `stopping` or the forwarder `down`: dead, hung, or not configured "
        "yet.",
        "",
        "| name | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| `{spec.exported}` | {spec.kind} | "
        f"{', '.join(f'`{label}`' for label in spec.labels)} | {spec.help} |"
        for spec in METRICS
    ]
    lines += [
        "",
        "A Grafana dashboard and alert rules are in `observability/`: "
        "[observability.md](observability.md) shows them.",
        "",
        "## CloudWatch",
        "",
        "What AWS publishes of a NAT gateway (namespace `AWS/NATGateway`) is here for each network "
        "interface, under AWS's name in snake case without its `Count`. AWS's sum over a minute is "
        "`increase(...[1m])`. AWS tells nothing by remote endpoint: "
        "`hyperplane_nat_natgateway_remote_error_port_allocation_total` does, for the ten with the "
        "most errors; `hyperplane-nat ports` for all.",
        "",
        "| CloudWatch | here |",
        "|---|---|",
    ]
    by_name = {spec.name: spec.exported for spec in METRICS}
    lines += [f"| `{each.aws}` | `{by_name[each.name]}` |" for each in CLOUDWATCH]
    lines += [
        "",
        "What it publishes of a Network Load Balancer (`AWS/NetworkELB`) is here for each node, by "
        "load balancer and zone; `HealthyHostCount` and `UnHealthyHostCount` by target group too.",
        "",
        "| CloudWatch | here |",
        "|---|---|",
        *(f"| `{node.aws}` | `{by_name[node.name]}` |" for node in NODES),
        f"| `HealthyHostCount` | `{by_name['networkelb_healthy_host']}` |",
        f"| `UnHealthyHostCount` | `{by_name['networkelb_unhealthy_host']}` |",
        "",
        "What it publishes of PrivateLink (`AWS/PrivateLinkEndpoints`, `AWS/PrivateLinkServices`) "
        "is here for each address of an endpoint, by endpoint and zone, and by service.",
        "",
        "| CloudWatch | here |",
        "|---|---|",
        *(
            f"| `{each.namespace}`: `{each.aws}` | `{by_name[each.name]}` |"
            for each in PRIVATE_LINK
        ),
    ]
    reasons = [name.removeprefix("drop_") for name in counter_names() if name.startswith("drop_")]
    lines += [
        "",
        "## Reasons of drops",
        "",
        "Every reason is exported from the start, with 0 if it never occurred:",
        "",
        ", ".join(f"`{reason}`" for reason in reasons) + ".",
    ]
    return "\n".join(lines) + "\n"
