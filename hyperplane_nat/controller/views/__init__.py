# SPDX-License-Identifier: Apache-2.0
"""What a lab tells of itself.

Use the modules as attributes of this package where a lab that starts need not wait for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netns import lazy_modules

if TYPE_CHECKING:
    from hyperplane_nat.controller.views import balancing as balancing
    from hyperplane_nat.controller.views import interface_metrics as interface_metrics
    from hyperplane_nat.controller.views import port_usage as port_usage
    from hyperplane_nat.controller.views import private_link as private_link
    from hyperplane_nat.controller.views import snapshot as snapshot
    from hyperplane_nat.controller.views import sums as sums

__getattr__ = lazy_modules.of(
    __name__, "balancing", "interface_metrics", "port_usage", "private_link", "snapshot", "sums"
)
