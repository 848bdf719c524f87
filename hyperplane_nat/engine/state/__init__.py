# SPDX-License-Identifier: Apache-2.0
"""The records of the state map, and the numbers and settings that all share."""
