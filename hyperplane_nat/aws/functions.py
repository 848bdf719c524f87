# SPDX-License-Identifier: Apache-2.0
"""Lambda functions: made and changed in the region, invoked by the lab's own endpoint.

What Lambda only keeps (role, description, tags) is in the notes, by the function's ARN. A function
without a handler, of a lab file, is listed like others and has none.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from hyperplane_nat.aws.call import (
    GROUP,
    SUBNET,
    Call,
    Kind,
    Operation,
    Params,
    Row,
    operation,
)
from hyperplane_nat.aws.errors import AwsError, unsupported
from hyperplane_nat.runtime.code import PATH, CodeError, refuse_missing

FUNCTIONS, VERSIONS = "/v1/functions", "/v1/function-versions"
LATEST = "$LATEST"

_NAME = re.compile(
    r"(?:arn:aws[a-z-]*:lambda:(?P<region>[a-z0-9-]+):)?(?:(?P<account>[0-9]{12}):)?(?:function:)?"
    r"(?P<name>[A-Za-z0-9_-]{1,64})(?::(?P<qualifier>\$LATEST|[A-Za-z0-9_-]{1,128}))?"
)

HEADERS = ("X-Amz-Invocation-Type", "X-Amz-Log-Type", "X-Amz-Client-Context")
"""Of an invocation, that Invoke looks at."""

PAGE_MAX = 50


def create_function(call: Call, params: Params) -> Row:
    """CreateFunction: ResourceConflictException, InvalidParameterValueException."""
    name, _ = _name(call, params)
    _check_forms(params)
    for field in ("Role", "Handler", "Runtime"):
        if not params.get(field):
            raise AwsError("InvalidParameterValueException", f"{field} is required.")
    there = any(row["FunctionName"] == name for row in call.rows(FUNCTIONS))
    if there and not call.repeated:
        raise AwsError("ResourceConflictException", f"Function already exist: {name}")
    _check_runtime(params["Runtime"], params)
    code = _code(call, params.get("Code") or {})
    body: Row = {
        "name": name,
        "account": call.owner(),
        "zip_file": code,
        **_configuration(call, params),
    }
    if params.get("Publish"):
        body["publish"] = True
    made = call.post(FUNCTIONS, body)
    _note(call, name, params)
    if params.get("Tags"):
        call.notes.tag([_arn(call, name)], params["Tags"])
    return _function(call, made)


def update_function_configuration(call: Call, params: Params) -> Row:
    """UpdateFunctionConfiguration: ResourceNotFoundException, ResourceConflictException."""
    found = _find(call, params)
    _check_forms(params)
    if runtime := params.get("Runtime"):
        _check_runtime(runtime, params)
    body = _configuration(call, params)
    changed = call.patch(FUNCTIONS, found["FunctionName"], body) if body else found
    _note(call, found["FunctionName"], params)
    return _function(call, changed)


def update_function_code(call: Call, params: Params) -> Row:
    """UpdateFunctionCode: ResourceNotFoundException, ResourceConflictException."""
    found = _find(call, params)
    name = found["FunctionName"]
    body = {"zip_file": _code(call, params)}
    changed = call.put(f"{FUNCTIONS}/{quote(name)}/code", body)
    _note(call, name, {})
    return _published(call, changed) if params.get("Publish") else _function(call, changed)


def delete_function(call: Call, params: Params) -> Row:
    """DeleteFunction, of a version too: ResourceNotFoundException, ResourceConflictException."""
    name, qualifier = _name(call, params)
    found = _find(call, params)
    if qualifier:
        call.delete(FUNCTIONS, f"{name}:{found['Version']}")
    else:
        call.delete(FUNCTIONS, name)
        call.notes.forget(_arn(call, name))
    return {"StatusCode": 204}


def get_function(call: Call, params: Params) -> Row:
    """GetFunction: ResourceNotFoundException. Without a place to load the code from."""
    found = _find(call, params)
    tags = call.notes.tags(_arn(call, found["FunctionName"]))
    answer: Row = {
        "Configuration": _function(call, found),
        "Code": {"RepositoryType": "S3"},
        "Tags": tags or None,
    }
    if (reserved := found["ReservedConcurrentExecutions"]) is not None:
        answer["Concurrency"] = {"ReservedConcurrentExecutions": reserved}
    return answer


def get_function_configuration(call: Call, params: Params) -> Row:
    """GetFunctionConfiguration: ResourceNotFoundException."""
    return _function(call, _find(call, params))


def list_functions(call: Call, params: Params) -> Row:
    """ListFunctions, and with `FunctionVersion` ALL their versions."""
    rows = own(call, FUNCTIONS)
    if params.get("FunctionVersion") == "ALL":
        rows = [*rows, *own(call, VERSIONS)]
    return _page(params, "Functions", [_function(call, row) for row in rows])


def list_versions_by_function(call: Call, params: Params) -> Row:
    """ListVersionsByFunction: ResourceNotFoundException."""
    found = _find(call, params)
    rows = [row for row in own(call, VERSIONS) if row["FunctionName"] == found["FunctionName"]]
    return _page(params, "Versions", [_function(call, row) for row in (found, *rows)])


def publish_version(call: Call, params: Params) -> Row:
    """PublishVersion: ResourceNotFoundException, ResourceConflictException."""
    return _published(call, _find(call, params))


def tag_resource(call: Call, params: Params) -> None:
    """TagResource of a function: ResourceNotFoundException."""
    call.notes.tag([_tagged(call, params)], params.get("Tags") or {})


def untag_resource(call: Call, params: Params) -> None:
    """UntagResource of a function: ResourceNotFoundException."""
    call.notes.untag([_tagged(call, params)], dict.fromkeys(params.get("TagKeys") or ()))


def list_tags(call: Call, params: Params) -> Row:
    """ListTags of a function: ResourceNotFoundException."""
    return {"Tags": call.notes.tags(_tagged(call, params))}


def invoke(
    call: Call, params: Params, body: bytes, headers: Mapping[str, str]
) -> tuple[int, dict[str, str], bytes]:
    """Invoke, as the lab's own endpoint answers it: status, headers and body."""
    name, qualifier = _name(call, params)
    _require(call, name)
    query = f"?{urlencode({'Qualifier': qualifier})}" if qualifier else ""
    told = {each: headers[each] for each in HEADERS if each in headers}
    path = f"/2015-03-31/functions/{quote(name)}/invocations{query}"
    return call.invoke(path, body, told)


