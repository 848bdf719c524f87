# SPDX-License-Identifier: Apache-2.0
"""Fuzzers: programs that look for crashes, run by hand, by `make asan` and in CI."""
