# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: what happens to a lab is on it, for everybody, and nothing more."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli import conftest as cli
from tests.cli.fake_api import FakeApi, serving
from tests.cli.test_events import EVENT
from tests.live.browser import Browser, browser
from tests.live.conftest import Launch
from tests.live.lab import COMMAND, Lab, wait_until
from tests.live.test_crash import kill_controller
from tests.live.test_functions import EXAMPLE
from tests.ui.conftest import ANSWERS, SUMS

pytestmark = [pytest.mark.live, pytest.mark.slow]

AXE = Path(__file__).parent / "axe" / "axe.min.js"
VIEWS = ("Topology", "Ports", "Flows", "Activity")
ENTER, ESCAPE, TAB = "\ue007", "\ue00c", "\ue004"

PORTS = 4
"""Towards each remote endpoint, so that they run out soon."""

# More connections than there are ports, which stay open until it is killed.
CROWD = f"""
import socket, time
opened = [socket.socket() for _ in range({PORTS} + 3)]
for each in opened:
    each.setblocking(False)
    each.connect_ex(("10.0.1.54", 5432))
time.sleep(1000)
"""


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


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    text = EXAMPLE.read_text(encoding="utf-8")
    sections = text[text.index("[lifecycle]") :]
    ports = f"[ports]\nfirst = 40000\nlast = {40000 + PORTS - 1}\n\n"
    return launch_shared(environments=0, toml=ports + sections)


def go(window: Browser, view: str) -> None:
    window.click("nav a", view)
    window.shows(rf"\n{view}\n")


def findings(window: Browser) -> list[Any]:
    """What axe finds that is serious or worse."""
    if not window.run("return Boolean(window.axe)"):
        window.run(AXE.read_text(encoding="utf-8"))
    found = window.run("""
        return axe.run().then(({ violations }) => violations.map((each) => ({
            id: each.id, impact: each.impact, nodes: each.nodes.map((node) => node.html),
        })));
    """)
    return [each for each in found if each["impact"] in ("serious", "critical")]


def test_what_happens_is_on_the_page(window: Browser, lab: Lab) -> None:
    lab.cli("wait")
    with served(window, "--lab", lab.name) as url:
        started = time.monotonic()
        window.open(url)
        window.shows(r"Topology.*payments-a.*checkout")
        print(f"there after {time.monotonic() - started:.2f} s")
        lab.client.post("/v1/functions/report/provision", {"count": 2})
        window.shows(r"one each: report in analytics/analytics-b\s+2 interfaces.*2 environments")

        with lab.invoked("checkout", "python3", "-c", CROWD):
            window.shows(r"checkout\s+1 environment: 1 busy")
            window.click("button.card", "checkout")
            window.shows(r"Environments of checkout.*env-\d+\s+busy")

            go(window, "Ports")
            window.shows(rf"10\.0\.1\.54:5432\s+tcp\s+eni-\w+\s+{PORTS}\s+{PORTS}\s+100\.0 % full")
            window.shows(r"✕ used up.*✕ \d.*checkout 4")
            window.shows("Last exhaustion at .*: no source port for a new flow")

            go(window, "Flows")
            window.click("td button", "")
            window.shows(
                r"inside\s+169\.254\.100\.2:\d+\s+translated on eni-\w+\s+10\.0\.1\.4:4000"
            )
            window.shows(r"State ESTABLISHED.*FIN from originator leads to FIN_INSIDE")
            assert window.run("return document.querySelector('.current text').textContent") == (
                "ESTABLISHED"
            )

        with lab.invoked("refund", "ping", "-i", "0.05", "-q", "10.0.1.80"):
            go(window, "Activity")
            window.shows(r"security_group_egress\s+\d+\s+✕ 1\d pkt/s")
            go(window, "Topology")
            window.shows(r"refund\s+1 environment.*✕ 1\d pkt/s refused")
            assert window.run("return document.querySelectorAll('.edge.refused').length") >= 1

        go(window, "Activity")
        window.shows(r"interface-per-environment\s+2\s+[\d.]+ ms\s+\d")
        before = lab.status()["forwarder"]["pid"]
        os.kill(before, signal.SIGKILL)
        killed = time.monotonic()
        window.shows(rf"pid (?!{before}\b)\d+, restarts 1.*forwarder-restarted")
        print(f"successor on the page after {time.monotonic() - killed:.2f} s")

        kill_controller(lab)
        window.shows("NO ANSWER since .*, asking again")
        go(window, "Topology")
        window.shows("checkout")
        lab.up()
        wait_until(lambda: "NO ANSWER" not in window.text(), "the lab on the page again")
        window.shows("restarts 0|restarts 1")
        assert window.log() == []


