# SPDX-License-Identifier: Apache-2.0
"""up and down around a controller that a few lines of Python stand in for."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperplane_nat.cli import common, lifecycle, removal
from hyperplane_nat.config.lab import Config, load
from hyperplane_nat.controller import cleanup, record
from hyperplane_nat.controller.source import Source
from tests.cli.conftest import STATUS, Run
from tests.cli.fake_api import FakeApi

Stand = Callable[[str], None]

FUNCTIONS = """
[pool]
size = 16

[[function]]
name = "checkout"
networking = "none"
"""


@pytest.fixture(autouse=True)
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here needs root; the check for it has a test of its own."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Put a script in the controller's place; it has `config` and `say(**report)`."""
    real = subprocess.Popen

    def stand_in(body: str) -> None:
        script = textwrap.dedent(
            """
            import json, os, sys
            fd = int(sys.argv[sys.argv.index("--ready-fd") + 1])
            config = json.load(sys.stdin)
            def say(**report):
                os.write(fd, json.dumps(report).encode() + b"\\n")
            """
        ) + textwrap.dedent(body)

        def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
            assert command[:3] == [sys.executable, "-m", "hyperplane_nat.controller"]
            return real([sys.executable, "-c", script, *command[3:]], **options)

        monkeypatch.setattr(subprocess, "Popen", popen)

    return stand_in


def test_up_says_what_is_up(run: Run, controller: Stand) -> None:
    controller(
        """
        say(progress="environments", done=1, total=2)
        say(ready=True, status={"environments": config["lab"]["environments"], "interfaces": 1,
                                "metrics_url": "http://127.0.0.1:1/metrics"})
        """
    )
    result = run("up", "-n", "2", "--name", "other")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == (
        "lab other is up: 2 environments, 1 network interface\n"
        "metrics: http://127.0.0.1:1/metrics\n"
        "try: hyperplane-nat --lab other exec env-1 -- ping -c 3 10.0.1.80\n"
    )


def test_up_says_why_the_metrics_are_elsewhere(run: Run, controller: Stand) -> None:
    controller(
        'say(ready=True, status={"metrics_url": "http://127.0.0.1:9110/metrics", '
        '"metrics_port_passed_over": 9109})'
    )
    assert (
        "metrics: http://127.0.0.1:9110/metrics (the default port, 9109, was taken)\n"
        in run("up").stdout
    )


def test_up_with_functions_only_suggests_an_invocation(
    run: Run, controller: Stand, tmp_path: Path
) -> None:
    controller('say(ready=True, status={"metrics_url": "http://127.0.0.1:1/metrics"})')
    file = tmp_path / "lab.toml"
    file.write_text(FUNCTIONS)
    result = run("up", "-c", str(file))
    assert result.exit_code == 0, result.stderr
    assert result.stdout == (
        "lab default is up: 1 function, 16 environments\n"
        "metrics: http://127.0.0.1:1/metrics\n"
        "try: hyperplane-nat invoke checkout -- ip address\n"
    )


def keep(runtime: Path, lab: str, **overrides: object) -> Config:
    """Leave the record of a lab, as a controller does that was killed."""
    named = {"lab.name": lab, "lab.runtime_directory": str(runtime)}
    config = load(None, named | {name.replace("__", "."): each for name, each in overrides.items()})
    (runtime / lab).mkdir()
    record.write(runtime / lab / "lab.json", config)
    return config


ECHOES = 'say(ready=True, status={"metrics_url": json.dumps([config, sys.argv[3:]])})'


def test_up_without_a_configuration_takes_over_the_one_that_stands(
    run: Run, controller: Stand, runtime: Path
) -> None:
    kept = keep(runtime, "other", lab__environments=3, metrics__port=0)
    controller(ECHOES)
    result = run("up", "--lab", "other")
    assert result.exit_code == 0, result.stderr
    given, options = json.loads(result.stdout.splitlines()[1].removeprefix("metrics: "))
    assert Config.model_validate(given) == kept
    assert options == []


def test_up_with_a_configuration_asks_for_it(
    run: Run, controller: Stand, runtime: Path, tmp_path: Path
) -> None:
    keep(runtime, "other", lab__environments=3)
    controller(ECHOES)
    file = tmp_path / "lab.toml"
    file.write_text("[flows]\nmax = 4096\n")
    for options in (["-c", str(file)], ["-n", "100"], ["--set", "flows.max=4096"]):
        result = run("up", "--lab", "other", *options, "--replace")
        assert result.exit_code == 0, result.stderr
        given, told = json.loads(result.stdout.splitlines()[1].removeprefix("metrics: "))
        assert Config.model_validate(given).lab.environments == 100
        assert told[0] == "--replace"
        # Where the controller finds it again, with what was said besides.
        sources = [Source.decode(word) for word in told[2:]]
        assert [source.path for source in sources] == ([file] if "-c" in options else [])
        assert all(source.load() == Config.model_validate(given) for source in sources)


