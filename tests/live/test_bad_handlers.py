# SPDX-License-Identifier: Apache-2.0
"""Handlers that fail before they begin, flood their log or are asked by a thousand at once.

Each has AWS's error, its environment is replaced, and others are served meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import statistics
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hyperplane_nat.runtime.logs import FILE_BYTES_MAX, log_path
from tests.live.conftest import Launch
from tests.live.lab import Lab, wait_until
from tests.live.test_handlers import client, error, invoke
from tests.live.test_runtime import front_pid

pytestmark = [pytest.mark.live, pytest.mark.slow]

MODULES = {
    "app": """
import os, time
def handler(event, context):
    if event.get("do") == "flood":
        while True:
            os.write(1, b"\\n" * 65536)
    time.sleep(event.get("seconds", 0))
    return os.readlink("/proc/self/ns/net")
""",
    "wrong": "def handler(event, context:\n",
    "raising": "raise LookupError('nothing there')\n",
    "leaving": "import sys\nsys.exit(3)\n",
    "quitting": "import os\nos._exit(0)\n",
    "hanging": "import subprocess, time\nsubprocess.Popen(['sleep', '613'])\ntime.sleep(613)\n",
}
FAILING = {
    "nothing": (
        "app.nothing",
        "Runtime.HandlerNotFound",
        "Handler 'nothing' missing on module 'app'",
    ),
    "syntax": ("wrong.handler", "Runtime.UserCodeSyntaxError", "Syntax error in module 'wrong': "),
    "missing": (
        "none.handler",
        "Runtime.ImportModuleError",
        "Unable to import module 'none': No module named 'none'",
    ),
    "builtin": (
        "sys.handler",
        "Runtime.BuiltInModuleConflict",
        "Cannot use built-in module sys as a handler module",
    ),
    "raising": ("raising.handler", "LookupError", "nothing there"),
    "leaving": (
        "leaving.handler",
        "Runtime.ExitError",
        "Error: Runtime exited with error: exit status 3",
    ),
    "quitting": (
        "quitting.handler",
        "Runtime.ExitError",
        "Error: Runtime exited without providing a reason",
    ),
}
TOML = """
[lifecycle]
time_scale = 100
warm_idle_seconds = 60000

