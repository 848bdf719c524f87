# SPDX-License-Identifier: Apache-2.0
"""CloudFormation: stacks and change sets as they are asked for; `stack_work` does what they say.

An operation answers at once, and what it has begun is seen by DescribeStacks and by the events, as
on AWS. Nothing is left to moto but the models of what moves no packets (`recorded_types`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

from hyperplane_nat.aws import change_sets, templates
from hyperplane_nat.aws.call import Call, Operation, Params, Row, operation
from hyperplane_nat.aws.change_sets import change_set
from hyperplane_nat.aws.errors import AwsError
from hyperplane_nat.aws.filters import page
from hyperplane_nat.aws.stack_making import PARENT
from hyperplane_nat.aws.stack_nested import UNCHANGED
from hyperplane_nat.aws.stack_records import (
    ASKED,
    GONE,
    TEMPLATE,
    asked,
    begun,
    capability,
    check,
    every,
    find,
    given,
    idle,
    new,
    on_failure,
    own,
    same,
    template_of,
    time_of,
    under_token,
    whose,
)
from hyperplane_nat.aws.stack_scope import exports
from hyperplane_nat.aws.stack_threads import begin
from hyperplane_nat.aws.stack_work import Stack
from hyperplane_nat.aws.templates import Template, invalid


def create_stack(call: Call, params: Params) -> Row:
    """
    CreateStack.

    Errors: AlreadyExistsException, ValidationError, InsufficientCapabilitiesException,
    TokenAlreadyExistsException.
    """
    if (there := begun(call, "create", params)) is not None:
        return {"StackId": there["StackId"]}
    record = asked(call, new(call, params), params)
    record |= {"OnFailure": on_failure(params), **under_token(record, "create", params)}
    if parent := params.get(PARENT):
        root = find(call, parent).get("RootId") or parent
        record |= {"ParentId": parent, "RootId": root, "OnFailure": "DO_NOTHING"}
    check(call, record, params)
    return {"StackId": begin(call, record, Stack.create)}


def update_stack(call: Call, params: Params) -> Row:
    """UpdateStack: ValidationError, also where nothing changes, TokenAlreadyExistsException."""
    if (there := begun(call, "update", params)) is not None:
        return {"StackId": there["StackId"]}
    record = idle(call, params.get("StackName"), "updated")
    changed = asked(call, record, params)
    if same(record, changed):
        raise invalid(UNCHANGED)
    check(call, changed, params)
    changed |= {"Held": PARENT in params, **under_token(record, "update", params)}
    return {"StackId": begin(call, changed, Stack.update)}


def delete_stack(call: Call, params: Params) -> None:
    """DeleteStack: TokenAlreadyExistsException; one that there is not is deleted already."""
    try:
        record = find(call, params.get("StackName"))
    except AwsError:
        return
    if begun(call, "delete", params) is not None:
        return
    nested = PARENT in params
    if record["StackStatus"] == GONE or (
        record["StackStatus"] == "DELETE_IN_PROGRESS" and not nested
    ):
        return
    record = idle(call, record["StackId"], "deleted", nested=nested)
    record |= {"RemovedBy": params.get(PARENT), **under_token(record, "delete", params)}
    if record["EnableTerminationProtection"]:
        raise invalid(
            f"Stack [{record['StackName']}] cannot be deleted while TerminationProtection is "
            "enabled"
        )
    exported = {name for name, (stack, _) in exports(call).items() if stack == record["StackId"]}
    for other in own(call):
        for name in exported & set(other["Imports"]):
            raise invalid(
                f"Export {name} cannot be deleted as it is in use by {other['StackName']}"
            )
    for name in params.get("RetainResources") or ():
        if name in record["Resources"] and record["StackStatus"] == "DELETE_FAILED":
            record["Resources"][name]["Retain"] = True
    begin(call, record, Stack.delete)


def update_termination_protection(call: Call, params: Params) -> Row:
    """UpdateTerminationProtection."""
    record = copy.deepcopy(find(call, params.get("StackName")))
    record["EnableTerminationProtection"] = bool(params.get("EnableTerminationProtection"))
    Stack(call, record).save()
    return {"StackId": record["StackId"]}


def describe_stacks(call: Call, params: Params) -> Row:
    """DescribeStacks: all that are not deleted, or one by its name or id."""
    wanted = params.get("StackName")
    rows = [find(call, wanted)] if wanted else own(call)
    return page(params, "Stacks", [_stack(row) for row in rows])


def list_stacks(call: Call, params: Params) -> Row:
    """ListStacks, the deleted ones too."""
    wanted = params.get("StackStatusFilter") or ()
    found = [_stack(row) for row in every(call) if not wanted or row["StackStatus"] in wanted]
    return page(params, "StackSummaries", found)


def describe_stack_events(call: Call, params: Params) -> Row:
    """DescribeStackEvents, the latest first."""
    try:
        record = find(call, params.get("StackName"))
    except AwsError:
        # Of this operation alone CloudFormation has other words for it.
        raise invalid(f"Stack [{params.get('StackName')}] does not exist") from None
    found = [
        {**whose(record), **each, "Timestamp": time_of(each["Timestamp"])}
        for each in reversed(record["Events"])
    ]
    return page({**params, "MaxResults": 100}, "StackEvents", found)


def describe_stack_resources(call: Call, params: Params) -> Row:
    """DescribeStackResources, of a stack or of the one that has a physical resource."""
    physical, logical = params.get("PhysicalResourceId"), params.get("LogicalResourceId")
    if params.get("StackName"):
        record = find(call, params["StackName"])
    else:
        having = (
            row
            for row in own(call)
            if physical in {each["PhysicalId"] for each in row["Resources"].values()}
        )
        record = next(having, {})
        if not record:
            raise invalid(f"Stack for {physical} does not exist")
    found = [
        each
        for each in _resources(record)
        if logical in (None, each["LogicalResourceId"])
        and physical in (None, each["PhysicalResourceId"])
    ]
    return {"StackResources": found}


def describe_stack_resource(call: Call, params: Params) -> Row:
    """DescribeStackResource: ValidationError."""
    record, wanted = find(call, params.get("StackName")), params.get("LogicalResourceId")
    for each in _resources(record):
        if each["LogicalResourceId"] == wanted:
            return {"StackResourceDetail": each}
    raise invalid(f"Resource {wanted} does not exist for stack {record['StackName']}")


def list_stack_resources(call: Call, params: Params) -> Row:
    """ListStackResources."""
    record = find(call, params.get("StackName"))
    return page(params, "StackResourceSummaries", _resources(record))


def list_exports(call: Call, params: Params) -> Row:
    """ListExports."""
    found = [
        {"Name": name, "ExportingStackId": stack, "Value": value}
        for name, (stack, value) in sorted(exports(call).items())
    ]
    return page(params, "Exports", found)


def list_imports(call: Call, params: Params) -> Row:
    """ListImports: ValidationError for an export that nobody imports."""
    name = params.get("ExportName")
    found = [row["StackName"] for row in own(call) if name in row["Imports"]]
    if not found:
        raise invalid(f"Export '{name}' is not imported by any stack.")
    return {"Imports": found}


def get_template(call: Call, params: Params) -> Row:
    """GetTemplate, of a stack or of a change set; a stack that has only these has none yet."""
    record = find(call, params.get("StackName"))
    if params.get("ChangeSetName"):
        record = change_set(record, params["ChangeSetName"])
    return {
        "TemplateBody": record["TemplateBody"],
        "StagesAvailable": ["Original", "Processed"],
    }


def get_template_summary(call: Call, params: Params) -> Row:
    """GetTemplateSummary, of a template or of a stack."""
    if params.get("StackName"):
        template = templates.read(find(call, params["StackName"])["TemplateBody"])
    else:
        template = template_of(call, params)
    return {**_summary(template), "ResourceTypes": template.types, "Version": _version(template)}


def validate_template(call: Call, params: Params) -> Row:
    """ValidateTemplate: its form, not its resources."""
    template = template_of(call, params)
    # What has a condition may not be there.
    resources = template.section("Resources").items()
    templates.check_order({name: each for name, each in resources if "Condition" not in each})
    return _summary(template)


# -- forms


def _stack(row: Row) -> Row:
    return {
        **{
            name: row[name]
            for name in (
                "StackId",
                "StackName",
                "Description",
                "StackStatus",
                "StackStatusReason",
                "Outputs",
                "RoleARN",
                "EnableTerminationProtection",
            )
        },
        **{
            name: time_of(row[name]) for name in ("CreationTime", "LastUpdatedTime", "DeletionTime")
        },
        **given(row),
        **{name: row.get(name) for name in ("ParentId", "RootId")},
        "DisableRollback": row["OnFailure"] == "DO_NOTHING",
        "DriftInformation": {"StackDriftStatus": "NOT_CHECKED"},
        "RollbackConfiguration": {},
    }


def _resources(record: Row) -> list[Row]:
    return [
        {
            **whose(record),
            "LogicalResourceId": name,
            "PhysicalResourceId": row["PhysicalId"],
            "ResourceType": row["Type"],
            "ResourceStatus": row["Status"],
            "ResourceStatusReason": row.get("StatusReason"),
            "Timestamp": time_of(row["Time"]),
            "LastUpdatedTimestamp": time_of(row["Time"]),
            "DriftInformation": {"StackResourceDriftStatus": "NOT_CHECKED"},
        }
        for name, row in record["Resources"].items()
    ]


def _summary(template: Template) -> Row:
    needed = capability(template)
    return {
        "Description": template.body.get("Description"),
        "Parameters": [
            {
                "ParameterKey": name,
                "ParameterType": each.get("Type", "String"),
                "DefaultValue": str(each["Default"]) if "Default" in each else None,
                "NoEcho": each.get("NoEcho") in (True, "true"),
                "Description": each.get("Description"),
            }
            for name, each in template.section("Parameters").items()
        ],
        "Capabilities": [needed] if needed else [],
    }


def _version(template: Template) -> str | None:
    found = template.body.get("AWSTemplateFormatVersion")
    return None if found is None else str(found)


OPERATIONS: Mapping[str, Operation] = {
    **change_sets.OPERATIONS,
    "CreateStack": operation(
        create_stack,
        f"{ASKED} ClientRequestToken DisableRollback OnFailure TimeoutInMinutes "
        "EnableTerminationProtection",
        inner=PARENT,
    ),
    "DeleteStack": operation(
        delete_stack,
        "StackName RetainResources RoleARN ClientRequestToken DeletionMode DeploymentConfig",
        inner=PARENT,
    ),
    "DescribeStackEvents": operation(describe_stack_events, "StackName"),
    "DescribeStackResource": operation(describe_stack_resource, "StackName LogicalResourceId"),
    "DescribeStackResources": operation(
        describe_stack_resources, "StackName LogicalResourceId PhysicalResourceId"
    ),
    "DescribeStacks": operation(describe_stacks, "StackName"),
    "GetTemplate": operation(get_template, "StackName ChangeSetName TemplateStage"),
    "GetTemplateSummary": operation(
        get_template_summary, f"{TEMPLATE} StackName TemplateSummaryConfig"
    ),
    "ListExports": operation(list_exports),
    "ListImports": operation(list_imports, "ExportName"),
    "ListStackResources": operation(list_stack_resources, "StackName"),
    "ListStacks": operation(list_stacks, "StackStatusFilter"),
    "UpdateStack": operation(
        update_stack, f"{ASKED} ClientRequestToken UsePreviousTemplate", inner=PARENT
    ),
    "UpdateTerminationProtection": operation(
        update_termination_protection, "StackName EnableTerminationProtection"
    ),
    "ValidateTemplate": operation(validate_template, TEMPLATE),
}
