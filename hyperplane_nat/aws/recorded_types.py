# SPDX-License-Identifier: Apache-2.0
"""The types of CloudFormation's resources that move no packets: moto's models, in its memory.

A stack keeps what its resources were made of, so whoever comes after an endpoint has them made
again by the same names (`revive`).
"""

from __future__ import annotations

import importlib
import json
import warnings
from functools import cache
from typing import Any

from moto.core.common_models import CloudFormationModel
from moto.core.exceptions import ServiceException
from werkzeug.exceptions import HTTPException

from hyperplane_nat.aws.call import Call, Row
from hyperplane_nat.aws.errors import AwsError
from hyperplane_nat.aws.stack_making import Making, Type, tags_of

MODULES = {
    "AWS::CloudWatch::": "cloudwatch",
    "AWS::ECR::": "ecr",
    "AWS::IAM::": "iam",
    "AWS::KMS::": "kms",
    "AWS::Logs::": "logs",
    "AWS::S3::": "s3",
    "AWS::SQS::": "sqs",
    "AWS::SSM::": "ssm",
}
"""Modules of moto by how the types begin whose models they have."""

NOTHING = (
    "AWS::CDK::Metadata",
    "AWS::CloudFormation::WaitConditionHandle",
)
"""Types that make nothing."""

BUCKET_POLICY = "AWS::S3::BucketPolicy"
"""A type that moto has no model of."""

_live: dict[tuple[str, str, str], Any] = {}
"""moto's objects by account, type and physical id, as its own memory has them."""


def recorded(kind: str) -> Type | None:
    """A type of these; None for one that is none."""
    if kind in NOTHING:
        return Type(lambda making, _properties: making.name, lambda *_: True, _no_attribute)
    if kind == BUCKET_POLICY:
        return Type(_put_policy, _delete_policy, _no_attribute, None, _replace_policy)
    model = _model(kind)
    return None if model is None else _type(kind, model)


def revive(call: Call, kind: str, key: str, properties: Row) -> None:
    """What another endpoint has made is made again, if it is not there."""
    if kind == BUCKET_POLICY:
        _policy(call, key, properties)
    model = _model(kind)
    if model is not None and (call.account, kind, key) not in _live:
        # A queue is known by its address.
        name = key.rpartition("/")[2] if key.startswith("http") else key
        _create(call, kind, model, name, properties)


@cache
def _model(kind: str) -> Any:
    for prefix, module in MODULES.items():
        if kind.startswith(prefix):
            importlib.import_module(f"moto.{module}.models")
            for each in CloudFormationModel.__subclasses__():
                if each.cloudformation_type() == kind:
                    return each
    return None


def _create(call: Call, kind: str, model: Any, name: str, properties: Row) -> str:
    named = model.cloudformation_name_type() or ""
    said = properties.get(named, name)
    made = _done(
        model.create_from_cloudformation_json,
        said,
        # Some of its models look for their names there alone.
        {"Type": kind, "Properties": {**({named: said} if named else {}), **properties}},
        call.account,
        call.lab.region,
        LogicalId=name,
        StackId=name,
        ResourceType=kind,
    )
    key = str(made.physical_resource_id)
    _live[call.account, kind, key] = made
    return key


def _done(work: Any, *arguments: Any, **named: Any) -> Any:
    """What moto answers: its models raise whatever comes of properties that are none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return work(*arguments, **named)
    except AwsError:
        raise
    except ServiceException as error:
        raise AwsError(error.code, error.message) from None
    except HTTPException as error:
        # Services of moto that are not yet of the other kind.
        said = getattr(error, "message", error.description)
        raise AwsError(str(getattr(error, "error_type", error.name)), str(said)) from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise AwsError("InvalidRequest", f"The properties are not understood: {error!r}") from error


def _type(kind: str, model: Any) -> Type:
    def create(making: Making, properties: Row) -> str:
        said = {**properties, "Tags": _tags(making)} if tags_of(properties) else properties
        # Names of buckets are parts of the names of hosts.
        name = making.name[-63:].lower() if kind == "AWS::S3::Bucket" else making.name
        return _create(making.call, kind, model, name, said)

    def delete(making: Making, key: str, properties: Row) -> bool:
        try:
            remove(making, key, properties)
        except AwsError as error:
            if not error.code.startswith("NoSuch"):
                raise
        return True

    def remove(making: Making, key: str, properties: Row) -> None:
        call = making.call
        known = _live.pop((call.account, kind, key), None)
        if _has(model, "delete_from_cloudformation_json"):
            document = {"Type": kind, "Properties": dict(properties)}
            _done(
                model.delete_from_cloudformation_json,
                key,
                document,
                call.account,
                call.lab.region,
            )
        elif hasattr(known, "delete"):
            _done(known.delete, call.account, call.lab.region)

    def update(making: Making, key: str, before: Row, after: Row) -> str:
        call = making.call
        known = _live.get((call.account, kind, key))
        if known is None or not _has(model, "update_from_cloudformation_json"):
            delete(making, key, before)
            return create(making, after)
        made = _done(
            model.update_from_cloudformation_json,
            original_resource=known,
            new_resource_name=after.get(model.cloudformation_name_type() or "", key),
            cloudformation_json={"Type": kind, "Properties": dict(after)},
            account_id=call.account,
            region_name=call.lab.region,
        )
        del _live[call.account, kind, key]
        found = str(made.physical_resource_id)
        _live[call.account, kind, found] = made
        return found

    def attribute(call: Call, key: str, _properties: Row, name: str) -> Any:
        try:
            return _live[call.account, kind, key].get_cfn_attribute(name)
        except Exception as error:
            # moto's models say in several ways that they have none.
            raise KeyError(name) from error

    return Type(create, delete, attribute, None, update)


def _policy(call: Call, bucket: str, properties: Row | None) -> None:
    from moto.s3.models import s3_backends

    backend = s3_backends[call.account]["aws"]
    if properties is None:
        _done(backend.delete_bucket_policy, bucket)
    else:
        said = json.dumps(properties.get("PolicyDocument")).encode()
        _done(backend.put_bucket_policy, bucket, said)


def _put_policy(making: Making, properties: Row) -> str:
    bucket = str(properties.get("Bucket"))
    _policy(making.call, bucket, properties)
    return bucket


def _replace_policy(making: Making, key: str, before: Row, after: Row) -> str:
    _delete_policy(making, key, before)
    return _put_policy(making, after)


def _delete_policy(making: Making, key: str, _properties: Row) -> bool:
    _policy(making.call, key, None)
    return True


def _tags(making: Making) -> list[Row]:
    return [{"Key": name, "Value": value} for name, value in making.tags.items()]


def _has(model: Any, name: str) -> bool:
    return not hasattr(getattr(model, name), "__isabstractmethod__")


def _no_attribute(_call: Call, _key: str, _properties: Row, name: str) -> Any:
    raise KeyError(name)
