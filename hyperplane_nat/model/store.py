# SPDX-License-Identifier: Apache-2.0
"""The region in a SQLite file: what a killed controller finds again.

Theory of operation
-------------------
One row per entity, its JSON as the body. A command writes the rows that it has changed, and the
answer for its client token, in one transaction, so that a process killed at any moment leaves the
state of a whole number of commands. The threat is a killed process and not a lost machine: with
`synchronous` off nothing waits for a disk, and what was handed to the kernel stays. The write-ahead
log makes a commit one append.

The file is locked for as long as it is open: two controllers on one state are two truths.

Answers are remembered by client token and request. The same token with the same request has its
answer repeated, with another request it is refused (EC2, "Ensuring idempotency in Amazon EC2 API
requests": IdempotentParameterMismatch). They are bounded in age and number.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hyperplane_nat.model.documents import SCHEMA, canonical, check_schema, encode
from hyperplane_nat.model.entities import KINDS
from hyperplane_nat.model.errors import ModelError, StateError
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.settings import LifecycleSettings

APPLICATION_ID = 0x48504E41
"""Marks the file as ours (SQLite, "PRAGMA application_id"): HPNA."""

_TABLES = """
CREATE TABLE entity (
    kind TEXT NOT NULL,
    key NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE TABLE answer (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    token TEXT NOT NULL UNIQUE,
    request TEXT NOT NULL,
    body TEXT NOT NULL,
    created REAL NOT NULL
);
CREATE INDEX answer_created ON answer (created);
"""

_CLOCK_TABLE = "CREATE TABLE IF NOT EXISTS clock (offset_ms INTEGER NOT NULL)"
"""Its one row, if there is one, says what the region's clock was advanced by."""

_DAMAGED = "move it away and apply the lab file again"


class Store:
    """
    An open state file. `clock` gives seconds as in `Region`; it dates the answers.

    Errors: `StateError` when the file cannot be opened, is in use, damaged or of a newer program.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        settings: LifecycleSettings | None = None,
    ) -> None:
        self.path = path
        self._clock = clock
        self._settings = settings or LifecycleSettings()
        try:
            self._connection = sqlite3.connect(
                path, isolation_level=None, timeout=0, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise self._unusable(error) from None
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._connection.close()
            raise self._unusable(error) from None
        except StateError:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def load(self) -> dict[str, Any] | None:
        """The document for `Region.from_document`; None when nothing was ever saved."""
        entities: dict[str, list[Any]] = {kind: [] for kind in KINDS}
        try:
            rows = self._connection.execute("SELECT kind, body FROM entity ORDER BY kind, key")
            for kind, body in rows:
                if kind not in entities:
                    raise StateError(f"{self.path} has rows of unknown kind {kind!r}", _DAMAGED)
                entities[kind].append(json.loads(body))
        except (sqlite3.Error, ValueError) as error:
            raise self._unusable(error) from None
        if not any(entities.values()):
            return None
        return {"schema": SCHEMA, "entities": entities}

    def load_region(self, **options: Any) -> Region:
        """The saved region, or an empty one; `options` are those of `Region`."""
        document = self.load()
        if document is None:
            return Region(**options)
        try:
            return Region.from_document(document, **options)
        except StateError as error:
            raise StateError(f"{self.path}: {error.message}", error.remedy) from None

    @property
    def clock_offset_ms(self) -> int:
        """What the region's clock was advanced by, in all."""
        row = self._connection.execute("SELECT max(offset_ms) FROM clock").fetchone()
        return int(row[0] or 0)

    def save(
        self,
        region: Region,
        *,
        token: str | None = None,
        request: object = None,
        answer: object = None,
        clock_offset_ms: int | None = None,
    ) -> None:
        """
        Write what the region has changed, what its clock is advanced by if that is new, and the
        answer to remember, in one transaction.
        """
        changes = region.changes()
        if not changes and token is None and clock_offset_ms is None:
            return
        written = [
            (change.kind, change.key, encode(change.kind, change.entity))
            for change in changes
            if change.entity is not None
        ]
        deleted = [(change.kind, change.key) for change in changes if change.entity is None]
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany("DELETE FROM entity WHERE kind = ? AND key = ?", deleted)
                connection.executemany("INSERT OR REPLACE INTO entity VALUES (?, ?, ?)", written)
                if clock_offset_ms is not None:
                    connection.execute("DELETE FROM clock")
                    connection.execute("INSERT INTO clock VALUES (?)", (clock_offset_ms,))
                if token is not None:
                    self._remember(token, request, answer)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StateError(
                f"cannot write {self.path}: {error}", "see whether its file system is full"
            ) from None
        region.mark_saved()

    def answer(self, token: str, request: object) -> Any | None:
        """
        The answer that was given for this token; None for a new or forgotten one.

        Errors: IdempotentParameterMismatch when the token came with another request.
        """
        row = self._connection.execute(
            "SELECT request, body FROM answer WHERE token = ? AND created > ?",
            (token, self._clock() - self._settings.client_token_seconds),
        ).fetchone()
        if row is None:
            return None
        if row[0] != _digest(request):
            raise token_mismatch(token)
        return json.loads(row[1])

    def _remember(self, token: str, request: object, answer: object) -> None:
        now = self._clock()
        self._connection.execute(
            "INSERT OR REPLACE INTO answer (token, request, body, created) VALUES (?, ?, ?, ?)",
            (token, _digest(request), canonical(answer), now),
        )
        self._connection.execute(
            "DELETE FROM answer WHERE created <= ?", (now - self._settings.client_token_seconds,)
        )
        self._connection.execute(
            "DELETE FROM answer WHERE number <= (SELECT max(number) FROM answer) - ?",
            (self._settings.client_tokens_max,),
        )

    def _prepare(self) -> None:
        execute = self._connection.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("PRAGMA synchronous = OFF")
        execute("PRAGMA journal_mode = WAL")
        # The lock is taken by the first write, and kept.
        execute("BEGIN EXCLUSIVE")
        application = execute("PRAGMA application_id").fetchone()[0]
        schema = execute("PRAGMA user_version").fetchone()[0]
        empty = execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if empty:
            for statement in _TABLES.split(";"):
                execute(statement)
            execute(f"PRAGMA application_id = {APPLICATION_ID}")
            execute(f"PRAGMA user_version = {SCHEMA}")
        if empty or application == APPLICATION_ID:
            # A file of an earlier version has none.
            execute(_CLOCK_TABLE)
        execute("COMMIT")
        if empty:
            return
        if application != APPLICATION_ID:
            raise StateError(f"{self.path} is another program's database", "choose another file")
        try:
            check_schema(schema)
        except StateError as error:
            raise StateError(f"{self.path}: {error.message}", error.remedy) from None
        execute(f"PRAGMA user_version = {SCHEMA}")
        found = execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise StateError(f"{self.path} is damaged: {found}", _DAMAGED)

    def _unusable(self, error: Exception) -> StateError:
        code = getattr(error, "sqlite_errorcode", 0)
        if code & 0xFF == sqlite3.SQLITE_BUSY:
            return StateError(
                f"{self.path} is in use by another process", "end the other controller first"
            )
        if code & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            return StateError(f"cannot open {self.path}: {error}", "see whether it may be written")
        return StateError(f"{self.path} is damaged: {error}", _DAMAGED)


def token_mismatch(token: str) -> ModelError:
    """The refusal of a client token that came with another request."""
    return ModelError(
        "IdempotentParameterMismatch",
        f"client token {token!r} was used with another request",
        "use a new token for another request",
    )


def _digest(request: object) -> str:
    return sha256(canonical(request).encode()).hexdigest()


_OUTPUTS = ("stdout", "stderr")


def to_text(value: object) -> object:
    """What a program wrote, as text that JSON can hold; anything else as it is."""
    return value.decode("latin-1") if isinstance(value, bytes) else value


def from_text(name: str, value: object) -> object:
    """What `to_text` was given, of a part of an answer by its name."""
    return value.encode("latin-1") if name in _OUTPUTS and isinstance(value, str) else value
