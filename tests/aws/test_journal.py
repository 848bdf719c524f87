# SPDX-License-Identifier: Apache-2.0
"""The journal: what is in it at every moment, what is left out, and what a disk does to it."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat import private_files
from hyperplane_nat.aws import journal as module
from hyperplane_nat.aws.errors import AwsError
from hyperplane_nat.aws.journal import Journal, keeps

ACCOUNT = "111122223333"


def environ(path: str = "/", query: str = "", **more: str) -> dict[str, object]:
    scope = f"{ACCOUNT}/20260101/us-east-1/s3/aws4_request"
    return {
        "REQUEST_METHOD": "PUT",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "HTTP_HOST": "127.0.0.1:4566",
        "HTTP_AUTHORIZATION": f"AWS4-HMAC-SHA256 Credential={scope}, Signature=secret",
        "HTTP_X_AMZ_SECURITY_TOKEN": "secret",
        "wsgi.input": object(),
        **more,
    }


def opened(directory: Path, **limits: int) -> Journal:
    found = Journal(directory, **limits)
    found.open()
    return found


def put(found: Journal, key: str, body: bytes = b"x", operation: str = "PutObject") -> Any:
    _, take_back = found.note("s3", operation, ACCOUNT, environ(key), body)
    return take_back


def told(found: Journal) -> list[tuple[str, bytes]]:
    return [(each.environ["PATH_INFO"], found.body(each)) for each in found.entries()]


def test_requests_are_there_for_whoever_comes_next(tmp_path: Path) -> None:
    first = opened(tmp_path)
    large = b"l" * (module.INLINE_MAX + 1)
    put(first, "/b/small")
    put(first, "/b/large", large)
    entries = list(first.entries())
    first.close()
    second = opened(tmp_path)
    assert list(second.entries()) == entries
    assert told(second) == [("/b/small", b"x"), ("/b/large", large)]
    assert len({each.seed for each in entries}) == 2
    second.close()


def test_nothing_of_who_has_signed_is_kept_and_only_root_reads_it(tmp_path: Path) -> None:
    found = opened(tmp_path)
    put(found, "/b/k", b"l" * (module.INLINE_MAX + 1))
    for path in tmp_path.iterdir():
        assert b"secret" not in path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600
    (entry,) = found.entries()
    assert "us-east-1/s3/aws4_request" in entry.environ["HTTP_AUTHORIZATION"]
    found.close()


def test_what_was_refused_is_taken_back_with_its_body(tmp_path: Path) -> None:
    found = opened(tmp_path)
    put(found, "/b/kept")
    put(found, "/b/refused", b"l" * (module.INLINE_MAX + 1))()
    assert told(found) == [("/b/kept", b"x")]
    assert [path.name for path in tmp_path.iterdir()] == ["aws.journal"]
    found.close()


def test_a_kill_in_the_middle_of_a_line_leaves_those_before(tmp_path: Path) -> None:
    found = opened(tmp_path)
    put(found, "/b/one")
    whole = (tmp_path / "aws.journal").read_bytes()
    put(found, "/b/two", b"l" * (module.INLINE_MAX + 1))
    both = (tmp_path / "aws.journal").read_bytes()
    found.close()
    for size in range(len(whole), len(both)):
        (tmp_path / "aws.journal").write_bytes(both[:size])
        again = opened(tmp_path)
        assert told(again) == [("/b/one", b"x")]
        assert [path.name for path in tmp_path.iterdir()] == ["aws.journal"]
        again.close()


def test_a_damaged_line_is_one_line_and_ends_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = opened(tmp_path)
    for name in ("one", "two", "three"):
        put(found, f"/b/{name}")
    found.close()
    path = tmp_path / "aws.journal"
    path.write_bytes(damaged := path.read_bytes().replace(b"two", b"tvo"))
    with caplog.at_level(logging.WARNING):
        again = opened(tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        "line 2 of aws.journal is damaged: what was recorded from there on is lost "
        "(aws.journal.damaged has it)"
    ]
    assert told(again) == [("/b/one", b"x")]
    assert (tmp_path / "aws.journal.damaged").read_bytes() == damaged
    put(again, "/b/four")
    assert told(again) == [("/b/one", b"x"), ("/b/four", b"x")]
    again.close()


def test_one_has_it_and_others_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = opened(tmp_path), Journal(tmp_path)
    put(first, "/b/k")
    with caplog.at_level(logging.WARNING):
        second.open()
    assert "another endpoint keeps aws.journal" in caplog.text
    put(second, "/b/lost")
    assert told(second) == told(first) == [("/b/k", b"x")]
    second.close()
    first.close()


def test_a_full_one_refuses(tmp_path: Path) -> None:
    found = opened(tmp_path, entries_max=2)
    put(found, "/b/one")
    put(found, "/b/two")
    with pytest.raises(AwsError) as caught:
        put(found, "/b/three")
    assert caught.value.code == "LimitExceeded"
    assert "recorded 2 requests" in caught.value.message
    assert len(told(found)) == 2
    found.close()
    full = opened(tmp_path, bytes_max=3)
    put(full, "/b/k")
    with pytest.raises(AwsError):
        put(full, "/b/l")
    full.close()


def test_a_full_one_leaves_out_what_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = opened(tmp_path, entries_max=8)
    put(found, "/b", operation="CreateBucket")
    put(found, "/b/k", b"old")
    found.note("s3", "PutObjectTagging", ACCOUNT, environ("/b/k", "tagging"), b"")
    put(found, "/b/source", b"source")
    found.note(
        "s3", "CopyObject", ACCOUNT, environ("/b/c", HTTP_X_AMZ_COPY_SOURCE="/b/source"), b""
    )
    put(found, "/b/source", operation="DeleteObject")
    put(found, "/b/k", b"new")
    found.note("sts", "AssumeRole", ACCOUNT, environ(), b"")
    left = ["/b", "/b/source", "/b/c", "/b/source", "/b/k"]
    later = time.time() + module.SESSION_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    put(found, "/b/more")
    assert [path for path, _ in told(found)] == [*left, "/b/more"]
    found.close()
    again = opened(tmp_path)
    assert [path for path, _ in told(again)] == [*left, "/b/more"]
    again.close()


@pytest.mark.parametrize(
    "requests",
    [
        # A folder's own object is another one.
        [("PutObject", "/b/k/", "", {}), ("PutObject", "/b/k", "", {})],
        # boto3 has sources in percent-encoding, WSGI has paths in Latin-1.
        [
            ("PutObject", "/b/a ü".encode().decode("latin-1"), "", {}),
            ("CopyObject", "/b/c", "", {"HTTP_X_AMZ_COPY_SOURCE": "b/a%20%C3%BC"}),
            ("PutObject", "/b/a ü".encode().decode("latin-1"), "", {}),
        ],
        # What replaces an object that is as it was said needs that one.
        [("PutObject", "/b/k", "", {}), ("PutObject", "/b/k", "", {"HTTP_IF_MATCH": '"e"'})],
        # An upload that was begun before another one came in between.
        [
            ("CreateMultipartUpload", "/b/k", "uploads", {}),
            ("PutObject", "/b/k", "", {}),
            ("CompleteMultipartUpload", "/b/k", "uploadId=u", {}),
        ],
    ],
)
def test_what_still_matters_is_not_left_out(
    tmp_path: Path, requests: list[tuple[str, str, str, dict[str, str]]]
) -> None:
    found = opened(tmp_path, entries_max=len(requests))
    for operation, path, query, more in requests:
        found.note("s3", operation, ACCOUNT, environ(path, query, **more), b"x")
    with pytest.raises(AwsError):
        put(found, "/b/more")
    assert [each.operation for each in found.entries()] == [each[0] for each in requests]
    found.close()


@pytest.mark.usefixtures("collected")
def test_a_disk_that_is_full_while_it_is_made_shorter_leaves_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = opened(tmp_path, entries_max=3)
    for _ in range(3):
        put(found, "/b/k")
    before = (tmp_path / "aws.journal").read_bytes()
    write, room = os.write, [len(before) // 2]

    def full(descriptor: int, data: memoryview) -> int:
        # Some of it is written.
        data = data[: room[0]]
        if not data:
            raise OSError(28, "No space left on device")
        room[0] -= len(data)
        return write(descriptor, data)

    descriptors = len(os.listdir("/proc/self/fd"))
    for size in (0, len(before) // 9):
        room[0] = size
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            with pytest.raises(AwsError) as caught:
                put(found, "/b/l")
        assert caught.value.code == "InternalFailure"
        assert (tmp_path / "aws.journal").read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["aws.journal"]
    assert len(os.listdir("/proc/self/fd")) == descriptors
    put(found, "/b/l")
    assert [path for path, _ in told(found)] == ["/b/k", "/b/l"]
    found.close()


def test_one_that_cannot_be_put_aside_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = opened(tmp_path)
    for name in ("one", "two"):
        put(found, f"/b/{name}")
    found.close()
    path = tmp_path / "aws.journal"
    path.write_bytes(damaged := path.read_bytes().replace(b"two", b"tvo"))

    def full(_path: Path, _size: int) -> Any:
        raise OSError(28, "No space left on device")

    again = Journal(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(private_files, "open_to_write", full)
        with pytest.raises(OSError, match="No space"):
            again.open()
    put(again, "/b/three")
    assert path.read_bytes() == damaged
    third = opened(tmp_path)
    assert told(third) == [("/b/one", b"x")]
    assert (tmp_path / "aws.journal.damaged").stat().st_mode & 0o777 == 0o600
    third.close()


def test_versions_of_objects_are_all_kept(tmp_path: Path) -> None:
    found = opened(tmp_path, entries_max=3)
    found.note("s3", "PutBucketVersioning", ACCOUNT, environ("/b", "versioning"), b"")
    put(found, "/b/k", b"one")
    put(found, "/b/k", b"two")
    with pytest.raises(AwsError):
        put(found, "/b/k", b"three")
    found.close()


def test_a_disk_that_is_full_refuses_and_leaves_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = opened(tmp_path)
    put(found, "/b/one")
    before = (tmp_path / "aws.journal").read_bytes()

    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        for body in (b"x", b"l" * (module.INLINE_MAX + 1)):
            with pytest.raises(AwsError) as caught:
                put(found, "/b/two", body)
            assert caught.value.code == "InternalFailure"
    assert (tmp_path / "aws.journal").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["aws.journal"]
    found.close()


def test_one_that_cannot_be_made_shorter_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the journal is, after the first line that is to stay."""
    found = opened(tmp_path, entries_max=3)
    put(found, "/b/one")
    put(found, "/b/two")
    put(found, "/b/two")
    before = (tmp_path / "aws.journal").read_bytes()
    writes = os.write
    room = [1]

    def full(descriptor: int, data: memoryview) -> int:
        if not room:
            raise OSError(28, "No space left on device")
        room.pop()
        return writes(descriptor, data)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        for _ in range(2):
            with pytest.raises(AwsError) as caught:
                put(found, "/b/three")
            assert caught.value.code == "InternalFailure"
    assert (tmp_path / "aws.journal").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["aws.journal"]
    # There is room for one, and not for as many as were not written.
    put(found, "/b/three")
    assert [path for path, _ in told(found)] == ["/b/one", "/b/two", "/b/three"]
    with pytest.raises(AwsError) as caught:
        put(found, "/b/four")
    assert caught.value.code == "LimitExceeded"
    found.close()


