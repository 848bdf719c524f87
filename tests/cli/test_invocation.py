# SPDX-License-Identifier: Apache-2.0
"""invoke: one program passed on, many counted."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hyperplane_nat.cli import app, invocation
from hyperplane_nat.client import ApiError, ClientError
from hyperplane_nat.output_frames import END, STDERR, STDOUT, frame
from tests.cli.conftest import INVOCATION, Run
from tests.cli.fake_api import FakeApi, Refusal

PATH = "/v1/functions/checkout/invocations"
STREAM = "/v1/functions/checkout/response-streaming-invocations"
HELLO = (STDOUT, b"hello\n")


def stream(*output: tuple[int, bytes], **answer: Any) -> bytes:
    """What is answered to STREAM: output, and how it ended."""
    end = {
        name: value
        for name, value in INVOCATION.items()
        if name not in ("stdout", "stderr", "truncated")
    } | answer
    return b"".join(frame(*each) for each in (*output, (END, json.dumps(end).encode())))


def test_the_programs_output_is_ours_and_the_report_is_beside_it(run: Run, api: FakeApi) -> None:
    api.answers[STREAM] = stream((STDERR, b"be "), HELLO, (STDERR, b"careful"))
    result = run("invoke", "checkout", "--timeout", "2.5", "--", "echo", "--json", "--", "hello")
    assert (result.exit_code, result.stdout) == (0, "hello\n")
    assert result.stderr == (
        "be careful\n"
        "hyperplane-nat: cold start in env-17, interface eni-0a1b2c3d4e5f60718, "
        "network ready after 0.84 ms, 14.20 ms in all\n"
    )
    assert api.bodies == [
        {
            "command": ["echo", "--json", "--", "hello"],
            "timeout_seconds": 2.5,
            "stdin": None,
        }
    ]


def test_a_program_reads_what_is_on_standard_input(
    runtime: Path, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERPLANE_NAT_RUNTIME_DIRECTORY", str(runtime))
    api.answers[STREAM] = stream()
    arguments = ["invoke", "checkout", "--stdin", "--", "cat"]
    assert CliRunner().invoke(app, arguments, input=b"a\xff").exit_code == 0
    assert base64.b64decode(api.bodies[0]["stdin"]) == b"a\xff"


def test_a_handler_reads_no_standard_input(run: Run) -> None:
    result = run("invoke", "checkout", "--stdin", "--payload", "{}")
    assert result.exit_code == 2
    assert "--stdin are for programs" in result.stderr


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        ({"status": 3, "cold": False}, 3, "warm start in env-17"),
        ({"status": -9}, 137, "killed by signal 9"),
        ({"status": -9, "timed_out": True}, 124, "timed out"),
        (
            {"interface_created": True, "modelled_seconds": 12.0},
            0,
            "eni-0a1b2c3d4e5f60718 made for it, network ready after 0.84 ms, AWS would add 12.0 s,",
        ),
    ],
)
def test_the_exit_status_is_the_programs(
    run: Run, api: FakeApi, answer: dict[str, Any], status: int, words: str
) -> None:
    api.answers[PATH] = INVOCATION | answer
    api.answers[STREAM] = stream(**answer)
    result = run("invoke", "checkout", "--", "true")
    assert result.exit_code == status
    assert words in result.stderr
    as_json = run("invoke", "checkout", "--json", "--", "true")
    assert as_json.exit_code == status
    assert json.loads(as_json.stdout) == INVOCATION | answer


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (Refusal(422, "ProgramNotFound", "nope: no such program (check the name)"), 127),
        (Refusal(422, "ProgramNotExecutable", "nope: no permission (make it executable)"), 126),
        (Refusal(409, "ResourceConflictException", "the function is Pending (try again)"), 2),
    ],
)
def test_a_refusal_is_one_line(run: Run, api: FakeApi, refusal: Refusal, status: int) -> None:
    api.answers[STREAM] = refusal
    result = run("invoke", "checkout", "--", "nope")
    assert (result.exit_code, result.stdout) == (status, "")
    assert result.stderr == f"hyperplane-nat: {refusal.code}: {refusal.message}\n"


def test_an_answer_without_an_end_is_a_failure(run: Run, api: FakeApi) -> None:
    api.answers[STREAM] = frame(*HELLO)
    result = run("invoke", "checkout", "--", "true")
    assert (result.exit_code, result.stdout) == (2, "hello\n")
    assert "before the program's end" in result.stderr


def test_an_answer_that_is_broken_off_is_a_failure(run: Run, api: FakeApi) -> None:
    api.answers[STREAM] = stream((STDOUT, bytes(1000)))
    api.cut_short = True
    result = run("invoke", "checkout", "--", "true")
    assert result.exit_code == 2
    assert "broke off its answer" in result.stderr


def test_output_that_nobody_reads_ends_it(api: FakeApi, runtime: Path) -> None:
    api.answers[STREAM] = stream(*[(STDOUT, bytes(1 << 16))] * 100)
    options = ["--runtime-directory", str(runtime), "invoke", "checkout", "--", "true"]
    with subprocess.Popen(
        [sys.executable, "-m", "hyperplane_nat.cli", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1) == b"\0"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(120) == 2


def test_the_functions_name_cannot_leave_the_path(run: Run, api: FakeApi) -> None:
    for last, answer in (("invocations", INVOCATION), (STREAM.rpartition("/")[2], stream())):
        api.answers[f"/v1/functions/..%2F..%2Fshutdown/{last}"] = answer
    for options in ((), ("--json",)):
        assert run("invoke", "../../shutdown", *options, "--", "true").exit_code == 0


def test_many_invocations_are_counted(run: Run, api: FakeApi) -> None:
    lock = threading.Lock()
    served = 0

    def serve(_body: object) -> Any:
        nonlocal served
        with lock:
            served += 1
            number = served
        if number == 10:
            return Refusal(429, "TooManyRequestsException", "the pool is empty (set pool.size)")
        return INVOCATION | {
            "environment": f"env-{number % 3}",
            "cold": number <= 3,
            "status": {8: 5, 9: -15}.get(number, 0),
            "network_ready_seconds": number / 1000,
            "elapsed_seconds": number / 100,
        }

    api.answers[PATH] = serve
    result = run(
        "invoke", "checkout", "--count", "10", "--concurrency", "4", "--json", "--", "true"
    )
    assert result.exit_code == 1
    assert len(api.requests) == 10
    summary = json.loads(result.stdout)
    failures = summary.pop("failures")
    assert failures == {"exit status 5": 1, "signal 15": 1, "TooManyRequestsException": 1}
    assert summary == {
        "count": 10,
        "failed": 3,
        "cold": 3,
        "warm": 6,
        "environments": 3,
        "interfaces": 1,
        "interfaces_created": 0,
        "network_ready_seconds": {"p50": 0.005, "p95": 0.009, "p99": 0.009, "max": 0.009},
        "network_ready_cold_seconds": {"p50": 0.002, "p95": 0.003, "p99": 0.003, "max": 0.003},
        "modelled_seconds_max": 0.0,
        "elapsed_seconds": {"p50": 0.05, "p95": 0.09, "p99": 0.09, "max": 0.09},
    }


def test_many_as_a_table(run: Run, api: FakeApi) -> None:
    api.answers[PATH] = INVOCATION | {"interface_created": True, "modelled_seconds": 12.0}
    result = run("invoke", "checkout", "--count", "4", "--", "true")
    assert result.exit_code == 0, result.stderr
    words = [
        "checkout: 4 invocations, 4 cold, 0 warm; environments used: 1; interfaces used: 1, "
        "4 of them made for it",
        "0.84 ms",
        "14.20 ms",
        "AWS would add (modelled)",
        "12.0 s",
    ]
    assert [word for word in words if word not in result.stdout] == []
    assert "failures" not in result.stdout


def test_all_refused_is_a_table_of_failures(run: Run, api: FakeApi) -> None:
    api.answers[PATH] = Refusal(429, "TooManyRequestsException", "no")
    result = run("invoke", "checkout", "--count", "3", "--", "true")
    assert result.exit_code == 1
    assert "TooManyRequestsException" in result.stdout


def test_no_lab_ends_many_at_once(run: Run) -> None:
    result = run("invoke", "checkout", "--count", "100", "--concurrency", "10", "--", "true")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is not running" in result.stderr


@pytest.mark.parametrize("count", ["1", "5"])
def test_an_interrupt_does_not_wait_for_the_programs(
    api: FakeApi, runtime: Path, count: str
) -> None:
    asked, over = threading.Event(), threading.Event()

    def hang(_body: object) -> dict[str, Any]:
        asked.set()
        over.wait(120)
        return INVOCATION

    api.answers |= {PATH: hang, STREAM: hang}
    options = ["--runtime-directory", str(runtime), "invoke", "checkout", "--count", count]
    with subprocess.Popen(
        [sys.executable, "-m", "hyperplane_nat.cli", *options, "--", "sleep", "100"],
        stderr=subprocess.PIPE,
    ) as process:
        assert asked.wait(120)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    over.set()


def test_no_command(run: Run) -> None:
    assert run("invoke", "checkout").exit_code == 2


@pytest.mark.parametrize("concurrency", [1, 5])
def test_no_more_at_a_time_than_asked_for(concurrency: int) -> None:
    lock = threading.Lock()
    everybody = threading.Barrier(concurrency)
    under_way = most = 0

    def call() -> dict[str, Any]:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        everybody.wait(120)
        with lock:
            under_way -= 1
        return {}

    assert len(list(invocation.repeat(call, 4 * concurrency, concurrency))) == 4 * concurrency
    assert most == concurrency


def test_what_is_no_refusal_ends_the_repetition() -> None:
    calls = 0
    over = threading.Event()

    def call() -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls > 1:
            over.wait(120)
        raise ClientError("the controller broke off its answer")

    with pytest.raises(ClientError):
        list(invocation.repeat(call, 1000, 1))
    over.set()
    assert calls <= 2


def test_a_refusal_is_an_outcome() -> None:
    def call() -> dict[str, Any]:
        raise ApiError(429, "TooManyRequestsException", "no")

    outcomes = list(invocation.repeat(call, 3, 2))
    assert [type(outcome) for outcome in outcomes] == [ApiError] * 3
