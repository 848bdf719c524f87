# SPDX-License-Identifier: Apache-2.0
"""Load generators, sinks and clocks in C, so that Python is never what is measured."""
