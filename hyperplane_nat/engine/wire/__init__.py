# SPDX-License-Identifier: Apache-2.0
"""Packets: read, rewritten, summed."""