def test_it_is_for_everybody(window: Browser, lab: Lab) -> None:
    """Serious findings of axe, in light and dark, with a panel open; and the keyboard alone."""
    with served(window, "--lab", lab.name) as url:
        for scheme in ("light", "dark"):
            media = [{"name": "prefers-color-scheme", "value": scheme}]
            window.command("Emulation.setEmulatedMedia", features=media)
            window.open(url)
            for view in VIEWS:
                go(window, view)
                assert findings(window) == [], view
        go(window, "Topology")
        window.run("document.querySelector('button.card').focus()")
        window.press(ENTER)
        window.shows("ErrorPortAllocation")
        assert window.run("return document.activeElement.id") == "details-title"
        assert findings(window) == []
        window.press(ESCAPE)
        assert window.run("return document.querySelector('aside').hidden")
        assert window.run("return document.activeElement.className") == "card"
        window.run("document.activeElement.blur(); scrollTo(0, 0)")
        window.open(url)
        window.press(TAB)
        assert window.run("return document.activeElement.textContent") == "Skip to the view"
        assert window.log() == []


HOSTILE = "</script><img src=x onerror=alert(1)><b>\u202e{{7*7}}"
GERMAN = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenverleihungsordnung"


@pytest.fixture(scope="module")
def strange(window: Browser) -> Iterator[str]:
    """The page of a lab whose names nobody would choose; its address."""
    own = cli.SHARED_INTERFACE | {"name": HOSTILE, "id": HOSTILE, "vpc": GERMAN, "subnet": GERMAN}
    function = cli.FUNCTION | {"FunctionName": GERMAN, "NetworkInterfaceIds": [HOSTILE]}
    remote = cli.REMOTE | {"interface": HOSTILE, "functions": [], "remote_address": HOSTILE}
    event = EVENT | {"message": HOSTILE, "kind": GERMAN}
    answers = ANSWERS | {
        "/v1/interfaces": [own],
        "/v1/functions": [function],
        "/v1/accounts": [{"Id": "111122223333", "Name": HOSTILE, "Declared": True}],
        "/v1/environment-sums": [SUMS | {"function": GERMAN, "interface": HOSTILE}],
        "/v1/ports": {"interfaces": [], "remotes": [remote]},
        "/v1/events": [event],
        "/v1/flows": [cli.FLOW | {"environment": HOSTILE, "entry": 1, "interface": GERMAN}],
        "/v1/environments": [cli.ENVIRONMENT | {"name": HOSTILE}],
        "/v1/status": ANSWERS["/v1/status"] | {"drops": {HOSTILE: 5}},
    }
    with tempfile.TemporaryDirectory(prefix="hp-") as root:
        name = f"t-{secrets.token_hex(4)}"
        with (
            serving(Path(root) / name / "control.sock", FakeApi(answers)),
            served(window, "--runtime-directory", root) as url,
        ):
            yield url


def test_names_are_never_more_than_text(window: Browser, strange: str) -> None:
    window.open(strange)
    for view in VIEWS:
        go(window, view)
        window.shows(r"<img src=x onerror=alert\(1\)>")
        script = "return document.querySelectorAll('img, b b, script:not([src])').length"
        assert window.run(script) == 0
    go(window, "Topology")
    window.click("button.card", GERMAN)
    window.shows(r"Environments of Donau.*<img src=x")
    assert window.log() == []
    # The policy is the second line: not even a script of ours could make markup of a text.
    refused = "try { document.body.innerHTML = '<p>x'; return ''; } catch (e) { return e.name; }"
    assert window.run(refused) == "TypeError"


@pytest.mark.parametrize("width", [500, 1024, 1920])
def test_long_words_fit(window: Browser, strange: str, width: int) -> None:
    """Nothing makes the page itself wider than the window; tables may be scrolled."""
    window.size(width, 900)
    window.open(strange)
    for view in VIEWS:
        go(window, view)
        window.shows("Donau|t-")
        measured = json.loads(
            window.run("return JSON.stringify([document.documentElement.scrollWidth, innerWidth])")
        )
        assert measured[0] <= measured[1], view
    window.size(1280, 900)


def test_labs_are_chosen_and_a_server_that_is_gone_is_told(window: Browser) -> None:
    names = sorted(f"t-{secrets.token_hex(4)}" for _ in range(2))
    choose = """
        const list = document.getElementById("lab");
        list.value = arguments[0];
        list.dispatchEvent(new Event("change"));
    """
    with tempfile.TemporaryDirectory(prefix="hp-") as root, contextlib.ExitStack() as stack:
        for number, name in enumerate(names):
            status = ANSWERS["/v1/status"] | {"lab": name, "environments": 41 + number}
            api = FakeApi(ANSWERS | {"/v1/status": status})
            stack.enter_context(serving(Path(root) / name / "control.sock", api))
        with serving_page("--runtime-directory", root) as url:
            window.open(url)
            window.shows(r"environments\s+41\b")
            wait_until(
                lambda: window.run("return document.getElementById('lab').length") == 2, "two labs"
            )
            for index in (1, 0):
                window.run(choose, names[index])
                window.shows(rf"environments\s+{41 + index}\b")
                assert names[index] in window.run("return document.title")
        window.shows("hyperplane-nat ui is broken; trying again|hyperplane-nat ui does not answer")
    window.open("about:blank")
    window.log()
