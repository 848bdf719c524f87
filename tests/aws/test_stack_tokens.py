# SPDX-License-Identifier: Apache-2.0
"""Requests about stacks that are repeated under their tokens, and the tokens of events."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.aws.stack_support import LOG_GROUP, VPC, Stacks, body
from tests.aws.support import refusal

BOTH: dict[str, Any] = {"Resources": {"Vpc": VPC, "Logs": LOG_GROUP}}
LESS: dict[str, Any] = {"Resources": {"Logs": LOG_GROUP}}


def tokens(stacks: Stacks, stack: str) -> dict[str, str | None]:
    """By what the events of a stack itself say became of it."""
    events = stacks.client.describe_stack_events(StackName=stack)["StackEvents"]
    return {
        each["ResourceStatus"]: each.get("ClientRequestToken")
        for each in events
        if each["PhysicalResourceId"] == each["StackId"]
    }


def test_a_repeated_request_is_the_same_one(stacks: Stacks) -> None:
    client = stacks.client
    asked = {"StackName": "net", "ClientRequestToken": "first", **body(**BOTH)}
    made = client.create_stack(**asked)["StackId"]
    assert client.create_stack(**asked)["StackId"] == made
    stacks.settled(made)
    assert client.create_stack(**asked)["StackId"] == made
    other = {**asked, "ClientRequestToken": "other"}
    assert refusal(client.create_stack, **other)[0] == "AlreadyExistsException"
    assert refusal(client.update_stack, **asked)[0] == "TokenAlreadyExistsException"
    changed = {"StackName": "net", "ClientRequestToken": "second", **body(**LESS)}
    client.update_stack(**changed)
    # Without its token it would be refused, meanwhile and afterwards.
    assert client.update_stack(**changed)["StackId"] == made
    stacks.settled(made)
    assert client.update_stack(**changed)["StackId"] == made
    # Whoever asks late for what was done before is told so, and for more under the token is not.
    assert client.create_stack(**asked)["StackId"] == made
    more = {"StackName": "net", "ClientRequestToken": "second", **body(**BOTH)}
    assert refusal(client.update_stack, **more)[0] == "TokenAlreadyExistsException"
    of_other = {"StackName": "net", "ClientRequestToken": "first"}
    assert refusal(client.delete_stack, **of_other)[0] == "TokenAlreadyExistsException"
    for _ in range(2):
        client.delete_stack(StackName="net", ClientRequestToken="third")
    stacks.settled(made)
    said = tokens(stacks, made)
    assert (said["CREATE_COMPLETE"], said["UPDATE_COMPLETE"]) == ("first", "second")
    assert (said["DELETE_IN_PROGRESS"], said["DELETE_COMPLETE"]) == ("third", "third")
    # The name is free again, and so is the token.
    again = client.create_stack(**asked)["StackId"]
    assert again != made
    stacks.settled(again)
    assert client.list_stack_resources(StackName=again)["StackResourceSummaries"]


def test_a_change_set_is_executed_once(stacks: Stacks) -> None:
    client = stacks.client
    client.create_change_set(
        StackName="net", ChangeSetName="a", ChangeSetType="CREATE", **body(**LESS)
    )
    asked = {"StackName": "net", "ChangeSetName": "a"}
    for _ in range(2):
        client.execute_change_set(**asked, ClientRequestToken="t")
    stacks.settled("net")
    client.execute_change_set(**asked, ClientRequestToken="t")
    assert refusal(client.execute_change_set, **asked)[0] == "InvalidChangeSetStatus"
    said = tokens(stacks, "net")
    assert (said["REVIEW_IN_PROGRESS"], said["CREATE_COMPLETE"]) == (None, "t")


def test_of_equal_requests_at_once_one_makes_the_stack(stacks: Stacks) -> None:
    asked = {"StackName": "net", "ClientRequestToken": "t", **body(**LESS)}
    together = threading.Barrier(4)

    def ask(_: int) -> str:
        together.wait()
        return str(stacks.client.create_stack(**asked)["StackId"])

    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(ask, range(4)))
    assert len(made) == 1
    stacks.settled(made.pop())
    assert len(stacks.client.describe_stacks()["Stacks"]) == 1
