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

import pytest
import requests

from hyperplane_nat.ui.server import STREAMS_MAX
from tests.cli import conftest as cli
from tests.cli.fake_api import FakeApi, serving
from tests.cli.test_events import EVENT
from tests.cli.test_hosts import HOST
from tests.live.browser import Browser, browser
from tests.live.conftest import Launch
from tests.live.lab import COMMAND, Lab, wait_until
from tests.live.page import findings, go, heading, inked, served, serving_page
from tests.live.test_crash import kill_controller
from tests.live.test_functions import EXAMPLE
from tests.ui import test_balancing as balancing
from tests.ui.conftest import ANSWERS, SUMS

pytestmark = [pytest.mark.live, pytest.mark.slow]

VIEWS = ("Topology", "Load balancers, endpoints", "Ports", "Flows", "Activity")
CHARTS = 8
"""On Activity."""

ENTER, ESCAPE, TAB = "\ue007", "\ue00c", "\ue004"

PRIVATE_LINK = EXAMPLE.with_name("private-link.toml")

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
            window.shows(r"lambda_icmp\s+\d+\s+✕ [12]\d pkt/s")
            go(window, "Topology")
            window.shows(r"refund\s+1 environment.*✕ [12]\d pkt/s refused")
            assert window.run("return document.querySelectorAll('.edge.refused').length") >= 1

        go(window, "Activity")
        window.shows(r"interface-per-environment\s+2\s+[\d.]+ ms\s+[\d.]+ s\b")
        assert window.run("""
            return [...document.querySelectorAll("time-chart")].map((each) => each.plot)
                .find((plot) => plot.scales.y.distr === 3).axes[1]._splits;
        """) == pytest.approx([10.0**power for power in range(-4, 3)])
        wait_until(lambda: inked(window) >= CHARTS, "lines and points in every chart")
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


FOCUS_ON_SHARED = """
    const cards = [...document.querySelectorAll("button.card")];
    const card = cards.find((each) => each.textContent.includes("hyperplane, in-use"));
    card?.focus();
    return Boolean(card);
"""


def test_it_is_for_everybody(window: Browser, lab: Lab) -> None:
    """No findings of axe, in light and dark, with a panel open; and the keyboard alone."""
    with served(window, "--lab", lab.name) as url:
        for scheme in ("light", "dark"):
            media = [{"name": "prefers-color-scheme", "value": scheme}]
            window.command("Emulation.setEmulatedMedia", features=media)
            window.open(url)
            for view in VIEWS:
                go(window, view)
                assert findings(window) == [], view
        go(window, "Topology")
        # One that stays: an interface of its own goes with its environment.
        wait_until(lambda: window.run(FOCUS_ON_SHARED), "the card of a shared interface")
        window.press(ENTER)
        window.shows("ErrorPortAllocation")
        assert window.run("return document.activeElement.id") == "details-title"
        assert findings(window) == []
        window.press(ESCAPE)
        hidden = "return document.querySelector('aside').hidden"
        wait_until(lambda: window.run(hidden), "no panel")
        assert window.run("return document.activeElement.className") == "card"
        window.run("document.activeElement.blur(); scrollTo(0, 0)")
        window.open(url)
        window.press(TAB)
        assert window.run("return document.activeElement.textContent") == "Skip to the view"
        go(window, "Flows")
        window.run("document.querySelector('.skip').focus()")
        window.press(ENTER)
        assert window.run("return document.activeElement.id") == "content"
        window.shows(r"\nFlows\n.*At least this old")
        assert window.log() == []


HOSTS_TOML = """
[[vpc]]
name = "customer"
cidr = "10.0.0.0/16"
subnet = [{ name = "a", cidr = "10.0.1.0/24" }]
security_group = [
  { name = "app" },
  { name = "db", ingress = [{ protocol = "tcp", ports = "5432", group = "app" }] },
]
host = [
  { name = "client", subnet = "a", address = "10.0.1.20", security_groups = ["app"] },
  { name = "store", subnet = "a", address = "10.0.1.54", security_groups = ["db"] },
]
service = [{ name = "web", kind = "http", host = "store", port = 5432 }]
"""