def test_an_object_is_known_by_its_path_alone() -> None:
    entry = module.Entry(
        "s3", "PutObject", ACCOUNT, {"PATH_INFO": "/k", "HTTP_HOST": "b.localhost"}, 0, 0, 0, ""
    )
    assert entry.object is None
    named = replace(entry, environ={"PATH_INFO": "/b/k/l", "HTTP_HOST": "localhost:4566"})
    assert named.object == "b/k/l"


@pytest.mark.parametrize(
    ("service", "operation", "kept"),
    [
        ("iam", "CreateRole", True),
        ("iam", "GetRole", False),
        ("iam", "GenerateCredentialReport", False),
        ("s3", "PostObject", True),
        ("s3", "HeadObject", False),
        ("kms", "Encrypt", False),
        ("kms", "CreateKey", True),
        ("sts", "AssumeRole", True),
        ("sts", "GetSessionToken", True),
        ("logs", "CreateLogGroup", True),
        ("logs", "PutLogEvents", False),
        ("secretsmanager", "GetSecretValue", False),
        ("sqs", "CreateQueue", False),
        ("cloudwatch", "PutMetricAlarm", False),
    ],
)
def test_what_is_kept(service: str, operation: str, *, kept: bool) -> None:
    assert keeps(service, operation) is kept
