# SPDX-License-Identifier: Apache-2.0
"""The requests that have changed what moto keeps, for an endpoint that comes after a kill.

Theory of operation
-------------------
A request is in the journal before it is done, and taken out when it was refused: whatever was
answered is in it, at whatever moment the endpoint is killed. A line has the request as it came, the
moment and a seed, by which it is answered the same when it is repeated (`draws`), with a checksum
in front. Bodies that are large have a file of their own beside it. Requests that change something
are done one after the other, in the order of the lines.

The journal is bounded in requests and bytes. One that is full is made shorter by what does not
matter any more: sessions of STS that have ended, and what was done to an object of S3 that was
replaced or deleted later. If that does not help, requests are refused.

One endpoint of a lab has the journal; others that serve the lab meanwhile know what was in it.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import logging
import os
import random
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from hyperplane_nat import private_files
from hyperplane_nat.aws.errors import AwsError
from hyperplane_nat.controller.paths import JOURNAL
from hyperplane_nat.flow_logs.files import append_whole

ENTRIES_MAX = 5000
"""Requests kept: repeating one takes some milliseconds."""

BYTES_MAX = 256 << 20
"""Of the journal with all bodies."""

INLINE_MAX = 8 << 10
"""A body of more bytes has a file of its own."""

SESSION_SECONDS = 129_600
"""The longest that credentials of STS are good for (GetSessionToken: 36 hours)."""

SERVICES = frozenset({"iam", "kms", "logs", "s3", "secretsmanager", "ssm", "sts"})
"""Those of moto's services whose changes are kept."""

_READING = (
    *("Batch", "Decode", "Decrypt", "Describe", "Encrypt", "Filter", "Generate", "Get", "Head"),
    *("List", "Lookup", "ReEncrypt", "Search", "Select", "Sign", "Simulate", "StartQuery"),
    *("StopQuery", "Test", "Validate", "Verify"),
)
"""How operations begin that change nothing."""

_CHANGING = frozenset({"GetFederationToken", "GetSessionToken"})
"""Those among them that give out credentials, which an account is known by."""

_NOT_KEPT = frozenset({"PutLogEvents"})

