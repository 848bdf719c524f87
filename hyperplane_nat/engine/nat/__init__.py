# SPDX-License-Identifier: Apache-2.0
"""A packet's way: classified, translated, addressed."""
