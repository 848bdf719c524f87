# SPDX-License-Identifier: Apache-2.0
"""The flow cache: its object, its loader, and what it does to real packets, without the engine."""
