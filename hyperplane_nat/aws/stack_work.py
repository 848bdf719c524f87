# SPDX-License-Identifier: Apache-2.0
"""What becomes of a stack: made, changed, taken back, deleted.

Theory of operation
-------------------
A stack is a record (`Stack` says of what) in a file of the lab's directory, written at each step.
An operation on it is a thread. It goes round the resources until none is left: one whose needs are
there is begun, one that is begun is asked whether it is ready, and where a round has moved nothing
it waits a little. Deletion goes round in the same way, dependents first; what still has a
dependent in the region is asked again, as CloudFormation does.

A change notes for each resource what was before (`Undo`). Its failure takes that back, the last
first; its success deletes what is replaced or named no more (`Leaving`). An endpoint that is killed
in between leaves the record: the next one takes the change back, and goes on with a deletion.

States and their names: "Stack status codes" of the AWS CloudFormation User Guide.
"""

from __future__ import annotations

import copy
import secrets
import string
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from hyperplane_nat.aws import templates
from hyperplane_nat.aws.call import Call, Row
from hyperplane_nat.aws.errors import AwsError, of_region
from hyperplane_nat.aws.stack_making import (
    GONE,
    LOGICAL_ID,
    NESTED,
    STACK_ID,
    Making,
    ResourceError,
    reason,
    tags_of,
)
from hyperplane_nat.aws.stack_pauses import Pauses
from hyperplane_nat.aws.stack_scope import outputs_of, scope_of, type_of
from hyperplane_nat.aws.stack_workers import is_alive
from hyperplane_nat.aws.templates import Scope
from hyperplane_nat.client import ClientError

DEPENDENT = frozenset(
    {
        "DependencyViolation",
        "IncorrectState",
        "InvalidIPAddress.InUse",
        "OperationNotPermitted",
        "ResourceConflictException",
        "ResourceInUse",
    }
)
"""Codes of what can be deleted later."""

WAIT_SECONDS = 3600.0
"""How long a resource is waited for, in AWS's time: a function's interface takes 20 to 40 minutes
to go ("Giving Lambda functions access to resources in an Amazon VPC")."""

WAIT_SECONDS_MIN = 30.0
"""The same on the clock of this host, however the lab's runs."""

AWAY_SECONDS = 60.0
"""How long a controller may be away before what it is asked has failed."""

EVENTS_MAX = 2000
"""Of a stack: the oldest ones go."""

REVIEW = "REVIEW_IN_PROGRESS"

HELD = "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"
"""A nested stack that is changed stays in it until its parent is."""

_LETTERS = string.ascii_letters + string.digits


class Failed(Exception):  # noqa: N818 - what it is called on AWS
    """A resource could not be made; its event has the reason."""