# One connection that stands, and datagrams that the store's groups refuse.
VISIT = """
import socket, time
standing = socket.create_connection(("10.0.1.54", 5432))
refused = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    refused.sendto(b"x", ("10.0.1.54", 9))
    time.sleep(0.05)
"""


# Whether what was opened is in sight beside its panel, and the lines of the word "Close".
BESIDE = """
    const right = (selector) => document.querySelector(selector).getBoundingClientRect().right;
    const button = document.querySelector("aside .bar button").firstChild;
    const word = document.createRange();
    word.selectNodeContents(button);
    return [right("[aria-expanded=true]") <= right("main .scroll"), word.getClientRects().length];
"""


def test_hosts_stand_on_their_subnet(window: Browser, launch: Launch) -> None:
    lab = launch(environments=0, toml=HOSTS_TOML)
    with served(window, "--lab", lab.name) as url:
        window.open(url)
        window.shows(r"customer\s.*10\.0\.1\.54\s+of a host\s+groups: db\s+store\s+host")
        window.shows(r"services: web.*the VPC's router\s.*router, available")
        assert "internet" not in window.text()
        command = [str(COMMAND), "--lab", lab.name, "exec", "client", "--"]
        with subprocess.Popen([*command, "python3", "-c", VISIT]) as process:
            try:
                window.shows(r"client\s+host\s+\d+ pkt/s out.*✕ [12]\d pkt/s refused")
                window.click("button.card", "client")
                window.shows(r"security groups\s+app.*flows\s+1.*refused since the start\s+\d")
                window.shows(r"hosts\s+2: [\d.]+ pkt/s out, [\d.]+ pkt/s in")
                assert window.run(BESIDE) == [True, 1]
                assert findings(window) == []
                go(window, "Activity")
                window.shows(r"Packets of hosts out [\d.]+ pkt/s")
                assert findings(window) == []
                go(window, "Flows")
                window.shows(
                    r"tcp\s+ESTABLISHED\s+customer/client\s+10\.0\.1\.20:\d+\s+not translated"
                )
                window.click("td button", "")
                window.shows(
                    r"tcp of customer/client.*from, not translated\s+10\.0\.1\.20:\d+\s+remote"
                )
                assert findings(window) == []
            finally:
                process.terminate()
        assert window.log() == []


@pytest.mark.parametrize("address", ["#/constructor", "#/__proto__"])
def test_an_address_that_nobody_wrote_shows_the_lab(
    window: Browser, strange: str, address: str
) -> None:
    # Another fragment of the same page would not load it anew.
    window.open("about:blank")
    window.open(strange + address)
    heading(window, "Topology")
    assert window.log() == []


def test_an_address_with_a_broken_name_names_no_lab(window: Browser, strange: str) -> None:
    window.open("about:blank")
    window.open(strange + "#%E0%A4%A/flows")
    window.shows("No lab %E0%A4%A runs")
    assert window.log() == []


HOSTILE = "</script><img src=x onerror=alert(1)><b>\u202e{{7*7}}"
GERMAN = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenverleihungsordnung"


STRANGE_SERVICES = balancing.answers() | {
    "/v1/load-balancers": [balancing.BALANCER | {"LoadBalancerName": HOSTILE, "VpcName": GERMAN}],
    "/v1/target-groups": [
        balancing.GROUP
        | {
            "TargetGroupName": GERMAN,
            "Targets": [
                balancing.targets(1, 1)[0] | {"HostName": HOSTILE, "Description": HOSTILE},
                *balancing.targets(50),
            ],
        }
    ],
    "/v1/endpoint-services": [balancing.SERVICE | {"Name": HOSTILE, "VpcName": GERMAN}],
    "/v1/endpoints": [balancing.ENDPOINT | {"Name": HOSTILE, "VpcName": HOSTILE}],
}


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
        "/v1/hosts": [HOST | {"HostName": HOSTILE, "VpcName": GERMAN, "SubnetName": GERMAN}],
        "/v1/flows": [cli.FLOW | {"environment": HOSTILE, "entry": 1, "interface": GERMAN}],
        "/v1/environments": [cli.ENVIRONMENT | {"name": HOSTILE}],
        "/v1/status": ANSWERS["/v1/status"] | {"drops": {HOSTILE: 5}},
        **STRANGE_SERVICES,
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
    assert window.run(BESIDE) == [True, 1]
    assert window.log() == []
    # The policy is the second line: not even a script of ours could make markup of a text.
    refused = "try { document.body.innerHTML = '<p>x'; return ''; } catch (e) { return e.name; }"
    assert window.run(refused) == "TypeError"
    window.log()


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


