# SPDX-License-Identifier: Apache-2.0
"""Tests of the engine: vectors, tables, properties, and the state file."""
