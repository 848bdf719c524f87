# SPDX-License-Identifier: Apache-2.0
"""Flows and what they hold: table, ports, timers, trackers, next hops."""
