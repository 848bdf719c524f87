# SPDX-License-Identifier: Apache-2.0
"""CloudFormation's templates: read, their parameters given, their functions evaluated.

A template is JSON or YAML with short forms (`!Ref`), read by a loader that makes nothing but plain
values; as on AWS there are no aliases, and a date is text. Functions and pseudo parameters:
"Intrinsic function reference" and "Pseudo parameters reference" of the AWS CloudFormation User
Guide. What is not known there, or refers to nothing, is a ValidationError.
"""

from __future__ import annotations

import base64
import copy
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network
from itertools import islice
from typing import Any

import yaml

from hyperplane_nat.aws.call import Row, text_of
from hyperplane_nat.aws.errors import AwsError
from hyperplane_nat.aws.patterns import matches

BODY_BYTES_MAX = 1_000_000
"""Of a template; 51,200 of one in the request itself ("Understand CloudFormation quotas")."""

CIDRS_MAX = 256
"""Of one Fn::Cidr ("Fn::Cidr", count)."""

SERVERLESS = "AWS::Serverless-2016-10-31"
"""AWS SAM, the only transform there is: done by its own translator (aws-sam-translator)."""

_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_VARIABLE = re.compile(r"\$\{(!?)([^{}]*)\}")
_ABSENT = object()
"""AWS::NoValue: takes what has it as its value out."""


def invalid(message: str) -> AwsError:
    """A ValidationError."""
    return AwsError("ValidationError", message)


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node; an alias is none: "YAML: aliases are not supported"."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not supported")
        return super().compose_node(parent, index)


