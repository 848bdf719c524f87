# SPDX-License-Identifier: Apache-2.0
"""`make docs-page`: a picture of each view of the page, from a lab with traffic, in docs/page.

docs/examples/lambda.toml is brought up with few ports and two hosts, functions are invoked so that
some run out and some are refused, the forwarder is killed, and a headless Chromium looks at it.
Whatever happens, the lab is gone afterwards. Needs root, the packages of `make deps` and the extra
`plots`, whose library makes the pictures small. Exit status: 0, or an error.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tests.live.browser import Browser, browser
from tests.live.lab import COMMAND, Lab, launched, wait_until

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "docs" / "examples" / "lambda.toml"
TARGET = ROOT / "docs" / "page"
SECONDS = 75.0
PORTS = "[ports]\nfirst = 40000\nlast = 40999\n\n"
HOSTS = """\
[[vpc.host]]
name = "bastion"
subnet = "payments-a"
security_groups = ["functions"]

[[vpc.host]]
name = "ledger"
subnet = "payments-a"
address = "10.0.1.90"
security_groups = ["web"]

[[vpc.service]]
name = "ledger"
kind = "http"
host = "ledger"
port = 80
size_bytes = 10000

"""
SECOND_CUSTOMER = "# The second customer.\n"
COLOURS = 256
SIZE = (1280, 860)
TALLER = 420
"""For the last rows of the picture, and the diagram below the flow."""

CROWD = """
import socket, time
opened = []
for number in range(520):
    each = socket.socket()
    each.setblocking(False)
    each.connect_ex(("10.0.1.54", 5432))
    opened.append(each)
    time.sleep(0.1)
time.sleep(1000)
"""
PAGES = """
for i in $(seq 1000); do
    curl -s -o /dev/null http://10.0.1.80/file
    sleep 0.2
done
"""
LEDGER = PAGES.replace("10.0.1.80", "10.0.1.90")


def keep(window: Browser, name: str) -> None:
    """The window as docs/page/NAME.png, in few colours."""
    picture = Image.open(io.BytesIO(window.screenshot())).convert("RGB")
    few = picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
    few.save(TARGET / f"{name}.png", optimize=True)


@contextlib.contextmanager
def running(lab: Lab, host: str, *command: str) -> Iterator[None]:
    """A program on a host meanwhile."""
    arguments = [str(COMMAND), "--lab", lab.name, "exec", host, "--", *command]
    with subprocess.Popen(arguments) as process:
        try:
            yield
        finally:
            process.terminate()


def draw(window: Browser, lab: Lab, url: str) -> None:
    """All views, after a while of traffic."""
    window.open(url)
    window.shows("checkout")
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(lab.invoked("checkout", "python3", "-c", CROWD))
        for _ in range(3):
            stack.enter_context(lab.invoked("checkout", "sh", "-c", PAGES))
        for _ in range(2):
            stack.enter_context(lab.invoked("report", "sh", "-c", PAGES))
        stack.enter_context(running(lab, "bastion", "sh", "-c", LEDGER))
        stack.enter_context(lab.invoked("refund", "ping", "-i", "0.1", "-q", "10.0.1.80"))
        time.sleep(SECONDS / 2)
        os.kill(lab.status()["forwarder"]["pid"], signal.SIGKILL)
        time.sleep(SECONDS / 2)
        window.shows("port-exhaustion|busy")
        window.size(SIZE[0], SIZE[1] + TALLER)
        keep(window, "topology")
        window.size(*SIZE)
        window.click("nav a", "Ports")
        window.shows("Last exhaustion")
        keep(window, "ports")
        window.click("nav a", "Flows")
        window.shows("ESTABLISHED")
        window.run("document.forms[0].state.value = 'ESTABLISHED'")
        window.click("form button")
        rows = "return document.querySelector('table').innerText"
        wait_until(lambda: "TIME_WAIT" not in window.run(rows), "those alone")
        window.click("td button")
        window.shows("State ESTABLISHED")
        time.sleep(5)
        window.size(SIZE[0], SIZE[1] + TALLER)
        keep(window, "flows")
        window.size(*SIZE)
        window.command(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark"}],
        )
        window.click("nav a", "Activity")
        window.shows("security_group_egress")
        keep(window, "activity")


def main() -> int:
    """Draw them."""
    TARGET.mkdir(exist_ok=True)
    text = EXAMPLE.read_text(encoding="utf-8")
    sections = text[text.index("[lifecycle]") :]
    toml = PORTS + sections.replace(SECOND_CUSTOMER, HOSTS + SECOND_CUSTOMER)
    with (
        tempfile.TemporaryDirectory() as directory,
        launched(Path(directory), f"page-{os.getpid()}", environments=0, toml=toml) as lab,
        subprocess.Popen(
            [str(COMMAND), "--lab", lab.name, "ui"], stdout=subprocess.PIPE, text=True
        ) as process,
        browser(*SIZE) as window,
    ):
        lab.cli("wait")
        try:
            assert process.stdout is not None
            draw(window, lab, process.stdout.readline().strip())
        finally:
            process.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
