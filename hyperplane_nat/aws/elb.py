# SPDX-License-Identifier: Apache-2.0
"""Elastic Load Balancing by its names: ARNs, tags, and pages of lists.

Its resources are named by ARNs alone, which end in the region's ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyperplane_nat.aws.call import VPC, Call, Kind, Operation, Params, Row, operation, tag_list
from hyperplane_nat.aws.errors import AwsError, unsupported
from hyperplane_nat.aws.notes import TAGS_MAX, too_many_tags

SERVICE = "elasticloadbalancing"

PAGE_MAX = 400
"""Of any list ("PageSize")."""


@dataclass(frozen=True, slots=True)
class Sort:
    """A sort of resources that have ARNs."""

    kind: Kind
    """Its list in the control API, and the field that its ARN is shown in."""
    key: str
    """The region's id in a row of the list."""
    word: str
    form: re.Pattern[str]
    """Of its ARNs."""
    plural: str
    """The error's text where a list was asked for."""
    resource: Callable[[Row], str]
    """What its ARN has behind the account."""

    def arn(self, call: Call, row: Row) -> str:
        """The ARN of a row."""
        return call.arn(SERVICE, self.resource(row))

    def rows(self, call: Call) -> list[Row]:
        """Those of the account, with their ARNs."""
        of, whose = ("LoadBalancerId", LOAD_BALANCER.kind) if self is LISTENER else ("VpcId", VPC)
        owned = {row[of] for row in call.own(whose)}
        return [
            {**row, self.kind.key: self.arn(call, row)}
            for row in call.rows(self.kind.path)
            if row[of] in owned
        ]

    def check(self, wanted: str | None) -> str:
        """An ARN of this form. ValidationError."""
        if not wanted or not self.form.fullmatch(wanted):
            raise AwsError("ValidationError", f"'{wanted or ''}' is not a valid {self.word} ARN")
        return wanted

    def find(self, call: Call, wanted: str | None) -> Row:
        """One of the account, by its ARN. ValidationError, or the sort's own error."""
        arn = self.check(wanted)
        for row in self.rows(call):
            if row[self.kind.key] == arn:
                return row
        raise self.kind.absent(arn)

    def select(self, call: Call, wanted: Sequence[str] | None) -> list[Row]:
        """Those with the ARNs, in the list's order; all without any."""
        rows = self.rows(call)
        if not wanted:
            return rows
        arns = [self.check(each) for each in wanted]
        known = {row[self.kind.key] for row in rows}
        if not known.issuperset(arns):
            raise AwsError(self.kind.code, self.plural)
        return [row for row in rows if row[self.kind.key] in arns]

    def described(self, call: Call, params: Params, unknown: str) -> list[Row]:
        """
        Those that a Describe operation asks for, by ARNs or by names.

        `unknown`: the error's text where a name is nobody's, with a place for the names.
        """
        rows = self.select(call, params.get(f"{self.kind.key}s"))
        if names := params.get("Names"):
            field = f"{self.kind.key.removesuffix('Arn')}Name"
            rows = [row for row in rows if row[field] in names]
            if len(rows) < len(set(names)):
                raise AwsError(self.kind.code, unknown.format(", ".join(names)))
        return rows

    def make(self, call: Call, body: Row, params: Params) -> Row:
        """
        Create one with the tags of a request, which one that there is already is not given.

        Errors: those of the region, ValidationError, DuplicateTagKeys, TooManyTags.
        """
        tags = checked_tags(params)
        before = {row[self.key] for row in call.rows(self.kind.path)}
        made = call.post(self.kind.path, body)
        if tags and made[self.key] not in before:
            _tag(call, [made[self.key]], tags)
        return made


def _form(resource: str) -> re.Pattern[str]:
    return re.compile(rf"arn:aws[a-z-]*:{SERVICE}:[a-z0-9-]+:[0-9]{{12}}:{resource}")


LOAD_BALANCER = Sort(
    Kind(
        "/v1/load-balancers",
        "LoadBalancerArn",
        "LoadBalancerNotFound",
        "Load balancer '{}' not found",
    ),
    "LoadBalancerId",
    "load balancer",
    _form(r"loadbalancer/(app|net|gwy)/[A-Za-z0-9-]+/[0-9a-f]+"),
    "One or more load balancers not found",
    lambda row: f"loadbalancer/net/{row['LoadBalancerName']}/{row['LoadBalancerId']}",
)
TARGET_GROUP = Sort(
    Kind(
        "/v1/target-groups",
        "TargetGroupArn",
        "TargetGroupNotFound",
        "Target groups '{}' not found",
    ),
    "TargetGroupId",
    "target group",
    _form(r"targetgroup/[A-Za-z0-9-]+/[0-9a-f]+"),
    "One or more target groups not found",
    lambda row: f"targetgroup/{row['TargetGroupName']}/{row['TargetGroupId']}",
)
LISTENER = Sort(
    Kind("/v1/listeners", "ListenerArn", "ListenerNotFound", "One or more listeners not found"),
    "ListenerId",
    "listener",
    _form(r"listener/(app|net|gwy)/[A-Za-z0-9-]+/[0-9a-f]+/[0-9a-f]+"),
    "One or more listeners not found",
    lambda row: (
        f"listener/net/{row['LoadBalancerName']}/{row['LoadBalancerId']}/{row['ListenerId']}"
    ),
)

