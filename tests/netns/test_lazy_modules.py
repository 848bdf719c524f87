# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import secrets
import sys
from pathlib import Path

import pytest

from netns import lazy_modules


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with one module, which is loaded by nobody yet."""
    monkeypatch.setattr(lazy_modules, "_promised", [])
    directory = tmp_path / f"package_{secrets.token_hex(4)}"
    directory.mkdir()
    (directory / "__init__.py").write_text("")
    (directory / "part.py").write_text("word = 'here'\n")
    monkeypatch.syspath_prepend(tmp_path)
    return directory.name


def test_a_module_is_loaded_when_it_is_first_used(package: str) -> None:
    attribute = lazy_modules.of(package, "part")
    assert f"{package}.part" not in sys.modules
    assert vars(attribute("part"))["word"] == "here"
    assert attribute("part") is sys.modules[f"{package}.part"]


def test_others_are_no_attributes(package: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'whole'"):
        lazy_modules.of(package, "part")("whole")


def test_all_of_them_are_loaded_when_there_is_time(package: str) -> None:
    lazy_modules.of(package, "part")
    lazy_modules.load()
    assert f"{package}.part" in sys.modules
