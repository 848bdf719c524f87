# SPDX-License-Identifier: Apache-2.0
"""The labs that run, each with a reader: new ones are found, those long gone are forgotten."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hyperplane_nat import unix_socket
from hyperplane_nat.client import Client
from hyperplane_nat.ui.look import ANSWER_SECONDS, Looker
from hyperplane_nat.ui.reader import INTERVAL_SECONDS, Reader

THREADS = 32
"""Labs, and questions of pages, that are waited for at a time."""

PORTS_SHARE = 0.02
"""Of the time, that a controller may spend on who has which ports."""


class Labs:
    """The readers by name."""

    def __init__(
        self, root: Path, only: str | None = None, *, interval: float = INTERVAL_SECONDS
    ) -> None:
        """`root` has a directory for each lab; `only` is the one lab that is shown."""
        self._root = root
        self._only = only
        self._interval = interval
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="lab")
        self._readers: dict[str, Reader] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Find labs, until cancelled."""
        said: list[dict[str, Any]] = []
        try:
            while True:
                self._find()
                if (now := self.listed()) != said:
                    said = now
                    for reader in self._readers.values():
                        reader.tell({"labs": now})
                await asyncio.sleep(self._interval)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _find(self) -> None:
        for name, task in list(self._tasks.items()):
            if task.done():
                # A reader has no end of its own: its error is everybody's.
                task.result()
            if self._readers[name].forgotten and name != self._only:
                task.cancel()
                self._readers[name].end()
                del self._tasks[name], self._readers[name]
        for name in self._names():
            if name not in self._readers:
                looker = Looker(self._client(name), ports_share=PORTS_SHARE)
                reader = Reader(name, looker, self._threads, interval=self._interval)
                self._readers[name] = reader
                self._tasks[name] = asyncio.create_task(reader.run(), name=f"reader of {name}")

    def _names(self) -> list[str]:
        if self._only is not None:
            return [self._only]
        found: list[Path] = []
        with contextlib.suppress(OSError):
            found = sorted(self._root.glob(f"*/{unix_socket.CONTROL}"))
        return [path.parent.name for path in found]

    def _client(self, name: str) -> Client:
        return Client(name, runtime_directory=self._root, timeout=ANSWER_SECONDS)

    def listed(self) -> list[dict[str, Any]]:
        """Names, and whether they answer."""
        return [
            {"lab": name, "away": reader.away_since is not None}
            for name, reader in sorted(self._readers.items())
        ]

    def reader(self, name: str) -> Reader | None:
        """That of a lab; None when there is none of this name."""
        return self._readers.get(name)

    async def ask(self, name: str, path: str, query: Mapping[str, object]) -> object:
        """What the control API of a lab answers; ClientError."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._client(name).get, path, query)
