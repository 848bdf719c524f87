# SPDX-License-Identifier: Apache-2.0
"""Tests of the resolver: names, answers, sockets."""
