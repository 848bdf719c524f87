# SPDX-License-Identifier: Apache-2.0
"""The bench's own processes: started, waited for and ended by their descriptor, never by name.

Workers and tools run in sessions of their own: Ctrl-C reaches the coordinator only, which then ends
everything it started, in order. A worker whose coordinator is killed ends by itself: see
`bench.worker`.
"""

from __future__ import annotations

import contextlib
import json
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from bench import jobs
from bench.errors import BenchError, MissingToolError

READY_SECONDS = 30.0
END_SECONDS = 10.0

PACKAGES = {
    "cc": "gcc",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "nft": "nftables",
    "nginx": "libnginx-mod-stream",
    "pasta": "passt",
    "setpriv": "util-linux",
    "slirp4netns": "slirp4netns",
}
"""Debian package of every program of somebody else's."""


def require(*tools: str) -> None:
    """Raise MissingToolError for the first tool that is not installed."""
    for tool in tools:
        if shutil.which(tool) is None:
            raise MissingToolError(tool, PACKAGES[tool])


def worker_command(job: jobs.Job) -> list[str]:
    """The command line that does a job."""
    return [sys.executable, "-m", "bench.worker", job.kind, job.to_json()]


class Process:
    """A process with its output at hand, ended at the latest when the context is left."""

    def __init__(self, command: Sequence[str], what: str) -> None:
        self.what = what
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                # Unbuffered: `line` asks the kernel whether there is more.
                bufsize=0,
                start_new_session=True,
            )
        except BaseException:
            self._errors.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, gently and then not; twice is fine."""
        if self.popen.poll() is None:
            self._close_input()
            self.popen.terminate()
            try:
                self.popen.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        self._close_input()
        if self.popen.stdout is not None:
            self.popen.stdout.close()
        self._errors.close()

    def _close_input(self) -> None:
        if self.popen.stdin is not None:
            with contextlib.suppress(OSError):
                self.popen.stdin.close()

    def errors(self) -> str:
        """The last line that says something on standard error."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def line(self, seconds: float) -> str:
        """The next line of its output; BenchError when it ends or says nothing for so long."""
        assert self.popen.stdout is not None
        readable, _, _ = select.select([self.popen.stdout], [], [], seconds)
        text = self.popen.stdout.readline().decode() if readable else None
        if text:
            return text.rstrip("\n")
        if text is None:
            raise BenchError(f"{self.what}: nothing heard for {seconds:g} seconds")
        self.popen.wait()
        raise BenchError(
            f"{self.what}: ended with status {self.popen.returncode}: "
            f"{self.errors() or 'no reason given'}"
        )

    def output(self, seconds: float) -> str:
        """Everything it still says, once it has ended."""
        try:
            text, _ = self.popen.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{self.what}: not finished within {seconds:g} seconds") from None
        return text.decode(errors="replace")


class Worker(Process):
    """A `bench.worker` that is ready to start when this returns."""

    def __init__(self, job: jobs.Job) -> None:
        super().__init__(worker_command(job), job.kind)
        try:
            self._expect_ready()
        except BaseException:
            self.close()
            raise

    def _expect_ready(self) -> None:
        line = self.line(READY_SECONDS)
        if line != "ready":
            raise BenchError(f"{self.what}: {self._decode(line).get('error', line)}")

    def start(self) -> Self:
        """Let it begin."""
        assert self.popen.stdin is not None
        try:
            self.popen.stdin.write(b"go\n")
            self.popen.stdin.flush()
        except OSError:
            raise BenchError(f"{self.what}: ended before it began: {self.errors()}") from None
        return self

    def stop(self) -> dict[str, Any]:
        """Have it end now; its result."""
        self._close_input()
        self.popen.stdin = None
        return self.result(END_SECONDS)

    def result(self, seconds: float) -> dict[str, Any]:
        """Its result; BenchError when it failed or is not done in time."""
        result = self._decode(self.line(seconds))
        if "error" in result:
            raise BenchError(f"{self.what}: {result['error']}")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(END_SECONDS)
        return result

    def _decode(self, line: str) -> dict[str, Any]:
        try:
            result = json.loads(line)
        except ValueError:
            result = None
        if not isinstance(result, dict):
            raise BenchError(f"{self.what}: said {line!r} instead of a result")
        return result


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until `condition()` holds; BenchError when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"{what}: not within {seconds:g} seconds")
        time.sleep(0.01)


def run(command: Sequence[str], what: str, *, seconds: float = 60, text: str = "") -> str:
    """Run a command to its end; its output. BenchError with its last words when it fails.

    When this process is interrupted, so is the command, which may have things to undo.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    except OSError as error:
        raise BenchError(f"{what}: {error.strerror}") from None
    with process:
        try:
            output, errors = process.communicate(text, timeout=seconds)
        except BaseException as error:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise BenchError(f"{what}: not finished within {seconds:g} seconds") from None
    if process.returncode:
        lines = [line for line in (errors + output).splitlines() if line.strip()]
        raise BenchError(
            f"{what}: status {process.returncode}: {lines[-1] if lines else 'no reason given'}"
        )
    return output
