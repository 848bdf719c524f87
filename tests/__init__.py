# SPDX-License-Identifier: Apache-2.0
"""Tests of hyperplane-nat; the tree mirrors the packages it tests."""
