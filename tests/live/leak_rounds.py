# SPDX-License-Identifier: Apache-2.0
"""Brings a small lab up and down many times in one process and prints what the process holds.

`python -m tests.live.leak_rounds --lab NAME --rounds N`: one JSON object a round, with the
descriptors, threads and resident bytes after the lab is gone. In one process, so that what a
controller forgets to give back adds up where it can be seen.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import sys
import threading
from pathlib import Path

from hyperplane_nat.client import Client
from hyperplane_nat.config.lab import load
from hyperplane_nat.controller import daemon


def stop_when_ready(lab: str, pipe: int) -> None:
    """Read the start's progress; ask the lab to end once it is ready."""
    with os.fdopen(pipe) as lines:
        for line in lines:
            if json.loads(line).get("ready"):
                Client(lab).post("/v1/shutdown")


def one_round(lab: str) -> None:
    """A lab of two environments, up and down."""
    config = load(
        None,
        {
            "lab.name": lab,
            "lab.environments": 2,
            "flows.max": 4096,
            "metrics.port": 0,
        },
    )
    for vpc in config.vpc:
        vpc.service.clear()
    reading, writing = os.pipe()
    waiter = threading.Thread(target=stop_when_ready, args=(lab, reading))
    waiter.start()
    status = daemon.main(config, ready_fd=writing)
    waiter.join()
    if status != 0:
        raise SystemExit(f"the lab ended with status {status}")


def held() -> dict[str, int]:
    """What this process holds now.

    Libraries remember the last arguments of some functions, labs among them; such caches are
    bounded and are emptied first, or their filling up would look like a leak.
    """
    for cached in gc.get_objects():
        if isinstance(cached, functools._lru_cache_wrapper):
            cached.cache_clear()
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return {
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
        "rss_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
    }


def main() -> int:
    """Run the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lab", required=True)
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    for number in range(arguments.rounds):
        one_round(arguments.lab)
        print(json.dumps({"round": number, **held()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
