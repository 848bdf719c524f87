# SPDX-License-Identifier: Apache-2.0
"""Handlers: Lambda's Runtime API, the processes of functions, and the API that invokes them."""

from typing import TYPE_CHECKING

from netns import lazy_modules

if TYPE_CHECKING:
    from hyperplane_nat.runtime import code as code
    from hyperplane_nat.runtime import uploads as uploads
    from hyperplane_nat.runtime import variables as variables

__getattr__ = lazy_modules.of(__name__, "code", "uploads", "variables")
