# SPDX-License-Identifier: Apache-2.0
"""Tests of the flow logs: rows, fields, files, and the writer."""
