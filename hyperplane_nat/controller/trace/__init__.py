# SPDX-License-Identifier: Apache-2.0
"""Why something reaches something else or does not: GET /v1/trace."""
