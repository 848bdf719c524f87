# SPDX-License-Identifier: Apache-2.0
"""Tests of the model: a region, its commands, its clock and its file."""