# -- how


def _name(call: Call, params: Params) -> tuple[str, str]:
    """Name and qualifier, of a name or an ARN; of another account or region there is none."""
    said = params.get("FunctionName") or ""
    found = _NAME.fullmatch(said)
    if found is None:
        raise AwsError(
            "ValidationException",
            f"1 validation error detected: Value '{said}' at 'functionName' failed to satisfy "
            "constraint: Member must satisfy regular expression pattern",
        )
    if found["account"] not in (None, call.account) or found["region"] not in (
        None,
        call.lab.region,
    ):
        raise AwsError("ResourceNotFoundException", f"Function not found: {said}")
    qualifier = params.get("Qualifier") or found["qualifier"] or ""
    return found["name"], "" if qualifier == LATEST else qualifier


def own(call: Call, path: str) -> list[Row]:
    """Functions, or versions of them, of the account."""
    return [row for row in call.rows(path) if row["Account"] == call.account]


def _require(call: Call, name: str) -> Row:
    for row in own(call, FUNCTIONS):
        if row["FunctionName"] == name:
            return row
    raise AwsError("ResourceNotFoundException", f"Function not found: {_arn(call, name)}")


def _find(call: Call, params: Params) -> Row:
    """The function, or the version that the qualifier or an alias means."""
    name, qualifier = _name(call, params)
    found = _require(call, name)
    if not qualifier:
        return found
    aliases = {each["Name"]: each["FunctionVersion"] for each in found["Aliases"]}
    version = aliases.get(qualifier, qualifier)
    for row in (found, *own(call, VERSIONS)):
        if (row["FunctionName"], row["Version"]) == (name, version):
            return row
    raise AwsError(
        "ResourceNotFoundException", f"Function not found: {_arn(call, name)}:{qualifier}"
    )


