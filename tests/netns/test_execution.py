# SPDX-License-Identifier: Apache-2.0
"""Programs run inside a namespace, and their caller outside."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import operator
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from netns import NetnsError, execution, namespace, processes
from netns.execution import Outcome, Output, ProgramError
from tests.netns.conftest import wait_for
from tests.netns.test_processes import inside, start

pytestmark = pytest.mark.races

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
def room(lab_name: str) -> Iterator[str]:
    """A namespace; whatever runs in it at the end is killed."""
    namespace.create([lab_name], lambda _name: None)
    yield lab_name
    processes.kill_all(lab_name)
    namespace.delete([lab_name])


def run(
    name: str,
    *command: str,
    stdin: bytes | None = None,
    timeout_seconds: float | None = 60,
    output_bytes_max: int = execution.OUTPUT_BYTES_MAX,
) -> Outcome:
    return asyncio.run(
        execution.run(
            name,
            command,
            env=ENVIRONMENT,
            stdin=stdin,
            timeout_seconds=timeout_seconds,
            output_bytes_max=output_bytes_max,
        )
    )


@pytest.mark.live
def test_output_and_status(room: str) -> None:
    outcome = run(room, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (outcome.status, outcome.stdout, outcome.stderr) == (3, b"out\n", b"err\n")
    assert not outcome.truncated
    assert not outcome.timed_out
    assert 0 < outcome.started_seconds < 10
    assert 0 < outcome.elapsed_seconds < 10


@pytest.mark.live
def test_it_runs_inside_and_the_caller_stays_outside(room: str) -> None:
    before = Path("/proc/thread-self/ns/net").stat().st_ino
    outcome = run(room, "stat", "-L", "-c", "%i", "/proc/self/ns/net")
    assert int(outcome.stdout) == namespace.path(room).stat().st_ino
    assert Path("/proc/thread-self/ns/net").stat().st_ino == before


@pytest.mark.live
def test_the_environment_is_the_one_given(room: str) -> None:
    assert run(room, "env").stdout == b"PATH=/usr/bin:/bin\n"


@pytest.mark.live
def test_the_umask_is_the_usual_one(room: str) -> None:
    before = os.umask(0o077)
    try:
        assert run(room, "sh", "-c", "umask").stdout == b"0022\n"
    finally:
        os.umask(before)


@pytest.mark.live
def test_a_signal_is_a_negative_status(room: str) -> None:
    outcome = run(room, "sh", "-c", "kill -TERM $$")
    assert outcome.status == -15
    assert not outcome.timed_out


@pytest.mark.live
@pytest.mark.parametrize("size", [0, 1, 65536, 3_000_000])
def test_input_comes_out_again(room: str, size: int) -> None:
    data = os.urandom(size)
    outcome = run(room, "cat", stdin=data, output_bytes_max=size)
    assert outcome.stdout == data
    assert not outcome.truncated


@pytest.mark.live
def test_input_that_nobody_reads(room: str) -> None:
    assert run(room, "true", stdin=bytes(1_000_000)).status == 0
    assert run(room, "sh", "-c", "exec <&-; sleep 0.1; echo x", stdin=bytes(1_000_000)).status == 0


@pytest.mark.live
def test_without_input_there_is_none(room: str) -> None:
    assert run(room, "cat").stdout == b""


@pytest.mark.live
def test_output_is_kept_up_to_a_limit(room: str) -> None:
    outcome = run(room, "sh", "-c", "head -c 300000 /dev/zero; echo e >&2", output_bytes_max=10)
    assert outcome.status == 0
    assert outcome.truncated
    assert outcome.stdout == bytes(10)
    assert outcome.stderr == b"e\n"
    assert not run(room, "printf", "0123456789", output_bytes_max=10).truncated
    assert run(room, "printf", "0123456789", output_bytes_max=9).truncated


def streamed(
    room: str,
    script: str,
    read: Callable[[Output, asyncio.Future[Outcome]], Awaitable[None]],
    timeout_seconds: float = 60,
) -> Outcome:
    """How a shell script ends whose output `read` has."""

    async def main() -> Outcome:
        with Output() as output:
            running = asyncio.ensure_future(
                execution.run(
                    room,
                    ["sh", "-c", script],
                    env=ENVIRONMENT,
                    timeout_seconds=timeout_seconds,
                    output=output,
                )
            )
            await output.started
            await read(output, running)
            return await running

    return asyncio.run(main())


@pytest.mark.live
def test_output_comes_while_the_program_runs(room: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    pieces: list[tuple[int, bytes]] = []

    async def read(output: Output, running: asyncio.Future[Outcome]) -> None:
        pieces.extend(await output.read(running))
        # It waits for this, so it runs.
        await asyncio.to_thread(go.write_text, "on\n")
        while more := await output.read(running):
            pieces.extend(more)

    outcome = streamed(room, f"echo first; read word < {go}; echo second >&2; exit 3", read)
    assert pieces == [(execution.STDOUT, b"first\n"), (execution.STDERR, b"second\n")]
    assert (outcome.status, outcome.stdout, outcome.truncated) == (3, b"", False)


@pytest.mark.live
def test_output_that_nobody_reads_stays_in_the_pipe(room: str) -> None:
    async def read(output: Output, running: asyncio.Future[Outcome]) -> None:
        # The program waits for a reader, and its timeout comes all the same.
        assert (await running).timed_out
        left = 0
        while pieces := await output.read(running):
            left += sum(len(data) for _, data in pieces)
        assert 0 < left <= 1 << 20

    assert streamed(room, "exec head -c 10000000 /dev/zero", read, 2).status == -signal.SIGKILL


@pytest.mark.live
def test_output_that_is_closed_early(room: str) -> None:
    async def read(output: Output, running: asyncio.Future[Outcome]) -> None:
        assert await output.read(running) == [(execution.STDOUT, b"x")]
        assert await output.read(running) == []
        assert not running.done()
        running.cancel()

    with pytest.raises(asyncio.CancelledError):
        streamed(room, "printf x; exec sleep 1000 >&- 2>&-", read)
    assert inside(room) == []


@pytest.mark.live
def test_output_that_is_not_taken_to_its_end_leaks_nothing(room: str) -> None:
    async def leave(output: Output, running: asyncio.Future[Outcome]) -> None:
        await output.read(running)
        running.cancel()

    async def stay(_output: Output, _running: asyncio.Future[Outcome]) -> None:
        pass

    streamed(room, "echo x", stay)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(asyncio.CancelledError):
            streamed(room, "exec cat /dev/zero", leave)
        streamed(room, "echo x", stay)
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.live
def test_programs_that_cannot_be_run(room: str, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program\n")
    runnable = tmp_path / "runnable"
    runnable.write_bytes(b"\x7fELFnot")
    runnable.chmod(0o755)
    for command, code in (
        (["no-such-program"], errno.ENOENT),
        (["/no/such/program"], errno.ENOENT),
        ([str(plain)], errno.EACCES),
        ([str(tmp_path)], errno.EACCES),
        ([str(plain / "more")], errno.ENOTDIR),
        ([str(runnable)], errno.ENOEXEC),
        (["true", "x" * 3_000_000], errno.E2BIG),
        (["true", "null\0byte"], errno.EINVAL),
        ([""], errno.ENOENT),
        ([], errno.ENOENT),
    ):
        with pytest.raises(ProgramError) as caught:
            run(room, *command)
        assert caught.value.code == code, command[:1]
        assert "\n" not in str(caught.value)
    assert inside(room) == []


@pytest.mark.live
def test_a_namespace_that_is_not_there(lab_name: str) -> None:
    with pytest.raises(NetnsError, match="cannot open namespace") as caught:
        run(lab_name, "true")
    assert not isinstance(caught.value, ProgramError)


# Each leaves a process behind that outlives it, in ever better hiding.
LEFT_BEHIND = {
    "child": "sleep 1000 & echo out",
    "without pipes": "sleep 1000 >/dev/null 2>&1 & echo out",
    "session": "setsid sleep 1000 & echo out",
    "daemon": "(setsid env -i sh -c 'sleep 1000 & exec sleep 1000' </dev/null >/dev/null 2>&1 &) "
    "; echo out",
    "deaf": "(trap '' HUP TERM INT; setsid sleep 1000) & echo out",
}


@pytest.mark.live
@pytest.mark.parametrize("how", LEFT_BEHIND)
def test_what_a_program_leaves_behind_is_killed(room: str, how: str) -> None:
    begin = time.monotonic()
    outcome = run(room, "sh", "-c", LEFT_BEHIND[how])
    assert (outcome.status, outcome.stdout, outcome.timed_out) == (0, b"out\n", False)
    assert inside(room) == []
    assert time.monotonic() - begin < 60


@pytest.mark.live
@pytest.mark.parametrize("how", LEFT_BEHIND)
def test_at_the_timeout_all_is_killed(room: str, how: str) -> None:
    script = f"trap '' TERM; {LEFT_BEHIND[how]}; sleep 1000"
    # Enough for what it does before it sleeps, on a loaded machine, too.
    outcome = run(room, "sh", "-c", script, timeout_seconds=2)
    assert (outcome.status, outcome.stdout, outcome.timed_out) == (-9, b"out\n", True)
    assert outcome.elapsed_seconds >= 2
    assert inside(room) == []


# How a program may try to outlive its end. Each names its processes by a word of their own.
ESCAPES = {
    "session": "setsid sh -c 'sleep 600; : {word}' &",
    "double fork": "(setsid sh -c '(sleep 600; : {word}) & sleep 600; : {word}' >&- 2>&- &)",
    "other network": "setsid unshare -n sh -c 'sleep 600; : {word}' &",
    "other processes": "setsid unshare -p -f sh -c 'sleep 600; : {word}' &",
    "other everything": "setsid unshare -n -p -f -m -u -i sh -c 'sleep 600; : {word}' &",
    "deaf": "(trap '' HUP TERM INT; setsid sh -c 'sleep 600; : {word}') &",
    "forks": f"setsid {sys.executable} -c '{{forks}}' {{word}} &",
}
# As many as it gets, which die young and are replaced by their children.
FORKS = """
import os, resource, time
resource.setrlimit(resource.RLIMIT_NPROC, (400, 400))
os.setresuid(65529, 65529, 65529)
end = time.monotonic() + 60
while time.monotonic() < end:
    try:
        if os.fork():
            time.sleep(0.01)
            os._exit(0)
        os.fork()
    except OSError:
        pass
