# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the live tests, and the labs' logs in the report of a test that fails."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.lab import LABS, Lab, launched

Launch = Callable[..., Lab]


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
        for lab in LABS:
            report.sections.append((f"logs of lab {lab.name}", lab.logs()))
    return report
