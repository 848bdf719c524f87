# SPDX-License-Identifier: Apache-2.0
"""A reader of flow log lines, written from AWS's table of fields and from nothing of the project.

AWS, "Flow log records", available fields: for each field what its values look like. `parse` turns a
line into a record, or fails when a value is none that the table admits.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

DEFAULT = (
    "version",
    "account-id",
    "interface-id",
    "srcaddr",
    "dstaddr",
    "srcport",
    "dstport",
    "protocol",
    "packets",
    "bytes",
    "start",
    "end",
    "action",
    "log-status",
)


def _within(low: int, high: int) -> Callable[[str], bool]:
    return lambda text: text.isascii() and text.isdigit() and low <= int(text) <= high


def _address(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _one_of(*words: str) -> Callable[[str], bool]:
    return lambda text: text in words


def _like(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


_COUNT = _within(1, 2**64)
_TIME = _within(1, 2**40)
_NAME = _like(r"[A-Za-z0-9][A-Za-z0-9._-]*")

TABLE: dict[str, Callable[[str], bool]] = {
    "version": _within(2, 8),
    "account-id": _like(r"[0-9]{12}"),
    "interface-id": _NAME,
    "srcaddr": _address,
    "dstaddr": _address,
    "srcport": _within(0, 65535),
    "dstport": _within(0, 65535),
    "protocol": _within(0, 255),
    "packets": _COUNT,
    "bytes": _COUNT,
    "start": _TIME,
    "end": _TIME,
    "action": _one_of("ACCEPT", "REJECT"),
    "log-status": _one_of("OK", "NODATA", "SKIPDATA"),
    "vpc-id": _NAME,
    "subnet-id": _NAME,
    "instance-id": _NAME,
    "tcp-flags": _within(0, 31),
    "type": _one_of("IPv4", "IPv6", "EFA"),
    "pkt-srcaddr": _address,
    "pkt-dstaddr": _address,
    "region": _NAME,
    "az-id": _NAME,
    "sublocation-type": _NAME,
    "sublocation-id": _NAME,
    "pkt-src-aws-service": _NAME,
    "pkt-dst-aws-service": _NAME,
    "flow-direction": _one_of("ingress", "egress"),
    "traffic-path": _within(1, 8),
    "environment": _NAME,
}

_ALWAYS = {"version", "account-id", "interface-id", "start", "end", "log-status"}

Record = dict[str, str]


def parse(line: str, fields: Sequence[str] = DEFAULT) -> Record:
    """One line; ValueError when it is none."""
    values = line.split(" ")
    if len(values) != len(fields):
        raise ValueError(f"{len(values)} values for {len(fields)} fields: {line!r}")
    record = dict(zip(fields, values, strict=True))
    for name, value in record.items():
        if not TABLE[name](value) and (value != "-" or name in _ALWAYS):
            raise ValueError(f"{name} is {value!r}: {line!r}")
    status = record.get("log-status", "OK")
    for name in ("srcaddr", "dstaddr", "protocol", "packets", "bytes", "action"):
        if name in record and (record[name] == "-") != (status != "OK"):
            raise ValueError(f"{name} is {record[name]!r} with {status}: {line!r}")
    if "start" in record and "end" in record and int(record["start"]) > int(record["end"]):
        raise ValueError(f"it ends before it starts: {line!r}")
    return record


def read(paths: Iterable[Path]) -> list[Record]:
    """All records of files that begin with the names of their fields."""
    records = []
    for path in paths:
        # Whoever writes may be in the middle of a line.
        whole, _, _ = path.read_text(encoding="ascii").rpartition("\n")
        header, *lines = whole.split("\n")
        records += [parse(line, header.split(" ")) for line in lines]
    return records
