# SPDX-License-Identifier: Apache-2.0
"""Showing something again and again, `--watch`.

On a terminal the former picture is drawn over; elsewhere one follows the other. Whatever goes on
until Ctrl-C does so within `until_interrupted`, because that is how it ends and no error, and waits
with `pause`, which ends the command when the reader of a pipe has gone.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.live import Live

from hyperplane_nat.cli import common

INTERVAL_SECONDS = 2.0

WatchOption = Annotated[
    bool, typer.Option("--watch", help=f"Show it again every {INTERVAL_SECONDS:g} seconds.")
]


def refuse_json(watching: bool, as_json: bool) -> None:
    """UserError for `--watch` together with `--json`."""
    if watching and as_json:
        raise common.UserError("--watch draws tables (leave out --json or --watch)")


@contextlib.contextmanager
def until_interrupted() -> Iterator[None]:
    """Ctrl-C ends what is within, and the command with status 0."""
    with contextlib.suppress(KeyboardInterrupt):
        yield


@contextlib.contextmanager
def keyboard() -> Iterator[Callable[[float], bytes]]:
    """
    A function that waits for so many seconds, or until keys are pressed: those, or nothing.

    Keys count without Enter and are not shown; Ctrl-C stays an interrupt.
    """
    descriptor = sys.stdin.fileno()

    def wait(seconds: float) -> bytes:
        if not os.isatty(descriptor):
            pause(seconds)
            return b""
        ready, _, _ = select.select([descriptor], [], [], seconds)
        return os.read(descriptor, 64) if ready else b""

    if not os.isatty(descriptor):
        yield wait
        return
    former = termios.tcgetattr(descriptor)

    try:
        tty.setcbreak(descriptor)
        yield wait
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, former)


def pause(seconds: float) -> None:
    """Wait; BrokenPipeError when nobody reads standard output any more."""
    watched = select.poll()
    try:
        # Asking for nothing tells of errors alone, and a pipe without a reader is one.
        watched.register(sys.stdout.fileno(), 0)
    except io.UnsupportedOperation:
        time.sleep(seconds)
        return
    if watched.poll(seconds * 1000):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def show(draw: Callable[[], RenderableType], watching: bool) -> None:
    """Print what `draw()` returns, once, or every `INTERVAL_SECONDS` until Ctrl-C."""
    console = common.console()
    if not watching:
        console.print(draw())
        return
    with until_interrupted():
        if not console.is_terminal:
            while True:
                console.print(draw())
                pause(INTERVAL_SECONDS)
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                live.update(draw(), refresh=True)
                pause(INTERVAL_SECONDS)
