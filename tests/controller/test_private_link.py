# SPDX-License-Identifier: Apache-2.0
"""PrivateLink through the control API, in what the forwarder is told, in events and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from hyperplane_nat.controller.events import EventLog
from hyperplane_nat.controller.network.hosts import reached
from hyperplane_nat.controller.network.ways_out import WaysOut
from hyperplane_nat.controller.observer import Observer
from hyperplane_nat.controller.views.private_link import endpoint_states
from hyperplane_nat.metrics.private_link import EndpointFigures, samples
from tests.controller.region_lab import RegionLab, talk
from tests.controller.test_api_commands import ask, done, refused
from tests.model.private_link import accepted, declared, endpoint, the_endpoint
from tests.model.support import Scene


def test_the_forwarder_is_told_of_endpoints() -> None:
    scene = Scene()
    scene.apply(declared(asked=endpoint(security_groups=("app",))))
    ways, wanted = WaysOut(), scene.region.wanted()
    first, second = ways.everything(wanted)["endpoints"]
    (router,) = (each for each in wanted.interfaces if each.vpc == "bank")
    assert first == {
        "number": first["number"],
        "name": first["name"],
        "endpoint_id": the_endpoint(scene).id,
        "address": "10.0.1.4",
        "vpc": router.vpc_number,
        "interface": router.number,
        "mtu": 8500,
        "ingress": [],
    }
    assert {first["number"], second["number"]} <= ways.numbers
    # The VPC's router finds its addresses behind the fabric.
    assert reached(wanted)["bank", router.link] == {"10.0.1.4", "10.0.2.4"}
    accepted(scene)
    changed = ways.changes(scene.region.wanted())
    assert [each["node"] for each in changed["endpoints"]] == [
        each.number for each in scene.region.wanted().load_balancer_nodes
    ]
    ways.told(scene.region.wanted())
    with scene.region.commands() as commands:
        commands.delete_endpoint("orders")
    gone = ways.changes(scene.region.wanted())
    assert gone["remove_endpoints"] == sorted((first["number"], second["number"]))


def test_what_is_behind_an_interface_is_told_with_it() -> None:
    scene = Scene()
    scene.apply(declared())
    accepted(scene)
    ways, wanted = WaysOut(), scene.region.wanted()
    (bank,) = (each.number for each in wanted.interfaces if each.vpc == "bank")
    told = ways.everything(wanted, {bank})
    assert (len(told["endpoints"]), told["load_balancer_nodes"]) == (2, [])
    later = ways.changes(wanted, {each.number for each in wanted.interfaces})
    assert (later["endpoints"], len(later["load_balancer_nodes"])) == ([], 2)


def test_events_tell_of_endpoints() -> None:
    scene, events = Scene(), EventLog()
    observer = Observer(
        events,
        interfaces=dict,
        nat_gateways=dict,
        endpoints=lambda: endpoint_states(scene.region),
        function_of=lambda _slot: None,
        host_of=lambda _number: None,
        counters=dict,
    )
    scene.apply(declared())
    observer.look()
    (row,) = events.rows()
    assert row["kind"] == "endpoint"
    assert row["message"] == f"endpoint bank/orders ({the_endpoint(scene).id}) is PendingAcceptance"


def test_figures_are_by_endpoint_and_zone_and_by_service() -> None:
    counters = {
        "active_flows": 1,
        "new_flows_tcp": 2,
        "new_flows_udp": 3,
        "processed_bytes": 4,
        "drops": 5,
        "tcp_target_resets": 6,
    }
    figures = [EndpointFigures("bank/orders", "shop/orders", zone, counters) for zone in ("a", "b")]
    figures.append(EndpointFigures("bank/left", "", "a", counters))
    found = dict(samples(figures))
    new = found["privatelinkendpoints_new_connections"]
    assert new == [
        (("bank/orders", "a"), 5),
        (("bank/orders", "b"), 5),
        (("bank/left", "a"), 5),
    ]
    assert found["privatelinkservices_active_connections"] == [(("shop/orders",), 2)]
    assert found["privatelinkservices_rst_packets_sent"] == [(("shop/orders",), 12)]
    assert found["privatelinkendpoints_packets_dropped"][0] == (("bank/orders", "a"), 5)


def test_private_link_by_command(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        balancer = {"vpc": "customer", "name": "front", "nodes": [{"subnet": "a"}]}
        await done(client, "POST", "/v1/load-balancers", balancer)
        offered = {"load_balancer": "front", "name": "orders", "private_dns_name": "o.example.com"}
        service = await done(client, "POST", "/v1/endpoint-services", offered)
        assert service["ServiceName"] == f"com.amazonaws.vpce.us-east-1.{service['ServiceId']}"
        assert (service["AcceptanceRequired"], service["AllowedPrincipals"]) == (True, [])
        again = await refused(client, "POST", "/v1/endpoint-services", offered)
        assert again == (400, "InvalidParameterValue")
        asked: dict[str, Any] = {
            "vpc": "customer",
            "service": service["ServiceName"],
            "name": "own",
            "nodes": [{"subnet": "a", "address": "10.0.1.200"}],
        }
        made = await done(client, "POST", "/v1/endpoints", asked)
        assert (made["State"], made["VpcEndpointType"]) == ("PendingAcceptance", "Interface")
        assert [each["PrivateIPv4Address"] for each in made["Subnets"]] == ["10.0.1.200"]
        path = f"/v1/endpoint-services/{quote('customer/orders', safe='')}"
        change = {"accept": [made["VpcEndpointId"]], "acceptance_required": False}
        changed = await done(client, "PATCH", path, change)
        assert [each["VpcEndpointState"] for each in changed["Connections"]] == ["Pending"]
        assert not changed["AcceptanceRequired"]
        found = await refused(client, "PATCH", path, {"accept": ["own"]})
        assert found == (400, "InvalidState")
        unknown = await refused(client, "PATCH", path, {"reject": ["x"]})
        assert unknown == (400, "InvalidVpcEndpoint.NotFound")
        held = await refused(client, "DELETE", path)
        assert held == (400, "ExistingVpcEndpointConnections")
        assert await refused(client, "DELETE", "/v1/load-balancers/front") == (400, "ResourceInUse")
        dns = await refused(client, "PATCH", "/v1/endpoints/own", {"private_dns": True})
        assert dns == (400, "InvalidParameter")
        rows = (await ask(client, "GET", "/v1/endpoints"))[1]
        assert [row["Name"] for row in rows] == ["own"]
        await done(client, "DELETE", "/v1/endpoints/own")
        await done(client, "DELETE", path)
        assert (await ask(client, "GET", "/v1/endpoint-services"))[1] == []

    talk(directory, RegionLab(), work)
