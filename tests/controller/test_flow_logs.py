# SPDX-License-Identifier: Apache-2.0
"""The writer of flow logs as a service of the controller, and its files among the lab's."""

import stat
from pathlib import Path

import pytest

from hyperplane_nat.config.lab import Config, validated
from hyperplane_nat.controller import cleanup, flow_logs
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.network import reconcile
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.engine import StateMap
from hyperplane_nat.engine.readers.flow_record_ring import FlowRecordRing
from hyperplane_nat.flow_logs import __main__ as program


def config(directory: Path, *, enabled: bool) -> Config:
    return validated(
        {
            "lab": {
                "name": "logs",
                "runtime_directory": str(directory / "run"),
                "state_directory": str(directory / "state"),
            },
            "flow_logs": {"enabled": enabled, "directory": str(directory / "logs")},
        },
        "lab.toml",
    )


def paths(made: Config) -> LabPaths:
    return LabPaths.of(made.lab.name, made.lab.runtime_directory, made.lab.state_directory)


def test_without_flow_logs_nobody_writes_or_records(tmp_path: Path) -> None:
    made = config(tmp_path, enabled=False)
    assert flow_logs.writer_specs(made) == []
    assert "--flow-records" not in reconcile.forwarder_command(made, paths(made), ("forwarder",))


def test_the_forwarder_records_where_the_writer_reads(tmp_path: Path) -> None:
    made = config(tmp_path, enabled=True)
    command = reconcile.forwarder_command(made, paths(made), ("forwarder",))
    records = command[command.index("--flow-records") + 1]
    assert records == str(tmp_path / "state" / "hyperplane-nat-logs.records")
    (spec,) = flow_logs.writer_specs(made)
    assert spec.word == "hyperplane_nat.flow_logs"
    assert spec.command[spec.command.index("--records") + 1] == records
    # No VPC can have a service of this name.
    with pytest.raises(Exception, match="lower-case"):
        validated({"vpc": [{"name": spec.vpc, "cidr": "10.0.0.0/16"}]}, "lab.toml")


def test_the_writer_understands_its_command_line(tmp_path: Path) -> None:
    (spec,) = flow_logs.writer_specs(config(tmp_path, enabled=True))
    arguments = program._arguments(list(spec.command[len(flow_logs.PROGRAM) :]))
    assert arguments.lab == "logs"
    assert arguments.directory == tmp_path / "logs" / "logs"
    assert arguments.interval_ms == 600_000


def test_its_directory_is_made_before_anything_is_started(tmp_path: Path) -> None:
    flow_logs.make_directory(config(tmp_path, enabled=False))
    assert not (tmp_path / "logs").exists()
    flow_logs.make_directory(config(tmp_path, enabled=True))
    assert stat.S_IMODE((tmp_path / "logs" / "logs").stat().st_mode) == 0o750


def test_a_directory_as_a_former_version_made_it_goes_on(tmp_path: Path) -> None:
    there = tmp_path / "logs" / "logs"
    there.mkdir(parents=True)
    there.chmod(0o755)
    flow_logs.make_directory(config(tmp_path, enabled=True))
    assert stat.S_IMODE(there.stat().st_mode) == 0o755


def test_a_directory_in_which_others_write_is_refused(tmp_path: Path) -> None:
    there = tmp_path / "logs" / "logs"
    there.mkdir(parents=True)
    there.chmod(0o775)
    with pytest.raises(ControllerError, match=r"flow_logs.directory: others can write in .*0775"):
        flow_logs.make_directory(config(tmp_path, enabled=True))


def test_a_lab_that_goes_takes_its_records_along_but_not_its_logs(tmp_path: Path) -> None:
    made = config(tmp_path, enabled=True)
    found = paths(made)
    for path in (found.records_file, found.directory / "lab.json", tmp_path / "logs" / "logs"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    nothing = cleanup.Namespaces(strays=lambda _: [], destroy=lambda _: None)
    cleanup.sweep(found, nothing)
    assert not found.records_file.exists()
    assert (tmp_path / "logs" / "logs").exists()


def test_lost_lines_are_a_counter_like_those_of_the_map(tmp_path: Path) -> None:
    records = tmp_path / "records"
    assert flow_logs.counters(None, records) == {}
    state = StateMap.create(tmp_path / "map", flows_max=16, slots_max=4, interfaces_max=4)
    assert flow_logs.counters(state, records)["flow_log_lines_lost"] == 0
    ring = FlowRecordRing.create(records, capacity=16, places_max=4)
    ring.count_lines(3, 2)
    found = flow_logs.counters(state, records)
    assert (found["flow_log_lines_lost"], found["flow_records_lost"]) == (2, 0)
    ring.close()
    state.close()
