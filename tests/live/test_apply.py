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
from hyperplane_nat.config.lab import load
from hyperplane_nat.controller import record
from tests.live.configurations import function, functions
from tests.live.conftest import Launch
from tests.live.lab import Lab, live_connection, wait_until
from tests.live.test_crash import kill_controller

pytestmark = pytest.mark.live

FULL = r"cannot write .*file system is full"

FAST = 1000.0
"""Modelled time goes by so much quicker."""


def document(lab: Lab, *names: str) -> dict[str, Any]:
    """The lab's configuration with these functions instead of its own."""
    path = lab.config_file.with_suffix(".wanted")
    text = lab.config_file.read_text().partition("[[function]]")[0]
    path.write_text(text + "".join(map(function, names)))
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
    lab = launch(environments=1, toml=functions("hook", pool=4, time_scale=FAST))
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
    """To a file that says nothing of static environments, which go on."""
    lab = launch(environments=1, toml=functions(pool=0, time_scale=FAST))
    with live_connection(lab, 1, 7007) as exchange_more:
        config = document(lab, "first") | {"pool": {"size": 2}}
        del config["network_interface"], config["lab"]["environments"]
        answer: Any = lab.client.post("/v1/apply", {"config": config})
        assert [(line["kind"], line["detail"]) for line in answer["plan"]] == [
            ("pool", "size 0 to 2"),
            ("function", "none"),
        ]
        assert len(lab.rows("environments")) == 3
        wait_until(lambda: lab.status()["pool"] == {"ready": 2, "size": 2}, "the pool is full")
        wait_until(lambda: lab.rows("functions")[0]["State"] == "Active", "it is Active")
        answer = lab.client.post("/v1/functions/first/invocations", {"command": ["ip", "address"]})
        assert answer["status"] == 0
        exchange_more()


GROUP = '\n[[vpc.security_group]]\nname = "{}"\n'
IN_VPC = """
[[function]]
name = "f"
subnets = ["private-a"]
security_groups = ["gone"]
"""


def test_a_function_and_its_group_go_in_one_apply(launch: Launch) -> None:
    """The interface outlives the function; a controller that dies meanwhile changes nothing."""
    vpc, separator, interface = functions(pool=4, time_scale=300).partition("[[network_interface]]")
    before = vpc + GROUP.format("gone") + separator + interface
    lab = launch(environments=1, toml=before + IN_VPC)
    lab.cli("wait", "f")
    after = lab.config_file.with_suffix(".after")
    text = lab.config_file.read_text().replace(GROUP.format("gone"), "")
    after.write_text(text.replace(IN_VPC, function("hook")))
    with live_connection(lab, 1, 7007) as exchange_more:
        refused = lab.cli("apply", str(after), check=False)
        assert refused.returncode == 2
        assert 'DependencyViolation: [[vpc]] "customer", security_group "gone"' in refused.stderr
        assert "apply --wait" in refused.stderr
        assert names(lab.client) == {"f"}
        out_of_time = lab.cli("apply", str(after), "--wait", "--timeout", "0", check=False)
        assert out_of_time.returncode == 124
        assert names(lab.client) == {"hook"} == kept(lab.runtime_directory)
        kill_controller(lab)
        lab.cli("up")
        exchange_more()
        lab.cli("apply", str(after), "--wait")
        assert lab.rows("security-groups") == []
        assert lab.cli("apply", str(after)).stdout == "# nothing to do\n"


def test_a_token_with_other_parameters_is_refused(launch: Launch) -> None:
    lab = launch(environments=1, toml=functions("hook", pool=4, time_scale=FAST))
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
    lab = launch(environments=1, toml=functions("hook", pool=4, time_scale=FAST))
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
