# SPDX-License-Identifier: Apache-2.0
"""A lab's configuration written in Python: the document that a TOML file would have."""

from __future__ import annotations

from typing import Any, Self


class Lab:
    """
    The configuration of a lab, section by section: docs/configuration.md has the fields.

    Subnets, security groups and services belong to the VPC named last::

        Lab().vpc("10.0.0.0/16", name="shop").subnet("10.0.1.0/24", name="a").set(
            "timeouts", time_scale=100
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

    def vpc(self, cidr: str, *, name: str, **fields: object) -> Self:
        """A VPC."""
        return self._add("vpc", name=name, cidr=cidr, **fields)

    def subnet(self, cidr: str, *, name: str) -> Self:
        """A subnet of the last VPC."""
        return self._add_to_vpc("subnet", name=name, cidr=cidr)

    def security_group(self, name: str, **fields: object) -> Self:
        """A security group of the last VPC; `ingress` and `egress` are lists of rules, as dicts."""
        return self._add_to_vpc("security_group", name=name, **fields)

    def service(self, name: str, **fields: object) -> Self:
        """A server in the last VPC: `kind`, `address`, `port`."""
        return self._add_to_vpc("service", name=name, **fields)

    def internet(self, name: str, **fields: object) -> Self:
        """A server in the internet."""
        return self._add("internet", name=name, **fields)

    def network_interface(self, name: str, **fields: object) -> Self:
        """A network interface of the lab's static environments: `subnet`, `address`."""
        return self._add("network_interface", name=name, **fields)

    def function(self, name: str, **fields: object) -> Self:
        """A function: `subnets`, `security_groups`."""
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