def _short_form(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    if suffix in ("Ref", "Condition"):
        return {suffix: value}
    return {f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _short_form)
_Loader.yaml_implicit_resolvers = {
    first: [each for each in known if each[0] != _TIMESTAMP]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True, slots=True)
class Template:
    """A template whose sections have the form that they should have."""

    text: str
    body: Row

    def section(self, name: str) -> Row:
        """Resources, Parameters, Mappings, Conditions or Outputs; empty without it."""
        found: Row = self.body.get(name) or {}
        return found

    @property
    def types(self) -> list[str]:
        """The types of its resources, each once."""
        return sorted({each["Type"] for each in self.section("Resources").values()})


@lru_cache(maxsize=64)
def read(text: str) -> Template:
    """A template, its transform done; not to be changed. ValidationError."""
    try:
        if len(text) > BODY_BYTES_MAX:
            raise ValueError
        body: Any = json.loads(text) if text.lstrip()[:1] == "{" else None
        if body is None:
            body = yaml.load(text, Loader=_Loader)
        _check(body)
        # What refers to itself has no end.
        json.dumps(body)
    except (yaml.YAMLError, AttributeError, RecursionError, TypeError, ValueError):
        raise invalid("Template format error: unsupported structure.") from None
    if body.get("Transform") in (SERVERLESS, [SERVERLESS]):
        body = _without_serverless(copy.deepcopy(body))
        _check(body)
    return Template(text, body)


def _without_serverless(body: Row) -> Row:
    """What AWS SAM's resources stand for. ValidationError."""
    from boto3.session import Session
    from samtranslator.model.exceptions import ExceptionWithMessage
    from samtranslator.parser.parser import Parser
    from samtranslator.translator.translator import Translator

    # It has figures that nobody publishes here, and would say so each time.
    logging.getLogger("samtranslator").setLevel(logging.ERROR)
    # It tells the partition by a region, which for the rest stays the stack's.
    translator = Translator({}, Parser(), boto_session=Session(region_name="us-east-1"))
    own = {name: {"Ref": name} for name in ("AWS::Region", "AWS::Partition")}
    try:
        found = translator.translate(body, own, get_managed_policy_map=dict)
    except ExceptionWithMessage as error:
        raise invalid(f"Transform {SERVERLESS} failed with: {error.message}") from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise invalid(f"Transform {SERVERLESS} failed with: {error!r}") from None
    plain: Row = json.loads(json.dumps(found))
    return plain


def _check(body: Any) -> None:
    for name in ("Resources", "Parameters", "Mappings", "Conditions", "Outputs"):
        found = body.get(name) or {}
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            raise TypeError
        if name in ("Resources", "Parameters", "Outputs"):
            for each in found.values():
                if not isinstance(each, dict):
                    raise TypeError
    resources = body.get("Resources")
    if not resources:
        raise invalid("Template format error: At least one Resources member must be defined.")
    for name, each in resources.items():
        if not isinstance(each.get("Type"), str):
            raise invalid(
                f"Template format error: [/Resources/{name}] Every Resources object must contain a "
                "Type member."
            )
        if not isinstance(each.get("Properties") or {}, dict):
            raise TypeError
        after, said = each.get("DependsOn") or [], each.get("Condition") or ""
        names = [said, *(after if isinstance(after, list) else [after])]
        if not all(isinstance(one, str) for one in names):
            raise TypeError


# -- parameters


def parameters(
    template: Template, given: Mapping[str, str], stored: Callable[[str], str]
) -> dict[str, Any]:
    """
    The values of all parameters; `stored` has those of the parameter store.

    Errors: ValidationError for one that is missing, is none or has not the form it should have.
    """
    declared = template.section("Parameters")
    if unknown := sorted(set(given) - set(declared)):
        raise invalid(f"Parameters: [{', '.join(unknown)}] do not exist in the template")
    missing = [
        name for name, each in declared.items() if name not in given and each.get("Default") is None
    ]
    if missing:
        raise invalid(f"Parameters: [{', '.join(missing)}] must have values")
    return {
        name: _parameter(name, each, str(given.get(name, each.get("Default"))), stored)
        for name, each in declared.items()
    }


def _parameter(name: str, declared: Row, value: str, stored: Callable[[str], str]) -> Any:
    kind = str(declared.get("Type", "String"))
    if kind.startswith("AWS::SSM::Parameter::Value<"):
        value, kind = stored(value), kind[len("AWS::SSM::Parameter::Value<") : -1]
    allowed = declared.get("AllowedValues")
    if allowed and value not in {str(each) for each in allowed}:
        raise invalid(
            f"Parameter '{name}' must be one of AllowedValues [{', '.join(map(str, allowed))}]"
        )
    pattern = declared.get("AllowedPattern")
    if pattern and not matches(str(pattern), value):
        raise invalid(f"Parameter '{name}' must match pattern {pattern}")
    if kind == "CommaDelimitedList" or kind.startswith("List<"):
        return [each.strip() for each in value.split(",")]
    if kind == "Number":
        try:
            float(value)
        except ValueError:
            raise invalid(f"Parameter '{name}' must be a number.") from None
    return value


# -- what refers to what


def references(value: Any) -> Iterator[str]:
    """The names that Ref, Fn::GetAtt and Fn::Sub of a value refer to."""
    if isinstance(value, list):
        for each in value:
            yield from references(each)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name == "Ref":
                yield str(inner)
            elif name == "Fn::GetAtt":
                yield _attribute_of(inner)[0]
            elif name == "Fn::Sub":
                text, own = _sub(inner)
                for literal, said in _VARIABLE.findall(text):
                    if not literal and said not in own:
                        yield said.partition(".")[0]
                yield from references(own)
            else:
                yield from references(inner)


def needs(resource: Row) -> set[str]:
    """The resources and parameters that a resource comes after."""
    said = resource.get("DependsOn") or []
    named = {said} if isinstance(said, str) else set(said)
    return named | set(references(resource.get("Properties") or {}))


def check_order(resources: Mapping[str, Row]) -> None:
    """Whether each resource can be made after those that it needs. ValidationError."""
    left = {name: needs(each) & resources.keys() for name, each in resources.items()}
    while left:
        needed: set[str] = set().union(*left.values())
        # Those in a circle need one that is left, and one that is left needs them.
        fewer = {name: left[name] & left.keys() for name in left if name in needed}
        fewer = {name: wanted for name, wanted in fewer.items() if wanted}
        if len(fewer) == len(left):
            raise invalid(f"Circular dependency between resources: [{', '.join(left)}]")
        left = fewer


# -- evaluation


@dataclass(frozen=True, slots=True)
class Scope:
    """What the functions of a template refer to."""

    template: Template
    values: Mapping[str, Any]
    """Of parameters and pseudo parameters."""
    zones: tuple[str, ...]
    """Availability zones, for Fn::GetAZs."""
    reference: Callable[[str], str]
    """Ref of a resource. KeyError without it."""
    attribute: Callable[[str, str], Any]
    """Fn::GetAtt. KeyError without the resource."""
    exported: Callable[[str], str]
    """Fn::ImportValue. KeyError without it."""
    _conditions: dict[str, bool | None] = field(default_factory=dict)
    """Those that were asked for: others may name each twice, in turn. None: not known yet."""

    def resolve(self, value: Any) -> Any:
        """A value with its functions done. ValidationError."""
        found = self._resolved(value)
        return None if found is _ABSENT else found

    def condition(self, name: str) -> bool:
        """Whether a condition holds. ValidationError."""
        known = self.template.section("Conditions")
        if name not in known:
            raise invalid(f"Template format error: Unresolved condition dependency {name}")
        if name not in self._conditions:
            self._conditions[name] = None
            try:
                self._conditions[name] = self._holds(known[name])
            except AwsError:
                del self._conditions[name]
                raise
        found = self._conditions[name]
        if found is None:
            raise invalid(f"Template error: Found circular condition dependency {name}")
        return found

    def has(self, part: Row) -> bool:
        """Whether a resource or an output is there at all, by its `Condition`."""
        return "Condition" not in part or self.condition(part["Condition"])

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, list):
            found = [self._resolved(each) for each in value]
            return [each for each in found if each is not _ABSENT]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((name, inner),) = value.items()
            if name == "Ref":
                return self._ref(str(inner))
            if name == "Condition" and isinstance(inner, str):
                return self.condition(inner)
            if name.startswith("Fn::"):
                return self._function(name, inner)
        pairs = ((key, self._resolved(inner)) for key, inner in value.items())
        return {key: inner for key, inner in pairs if inner is not _ABSENT}

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return _ABSENT
        if name in self.values:
            return self.values[name]
        try:
            return self.reference(name)
        except KeyError:
            raise self._unresolved(name) from None

    def _unresolved(self, name: str) -> AwsError:
        return invalid(
            f"Template format error: Unresolved resource dependencies [{name}] in the Resources "
            "block of the template"
        )

    def _function(self, name: str, inner: Any) -> Any:
        work = _FUNCTIONS.get(name)
        if work is None:
            raise invalid(f"Template error: the function {name} is not known.")
        try:
            return work(self, inner)
        except (ValueError, TypeError, LookupError, AttributeError):
            raise invalid(f"Template error: {name} has arguments that are none.") from None

    def _get_att(self, inner: Any) -> Any:
        name, attribute = _attribute_of(inner)
        try:
            return self.attribute(name, str(self.resolve(attribute)))
        except KeyError:
            raise invalid(
                f"Template error: instance of Fn::GetAtt references undefined resource {name}"
            ) from None

    def _join(self, inner: Any) -> str:
        separator, parts = inner
        return str(separator).join(text_of(each) for each in self.resolve(parts))

    def _split(self, inner: Any) -> list[str]:
        separator, text = inner
        found: list[str] = self.resolve(text).split(separator)
        return found

    def _select(self, inner: Any) -> Any:
        place, values = inner
        return self.resolve(values)[int(self.resolve(place))]

    def _if(self, inner: Any) -> Any:
        name, then, otherwise = inner
        return self._resolved(then if self.condition(str(name)) else otherwise)

    def _find_in_map(self, inner: Any) -> Any:
        found: Any = self.template.section("Mappings")
        for each in inner:
            found = found[str(self.resolve(each))]
        return found

    def _sub_text(self, inner: Any) -> str:
        text, own = _sub(inner)
        values = {name: self.resolve(value) for name, value in own.items()}

        def word(match: re.Match[str]) -> str:
            literal, said = match.groups()
            if literal:
                return f"${{{said}}}"
            said = said.strip()
            if said in values:
                return text_of(values[said])
            if "." in said:
                return text_of(self._get_att(said))
            return text_of(self._ref(said))

        return _VARIABLE.sub(word, text)

    def _import(self, inner: Any) -> str:
        name = self.resolve(inner)
        try:
            return self.exported(name)
        except KeyError:
            raise invalid(f"No export named {name} found.") from None

    def _cidr(self, inner: Any) -> list[str]:
        block, count, *bits = (self.resolve(each) for each in inner)
        if not 1 <= int(count) <= CIDRS_MAX:
            raise ValueError
        found = IPv4Network(block)
        prefix = 32 - int(bits[0]) if bits else found.prefixlen + 8
        return [str(each) for each in islice(found.subnets(new_prefix=prefix), int(count))]

    def _holds(self, value: Any) -> bool:
        return _truth(self._resolved(value))

    def _equals(self, inner: Any) -> bool:
        first, second = (self._resolved(each) for each in inner)
        return bool(text_of(first) == text_of(second))


