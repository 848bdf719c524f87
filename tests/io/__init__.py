# SPDX-License-Identifier: Apache-2.0
"""Tests of packet I/O without a socket."""
