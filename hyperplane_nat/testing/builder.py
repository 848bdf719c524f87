# SPDX-License-Identifier: Apache-2.0
"""A lab's configuration written in Python: the document that a TOML file would have."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self


class Lab:
    """
    The configuration of a lab, section by section: docs/configuration.md has the fields.

    Subnets, security groups and services belong to the VPC named last, and so does a function that
    says neither `subnets` nor `networking`: to all its subnets, with all its groups. VPCs and
    subnets without a name are numbered::

        Lab().vpc("10.0.0.0/16").subnet("10.0.1.0/24").security_group("app").function(
            "checkout", handler=shop.checkout
        )
    """

    def __init__(self) -> None:
        self.document: dict[str, Any] = {}
        """What has been said so far."""

    def set(self, section: str, /, **fields: object) -> Self:
        """Fields of a section that there is once: `set("timeouts", time_scale=100)`."""
        self.document.setdefault(section, {}).update(fields)
        return self

    def account(self, name: str, **fields: object) -> Self:
        """An account."""
        return self._add("account", name=name, **fields)

    def vpc(self, cidr: str, *, name: str | None = None, **fields: object) -> Self:
        """A VPC."""
        number = len(self.document.get("vpc", ())) + 1
        return self._add("vpc", name=name or f"vpc-{number}", cidr=cidr, **fields)

    def subnet(self, cidr: str, *, name: str | None = None) -> Self:
        """A subnet of the last VPC."""
        vpcs = self.document.get("vpc", ())
        number = sum(len(vpc.get("subnet", ())) for vpc in vpcs) + 1
        return self._add_to_vpc("subnet", name=name or f"subnet-{number}", cidr=cidr)

    def security_group(self, name: str, **fields: object) -> Self:
        """A security group of the last VPC; `ingress` and `egress` are lists of rules, as dicts."""
        return self._add_to_vpc("security_group", name=name, **fields)

    def host(self, name: str, **fields: object) -> Self:
        """A host in the last VPC: `subnet`, the one named last if it is left out, `address`,
        `security_groups`.
        """
        subnets = (self.document.get("vpc") or [{}])[-1].get("subnet")
        if subnets:
            fields.setdefault("subnet", subnets[-1]["name"])
        return self._add_to_vpc("host", name=name, **fields)

    def service(self, name: str, **fields: object) -> Self:
        """A server in the last VPC: `kind`, `address`, `port`."""
        return self._add_to_vpc("service", name=name, **fields)

    def internet(self, name: str, **fields: object) -> Self:
        """A server in the internet."""
        return self._add("internet", name=name, **fields)

    def network_interface(self, name: str, **fields: object) -> Self:
        """A network interface of the lab's static environments: `subnet`, `address`."""
        return self._add("network_interface", name=name, **fields)

    def function(
        self,
        name: str,
        *,
        handler: str | Callable[..., object] | None = None,
        code: str | os.PathLike[str] | None = None,
        **fields: object,
    ) -> Self:
        """
        A function: `subnets`, `security_groups`, and what has its code.

        A handler that is a Python function of a module, rather than the name of one in `code`, is
        run from that module's file; ValueError for any other.
        """
        if callable(handler):
            code, handler = _source_of(handler)
        if handler is not None:
            fields["handler"] = handler
        if code is not None:
            fields["code"] = str(Path(code).absolute())
        vpcs = self.document.get("vpc")
        if vpcs and not fields.keys() & {"subnets", "networking"}:
            for field, section in (("subnets", "subnet"), ("security_groups", "security_group")):
                fields.setdefault(field, [each["name"] for each in vpcs[-1].get(section, ())])
        return self._add("function", name=name, **fields)

    def toml(self) -> str:
        """The document as TOML; ConfigError when no lab can be like that."""
        from hyperplane_nat.config.lab import validated
        from hyperplane_nat.config.text import toml_value

        validated(self.document, "Lab()")
        lines = []
        for section, content in self.document.items():
            repeated = isinstance(content, list)
            for table in content if repeated else [content]:
                lines.append(f"[[{section}]]" if repeated else f"[{section}]")
                lines.extend(f"{field} = {toml_value(value)}" for field, value in table.items())
        return "\n".join(lines) + "\n"

    def _add(self, section: str, **fields: object) -> Self:
        self.document.setdefault(section, []).append(fields)
        return self

    def _add_to_vpc(self, section: str, **fields: object) -> Self:
        vpcs = self.document.get("vpc")
        if not vpcs:
            raise ValueError(f"a {section} belongs to a VPC: call vpc(...) before")
        vpcs[-1].setdefault(section, []).append(fields)
        return self


def _source_of(handler: Callable[..., object]) -> tuple[Path, str]:
    """The file of a handler's module, and what the handler is called in it."""
    name = getattr(handler, "__name__", "")
    module = sys.modules.get(getattr(handler, "__module__", ""))
    file = getattr(module, "__file__", None)
    if file is None or getattr(module, name, None) is not handler:
        raise ValueError(f"{handler!r} is no function of a module (name one, or code and handler)")
    path = Path(file)
    return path, f"{path.stem}.{name}"
