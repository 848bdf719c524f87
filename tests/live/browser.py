# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium, driven by the WebDriver protocol (W3C) as Debian's chromedriver speaks it.

A dozen commands are all that a test of a page needs, so there is no library between: each is a
request with JSON.
"""

from __future__ import annotations

import base64
import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import requests

from tests.live.lab import require_program, wait_until

ANSWER_SECONDS = 60.0


class Browser:
    """One window; `browser` makes one."""

    def __init__(self, address: str, options: dict[str, Any]) -> None:
        self._http = requests.Session()
        self._session = address
        capabilities = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        made = self._do("POST", "/session", capabilities={"alwaysMatch": capabilities})
        self._session = f"{address}/session/{made['sessionId']}"

    def _do(self, method: str, path: str, **body: Any) -> Any:
        sent = body if method == "POST" else None
        answer = self._http.request(
            method, self._session + path, json=sent, timeout=ANSWER_SECONDS
        ).json()["value"]
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(f"{path}: {answer['error']}: {answer['message']}")
        return answer

    def open(self, url: str) -> None:
        """Go there."""
        self._do("POST", "/url", url=url)

    @contextlib.contextmanager
    def tab(self) -> Iterator[None]:
        """Another tab is in front, then this one again."""
        before = self._do("GET", "/window")
        self._do("POST", "/window", handle=self._do("POST", "/window/new", type="tab")["handle"])
        try:
            yield
        finally:
            self._do("DELETE", "/window")
            self._do("POST", "/window", handle=before)

    def size(self, width: int, height: int) -> None:
        """Of the window."""
        self._do("POST", "/window/rect", width=width, height=height)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function with this body returns; a promise is waited for."""
        return self._do("POST", "/execute/sync", script=script, args=list(arguments))

    def command(self, name: str, **parameters: Any) -> Any:
        """A command of Chromium's own (DevTools protocol)."""
        return self._do("POST", "/goog/cdp/execute", cmd=name, params=parameters)

    def text(self) -> str:
        """What a person can read."""
        return str(self.run("return document.body.innerText"))

    def shows(self, pattern: str) -> None:
        """Wait until it can be read."""

        def found() -> Any:
            return re.search(pattern, self.text(), re.DOTALL)

        wait_until(found, lambda: f"{pattern!r} on the page:\n{self.text()}")

    def click(self, selector: str, words: str = "") -> None:
        """Click on the first element of a CSS selector that has these words."""
        script = """
            const [selector, words] = arguments;
            const found = [...document.querySelectorAll(selector)]
                .find((each) => each.textContent.includes(words));
            if (found) found.click();
            return Boolean(found);
        """
        wait_until(lambda: self.run(script, selector, words), f"{selector} with {words!r}")

    def press(self, key: str) -> None:
        """Press a key, where the focus is."""
        actions = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._do("POST", "/actions", actions=[{"type": "key", "id": "keys", "actions": actions}])

    def screenshot(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self._do("GET", "/screenshot"))

    def log(self) -> list[str]:
        """What the console has told since the last time."""
        return [entry["message"] for entry in self._do("POST", "/se/log", type="browser")]

    def close(self) -> None:
        """End it."""
        self._do("DELETE", "")
        self._http.close()


@contextlib.contextmanager
def browser(width: int = 1280, height: int = 900) -> Iterator[Browser]:
    """A browser with a window of this size and a profile of its own."""
    driver = require_program("chromedriver", "chromium-driver")
    options = {
        "binary": require_program("chromium", "chromium"),
        "args": [
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--hide-scrollbars", "--no-first-run", "--disable-background-networking"),
            f"--window-size={width},{height}",
        ],
    }
    with (
        tempfile.TemporaryDirectory() as home,
        subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process,
    ):
        options["args"] += [f"--user-data-dir={home}"]  # type: ignore[operator]
        try:
            assert process.stdout is not None
            port = next(
                found[1]
                for line in process.stdout
                if (found := re.search(r"started successfully on port (\d+)", line))
            )
            opened = Browser(f"http://127.0.0.1:{port}", options)
            try:
                yield opened
            finally:
                opened.close()
        finally:
            process.terminate()
