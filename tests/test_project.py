# SPDX-License-Identifier: Apache-2.0
"""The project's own rules, checked like everything else: `make test` is the whole truth."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hyperplane_nat
from hyperplane_nat.cli.checks import compiled
from hyperplane_nat.config.text import markdown

ROOT = Path(__file__).resolve().parent.parent
GENERATED = {"_constants.pxd"}
ROOMS = ("hyperplane_nat", "netns", "bench", "tests")


def run(*command: str) -> None:
    """Run a module of this interpreter in the project's root; its output is the failure's text."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)}:\n{done.stdout}{done.stderr}", pytrace=False)


def sources() -> list[Path]:
    return [ROOT / "setup.py"] + [
        path
        for room in ROOMS
        for pattern in ("*.py", "*.pyx", "*.pxd")
        for path in sorted((ROOT / room).rglob(pattern))
        if path.name not in GENERATED
    ]


def test_lint() -> None:
    run("ruff", "check", ".")


def test_format() -> None:
    run("ruff", "format", "--check", ".")


def test_types() -> None:
    run("mypy")


def test_configuration_page_is_generated_from_the_models() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == markdown(), (
        "run: make docs"
    )


def test_every_source_file_names_its_license() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in sources()
        if not path.read_text(encoding="utf-8").startswith(
            "# SPDX-License-Identifier: Apache-2.0\n"
        )
    ]
    assert not wrong


def test_what_modules_say_of_themselves_has_one_form() -> None:
    """It opens behind the quotes; how the module works comes under one heading, without markup."""
    wrong = []
    for path in sources():
        text = re.sub(r"\A(#.*\n|\n)*", "", path.read_text(encoding="utf-8"))
        if (docstring := re.match(r'r?"""(.*?)"""', text, re.DOTALL)) is None:
            continue
        said = docstring[1]
        theory = "Theory of operation" not in said or "\nTheory of operation\n-------" in said
        if not (said[0].strip() and theory) or re.search("``|:[a-z]+:`", said):
            wrong.append(str(path.relative_to(ROOT)))
    assert wrong == []


def test_every_extension_is_the_compiled_one() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ("hyperplane_nat", "bench")
        for path in sorted((ROOT / room).rglob("*.pyx"))
    ]
    assert modules
    assert [module for module in modules if not compiled(module)] == []


def test_every_extension_has_an_interface_file() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "hyperplane_nat").rglob("*.pyx"))
        if not path.with_suffix(".pyi").exists()
    ]
    assert not wrong


def test_constraints_name_an_exact_version_of_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {
        re.split("[>=]", text)[0].lower()
        for extra in ("dev", "aws")
        for text in [*project["dependencies"], *project["optional-dependencies"][extra]]
    }
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.partition("==") for line in lines if not line.startswith("#")]
    assert all(version for _, _, version in pinned)
    assert wanted <= {name.lower() for name, _, _ in pinned}


def test_version_is_said_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" not in project
    assert project["dynamic"] == ["version"]
    newest = re.search(
        r"^## (\d+\.\d+\.\d+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert newest is not None
    assert newest.group(1) == hyperplane_nat.__version__


def test_a_build_without_the_sources_of_the_extensions_fails(tmp_path: Path) -> None:
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for package in ("hyperplane_nat", "netns"):
        shutil.copytree(
            ROOT / package,
            tmp_path / package,
            ignore=shutil.ignore_patterns("*.pyx", "*.so", "__pycache__"),
        )
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "the .pyx sources are missing" in done.stderr


def test_the_demo_needs_no_tool_of_the_checks() -> None:
    """It runs with what the package itself depends on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = {text.partition(">=")[0].lower() for text in project["dependencies"]}
    others = {
        text.partition(">=")[0].lower().replace("-", "_")
        for extra in extras.values()
        for text in extra
    } - needed
    code = "import sys, bench.demo; print(*sorted(name.partition('.')[0] for name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert others.isdisjoint(set(done.stdout.lower().split()) - {"setuptools"})