[pool]
size = 6
"""
FUNCTION = """
[[function]]
name = "{name}"
networking = "none"
code = "{code}"
handler = "{handler}"
timeout_seconds = 5
"""


@pytest.fixture(scope="module")
def lab(launch_shared: Launch, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    code = tmp_path_factory.mktemp("code")
    code.chmod(0o755)
    for name, text in MODULES.items():
        (code / f"{name}.py").write_text(text, encoding="utf-8")
    handlers = {name: handler for name, (handler, _, _) in FAILING.items()}
    handlers |= {"good": "app.handler", "hanging": "hanging.handler"}
    text = TOML + "".join(
        FUNCTION.format(name=name, code=code, handler=handler) for name, handler in handlers.items()
    )
    # Twenty invocations of another one are shorter than its flood, also where all are slow.
    flooding = FUNCTION.format(name="flooding", code=code, handler="app.handler")
    text += flooding.replace("timeout_seconds = 5", "timeout_seconds = 15")
    limited = FUNCTION.format(name="limited", code=code, handler="app.handler")
    lab = launch_shared(environments=0, toml=f"{text}{limited}reserved_concurrency = 1\n")
    lab.cli("wait")
    return lab


@pytest.fixture(scope="module")
def hung(lab: Lab) -> tuple[threading.Thread, list[dict[str, Any]]]:
    """An invocation whose initialization hangs, and its answer later: ten seconds, and five."""
    answers: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: answers.append(invoke(lab, "hanging")))
    thread.start()
    return thread, answers


def environment(answer: dict[str, Any]) -> str:
    headers: dict[str, str] = answer["ResponseMetadata"]["HTTPHeaders"]
    return headers["x-hyperplane-environment"]


@pytest.mark.usefixtures("hung")
@pytest.mark.parametrize("name", FAILING)
def test_an_initialization_that_fails(lab: Lab, name: str) -> None:
    _, kind, text = FAILING[name]
    before = invoke(lab, "good")
    first, second = invoke(lab, name), invoke(lab, name)
    for answer in (first, second):
        told = error(answer)
        assert told[0] == kind
        assert text in told[1]
        assert f"Phase: init\tStatus: error\tError Type: {kind}" in answer["log"]
        assert "\tStatus: error" in answer["log"].splitlines()[-1]
    assert environment(first) != environment(second)
    # Another function's environment is as it was.
    after = invoke(lab, "good")
    assert (after["payload"], environment(after)) == (before["payload"], environment(before))


@pytest.mark.usefixtures("hung")
def test_a_flooded_log_delays_no_other(lab: Lab) -> None:
    def median() -> float:
        seconds = []
        for _ in range(20):
            begin = time.monotonic()
            assert "FunctionError" not in invoke(lab, "good")
            seconds.append(time.monotonic() - begin)
        return statistics.median(seconds)

    quiet = median()
    answers: list[dict[str, Any]] = []
    thread = threading.Thread(
        target=lambda: answers.append(invoke(lab, "flooding", do="flood")), daemon=True
    )
    thread.start()
    log = log_path(lab.runtime_directory, "flooding")
    wait_until(lambda: log.with_name(f"{log.name}.1").exists(), "the log is flooded")
    flooded = median()
    assert thread.is_alive(), "the flood was over"
    thread.join()
    print(f"{quiet * 1000:.1f} ms, flooded {flooded * 1000:.1f} ms")
    # The flood has one of the processors; seconds, where each line was a matter of its own.
    assert flooded < max(20 * quiet, 0.2)
    assert error(answers[0])[0] == "Sandbox.Timedout"
    # There is none for a moment where another begins.
    wait_until(log.exists, "a log after the flood")
    assert log.stat().st_size < 2 * FILE_BYTES_MAX


@pytest.mark.usefixtures("hung")
def test_a_thousand_at_once_for_one_environment(lab: Lab) -> None:
    invoke(lab, "limited")
    before = invoke(lab, "good")

    async def all_at_once() -> Counter[tuple[int, str | None]]:
        path = str(lab.runtime_directory / "lambda.sock")
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path, limit=0)) as session:

            async def ask() -> tuple[int, str | None]:
                url = "http://lambda/2015-03-31/functions/limited/invocations"
                async with session.post(url, json={"seconds": 3}) as answer:
                    return answer.status, answer.headers.get("x-amzn-ErrorType")

            return Counter(await asyncio.gather(*(ask() for _ in range(1000))))

    found = asyncio.run(all_at_once())
    assert found.keys() == {(200, None), (429, "TooManyRequestsException")}
    assert found.total() == 1000
    after = invoke(lab, "good")
    assert (after["payload"], environment(after)) == (before["payload"], environment(before))
    assert "FunctionError" not in invoke(lab, "limited")


def test_many_who_come_at_once_wait_to_be_accepted(lab: Lab) -> None:
    """While the process is held up; asyncio takes a unix socket that is full for a connection."""
    port = int(client(lab).meta.endpoint_url.rpartition(":")[2])
    path = "/2015-03-31/functions/nobody/invocations"

    async def ask(session: aiohttp.ClientSession) -> int:
        async with session.post(f"http://lambda{path}", data=b"{}") as answer:
            return answer.status

    async def all_at_once() -> list[int]:
        connector = aiohttp.UnixConnector(str(lab.runtime_directory / "lambda.sock"), limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            asked = [asyncio.create_task(ask(session)) for _ in range(300)]
            # All of them connect in this turn of the loop.
            await asyncio.sleep(0)
            with contextlib.ExitStack() as stack:
                for _ in range(300):
                    address = ("127.0.0.1", port)
                    # It would be tried again after a second.
                    stack.enter_context(socket.create_connection(address, timeout=0.9))
            os.kill(front_pid(lab), signal.SIGCONT)
            return await asyncio.gather(*asked)

    os.kill(front_pid(lab), signal.SIGSTOP)
    try:
        assert asyncio.run(all_at_once()) == [404] * 300
    finally:
        os.kill(front_pid(lab), signal.SIGCONT)


def test_an_import_that_hangs(
    lab: Lab, hung: tuple[threading.Thread, list[dict[str, Any]]]
) -> None:
    thread, answers = hung
    thread.join(60)
    (answer,) = answers
    kind, text = error(answer)
    assert kind == "Sandbox.Timedout"
    assert text.endswith("Error: Task timed out after 5.00 seconds")
    words = ("INIT_START", "INIT_REPORT", "INIT_REPORT", "START", "END", "REPORT")
    lines = [line for line in answer["log"].splitlines() if line.startswith(words)]
    assert [line.split()[0] for line in lines] == list(words)
    assert all("Status: timeout" in lines[number] for number in (1, 2, 5))
    assert not [path for path in Path("/proc").glob("[0-9]*") if sleeps(path)]


def sleeps(process: Path) -> bool:
    """Whether it is what the import has started."""
    try:
        return (process / "cmdline").read_bytes().split(b"\0")[:2] == [b"sleep", b"613"]
    except OSError:
        return False