def _check_forms(params: Params) -> None:
    """What there is one of alone. UnsupportedOperation for another."""
    if params.get("PackageType") not in (None, "Zip"):
        raise unsupported("Functions are zip packages.")
    for name, default in (
        ("EphemeralStorage", {"Size": 512}),
        ("TracingConfig", {"Mode": "PassThrough"}),
        ("SnapStart", {"ApplyOn": "None"}),
    ):
        if params.get(name) not in (None, {}, default):
            raise unsupported(f"{name} is {default}.")


def _check_runtime(runtime: str, params: Params) -> None:
    """InvalidParameterValueException for one that this host has not."""
    variables = (params.get("Environment") or {}).get("Variables") or {}
    try:
        refuse_missing(runtime, variables.get("PATH", PATH))
    except CodeError as error:
        raise AwsError("InvalidParameterValueException", str(error)) from None


def _code(call: Call, code: Params) -> str:
    """The archive, in base64: what the request brings, or an object of the endpoint's own S3."""
    if code.get("ZipFile"):
        return base64.b64encode(code["ZipFile"]).decode()
    bucket, key = code.get("S3Bucket"), code.get("S3Key")
    if not bucket or not key:
        raise AwsError(
            "InvalidParameterValueException", "Please provide a source for function code."
        )
    from moto.core.exceptions import ServiceException
    from moto.s3.models import s3_backends

    try:
        found = s3_backends[call.account]["aws"].get_object(bucket, key)
    except ServiceException as error:
        found, said = None, f"S3 Error Code: {error.code}. S3 Error Message: {error.message}"
    else:
        said = "S3 Error Code: NoSuchKey. S3 Error Message: The specified key does not exist."
    if found is None:
        raise AwsError("InvalidParameterValueException", f"Error occurred while GetObject. {said}")
    return base64.b64encode(found.value).decode()


def _configuration(call: Call, params: Params) -> Row:
    """What the control API is told of a configuration; what is left out stays."""
    body: Row = {
        field: params[name]
        for name, field in (
            ("Handler", "handler"),
            ("Runtime", "runtime"),
            ("Timeout", "timeout_seconds"),
            ("MemorySize", "memory_mb"),
        )
        if params.get(name) is not None
    }
    if params.get("Environment") is not None:
        body["environment"] = dict(params["Environment"].get("Variables") or {})
    if (network := params.get("VpcConfig")) is not None:
        subnets, groups = network.get("SubnetIds") or [], network.get("SecurityGroupIds") or []
        if bool(subnets) != bool(groups):
            raise AwsError(
                "InvalidParameterValueException",
                "SubnetIds and SecurityIds must coexist or be both empty list.",
            )
        _check_there(call, "DescribeSubnets", SUBNET, subnets)
        _check_there(call, "DescribeSecurityGroups", GROUP, groups)
        body |= {"subnets": list(subnets), "security_groups": list(groups)}
    return body


def _check_there(call: Call, asked: str, kind: Kind, wanted: list[str]) -> None:
    known = {row[kind.key] for row in call.own(kind)}
    for each in wanted:
        if each not in known:
            raise AwsError(
                "InvalidParameterValueException",
                f"Error occurred while {asked}. EC2 Error Code: {kind.code}. "
                f"EC2 Error Message: {kind.text.format(each)}",
            )


def _note(call: Call, name: str, params: Params) -> None:
    values = {field: params[field] for field in ("Role", "Description") if field in params}
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000"
    call.notes.put(_arn(call, name), {**values, "LastModified": stamp})


def _published(call: Call, row: Row) -> Row:
    name = row["FunctionName"]
    return _function(call, call.post(f"{FUNCTIONS}/{quote(name)}/versions", {}))


def _tagged(call: Call, params: Params) -> str:
    name, qualifier = _name(call, {"FunctionName": params.get("Resource")})
    if qualifier:
        raise AwsError("InvalidParameterValueException", "Tags are those of a function.")
    _require(call, name)
    return _arn(call, name)


def arn_of(call: Call, params: Params) -> str:
    """The ARN of what is named, with its qualifier if there is one. ResourceNotFoundException."""
    name, qualifier = _name(call, params)
    _find(call, params)
    return f"{_arn(call, name)}:{qualifier}" if qualifier else _arn(call, name)


