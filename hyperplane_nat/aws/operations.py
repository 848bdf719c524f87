# SPDX-License-Identifier: Apache-2.0
"""What becomes of each operation of AWS's APIs: the table by which requests are dispatched.

An operation is **real** when it is done in the region, **recorded** when it moves no packets and
moto answers it from memory, and **refused** otherwise: nothing is invented that would have to move
packets. docs/aws-api.md is made of this table.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from enum import StrEnum
from functools import cache

from moto.core.utils import camelcase_to_underscores, get_service_model, method_names_from_class

from hyperplane_nat.aws import (
    absent,
    addresses,
    catalogue,
    elb,
    endpoint_services,
    flow_logs,
    function_policies,
    functions,
    gateway_endpoints,
    instance_attributes,
    instances,
    interfaces,
    key_pairs,
    load_balancers,
    metrics,
    network_acls,
    routes,
    security_groups,
    stacks,
    tags,
    target_groups,
    vpc_endpoints,
    vpcs,
)
from hyperplane_nat.aws.call import Call, Operation, Params, Row, operation

INVOKE = "Invoke"
"""Done in the region, too; what it is sent and answers is not looked at."""


class Treatment(StrEnum):
    """What becomes of an operation."""

    REAL = "real"
    RECORDED = "recorded"
    REFUSED = "refused"


def get_caller_identity(call: Call, _params: Params) -> Row:
    """GetCallerIdentity: everybody is the root user of an account."""
    return {
        "Account": call.account,
        "Arn": f"arn:aws:iam::{call.account}:root",
        "UserId": call.account,
    }


REAL: Mapping[str, Mapping[str, Operation]] = {
    "cloudformation": stacks.OPERATIONS,
    "ec2": {
        **vpcs.OPERATIONS,
        **network_acls.OPERATIONS,
        **security_groups.OPERATIONS,
        **routes.OPERATIONS,
        **addresses.OPERATIONS,
        **interfaces.OPERATIONS,
        **instances.OPERATIONS,
        **instance_attributes.OPERATIONS,
        **key_pairs.OPERATIONS,
        **catalogue.OPERATIONS,
        **absent.OPERATIONS,
        **flow_logs.OPERATIONS,
        **endpoint_services.OPERATIONS,
        **vpc_endpoints.OPERATIONS,
        **gateway_endpoints.OPERATIONS,
        **tags.OPERATIONS,
    },
    "cloudwatch": metrics.OPERATIONS,
    "elbv2": {
        **load_balancers.OPERATIONS,
        **target_groups.OPERATIONS,
        **elb.OPERATIONS,
    },
    "lambda": {**functions.OPERATIONS, **function_policies.OPERATIONS},
    "sts": {"GetCallerIdentity": operation(get_caller_identity)},
}
"""By the service's name in botocore and the operation."""

NOTED: Mapping[str, frozenset[str]] = {
    "ec2": frozenset({*absent.OPERATIONS, *key_pairs.OPERATIONS, *catalogue.OPERATIONS}),
    "lambda": frozenset(function_policies.OPERATIONS),
}
"""Of these, those that move nothing: they are kept beside the region, or read from a table."""

RECORDED_SERVICES: Mapping[str, tuple[str, str]] = {
    "cloudwatch": ("moto.cloudwatch.responses", "CloudWatchResponse"),
    "iam": ("moto.iam.responses", "IamResponse"),
    "kms": ("moto.kms.responses", "KmsResponse"),
    "logs": ("moto.logs.responses", "LogsResponse"),
    "s3": ("moto.s3.responses", "S3Response"),
    "secretsmanager": ("moto.secretsmanager.responses", "SecretsManagerResponse"),
    "sqs": ("moto.sqs.responses", "SQSResponse"),
    "ssm": ("moto.ssm.responses", "SimpleSystemManagerResponse"),
    "sts": ("moto.sts.responses", "TokenResponse"),
}
"""Services that move no packets, with the class of moto that answers each. (SNS does: it calls
whoever has subscribed.)"""

SIGNING_NAMES: Mapping[str, str] = {"elasticloadbalancing": "elbv2", "monitoring": "cloudwatch"}
"""Botocore's names of services that are signed under another one."""


def treatment(service: str, name: str) -> Treatment:
    """What becomes of an operation of a service, both by botocore's names."""
    if name in NOTED.get(service, ()):
        return Treatment.RECORDED
    if name in REAL.get(service, {}) or (service, name) == ("lambda", INVOKE):
        return Treatment.REAL
    # What moto lacks of a service it does not answer: of S3 it has a class of its own form.
    if service in RECORDED_SERVICES and (service == "s3" or name in _recorded(service)):
        return Treatment.RECORDED
    return Treatment.REFUSED


@cache
def _recorded(service: str) -> frozenset[str]:
    module, name = RECORDED_SERVICES[service]
    methods = set(method_names_from_class(getattr(importlib.import_module(module), name)))
    known = get_service_model(service).operation_names
    return frozenset(each for each in known if camelcase_to_underscores(each) in methods)
