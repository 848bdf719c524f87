# SPDX-License-Identifier: Apache-2.0
"""CloudFormation's change sets: what would be done with a stack, and then is."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping

from hyperplane_nat.aws import templates
from hyperplane_nat.aws.call import Call, Operation, Params, Row, operation
from hyperplane_nat.aws.errors import AwsError
from hyperplane_nat.aws.filters import page
from hyperplane_nat.aws.stack_records import (
    ASKED,
    NAME,
    TAKEN,
    asked,
    begun,
    check,
    every,
    find,
    given,
    idle,
    keep_former,
    new,
    on_failure,
    own,
    same,
    time_of,
    under_token,
    whose,
)
from hyperplane_nat.aws.stack_threads import begin
from hyperplane_nat.aws.stack_work import REVIEW, Stack, now
from hyperplane_nat.aws.templates import invalid

UNCHANGED = (
    "The submitted information didn't contain changes. Submit different information to create a "
    "change set."
)

_OF_CHANGE_SET = (
    "ChangeSetId",
    "ChangeSetName",
    "Description",
    "Status",
    "ExecutionStatus",
    "StatusReason",
)


def create_change_set(call: Call, params: Params) -> Row:
    """CreateChangeSet, which a stack may begin with; one without changes is FAILED."""
    name = params.get("ChangeSetName") or ""
    if NAME.fullmatch(name) is None:
        raise invalid(f"Invalid change set name: {name}")
    kind = params.get("ChangeSetType") or "UPDATE"
    if kind == "CREATE":
        known = [row for row in own(call) if row["StackName"] == params.get("StackName")]
        if known and known[0]["StackStatus"] != REVIEW:
            raise invalid(
                f"Stack [{params['StackName']}] already exists and cannot be created again with "
                f"the changeSet [{name}]."
            )
        record = copy.deepcopy(known[0]) if known else new(call, params)
    elif kind == "UPDATE":
        record = idle(call, params.get("StackName"), "updated")
    else:
        raise invalid(f"Change sets of type {kind} are not emulated.")
    changed = asked(call, record, params)
    check(call, changed, params)
    unchanged = kind == "UPDATE" and same(record, changed)
    key = f"{uuid.uuid4()}"
    made = {
        "ChangeSetId": call.arn("cloudformation", f"changeSet/{name}/{key}"),
        "ChangeSetName": name,
        "ChangeSetType": kind,
        "Description": params.get("Description"),
        "CreationTime": now(),
        "Status": "FAILED" if unchanged else "CREATE_COMPLETE",
        "ExecutionStatus": "UNAVAILABLE" if unchanged else "AVAILABLE",
        "StatusReason": UNCHANGED if unchanged else None,
        "Changes": [] if unchanged else _changes(record, changed),
        "OnFailure": on_failure({**params, "OnFailure": params.get("OnStackFailure")}),
        **{field: changed[field] for field in TAKEN},
    }
    if any(each["ChangeSetName"] == name for each in record["ChangeSets"].values()):
        raise AwsError("AlreadyExistsException", f"ChangeSet {name} already exists")
    record["ChangeSets"][made["ChangeSetId"]] = made
    if kind == "CREATE" and len(record["ChangeSets"]) == 1 and not record["Events"]:
        Stack(call, record).review()
    else:
        Stack(call, record).save()
    return {"Id": made["ChangeSetId"], "StackId": record["StackId"]}


def describe_change_set(call: Call, params: Params) -> Row:
    """DescribeChangeSet: ChangeSetNotFound."""
    record, made = _with_change_set(call, params)
    found = page(params, "Changes", made["Changes"])
    return {
        **{name: made[name] for name in _OF_CHANGE_SET},
        **whose(record),
        **given(made),
        "CreationTime": time_of(made["CreationTime"]),
        **found,
    }


def execute_change_set(call: Call, params: Params) -> Row:
    """ExecuteChangeSet: ChangeSetNotFound, InvalidChangeSetStatus, TokenAlreadyExistsException."""
    record, made = _with_change_set(call, params)
    named = {**params, "StackName": record["StackId"]}
    if begun(call, made["ChangeSetId"], named) is not None:
        return {}
    if made["ExecutionStatus"] != "AVAILABLE":
        raise AwsError(
            "InvalidChangeSetStatus",
            f"ChangeSet [{made['ChangeSetId']}] cannot be executed in its current status of "
            f"[{made['Status']}]",
        )
    kind = made["ChangeSetType"]
    if kind == "UPDATE" or record["StackStatus"] != REVIEW:
        record = idle(call, record["StackId"], "updated")
    record = copy.deepcopy(record)
    if kind == "UPDATE":
        keep_former(record)
    record |= {name: made[name] for name in TAKEN} | under_token(record, made["ChangeSetId"], named)
    record["OnFailure"] = "DO_NOTHING" if params.get("DisableRollback") else made["OnFailure"]
    # The others were made for what the stack is no more.
    record["ChangeSets"] = {made["ChangeSetId"]: {**made, "ExecutionStatus": "EXECUTE_COMPLETE"}}
    begin(call, record, Stack.create if kind == "CREATE" else Stack.update)
    return {}


def delete_change_set(call: Call, params: Params) -> Row:
    """DeleteChangeSet: ChangeSetNotFound only without the stack."""
    try:
        record, made = _with_change_set(call, params)
    except AwsError as error:
        if error.code != "ChangeSetNotFound":
            raise
        return {}
    record = copy.deepcopy(record)
    del record["ChangeSets"][made["ChangeSetId"]]
    Stack(call, record).save()
    return {}


def list_change_sets(call: Call, params: Params) -> Row:
    """ListChangeSets of a stack."""
    record = find(call, params.get("StackName"))
    found = [
        {
            **{name: made[name] for name in _OF_CHANGE_SET},
            **whose(record),
            "CreationTime": time_of(made["CreationTime"]),
        }
        for made in record["ChangeSets"].values()
    ]
    return page(params, "Summaries", found)


# -- how


def _changes(record: Row, changed: Row) -> list[Row]:
    """What would be done, by what the templates say and which parameters are others."""
    before = (
        templates.read(record["TemplateBody"]).section("Resources")
        if record["TemplateBody"]
        else {}
    )
    after = templates.read(changed["TemplateBody"]).section("Resources")
    others = {
        name
        for name in {*record["Parameters"], *changed["Parameters"]}
        if record["Parameters"].get(name) != changed["Parameters"].get(name)
    }
    found = []
    for name in [*after, *(each for each in before if each not in after)]:
        if name not in before:
            action, scope = "Add", None
        elif name not in after:
            action, scope = "Remove", None
        elif before[name] != after[name] or templates.needs(after[name]) & others:
            action, scope = "Modify", ["Properties"]
        else:
            continue
        row = record["Resources"].get(name, {})
        found.append(
            {
                "Type": "Resource",
                "ResourceChange": {
                    "Action": action,
                    "LogicalResourceId": name,
                    "PhysicalResourceId": row.get("PhysicalId"),
                    "ResourceType": (after.get(name) or before[name])["Type"],
                    "Replacement": "Conditional" if scope else None,
                    "Scope": scope or [],
                    "Details": [],
                },
            }
        )
    return found


def _with_change_set(call: Call, params: Params) -> tuple[Row, Row]:
    """The stack and the change set that a request means. ChangeSetNotFound."""
    wanted = params.get("ChangeSetName") or ""
    if params.get("StackName"):
        record = find(call, params["StackName"])
        return record, change_set(record, wanted)
    for record in every(call):
        if wanted in record["ChangeSets"]:
            return record, record["ChangeSets"][wanted]
    raise AwsError("ChangeSetNotFound", f"ChangeSet [{wanted}] does not exist", 404)


def change_set(record: Row, wanted: str) -> Row:
    """One of a stack, by its name or id. ChangeSetNotFound."""
    for key, made in record["ChangeSets"].items():
        if wanted in (key, made["ChangeSetName"]):
            found: Row = made
            return found
    raise AwsError("ChangeSetNotFound", f"ChangeSet [{wanted}] does not exist", 404)


OPERATIONS: Mapping[str, Operation] = {
    "CreateChangeSet": operation(
        create_change_set,
        f"{ASKED} ChangeSetName ChangeSetType Description UsePreviousTemplate IncludeNestedStacks "
        "ImportExistingResources "
        "OnStackFailure",
    ),
    "DeleteChangeSet": operation(delete_change_set, "ChangeSetName StackName"),
    "DescribeChangeSet": operation(
        describe_change_set, "ChangeSetName StackName IncludePropertyValues"
    ),
    "ExecuteChangeSet": operation(
        execute_change_set,
        "ChangeSetName StackName ClientRequestToken DisableRollback RetainExceptOnCreate",
    ),
    "ListChangeSets": operation(list_change_sets, "StackName"),
}
