# SPDX-License-Identifier: Apache-2.0
"""`flow-logs` over files that were written before and that grow."""

from pathlib import Path

from typer.testing import CliRunner

from hyperplane_nat.cli.application import app
from hyperplane_nat.cli.flow_logs import FlowLogLines
from hyperplane_nat.config.lab import Config
from hyperplane_nat.flow_logs.fields import Place
from hyperplane_nat.flow_logs.files import FlowLogFiles, log_files
from tests.cli.conftest import Run
from tests.cli.fake_api import FakeApi
from tests.cli.test_hosts import HOST

A = Place("eni-a", "111122223333")
B = Place("eni-b", "111122223333")
NOON = 1_790_000_400_000


def write(directory: Path, start_ms: int, place: Place, line: str) -> None:
    files = FlowLogFiles(directory, "version", max_file_bytes=10**6, files_kept=9)
    files.begin(start_ms)
    files.write(place, [line])
    files.flush()


def test_lines_are_printed_with_the_names_of_the_fields(tmp_path: Path) -> None:
    write(tmp_path, NOON, A, "1")
    write(tmp_path, NOON + 60_000, B, "2")
    done = CliRunner().invoke(app, ["flow-logs", "--directory", str(tmp_path)])
    assert (done.exit_code, done.output) == (0, "version\n1\n2\n")
    done = CliRunner().invoke(
        app, ["flow-logs", "--directory", str(tmp_path), "--interface", "eni-b"]
    )
    assert done.output == "version\n2\n"


def test_what_comes_is_given_once(tmp_path: Path) -> None:
    reading = FlowLogLines(tmp_path)
    assert list(reading.take()) == []
    write(tmp_path, NOON, A, "1")
    assert list(reading.take()) == ["version\n", "1\n"]
    write(tmp_path, NOON, A, "2")
    write(tmp_path, NOON + 60_000, A, "3")
    assert list(reading.take()) == ["2\n", "3\n"]
    assert list(reading.take()) == []


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    write(tmp_path, NOON, A, "1")
    (path,) = log_files(tmp_path)
    reading = FlowLogLines(tmp_path)
    with path.open("a") as file:
        file.write("half")
        file.flush()
        assert list(reading.take()) == ["version\n", "1\n"]
        file.write(" whole\n")
    assert list(reading.take()) == ["half whole\n"]


def test_a_lab_that_does_not_run_is_said(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["--lab", "nolab", "--runtime-directory", str(tmp_path), "flow-logs"]
    )
    assert done.exit_code == 2
    assert "not running" in done.output


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    done = CliRunner().invoke(app, ["flow-logs", "--directory", nowhere])
    assert (done.exit_code, done.output) == (2, f"hyperplane-nat: {nowhere}: no such directory\n")
    write(tmp_path, NOON, A, "1")
    done = CliRunner().invoke(
        app, ["flow-logs", "--directory", str(tmp_path), "--interface", "eni-c"]
    )
    assert done.exit_code == 2
    assert "no flow logs of interface 'eni-c'" in done.output


def test_the_directory_of_all_labs_is_not_one_of_a_lab(tmp_path: Path) -> None:
    for lab in ("two", "one"):
        write(tmp_path / lab, NOON, A, "1")
    done = CliRunner().invoke(app, ["flow-logs", "--directory", str(tmp_path)])
    assert done.exit_code == 2
    assert done.output == f"hyperplane-nat: {tmp_path}: name a lab's directory in it (one, two)\n"


def test_an_interface_of_a_lab_is_named_by_name_or_id(
    run: Run, api: FakeApi, tmp_path: Path
) -> None:
    config = Config.model_validate(
        {"flow_logs": {"enabled": True, "directory": str(tmp_path)}, "lab": {"name": "default"}}
    )
    api.answers["/v1/config"] = config.model_dump(mode="json")
    shared = Place("eni-0a1b2c3d4e5f60718", "111122223333")
    write(tmp_path / "default", NOON, shared, "1")
    for name in ("lm-0a1b2c3d4e5", "eni-0a1b2c3d4e5f60718"):
        assert run("flow-logs", "--interface", name).stdout == "version\n1\n"
    assert run("flow-logs", "--interface", "eni-a").stdout == ""
    refused = run("flow-logs", "--interface", "eni-z")
    assert refused.exit_code == 2
    assert refused.stderr == (
        "hyperplane-nat: unknown interface 'eni-z' (see: hyperplane-nat interfaces)\n"
    )


def test_a_host_is_named_like_elsewhere(run: Run, api: FakeApi, tmp_path: Path) -> None:
    config = Config.model_validate(
        {"flow_logs": {"enabled": True, "directory": str(tmp_path)}, "lab": {"name": "default"}}
    )
    api.answers |= {"/v1/config": config.model_dump(mode="json"), "/v1/hosts": [HOST]}
    write(tmp_path / "default", NOON, A, "1")
    write(tmp_path / "default", NOON, Place(HOST["NetworkInterfaceId"], "111122223333"), "2")
    for name in ("db", "customer/db", HOST["InstanceId"]):
        assert run("flow-logs", "--host", name).stdout == "version\n2\n"
    refused = run("flow-logs", "--host", "web")
    assert (refused.exit_code, "unknown host 'web'" in refused.stderr) == (2, True)
    for more in (("--interface", "eni-a"), ("--directory", str(tmp_path))):
        refused = run("flow-logs", "--host", "db", *more)
        assert (refused.exit_code, "--host is by itself" in refused.stderr) == (2, True)
