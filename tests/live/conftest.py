# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the live tests, and the labs' logs in the report of a test that fails."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.flow_cache import probe
from tests.live.lab import FLOW_CACHE, LABS, Lab, launched

Launch = Callable[..., Lab]

FLOW_CACHE_VARIABLE = "FLOW_CACHE"
FLOW_CACHE_SHARE = 0.25
LINKS_OF_THEIR_OWN = frozenset({"tests.live.test_host_forwarding"})
"""Modules that tell the forwarder of links that no controller has made, nor put a program on."""


def pytest_configure(config: pytest.Config) -> None:
    """One seed for all processes of a run."""
    os.environ.setdefault(FLOW_CACHE_VARIABLE, str(secrets.randbelow(1_000_000)))


def _seed() -> str:
    return f"{FLOW_CACHE_VARIABLE}={os.environ[FLOW_CACHE_VARIABLE]}"


def pytest_report_header() -> str:
    """How to have the same modules with the flow cache again."""
    return f"labs with forwarder.flow_cache: {_seed()}"


def has_flow_cache(module: str, said: str) -> bool:
    """Whether a module's labs have the flow cache: `on`, `off`, or a share of them by a seed."""
    if module in LINKS_OF_THEIR_OWN:
        return False
    if said in ("on", "off"):
        return said == "on"
    return random.Random(f"{said} {module}").random() < FLOW_CACHE_SHARE


@pytest.fixture(autouse=True, scope="module")
def _flow_cache(request: pytest.FixtureRequest) -> Iterator[None]:
    FLOW_CACHE.on = has_flow_cache(request.module.__name__, os.environ[FLOW_CACHE_VARIABLE])
    yield
    FLOW_CACHE.on = False


def flow_cache_offered() -> None:
    """Skip where the kernel lacks what the flow cache needs."""
    if lacking := probe.missing():
        pytest.skip("; ".join(map(str, lacking)))


@pytest.fixture(scope="module")
def flow_cache() -> None:
    """For modules whose labs have it, whatever the suite is told."""
    flow_cache_offered()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """
    `launch(environments=2, toml="")`: a lab of a random name that is up until the test ends.

    For a test that spoils its lab. A module whose tests only use one makes a module fixture of
    `launch_shared`.
    """
    with _launcher(tmp_path) as function:
        yield function


@pytest.fixture(scope="module")
def launch_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """The same for labs that live as long as the module's tests."""
    with _launcher(tmp_path_factory.mktemp("lab")) as function:
        yield function


@contextlib.contextmanager
def _launcher(directory: Path) -> Iterator[Launch]:
    with contextlib.ExitStack() as stack:

        def function(environments: int = 2, toml: str = "") -> Lab:
            name = f"t-{secrets.token_hex(4)}"
            return stack.enter_context(
                launched(directory, name, environments=environments, toml=toml)
            )

        yield function


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        if FLOW_CACHE.on:
            report.sections.append(("labs with forwarder.flow_cache", _seed()))
        for lab in LABS:
            report.sections.append((f"logs of lab {lab.name}", lab.logs()))
    return report
