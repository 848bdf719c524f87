# SPDX-License-Identifier: Apache-2.0
"""The state file: what a killed process finds, and what is refused."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.model.entities import KINDS
from hyperplane_nat.model.errors import ModelError, StateError
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.settings import LifecycleSettings
from hyperplane_nat.model.store import Store
from tests.model.support import OWN, Clock, Scene, function, lab

WRITER = """
import sys
from pathlib import Path
from hyperplane_nat.model.store import Store
from tests.model.support import OWN, Scene, function

scene = Scene(function("orders"), function("own", OWN))
scene.active()
store = Store(Path(sys.argv[1]))
store.save(scene.region)
while True:
    placement = scene.run("own" if len(scene.interfaces()) < 100 else "orders")
    store.save(scene.region, token=str(placement.environment), answer=placement.environment)
    print(placement.environment, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.db"


def busy_scene() -> Scene:
    scene = Scene(function("orders"), function("own", OWN))
    scene.active()
    scene.run("orders")
    scene.region.end(scene.run("own").environment)
    scene.apply(lab(function("orders"), function("mail", groups=("db",))))
    return scene


def reopened(path: Path, scene: Scene) -> Region:
    with Store(path) as store:
        return store.load_region(**scene.options())


def test_what_was_saved_is_loaded(path: Path) -> None:
    scene = busy_scene()
    with Store(path) as store:
        assert store.load() is None
        store.save(scene.region)
        assert scene.region.changes() == []
    region = reopened(path, scene)
    assert region.document() == scene.region.document()
    assert region.next_deadline() == scene.region.next_deadline()
    assert region.reaped() == scene.region.reaped()


def test_only_changed_rows_are_written(path: Path) -> None:
    scene = busy_scene()
    with Store(path) as store:
        store.save(scene.region)
        scene.run("orders")
        kinds = sorted(change.kind for change in scene.region.changes())
        assert kinds == ["environment", "function"]
        store.save(scene.region)
    assert reopened(path, scene).document() == scene.region.document()


def test_deleted_rows_are_deleted(path: Path) -> None:
    scene = busy_scene()
    with Store(path) as store:
        store.save(scene.region)
        scene.apply(lab())
        scene.region.interrupted()
        scene.reap()
        scene.pass_seconds(3600)
        scene.take_down()
        assert scene.interfaces() == []
        store.save(scene.region)
    assert reopened(path, scene).document() == scene.region.document()


def test_a_plan_that_cannot_be_saved_changes_nothing(path: Path) -> None:
    scene = busy_scene()
    with Store(path) as store:
        store.save(scene.region)
        before = scene.region.document()
        plan = scene.region.plan(lab(function("mail", groups=("db",)), function("new")))

        def commit(_lines: object) -> None:
            raise StateError("cannot write", "see whether its file system is full")

        with pytest.raises(StateError, match="file system is full"):
            scene.region.apply(plan, commit)
        assert scene.region.document() == before
        scene.region.apply(plan, lambda _lines: store.save(scene.region))
        after = scene.region.document()
    assert after != before
    assert reopened(path, scene).document() == after


def test_a_refused_command_leaves_the_state_as_saved(path: Path) -> None:
    scene = busy_scene()
    with Store(path) as store:
        store.save(scene.region)
        before = store.load()
        with pytest.raises(ModelError):
            scene.apply(lab(function("orders", groups=("no",))))
        scene.region.plan(lab())
        store.save(scene.region)
        assert store.load() == before


def test_answers_are_remembered_by_token_and_request(path: Path) -> None:
    scene = busy_scene()
    with Store(path, clock=scene.clock) as store:
        assert store.answer("t", {"n": 1}) is None
        store.save(scene.region, token="t", request={"n": 1}, answer={"lines": ["done"]})
    with Store(path, clock=scene.clock) as store:
        assert store.answer("t", {"n": 1}) == {"lines": ["done"]}
        with pytest.raises(ModelError, match="IdempotentParameterMismatch"):
            store.answer("t", {"n": 2})
        scene.clock.pass_seconds(86_400)
        assert store.answer("t", {"n": 1}) is None
        store.save(scene.region, token="t", request={"n": 2}, answer="new")
        assert store.answer("t", {"n": 2}) == "new"


def test_answers_are_bounded_in_number(path: Path) -> None:
    scene = Scene()
    with Store(path, clock=Clock(), settings=LifecycleSettings(client_tokens_max=10)) as store:
        for number in range(25):
            store.save(scene.region, token=f"t{number}", request=number, answer=number)
        remembered = [number for number in range(25) if store.answer(f"t{number}", number)]
    assert remembered == list(range(15, 25))


def test_a_second_controller_is_refused(path: Path) -> None:
    with Store(path), pytest.raises(StateError, match="in use by another process"):
        Store(path)
    Store(path).close()


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(b"something else entirely\n" * 1000)
    with pytest.raises(StateError, match=r"damaged: .*\(move it away"):
        Store(path)
    assert path.read_bytes().startswith(b"something"), "it is left as it was"


def test_a_database_of_somebody_else(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(StateError, match="another program"):
        Store(path)


def test_a_newer_schema_is_refused_with_a_remedy(path: Path) -> None:
    Store(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StateError, match=r"schema 99.*\(use the newer program"):
        Store(path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entity SET body = 'nonsense' WHERE kind = 'function'",
        "UPDATE entity SET body = '{}' WHERE kind = 'interface'",
        "UPDATE entity SET kind = 'spell' WHERE kind = 'service' OR kind = 'vpc'",
        "DELETE FROM entity WHERE kind = 'subnet'",
        "DELETE FROM entity WHERE kind = 'security_group'",
        "DELETE FROM entity WHERE kind = 'interface'",
    ],
)
def test_damaged_rows_are_told_in_one_line(path: Path, statement: str) -> None:
    scene = busy_scene()
    with Store(path) as store:
        store.save(scene.region)
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    with pytest.raises(StateError) as refused:
        reopened(path, scene)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_damaged_page_is_noticed(path: Path) -> None:
    scene = busy_scene()
    with Store(path) as store:
        store.save(scene.region)
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StateError, match="damaged"):
        reopened(path, scene)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot open"):
        Store(tmp_path / "no" / "model.db")


@pytest.mark.parametrize("count", [1, 20, 150])
def test_a_killed_process_leaves_its_last_command(path: Path, count: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(count)]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with Store(path) as store:
        document: dict[str, Any] = store.load() or {}
        saved = {item["slot"] for item in document["entities"]["environment"]}
        assert saved >= set(told)
        assert saved == set(range(1, max(saved) + 1)), "whole commands, none left out"
        assert document["entities"].keys() == KINDS.keys()
        region = store.load_region()
        assert all(store.answer(str(slot), None) == slot for slot in saved)
    assert len(region.interrupted()) == len(saved)
