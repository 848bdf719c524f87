# SPDX-License-Identifier: Apache-2.0
"""Where a runtime runs: its namespace, mounts and user, and what cannot be started there."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hyperplane_nat.runtime.code import OWN_RUNTIME
from hyperplane_nat.runtime.sandbox import EntrypointError, Sandbox, Started
from netns import NetnsError, files, launch, namespace, processes
from netns.cgroups import Family, Mounts

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


@contextlib.contextmanager
def made(tmp_path: Path, lab_name: str) -> Iterator[Sandbox]:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "secret").touch()
    groups = Family(Mounts.find(), lab_name)
    groups.make()
    uploads = hidden / "uploads"
    uploads.mkdir(mode=0o700)
    files.write(hidden, nameserver="169.254.169.253", hostname="169.254.100.2")
    yield Sandbox(uid=UID, hidden=[hidden], groups=groups, uploads=uploads, etc=hidden)
    groups.remove()


@pytest.fixture
def box(tmp_path: Path, lab_name: str) -> Iterator[Sandbox]:
    with made(tmp_path, lab_name) as sandbox:
        yield sandbox


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


def start(
    box: Sandbox,
    name: str,
    code: Path,
    runtime: str,
    variables: dict[str, str],
    layers: Sequence[Path] = (),
) -> Started:
    return box.start(
        name,
        code,
        runtime,
        variables,
        memory_mb=128,
        ephemeral_storage_mb=512,
        layers=layers,
    )


def said(started: Started) -> str:
    """All that it writes until it ends."""
    text = b""
    while True:
        select.select([started.output], [], [], 60)
        if not (piece := os.read(started.output, 65536)):
            os.close(started.output)
            started.process.wait(30)
            return text.decode()
        text += piece


def test_it_sees_its_code_and_its_namespace(room: str, box: Sandbox, tmp_path: Path) -> None:
    text = LOOK.replace("$1", str(tmp_path))
    started = start(box, room, code(tmp_path, text), "provided", VARIABLES)
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


def test_an_installation_below_tmp(
    room: str, lab_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as installed:
        monkeypatch.setattr(launch, "INIT", Path(shutil.copy(launch.INIT, installed)))
        with made(tmp_path, lab_name) as box:
            text = f"#!/bin/sh\nls -d {installed} 2>&1; ls /var/.init; /var/.init 2>&1; echo here\n"
            started = start(box, room, code(tmp_path, text), "provided", VARIABLES)
            lines = said(started).splitlines()
    # A handler has a /tmp of its own, and no use of what has started it.
    assert "No such file" in lines[0]
    assert "Permission denied" in lines[-2]
    assert lines[-1] == "here"


def test_the_python_of_this_program_and_its_client(room: str, box: Sandbox, tmp_path: Path) -> None:
    program = "import json, sys, awslambdaric\nprint(json.dumps([sys.prefix, sys.argv]))\n"
    made = code(tmp_path, None)
    # In the place of the client: what is in the code comes first in Python's path.
    (made / "awslambdaric").mkdir()
    (made / "awslambdaric" / "__init__.py").touch()
    (made / "awslambdaric" / "__main__.py").write_text(program)
    started = start(box, room, made, OWN_RUNTIME, VARIABLES)
    prefix, arguments = json.loads(said(started))
    assert prefix in ("/usr", "/var/lang")
    assert arguments[1:] == ["app.handler"]


def test_layers_are_opt_and_before_the_runtimes_own_modules(
    room: str, box: Sandbox, tmp_path: Path
) -> None:
    made = code(tmp_path, None)
    (made / "awslambdaric").mkdir()
    (made / "awslambdaric" / "__init__.py").touch()
    program = (
        "import json, os, sys, layered; "
        "print(json.dumps([layered.VALUE, sys.path[:4], sorted(os.listdir('/opt')), "
        "os.access('/opt', os.W_OK)]))"
    )
    (made / "awslambdaric" / "__main__.py").write_text(program)
    one, two = tmp_path / "private" / "one", tmp_path / "private" / "two.zip"
    (one / "python").mkdir(parents=True)
    (one / "python" / "layered.py").write_text("VALUE = 'one'")
    with zipfile.ZipFile(two, "w") as file:
        file.writestr("data", "x")
    for layers, names in (([one], ["python"]), ([one, two], ["data", "python"])):
        started = start(box, room, made, OWN_RUNTIME, VARIABLES, layers)
        value, paths, seen, writable = json.loads(said(started))
        assert paths == [
            "/var/task",
            f"/opt/python/lib/{OWN_RUNTIME}/site-packages",
            "/opt/python",
            "/var/runtime",
        ]
        assert (value, seen, writable) == ("one", names, False)


def test_a_bootstrap_in_a_layer(room: str, box: Sandbox, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / "bootstrap").write_text("#!/bin/sh\necho from $0\n")
    (layer / "bootstrap").chmod(0o755)
    started = start(box, room, code(tmp_path, None), "provided", VARIABLES, [layer])
    assert said(started) == "from /opt/bootstrap\n"
    with pytest.raises(EntrypointError, match="none: cannot be read"):
        start(box, room, code(tmp_path / "b", None), "provided", VARIABLES, [tmp_path / "none"])


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
        start(box, room, code(tmp_path, text, mode), runtime, VARIABLES)


def test_code_that_nobody_else_may_read(room: str, box: Sandbox, tmp_path: Path) -> None:
    made = code(tmp_path, None)
    made.chmod(0o700)
    with pytest.raises(EntrypointError, match=f"user {UID} cannot read it"):
        start(box, room, made, OWN_RUNTIME, VARIABLES)


def test_code_that_is_missing(room: str, box: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(EntrypointError, match="cannot be read"):
        start(box, room, tmp_path / "none.zip", "provided", VARIABLES)


def test_a_namespace_that_is_missing(box: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(NetnsError):
        start(box, "hp-none-here", code(tmp_path, "#!/bin/sh\n"), "provided", VARIABLES)


def test_the_runtime_api_listens_before_it_begins(room: str, box: Sandbox, tmp_path: Path) -> None:
    subprocess.run(["ip", "-netns", room, "link", "set", "lo", "up"], check=True)
    made = code(tmp_path, "#!/bin/bash\n: < /dev/tcp/127.0.0.1/9001 && echo connected\n")

    def begun(code: Path) -> Started:
        return box.start(
            *(room, code, "provided", VARIABLES),
            memory_mb=128,
            ephemeral_storage_mb=512,
            listen=True,
        )

    with pytest.raises(EntrypointError):
        begun(tmp_path / "none.zip")
    # What could not be started has left no listener.
    started = begun(made)
    assert started.listener is not None
    with started.listener:
        assert said(started) == "connected\n"


def test_it_may_open_as_many_files_as_on_aws(room: str, box: Sandbox, tmp_path: Path) -> None:
    made = code(tmp_path, "#!/bin/sh\nulimit -Sn; ulimit -Hn\n")
    started = start(box, room, made, "provided", VARIABLES)
    assert said(started).split() == ["1024", "1024"]


def test_kill_ends_what_it_has_started(room: str, box: Sandbox, tmp_path: Path) -> None:
    text = "#!/bin/sh\nsetsid sleep 600 &\nsetsid sleep 600 &\necho started\nsleep 600\n"
    started = start(box, room, code(tmp_path, text), "provided", VARIABLES)
    select.select([started.output], [], [], 60)
    box.kill(started)
    assert said(started) == "started\n"
    assert processes.kill_all(room) == 0
    # Again, when all is over.
    box.kill(started)


WRITE = """#!/bin/sh
find / -xdev -type d -writable 2>/dev/null | grep -v '^/proc'
for place in /dev/shm /var/tmp /run /etc /usr; do
    touch "$place/written" 2>/dev/null && echo "$place can be written to"