def own_arn(arn: str) -> str:
    """The ARN of the function that a qualified one is of."""
    return ":".join(arn.split(":")[:7])


def _arn(call: Call, name: str) -> str:
    return call.arn("lambda", f"function:{name}")


def _page(params: Params, key: str, items: list[Row]) -> Row:
    marker = params.get("Marker") or "0"
    if not (marker.isascii() and marker.isdigit() and len(marker) <= 9):
        raise AwsError("InvalidParameterValueException", f"Invalid Marker: {marker}")
    last = int(marker) + min(int(params.get("MaxItems") or PAGE_MAX), PAGE_MAX)
    following = str(last) if last < len(items) else None
    return {key: items[int(marker) : last], "NextMarker": following}


def _function(call: Call, row: Row) -> Row:
    """FunctionConfiguration."""
    name, version = row["FunctionName"], row["Version"]
    arn = _arn(call, name)
    note = call.note(arn)
    network: Any = row["VpcConfig"]
    found: Row = {
        "FunctionName": name,
        "FunctionArn": arn if version == LATEST else f"{arn}:{version}",
        "Role": note.get("Role", f"arn:aws:iam::{call.account}:role/lambda"),
        "Description": note.get("Description", ""),
        "LastModified": note.get("LastModified", "1970-01-01T00:00:00.000+0000"),
        "MemorySize": row["MemorySize"],
        "Version": version,
        "PackageType": "Zip",
        "Architectures": ["x86_64"],
        "TracingConfig": {"Mode": "PassThrough"},
        "State": row["State"],
        "LastUpdateStatus": row["LastUpdateStatus"],
        "VpcConfig": {
            "SubnetIds": network["SubnetIds"],
            "SecurityGroupIds": network["SecurityGroupIds"],
            "VpcId": network["VpcId"],
            "Ipv6AllowedForDualStack": False,
        }
        if network
        else None,
        "Environment": row["Environment"] if row["Environment"]["Variables"] else None,
    }
    for field in ("StateReason", "StateReasonCode"):
        found[field] = row[field] or None
        found[f"LastUpdateStatus{field[5:]}"] = row[f"LastUpdateStatus{field[5:]}"] or None
    if (code := row["Code"]) is not None:
        found |= {
            "CodeSha256": code["CodeSha256"],
            "CodeSize": _size(code["Path"]),
            "EphemeralStorage": {"Size": code["EphemeralStorage"]},
            "Handler": code["Handler"],
            "Runtime": code["Runtime"],
            "Timeout": code["Timeout"],
        }
    return found


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def of_lambda(work: Any, takes: str = "") -> Operation:
    """One that takes the parameters named, beside those that all of Lambda's may have."""
    found = operation(work, takes)
    return Operation(found.work, found.takes | {"Marker", "MaxItems", "FunctionName", "Qualifier"})


_CONFIGURATION = (
    "Role Handler Description Timeout MemorySize VpcConfig Environment Runtime EphemeralStorage "
    "TracingConfig SnapStart"
)

OPERATIONS: Mapping[str, Operation] = {
    "CreateFunction": of_lambda(
        create_function, f"{_CONFIGURATION} Code Publish PackageType Tags Architectures"
    ),
    "DeleteFunction": of_lambda(delete_function),
    "GetFunction": of_lambda(get_function),
    "GetFunctionConfiguration": of_lambda(get_function_configuration),
    "ListFunctions": of_lambda(list_functions, "FunctionVersion"),
    "ListTags": of_lambda(list_tags, "Resource"),
    "ListVersionsByFunction": of_lambda(list_versions_by_function),
    "PublishVersion": of_lambda(publish_version),
    "TagResource": of_lambda(tag_resource, "Resource Tags"),
    "UntagResource": of_lambda(untag_resource, "Resource TagKeys"),
    "UpdateFunctionCode": of_lambda(
        update_function_code, "ZipFile S3Bucket S3Key Publish Architectures"
    ),
    "UpdateFunctionConfiguration": of_lambda(update_function_configuration, _CONFIGURATION),
}
