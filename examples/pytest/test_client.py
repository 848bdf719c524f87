# SPDX-License-Identifier: Apache-2.0
"""The client meets what the network does between two requests."""

from __future__ import annotations

import pytest
from client import Client

WEB, WEB_2 = "10.0.1.80", "10.0.1.82"

pytestmark = pytest.mark.usefixtures("capture_on_failure")


def test_connection_is_kept(hyperplane_lab):
    client = Client(WEB)
    pages = {hyperplane_lab.inside("env-1", client.get, "/peer") for _ in range(3)}
    # The server saw one port, so it was one connection.
    assert len(pages) == 1
    assert client.resets == 0


def test_idle_connection_is_reset(hyperplane_lab):
    client = Client(WEB)
    hyperplane_lab.inside("env-2", client.get, "/peer")
    hyperplane_lab.advance(350)
    assert hyperplane_lab.flows(environment="env-2", state="ESTABLISHED") == []
    assert "10.0.1.10" in hyperplane_lab.inside("env-2", client.get, "/peer")
    assert client.resets == 1


def test_forwarder_is_killed(hyperplane_lab):
    client = Client(WEB)
    before = hyperplane_lab.inside("env-1", client.get, "/peer")
    hyperplane_lab.kill("forwarder")
    assert hyperplane_lab.inside("env-1", client.get, "/peer") == before
    assert client.resets == 0


def test_no_port_is_left(hyperplane_lab):
    client = Client(WEB, WEB_2)
    with hyperplane_lab.exhaust_ports((WEB, 80), "tcp", environment="env-2") as taken:
        assert taken.count == taken.limit == 55000
        assert "10.0.1.10" in hyperplane_lab.inside("env-1", client.get, "/peer")
        assert hyperplane_lab.drops()["port_allocation"] >= 1
        assert "port-exhaustion" in {event["kind"] for event in hyperplane_lab.events()}
    # Then the hold is over, too.
    assert taken.count == 0
