# SPDX-License-Identifier: Apache-2.0
"""Load generators, peers, reports and the demo."""