LOCKED = """
import fcntl, os, signal, socket, sys
lock = open(sys.argv[1] + "/controller.pid", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print(os.getpid(), file=lock, flush=True)
control = socket.socket(socket.AF_UNIX)
if sys.argv[2:]:
    control.bind(sys.argv[1] + "/control.sock")
    control.listen()
print("locked", flush=True)
signal.pause()
"""


@contextlib.contextmanager
def locked(runtime: Path, *serves: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has the lock of lab `default`, and with a word more its socket."""
    (runtime / "default").mkdir()
    command = [sys.executable, "-c", LOCKED, str(runtime / "default"), *serves]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("stopped", [False, True])
def test_down_ends_a_controller_that_only_starts(
    run: Run, runtime: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    monkeypatch.setattr(cleanup, "clean", lambda *_args: [])
    with locked(runtime) as process:
        if stopped:
            process.send_signal(signal.SIGSTOP)
        result = run("down")
        assert (result.exit_code, result.stdout) == (0, "lab default is down\n")
        assert not _running(process.pid)


def test_down_kills_a_controller_that_does_not_answer(
    run: Run, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, say: its socket takes connections, and nobody reads what they ask."""
    cleaned: list[tuple[str, ...]] = []

    def clean(*args: str) -> list[str]:
        cleaned.append(args)
        return []

    monkeypatch.setattr(cleanup, "clean", clean)
    monkeypatch.setattr(removal, "ANSWER_SECONDS", 0.2)
    with locked(runtime, "and listens") as process:
        process.send_signal(signal.SIGSTOP)
        result = run("down")
        assert (result.exit_code, result.stdout) == (0, "lab default is down\n")
        assert result.stderr == (
            f"the controller of lab default (pid {process.pid}) has not answered for 0.2 seconds "
            "and is killed\n"
        )
        assert not _running(process.pid)
    assert cleaned == [("default", str(runtime), "/dev/shm")]


def test_up_passes_progress_on(controller: Stand, runtime: Path) -> None:
    controller(
        """
        say(progress="environments", done=1, total=2)
        say(progress="environments", done=2, total=2)
        say(ready=True, status={"pid": 1})
        """
    )
    seen: list[tuple[str, int, int]] = []
    config = load(None, {"lab.runtime_directory": str(runtime)})
    status = lifecycle.start(config, lambda *progress: seen.append(progress))
    assert seen == [("environments", 1, 2), ("environments", 2, 2)]
    assert status == {"pid": 1}


def test_the_controllers_own_error_is_ours(run: Run, controller: Stand, runtime: Path) -> None:
    controller('say(error="no tmpfs (mount one)", exit=2); sys.exit(2)')
    result = run("up")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "hyperplane-nat: no tmpfs (mount one)\n"
    assert not runtime.exists(), "left behind"
    runtime.mkdir()


def test_a_controller_that_dies_is_quoted(run: Run, controller: Stand, runtime: Path) -> None:
    controller('raise ValueError("who expected this")')
    result = run("up")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "hyperplane-nat: the controller died while starting: ValueError: who expected this "
        "(run it with --foreground to watch)\n"
    )
    assert not runtime.exists(), "left behind"
    runtime.mkdir()


def test_a_silent_death_tells_its_status(run: Run, controller: Stand, runtime: Path) -> None:
    controller("sys.exit(7)")
    assert "exit status 7, nothing in its log" in run("up").stderr
    runtime.mkdir()


def test_a_failed_start_keeps_an_earlier_log(run: Run, controller: Stand, runtime: Path) -> None:
    log = runtime / "default" / "controller.log"
    log.parent.mkdir()
    log.write_text("earlier\n")
    controller('raise ValueError("later")')
    assert "later" in run("up").stderr
    assert log.read_text() == "earlier\n"


