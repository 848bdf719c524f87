# SPDX-License-Identifier: Apache-2.0
"""Tests of the forwarder around the engine: commands, timers, slices, coalescing."""
