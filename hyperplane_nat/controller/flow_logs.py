# SPDX-License-Identifier: Apache-2.0
"""The writer of flow logs as the controller sees it: one more service, and two figures.

It is a process of its own (`hyperplane_nat.flow_logs`), started, adopted and restarted like
the servers in the VPCs, so that nothing it does can hold the controller up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hyperplane_nat import private_files
from hyperplane_nat.config.flow_logs import interval_ms
from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.network.reconcile import module_command
from hyperplane_nat.controller.network.services import ServiceSpec
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.program import identity
from hyperplane_nat.controller.views.lab import MapReader
from hyperplane_nat.engine.readers.flow_record_ring import read_figures
from hyperplane_nat.private_files import NotPrivateError

PROGRAM = module_command("hyperplane_nat.flow_logs")

GROUP = "Gateway"
"""What the writer is grouped under, as servers are under their VPC; no VPC has a name like this."""


def directory(config: Config) -> Path:
    """Where this lab's files go."""
    return Path(config.flow_logs.directory) / config.lab.name


def make_directory(config: Config) -> None:
    """Where the files of a lab with flow logs go; ControllerError when others have a say in it.

    Its group may read it: whoever collects logs need not be root.
    """
    if not config.flow_logs.enabled:
        return
    try:
        private_files.make_directory(directory(config), 0o750)
        private_files.refuse_closed(directory(config))
    except NotPrivateError as error:
        raise ControllerError(
            f"flow_logs.directory: {error} (choose another directory, or give it to root alone)"
        ) from None
    except OSError as error:
        raise ControllerError(
            f"flow_logs.directory: cannot use {directory(config)}: {error.strerror} "
            "(choose another directory)"
        ) from None


def writer_specs(config: Config, program: Sequence[str] = PROGRAM) -> list[ServiceSpec]:
    """The writer of a lab with flow logs; none without."""
    settings = config.flow_logs
    if not settings.enabled:
        return []
    paths = LabPaths.of(config.lab.name, config.lab.runtime_directory, config.lab.state_directory)
    command = (
        *program,
        *("--lab", config.lab.name),
        *("--runtime-directory", config.lab.runtime_directory),
        *("--state-file", str(paths.state_file)),
        *("--records", str(paths.records_file)),
        *("--directory", str(directory(config))),
        *("--interval-ms", str(interval_ms(settings, config.timeouts))),
        *("--fields", ",".join(settings.fields)),
        *("--max-file-bytes", str(settings.max_file_bytes)),
        *("--files-kept", str(settings.files_kept)),
        *("--program", identity()),
    )
    return [ServiceSpec(GROUP, "flow-logs", command, program[-1])]


def counters(state_map: MapReader | None, records: Path) -> Mapping[str, int]:
    """The counters of the map, {} without one, and what the writer lost."""
    if state_map is None:
        return {}
    figures = read_figures(records)
    lost = 0 if figures is None else figures.lines_lost
    return {**state_map.counters(), "flow_log_lines_lost": lost}
