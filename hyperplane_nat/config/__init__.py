# SPDX-License-Identifier: Apache-2.0
"""The configuration of a lab: values, sections, the whole, and what is said of it."""