_WITHOUT = frozenset({"HTTP_AUTHORIZATION", "HTTP_USER_AGENT", "HTTP_X_AMZ_SECURITY_TOKEN"})
_ENVIRON = frozenset(
    {
        "CONTENT_TYPE",
        "PATH_INFO",
        "QUERY_STRING",
        "RAW_URI",
        "REQUEST_METHOD",
        "REQUEST_URI",
        "SCRIPT_NAME",
        "SERVER_NAME",
        "SERVER_PORT",
        "SERVER_PROTOCOL",
    }
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """A request that was done."""

    service: str
    operation: str
    account: str
    environ: Mapping[str, str]
    """What WSGI says of it, without who has signed it how."""
    moment: float
    """When it came, in seconds since the epoch."""
    seed: int
    size: int
    """Of its body, in bytes."""
    body: str | None
    """In base64; None for one in a file."""
    file: str = ""
    """Name of that file."""

    @property
    def object(self) -> str | None:
        """The object of S3 that it is about, with its bucket; None for others, and where the bucket
        is in the name of the host.
        """
        if not self.environ.get("HTTP_HOST", "").startswith(("127.0.0.1", "localhost")):
            return None
        bucket, _, key = _text(self.environ["PATH_INFO"]).lstrip("/").partition("/")
        return f"{bucket}/{key}" if self.service == "s3" and key else None

    @property
    def settles(self) -> bool:
        """Whether what was done to its object before is without effect now."""
        whole = not self.environ.get("QUERY_STRING") and "HTTP_IF_MATCH" not in self.environ
        return whole and self.operation in ("PutObject", "CopyObject", "DeleteObject")

    @property
    def completes(self) -> bool:
        """Whether it needs what was done to its object before: the parts of an upload."""
        return self.operation == "CompleteMultipartUpload"


def keeps(service: str, operation: str) -> bool:
    """Whether an operation changes what is to be there again."""
    if service not in SERVICES or operation in _NOT_KEPT:
        return False
    return operation in _CHANGING or not operation.startswith(_READING)


class Journal:
    """The journal of one lab. Its directory is there; a lab without one is not journalled."""

    def __init__(
        self, directory: Path, *, entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX
    ) -> None:
        self._directory = directory
        self._path = directory / JOURNAL
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._descriptor = -1
        self._ours = False
        self._lines = 0
        self._bytes = 0

    def open(self) -> None:
        """Make it ours, without what a kill or a disk has left of its end. OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning(
                "another endpoint keeps %s: what is recorded here is lost with this one", JOURNAL
            )
            return
        try:
            self._take_over()
        except BaseException:
            self.close()
            raise
        self._ours = True

    def _take_over(self) -> None:
        good = 0
        for number, line in enumerate(self._raw(), 1):
            if not line.endswith(b"\n"):
                # Nobody was answered: it was killed while it wrote.
                break
            try:
                entry = _read(line)
            except ValueError:
                self._put_aside(number)
                break
            good += len(line)
            self._count(entry)
        os.ftruncate(self._descriptor, good)
        self._remove_others()

    def close(self) -> None:
        """Let go of it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor, self._ours = -1, False

    def entries(self) -> Iterator[Entry]:
        """All requests, in their order."""
        for line in self._raw():
            try:
                yield _read(line)
            except ValueError:
                # Another endpoint writes it just now.
                return

    def body(self, entry: Entry) -> bytes:
        """The body of a request. OSError."""
        if entry.body is not None:
            return base64.b64decode(entry.body)
        return (self._directory / entry.file).read_bytes()

    def note(
        self, service: str, operation: str, account: str, environ: Mapping[str, object], body: bytes
    ) -> tuple[Entry, Callable[[], None]]:
        """A request that is about to be done, and what to call if it was refused.

        Errors: LimitExceeded when there is no room, InternalFailure when it cannot be written.
        """
        entry = Entry(
            service,
            operation,
            account,
            _kept(environ),
            time.time(),
            random.getrandbits(62),
            len(body),
            base64.b64encode(body).decode() if len(body) <= INLINE_MAX else None,
        )
        if not self._ours:
            return entry, lambda: None
        if not self._has_room(len(body)):
            try:
                self._shorten()
            except OSError as error:
                raise _unwritten(error) from None
            if not self._has_room(len(body)):
                raise AwsError(
                    "LimitExceeded",
                    f"The endpoint has recorded {self._lines} requests, and can keep "
                    f"{self._entries_max} of {self._bytes_max >> 20} MiB in all.",
                )
        before = os.fstat(self._descriptor).st_size
        try:
            if entry.body is None:
                entry = self._with_file(entry, body)
            append_whole(self._descriptor, before, _line(entry))
        except OSError as error:
            self._remove_file(entry)
            raise _unwritten(error) from None
        self._count(entry)

        def take_back() -> None:
            os.ftruncate(self._descriptor, before)
            self._remove_file(entry)
            self._count(entry, -1)

        return entry, take_back

    # -- how

    def _raw(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            yield from file

    def _count(self, entry: Entry, by: int = 1) -> None:
        self._lines += by
        self._bytes += by * entry.size

    def _has_room(self, size: int) -> bool:
        return self._lines < self._entries_max and self._bytes + size <= self._bytes_max

    def _with_file(self, entry: Entry, body: bytes) -> Entry:
        entry = replace(entry, file=f"{JOURNAL}-{time.time_ns():x}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._directory / entry.file, flags, 0o600)
        try:
            append_whole(descriptor, 0, body)
        except OSError:
            self._remove_file(entry)
            raise
        finally:
            os.close(descriptor)
        return entry

    def _remove_file(self, entry: Entry) -> None:
        if entry.file:
            with contextlib.suppress(OSError):
                (self._directory / entry.file).unlink()

    def _remove_others(self) -> None:
        """Bodies of no request: it was refused, or a kill came in between."""
        known = {entry.file for entry in self.entries()}
        for path in self._directory.glob(f"{JOURNAL}-*"):
            if path.name not in known:
                path.unlink(missing_ok=True)

    def _put_aside(self, number: int) -> None:
        aside = self._path.with_name(f"{JOURNAL}.damaged")
        with private_files.open_to_write(aside, -1) as file:
            file.write(self._path.read_bytes())
        log.error(
            "line %d of %s is damaged: what was recorded from there on is lost (%s has it)",
            number,
            JOURNAL,
            aside.name,
        )

    def _shorten(self) -> None:
        """Leave out what does not matter any more; OSError, and it is as it was."""
        left = self._mattering()
        if len(left) == self._lines:
            return
        kept = [entry for number, entry in enumerate(self.entries()) if number in left]
        beside = self._path.with_name(f"{JOURNAL}.new")
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(beside, flags, 0o600)
        try:
            for entry in kept:
                append_whole(descriptor, 0, _line(entry))
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            beside.replace(self._path)
        except BaseException:
            os.close(descriptor)
            beside.unlink(missing_ok=True)
            raise
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._lines = self._bytes = 0
        for entry in kept:
            self._count(entry)
        self._remove_others()

    def _mattering(self) -> set[int]:
        left: dict[int, str | None] = {}
        settled: dict[str, int] = {}
        sources: set[str] = set()
        versioned: set[str] = set()
        now = time.time()
        for number, entry in enumerate(self.entries()):
            if entry.service == "sts" and now - entry.moment > SESSION_SECONDS:
                continue
            left[number] = entry.object
            if entry.operation == "PutBucketVersioning":
                versioned.add(entry.environ["PATH_INFO"].strip("/"))
            if source := entry.environ.get("HTTP_X_AMZ_COPY_SOURCE"):
                sources.add(unquote(source.partition("?")[0]).lstrip("/"))
            if entry.object is not None and entry.settles:
                settled[entry.object] = number
            elif entry.object is not None and entry.completes:
                settled.pop(entry.object, None)
        return {
            number
            for number, key in left.items()
            if key is None
            or number >= settled.get(key, -1)
            or key in sources
            or key.partition("/")[0] in versioned
        }


def _text(said: str) -> str:
    """What WSGI has as Latin-1 (PEP 3333)."""
    return said.encode("latin-1").decode("utf-8", "replace")


def _unwritten(error: OSError) -> AwsError:
    return AwsError("InternalFailure", f"{JOURNAL} cannot be written: {error.strerror}", 500)


def _kept(environ: Mapping[str, object]) -> dict[str, str]:
    kept = {
        name: value
        for name, value in environ.items()
        if isinstance(value, str)
        and (name in _ENVIRON or (name.startswith("HTTP_") and name not in _WITHOUT))
    }
    scope, found, _ = str(environ.get("HTTP_AUTHORIZATION", "")).partition("/aws4_request")
    if found:
        # moto looks for the region in it.
        kept["HTTP_AUTHORIZATION"] = f"{scope}{found}, SignedHeaders=host, Signature=0"
    # The body is there as a whole.
    kept.pop("HTTP_TRANSFER_ENCODING", None)
    return kept


def _line(entry: Entry) -> bytes:
    text = json.dumps(asdict(entry), separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _read(line: bytes) -> Entry:
    """ValueError for what is none."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if int(checksum, 16) != zlib.crc32(text):
        raise ValueError("the checksum is another one")
    try:
        return Entry(**json.loads(text))
    except TypeError as error:
        raise ValueError(str(error)) from None