"""


def called(word: str) -> list[int]:
    """The processes of the host that have a word in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and word.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def escape(room: str, how: str, *, at_the_timeout: bool) -> None:
    word = f"w{secrets.token_hex(8)}"
    script = ESCAPES[how].format(word=word, forks=FORKS)
    if at_the_timeout:
        outcome = run(room, "sh", "-c", f"{script}\nsleep 600", timeout_seconds=0.3)
    else:
        outcome = run(room, "sh", "-c", f"{script}\nsleep 0.3")
    assert (outcome.status, outcome.timed_out) == ((-9, True) if at_the_timeout else (0, False))
    assert called(word) == []


@pytest.mark.live
@pytest.mark.parametrize("at_the_timeout", [True, False], ids=["timeout", "end"])
@pytest.mark.parametrize("how", ESCAPES)
def test_nothing_escapes(room: str, how: str, *, at_the_timeout: bool) -> None:
    escape(room, how, at_the_timeout=at_the_timeout)
    assert inside(room) == []


@pytest.mark.live
@pytest.mark.long
@pytest.mark.parametrize("how", ESCAPES)
def test_nothing_escapes_of_a_hundred(room: str, how: str) -> None:
    for number in range(100):
        escape(room, how, at_the_timeout=number % 2 == 0)


