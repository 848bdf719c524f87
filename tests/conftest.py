# SPDX-License-Identifier: Apache-2.0
"""What all tests share.

Tests marked `live` move real packets and need root. Without it they are skipped with that reason,
but never in CI, where a test that cannot run is a failure: a green run has run everything.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import secrets
import signal
import socket
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Hypothesis fails an example that takes 200 ms, and a test whose examples take a second to draw: on
# a busy machine any does.
settings.register_profile(
    "hyperplane-nat", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("hyperplane-nat")

NEEDS_ROOT = "needs root: run it as `sudo make test`"


def in_ci() -> bool:
    """Whether a continuous-integration run says so: CI is set, and not to a no."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false", "no")


def require_root() -> None:
    """Skip the running test without root; in CI, fail it."""
    if os.geteuid() == 0:
        return
    if in_ci():
        pytest.fail(NEEDS_ROOT, pytrace=False)
    pytest.skip(NEEDS_ROOT)


@pytest.fixture
def collected() -> None:
    """What former tests have left to the collector does not close its files during this one."""
    gc.collect()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("live") is not None:
        require_root()


_STAND_INS: pytest.StashKey[Counter[tuple[str, str]]] = pytest.StashKey()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Count the tests in which something stands in for something else."""
    session.config.stash[_STAND_INS] = Counter(
        (mark.args[0], mark.args[1])
        for item in session.items
        if (mark := item.get_closest_marker("stand_in")) is not None
    )


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """List the stand-ins: what was not tried with the thing itself is said, never silent."""
    found = config.stash.get(_STAND_INS, Counter())
    if found:
        terminalreporter.section("stand-ins")
        for (what, by), tests in sorted(found.items()):
            terminalreporter.line(f"{what}: {by} ({tests} tests)")


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """
    A port of 127.0.0.1 that is free, and still is when the test comes to use it.

    It is below those that Linux gives to whoever asks for any (from 32768): nobody gets it by
    chance meanwhile.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with socket.socket(socket.AF_INET, kind) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """
    Each test begins with the usual handlers and leaves no others to the next.

    A background job of a shell ignores SIGINT, and so would every program that a test starts.
    """
    _usual_handlers()
    yield
    _usual_handlers()


def _usual_handlers() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.fixture
def lab_name() -> str:
    """A lab name that nobody else uses: runs next to each other do not meet."""
    return f"t-{secrets.token_hex(4)}"
