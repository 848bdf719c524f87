# SPDX-License-Identifier: Apache-2.0
"""`make dist`: what a user gets is built, installed elsewhere and used.

The source distribution is made from this tree. For each interpreter named (or found on the PATH)
a wheel is built from it, installed with its dependencies in a fresh environment outside the tree,
and a lab is brought up with what was installed, asked for a page and taken down. Whatever happens,
nothing is left but the files in `dist/`. Exit status: 0, or 1 with the step that failed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
PACKAGES = ("hyperplane_nat", "netns")
STEP_SECONDS = 1800


class DistError(Exception):
    """A step that failed; the text says which and what it printed."""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a program outside the tree's environment; what it printed."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV", "HYPERPLANE_EXTENSIONS")
    }
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=STEP_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise DistError(f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout


def say(text: str) -> None:
    """Report progress."""
    print(text, flush=True)


def tracked() -> set[str]:
    """The files of the project; without git the source distribution itself is the project."""
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {name for name in done.stdout.split("\0") if name and not name.startswith(".")}


def source_distribution(target: Path) -> Path:
    """Make the source distribution; it must have every file of the project."""
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", target, ".", cwd=ROOT)
    (archive,) = target.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    if missing := sorted(tracked() - names):
        raise DistError(f"{archive.name} lacks {len(missing)} files: {', '.join(missing[:10])}")
    return archive


def environment(interpreter: str, place: Path) -> Path:
    """A fresh virtual environment; its interpreter."""
    run(interpreter, "-m", "venv", place, cwd=place.parent)
    return place / "bin" / "python"


def install(python: Path, *what: str | Path) -> None:
    """Install the versions that the project is tested with."""
    run(python, "-m", "pip", "install", "-q", "-c", CONSTRAINTS, *what, cwd=python.parent)


def wheel(python: Path, archive: Path, target: Path) -> Path:
    """Build a wheel from the source distribution; it must have every extension, and no more."""
    install(python, "setuptools", "wheel", "Cython")
    run(
        *(python, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"),
        *("-w", target, archive),
        cwd=target,
    )
    (result,) = target.glob("*.whl")
    with zipfile.ZipFile(result) as file:
        names = file.namelist()
    compiled = {name.partition(".")[0] for name in names if name.endswith(".so")}
    wanted = {
        str(path.relative_to(ROOT).with_suffix(""))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.pyx")
    }
    if compiled != wanted:
        raise DistError(f"{result.name}: extensions differ: {sorted(compiled ^ wanted)}")
    page = ROOT / "hyperplane_nat" / "ui" / "page"
    if missing := {str(path.relative_to(ROOT)) for path in page.iterdir()} - set(names):
        raise DistError(f"{result.name} lacks {', '.join(sorted(missing))}")
    metadata = f"{'-'.join(result.name.split('-')[:2])}.dist-info"
    if strangers := {name.partition("/")[0] for name in names} - {*PACKAGES, metadata}:
        raise DistError(f"{result.name} would install {', '.join(sorted(strangers))}")
    return result


PROJECT = """
def test_page(hyperplane_lab):
    result = hyperplane_lab.exec("env-1", "curl", "-sS", "--max-time", "20", "http://10.0.1.80/peer")
    assert '"address": "10.0.1.10"' in result.stdout, result
    assert len(hyperplane_lab.flows(environment="env-1")) == 1
    hyperplane_lab.advance(1000)
    assert hyperplane_lab.flows(environment="env-1") == []
    assert hyperplane_lab.drops() == {}
"""

SHOP = """
import urllib.request


def checkout(event, context):
    with urllib.request.urlopen(event["url"], timeout=10) as answer:
        return {"status": answer.status, "name": context.function_name}
"""

HANDLER = """
import pytest
import shop
from hyperplane_nat.testing import Lab


@pytest.fixture(scope="session")
def hyperplane_config():
    lab = Lab().vpc("10.0.0.0/16").subnet("10.0.1.0/24").security_group("app")
    lab = lab.host("store", address="10.0.1.80").service("web", kind="http", host="store", port=80)
    return lab.function("checkout", handler=shop.checkout)


