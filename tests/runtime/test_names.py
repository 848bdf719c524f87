# SPDX-License-Identifier: Apache-2.0
"""Functions are invoked by name, by version or alias, and by ARN."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tests.runtime.test_api import Scene, play


def test_a_function_of_another_region(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        arn = "arn:aws:lambda:eu-west-1:111122223333:function:f"
        code, status, text = await scene.refused(FunctionName=arn)
        assert (code, status) == ("ResourceNotFoundException", 404)
        assert text.startswith("Functions from 'eu-west-1' are not reachable in this region")
        assert scene.controller.asked == []

    play(tmp_path, work)


@pytest.mark.parametrize(
    "named",
    [
        {"FunctionName": "f:live"},
        {"Qualifier": "live"},
        {"FunctionName": "f:live", "Qualifier": "live"},
        {"FunctionName": "arn:aws:lambda:us-east-1:111122223333:function:f:live"},
        {"FunctionName": "111122223333:function:f:live"},
    ],
)
def test_a_version_or_alias_is_named_in_one_of_aws_ways(
    tmp_path: Path, named: dict[str, str]
) -> None:
    async def work(scene: Scene) -> None:
        answer = await scene.invoke(LogType="Tail", **named)
        assert answer["ExecutedVersion"] == "7"
        told = json.loads(answer["Payload"])
        assert told["Lambda-Runtime-Invoked-Function-Arn"].endswith(":function:f:live")
        assert b"Version: 7" in base64.b64decode(answer["LogResult"])
        assert scene.controller.asked[0]["function"] == "f:live"

    play(tmp_path, work)


@pytest.mark.parametrize("kind", ["RequestResponse", "Event", "DryRun"])
@pytest.mark.parametrize("arn", ["arn:aws:lambda:us-east-1:444455556666:function:f:2", None])
def test_the_account_that_is_named_is_told(tmp_path: Path, kind: str, arn: str | None) -> None:
    async def work(scene: Scene) -> None:
        await scene.invoke(FunctionName=arn or "f:2", InvocationType=kind)
        asked = scene.controller.asked[0]
        assert (asked["function"], asked["account"]) == ("f:2", "444455556666" if arn else None)

    play(tmp_path, work)


def test_what_does_not_match_is_told_as_aws_does(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        named = "arn:aws:lambda:us-east-1:12:function:f"
        _, _, text = await scene.refused(FunctionName=named)
        assert text.startswith(f"1 validation error detected: Value '{named}' at 'functionName' ")
        _, _, text = await scene.refused(InvocationType="Later")
        assert "Value 'Later' at 'invocationType' failed to satisfy constraint: " in text

    play(tmp_path, work)