done
head -c 67108864 /dev/zero > /tmp/large
[ "$(stat -c %s /tmp/large)" = 67108864 ] && echo whole
stat -f -c '%b %S' /tmp
"""


def test_nothing_can_be_written_but_a_tmp_of_the_size_that_is_asked_for(
    room: str, box: Sandbox, tmp_path: Path
) -> None:
    # The kernel of the tests has it.
    assert box.missing == []
    made = code(tmp_path, WRITE)
    started = box.start(room, made, "provided", VARIABLES, memory_mb=256, ephemeral_storage_mb=600)
    *lines, whole, size = said(started).splitlines()
    assert lines == ["/tmp"]
    assert whole == "whole"
    blocks, block_bytes = map(int, size.split())
    assert blocks * block_bytes == 600 << 20


def test_a_full_tmp_is_the_handlers_own_affair(room: str, box: Sandbox, tmp_path: Path) -> None:
    text = "#!/bin/sh\nhead -c 600m /dev/zero > /tmp/large\nstat -c %s /tmp/large\n"
    made = code(tmp_path, text)
    started = box.start(room, made, "provided", VARIABLES, memory_mb=2048, ephemeral_storage_mb=512)
    *_, size = said(started).splitlines()
    assert int(size) == 512 << 20
    box.kill(started)


def test_it_sees_no_process_of_the_host(room: str, box: Sandbox, tmp_path: Path) -> None:
    text = "#!/bin/sh\nfor p in /proc/[0-9]*; do echo ${p##*/}; done; kill -9 1; echo $$\n"
    started = start(box, room, code(tmp_path, text), "provided", VARIABLES)
    *numbers, own = [line for line in said(started).splitlines() if line.isdigit()]
    assert numbers == ["1", "2"]
    assert own == "2"


def test_names_are_those_of_the_network(box: Sandbox, room: str, tmp_path: Path) -> None:
    text = "#!/bin/sh\ncat /etc/resolv.conf /etc/hostname; hostname; grep ^hosts /etc/nsswitch.conf"
    before = Path("/etc/resolv.conf").read_bytes()
    told = said(start(box, room, code(tmp_path, text), "provided", {"PATH": "/usr/bin:/bin"}))
    assert told.splitlines() == [
        "nameserver 169.254.169.253",
        "169.254.100.2",
        "169.254.100.2",
        "hosts: files dns",
    ]
    assert Path("/etc/resolv.conf").read_bytes() == before


def test_former_code_is_given_back_when_nobody_uses_it(
    room: str, box: Sandbox, tmp_path: Path
) -> None:
    path, layer, plain = (tmp_path / name for name in ("code.zip", "layer.zip", "plain"))
    plain.mkdir()

    def built(text: str) -> None:
        with zipfile.ZipFile(path, "w") as file:
            member = zipfile.ZipInfo("bootstrap")
            member.external_attr = 0o755 << 16
            file.writestr(member, f"#!/bin/sh\n{text}\n")
            # Does not get smaller, and is as much as there is in a page.
            file.writestr("data", os.urandom(4 << 20))

    def used() -> int:
        """What the memory of the template holds, in MiB, as an environment sees it."""
        made = code(tmp_path / "look", "#!/bin/sh\nstat -f -c '%b %f %S' /var\n")
        started = start(box, room, made, "provided", VARIABLES)
        blocks, free, size = map(int, said(started).split())
        box.kill(started)
        (made / "bootstrap").unlink()
        made.rmdir()
        made.parent.rmdir()
        return (blocks - free) * size >> 20

    with zipfile.ZipFile(layer, "w") as file:
        file.writestr("data", os.urandom(4 << 20))
    before = used()
    built("cat; sleep 600")
    first = start(box, room, path, "provided", VARIABLES, [layer, plain])
    assert used() == before + 8
    # Two environments have the same.
    second = start(box, room, path, "provided", VARIABLES)
    built("sleep 600")
    box.tidy()
    assert used() == before + 8, "environments use it"
    box.kill(second)
    box.kill(second)
    box.tidy()
    assert used() == before + 8, "one of them still does"
    box.kill(first)
    box.tidy()
    assert used() == before + 4, "the layers are as they were"
    third = start(box, room, path, "provided", VARIABLES, [layer, plain])
    box.kill(third)
    box.tidy()
    assert used() == before + 8, "the next one begins with it"
    (plain / "new").touch()
    path.unlink()
    with pytest.raises(EntrypointError, match="cannot be read"):
        start(box, room, path, "provided", VARIABLES, [layer])
    box.tidy()
    assert used() == before
