# SPDX-License-Identifier: Apache-2.0
"""Network namespaces, links and lab topologies on Linux. Knows nothing of address translation."""

from typing import TYPE_CHECKING

from netns import lazy_modules
from netns.errors import NetnsError

if TYPE_CHECKING:
    from netns import execution as execution

__all__ = ["NetnsError"]

__getattr__ = lazy_modules.of(__name__, "execution")
