# SPDX-License-Identifier: Apache-2.0
"""Tests of the health checks of load balancers' targets."""
