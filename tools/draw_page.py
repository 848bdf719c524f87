# SPDX-License-Identifier: Apache-2.0
"""`make docs-page`: a picture of each view of the page, from a lab with traffic, in docs/page.

docs/examples/lambda.toml is brought up with few ports and two hosts, functions are invoked so that
some run out and some are refused, the forwarder is killed, and a headless Chromium looks at it.
Then it looks at docs/examples/private-link.toml with a gateway endpoint, a target of which is down.
Whatever happens, the labs are gone afterwards. Needs root, the packages of `make deps` and the
extra `plots`, whose library makes the pictures small. Exit status: 0, or an error.
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
PRIVATE_LINK = EXAMPLE.with_name("private-link.toml")
BUCKETS = """\
[[internet]]
name = "buckets"
kind = "http"
address = "198.51.100.80"
port = 80
aws_service = "s3"

"""
GATEWAY_ENDPOINT = """\
[[vpc.route_table]]
name = "desks"
subnets = ["desk-a", "desk-b"]

[[vpc.gateway_endpoint]]
name = "store"
service = "com.amazonaws.us-east-1.s3"
route_tables = ["desks"]

"""
FUNCTION = "[[function]]\n"
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
ORDERS = PAGES.replace("10.0.1.80/file", "10.0.1.100/peer")


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
        window.shows("lambda_icmp")
        keep(window, "activity")


def draw_balancers(window: Browser, lab: Lab, url: str) -> None:
    """Load balancers and endpoints, with traffic."""
    lab.cli("endpoint-services", "--accept", "bank/orders")
    lab.client.delete("/v1/services/web-b-http")
    with running(lab, "teller", "sh", "-c", ORDERS):
        window.open(url)
        window.click("nav a", "Load balancers")
        window.shows("Interface, Available.*1 of 2 unhealthy")
        time.sleep(5)
        window.click("button.card", "shop/hosts")
        window.shows("Targets, those")
        keep(window, "balancers")


@contextlib.contextmanager
def looked_at(name: str, toml: str) -> Iterator[tuple[Lab, str]]:
    """A lab, and the address of its page."""
    with (
        tempfile.TemporaryDirectory() as directory,
        launched(Path(directory), f"{name}-{os.getpid()}", environments=0, toml=toml) as lab,
        subprocess.Popen(
            [str(COMMAND), "--lab", lab.name, "ui"], stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            yield lab, process.stdout.readline().strip()
        finally:
            process.terminate()


def sections(example: Path) -> str:
    """What an example has besides its name."""
    text = example.read_text(encoding="utf-8")
    return text[text.index("[lifecycle]") :]


def main() -> int:
    """Draw them."""
    TARGET.mkdir(exist_ok=True)
    toml = PORTS + sections(EXAMPLE).replace(SECOND_CUSTOMER, HOSTS + SECOND_CUSTOMER)
    with looked_at("page", toml) as (lab, url), browser(*SIZE) as window:
        lab.cli("wait")
        draw(window, lab, url)
    toml = sections(PRIVATE_LINK).replace(FUNCTION, GATEWAY_ENDPOINT + BUCKETS + FUNCTION)
    with looked_at("links", toml) as (lab, url), browser(*SIZE) as window:
        draw_balancers(window, lab, url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
