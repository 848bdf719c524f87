# SPDX-License-Identifier: Apache-2.0
"""The controller: owns namespaces and links, keeps the forwarder alive, serves API and metrics.

Theory of operation
-------------------
One process per lab on a stock asyncio loop. `daemon` is the life of it: take the lab's lock, adopt
what a killed predecessor left or remove it, build the lab, start services and forwarder, serve,
and at the end remove everything. Whatever takes longer than a moment (netlink, spawning, walking
the flow table, writing out metrics) runs in a thread; the loop itself only waits.

The forwarder and the services are processes of their own that outlive a killed controller: their
output goes to files, not to pipes, and pid files say who they are. `processes` trusts a pid file
only when start time, command line and environment agree. A forwarder is always started as a
standby, which has imported everything but touches neither map nor socket before it is told to;
one more waits at any time, so that a fail-over costs the rebuilding of the flow table's index and
no interpreter start.

The controller never writes to the state map. Flows survive a forwarder because the map does.
"""
