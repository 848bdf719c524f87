# SPDX-License-Identifier: Apache-2.0
"""`apply` does all or nothing: many at once, with a full disk, and told twice."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.client import ApiError, Client
from hyperplane_nat.config import load
from hyperplane_nat.controller import record
from tests.live.conftest import Launch
from tests.live.lab import Lab, customer_vpc, live_connection, wait_until

pytestmark = pytest.mark.live

BASE = f"""
[lifecycle]
time_scale = 1000.0

[pool]
size = 4

{customer_vpc()}"""

FULL = r"cannot write .*file system is full"

HOOK = '\n[[function]]\nname = "{}"\nnetworking = "none"\n'


def document(lab: Lab, *functions: str) -> dict[str, Any]:
    """The lab's configuration with these functions instead of its own."""
    path = lab.config_file.with_suffix(".wanted")
    text = lab.config_file.read_text().partition("[[function]]")[0]
    path.write_text(text + "".join(HOOK.format(name) for name in functions))
    return record.said(load(path))


def names(client: Client) -> set[str]:
    rows: Any = client.get("/v1/functions")
    return {row["FunctionName"] for row in rows}


def kept(directory: Path) -> set[str]:
    config = record.read(directory / "lab.json")
    assert config is not None
    return {function.name for function in config.function}


def test_twenty_at_once(launch: Launch) -> None:
    """Each is answered as if it was alone, and what is kept in the end is what runs."""
    lab = launch(environments=1, toml=BASE + HOOK.format("hook"))
    wanted = [document(lab, "hook", f"more-{number}") for number in range(20)]
    failures: list[Exception] = []

    def ask(config: dict[str, Any]) -> None:
        try:
            lab.client.post("/v1/apply", {"config": config})
        except Exception as error:
            failures.append(error)

    with live_connection(lab, 1, 7007) as exchange_more:
        threads = [threading.Thread(target=ask, args=(each,)) for each in wanted]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert failures == []
        exchange_more()
        assert names(lab.client) == kept(lab.runtime_directory)
        assert len(names(lab.client)) == 2
        assert [path.name for path in lab.runtime_directory.glob("lab.*")] == ["lab.json"]


def test_a_first_function_is_added(launch: Launch) -> None:
    lab = launch(environments=1, toml=BASE.replace("size = 4", "size = 0"))
    with live_connection(lab, 1, 7007) as exchange_more:
        config = document(lab, "first") | {"pool": {"size": 2}}
        lab.client.post("/v1/apply", {"config": config})
        wait_until(lambda: lab.status()["pool"] == {"ready": 2, "size": 2}, "the pool is full")
        wait_until(lambda: lab.rows("functions")[0]["State"] == "Active", "it is Active")
        answer: Any = lab.client.post(
            "/v1/functions/first/invocations", {"command": ["ip", "address"]}
        )
        assert answer["status"] == 0
        exchange_more()


def test_a_token_with_other_parameters_is_refused(launch: Launch) -> None:
    lab = launch(environments=1, toml=BASE + HOOK.format("hook"))
    wait_until(lambda: lab.rows("functions")[0]["State"] == "Active", "it is Active")
    config = document(lab, "hook", "more")
    body: dict[str, Any] = {"config": config, "client_token": "one"}
    assert lab.client.post("/v1/apply", body) == lab.client.post("/v1/apply", body)
    for changed in ({"dry_run": True}, {"config": document(lab, "hook")}):
        with pytest.raises(ApiError, match="IdempotentParameterMismatch"):
            lab.client.post("/v1/apply", body | changed)
    assert names(lab.client) == {"hook", "more"}
    run = {"command": ["cat"], "stdin": "b25l", "client_token": "two"}
    path = "/v1/functions/hook/invocations"
    assert lab.client.post(path, run) == lab.client.post(path, run)
    others: list[dict[str, Any]] = [{"stdin": "dHdv"}, {"timeout_seconds": 5.0}]
    for other in [*others, {"command": ["tac"]}]:
        with pytest.raises(ApiError, match="IdempotentParameterMismatch"):
            lab.client.post(path, run | other)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with next to no room, for the lab's files."""
    directory = Path("/run") / f"hyperplane-nat-test-{tmp_path.name[-12:]}"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)
    directory.rmdir()


def test_a_full_disk_changes_nothing(launch: Launch, small_disk: Path) -> None:
    lab = launch(environments=1, toml=BASE + HOOK.format("hook"))
    lab.down()
    option = ("--set", f"lab.runtime_directory={small_disk}")
    lab.cli("up", "-c", str(lab.config_file), *option)
    client = Client(lab.name, runtime_directory=small_disk)
    try:
        wait_until(lambda: client.get("/v1/functions")[0]["State"] == "Active", "it is Active")  # type: ignore[index]
        wanted = document(lab, "hook", "more")
        wanted["lab"]["runtime_directory"] = str(small_disk)
        before = client.get("/v1/config")
        filler = small_disk / "filler"
        with filler.open("wb") as file:
            subprocess.run(
                ["dd", "if=/dev/zero", "bs=4k"], stdout=file, stderr=subprocess.DEVNULL, check=False
            )
        for _ in range(3):
            with pytest.raises(ApiError, match=FULL):
                client.post("/v1/apply", {"config": wanted})
            assert names(client) == {"hook"}
            assert client.get("/v1/config") == before
        for _ in range(5):
            with pytest.raises(ApiError, match=FULL):
                client.post("/v1/functions/hook/invocations", {"command": ["true"]})
        environments: Any = client.get("/v1/environments")
        assert "initializing" not in {each["state"] for each in environments}
        filler.unlink()
        client.post("/v1/apply", {"config": wanted})
        assert names(client) == {"hook", "more"} == kept(small_disk / lab.name)
        answer: Any = client.post("/v1/functions/hook/invocations", {"command": ["true"]})
        assert answer["status"] == 0
    finally:
        lab.cli("--runtime-directory", str(small_disk), "down")
