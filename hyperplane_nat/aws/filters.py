# SPDX-License-Identifier: Apache-2.0
"""Which resources a Describe operation answers: filters, and pages.

Filters of a request are all to be met, of each of them one value ("Filter your resources", Amazon
EC2 User Guide); `*` and `?` stand for anything, `tag:NAME` and `tag-key` are for everything that
has tags.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from hyperplane_nat.aws.call import Params, Row, text_of
from hyperplane_nat.aws.errors import AwsError

PAGE_MAX = 1000


def answer(
    params: Params, key: str, items: Sequence[Row], fields: Mapping[str, str]
) -> dict[str, Any]:
    """
    The items that the filters let through, under `key`, a page of them.

    `fields` has the filters there are, each with the way to its values in an item: keys with dots
    in between, lists are gone through.
    """
    wanted = params.get("Filters") or params.get("Filter") or ()
    for each in wanted:
        name = each.get("Name", "")
        if name not in fields and name != "tag-key" and not name.startswith("tag:"):
            raise AwsError("InvalidParameterValue", f"The filter '{name}' is invalid")
    found = [item for item in items if all(_meets(item, each, fields) for each in wanted)]
    return page(params, key, found)


def page(params: Params, key: str, items: Sequence[Row]) -> dict[str, Any]:
    """`MaxResults` items from `NextToken` on."""
    token = params.get("NextToken") or "0"
    if not (token.isascii() and token.isdigit() and len(token) <= 9):
        raise AwsError("InvalidParameterValue", f"Unable to parse pagination token '{token}'")
    first = int(token)
    size = params.get("MaxResults")
    if size is not None and size < 1:
        raise AwsError(
            "InvalidParameterValue", f"Value ( {size} ) for parameter maxResults is invalid"
        )
    last = first + (size or PAGE_MAX)
    following = str(last) if last < len(items) else None
    return {key: items[first:last], "NextToken": following}


def _meets(item: Row, wanted: Row, fields: Mapping[str, str]) -> bool:
    name = wanted["Name"]
    tags = {tag["Key"]: tag["Value"] for tag in item.get("Tags") or item.get("TagSet") or ()}
    if name == "tag-key":
        values = list(tags)
    elif name.startswith("tag:"):
        values = [tags[name[4:]]] if name[4:] in tags else []
    else:
        values = [_text(value) for value in _values(item, fields[name].split("."))]
    return any(
        fnmatchcase(value, pattern.replace("[", "[[]"))
        for value in values
        for pattern in wanted.get("Values") or ()
    )


def _values(found: Any, way: Sequence[str]) -> Iterator[Any]:
    if isinstance(found, list):
        for each in found:
            yield from _values(each, way)
    elif not way:
        if found is not None:
            yield found
    elif isinstance(found, dict) and way[0] in found:
        yield from _values(found[way[0]], way[1:])


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{value.microsecond // 1000:03}Z"
    return text_of(value)
