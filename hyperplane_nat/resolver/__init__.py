# SPDX-License-Identifier: Apache-2.0
"""The Amazon-provided resolver of a VPC: names, answers, limits, and the process that serves them.

Nothing of it reads a clock or a socket but the process.
"""
