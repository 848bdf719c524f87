# SPDX-License-Identifier: Apache-2.0
"""What is kept of a lab is what was said, of former versions too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pydantic import Field

from hyperplane_nat.config.lab import Config, load
from hyperplane_nat.config.nat import Flows
from hyperplane_nat.controller import record
from hyperplane_nat.controller.record import RecordError

RECORDED = Path(__file__).parent / "recorded"
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def file(directory: Path) -> Path:
    return directory / "lab.json"


@pytest.mark.parametrize("toml", [None, *sorted(EXAMPLES.glob("*.toml"))])
def test_what_was_said_means_the_same_again(file: Path, toml: Path | None) -> None:
    config = load(toml, {"lab.name": "other", "flows.max": 4096})
    record.write(file, config)
    found = record.read(file)
    assert found == config
    assert found is not None
    assert record.said(found) == record.said(config)


def test_what_was_not_said_is_not_kept(file: Path) -> None:
    record.write(file, load(None, {"flows.max": 4096}))
    assert json.loads(file.read_text()) == {"version": 2, "said": {"flows": {"max": 4096}}}


def test_the_record_of_version_1(file: Path) -> None:
    shutil.copy(RECORDED / "v1" / "lab.json", file)
    found = record.read(file)
    assert found is not None
    wanted = load(RECORDED / "v1" / "lab.toml")
    assert record.differences(found, wanted) == []


def test_nothing_kept(file: Path) -> None:
    assert record.read(file) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "not the record of a lab"),
        ('{"version": 3, "said": {}}', "of version 3"),
        ('{"version": [], "said": {}}', r"of version \[\]"),
        ('{"version": 2}', "not the record of a lab"),
        ('{"version": 2, "said": 1}', "write it as a table"),
        ('{"version": 2, "said": {"flows": {"maximum": 1}}}', "flows.maximum: unknown field"),
        ('{"flows": {"max": 0}}', "flows.max"),
    ],
)
def test_what_cannot_be_understood(file: Path, text: str, words: str) -> None:
    file.write_text(text)
    with pytest.raises(RecordError, match=words) as error:
        record.read(file)
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)


def test_differences_are_named_by_field() -> None:
    now = load(None)
    assert record.differences(now, load(None, {"lab.environments": 100})) == []
    assert record.differences(now, load(None, {"flows.max": 4096, "metrics.port": 0})) == [
        "flows.max",
        "metrics.port",
    ]
    other = Config.model_validate(
        {"network_interface": [{"name": "eni-b", "subnet": "private-a", "address": "10.0.1.11"}]}
    )
    assert record.differences(now, other) == ["network_interface"]


def test_a_field_that_a_release_adds_is_no_difference(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a version without the field kept means the default of the version that has it."""

    class MoreFlows(Flows):
        least: int = Field(default=7)

    class Released(Config):
        flows: MoreFlows = Field(default_factory=MoreFlows)

    kept = Config.model_validate({"flows": {"max": 4096}})
    record.write(file, kept)
    monkeypatch.setattr("hyperplane_nat.config.lab.Config", Released)
    found = record.read(file)
    assert isinstance(found, Released)
    assert found.flows.least == 7
    assert record.differences(found, Released.model_validate({"flows": {"max": 4096}})) == []
    other = Released.model_validate({"flows": {"max": 4096, "least": 8}})
    assert record.differences(found, other) == ["flows.least"]
