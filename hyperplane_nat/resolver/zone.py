# SPDX-License-Identifier: Apache-2.0
"""What one resolver knows, and the file that it is told it by.

Theory of operation
-------------------
The controller writes the file (`whole_file`), the resolver looks at its first line before each
answer: a name is there from the moment the file is. While it is half-written, what was known before
goes on being so.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from hyperplane_nat import whole_file

INTERNAL = "internal"
"""The domain of the lab's own names; nothing in it is anybody else's to know."""

_PRIVATE = re.compile(r"ip-([0-9]{1,3})-([0-9]{1,3})-([0-9]{1,3})-([0-9]{1,3})\.(.+)")
_REVERSE = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})\.in-addr\.arpa")


@dataclass(frozen=True)
class Zone:
    """Names in small letters, without the last dot."""

    clients: IPv4Network
    """Who may ask; also the network whose addresses have private names."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Each with its address."""
    hostnames: bool = False
    """Whether there are private names."""
    domain: str = f"ec2.{INTERNAL}"
    """What they end in; plain `internal` will do, too."""
    balanced: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names with several addresses, which are told in any order."""

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Zone:
        """The zone of what `document` has said; ValueError, KeyError or TypeError."""
        return cls(
            IPv4Network(document["clients"]),
            dict(document["names"]),
            bool(document["hostnames"]),
            str(document["domain"]),
            {name: tuple(addresses) for name, addresses in document["balanced"].items()},
        )

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "clients": str(self.clients),
            "names": dict(self.names),
            "balanced": dict(self.balanced),
            "hostnames": self.hostnames,
            "domain": self.domain,
        }

    def addresses(self, name: str) -> tuple[str, ...]:
        """The addresses of a name, of which it has one or is `balanced`."""
        found = self.address(name)
        return self.balanced.get(name, ()) if found is None else (found,)

    def address(self, name: str) -> str | None:
        """The one address of a name; None when there is none, or several."""
        found = self.names.get(name)
        if found is None and self.hostnames and (matched := _PRIVATE.fullmatch(name)):
            *bytes_, domain = matched.groups()
            if domain in (self.domain, INTERNAL):
                found = self._own(".".join(bytes_))
        return found

    def pointers(self, name: str) -> list[str]:
        """The names of the address of a reverse name; none when it is no such name."""
        matched = _REVERSE.fullmatch(name)
        if matched is None:
            return []
        text = ".".join(reversed(matched.groups()))
        found = list(self._named.get(text, ()))
        if self.hostnames and self._own(text):
            found.append(f"ip-{text.replace('.', '-')}.{self.domain}")
        return found

    def exists(self, name: str) -> bool:
        """Whether a name has anything, or is above one that has."""
        return name in self._above or bool(self.addresses(name) or self.pointers(name))

    def owns(self, name: str) -> bool:
        """Whether nobody else is asked about a name."""
        own = name in self.names or name in self.balanced
        if own or name == INTERNAL or name.endswith(f".{INTERNAL}"):
            return True
        matched = _REVERSE.fullmatch(name)
        if matched is None:
            return False
        text = ".".join(reversed(matched.groups()))
        return self._own(text) is not None or text in self._named

    def _own(self, text: str) -> str | None:
        """An address of the network, as it is written; None when it is none."""
        try:
            address = IPv4Address(text)
        except AddressValueError:
            return None
        return text if address in self.clients and str(address) == text else None

    @cached_property
    def _named(self) -> Mapping[str, list[str]]:
        """Names by their address."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for name, address in self.names.items():
            found[address].append(name)
        return dict(found)

    @cached_property
    def _above(self) -> set[str]:
        """What is above a name."""
        labels = [name.split(".") for name in (*self.names, *self.balanced)]
        found = {".".join(each[level:]) for each in labels for level in range(1, len(each))}
        return found | {INTERNAL}


def write(path: Path, zone: Zone) -> None:
    """Tell the resolver that has opened this file; OSError."""
    whole_file.write(path, json.dumps(zone.document()).encode())


class ZoneFile:
    """The file as a resolver has it."""

    def __init__(self, descriptor: int) -> None:
        """The descriptor stays the caller's. ValueError when nothing whole is in it."""
        self._file = whole_file.Reader(descriptor)
        self._zone = self._read()

    @property
    def zone(self) -> Zone:
        """What it says now, or said last when it is half-written."""
        if self._file.changed:
            # Else it is looked at again with the next query.
            with contextlib.suppress(ValueError):
                self._zone = self._read()
        return self._zone

    def _read(self) -> Zone:
        try:
            zone = Zone.from_document(json.loads(self._file.read()))
        except (KeyError, TypeError) as error:
            raise ValueError(f"the names are not of this version: {error}") from None
        self._file.accept()
        return zone