@pytest.mark.live
def test_an_escape_is_one(room: str) -> None:
    # Without a process namespace of its own: what the tests above look for would be found.
    word = f"w{secrets.token_hex(8)}"
    script = ESCAPES["other network"].format(word=word)
    shell = start(room, "sh", "-c", f"{script} echo go; exec sleep 600")
    try:
        wait_for(lambda: bool(set(called(word)) - set(inside(room))))
        shell.kill()
        shell.wait()
        processes.kill_all(room)
        assert called(word)
    finally:
        for pid in called(word):
            os.kill(pid, signal.SIGKILL)
        assert shell.stdout is not None
        shell.stdout.close()


@pytest.mark.live
def test_a_program_sees_its_own_processes(room: str) -> None:
    script = "for p in /proc/[0-9]*; do echo ${p##*/}; done; echo $$ $(readlink /proc/self/ns/pid)"
    *numbers, last = run(room, "sh", "-c", script).stdout.decode().splitlines()
    assert set(numbers) <= {"1", "2", "3"}
    own, namespace_of_it = last.split()
    assert own == "2"
    assert namespace_of_it != os.readlink("/proc/self/ns/pid")  # noqa: PTH115


@pytest.mark.live
def test_mounts_stay_inside_and_those_of_the_host_are_seen(room: str, tmp_path: Path) -> None:
    assert run(room, "mount", "-t", "tmpfs", "none", str(tmp_path)).status == 0
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.live
def test_a_program_is_not_the_first_of_its_namespace(room: str) -> None:
    # That one would be spared signals it does not handle, and its own abort.
    for number in (signal.SIGTERM, signal.SIGABRT, signal.SIGSEGV, signal.SIGUSR1):
        assert run(room, "sh", "-c", f"kill -{int(number)} $$").status == -number
    assert run(room, "sh", "-c", "exit 139").status == 139


