# SPDX-License-Identifier: Apache-2.0
"""Packet I/O: AF_PACKET rings and batched sending. Knows frames and interfaces, not NAT."""