def test_fifty_targets_are_a_card_that_can_be_read(window: Browser, strange: str) -> None:
    window.open(strange)
    go(window, "Load balancers, endpoints")
    window.shows(r"TCP 80, TCP 443.*TCP 80, 51 targets: 50 healthy, 1 unhealthy")
    window.shows(r"web-0005:80 healthy\s+and 44 more\s+✕ 1 of 51 unhealthy")
    assert "web-0006" not in window.text()
    window.click("button.card", "51 targets")
    window.shows(r"health check\s+HTTP traffic-port/peer.*unhealthy Target\.Timeout.*web-0049")
    assert window.run(BESIDE) == [True, 1]
    assert findings(window) == []
    assert window.log() == []


# The cards at which the heads of arrows of a class are, by their titles.
POINTED = """
    const pointed = (kind) => {
        const base = document.querySelector(".grid").getBoundingClientRect();
        const cards = [...document.querySelectorAll("[data-node]")];
        return [...document.querySelectorAll(`path.head${kind}`)].map((path) => {
            const [x, y] = path.getAttribute("d").match(/L([^L]*)L/)[1].split(" ").map(Number);
            return cards.find((card) => {
                const { left, top, bottom } = card.getBoundingClientRect();
                const [across, down] = [base.left + x, base.top + y];
                return Math.abs(left - across) < 1 && top < down && down < bottom;
            })?.querySelector("strong").textContent;
        }).sort();
    };
"""
# The same as soon as a card is open, which makes the view narrower.
POINTED_BESIDE = (
    POINTED
    + """
    const card = [...document.querySelectorAll("button.card")]
        .find((each) => each.textContent.includes("bank/orders"));
    card.click();
    return new Promise((done) => requestAnimationFrame(
        () => requestAnimationFrame(() => done(pointed("")))));
"""
)


def test_endpoints_lead_to_services_and_these_to_targets(window: Browser, launch: Launch) -> None:
    text = PRIVATE_LINK.read_text(encoding="utf-8")
    lab = launch(environments=0, toml=text[text.index("[lifecycle]") :])
    with served(window, "--lab", lab.name) as url:
        window.open(url)
        window.shows(r"bank\s+10\.0\.0\.0/16\s+→ shop: endpoint orders")
        window.shows(r"vpc-endpoint.*orders\s+endpoint to shop/orders\s+PendingAcceptance")
        window.shows(r"front\s+load balancer\s+(provisioning|active)")
        assert window.run(POINTED + "return pointed('.between')") == ["shop"]
        assert findings(window) == []

        go(window, "Load balancers, endpoints")
        window.shows(r"bank/orders\s+Interface, PendingAcceptance\s+a: 10\.0\.1\.100")
        lab.cli("endpoint-services", "--accept", "bank/orders")
        window.shows(r"bank/orders\s+Interface, Available")
        window.shows(r"✓ web-a:80 healthy\s+✓ web-b:80 healthy")
        everything = ["shop/front", "shop/hosts", "shop/orders"]
        assert window.run(POINTED + "return pointed('')") == everything
        assert window.run(POINTED_BESIDE) == everything
        window.shows(r"private DNS\s+orders\.example\.com.*desk-b\s+10\.0\.2\.200")
        assert findings(window) == []
        lab.client.delete("/v1/services/web-b-http")
        window.shows(r"✕ web-b:80 Target\.\w+\s+✓ web-a:80 healthy\s+✕ 1 of 2 unhealthy")
        lab.cli("endpoint-services", "--reject", "bank/orders")
        window.shows(r"bank/orders\s+Interface, Rejected.*✕ rejected by the service's owner")
        assert window.log() == []


CONNECTIONS = 6
"""Of a browser for one address (a habit of all of them; RFC 9112, section 9.4, names no number)."""


