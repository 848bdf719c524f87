# SPDX-License-Identifier: Apache-2.0
"""Custom resources: made, changed and deleted by a function of the lab.

Theory of operation
-------------------
The function that `ServiceToken` names is invoked with a request, as Lambda invokes for an event,
and answers by PUT to the request's ResponseURL (`responses`): whatever it is, with the ways out
that the function has. One that fails, or does not answer in time, is deleted like one that was
made: so it is on AWS. A change whose answer has another physical id has made another resource, and
the former one is deleted at the end.

"Custom resources", "Custom resource request objects" and "Custom resource response objects", AWS
CloudFormation User Guide; what events say of failures is what AWS was seen to say.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from hyperplane_nat.aws import functions
from hyperplane_nat.aws.call import Call, Row, text_of
from hyperplane_nat.aws.errors import AwsError
from hyperplane_nat.aws.responses import expected
from hyperplane_nat.aws.stack_making import (
    LOGICAL_ID,
    STACK_ID,
    Making,
    ResourceError,
    Type,
    required,
)

CUSTOM, PREFIX = "AWS::CloudFormation::CustomResource", "Custom::"

TOKEN, TIMEOUT = "ServiceToken", "ServiceTimeout"

TIMEOUT_SECONDS = 3600
"""How long an answer is waited for at most, in AWS's time."""

ID_MAX = 1024
"""Characters of a physical id ("Custom resource response objects")."""

_TIMED_OUT = (
    "CloudFormation did not receive a response from your Custom Resource. Please check your logs "
    "for requestId [{}]. If you are using the Python cfn-response module, you may need to update "
    "your Lambda function code so that CloudFormation can attach the updated version."
)


def custom(kind: str) -> Type | None:
    """A type of these; None for one that is none."""
    if kind != CUSTOM and not kind.startswith(PREFIX):
        return None

    def create(making: Making, properties: Row) -> str:
        # Until the answer says otherwise.
        return _asked(making, kind, "Create", making.name, _texts(properties))

    def update(making: Making, key: str, before: Row, after: Row) -> str:
        if before.get(TOKEN) != after.get(TOKEN):
            if making.back:
                # Nobody was asked.
                return key
            raise ResourceError("Modifying service token is not allowed.")
        old, new = _texts(before), _texts(after)
        return _asked(making, kind, "Update", key, new, OldResourceProperties=old)

    def delete(making: Making, key: str, properties: Row) -> bool:
        _asked(making, kind, "Delete", key, _texts(properties))
        making.check()
        return True

    return Type(create, delete, _attribute, None, update, another=True)


def _asked(making: Making, kind: str, what: str, key: str, properties: Row, **more: Any) -> str:
    """The function has done what it is asked: the physical id."""
    call, token = making.call, str(required(properties, TOKEN))
    seconds = _timeout(properties)
    whole = {
        "StackId": making.tags[STACK_ID],
        # The same one, if an endpoint that was killed has asked before.
        "RequestId": call.token or str(uuid.uuid4()),
        "LogicalResourceId": making.tags[LOGICAL_ID],
    }
    request = {
        "RequestType": what,
        **whole,
        **({} if what == "Create" else {"PhysicalResourceId": key}),
        "ResourceType": kind,
        TOKEN: token,
        "ResourceProperties": properties,
        **more,
    }
    with expected(call) as response:
        _invoke(call, token, {**request, "ResponseURL": response.url})
        answers: list[Row] = []

        def answered() -> bool:
            if (found := response.read()) is not None:
                answers.append(found)
            return bool(answers)

        try:
            making.wait(answered, seconds)
        except ResourceError as error:
            making.failures.append(error.message)
            return key
        except AwsError:
            making.failures.append(_TIMED_OUT.format(whole["RequestId"]))
            return key
    said = answers[0].get("PhysicalResourceId")
    if (wrong := _wrong(answers[0], whole)) is not None:
        making.failures.append(wrong)
        # Of what has failed there may be something to delete, by the name that it says.
        return said if what == "Create" and isinstance(said, str) and said else key
    making.data.update(answers[0].get("Data") or {})
    return str(said)


def _wrong(answer: Row, whole: Row) -> str | None:
    """Why what was asked is not done; None where it is."""
    for name in ("Status", *whole):
        if name not in answer:
            return f"Vendor response doesn't contain {name} key in object"
    for name, value in whole.items():
        if answer[name] != value:
            return f"Invalid response: {name} is not that of the request"
    if answer["Status"] == "FAILED":
        return (
            "Received response status [FAILED] from custom resource. Message returned: "
            f"{answer.get('Reason')} (RequestId: {whole['RequestId']})"
        )
    if answer["Status"] != "SUCCESS":
        return "Invalid response: Status is neither SUCCESS nor FAILED"
    said = answer.get("PhysicalResourceId")
    if not isinstance(said, str) or not 0 < len(said) <= ID_MAX:
        return "Invalid PhysicalResourceId"
    if not isinstance(answer.get("Data") or {}, dict):
        return "Invalid response: Data is no object"
    return None


def _invoke(call: Call, token: str, request: Row) -> None:
    """Have the function invoked, as an event. AwsError, ResourceError."""
    if not token.startswith("arn:") or ":lambda:" not in token:
        raise ResourceError(f"{TOKEN} is not the ARN of a function of the lab: {token}")
    headers = {"X-Amz-Invocation-Type": "Event"}
    body = json.dumps(request).encode()
    try:
        named = {"FunctionName": token}
        status, _, said = call.patiently(lambda: functions.invoke(call, named, body, headers))
    except AwsError as error:
        # One that is not there is not what it would have deleted.
        raise ResourceError(f"Invocation of {token} failed: {error.message}") from None
    if status != 202:
        raise ResourceError(f"Invocation of {token} failed: {said.decode(errors='replace')}")


def _timeout(properties: Row) -> float:
    """Seconds of AWS's. ResourceError."""
    said = str(properties.get(TIMEOUT, TIMEOUT_SECONDS))
    if not said.isascii() or not said.isdigit() or not 1 <= int(said[:5]) <= TIMEOUT_SECONDS:
        raise ResourceError(f"{TIMEOUT} is from 1 to {TIMEOUT_SECONDS} seconds: {said}")
    return float(said)


def _texts(value: Any) -> Any:
    """Properties as functions are told them: numbers and truths are text."""
    if isinstance(value, dict):
        return {name: _texts(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_texts(each) for each in value]
    return text_of(value)


def _attribute(_call: Call, _key: str, _properties: Row, name: str) -> Any:
    raise KeyError(name)
