# SPDX-License-Identifier: Apache-2.0
"""Where a runtime runs: its namespace, mounts and user, and what cannot be started there."""

from __future__ import annotations

import json
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperplane_nat.runtime.code import OWN_RUNTIME
from hyperplane_nat.runtime.sandbox import EntrypointError, Sandbox, Started
from netns import NetnsError, namespace, processes

pytestmark = pytest.mark.live

UID = 65_528
VARIABLES = {"PATH": "/usr/bin:/bin", "_HANDLER": "app.handler"}
LOOK = """#!/bin/sh
id -u; pwd; ls /var/task; ls -A "$1/hidden" /run/netns /tmp; readlink /proc/self/ns/net; umask
touch /var/task/new 2>/dev/null && echo written
"""


@pytest.fixture
def room(lab_name: str) -> Iterator[str]:
    namespace.create([lab_name], lambda _name: None)
    yield lab_name
    processes.kill_all(lab_name)
    namespace.delete([lab_name])


@pytest.fixture
def box(tmp_path: Path) -> Sandbox:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "secret").touch()
    return Sandbox(uid=UID, hidden=[hidden])


def code(directory: Path, text: str | None, mode: int = 0o755) -> Path:
    """A directory with a `bootstrap`, below one that nobody else may enter."""
    made = directory / "private" / "code"
    made.mkdir(parents=True)
    made.parent.chmod(0o700)
    made.chmod(0o755)
    if text is not None:
        (made / "bootstrap").write_text(text)
        (made / "bootstrap").chmod(mode)
    return made


def said(started: Started) -> str:
    """All that it writes until it ends."""
    text = b""
    while True:
        select.select([started.output], [], [], 20)
        if not (piece := os.read(started.output, 65536)):
            os.close(started.output)
            started.process.wait(20)
            return text.decode()
        text += piece


def test_it_sees_its_code_and_its_namespace(room: str, box: Sandbox, tmp_path: Path) -> None:
    text = LOOK.replace("$1", str(tmp_path))
    started = box.start(room, code(tmp_path, text), "provided", VARIABLES)
    with namespace.opened(room) as descriptor:
        inside = processes.identity(descriptor)
    # The hidden directory is below the test's, which only root may enter.
    lines = [line for line in said(started).splitlines() if line]
    assert lines[:3] == [str(UID), "/var/task", "bootstrap"]
    assert "secret" not in lines
    assert room not in lines
    assert lines[-2:] == [inside, "0022"]
    assert not (tmp_path / "private" / "code" / "new").exists()
    # Nothing of it was made on the host.
    assert not Path("/var/.code").exists()


def test_the_python_of_this_program_and_its_client(room: str, box: Sandbox, tmp_path: Path) -> None:
    program = "import json, sys, awslambdaric\nprint(json.dumps([sys.prefix, sys.argv]))\n"
    made = code(tmp_path, None)
    # In the place of the client: what is in the code comes first in Python's path.
    (made / "awslambdaric").mkdir()
    (made / "awslambdaric" / "__init__.py").touch()
    (made / "awslambdaric" / "__main__.py").write_text(program)
    started = box.start(room, made, OWN_RUNTIME, VARIABLES)
    prefix, arguments = json.loads(said(started))
    assert prefix in ("/usr", "/var/lang")
    assert arguments[1:] == ["app.handler"]


@pytest.mark.parametrize(
    ("text", "mode", "runtime", "says"),
    [
        (None, 0o755, "provided", "Couldn't find valid bootstrap"),
        ("#!/bin/sh\n", 0o644, "provided", "fork/exec /var/task/bootstrap: permission denied"),
        ("#!/bin/sh\n", 0o700, "provided", f"user {UID} must be able to read the code"),
        ("#!/none\n", 0o755, "provided", "fork/exec /var/task/bootstrap: no such file"),
        (None, 0o755, "python3.99", "this host has no python3.99"),
    ],
)
def test_what_cannot_be_started(
    room: str, box: Sandbox, tmp_path: Path, text: str | None, mode: int, runtime: str, says: str
) -> None:
    with pytest.raises(EntrypointError, match=says):
        box.start(room, code(tmp_path, text, mode), runtime, VARIABLES)


def test_code_that_nobody_else_may_read(room: str, box: Sandbox, tmp_path: Path) -> None:
    made = code(tmp_path, None)
    made.chmod(0o700)
    with pytest.raises(EntrypointError, match=f"user {UID} cannot read it"):
        box.start(room, made, OWN_RUNTIME, VARIABLES)


def test_code_that_is_missing(room: str, box: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(EntrypointError, match="cannot be read"):
        box.start(room, tmp_path / "none.zip", "provided", VARIABLES)


def test_a_namespace_that_is_missing(box: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(NetnsError):
        box.start("hp-none-here", code(tmp_path, "#!/bin/sh\n"), "provided", VARIABLES)
    with pytest.raises(NetnsError):
        box.listen("hp-none-here")


def test_kill_ends_what_it_has_started(room: str, box: Sandbox, tmp_path: Path) -> None:
    text = "#!/bin/sh\nsetsid sleep 600 &\nsetsid sleep 600 &\necho started\nsleep 600\n"
    started = box.start(room, code(tmp_path, text), "provided", VARIABLES)
    select.select([started.output], [], [], 20)
    box.kill(room, started)
    assert said(started) == "started\n"
    assert processes.kill_all(room) == 0
    # Again, when all is over.
    box.kill(room, started)
