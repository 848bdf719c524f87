# SPDX-License-Identifier: Apache-2.0
"""Records of stacks: found, made and changed to what requests say."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import uuid
from datetime import datetime
from urllib.parse import unquote, urlsplit

from hyperplane_nat.aws import templates
from hyperplane_nat.aws.call import Call, Params, Row
from hyperplane_nat.aws.errors import AwsError, unsupported
from hyperplane_nat.aws.stack_scope import parameter_store, scope_of, type_of
from hyperplane_nat.aws.stack_work import REVIEW, is_unfinished, now
from hyperplane_nat.aws.stack_workers import is_alive
from hyperplane_nat.aws.templates import Template, invalid

GONE = "DELETE_COMPLETE"

NAME = re.compile("[a-zA-Z][-a-zA-Z0-9]{0,127}")
"""Of stacks and of change sets."""

REQUESTS_MAX = 50
"""With tokens that a stack remembers: the oldest ones are forgotten."""

NAMED_IAM = "CAPABILITY_NAMED_IAM"

NAMES_OF_IAM = frozenset(
    {"GroupName", "InstanceProfileName", "ManagedPolicyName", "RoleName", "UserName"}
)
"""Properties by which resources of IAM have names that are not generated."""

TEMPLATE = "TemplateBody TemplateURL"
"""Parameters that say which template is meant."""

ASKED = (
    f"{TEMPLATE} StackName Parameters Tags Capabilities RoleARN NotificationARNs DeploymentConfig"
)
"""Parameters that say what a stack should be."""

TAKEN = (
    "TemplateBody",
    "Parameters",
    "Tags",
    "Description",
    "Capabilities",
    "RoleARN",
    "NotificationARNs",
)
"""What a request says a stack should be."""


def new(call: Call, params: Params) -> Row:
    """A record of a stack that there is not yet. AlreadyExistsException, ValidationError."""
    name = params.get("StackName") or ""
    if NAME.fullmatch(name) is None:
        raise invalid(
            f"1 validation error detected: Value '{name}' at 'stackName' failed to satisfy "
            "constraint: Member must satisfy regular expression pattern: [a-zA-Z][-a-zA-Z0-9]*"
        )
    if any(row["StackName"] == name for row in own(call)):
        raise AwsError("AlreadyExistsException", f"Stack [{name}] already exists")
    return {
        "StackId": call.arn("cloudformation", f"stack/{name}/{uuid.uuid4()}"),
        "StackName": name,
        "Account": call.account,
        "StackStatus": REVIEW,
        "StackStatusReason": None,
        "CreationTime": now(),
        "LastUpdatedTime": None,
        "DeletionTime": None,
        "EnableTerminationProtection": bool(params.get("EnableTerminationProtection")),
        "OnFailure": "ROLLBACK",
        **dict.fromkeys(TAKEN),
        **{name: [] for name in ("Events", "Outputs", "Imports", "Undo", "NotificationARNs")},
        **{
            name: {}
            for name in (
                *("Resources", "Leaving", "Beginning", "ChangeSets", "Parameters", "Tags"),
                "Requests",
            )
        },
        **dict.fromkeys(("Former", "Worker", "Failure", "ParentId", "RootId", "Token")),
    }


def take(call: Call, record: Row, template: Template, params: Params) -> None:
    """Make a record what a request says. ValidationError."""
    if record["TemplateBody"]:
        keep_former(record)
    record["Parameters"] = _parameters(record, template, params)
    # Whether they can be had is said now, and not by an event.
    templates.parameters(template, record["Parameters"], parameter_store(call))
    record["TemplateBody"] = template.text
    record["Description"] = template.body.get("Description")
    if params.get("Tags") is not None:
        record["Tags"] = {each["Key"]: each.get("Value", "") for each in params["Tags"]}
    for field in ("Capabilities", "NotificationARNs", "RoleARN"):
        if params.get(field) is not None:
            record[field] = params[field]


def asked(call: Call, record: Row, params: Params) -> Row:
    """A copy of a record that is what a request says. ValidationError."""
    template = template_of(call, params, record)
    changed = copy.deepcopy(record)
    take(call, changed, template, params)
    return changed


def keep_former(record: Row) -> None:
    """Note what a change that fails goes back to."""
    record["Former"] = {name: copy.deepcopy(record[name]) for name in (*TAKEN, "Outputs")}


def _parameters(record: Row, template: Template, params: Params) -> dict[str, str]:
    found = {}
    for each in params.get("Parameters") or ():
        name = each["ParameterKey"]
        if each.get("UsePreviousValue"):
            if name in record["Parameters"]:
                found[name] = record["Parameters"][name]
            elif "Default" not in template.section("Parameters").get(name, {}):
                raise invalid(
                    f"Invalid input for parameter key {name}. Cannot specify "
                    "usePreviousValue as true for a parameter key not in the previous template"
                )
        else:
            found[name] = str(each.get("ParameterValue", ""))
    return found


def template_of(call: Call, params: Params, record: Row | None = None) -> Template:
    """The template of a request: in it, in a bucket of the endpoint, or the stack's own."""
    if params.get("UsePreviousTemplate") and record and record["TemplateBody"]:
        return templates.read(record["TemplateBody"])
    if params.get("TemplateURL"):
        return templates.read(_object(call, params["TemplateURL"]))
    if not params.get("TemplateBody"):
        raise invalid("Either Template URL or Template Body must be specified.")
    return templates.read(params["TemplateBody"])


