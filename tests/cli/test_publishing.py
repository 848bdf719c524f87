# SPDX-License-Identifier: Apache-2.0
"""update-function-code, publish-version, update-alias."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from pathlib import Path

import pytest

from tests.cli.conftest import FUNCTION, Run
from tests.cli.fake_api import FakeApi, Refusal

CODE = FUNCTION | {"Code": {"CodeSha256": "abc="}}


def sent(api: FakeApi) -> dict[str, bytes]:
    """What is in the archive that was sent."""
    content = base64.b64decode(api.bodies[0]["zip_file"])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def code(tmp_path: Path) -> Path:
    directory = tmp_path / "code"
    (directory / "pkg").mkdir(parents=True)
    (directory / "app.py").write_text("x = 1")
    (directory / "pkg" / "data").write_text("y")
    return directory


def test_a_directory_is_sent_as_an_archive(run: Run, api: FakeApi, code: Path) -> None:
    api.answers["/v1/functions/checkout/code"] = CODE
    result = run("update-function-code", "checkout", str(code))
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "function checkout, version $LATEST, code abc=\n"
    assert sent(api) == {"app.py": b"x = 1", "pkg/data": b"y"}
    assert api.requests == ["PUT /v1/functions/checkout/code"]


def test_a_file_and_an_archive(run: Run, api: FakeApi, code: Path) -> None:
    api.answers["/v1/functions/checkout/code"] = CODE
    assert run("update-function-code", "checkout", str(code / "app.py")).exit_code == 0
    assert sent(api) == {"app.py": b"x = 1"}
    archive = code / "a.zip"
    archive.write_bytes(base64.b64decode(api.bodies[0]["zip_file"]))
    assert run("update-function-code", "checkout", str(archive)).exit_code == 0
    assert api.bodies[1] == api.bodies[0]


def test_it_is_published_when_asked_for(run: Run, api: FakeApi, code: Path) -> None:
    api.answers["/v1/functions/checkout/code"] = CODE
    api.answers["/v1/functions/checkout/versions"] = CODE | {"Version": "3"}
    result = run("update-function-code", "checkout", str(code), "--publish", "--json")
    assert json.loads(result.stdout)["Version"] == "3"
    assert [each.split()[0] for each in api.requests] == ["PUT", "POST"]
    assert "version 3" in run("publish-version", "checkout").stdout


@pytest.mark.parametrize(
    ("name", "says"),
    [("none.zip", "No such file"), ("pkg/data", "neither a directory nor a zip archive")],
)
def test_what_is_no_code(run: Run, api: FakeApi, code: Path, name: str, says: str) -> None:
    result = run("update-function-code", "checkout", str(code / name))
    assert result.exit_code == 2
    assert says in result.stderr
    assert api.requests == []


def test_an_alias_names_a_version(run: Run, api: FakeApi) -> None:
    api.answers["/v1/aliases/checkout:live"] = FUNCTION
    result = run("update-alias", "checkout:live", "7")
    assert (result.exit_code, result.stdout) == (0, "checkout:live is version 7\n")
    assert api.bodies == [
        {"version": "7", "provisioned_concurrency": None, "additional_version_weights": None}
    ]
    run("update-alias", "checkout:live", "7", "--provisioned-concurrency", "3")
    assert api.bodies[1]["provisioned_concurrency"] == 3
    for given, weights in (("8=0.1", {"8": 0.1}), ("", {})):
        run("update-alias", "checkout:live", "7", "--weight", given)
        assert api.bodies[-1]["additional_version_weights"] == weights
    assert "write it like 2=0.1" in run("update-alias", "checkout:live", "7", "--weight=8").stderr
    result = run("update-alias", "checkout", "7")
    assert result.exit_code == 2
    assert "names no alias" in result.stderr


def test_a_refusal_is_told(run: Run, api: FakeApi) -> None:
    refusal = Refusal(404, "ResourceNotFoundException", "Function not found: nobody")
    api.answers["/v1/functions/nobody/versions"] = refusal
    result = run("publish-version", "nobody")
    assert result.exit_code != 0
    assert "Function not found: nobody" in result.stderr
