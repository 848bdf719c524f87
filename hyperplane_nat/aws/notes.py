# SPDX-License-Identifier: Apache-2.0
"""What AWS keeps of a resource and the region has no place for: tags, a function's role and so on.

A file of JSON in the lab's directory, by the resource's id or ARN. It is read whenever it has
changed and replaced as a whole, so several endpoints may serve a lab, and it goes with the lab.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hyperplane_nat.aws.errors import AwsError
from hyperplane_nat.controller.paths import NOTES, STACKS

Note = dict[str, Any]

TAGS_MAX = 50
"""Of a resource ("Tag your Amazon EC2 resources", restrictions)."""


def too_many_tags() -> AwsError:
    """More than a resource may have."""
    return AwsError("TagLimitExceeded", f"The maximum number of Tags is {TAGS_MAX}")


def notes_path(directory: Path) -> Path:
    """The file in a lab's directory."""
    return directory / NOTES


class Kept:
    """A file of JSON, one of several writers at a time. Errors: OSError once the lab is gone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: tuple[tuple[int, int] | None, dict[str, Note]] = (None, {})
        """What was read, and of which file."""

    def all(self) -> Mapping[str, Note]:
        """Everything by its key; not to be changed."""
        # Without the lock, which many who only look would queue at.
        stamp, known = self._known
        if stamp == self._stamp():
            return known
        with self._lock:
            return self._read()

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _read(self) -> dict[str, Note]:
        stamp = self._stamp()
        if stamp != self._known[0]:
            known = {} if stamp is None else json.loads(self._path.read_bytes())
            self._known = stamp, known
        return self._known[1]

    @contextlib.contextmanager
    def changing(self) -> Iterator[dict[str, Note]]:
        """Everything, to be changed: at the end it is the file."""
        with self._lock:
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                # Others that serve the lab change it, too; closing gives the lock back.
                fcntl.flock(directory, fcntl.LOCK_EX)
                known = dict(self._read())
                yield known
                temporary = self._path.with_suffix(".new")
                temporary.write_text(json.dumps(known), encoding="utf-8")
                temporary.replace(self._path)
            finally:
                os.close(directory)


class Notes(Kept):
    """The notes of one lab, and beside them its stacks (`stacks.py`), by their ids."""

    def __init__(self, directory: Path) -> None:
        super().__init__(notes_path(directory))
        self.stacks = Kept(directory / STACKS)

    def of(self, key: str) -> Note:
        """What is kept of a resource; not to be changed."""
        return self.all().get(key, {})

    def tags(self, key: str) -> dict[str, str]:
        """The tags of a resource."""
        found: dict[str, str] = self.of(key).get("Tags", {})
        return found

    def having(self, name: str) -> Iterator[tuple[str, Note]]:
        """All notes that have something of this name."""
        for key, note in self.all().items():
            if note.get(name):
                yield key, note

    def tagged(self) -> Iterator[tuple[str, dict[str, str]]]:
        """All resources that have tags."""
        for key, note in self.having("Tags"):
            yield key, note["Tags"]

    def put(self, key: str, values: Mapping[str, Any]) -> None:
        """Add to what is kept of a resource."""
        if values:
            with self.changing() as known:
                known[key] = {**known.get(key, {}), **values}

    def tag(self, keys: list[str], tags: Mapping[str, str]) -> None:
        """Add tags to resources: of all or of none. TagLimitExceeded."""
        with self.changing() as known:
            for key in keys:
                note = known.get(key, {})
                merged = {**note.get("Tags", {}), **tags}
                if len(merged) > TAGS_MAX:
                    raise too_many_tags()
                known[key] = {**note, "Tags": merged}

    def untag(self, keys: list[str], tags: Mapping[str, str | None] | None) -> None:
        """Take tags, whatever their value where it is None; None takes all."""
        with self.changing() as known:
            for key in keys:
                note = known.get(key, {})
                left = {
                    name: value
                    for name, value in note.get("Tags", {}).items()
                    if tags is not None and (name not in tags or tags[name] not in (None, value))
                }
                known[key] = {**note, "Tags": left}

    def forget(self, *keys: str) -> None:
        """A resource is gone."""
        if any(key in self.all() for key in keys):
            with self.changing() as known:
                for key in keys:
                    known.pop(key, None)
