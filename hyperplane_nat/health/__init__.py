# SPDX-License-Identifier: Apache-2.0
"""Health checks of load balancers' targets: what is checked, how, and the process that does it."""
