# SPDX-License-Identifier: Apache-2.0
"""Network namespaces, links and lab topologies on Linux. Knows nothing of address translation."""

from netns.errors import NetnsError

__all__ = ["NetnsError"]
