# SPDX-License-Identifier: Apache-2.0
"""Plays many conversations in both worlds, hundreds at a time, and has them judged."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from netns import sockets
from tests.differential import worlds
from tests.differential.conversation import Conversation
from tests.differential.driver import DEADLINE_SECONDS, play
from tests.differential.judge import Pair, Report
from tests.differential.worlds import World
from tests.live.lab import Lab

PARALLEL = 400
START_SECONDS = 0.005
"""Between two beginnings: all at once would be a traffic jam, and the test of another thing."""

REPETITIONS = 2
SEED_VARIABLE = "DIFFERENTIAL_SEED"
_FILES_EACH = 32


def seed() -> int:
    """The seed of this run: what the environment says, or a new one."""
    return int(os.environ.get(SEED_VARIABLE) or secrets.randbelow(1 << 32))


@dataclass(frozen=True)
class Worlds:
    """Both worlds, up."""

    nft: World
    gateway: World
    lab: Lab
    deadline_seconds: float = DEADLINE_SECONDS
    """Of a step."""

    def run(self, seed: int, conversations: Iterable[Conversation]) -> Report:
        """Play these, at most `PARALLEL` at a time; then those that differed, by themselves."""
        return asyncio.run(self._run(Report(seed), conversations))

    async def _run(self, report: Report, conversations: Iterable[Conversation]) -> Report:
        slots: asyncio.Queue[int] = asyncio.Queue()
        for number in range(PARALLEL):
            slots.put_nowait(number)

        async def one(conversation: Conversation, slot: int) -> None:
            report.add(await self.pair(conversation, slot))
            slots.put_nowait(slot)

        async with asyncio.TaskGroup() as group:
            for conversation in conversations:
                group.create_task(one(conversation, await slots.get()))
                await asyncio.sleep(START_SECONDS)
        # Together: they are few, and each may last until a deadline.
        repetitions = [
            await asyncio.gather(
                *(self.pair(each.conversation, slot) for slot, each in enumerate(report.suspects))
            )
            for _ in range(REPETITIONS if report.suspects else 0)
        ]
        for number, suspect in enumerate(report.suspects):
            report.settle(suspect, [each[number] for each in repetitions])
        return report

    async def pair(self, conversation: Conversation, slot: int) -> Pair:
        """One conversation in both worlds at the same time."""
        nft, gateway = await asyncio.gather(
            play(conversation, self.nft, slot, self.deadline_seconds),
            play(conversation, self.gateway, slot, self.deadline_seconds),
        )
        return Pair(conversation, nft, gateway)


@contextlib.contextmanager
def both(directory: Path) -> Iterator[Worlds]:
    """Both worlds, up while the context lasts; `directory` gets the lab's configuration."""
    sockets.ensure_files(PARALLEL * _FILES_EACH)
    with (
        worlds.nft() as theirs,
        worlds.gateway(directory) as ours,
        worlds.around("nft", theirs) as nft,
        worlds.around("gateway", ours) as gateway,
    ):
        yield Worlds(nft, gateway, ours)
