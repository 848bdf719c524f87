# SPDX-License-Identifier: Apache-2.0
"""What a controller has to load before its lab is up."""

from __future__ import annotations

import subprocess
import sys


def test_what_it_takes_only_to_answer_is_not_loaded_at_the_start() -> None:
    """Whoever starts a lab waits for what is loaded before it is up."""
    later = (
        "aiohttp",
        "hyperplane_nat.controller.trace.question",
        "hyperplane_nat.controller.views.port_usage",
        "hyperplane_nat.flow_cache.program",
        "hyperplane_nat.metrics.families",
        "hyperplane_nat.model.description",
        "hyperplane_nat.runtime.code",
        "netns.execution",
    )
    code = (
        "import sys, hyperplane_nat.controller.daemon; "
        f"print([name for name in {later} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
