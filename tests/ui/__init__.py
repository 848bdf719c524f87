# SPDX-License-Identifier: Apache-2.0
"""Tests of the page and of its server."""