def test_an_interrupt_ends_the_controller(controller: Stand, runtime: Path) -> None:
    controller(
        """
        import signal
        say(progress="environments", done=os.getpid(), total=2)
        signal.pause()
        """
    )
    pids: list[int] = []

    def interrupt(_what: str, done: int, _total: int) -> None:
        pids.append(done)
        raise KeyboardInterrupt

    config = load(None, {"lab.runtime_directory": str(runtime)})
    with pytest.raises(KeyboardInterrupt):
        lifecycle.start(config, interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    runtime.mkdir()


def test_up_twice_is_refused(run: Run, api: FakeApi) -> None:
    result = run("up")
    assert result.exit_code == 2
    assert "lab 'default' is already running, pid 4711 (" in result.stderr


def test_a_runtime_directory_that_cannot_be_written(run: Run, runtime: Path) -> None:
    (runtime / "default").touch()
    result = run("up")
    assert result.exit_code == 2
    assert "default is no directory (remove it, or choose another directory)" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("verb", ["up", "down", "exec env-1 -- true", "coldstart"])
def test_without_root(run: Run, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = run(*verb.split())
    word = verb.split()[0]
    assert result.exit_code == (125 if word == "exec" else 2)
    assert result.stderr == f"hyperplane-nat: {word} needs root (run: sudo hyperplane-nat {verb})\n"


def test_a_wrong_configuration_comes_before_missing_root(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "lab.environments" in run("up", "--set", "lab.environments=ten").stderr


def test_down_asks_the_controller_and_waits_for_its_end(run: Run, api: FakeApi) -> None:
    with subprocess.Popen(["sleep", "0.2"]) as process:
        api.answers["/v1/status"] = STATUS | {"pid": process.pid}
        api.answers["/v1/shutdown"] = {}
        result = run("down")
        assert (result.exit_code, result.stdout) == (0, "lab default is down\n")
        assert process.poll() is not None or not _running(process.pid)
    assert api.requests == ["GET /v1/status", "POST /v1/shutdown"]


def test_down_does_not_mind_an_answer_that_the_end_cuts_short(run: Run, api: FakeApi) -> None:
    with subprocess.Popen(["sleep", "0.2"]) as process:
        api.answers["/v1/status"] = STATUS | {"pid": process.pid}

        def ends(_body: object) -> dict[str, str]:
            api.cut_short = True
            return {"state": "down"}

        api.answers["/v1/shutdown"] = ends
        result = run("down")
        assert (result.exit_code, result.stdout) == (0, "lab default is down\n")
        assert not _running(process.pid)


def _running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_down_does_not_wait_for_ever(
    run: Run, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The answer to the request has to come within it, too.
    monkeypatch.setattr(removal, "SHUTDOWN_SECONDS", 2.0)
    with subprocess.Popen(["sleep", "60"]) as process:
        api.answers["/v1/status"] = STATUS | {"pid": process.pid}
        api.answers["/v1/shutdown"] = {}
        result = run("down")
        process.kill()
    assert result.exit_code == 2
    assert "has not stopped within 2 seconds" in result.stderr


@pytest.mark.parametrize("removed", [[], ["namespace hp-default-gw"]])
def test_down_without_a_controller_cleans_up(
    run: Run, runtime: Path, monkeypatch: pytest.MonkeyPatch, removed: list[str]
) -> None:
    asked: list[tuple[str, str, str]] = []

    def clean(lab: str, runtime_directory: str, state_directory: str) -> list[str]:
        asked.append((lab, runtime_directory, state_directory))
        return removed

    monkeypatch.setattr(cleanup, "clean", clean)
    result = run("down")
    assert result.exit_code == 0
    if removed:
        assert "  namespace hp-default-gw\n" in result.stdout
    else:
        assert result.stdout == "lab default: nothing is running\n"
    assert asked == [("default", str(runtime), "/dev/shm")]


def test_down_finds_the_state_file_of_the_configuration_applied(runtime: Path) -> None:
    applied = load(None, {"lab.state_directory": "/tmp/elsewhere"})
    (runtime / "default").mkdir()
    record.write(runtime / "default" / "lab.json", applied)
    assert removal.state_directory("default", runtime) == "/tmp/elsewhere"
    (runtime / "default" / "lab.json").write_text("{")
    assert removal.state_directory("default", runtime) == Config().lab.state_directory


def test_common_numbers_for_people() -> None:
    assert [common.byte_count(value) for value in (0, 1023, 1536, 5 << 30, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 GiB",
        "3.0 TiB",
    ]
    assert [common.duration(value) for value in (0.9, 59, 200, 18600, 273600)] == [
        "0 s",
        "59 s",
        "3 min 20 s",
        "5 h 10 min",
        "3 d 4 h",
    ]
    assert [common.latency(value) for value in (0, 0.00084, 0.0142, 0.35, 1.25, 12)] == [
        "0.00 ms",
        "0.84 ms",
        "14.20 ms",
        "350 ms",
        "1250 ms",
        "12.0 s",
    ]


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 100))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(
    values: list[float], percent: float
) -> None:
    found = common.percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100
    below = [value for value in values if value < found]
    assert not below or len(below) < len(values) * percent / 100


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        common.percentile([], 50)
