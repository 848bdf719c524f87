# SPDX-License-Identifier: Apache-2.0
"""The threads that work on stacks, and what an endpoint finds of a former one's."""

from __future__ import annotations

import copy
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from hyperplane_nat.aws.call import Call, Row
from hyperplane_nat.aws.errors import AwsError
from hyperplane_nat.aws.recorded_types import revive
from hyperplane_nat.aws.stack_work import REVIEW, Stack
from hyperplane_nat.aws.templates import invalid

FIRST: Mapping[Callable[[Stack], None], str] = {
    Stack.create: "CREATE_IN_PROGRESS",
    Stack.update: "UPDATE_IN_PROGRESS",
    Stack.delete: "DELETE_IN_PROGRESS",
}
"""The status that work on a stack begins with."""

log = logging.getLogger(__name__)


def begin(call: Call, record: Row, work: Callable[[Stack], None]) -> None:
    """
    Have work done on a stack, which is this process's meanwhile.

    Errors: AlreadyExistsException, ValidationError for one that another one works on.
    """
    key, name = record["StackId"], record["StackName"]
    stack = Stack(call, record)
    with call.notes.stacks.changing() as known:
        for row in known.values():
            if row["Account"] == record["Account"] and row["StackStatus"] != "DELETE_COMPLETE":
                if row["StackId"] == key and _is_alive(row["Worker"]):
                    raise invalid(f"Stack:{key} is in {row['StackStatus']} state.")
                if row["StackName"] == name and row["StackId"] != key:
                    raise AwsError("AlreadyExistsException", f"Stack [{name}] already exists")
        # Whoever looks from now on sees that it has begun.
        record["StackStatus"] = FIRST.get(work, record["StackStatus"])
        record["Worker"] = [os.getpid(), _started(os.getpid())]
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


def take_over(call_of: Callable[[str], Call]) -> None:
    """At the start of an endpoint: what a former one has begun, and what it had in its memory."""
    for record in copy.deepcopy(list(call_of("").notes.stacks.all().values())):
        if record["StackStatus"] == "DELETE_COMPLETE" or _is_alive(record["Worker"]):
            continue
        call = call_of(record["Account"])
        for row in record["Resources"].values():
            try:
                revive(call, row["Type"], row["PhysicalId"], row["Properties"])
            except AwsError as error:
                log.error("stack %s: %s: %s", record["StackName"], row["PhysicalId"], error)
        if record["StackStatus"].endswith("_IN_PROGRESS") and record["StackStatus"] != REVIEW:
            begin(call, record, Stack.go_on)


def _is_alive(worker: list[int] | None) -> bool:
    return worker is not None and worker[1] == _started(worker[0])


def _started(pid: int) -> int:
    """When a process has begun, in ticks since boot; 0 without it (proc_pid_stat(5), field 22)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[19])
