# SPDX-License-Identifier: Apache-2.0
"""What the endpoint refuses, under the codes and in the words of AWS.

The region refuses under AWS's codes already, in words that also tell what to do here. Clients of
AWS are told AWS's: `TEXTS` has them where the region's are others.

Codes: "Error codes for the Amazon EC2 API"
(https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html), and "Errors" of each
operation of the Lambda API. Texts are not documented; those here are what AWS was seen to answer,
tests/aws/errors.toml says where.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from moto.core.exceptions import ServiceException

from hyperplane_nat.client import ApiError, ClientError, NotRunningError

_DEPENDENT = "has dependencies and cannot be deleted."

_NO_RULE = "The specified rule does not exist in this security group."

TEXTS: Mapping[str, Mapping[str, str]] = {
    "AllocateAddress": {
        "AddressLimitExceeded": "The maximum number of addresses has been reached.",
    },
    "AssociateRouteTable": {
        "Resource.AlreadyAssociated": "the specified association for route table {RouteTableId} "
        "conflicts with an existing association",
    },
    "CreateSecurityGroup": {
        "InvalidGroup.Duplicate": "The security group '{GroupName}' already exists for VPC "
        "'{VpcId}'",
    },
    "CreateSubnet": {
        "InvalidSubnet.Conflict": "The CIDR '{CidrBlock}' conflicts with another subnet",
        "InvalidSubnet.Range": "The CIDR '{CidrBlock}' is invalid.",
    },
    "DeleteInternetGateway": {
        "DependencyViolation": f"The internetGateway '{{InternetGatewayId}}' {_DEPENDENT}",
    },
    "DeleteRouteTable": {
        "DependencyViolation": f"The routeTable '{{RouteTableId}}' {_DEPENDENT}",
    },
    "CreateListener": {
        "DuplicateListener": "A listener already exists on this port for this load balancer "
        "'{LoadBalancerArn}'",
    },
    "DeleteTargetGroup": {
        "ResourceInUse": "Target group '{TargetGroupArn}' is currently in use by a listener or a "
        "rule",
    },
    "DeleteSecurityGroup": {
        "DependencyViolation": "resource {GroupId} has a dependent object",
    },
    "DeleteSubnet": {"DependencyViolation": f"The subnet '{{SubnetId}}' {_DEPENDENT}"},
    "DeleteVpcEndpointServiceConfigurations": {
        "ExistingVpcEndpointConnections": "Service {ResourceId} has existing active VPC Endpoint "
        "connections!",
    },
    "DeleteVpc": {"DependencyViolation": f"The vpc '{{VpcId}}' {_DEPENDENT}"},
    "RevokeSecurityGroupEgress": {"InvalidPermission.NotFound": _NO_RULE},
    "RevokeSecurityGroupIngress": {"InvalidPermission.NotFound": _NO_RULE},
}
"""By operation and code, with the parameters of the request in braces."""

CODES: Mapping[str, Mapping[str, str]] = {
    "ec2": {
        "InvalidParameterValueException": "InvalidParameterValue",
        "InvalidRequestContentException": "InvalidParameterValue",
    },
    "elbv2": {
        "InvalidParameterValueException": "ValidationError",
        "InvalidRequestContentException": "ValidationError",
    },
}
"""What the control API calls by Lambda's names, whatever a request is about; by service."""


ABSENT: Mapping[str, str] = {"elbv2": "ServiceUnavailable", "lambda": "ServiceException"}
"""What services say when they are not there, where it is not EC2's `Unavailable` ("CommonErrors" of
each API)."""


class AwsError(ServiceException):
    """A refusal with AWS's code and text; `status` where it is another than the code's own."""

    def __init__(self, code: str, message: str, status: int | None = None) -> None:
        super().__init__(code, message)
        self.status = status


def unsupported(message: str) -> AwsError:
    """What would have to move packets and is not emulated."""
    return AwsError("UnsupportedOperation", message)


def missing(parameter: str) -> AwsError:
    """A parameter that there must be."""
    name = parameter[0].lower() + parameter[1:]
    return AwsError("MissingParameter", f"The request must contain the parameter {name}")


def of_region(
    error: ClientError, service: str, operation: str, params: Mapping[str, Any]
) -> AwsError:
    """What the control API has refused, or why it did not answer, in AWS's words."""
    if not isinstance(error, ApiError) or not error.code[:1].isupper():
        if isinstance(error, NotRunningError):
            # Its own text looks at all that stands of the lab, which is changing just then.
            code = ABSENT.get(service, "Unavailable")
            return AwsError(code, f"no controller of lab {error.lab!r} answers", 503)
        code = "ServiceException" if service == "lambda" else "InternalError"
        return AwsError(code, str(error), 500)
    code = CODES.get(service, {}).get(error.code, error.code)
    known = TEXTS.get(operation, {}).get(code)
    if known is not None:
        return AwsError(code, known.format_map(defaultdict(str, params)))
    return AwsError(code, without_remedy(error.message))


def unsuccessful(
    wanted: Iterable[str], work: Callable[[str], None], service: str, operation: str
) -> dict[str, Any]:
    """Do something with each; the answer has those that it was refused for (`UnsuccessfulItem`)."""
    refused = []
    for key in wanted:
        try:
            work(key)
        except ApiError as error:
            said = of_region(error, service, operation, {"ResourceId": key})
        except AwsError as error:
            said = error
        else:
            continue
        refused.append({"ResourceId": key, "Error": {"Code": said.code, "Message": said.message}})
    return {"Unsuccessful": refused}


def without_remedy(text: str) -> str:
    """A text of the control API without the parentheses at its end, which tell what to do."""
    if not text.endswith(")"):
        return text
    depth = 0
    for place in range(len(text) - 1, 0, -1):
        depth += {")": 1, "(": -1}.get(text[place], 0)
        if depth == 0:
            return text[:place].rstrip()
    return text