def now() -> str:
    """The time, as records have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def is_unfinished(record: Row) -> bool:
    """Whether something is being done with a stack, or was when its endpoint ended."""
    status: str = record["StackStatus"]
    return status.endswith("_IN_PROGRESS") and status != REVIEW


class Stack:
    """A stack's record and the work on it, by one thread at a time."""

    def __init__(self, call: Call, record: Row) -> None:
        self._call = call.fresh()
        self._call.patience = AWAY_SECONDS
        self.record = record

    @cached_property
    def _time_scale(self) -> float:
        config: Any = self._call.patiently(lambda: self._call.lab.client.get("/v1/config"))
        return float(config["lifecycle"]["time_scale"])

    def _pauses(self, seconds: float | None = None) -> Pauses:
        """For so many seconds of AWS's, of this host's as many but few at the most."""
        wanted = WAIT_SECONDS if seconds is None else seconds
        return Pauses(max(wanted / self._time_scale, min(wanted, WAIT_SECONDS_MIN)))

    @property
    def call(self) -> Call:
        """The account's, for what is asked now."""
        return self._call.fresh()

    def save(self) -> None:
        """What there is of it is the file's."""
        with self.call.notes.stacks.changing() as known:
            known[self.record["StackId"]] = self.record

    # -- the operations, each to its end

    def create(self) -> None:
        """From nothing. When it fails it is taken back, deleted or left, as it was asked."""
        self.record["Failure"] = None
        self._status("CREATE_IN_PROGRESS", "User Initiated")
        try:
            self._converge()
        except Failed as failed:
            self._not_created(str(failed))
        else:
            self.record["Undo"] = []
            self._status("CREATE_COMPLETE")

    def _not_created(self, reason: str) -> None:
        left = self.record["OnFailure"]
        self.record["Failure"] = reason
        if left == "DO_NOTHING":
            self._status("CREATE_FAILED", reason)
        elif left == "DELETE":
            self.delete()
        else:
            self._status("ROLLBACK_IN_PROGRESS", f"{reason} Rollback requested by user.")
            gone = self._remove(self.record["Resources"])
            self._status("ROLLBACK_COMPLETE" if gone else "ROLLBACK_FAILED")

    def review(self) -> None:
        """It begins with a change set."""
        self._status(REVIEW, "User Initiated")

    def update(self) -> None:
        """To another template, parameters or tags; back to the former ones if that fails."""
        self.record["Failure"] = None
        self._status("UPDATE_IN_PROGRESS", "User Initiated")
        try:
            self._converge()
        except Failed as failed:
            self.record["Failure"] = str(failed)
            self._status("UPDATE_ROLLBACK_IN_PROGRESS", str(failed))
            self._take_back()
        else:
            if self.record.get("Held"):
                # Its parent goes on with it.
                self.record["Worker"] = None
                self._status(HELD)
            else:
                self.finish()

    def finish(self) -> None:
        """The end of a change that has succeeded: what it has replaced or left goes."""
        self.record["Former"] = None
        self._clean_up("UPDATE")

    def go_back(self) -> None:
        """A nested stack's change is taken back, as its parent's is. ResourceError."""
        # Otherwise nothing was changed of it, or that is taken back already.
        if is_unfinished(self.record):
            self._find_begun()
            self._status("UPDATE_ROLLBACK_IN_PROGRESS")
            self._take_back()
        if self.record["StackStatus"] == "UPDATE_ROLLBACK_FAILED":
            raise ResourceError(
                f"Embedded stack {self.record['StackId']} was not successfully rolled back: "
                f"{self.record['StackStatusReason']}"
            )

    def delete(self) -> None:
        """All of it but what is to be retained."""
        self._status("DELETE_IN_PROGRESS", "User Initiated")
        if self.record["Beginning"]:
            self._find_begun()
        self._retain()
        if self._remove(self.record["Leaving"]) and self._remove(self.record["Resources"]):
            self.record["Outputs"] = []
            self.record["DeletionTime"] = now()
            self._status("DELETE_COMPLETE")
        else:
            self._status("DELETE_FAILED", self._failure("DELETE_FAILED", "to delete"))

    def broken(self) -> None:
        """After a fault of this program: it is left as it is, and can be deleted."""
        verb = self.record["StackStatus"].partition("_")[0]
        self.record["Failure"] = "A fault."
        self._status("UPDATE_ROLLBACK_FAILED" if verb == "UPDATE" else f"{verb}_FAILED", "A fault.")

    def go_on(self) -> None:
        """After an endpoint that was killed meanwhile."""
        self._find_begun()
        status = self.record["StackStatus"]
        if status.startswith("DELETE"):
            self.delete()
        elif status in ("CREATE_IN_PROGRESS", "ROLLBACK_IN_PROGRESS"):
            for each in self._nested():
                if is_unfinished(each.record):
                    each.go_on()
            self._not_created("The endpoint has ended.")
        elif "CLEANUP" in status:
            self._clean_up(status.partition("_COMPLETE")[0])
        elif status in ("UPDATE_IN_PROGRESS", "UPDATE_ROLLBACK_IN_PROGRESS"):
            self._status("UPDATE_ROLLBACK_IN_PROGRESS", "The endpoint has ended.")
            self._take_back()

    # -- towards a template

    def _converge(self) -> None:
        """Every resource as the template has it. Failed."""
        try:
            template, scope = scope_of(self.call, self.record)
            wanted = {
                name: each
                for name, each in template.section("Resources").items()
                if scope.has(each)
            }
        except AwsError as error:
            raise Failed(error.message) from None
        waiting = {name: templates.needs(each) & wanted.keys() for name, each in wanted.items()}
        begun: set[str] = set()
        pauses = self._pauses()
        while waiting:
            moved = False
            for name in list(waiting):
                if waiting[name] & waiting.keys():
                    continue
                with _Told(self, name):
                    if name not in begun:
                        begun.add(name)
                        moved = True
                        if not self._begin(scope, name, wanted[name], waiting[name]):
                            del waiting[name]
                            continue
                    if self._is_ready(name):
                        moved = True
                        del waiting[name]
            if waiting and not moved:
                if not begun & waiting.keys():
                    raise Failed(f"Circular dependency between resources: [{', '.join(waiting)}]")
                # A stack gives up by itself.
                if pauses.over and any(
                    wanted[each]["Type"] != NESTED for each in begun & waiting.keys()
                ):
                    raise Failed(f"The following resource(s) are not ready: [{', '.join(waiting)}]")
                pauses.rest()
            elif moved:
                pauses.moved()
        known = self.record["Resources"]
        for name in [each for each in known if each not in wanted]:
            self._leave(name, known.pop(name))
        try:
            self.record["Outputs"] = outputs_of(self.call, self.record, template, scope)
        except AwsError as error:
            raise Failed(error.message) from None

    def _begin(self, scope: Scope, name: str, wanted: Row, needs: Iterable[str]) -> bool:
        """Whether anything is to be done for a resource, which then is begun. AwsError."""
        kind = wanted["Type"]
        made = type_of(kind)
        known = self.record["Resources"].get(name)
        if known is None:
            # So that its failure has something to be told of.
            known = {"Type": kind, "PhysicalId": "", "Properties": {}}
        properties = scope.resolve(wanted.get("Properties") or {})
        fresh = {
            "Type": kind,
            "Properties": properties,
            "Needs": sorted(needs),
            "Retain": wanted.get("DeletionPolicy", "Delete").startswith("Retain"),
            "Time": now(),
        }
        former: Row = known["Properties"]
        if known["PhysicalId"] and known["Type"] == kind:
            if former == properties:
                known |= {"Needs": fresh["Needs"], "Retain": fresh["Retain"]}
                return False
            changed = {
                each for each in {*former, *properties} if former.get(each) != properties.get(each)
            }
            if made.changes is None or changed <= made.changes:
                self._event(name, known, "UPDATE_IN_PROGRESS")
                self._undo(name, "updated", known)
                # Whatever of it is done, taking it back begins here.
                self._known(name, {**known, **fresh})
                making = self._making(name, properties)
                key = made.update(making, known["PhysicalId"], former, properties)
                if made.another and key != known["PhysicalId"]:
                    self._replace(name, known, wanted)
                self._known(name, {**known, **fresh, "PhysicalId": key, "Data": making.data})
                making.check()
                return True
        replaced = bool(known["PhysicalId"])
        status = "UPDATE_IN_PROGRESS" if replaced else "CREATE_IN_PROGRESS"
        reason = "Requested update requires the creation of a new physical resource." * replaced
        # With that a successor finds what is made, if this one comes no further.
        begun = {**fresh, "Token": str(uuid.uuid4()), "Made": self._generated(name)}
        self.record["Beginning"][name] = begun
        self._event(name, {**known, **fresh, "PhysicalId": ""}, status, reason)
        making = self._making(name, properties, begun["Token"], begun["Made"])
        key = made.create(making, properties)
        del self.record["Beginning"][name]
        self._undo(name, "replaced" if replaced else "created", known)
        self._known(name, {**fresh, "PhysicalId": key, "Status": status, "Data": making.data})
        if replaced:
            self._replace(name, known, wanted)
        self._event(name, self.record["Resources"][name], status, "Resource creation Initiated")
        making.check()
        return True

    def _is_ready(self, name: str) -> bool:
        known = self.record["Resources"][name]
        if not type_of(known["Type"]).ready(self.call, known["PhysicalId"]):
            return False
        verb = "UPDATE" if known["Status"].startswith("UPDATE") else "CREATE"
        self._event(name, known, f"{verb}_COMPLETE")
        return True

    def _find_begun(self) -> None:
        """What was being made is found by being asked for again, and goes with the rest."""
        for name, row in self.record["Beginning"].items():
            making = self._making(name, row["Properties"], row["Token"], row["Made"])
            making.call.repeated = True
            try:
                key = type_of(row["Type"]).create(making, row["Properties"])
            except (AwsError, ClientError):
                # It was refused, or is known by its name.
                key = row["Made"]
            resource = {**row, "PhysicalId": key, "Name": name, "Status": "CREATE_IN_PROGRESS"}
            if name in self.record["Resources"]:
                self._leave(name, resource)
            else:
                self._undo(name, "created", resource)
                self.record["Resources"][name] = resource
        self.record["Beginning"] = {}
        self.save()

    def _known(self, name: str, resource: Row) -> None:
        self.record["Resources"][name] = resource
        self.save()

    def _undo(self, name: str, how: str, before: Row) -> None:
        self.record["Undo"].append([name, how, copy.deepcopy(before)])

    def _replace(self, name: str, former: Row, wanted: Row) -> None:
        policy = wanted.get("UpdateReplacePolicy", "Delete")
        self._leave(name, {**former, "Retain": policy == "Retain"})

    def _leave(self, name: str, resource: Row) -> None:
        """What is to go once all else is done."""
        self.record["Leaving"][f"{name} {resource['PhysicalId']}"] = {**resource, "Name": name}

    # -- and back

    def _take_back(self) -> None:
        resources, undo = self.record["Resources"], self.record["Undo"]
        # What was to go stays, what was made instead goes.
        leaving, self.record["Leaving"] = self.record["Leaving"], {}
        for each, row in leaving.items():
            if "Token" in row:
                self.record["Leaving"][each] = row
            elif row["Name"] not in resources:
                resources[row["Name"]] = row
        try:
            while undo:
                name, how, before = undo[-1]
                current = resources[name]
                if how == "updated":
                    resources[name] = self._restored(name, current, before)
                    self._event(name, resources[name], "UPDATE_COMPLETE")
                else:
                    # The token tells a successor, too, that it was made instead.
                    self._leave(name, {**current, "Token": ""})
                    del resources[name]
                    if how == "replaced":
                        resources[name] = before
                undo.pop()
                self.save()
        except (AwsError, ClientError) as error:
            self._status("UPDATE_ROLLBACK_FAILED", str(error))
            return
        # What the former template has and this one has not was never touched.
        former = self.record["Former"]
        for field, value in former.items():
            self.record[field] = value
        self._clean_up("UPDATE_ROLLBACK")

    def _restored(self, name: str, current: Row, before: Row) -> Row:
        """A resource that has its former properties again."""
        if before["Type"] == NESTED:
            self._stack(current["PhysicalId"]).go_back()
            return before
        making = replace(self._making(name, before["Properties"]), back=True)
        made = type_of(before["Type"])
        former = current["Properties"]
        key = made.update(making, current["PhysicalId"], former, before["Properties"])
        making.check()
        if made.another and key != current["PhysicalId"]:
            self._leave(name, {**current, "Token": ""})
        return {**before, "PhysicalId": key, "Data": making.data}

    def _nested(self) -> list[Stack]:
        return [
            self._stack(row["PhysicalId"])
            for row in self.record["Resources"].values()
            if row["Type"] == NESTED and row["PhysicalId"]
        ]

    def _stack(self, key: str) -> Stack:
        """A nested stack, on which this one works from now on: once nobody else does."""
        stacks = self.call.notes.stacks
        self._wait(lambda: not is_alive(stacks.all()[key]["Worker"]))
        return Stack(self._call, copy.deepcopy(stacks.all()[key]))

    def _clean_up(self, verb: str) -> None:
        self.record["Undo"] = []
        self._status(f"{verb}_COMPLETE_CLEANUP_IN_PROGRESS")
        for each in self._nested():
            if each.record["StackStatus"] == HELD:
                each.finish()
        self._retain()
        self._remove(self.record["Leaving"])
        # What could not be deleted is forgotten, as on AWS: its event says so.
        self.record["Leaving"] = {}
        self._status(f"{verb}_COMPLETE")

    def _retain(self) -> None:
        for resources in (self.record["Leaving"], self.record["Resources"]):
            for name in [each for each, row in resources.items() if row["Retain"]]:
                if resources is self.record["Leaving"] or self._is_deleting():
                    gone = resources.pop(name)
                    self._event(gone.get("Name", name), gone, "DELETE_SKIPPED")

    def _is_deleting(self) -> bool:
        return bool(self.record["StackStatus"].startswith("DELETE"))

    def _remove(self, resources: Row) -> bool:
        """Delete all of these, dependents first; whether they are gone."""
        self.record["Removal"] = str(uuid.uuid4())
        told: set[str] = set()
        failed: set[str] = set()
        pauses = self._pauses()
        while left := [each for each in resources if each not in failed]:
            moved = False
            # What is still there may need it yet: a function deletes what it has made.
            needed = {need for row in resources.values() for need in row["Needs"]}
            left = [each for each in left if resources[each].get("Name", each) not in needed]
            if not left:
                break
            for key in left:
                row = resources[key]
                name = row.get("Name", key)
                if key not in told:
                    told.add(key)
                    self._event(name, row, "DELETE_IN_PROGRESS")
                try:
                    gone = self._is_removed(name, row)
                except AwsError as error:
                    if error.code in DEPENDENT and not pauses.over:
                        continue
                    self._event(name, row, "DELETE_FAILED", reason(row["Type"], error))
                    failed.add(key)
                    continue
                if gone:
                    del resources[key]
                    self._event(name, row, "DELETE_COMPLETE")
                    moved = True
            if moved:
                pauses.moved()
            elif left:
                if pauses.over:
                    # A stack gives up by itself.
                    failed.update(each for each in left if resources[each]["Type"] != NESTED)
                pauses.rest()
        return not resources

    def _is_removed(self, name: str, row: Row) -> bool:
        if not row["PhysicalId"]:
            return True
        try:
            making = self._making(name, row["Properties"])
            return type_of(row["Type"]).delete(making, row["PhysicalId"], row["Properties"])
        except AwsError as error:
            if error.code.endswith(GONE):
                return True
            raise
        except ClientError as error:
            raise of_region(error, "cloudformation", "", {}) from None

    # -- what the parts are told

    def _generated(self, name: str) -> str:
        random = "".join(secrets.choice(_LETTERS) for _ in range(12))
        return f"{self.record['StackName']}-{name}-{random}"

    def _making(self, name: str, properties: Row, token: str = "", generated: str = "") -> Making:
        stack, key = self.record["StackName"], self.record["StackId"]
        return Making(
            # What breaks off is asked again: it is not to be done twice.
            self._call.fresh(token or str(uuid.uuid4())),
            generated or self._generated(name),
            {
                **self.record["Tags"],
                **tags_of(properties),
                "aws:cloudformation:stack-name": stack,
                STACK_ID: key,
                LOGICAL_ID: name,
            },
            self._wait,
        )

    def _wait(self, is_so: Callable[[], bool], seconds: float | None = None) -> None:
        pauses = self._pauses(seconds)
        while not is_so():
            if pauses.over:
                raise AwsError("NotStabilized", "It is not ready in time.")
            pauses.rest()

    # -- what is told

    def _status(self, status: str, reason: str = "") -> None:
        self.record["StackStatus"] = status
        if not status.endswith("_IN_PROGRESS"):
            # Who sees this may have something else done at once.
            self.record["Worker"] = None
        self.record["StackStatusReason"] = reason or None
        if status == "UPDATE_IN_PROGRESS":
            self.record["LastUpdatedTime"] = now()
        own = {"Type": NESTED, "PhysicalId": self.record["StackId"]}
        self._event(self.record["StackName"], own, status, reason)

    def _event(self, name: str, resource: Row, status: str, reason: str = "") -> None:
        resource |= {"Status": status, "StatusReason": reason or None, "Time": now()}
        self.record["Events"].append(
            {
                "EventId": str(uuid.uuid4()),
                "LogicalResourceId": name,
                "PhysicalResourceId": resource["PhysicalId"],
                "ResourceType": resource["Type"],
                "ResourceStatus": status,
                "ResourceStatusReason": reason or None,
                "ClientRequestToken": self.record.get("Token"),
                "Timestamp": now(),
            }
        )
        del self.record["Events"][:-EVENTS_MAX]
        self.save()

    def failed(self, name: str, error: AwsError) -> Failed:
        """A resource that cannot be made: it is told, and what to raise."""
        template = templates.read(self.record["TemplateBody"])
        known = self.record["Resources"].get(name) or {
            "Type": template.section("Resources")[name]["Type"],
            "PhysicalId": "",
        }
        self.record["Beginning"].pop(name, None)
        done = known.get("Status", "CREATE_").partition("_")[0]
        self._event(name, known, f"{done}_FAILED", reason(known["Type"], error))
        return Failed(f"The following resource(s) failed to {done.lower()}: [{name}].")

    def _failure(self, status: str, verb: str) -> str:
        failed = [each for each, row in self.record["Resources"].items() if row["Status"] == status]
        return f"The following resource(s) failed {verb}: [{', '.join(failed)}]. "


class _Told:
    """What goes wrong with a resource is its event, and the change's failure."""

    def __init__(self, stack: Stack, name: str) -> None:
        self._stack, self._name = stack, name

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ClientError):
            error = of_region(error, "cloudformation", "", {})
        if isinstance(error, AwsError):
            raise self._stack.failed(self._name, error) from None
