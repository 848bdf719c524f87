# SPDX-License-Identifier: Apache-2.0
"""Captures: filters, keys, flows, the file, and a session on taps that the test feeds."""