def test_handler(hyperplane_lab):
    told = hyperplane_lab.handle("checkout", {"url": "http://10.0.1.80/"})
    assert told == {"status": 200, "name": "checkout"}
"""

PROJECTS = {
    "page": {"test_page.py": PROJECT},
    "handler": {"shop.py": SHOP, "test_handler.py": HANDLER},
}


def use_plugin(python: Path, place: Path) -> None:
    """Projects that only have the wheel and pytest find the plugin, which leaves nothing."""
    for name, files in PROJECTS.items():
        project = place / name
        project.mkdir(mode=0o755)
        for file, text in files.items():
            (project / file).write_text(text, encoding="utf-8")
        said = run(python, "-m", "pytest", "-rs", cwd=project)
        if "1 passed" not in said:
            raise DistError(f"the plugin's test in {name} did not run: {said}")
    left = list(Path(tempfile.gettempdir()).glob("hyperplane-pytest-*/lab"))
    if left:
        raise DistError(f"left behind: {', '.join(map(str, left))}")


EXTRA = "import importlib.util, sys; sys.exit(importlib.util.find_spec('moto') is not None)"


def lack_extras(python: Path, place: Path) -> None:
    """What an extra brings is not there, and who needs it is told."""
    run(python, "-c", EXTRA, cwd=place)
    said = subprocess.run(
        [python.with_name("hyperplane-nat"), "aws"], cwd=place, capture_output=True, check=False
    )
    if said.returncode != 2 or b'pip install "hyperplane-nat[aws]"' not in said.stderr:
        raise DistError(f"without its extra, aws says: {said.stderr.decode()}")


def use(binaries: Path, place: Path) -> None:
    """A lab comes up, serves a page and goes, with what was installed and nothing of the tree."""
    name = f"dist-{secrets.token_hex(4)}"
    command = (binaries / "hyperplane-nat", "--lab", name)
    run(*command, "up", "-n", "2", "--set", "metrics.port=0", cwd=place)
    try:
        page = run(
            *command,
            *("exec", "env-2", "--", "curl", "-sS", "--max-time", "20", "http://10.0.1.80/peer"),
            cwd=place,
        )
        if '"address": "10.0.1.10"' not in page:
            raise DistError(f"the page is not the one expected: {page}")
    finally:
        run(*command, "down", cwd=place)
    left = [path.name for path in Path("/run/netns").glob(f"*{name}*")]
    if left:
        raise DistError(f"left behind: {', '.join(left)}")


def attempt(interpreter: str, archive: Path, target: Path) -> None:
    """Build, install and use, with one interpreter."""
    with tempfile.TemporaryDirectory(prefix="hyperplane-nat-dist-") as directory:
        place = Path(directory)
        version = run(interpreter, "--version", cwd=place).strip()
        say(f"{version}: building the wheel")
        (place / "wheels").mkdir()
        builder = environment(interpreter, place / "builder")
        built = wheel(builder, archive, place / "wheels")
        say(f"{version}: installing {built.name} and bringing a lab up with it")
        user = environment(interpreter, place / "user")
        install(user, built)
        lack_extras(user, place)
        use(user.parent, place)
        install(user, "pytest")
        use_plugin(user, place)
        shutil.copy(built, target)


def main(interpreters: list[str]) -> int:
    """Everything, for these interpreters."""
    if os.geteuid() != 0:
        print("try_dist: bringing a lab up needs root: run it as `sudo make dist`", file=sys.stderr)
        return 1
    target = ROOT / "dist"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    try:
        archive = source_distribution(target)
        for interpreter in interpreters:
            attempt(interpreter, archive, target)
    except (DistError, subprocess.TimeoutExpired) as error:
        print(f"try_dist: {error}", file=sys.stderr)
        return 1
    say(f"dist: {', '.join(sorted(path.name for path in target.iterdir()))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:] or [sys.executable]))
