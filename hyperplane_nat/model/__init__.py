# SPDX-License-Identifier: Apache-2.0
"""What a lab consists of, in AWS's words: plain data that knows no namespace and no packet."""

from typing import TYPE_CHECKING

from netns import lazy_modules

if TYPE_CHECKING:
    from hyperplane_nat.model import description as description

__getattr__ = lazy_modules.of(__name__, "description")