def _object(call: Call, url: str) -> str:
    """What an address of S3 means, in the bucket of the endpoint. ValidationError."""
    from moto.core.exceptions import ServiceException
    from moto.s3.models import s3_backends

    parts = urlsplit(url)
    host, path = parts.hostname or "", unquote(parts.path.lstrip("/"))
    first, _, rest = host.partition(".")
    # A bucket is in the host's name, or the first of the path.
    in_host = rest.startswith("s3") and not first.startswith("s3")
    bucket, key = (first, path) if in_host else path.partition("/")[::2]
    try:
        found = s3_backends[call.account]["aws"].get_object(bucket, key)
        if found is not None:
            return str(found.value.decode())
    except (ServiceException, UnicodeDecodeError):
        pass
    raise invalid("S3 error: The specified key does not exist.")


def check(call: Call, record: Row, params: Params) -> None:
    """Whether a stack can be made of what its record says: as far as AWS looks before it begins."""
    template = templates.read(record["TemplateBody"])
    if "Transform" in template.body:
        type_of(f"Transform {template.body['Transform']}")
    resources = template.section("Resources")
    parameters = template.section("Parameters")
    for kind in template.types:
        type_of(kind)
    for name, each in resources.items():
        for other in templates.needs(each):
            if other not in resources and other not in parameters and not other.startswith("AWS::"):
                raise invalid(
                    f"Template format error: Unresolved resource dependencies [{other}] in the "
                    "Resources block of the template"
                )
        said = each.get("Condition")
        if said is not None and said not in template.section("Conditions"):
            raise invalid(
                f"Template format error: Unresolved condition dependency {said} in the Resources "
                f"block of the template: {name}"
            )
    needed = capability(template)
    able = set(params.get("Capabilities") or ())
    if needed and not able & {needed, NAMED_IAM}:
        raise AwsError("InsufficientCapabilitiesException", f"Requires capabilities : [{needed}]")
    # Mappings, conditions and the like: what cannot be evaluated is refused as a whole.
    _, scope = scope_of(call, record)
    for each in template.section("Conditions"):
        scope.condition(each)
    templates.check_order({name: each for name, each in resources.items() if scope.has(each)})


def capability(template: Template) -> str:
    """What has to be acknowledged of a template; empty where there is nothing."""
    found = [
        each
        for each in template.section("Resources").values()
        if each["Type"].startswith("AWS::IAM::")
    ]
    if any(NAMES_OF_IAM & set(each.get("Properties") or ()) for each in found):
        return NAMED_IAM
    return "CAPABILITY_IAM" if found else ""


def same(record: Row, changed: Row) -> bool:
    """Whether a change would change nothing."""
    before, after = templates.read(record["TemplateBody"]), templates.read(changed["TemplateBody"])
    return (before.body, record["Parameters"], record["Tags"]) == (
        after.body,
        changed["Parameters"],
        changed["Tags"],
    )