@pytest.mark.live
def test_who_was_there_before_stays(room: str) -> None:
    shell = start(room, "sh", "-c", "echo go; exec sleep 1000")
    try:
        # A start time is counted in hundredths of a second.
        while processes.now().ticks <= processes.start_time(shell.pid):
            pass
        assert run(room, "sh", "-c", LEFT_BEHIND["session"]).status == 0
        assert inside(room) == [shell.pid]
    finally:
        shell.kill()
        shell.wait()
        assert shell.stdout is not None
        shell.stdout.close()


@pytest.mark.live
def test_cancelled_it_leaves_nothing(room: str) -> None:
    async def main() -> None:
        task = asyncio.create_task(
            execution.run(room, ["sh", "-c", "setsid sleep 1000 & sleep 1000"], env=ENVIRONMENT)
        )
        await asyncio.to_thread(wait_for, lambda: len(inside(room)) == 4)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert inside(room) == []

    asyncio.run(main())


@pytest.mark.live
def test_many_at_once_and_the_loop_goes_on(room: str) -> None:
    async def main() -> None:
        runs = asyncio.gather(
            *(
                execution.run(name, ["sh", "-c", f"sleep 0.5; echo {name}"], env=ENVIRONMENT)
                for name in others
            )
        )
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1
            if not runs.done():
                asyncio.get_running_loop().call_later(0.001, turn)

        turn()
        outcomes = await runs
        assert [each.stdout.decode() for each in outcomes] == [f"{name}\n" for name in others]
        assert turns > 5

    others = [f"{room}-{n}" for n in range(20)]
    namespace.create(others, lambda _name: None)
    try:
        asyncio.run(main())
    finally:
        namespace.delete(others)


@pytest.mark.live
def test_runs_leak_nothing(room: str) -> None:
    def state() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    async def main() -> None:
        async def one() -> None:
            await execution.run(room, ["cat"], env=ENVIRONMENT, stdin=b"x")
            with pytest.raises(ProgramError):
                await execution.run(room, ["no-such-program"], env=ENVIRONMENT)

        before = state()
        for _ in range(50):
            await one()
        # The thread that hands the result over may need a moment to end.
        wait_for(lambda: all(map(operator.le, state(), before)))

    asyncio.run(main())


@pytest.mark.live
def test_true_takes_little_time(room: str) -> None:
    async def main() -> list[float]:
        took = []
        for _ in range(50):
            begin = time.perf_counter()
            outcome = await execution.run(room, ["/bin/true"], env=ENVIRONMENT)
            took.append(time.perf_counter() - begin - outcome.elapsed_seconds)
        return took

    # Measured on two idle cores: 3 ms. On busy ones one in fifty is not made to wait.
    took = asyncio.run(main())
    assert min(took) < 0.02, took


@pytest.mark.live
def test_a_run_survives_a_namespace_that_is_deleted(room: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)

    async def main() -> Outcome:
        task = asyncio.create_task(
            execution.run(
                room, ["sh", "-c", f"setsid sleep 1000 & read word < {go}"], env=ENVIRONMENT
            )
        )
        await asyncio.to_thread(wait_for, lambda: len(inside(room)) == 3)
        with namespace.opened(room) as descriptor:
            namespace.delete([room])
            await asyncio.to_thread(go.write_text, "on\n")
            outcome = await task
            assert processes.kill([processes.identity(descriptor)]) == 0
        return outcome

    assert asyncio.run(main()).status == 0


def test_the_interpreter_is_never_forked_whole() -> None:
    # A fork would copy the page tables of a big process while it holds the interpreter.
    assert getattr(subprocess, "_USE_VFORK", sys.version_info >= (3, 12))
