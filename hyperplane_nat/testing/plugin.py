# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: fixtures for a lab, its configuration, and captures of tests that fail.

pytest loads it in every project that it is installed beside, so everything else is imported when a
fixture is used. A session, and so each worker of pytest-xdist, has a lab of its own name and
directory.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hyperplane_nat.testing.running import RunningLab, Source

FIXTURE = "hyperplane_lab"
MARKER = "hyperplane_capture"

_LAB: pytest.StashKey[RunningLab] = pytest.StashKey()
_CAPTURE: pytest.StashKey[Path] = pytest.StashKey()
_FAILED: pytest.StashKey[bool] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option and the ini value."""
    parser.addini(FIXTURE, "TOML file of the lab of fixture hyperplane_lab", default="")
    parser.getgroup("hyperplane-nat").addoption(
        "--hyperplane-captures",
        metavar="DIR",
        default="hyperplane-captures",
        help="where the captures of failed tests go (default: %(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The marker."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(environment=None, interface=None): what fixture capture_on_failure captures",
    )


@pytest.fixture(scope="session")
def hyperplane_config(pytestconfig: pytest.Config) -> Source | None:
    """The lab's configuration: to be overridden; ini value `hyperplane_lab` or the default lab."""
    name = pytestconfig.getini(FIXTURE)
    base = pytestconfig.inipath.parent if pytestconfig.inipath else pytestconfig.rootpath
    return base / name if name else None


@pytest.fixture(scope="session")
def hyperplane_lab(
    request: pytest.FixtureRequest, pytestconfig: pytest.Config
) -> Iterator[RunningLab]:
    """A lab that is up until the session ends."""
    if os.geteuid() != 0:
        pytest.skip("hyperplane_lab needs root to make network namespaces: run pytest with sudo")
    from hyperplane_nat.testing import keeper, running

    source = request.getfixturevalue("hyperplane_config")
    keeper.sweep()
    with keeper.place() as (name, directory, lock):
        file, options = running.arguments(source, directory)
        words = [*(["-c", *file] if file else []), *options, "--wait"]
        with keeper.up(name, directory, lock, words):
            lab = running.RunningLab(name, directory)
            pytestconfig.stash[_LAB] = lab
            try:
                yield lab
            finally:
                del pytestconfig.stash[_LAB]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Drops and events are those of the test."""
    lab = item.config.stash.get(_LAB, None)
    if lab is not None and FIXTURE in getattr(item, "fixturenames", ()):
        lab.mark()


def _captures(config: pytest.Config) -> Path:
    directory: Path = config.rootpath / config.getoption("--hyperplane-captures")
    return directory


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove the captures' directory when none is kept; of xdist's workers others may use it."""
    if not hasattr(session.config, "workerinput"):
        with contextlib.suppress(OSError):
            _captures(session.config).rmdir()


@pytest.fixture
def capture_on_failure(
    request: pytest.FixtureRequest, hyperplane_lab: RunningLab
) -> Iterator[Path]:
    """A capture of the test's frames, kept when it fails; the marker says of what."""
    from hyperplane_nat.testing import capturing

    marker = request.node.get_closest_marker(MARKER)
    name = re.sub(r"[^\w.-]+", "-", request.node.nodeid).strip("-")[-200:]
    path = _captures(request.config) / f"{name}.pcapng"
    request.node.stash[_CAPTURE] = path
    with capturing.captured(hyperplane_lab, path, **(marker.kwargs if marker else {})):
        yield path
    if not request.node.stash.get(_FAILED, False):
        path.unlink(missing_ok=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note that a test has failed, and name its capture in the report."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
        if call.when == "call" and (path := item.stash.get(_CAPTURE, None)) is not None:
            report.sections.append(("capture", str(path)))
    return report
