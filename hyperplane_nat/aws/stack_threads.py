# SPDX-License-Identifier: Apache-2.0
"""The threads that work on stacks, and what an endpoint finds of a former one's."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Mapping

from hyperplane_nat.aws.call import Call, Row
from hyperplane_nat.aws.errors import AwsError
from hyperplane_nat.aws.recorded_types import revive
from hyperplane_nat.aws.stack_work import Stack, is_unfinished
from hyperplane_nat.aws.stack_workers import is_alive, this_process
from hyperplane_nat.aws.templates import invalid

FIRST: Mapping[Callable[[Stack], None], str] = {
    Stack.create: "CREATE_IN_PROGRESS",
    Stack.update: "UPDATE_IN_PROGRESS",
    Stack.delete: "DELETE_IN_PROGRESS",
}
"""The status that work on a stack begins with."""

log = logging.getLogger(__name__)


def begin(call: Call, record: Row, work: Callable[[Stack], None]) -> str:
    """
    Have work done on a stack, which is this process's meanwhile; its id.

    Of two equal requests at once the second one gets the first one's stack.

    Errors: AlreadyExistsException, ValidationError for one that another one works on.
    """
    key, name = record["StackId"], record["StackName"]
    stack = Stack(call, record)
    with call.notes.stacks.changing() as known:
        for row in known.values():
            if row["Account"] == record["Account"] and row["StackStatus"] != "DELETE_COMPLETE":
                if work in FIRST and _is_same(row, record):
                    return str(row["StackId"])
                if row["StackId"] == key and is_alive(row["Worker"]):
                    raise invalid(f"Stack:{key} is in {row['StackStatus']} state.")
                if row["StackName"] == name and row["StackId"] != key:
                    raise AwsError("AlreadyExistsException", f"Stack [{name}] already exists")
        # Whoever looks from now on sees that it has begun.
        record["StackStatus"] = FIRST.get(work, record["StackStatus"])
        record["Worker"] = this_process()
        known[key] = record

    def run() -> None:
        try:
            work(stack)
        except Exception:
            # A lab that is gone has taken its stacks along.
            if call.lab.client.path.parent.exists():
                log.exception("stack %s", name)
                stack.broken()

    threading.Thread(target=run, name=f"stack {name}", daemon=True).start()
    return str(key)


def _is_same(there: Row, record: Row) -> bool:
    """Whether the request of a record has begun already."""
    token = record.get("Token")
    request = record["Requests"][token] if token else None
    named = there["StackName"] == record["StackName"]
    return named and request is not None and there.get("Requests", {}).get(token) == request


def take_over(call_of: Callable[[str], Call]) -> None:
    """At the start of an endpoint: what a former one has begun, and what it had in its memory."""
    known = copy.deepcopy(dict(call_of("").notes.stacks.all()))
    for record in known.values():
        if record["StackStatus"] == "DELETE_COMPLETE" or is_alive(record["Worker"]):
            continue
        call = call_of(record["Account"])
        for row in record["Resources"].values():
            try:
                revive(call, row["Type"], row["PhysicalId"], row["Properties"])
            except AwsError as error:
                log.error("stack %s: %s: %s", record["StackName"], row["PhysicalId"], error)
        parent = known.get(record.get("ParentId") or "")
        # What is done with a stack is done with those in it.
        if is_unfinished(record) and not (parent and is_unfinished(parent)):
            try:
                begin(call, record, Stack.go_on)
            except AwsError as error:
                # Another endpoint that starts just now was faster.
                log.warning("stack %s: %s", record["StackName"], error)