def on_failure(params: Params) -> str:
    """What is done with a stack that cannot be made. UnsupportedOperation."""
    config = params.get("DeploymentConfig") or {}
    if config.get("Mode") not in (None, "STANDARD"):
        raise unsupported("Deployments have the mode STANDARD.")
    if config.get("DisableRollback"):
        return "DO_NOTHING"
    return "DO_NOTHING" if params.get("DisableRollback") else params.get("OnFailure") or "ROLLBACK"


def every(call: Call) -> list[Row]:
    """The account's stacks, the deleted ones too."""
    known = call.notes.stacks.all().values()
    return [row for row in known if row["Account"] == call.account]


def own(call: Call) -> list[Row]:
    """The account's that are not deleted."""
    return [row for row in every(call) if row["StackStatus"] != GONE]


def find(call: Call, wanted: str | None) -> Row:
    """A stack by its id, or by its name unless it is deleted. ValidationError."""
    for row in every(call):
        if wanted == row["StackId"] or (wanted == row["StackName"] and row["StackStatus"] != GONE):
            return row
    raise invalid(f"Stack with id {wanted} does not exist")


def idle(call: Call, wanted: str | None, verb: str, *, nested: bool = False) -> Row:
    """
    A stack that nothing is being done with, to be changed. ValidationError.

    `nested`: its parent asks, who may find it as an endpoint that was killed has left it.
    """
    record = copy.deepcopy(find(call, wanted))
    status = record["StackStatus"]
    fit = verb == "deleted" or status in (
        "CREATE_COMPLETE",
        "UPDATE_COMPLETE",
        "UPDATE_ROLLBACK_COMPLETE",
    )
    busy = is_unfinished(record) and not (nested and not is_alive(record["Worker"]))
    if busy or not fit:
        raise invalid(f"Stack:{record['StackId']} is in {status} state and can not be {verb}.")
    return record


def begun(call: Call, work: str, params: Params) -> Row | None:
    """
    The stack that was asked for by the same request, under its token: this is a repetition.

    TokenAlreadyExistsException for another request's (AWS CloudFormation API, ClientRequestToken).
    """
    token, wanted = params.get("ClientRequestToken"), params.get("StackName")
    for row in own(call) if token else ():
        known = row.get("Requests", {}).get(token)
        if known is not None and wanted in (row["StackName"], row["StackId"]):
            if known == _digest(work, params):
                return row
            raise AwsError("TokenAlreadyExistsException", "A client request token already exists")
    return None


def under_token(record: Row, work: str, params: Params) -> Row:
    """What a record has of the request that `work` is begun for."""
    token = params.get("ClientRequestToken")
    known = list(record.get("Requests", {}).items())[1 - REQUESTS_MAX :]
    return {
        "Token": token,
        "Requests": dict([*known, (token, _digest(work, params))] if token else known),
    }


def _digest(work: str, params: Params) -> str:
    text = json.dumps([work, params], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


# -- forms


def whose(record: Row) -> Row:
    """By which stack something is, as all that a stack has says it."""
    return {name: record[name] for name in ("StackId", "StackName")}


def time_of(text: str | None) -> datetime | None:
    """A time of a record; None without one."""
    return datetime.fromisoformat(text) if text else None


def given(row: Row) -> Row:
    """What a stack or a change set was given, as both are described."""
    hidden: set[str] = set()
    if row["TemplateBody"]:
        declared = templates.read(row["TemplateBody"]).section("Parameters")
        hidden = {name for name, each in declared.items() if each.get("NoEcho") in (True, "true")}
    return {
        "Parameters": [
            {"ParameterKey": name, "ParameterValue": "****" if name in hidden else value}
            for name, value in _effective(row).items()
        ],
        "Tags": [{"Key": name, "Value": value} for name, value in (row["Tags"] or {}).items()],
        "Capabilities": row["Capabilities"] or [],
        "NotificationARNs": row["NotificationARNs"] or [],
    }


def _effective(row: Row) -> dict[str, str]:
    if not row["TemplateBody"]:
        return {}
    declared = templates.read(row["TemplateBody"]).section("Parameters")
    return {
        name: str(row["Parameters"].get(name, each.get("Default", "")))
        for name, each in declared.items()
    }
