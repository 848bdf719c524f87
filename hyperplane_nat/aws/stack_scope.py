# SPDX-License-Identifier: Apache-2.0
"""What the functions of a stack's template refer to: its resources, exports, parameters of SSM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyperplane_nat.aws import templates
from hyperplane_nat.aws.call import Call, Row, text_of
from hyperplane_nat.aws.errors import unsupported
from hyperplane_nat.aws.recorded_types import recorded
from hyperplane_nat.aws.stack_custom import custom
from hyperplane_nat.aws.stack_making import Type
from hyperplane_nat.aws.stack_types import TYPES
from hyperplane_nat.aws.templates import Scope, Template
from hyperplane_nat.aws.vpcs import ZONES


def type_of(kind: str) -> Type:
    """How resources of a type are made. UnsupportedOperation."""
    found = TYPES.get(kind) or custom(kind) or recorded(kind)
    if found is None:
        raise unsupported(f"Resources of type {kind} are not made by stacks.")
    return found


def exports(call: Call) -> dict[str, tuple[str, str]]:
    """The account's exports: stack and value by name."""
    return {
        each["ExportName"]: (stack["StackId"], each["OutputValue"])
        for stack in call.notes.stacks.all().values()
        if stack["Account"] == call.account and stack["StackStatus"] != "DELETE_COMPLETE"
        for each in stack["Outputs"]
        if each["ExportName"]
    }


def outputs_of(call: Call, record: Row, template: Template, scope: Scope) -> list[Row]:
    """A stack's outputs. ValidationError, also for an export that another stack has."""
    found = []
    for key, each in template.section("Outputs").items():
        if not scope.has(each):
            continue
        name = scope.resolve((each.get("Export") or {}).get("Name"))
        others = {export: stack for export, (stack, _) in exports(call).items()}
        if name and others.get(name, record["StackId"]) != record["StackId"]:
            raise templates.invalid(
                f"Export with name {name} is already exported by stack {others[name]}."
            )
        found.append(
            {
                "OutputKey": key,
                "OutputValue": text_of(scope.resolve(each.get("Value"))),
                "Description": each.get("Description"),
                "ExportName": name,
            }
        )
    return found


def parameter_store(call: Call) -> Callable[[str], str]:
    """The values of the account's parameters of SSM."""

    def stored(name: str) -> str:
        from moto.ssm.models import ssm_backends

        found = ssm_backends[call.account][call.lab.region].get_parameter(name)
        if found is None:
            raise templates.invalid(f"Unable to fetch parameters [{name}] from parameter store")
        return str(found.value)

    return stored


def scope_of(call: Call, record: Row) -> tuple[Template, Scope]:
    """A stack's template, and what its functions refer to. ValidationError."""
    template = templates.read(record["TemplateBody"])
    given = templates.parameters(template, record["Parameters"], parameter_store(call))
    region = call.lab.region
    values = {
        "AWS::AccountId": call.account,
        "AWS::NotificationARNs": record["NotificationARNs"],
        "AWS::Partition": "aws",
        "AWS::Region": region,
        "AWS::StackId": record["StackId"],
        "AWS::StackName": record["StackName"],
        "AWS::URLSuffix": "amazonaws.com",
    }

    def attribute(name: str, said: str) -> Any:
        known = record["Resources"][name]
        made = type_of(known["Type"])
        if said in known.get("Data", {}):
            return known["Data"][said]
        try:
            return made.attribute(call.fresh(), known["PhysicalId"], known["Properties"], said)
        except (KeyError, StopIteration):
            raise templates.invalid(
                f"Template error: resource {name} does not support attribute type {said} in "
                "Fn::GetAtt"
            ) from None

    def exported(name: str) -> str:
        found = exports(call)[name]
        if name not in record["Imports"]:
            record["Imports"].append(name)
        return found[1]

    return template, Scope(
        template,
        {**given, **values},
        tuple(call.zone(letter) for letter in ZONES[:3]),
        lambda name: record["Resources"][name]["PhysicalId"],
        attribute,
        exported,
    )