SORTS = {"loadbalancer": LOAD_BALANCER, "targetgroup": TARGET_GROUP, "listener": LISTENER}
"""By what is behind the account in their ARNs."""


def page(params: Params, key: str, items: Sequence[Row]) -> Row:
    """`PageSize` items from `Marker` on, under `key`."""
    marker, size = params.get("Marker") or "0", int(params.get("PageSize") or PAGE_MAX)
    if not (marker.isascii() and marker.isdigit() and len(marker) <= 9):
        raise AwsError("ValidationError", f"The marker '{marker}' is not valid")
    if not 1 <= size <= PAGE_MAX:
        raise AwsError("ValidationError", f"The page size must be between 1 and {PAGE_MAX}")
    last = int(marker) + size
    following = str(last) if last < len(items) else None
    return {key: items[int(marker) : last], "NextMarker": following}


def protocol(said: str) -> str:
    """What listeners and target groups speak. UnsupportedProtocol, UnsupportedOperation."""
    if said in ("TLS", "QUIC", "TCP_QUIC"):
        raise unsupported(f"Listeners and target groups of {said} are not emulated.")
    if said not in ("TCP", "UDP", "TCP_UDP"):
        raise AwsError(
            "UnsupportedProtocol",
            f"The protocol '{said}' is not supported by network load balancers",
        )
    return said


def attributes(shown: Mapping[str, str]) -> list[dict[str, str]]:
    """Attributes as they are listed."""
    return [{"Key": key, "Value": value} for key, value in shown.items()]


def asked(params: Params) -> dict[str, str]:
    """The attributes of a request. ValidationError for one that is there twice."""
    found: dict[str, str] = {}
    for each in params.get("Attributes") or ():
        key = each.get("Key") or ""
        if key in found:
            raise AwsError("ValidationError", f"Attribute key '{key}' is specified more than once")
        found[key] = each.get("Value") or ""
    if not found:
        raise AwsError("ValidationError", "At least one attribute must be specified")
    return found


def wrong_value(key: str, value: str) -> AwsError:
    """A value that an attribute cannot have."""
    return AwsError("ValidationError", f"The value '{value}' of attribute '{key}' is not valid")


def truth(key: str, value: str) -> bool:
    """An attribute that is `true` or `false`. ValidationError."""
    if value not in ("true", "false"):
        raise wrong_value(key, value)
    return value == "true"


# -- tags


def checked_tags(params: Params) -> dict[str, str]:
    """The tags of a request. ValidationError, DuplicateTagKeys, TooManyTags."""
    found: dict[str, str] = {}
    for each in params.get("Tags") or ():
        if not (key := each.get("Key")):
            raise AwsError("ValidationError", "A tag must have a key")
        if key in found:
            raise AwsError("DuplicateTagKeys", "A tag key was specified more than once")
        found[key] = each.get("Value") or ""
    if len(found) > TAGS_MAX:
        raise AwsError("TooManyTags", too_many_tags().message)
    return found


def add_tags(call: Call, params: Params) -> None:
    """AddTags: the NotFound of each sort, DuplicateTagKeys, TooManyTags."""
    tags = checked_tags(params)
    _tag(call, [key for _, key in _tagged(call, params.get("ResourceArns"))], tags)


def remove_tags(call: Call, params: Params) -> None:
    """RemoveTags: the NotFound of each sort."""
    keys = [key for _, key in _tagged(call, params.get("ResourceArns"))]
    call.notes.untag(keys, dict.fromkeys(params.get("TagKeys") or ()))


def describe_tags(call: Call, params: Params) -> Row:
    """DescribeTags: the NotFound of each sort."""
    return {
        "TagDescriptions": [
            {"ResourceArn": arn, "Tags": tag_list(call.notes.tags(key))}
            for arn, key in _tagged(call, params.get("ResourceArns"))
        ]
    }


def _tagged(call: Call, arns: Iterable[str] | None) -> list[tuple[str, str]]:
    """ARNs, and the ids that tags are kept under."""
    found = []
    for arn in arns or ():
        sort = SORTS.get(arn.split(":")[-1].split("/")[0])
        if sort is None:
            raise AwsError("ValidationError", f"'{arn}' is not a valid resource ARN")
        found.append((arn, sort.find(call, arn)[sort.key]))
    return found


def _tag(call: Call, keys: list[str], tags: Mapping[str, Any]) -> None:
    try:
        call.notes.tag(keys, tags)
    except AwsError as error:
        # EC2's name is another one.
        raise AwsError("TooManyTags", error.message) from None


OPERATIONS: Mapping[str, Operation] = {
    "AddTags": operation(add_tags, "ResourceArns Tags"),
    "RemoveTags": operation(remove_tags, "ResourceArns TagKeys"),
    "DescribeTags": operation(describe_tags, "ResourceArns"),
}
