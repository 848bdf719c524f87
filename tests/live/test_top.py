# SPDX-License-Identifier: Apache-2.0
"""`top` in a real terminal: what happens to a lab is on the screen, and so is that it is away."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.live.conftest import Launch
from tests.live.lab import COMMAND, Lab, wait_until
from tests.live.test_crash import kill_controller, kill_forwarder

pytestmark = pytest.mark.live

TOML = """
[ports]
first = 40000
last = 40003
"""


class Terminal:
    """`terminal` makes one."""

    def __init__(self, name: str) -> None:
        self._name = name

    def tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self._name, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p")

    def shows(self, pattern: str) -> None:
        def found() -> Any:
            return re.search(pattern, self.screen())

        wait_until(found, lambda: f"{pattern!r} on the screen:\n{self.screen()}")


@contextmanager
def terminal(lab: Lab, columns: int, lines: int) -> Iterator[Terminal]:
    """A terminal of this size in which `top` runs; what it leaves with stands there afterwards."""
    result = Terminal(f"{lab.name}-{columns}")
    # The shell has Ctrl-C, too, and is to tell how it ended.
    command = f"trap true INT; {COMMAND} --lab {lab.name} top; echo left with $?; read line"
    size = ("-x", str(columns), "-y", str(lines))
    result.tmux("new-session", "-d", *size, "sh", "-c", command)
    try:
        yield result
    finally:
        result.tmux("kill-server")


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (200, 60)])
def test_traffic_drops_and_ports_are_on_the_screen(
    launch: Launch, columns: int, lines: int
) -> None:
    lab = launch(environments=2, toml=TOML)
    many = "import socket\nfor i in range(9): socket.socket(2, 2).sendto(b'x', ('10.0.1.81', 7))"
    with terminal(lab, columns, lines) as screen:
        screen.shows(rf"lab {lab.name}, up since .*\n")
        arguments = ("ping", "-i", "0.05", "-c", "2000", "-q", "10.0.1.80")
        with subprocess.Popen(
            [str(COMMAND), "--lab", lab.name, "exec", "env-1", "--", *arguments],
            stdout=subprocess.DEVNULL,
        ) as pinging:
            screen.shows(r"eni-a +[12][0-9] ")
            lab.cli("exec", "env-2", "--", "python3", "-c", many)
            screen.shows(r"port_allocation +[0-9]")
            screen.shows(r"10\.0\.1\.81:7 +udp +eni-a +4 +4 +100\.0 ")
            screen.shows("port-exhaustion")
            pinging.kill()
        assert max(map(len, screen.screen().splitlines())) <= columns
        screen.tmux("send-keys", "q")
        screen.shows("left with 0")


def test_processes_that_are_killed_and_come_back(launch: Launch) -> None:
    lab = launch(environments=1)
    with terminal(lab, 80, 24) as screen:
        screen.shows("restarts 0")
        kill_forwarder(lab)
        screen.shows("restarts 1")
        screen.shows("forwarder-restarted")
        kill_controller(lab)
        screen.shows("NO ANSWER since .*, asking again")
        lab.up()
        screen.shows(rf"lab {lab.name}, up since")
        screen.tmux("send-keys", "C-c")
        screen.shows("left with 0")
