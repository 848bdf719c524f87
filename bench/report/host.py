# SPDX-License-Identifier: Apache-2.0
"""On what the figures were measured."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.processes import PACKAGES

VERSION_OPTIONS = {"iperf3": "--version", "nft": "--version", "pasta": "--version"}
VERSION_OPTIONS["slirp4netns"] = "--version"
_VERSION_SECONDS = 5


def processor(cpuinfo: str) -> str:
    """The model's name, from /proc/cpuinfo."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "cpu model") and value.strip():
            return value.strip()
    return platform.machine()


def memory_bytes(meminfo: str) -> int:
    """All of it, from /proc/meminfo."""
    for line in meminfo.splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def version(tool: str) -> str | None:
    """What a tool says of its version; None when it is not installed."""
    if shutil.which(tool) is None:
        return None
    try:
        done = subprocess.run(
            [tool, VERSION_OPTIONS[tool]],
            capture_output=True,
            text=True,
            timeout=_VERSION_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    lines = (done.stdout + done.stderr).splitlines()
    return next((line.strip() for line in lines if line.strip()), "unknown")


def describe() -> dict[str, Any]:
    """Processor, kernel and versions; nothing that names the machine."""
    return {
        "processor": processor(Path("/proc/cpuinfo").read_text()),
        "processors": len(os.sched_getaffinity(0)),
        "architecture": platform.machine(),
        "memory_bytes": memory_bytes(Path("/proc/meminfo").read_text()),
        "kernel": platform.release(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "load_before": round(os.getloadavg()[0], 2),
        "tools": {tool: version(tool) for tool in sorted(VERSION_OPTIONS)},
        "packages": {tool: PACKAGES[tool] for tool in sorted(VERSION_OPTIONS)},
    }


def one_line(host: dict[str, Any]) -> str:
    """For headings."""
    gibibytes = host["memory_bytes"] / 2**30
    return (
        f"{host['processor']}, {host['processors']} processors, {gibibytes:.0f} GiB, "
        f"Linux {host['kernel']}, Python {host['python']}"
    )
