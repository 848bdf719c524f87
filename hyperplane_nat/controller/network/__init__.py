# SPDX-License-Identifier: Apache-2.0
"""Namespaces, links and servers, made to follow the region."""
