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
import time
import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from hyperplane_nat.aws import templates
from hyperplane_nat.aws.call import Call, Row
from hyperplane_nat.aws.errors import AwsError, of_region
from hyperplane_nat.aws.stack_making import GONE, Making, tags_of
from hyperplane_nat.aws.stack_scope import exports, scope_of, type_of
from hyperplane_nat.aws.templates import Scope, Template
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

PAUSES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between rounds that move nothing, the last one again and again."""

EVENTS_MAX = 2000
"""Of a stack: the oldest ones go."""

REVIEW = "REVIEW_IN_PROGRESS"

_LETTERS = string.ascii_letters + string.digits


class Failed(Exception):  # noqa: N818 - what it is called on AWS
    """A resource could not be made; its event has the reason."""


def now() -> str:
    """The time, as records have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Stack:
    """A stack's record and the work on it, by one thread at a time."""

    def __init__(self, call: Call, record: Row) -> None:
        self._call = call.fresh()
        self._call.patience = AWAY_SECONDS
        self.record = record

    @cached_property
    def _patience(self) -> float:
        config: Any = self._call.lab.client.get("/v1/config")
        return max(WAIT_SECONDS / float(config["lifecycle"]["time_scale"]), WAIT_SECONDS_MIN)

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
        self._status("UPDATE_IN_PROGRESS", "User Initiated")
        try:
            self._converge()
        except Failed as failed:
            self._status("UPDATE_ROLLBACK_IN_PROGRESS", str(failed))
            self._take_back()
        else:
            self.record["Former"] = None
            self._clean_up("UPDATE")

    def delete(self) -> None:
        """All of it but what is to be retained."""
        self._status("DELETE_IN_PROGRESS", "User Initiated")
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
        self._status("UPDATE_ROLLBACK_FAILED" if verb == "UPDATE" else f"{verb}_FAILED", "A fault.")

    def go_on(self) -> None:
        """After an endpoint that was killed meanwhile."""
        self._find_begun()
        status = self.record["StackStatus"]
        if status.startswith("DELETE"):
            self.delete()
        elif status in ("CREATE_IN_PROGRESS", "ROLLBACK_IN_PROGRESS"):
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
        started = time.monotonic()
        pause = iter(PAUSES)
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
                if time.monotonic() - started > self._patience:
                    raise Failed(f"The following resource(s) are not ready: [{', '.join(waiting)}]")
                time.sleep(next(pause, PAUSES[-1]))
            elif moved:
                pause = iter(PAUSES)
        known = self.record["Resources"]
        for name in [each for each in known if each not in wanted]:
            self._leave(name, known.pop(name))
        try:
            self.record["Outputs"] = self._outputs(template, scope)
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
                self._known(name, {**known, **fresh, "PhysicalId": key})
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
        self._known(name, {**fresh, "PhysicalId": key, "Status": status})
        if replaced:
            policy = wanted.get("UpdateReplacePolicy", "Delete")
            self._leave(name, {**known, "Retain": policy == "Retain"})
        self._event(name, self.record["Resources"][name], status, "Resource creation Initiated")
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

    def _leave(self, name: str, resource: Row) -> None:
        """What is to go once all else is done."""
        self.record["Leaving"][f"{name} {resource['PhysicalId']}"] = {**resource, "Name": name}

    # -- and back

    def _take_back(self) -> None:
        resources = self.record["Resources"]
        # What was to go stays, what was made instead goes.
        begun = {each: row for each, row in self.record["Leaving"].items() if "Token" in row}
        self.record["Leaving"] = begun
        try:
            for name, how, before in reversed(self.record["Undo"]):
                current = resources.pop(name)
                if how == "updated":
                    made = type_of(before["Type"])
                    key = made.update(
                        self._making(name, before["Properties"]),
                        current["PhysicalId"],
                        current["Properties"],
                        before["Properties"],
                    )
                    self._known(name, {**before, "PhysicalId": key})
                    self._event(name, resources[name], "UPDATE_COMPLETE")
                else:
                    self._leave(name, current)
                    if how == "replaced":
                        self._known(name, before)
        except (AwsError, ClientError) as error:
            self._status("UPDATE_ROLLBACK_FAILED", str(error))
            return
        # What the former template has and this one has not was never touched.
        former = self.record["Former"]
        for field, value in former.items():
            self.record[field] = value
        self._clean_up("UPDATE_ROLLBACK")

    def _clean_up(self, verb: str) -> None:
        self.record["Undo"] = []
        self._status(f"{verb}_COMPLETE_CLEANUP_IN_PROGRESS")
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
        told: set[str] = set()
        failed: set[str] = set()
        reasons: dict[str, str] = {}
        started = time.monotonic()
        pause = iter(PAUSES)
        while left := [each for each in resources if each not in failed]:
            moved = False
            needed = {
                need for each in left for need in resources[each]["Needs"] if each not in failed
            }
            for key in left:
                row = resources[key]
                name = row.get("Name", key)
                if name in needed:
                    continue
                if key not in told:
                    told.add(key)
                    self._event(name, row, "DELETE_IN_PROGRESS")
                try:
                    gone = self._is_removed(name, row)
                except AwsError as error:
                    if error.code in DEPENDENT and time.monotonic() - started < self._patience:
                        reasons[key] = error.message
                        continue
                    self._event(name, row, "DELETE_FAILED", _reason(row["Type"], error))
                    failed.add(key)
                    continue
                if gone:
                    del resources[key]
                    self._event(name, row, "DELETE_COMPLETE")
                    moved = True
            if moved:
                pause = iter(PAUSES)
            elif left:
                if time.monotonic() - started > self._patience:
                    failed.update(left)
                time.sleep(next(pause, PAUSES[-1]))
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

    def _outputs(self, template: Template, scope: Scope) -> list[Row]:
        found = []
        for key, each in template.section("Outputs").items():
            if not scope.has(each):
                continue
            name = scope.resolve((each.get("Export") or {}).get("Name"))
            others = {export: stack for export, (stack, _) in exports(self.call).items()}
            if name and others.get(name, self.record["StackId"]) != self.record["StackId"]:
                raise templates.invalid(
                    f"Export with name {name} is already exported by stack {others[name]}."
                )
            value = scope.resolve(each.get("Value"))
            found.append(
                {
                    "OutputKey": key,
                    "OutputValue": str(value).lower() if isinstance(value, bool) else str(value),
                    "Description": each.get("Description"),
                    "ExportName": name,
                }
            )
        return found

    def _generated(self, name: str) -> str:
        random = "".join(secrets.choice(_LETTERS) for _ in range(12))
        return f"{self.record['StackName']}-{name}-{random}"

    def _making(self, name: str, properties: Row, token: str = "", generated: str = "") -> Making:
        stack, key = self.record["StackName"], self.record["StackId"]
        return Making(
            self._call.fresh(token),
            generated or self._generated(name),
            {
                **self.record["Tags"],
                **tags_of(properties),
                "aws:cloudformation:stack-name": stack,
                "aws:cloudformation:stack-id": key,
                "aws:cloudformation:logical-id": name,
            },
            self._wait,
        )

    def _wait(self, is_so: Callable[[], bool]) -> None:
        started = time.monotonic()
        pause = iter(PAUSES)
        while not is_so():
            if time.monotonic() - started > self._patience:
                raise AwsError("NotStabilized", "It is not ready in time.")
            time.sleep(next(pause, PAUSES[-1]))

    # -- what is told

    def _status(self, status: str, reason: str = "") -> None:
        self.record["StackStatus"] = status
        if not status.endswith("_IN_PROGRESS"):
            # Who sees this may have something else done at once.
            self.record["Worker"] = None
        self.record["StackStatusReason"] = reason or None
        if status == "UPDATE_IN_PROGRESS":
            self.record["LastUpdatedTime"] = now()
        own = {"Type": "AWS::CloudFormation::Stack", "PhysicalId": self.record["StackId"]}
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
        self._event(name, known, f"{done}_FAILED", _reason(known["Type"], error))
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


def _reason(kind: str, error: AwsError) -> str:
    """In CloudFormation's words: what the service has said, and which."""
    service = kind.split("::")[1]
    return (
        f'Resource handler returned message: "{error.message} (Service: {service}, Status Code: '
        f'{error.status or 400}, Error Code: {error.code})"'
    )
