# SPDX-License-Identifier: Apache-2.0
"""The code of versions is kept as it was when they were published."""

from __future__ import annotations

import asyncio
import logging
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from hyperplane_nat.controller.published import PublishedCode
from hyperplane_nat.model.resources import AliasResource, Code, FunctionResource
from hyperplane_nat.runtime.code import directory_of
from hyperplane_nat.runtime.places import uploads_path
from hyperplane_nat.runtime.uploads import archive_of, keep
from tests.model.support import Scene, function, lab


def published(code: Path, sha256: str = "one") -> Scene:
    """A function with a version of its code."""
    scene = Scene()
    scene.apply(lab(declared(code, sha256)))
    return scene


def declared(code: Path, sha256: str) -> FunctionResource:
    return replace(
        function("orders"),
        code=Code(str(code), sha256, "app.handler", "python3.11"),
        aliases=(AliasResource("live"),),
    )


@pytest.mark.parametrize("kind", ["directory", "archive", "file"])
def test_a_version_has_the_code_that_it_was_published_with(tmp_path: Path, kind: str) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "app.py").write_text("x = 1")
    (code / "run").write_text("#!/bin/sh")
    (code / "run").chmod(0o755)
    path = {"directory": code, "archive": tmp_path / "a.zip", "file": code / "app.py"}[kind]
    if kind == "archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(code / "app.py", "app.py")
    scene = published(path)
    (tmp_path / "lab").mkdir()
    keeper = PublishedCode(scene.region, tmp_path / "lab")
    asyncio.run(keeper.keep())
    assert keeper.missing() == []
    if kind == "archive":
        path.write_bytes(b"other")
    (code / "app.py").write_text("x = 2")
    (latest, version) = (scene.function(name).code for name in ("orders", "orders:1"))
    assert latest is not None
    assert version is not None
    assert latest.path == str(path)
    kept = directory_of(Path(version.path), tmp_path / "made")
    assert (kept / "app.py").read_text() == "x = 1"
    if kind == "directory":
        assert (kept / "run").stat().st_mode & 0o111
    with scene.region.commands() as commands:
        orders = commands.versions.latest("orders")
        assert commands.versions.publish(orders).name == "orders:1", "it has not changed"


def archives(directory: Path) -> set[bytes]:
    return {each.read_bytes() for each in uploads_path(directory).iterdir()}


def test_archives_of_versions_that_are_gone_are_dropped(tmp_path: Path) -> None:
    code, directory = tmp_path / "app.py", tmp_path / "lab"
    code.write_text("x = 1")
    directory.mkdir()
    scene = published(code, "one")
    keeper = PublishedCode(scene.region, directory)
    asyncio.run(keeper.keep())
    scene.active()
    assert keeper.former() == set()
    slot = scene.run("orders:1").environment
    for number in range(2, 5):
        scene.active()
        code.write_text(f"x = {number}")
        scene.apply(lab(declared(code, str(number))))
        asyncio.run(keeper.keep())
    assert len(archives(directory)) == 4
    assert keeper.former() == set(), "an environment of the first one serves"
    scene.region.end(slot)
    scene.region.removed(slot)
    # A controller that comes later finds them, too.
    for each in (keeper, PublishedCode(scene.region, directory)):
        assert len(each.former()) == 3
    with keeper.keeping():
        assert keeper.former() == set(), "one of them may just be sent again"
    asyncio.run(keeper.drop())
    version = scene.function("orders:4").code
    assert version is not None
    assert archives(directory) == {Path(version.path).read_bytes()}
    assert keeper.former() == set()


def test_a_version_is_kept_while_a_request_with_code_waits(tmp_path: Path) -> None:
    """The request may wait for what keeps the version."""
    code = tmp_path / "app.py"
    code.write_text("x = 1")
    scene = published(code)
    (tmp_path / "lab").mkdir()
    keeper = PublishedCode(scene.region, tmp_path / "lab")
    with keeper.keeping():
        asyncio.run(asyncio.wait_for(keeper.keep(), 60))
    assert keeper.missing() == []


def test_what_was_kept_for_nobody_is_dropped(tmp_path: Path) -> None:
    scene = published(tmp_path / "none")
    (tmp_path / "lab").mkdir()
    keeper = PublishedCode(scene.region, tmp_path / "lab")
    with keeper.keeping() as note:
        sent = keep(tmp_path / "lab", archive_of(Path(__file__)))
        note(sent)
    assert keeper.former() == {str(sent.path)}


def test_what_cannot_be_kept_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scene = published(tmp_path / "none")
    (tmp_path / "lab").mkdir()
    keeper = PublishedCode(scene.region, tmp_path / "lab")
    with caplog.at_level(logging.WARNING):
        asyncio.run(keeper.keep())
        assert keeper.missing() == []
    (message,) = caplog.messages
    assert message.startswith("the code of orders:1 is not kept: ")
