# SPDX-License-Identifier: Apache-2.0
"""Who may invoke a function by its policy: noted and shown, and looked at by nobody, since
everybody is root.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hyperplane_nat.aws import functions
from hyperplane_nat.aws.call import Call, Operation, Params, Row, derived
from hyperplane_nat.aws.errors import AwsError

_NOTE = "Policy"

_SID = re.compile("[A-Za-z0-9_-]{1,100}")
_ACTION = re.compile(r"lambda:(?:[*]|[a-zA-Z]+)|[*]")
_ACCOUNT = re.compile("[0-9]{12}")


def add_permission(call: Call, params: Params) -> Row:
    """AddPermission: ResourceNotFoundException, ResourceConflictException, ValidationException."""
    arn, _ = _of(call, params)
    sid = _checked("statementId", params.get("StatementId"), _SID)
    action = _checked("action", params.get("Action"), _ACTION)
    principal = params.get("Principal")
    if not principal:
        raise _invalid("principal", principal, "Member must not be null")
    statement: Row = {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": _principal(principal),
        "Action": action,
        "Resource": arn,
    }
    conditions: Row = {}
    if source := params.get("SourceArn"):
        conditions["ArnLike"] = {"AWS:SourceArn": source}
    equal = {
        "AWS:SourceAccount": params.get("SourceAccount"),
        "aws:PrincipalOrgID": params.get("PrincipalOrgID"),
        "lambda:EventSourceToken": params.get("EventSourceToken"),
    }
    if given := {name: value for name, value in equal.items() if value}:
        conditions["StringEquals"] = given
    if conditions:
        statement["Condition"] = conditions
    with _changing(call, arn) as statements:
        if sid in statements:
            raise AwsError(
                "ResourceConflictException",
                f"The statement id ({sid}) provided already exists. Please provide a new statement "
                "id, or remove the existing statement.",
            )
        statements[sid] = statement
    return {"Statement": json.dumps(statement, separators=(",", ":"))}


def remove_permission(call: Call, params: Params) -> Row:
    """RemovePermission: ResourceNotFoundException."""
    arn, _ = _of(call, params)
    sid = params.get("StatementId")
    with _changing(call, arn) as statements:
        if sid not in statements:
            raise AwsError(
                "ResourceNotFoundException", f"Statement {sid} is not found in resource policy."
            )
        del statements[sid]
    return {"StatusCode": 204}


def get_policy(call: Call, params: Params) -> Row:
    """GetPolicy: ResourceNotFoundException."""
    _, statements = _of(call, params)
    if not statements:
        raise AwsError("ResourceNotFoundException", "The resource you requested does not exist.")
    policy = {"Version": "2012-10-17", "Id": "default", "Statement": list(statements.values())}
    text = json.dumps(policy, separators=(",", ":"))
    return {"Policy": text, "RevisionId": derived("revision", text).partition("-")[2]}


def _of(call: Call, params: Params) -> tuple[str, dict[str, Row]]:
    """The ARN that is meant, with its qualifier, and the statements about it."""
    arn = functions.arn_of(call, params)
    kept: Any = call.notes.of(functions.own_arn(arn)).get(_NOTE, {})
    return arn, dict(kept.get(arn, {}))


@contextlib.contextmanager
def _changing(call: Call, arn: str) -> Iterator[dict[str, Row]]:
    """The statements about an ARN, to be changed; several clients may do so at a time."""
    # They go with the function.
    own = functions.own_arn(arn)
    with call.notes.changing() as known:
        note = known.get(own, {})
        kept = note.get(_NOTE, {})
        statements = dict(kept.get(arn, {}))
        yield statements
        known[own] = {**note, _NOTE: {**kept, arn: statements}}


def _principal(said: str) -> Any:
    if said == "*":
        return "*"
    if _ACCOUNT.fullmatch(said):
        return {"AWS": f"arn:aws:iam::{said}:root"}
    return {"AWS": said} if said.startswith("arn:") else {"Service": said}


def _checked(name: str, value: str | None, form: re.Pattern[str]) -> str:
    if value is None or not form.fullmatch(value):
        said = f"Member must satisfy regular expression pattern: {form.pattern}"
        raise _invalid(name, value, said if value is not None else "Member must not be null")
    return value


def _invalid(name: str, value: object, constraint: str) -> AwsError:
    said = "null" if value is None else value
    return AwsError(
        "ValidationException",
        f"1 validation error detected: Value '{said}' at '{name}' failed to satisfy constraint: "
        f"{constraint}",
    )


OPERATIONS: Mapping[str, Operation] = {
    "AddPermission": functions.of_lambda(
        add_permission,
        "StatementId Action Principal SourceArn SourceAccount EventSourceToken PrincipalOrgID",
    ),
    "GetPolicy": functions.of_lambda(get_policy),
    "RemovePermission": functions.of_lambda(remove_permission, "StatementId"),
}
