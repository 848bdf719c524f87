# SPDX-License-Identifier: Apache-2.0
"""Flow logs that somebody has asked for: of a VPC, a subnet or an interface, in their own format.

Theory of operation
-------------------
The region has them (`/v1/flow-logs`), and the writer asks for them as for the places. A row that is
written for the lab is a line of each flow log, too, that is about its interface and its kind of
traffic. These lines have files of their own, one of each flow log and interface, from which AWS's
endpoint delivers them: first the time of the event and the time of writing, in milliseconds since
the epoch. A file of more than `FILE_BYTES_MAX` becomes `….log.1`, and the former one goes. What a
flow log has written is still there when it is deleted, until `DELETED_KEPT` others are.

VPCs and subnets have their ids in these lines, since whoever asks for them by AWS's API knows no
names.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hyperplane_nat.client import ClientError
from hyperplane_nat.flow_logs.fields import Key, LineFormat, Place, Sums
from hyperplane_nat.flow_logs.files import append_whole, opened

FILE_BYTES_MAX = 1 << 20

DELETED_KEPT = 64
"""Flow logs that are gone and have files; the oldest go."""

FOLDER = "requested"

_END = "-all.log"


def stream_name(interface: str) -> str:
    """The log stream of an interface ("Flow log records in CloudWatch Logs")."""
    return f"{interface}-all"


def spool(directory: Path, flow_log: str, interface: str) -> Path:
    """The file of a flow log and an interface below the lab's directory of flow logs."""
    return directory / FOLDER / flow_log / f"{interface}{_END}"


def spools(directory: Path, flow_log: str) -> Iterator[tuple[str, Path]]:
    """The interfaces of which a flow log has lines, each with the file."""
    for path in sorted((directory / FOLDER / flow_log).glob(f"*{_END}")):
        yield path.name.removesuffix(_END), path


@dataclass(frozen=True, slots=True)
class FlowLog:
    """One that was asked for."""

    id: str
    vpc: str
    """Names of its VPC and subnet; empty where it is not about these."""
    subnet: str
    interface: str
    traffic: str
    """ACCEPT, REJECT or ALL."""
    form: LineFormat

    def is_about(self, place: Place) -> bool:
        """Whether an interface is one of its."""
        if self.interface:
            return place.interface_id == self.interface
        return place.vpc_id == self.vpc and self.subnet in ("", place.subnet_id)


class Requested:
    """Those of one lab, and their files. `get(path)` is the control API's."""

    def __init__(
        self, directory: Path, get: Callable[[str], Any], unix_ms: Callable[[], int]
    ) -> None:
        self._directory = directory
        self._get = get
        self._unix_ms = unix_ms
        self._asked = False
        self._known: list[FlowLog] = []
        self._about: dict[Place, list[FlowLog]] = {}
        self._ids: dict[str, Mapping[str, str]] = {}
        self._lines: defaultdict[Path, list[tuple[int, str]]] = defaultdict(list)

    def refresh(self) -> None:
        """Ask which there are now. While nobody answers, what is known stays."""
        try:
            rows = self._get("/v1/flow-logs")
            names = self._names() if rows else {}
        except ClientError:
            return
        before = {each.id for each in self._known}
        self._known, self._about, self._ids = [_flow_log(row) for row in rows], {}, names
        now = {each.id for each in self._known}
        if not self._asked or before - now:
            self._asked = True
            _remove_deleted(self._directory / FOLDER, now)

    def tell(self, place: Place, key: Key, sums: Sums, start: int, end: int) -> None:
        """A row of an interface; `start` and `end` in Unix seconds."""
        for flow_log in self._of(place):
            if flow_log.traffic in ("ALL", "REJECT" if key.refused else "ACCEPT"):
                line = flow_log.form.line(self._with_ids(place), key, sums, start, end)
                self._add(flow_log, place, start, line)

    def tell_status(self, place: Place, start: int, end: int, status: str) -> None:
        """The line of an interval of which there is nothing to tell."""
        for flow_log in self._of(place):
            line = flow_log.form.without_data(self._with_ids(place), start, end, status)
            self._add(flow_log, place, start, line)

    def flush(self) -> int:
        """Write what was told; how many lines were lost."""
        lost, now = 0, self._unix_ms()
        for path, lines in self._lines.items():
            text = "".join(f"{moment} {now} {line}\n" for moment, line in lines)
            try:
                _append(path, text.encode())
            except OSError:
                lost += len(lines)
        self._lines.clear()
        return lost

    def _of(self, place: Place) -> list[FlowLog]:
        if not self._known:
            return self._known
        found = self._about.get(place)
        if found is None:
            found = [each for each in self._known if each.is_about(place)]
            self._about[place] = found
        return found

    def _add(self, flow_log: FlowLog, place: Place, start: int, line: str) -> None:
        path = spool(self._directory, flow_log.id, place.interface_id)
        self._lines[path].append((start * 1000, line))

    def _names(self) -> dict[str, Mapping[str, str]]:
        vpcs = {row["VpcName"]: row["VpcId"] for row in self._get("/v1/vpcs")}
        subnets = {
            f"{row['VpcName']}/{row['SubnetName']}": row["SubnetId"]
            for row in self._get("/v1/subnets")
        }
        return {"vpc": vpcs, "subnet": subnets}

    def _with_ids(self, place: Place) -> Place:
        vpc, subnet = place.vpc_id, place.subnet_id
        return replace(
            place,
            vpc_id=self._ids["vpc"].get(vpc, vpc),
            subnet_id=self._ids["subnet"].get(f"{vpc}/{subnet}", subnet),
        )


def _flow_log(row: Mapping[str, Any]) -> FlowLog:
    return FlowLog(
        row["FlowLogId"],
        row["VpcName"] or "",
        row["SubnetName"] or "",
        row["NetworkInterfaceId"] or "",
        row["TrafficType"],
        LineFormat(row["Fields"]),
    )


def _append(path: Path, data: bytes) -> None:
    """OSError; the file is as it was then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = opened(path)
    try:
        size = os.fstat(descriptor).st_size
        if size and size + len(data) > FILE_BYTES_MAX:
            path.replace(path.with_name(f"{path.name}.1"))
            os.close(descriptor)
            descriptor = -1
            descriptor, size = opened(path), 0
        append_whole(descriptor, size, data)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _remove_deleted(folder: Path, known: Collection[str]) -> None:
    """Have the files of no more than the newest flow logs that are not known."""
    with contextlib.suppress(OSError):
        gone = [path for path in folder.iterdir() if path.name not in known]
        gone.sort(key=lambda path: path.stat().st_mtime_ns)
        for path in gone[:-DELETED_KEPT]:
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