_FUNCTIONS: Mapping[str, Callable[[Scope, Any], Any]] = {
    "Fn::And": lambda scope, inner: all(scope._holds(each) for each in inner),
    "Fn::Base64": lambda scope, inner: base64.b64encode(scope.resolve(inner).encode()).decode(),
    "Fn::Cidr": Scope._cidr,
    "Fn::Equals": Scope._equals,
    "Fn::FindInMap": Scope._find_in_map,
    "Fn::GetAZs": lambda scope, _inner: list(scope.zones),
    "Fn::GetAtt": Scope._get_att,
    "Fn::If": Scope._if,
    "Fn::ImportValue": Scope._import,
    "Fn::Join": Scope._join,
    "Fn::Not": lambda scope, inner: not scope._holds(inner[0]),
    "Fn::Or": lambda scope, inner: any(scope._holds(each) for each in inner),
    "Fn::Select": Scope._select,
    "Fn::Split": Scope._split,
    "Fn::Sub": Scope._sub_text,
}


def _attribute_of(inner: Any) -> tuple[str, Any]:
    if isinstance(inner, str):
        name, _, attribute = inner.partition(".")
        return name, attribute
    if not isinstance(inner, list) or len(inner) < 2:
        raise invalid("Template error: every Fn::GetAtt object requires two non-empty parameters")
    rest = inner[1] if len(inner) == 2 else ".".join(map(str, inner[1:]))
    return str(inner[0]), rest


def _sub(inner: Any) -> tuple[str, Row]:
    text, own = inner if isinstance(inner, list) and len(inner) == 2 else (inner, {})
    if not isinstance(text, str) or not isinstance(own, dict):
        raise invalid("Template error: One or more Fn::Sub intrinsic functions don't specify text.")
    return text, own


def _truth(value: Any) -> bool:
    return value if isinstance(value, bool) else text_of(value).lower() == "true"