# An answer to what is not asked for any more comes last.
LATE = """
    const real = window.fetch;
    const released = new Promise((done) => { window.release = done; });
    window.fetch = async (address, ...more) => {
        if (!address.includes("api/flows")) return real(address, ...more);
        if (address.includes("protocol=udp")) return new Response("[]");
        const answer = await real(address, ...more);
        await released;
        return answer;
    };
"""


def test_an_answer_that_comes_late_is_not_that_of_another_search(
    window: Browser, strange: str
) -> None:
    window.open(strange)
    window.shows(r"\nTopology\n.*Donau")
    window.run(LATE)
    go(window, "Flows")
    window.shows("asking …")
    window.run("document.forms[0].protocol.value = 'udp'")
    window.click("form button")
    window.shows("no such flow")
    window.run("window.release(); return new Promise((done) => setTimeout(done, 0))")
    window.run("return new Promise(requestAnimationFrame)")
    assert "no such flow" in window.text()
    assert window.log() == []


def test_what_has_the_focus_keeps_it_when_what_stood_before_it_goes(
    window: Browser, strange: str
) -> None:
    window.open(strange)
    script = """
        return import(new URL("page/dom.js", location)).then(({ h, patch }) => {
            const list = document.createElement("div");
            document.body.append(list);
            const show = (...keys) =>
                patch(list, keys.map((key) => h("button", { key, type: "button" }, key)));
            show("a", "b", "c");
            list.lastChild.focus();
            show("b", "c");
            show("d", "b", "c");
            const texts = [...list.children].map((each) => each.textContent);
            const focused = document.activeElement.textContent;
            list.remove();
            return [texts, focused];
        });
    """
    assert window.run(script) == [["d", "b", "c"], "c"]


def test_more_tabs_than_a_browser_has_connections(window: Browser, strange: str) -> None:
    with contextlib.ExitStack() as tabs:
        for _ in range(CONNECTIONS + 1):
            tabs.enter_context(window.tab())
            window.open(strange)
            window.shows(r"\nTopology\n.*Donau")
    window.open(strange)
    window.shows(r"\nTopology\n.*Donau")
    with window.tab():
        pass
    go(window, "Flows")
    window.shows(r"<img src=x")
    assert window.log() == []


def test_a_stream_that_is_refused_says_why(window: Browser, strange: str) -> None:
    window.open("about:blank")
    address, _, token = strange.partition("?token=")
    (lab,) = requests.get(f"{address}api/labs", {"token": token}, timeout=30).json()
    query = {"token": token, "lab": lab["lab"]}
    held: list[requests.Response] = []
    with contextlib.ExitStack() as streams:

        def one_more() -> bool:
            # Those of windows that are gone are given up at the next write only.
            stream = requests.get(f"{address}api/stream", query, stream=True, timeout=30)
            held.extend([streams.enter_context(stream)] if stream.ok else [])
            return len(held) == STREAMS_MAX

        wait_until(one_more, "all streams")
        window.open(strange)
        window.shows(rf"✕ {STREAMS_MAX} pages are open \(close one\)")
    window.shows(r"\nTopology\n.*Donau")
    assert "pages are open" not in window.text()
    assert all("503" in line for line in window.log())


def test_a_lab_that_does_not_run_is_no_other(window: Browser) -> None:
    here, wanted = (f"t-{secrets.token_hex(4)}" for _ in range(2))
    with tempfile.TemporaryDirectory(prefix="hp-") as root:

        def runs(name: str) -> contextlib.AbstractContextManager[object]:
            status = ANSWERS["/v1/status"] | {"lab": name, "environments": 43}
            api = FakeApi(ANSWERS | {"/v1/status": status})
            return serving(Path(root) / name / "control.sock", api)

        with runs(here), served(window, "--runtime-directory", root) as url:
            window.open(f"{url}#{wanted}/ports")
            window.shows(rf"No lab {wanted} runs\. It appears here by itself")
            assert window.run("return document.getElementById('lab').value") == wanted
            assert window.run("return document.title") == f"{wanted} · Ports · hyperplane-nat"
            with runs(wanted):
                window.shows(r"environments\s+43\b.*\nPorts\n")
        assert window.log() == []


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
