# SPDX-License-Identifier: Apache-2.0
"""A page of the labs that run: a process of its own, which asks the control APIs as `top` does."""
