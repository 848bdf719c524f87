# SPDX-License-Identifier: Apache-2.0
"""Which CloudFormation stacks are let through: those of resources that move no packets.

moto makes a stack's resources in its own memory, where a VPC would be one without packets, so a
template that names any type but these is refused as a whole. And moto reads YAML by a loader that
lets a document make any object of Python: what is not read here by a safe one does not come there,
so a template has to be in the request itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from hyperplane_nat.aws.call import Params
from hyperplane_nat.aws.errors import AwsError, unsupported

TYPES = (
    "AWS::CloudFormation::WaitConditionHandle",
    "AWS::CloudWatch::",
    "AWS::IAM::",
    "AWS::KMS::",
    "AWS::Logs::",
    "AWS::S3::",
    "AWS::SQS::",
    "AWS::SSM::",
    "AWS::SecretsManager::",
)
"""How the types begin that a template may have."""

REFUSED = frozenset(
    {
        "CreateStackInstances",
        "CreateStackSet",
        "EstimateTemplateCost",
        "UpdateStackInstances",
        "UpdateStackSet",
        "ValidateTemplate",
    }
)
"""Operations that moto has and that would read a template elsewhere or need more of it."""


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms (`!Ref`), whose meaning is no matter here."""


def _short_form(loader: yaml.SafeLoader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


_Loader.add_multi_constructor("!", _short_form)


def check(params: Params) -> None:
    """ValidationError, UnsupportedOperation for a request that brings another template."""
    if params.get("TemplateURL"):
        raise unsupported("Templates are sent in the request (TemplateBody).")
    body = params.get("TemplateBody")
    if body is None:
        return
    try:
        template = yaml.load(body, Loader=_Loader)
        types = list(_types(template))
    except (yaml.YAMLError, AttributeError, RecursionError, TypeError, ValueError):
        raise AwsError("ValidationError", "Template format error: unsupported structure.") from None
    for each in types:
        if not str(each).startswith(TYPES):
            raise unsupported(f"Resources of type {each} are not made by stacks.")


def _types(template: Any) -> Iterator[object]:
    if not isinstance(template, dict):
        raise TypeError
    for resource in template.get("Resources", {}).values():
        yield resource.get("Type")
    if "Transform" in template:
        yield f"Transform {template['Transform']}"
