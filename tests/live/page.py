# SPDX-License-Identifier: Apache-2.0
"""What tests of the page do with it: serve it, go through its views, look at what it draws."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.live.browser import Browser
from tests.live.lab import COMMAND, wait_until

AXE = Path(__file__).parent / "axe" / "axe.min.js"


@contextlib.contextmanager
def serving_page(*options: str) -> Iterator[str]:
    """The address of a page."""
    with subprocess.Popen(
        [str(COMMAND), *options, "ui"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@contextlib.contextmanager
def served(window: Browser, *options: str) -> Iterator[str]:
    """The same; the window has left it when it is no longer served."""
    with serving_page(*options) as url:
        try:
            yield url
        finally:
            window.open("about:blank")


def go(window: Browser, view: str) -> None:
    window.click("nav a", view)
    heading(window, view)


def heading(window: Browser, view: str) -> None:
    """Wait for a view; its name alone is among the links, too."""
    script = "return document.querySelector('main h2')?.textContent"
    wait_until(lambda: window.run(script) == view, f"the view {view}")


def findings(window: Browser) -> list[Any]:
    """What axe finds."""
    if not window.run("return Boolean(window.axe)"):
        window.run(AXE.read_text(encoding="utf-8"))
    found = window.run("""
        return axe.run().then(({ violations }) => violations.map((each) => ({
            id: each.id, impact: each.impact, nodes: each.nodes.map((node) => node.html),
        })));
    """)
    assert isinstance(found, list)
    return found


def inked(window: Browser) -> int:
    """How many charts have pixels in the colours of their lines or points."""
    found = window.run("""
        const style = getComputedStyle(document.documentElement);
        const inks = ["--first", "--second"].map((name) =>
            style.getPropertyValue(name).match(/[0-9a-f]{2}/g).map((each) => parseInt(each, 16)));
        const within = (pixels) => {
            for (let at = 0; at < pixels.length; at += 4) {
                if (inks.some((ink) => ink.every((part, index) => pixels[at + index] === part))) {
                    return true;
                }
            }
            return false;
        };
        return [...document.querySelectorAll("time-chart canvas")].filter((canvas) => within(
            canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data)).length;
    """)
    assert isinstance(found, int)
    return found
