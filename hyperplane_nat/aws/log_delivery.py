# SPDX-License-Identifier: Apache-2.0
"""CloudWatch Logs of what functions and flow logs write.

Theory of operation
-------------------
Both write files, which stay when this endpoint ends. Whenever Logs are asked for something, what
was added to the files of the account since then becomes events of moto's streams; a new endpoint
reads the files from their beginning, so each line is delivered once, with the times that it had. A
group that is not there is made by a request like any other. Who deletes a group or a stream has
deleted what had been delivered by then: its notes say until when.

A function's group is `/aws/lambda/NAME`, a stream of it is an environment's, by the name that its
handler knows (`AWS_LAMBDA_LOG_STREAM_NAME`). That of a flow log is an interface's, `ENI-all`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from werkzeug.wrappers import Response

from hyperplane_nat.aws.call import Lab
from hyperplane_nat.aws.draws import drawing
from hyperplane_nat.aws.errors import AwsError
from hyperplane_nat.client import ClientError
from hyperplane_nat.flow_logs import requested
from hyperplane_nat.runtime.logs import log_path

log = logging.getLogger(__name__)

Answer = Callable[[str, str, str, dict[str, Any], bytes], Response]
"""`Recorder.answer`."""

EVENTS_MAX = 20_000
"""Events kept of a stream; the oldest go."""

STREAM_BYTES_MAX = 8 << 20
"""Of their texts: as much as the files of a function have."""

PREFIX = "/aws/lambda/"

_LINE = re.compile(
    rb"(?P<time>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{3})Z (?P<source>env-[0-9]+) "
    rb"(?P<text>.*)"
)
_SPOOLED = re.compile(rb"(?P<moment>[0-9]{1,14}) (?P<ingested>[0-9]{1,14}) (?P<text>.*)")
_START = re.compile(r"START RequestId: \S+ Version: (?P<version>\S+)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Line:
    """An event that is to be."""

    stream: str
    moment: int
    """In milliseconds since the epoch."""
    ingested: int
    """When it was written."""
    text: str


class Tail:
    """What is added to a log of two files, the former one of which has a 1 behind its name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._begins = b""
        self._offset = 0

    def lines(self) -> list[bytes]:
        """Whole lines that are new. OSError."""
        try:
            current = self._path.open("rb")
        except FileNotFoundError:
            return []
        with current:
            inode = os.fstat(current.fileno()).st_ino
            found = b""
            if not self._is_known(current):
                found = self._rest_of_former(inode)
                self._inode, self._offset = inode, 0
            self._begins = _beginning(current)
            current.seek(self._offset)
            new = current.read()
        whole = new.rfind(b"\n") + 1
        self._offset += whole
        return (found + new[:whole]).split(b"\n")[:-1]

    def _is_known(self, file: BinaryIO) -> bool:
        """Whether a file is the one that was read last."""
        # The inode of one that went may be that of the next but one.
        same = os.fstat(file.fileno()).st_ino == self._inode
        return same and _beginning(file).startswith(self._begins)

    def _rest_of_former(self, current: int) -> bytes:
        try:
            with self._path.with_name(f"{self._path.name}.1").open("rb") as former:
                if os.fstat(former.fileno()).st_ino == current:
                    return b""
                former.seek(self._offset if self._is_known(former) else 0)
                return former.read()
        except FileNotFoundError:
            return b""


def _beginning(file: BinaryIO) -> bytes:
    """Enough of a log to have the time of its first line."""
    return os.pread(file.fileno(), 64, 0)


@dataclass(slots=True)
class FunctionSource:
    """The log of a function."""

    group: str
    tail: Tail
    _streams: dict[str, str] = field(default_factory=dict)

    def lines(self) -> Iterator[Line]:
        """What is new in it."""
        for raw in self.tail.lines():
            if (found := _LINE.fullmatch(raw)) is None:
                continue
            time, source = found["time"].decode(), found["source"].decode()
            text = found["text"].decode("utf-8", "replace")
            if source not in self._streams or text.startswith("INIT_START"):
                self._streams[source] = _stream(time, "$LATEST", source)
            if start := _START.match(text):
                day = self._streams[source].partition("/[")[0].replace("/", "-")
                self._streams[source] = _stream(day, start["version"], source)
            moment = _milliseconds(time)
            yield Line(self._streams[source], moment, moment, text)


def _stream(time: str, version: str, source: str) -> str:
    return f"{time[:10].replace('-', '/')}/[{version}]{source}"


def _milliseconds(time: str) -> int:
    moment = datetime.fromisoformat(time).replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(milliseconds=1)


@dataclass(slots=True)
class FlowLogSource:
    """What a flow log has of one interface."""

    group: str
    stream: str
    tail: Tail

    def lines(self) -> Iterator[Line]:
        """What is new in it."""
        for raw in self.tail.lines():
            if (found := _SPOOLED.fullmatch(raw)) is not None:
                moment, ingested = int(found["moment"]), int(found["ingested"])
                yield Line(self.stream, moment, ingested, found["text"].decode("utf-8", "replace"))


Source = FunctionSource | FlowLogSource


