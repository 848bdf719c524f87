# SPDX-License-Identifier: Apache-2.0
"""What `trace` says is what packets do.

`TRACE_SEED=N` repeats a run.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hyperplane_nat.cli.common import mapping
from tests.live.conftest import Launch
from tests.live.trace_world import Draft, Pair, World, shoot

pytestmark = pytest.mark.live

SEED_VARIABLE = "TRACE_SEED"
PAIRS = 200
AT_ONCE = 100
LEAST = 10
"""So many pairs that are reached, and that are not, make a sample that means something."""
ROUNDS_MAX = 5 * PAIRS // AT_ONCE
"""A seed whose rules are strict takes more pairs to have as many."""


def asked(world: World, pairs: list[Pair]) -> list[dict[str, Any]]:
    """What the controller says of each."""

    def one(pair: Pair) -> dict[str, Any]:
        return mapping(world.lab.client.get("/v1/trace", pair.query))

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(one, pairs))


TOML = """
[[vpc]]
name = "shop"
cidr = "10.0.0.0/16"
subnet = [{ name = "a", cidr = "10.0.1.0/24" }]
security_group = [
  { name = "app" },
  { name = "db", ingress = [{ protocol = "tcp", ports = "5432", group = "app" }] },
]
host = [
  { name = "client", subnet = "a", security_groups = ["app"] },
  { name = "store", subnet = "a", security_groups = ["db"] },
]
service = [{ name = "web", kind = "http", host = "store", port = 5432 }]
"""


def test_the_command(launch: Launch) -> None:
    lab = launch(environments=0, toml=TOML)
    done = lab.cli("trace", "client", "store.shop.internal:5432")
    assert "\nlistener\tpasses\ta socket takes tcp 10.0.1.5:5432; " in done.stdout
    assert done.stdout.endswith("# host shop/client reaches store.shop.internal:5432 by tcp\n")
    done = lab.cli("trace", "client", "store.shop.internal:80", check=False)
    assert done.returncode == 1
    assert "\ningress\tfails\tno rule of these groups admits 10.0.1.4; db (sg-" in done.stdout
    assert lab.cli("trace", "client", "10.0.1.4", check=False).returncode == 2
    found = lab.json("trace", "client", "10.0.1.5:5432")
    assert (found["reachable"], found["drop_reason"]) == (True, None)
    rule = {"protocol": "tcp", "ports": "80", "cidr": "10.0.1.0/24"}
    lab.client.patch("/v1/security-groups/db", {"authorize_ingress": [rule]})
    done = lab.cli("trace", "client", "10.0.1.5:80", check=False)
    assert "\nlistener\tfails\tno socket takes tcp 10.0.1.5:80; " in done.stdout
    # Nothing of it is left, and nothing of it was the forwarder's.
    assert lab.rows("flows") == []
    assert list(lab.state_file.parent.glob("hyperplane-nat-trace-*")) == []


def fewer(kinds: Counter[str]) -> int:
    """Pairs of those that reach each other and those that do not, whichever are fewer."""
    return min(kinds["reachable"], kinds.total() - kinds["reachable"])


@pytest.mark.slow
def test_two_hundred_pairs(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get(SEED_VARIABLE) or secrets.randbelow(1_000_000))
    with capsys.disabled():
        print(f"\n{SEED_VARIABLE}={seed}", flush=True)
    draft = Draft(seed)
    world = World(launch(environments=0, toml=draft.toml()), draft)
    wrong: list[str] = []
    kinds: Counter[str] = Counter()
    with world.listening():
        for round_number in range(ROUNDS_MAX):
            if kinds.total() >= PAIRS and fewer(kinds) >= LEAST:
                break
            if round_number == 1:
                world.change()
            batch = world.pairs(AT_ONCE)
            said = asked(world, batch)
            addresses = [
                world.resolved(pair, expected=answer["address"] is not None)
                for pair, answer in zip(batch, said, strict=True)
            ]
            sent = [
                (pair, address, answer["reachable"])
                for pair, address, answer in zip(batch, addresses, said, strict=True)
                if address is not None
            ]
            reached = iter(shoot(sent))
            for pair, address, answer in zip(batch, addresses, said, strict=True):
                real = address is not None and next(reached)
                failing = [row["step"] for row in answer["steps"] if row["outcome"] == "fails"]
                kinds[failing[0] if failing else "reachable"] += 1
                # One of several targets is chosen, and some of them are not reached.
                either = any(row["text"].endswith(" is not reached") for row in answer["steps"])
                other = real != answer["reachable"] and not either
                if other or address != answer["address"]:
                    wrong.append(f"{real} by {address}: {pair}\n{answer}")
    with capsys.disabled():
        print(dict(kinds), flush=True)
    of = f"{SEED_VARIABLE}={seed}: {len(wrong)} of {kinds.total()}"
    assert not wrong, f"{of}:\n" + "\n".join(wrong)
    assert kinds.total() >= PAIRS
    assert fewer(kinds) >= LEAST
    assert world.lab.verify() == []
