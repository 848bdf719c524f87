# SPDX-License-Identifier: Apache-2.0
"""A controller on fakes as a process: `python -m tests.controller.run_daemon DIRECTORY FD`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.daemon import Daemon
from tests.controller.support import FakeNetns

if __name__ == "__main__":
    netns = FakeNetns(Path(sys.argv[1]))
    config = Config.model_validate_json(sys.stdin.buffer.read())
    daemon = Daemon(config, ready_fd=int(sys.argv[2]), parts=netns.parts())
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        sys.exit(runner.run(daemon.run()))