class LogDelivery:
    """What is delivered to the Logs of one lab."""

    def __init__(self, lab: Lab, answer: Answer) -> None:
        self._lab = lab
        self._answer = answer
        self._sources: dict[tuple[str, Path], Source] = {}
        self._latest: dict[tuple[str, str], int] = {}
        """When the last line of a group was written, by account and group."""
        self._told: set[tuple[str, str]] = set()
        """Groups that could not be made, which is told once of each."""
        # A group that is made asks Logs, too.
        self._lock = threading.RLock()
        self._at_work = False

    def deliver(self, account: str) -> None:
        """What was written since the last time. What cannot be read is there the next time."""
        with self._lock:
            if self._at_work:
                return
            self._at_work = True
            try:
                for path, source in self._of(account):
                    known = self._sources.setdefault((account, path), source)
                    if not self._put(account, known):
                        # It is read from its beginning for a group that has nothing yet.
                        del self._sources[account, path]
            except (OSError, ClientError):
                return
            finally:
                self._at_work = False

    def note_deleted(self, account: str, operation: str, body: bytes) -> None:
        """A request of Logs was done: what it has deleted is not delivered again."""
        if operation not in ("DeleteLogGroup", "DeleteLogStream"):
            return
        said = json.loads(body)
        group, stream = str(said.get("logGroupName")), said.get("logStreamName")
        key = _key(account, group, stream if operation == "DeleteLogStream" else None)
        with self._lock:
            if (latest := self._latest.get((account, group))) is not None:
                self._lab.notes.put(key, {"Until": latest})

    def _put(self, account: str, source: Source) -> bool:
        """Deliver what is new; False where its group could not be made."""
        lines: defaultdict[str, list[Line]] = defaultdict(list)
        key = account, source.group
        for line in source.lines():
            self._latest[key] = max(self._latest.get(key, 0), line.ingested)
            if line.ingested > self._until(account, source.group, line.stream):
                lines[line.stream].append(line)
        if not lines:
            return True
        from moto.logs.models import logs_backends

        groups = logs_backends[account][self._lab.region].groups
        if source.group not in groups:
            try:
                self._make(account, source.group)
            except AwsError as error:
                if key not in self._told:
                    self._told.add(key)
                    log.warning("no log group %s: %s", source.group, error.message)
                return False
        # Somebody may have deleted it just now.
        if (group := groups.get(source.group)) is not None:
            for name, found in lines.items():
                _append(group, name, found)
        return True

    def _until(self, account: str, group: str, stream: str) -> int:
        notes = self._lab.notes
        keys = _key(account, group), _key(account, group, stream)
        return max(int(notes.of(key).get("Until", -1)) for key in keys)

    def _make(self, account: str, group: str) -> None:
        """As a client would."""
        body = json.dumps({"logGroupName": group}).encode()
        scope = f"{account}/20260101/{self._lab.region}/logs/aws4_request"
        environ: dict[str, Any] = {
            "CONTENT_TYPE": "application/x-amz-json-1.1",
            "HTTP_AUTHORIZATION": f"AWS4-HMAC-SHA256 Credential={scope}",
            "HTTP_HOST": "127.0.0.1",
            "HTTP_X_AMZ_TARGET": "Logs_20140328.CreateLogGroup",
            "HTTP_X_MOTO_ACCOUNT_ID": account,
            "PATH_INFO": "/",
            "QUERY_STRING": "",
            "REQUEST_METHOD": "POST",
            "SCRIPT_NAME": "",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.url_scheme": "http",
        }
        self._answer("logs", "CreateLogGroup", account, environ, body)

    def _of(self, account: str) -> Iterator[tuple[Path, Source]]:
        client = self._lab.client
        functions: Any = client.get("/v1/functions")
        for row in functions:
            if row["Account"] == account:
                name = row["FunctionName"]
                path = log_path(client.path.parent, name)
                yield path, FunctionSource(PREFIX + name, Tail(path))
        if self._lab.flow_logs is None:
            return
        # Before the list: whichever is not in that is gone, and not just made.
        noted = list(self._lab.notes.having("FlowLog"))
        rows: Any = client.get("/v1/flow-logs")
        groups = {row["FlowLogId"]: row["LogGroupName"] for row in rows}
        owners = {row["FlowLogId"]: row["OwnerId"] for row in rows}
        there = set(groups)
        for key, note in noted:
            # One that was deleted: what it had written by then is still there.
            groups.setdefault(key, note["FlowLog"]["LogGroupName"])
            owners.setdefault(key, note["FlowLog"]["OwnerId"])
        for key, group in groups.items():
            if owners[key] != account:
                continue
            found = list(requested.spools(self._lab.flow_logs, key))
            if not found and key not in there:
                self._lab.notes.forget(key)
            for interface, path in found:
                yield path, FlowLogSource(group, requested.stream_name(interface), Tail(path))


def _key(account: str, group: str, stream: str | None = None) -> str:
    return f"logs:{account}:{group}" if stream is None else f"logs:{account}:{group}:{stream}"


def _superfluous(events: list[Any]) -> int:
    """How many of the oldest are more than is kept of a stream; the newest always is."""
    left = STREAM_BYTES_MAX
    for count, event in enumerate(reversed(events)):
        left -= len(event.message)
        if count and (left < 0 or count == EVENTS_MAX):
            return len(events) - count
    return 0


def _append(group: Any, name: str, lines: list[Line]) -> None:
    """Events of moto's, with their own time of ingestion."""
    from moto.logs.models import LogEvent

    with drawing(0, lines[0].ingested / 1000):
        if name not in group.streams:
            group.create_log_stream(name)
    stream = group.streams[name]
    stream.events += [
        LogEvent(line.ingested, {"timestamp": line.moment, "message": line.text}) for line in lines
    ]
    del stream.events[: _superfluous(stream.events)]
    stream.stored_bytes += sum(len(line.text) for line in lines)
    stream.last_ingestion_time = (_EPOCH + timedelta(milliseconds=lines[-1].ingested)).replace(
        tzinfo=None
    )
    stream.upload_sequence_token += 1
