# SPDX-License-Identifier: Apache-2.0
"""The configuration of a lab: one TOML file, every value with a default and its unit in its name.

Theory of operation
-------------------
The pydantic models below are the only description of the configuration. The TOML file, its
validation, `hyperplane-nat config` and docs/configuration.md follow from them (the last two are
written by `config.text`; `python -m hyperplane_nat.config --markdown`). The sections for what
customers own are in `config.resources`. A model checks what can be told from its own fields
(`problems`); `Config` checks what needs the whole: names, subnets and addresses across sections
(`config.checks`, `config.resource_checks`, `config.routing_checks`, `config.network_acl_checks`,
`config.balancing_checks`, `config.private_link_checks`).
`config.values` has the kinds of values.

Environments are there from the beginning, `lab.environments` of them on the interfaces of
`[[network_interface]]`, or belong to functions, whose environments and interfaces come and go; a
lab may have both, or neither. A function therefore changes what is left out: no environment, no
interface, and a pool. So do, but for the pool, a host, and VPCs without any subnet, in which no
interface can be.

Whatever is wrong, all of it, ends as one `ConfigError` with a line for each problem,
`<file>:<line>: <entry>: <field>: <what> (<remedy>)`; `config.problems` collects them. Addresses
stay strings in the form they were written in; where arithmetic is needed, `ipaddress` objects are
made from them.

Figures marked "AWS" follow what AWS documents for NAT gateways and for Lambda in a VPC.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from pydantic import Field, ValidationError, create_model, model_validator

from hyperplane_nat.config import balancing_checks as config_balancing_checks
from hyperplane_nat.config import checks as config_checks
from hyperplane_nat.config import network_acl_checks as config_network_acl_checks
from hyperplane_nat.config import private_link_checks as config_private_link_checks
from hyperplane_nat.config import problems as config_problems
from hyperplane_nat.config import resource_checks as config_resource_checks
from hyperplane_nat.config import routing_checks as config_routing_checks
from hyperplane_nat.config.resources import Lambda
from hyperplane_nat.config.values import ON_THIS_HOST
from hyperplane_nat.config.whole import Whole
from hyperplane_nat.errors import ConfigError as ConfigError
from hyperplane_nat.errors import Problem

if TYPE_CHECKING:
    _Sections = Whole
else:
    # The section's name is a word of Python's, which a class statement cannot have as a field.
    _Sections = create_model(
        "_Sections", __base__=Whole, **{"lambda": (Lambda, Field(default_factory=Lambda.left_out))}
    )


class Config(_Sections):
    """A whole lab."""

    @property
    def aws_lambda(self) -> Lambda:
        """The section `lambda`."""
        return cast(Lambda, getattr(self, "lambda"))

    @model_validator(mode="after")
    def _check(self) -> Self:
        found = [
            *config_problems.inside(self),
            *config_checks.problems(self),
            *config_resource_checks.problems(self),
            *config_routing_checks.problems(self),
            *config_network_acl_checks.problems(self),
            *config_balancing_checks.problems(self),
            *config_private_link_checks.problems(self, self.aws_lambda.region),
        ]
        if found:
            raise config_problems.ProblemsError(found)
        return self


def load(path: Path | None, overrides: Mapping[str, object] | None = None) -> Config:
    """
    Read the TOML file at `path`, or the default lab if there is none, and apply `overrides`.

    Overrides are keyed by dotted names, {"lab.environments": 10}; those that are None are ignored.
    Raises ConfigError for a file that cannot be read, or for all values that cannot be used.
    """
    document: dict[str, Any] = {}
    file, text = "default lab", None
    if path is not None:
        file = str(path)
        text, document = _read(path)
    applied = {name: value for name, value in (overrides or {}).items() if value is not None}
    for name, value in applied.items():
        _apply(document, name.split("."), value, file)
    if path is not None:
        _find_code(document, path.absolute().parent)
    config = validated(document, file, applied, text, context=ON_THIS_HOST)
    _refuse_missing_code(config, file)
    return config


def validated(
    document: object,
    file: str,
    applied: Collection[str] = (),
    text: str | None = None,
    context: object = None,
) -> Config:
    """
    The configuration in a document that came from `file`; ConfigError says what is wrong with it.

    The fields named in `applied` came from the command line instead; `text` is what the file says,
    where it is TOML; `context` may be `values.ON_THIS_HOST`.
    """
    try:
        return Config.model_validate(document, context=context)
    except ValidationError as error:
        problems = config_problems.explain(error, Config, document, file, applied, text)
        raise ConfigError.of(problems) from None


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file (hyperplane-nat config > {path} writes one to start from)"
        ) from None
    except OSError as error:
        remedy = "name a file" if isinstance(error, IsADirectoryError) else "see its mode"
        raise ConfigError(f"{path}: cannot be read: {error.strerror} ({remedy})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error} (see https://toml.io)") from None


def _apply(document: dict[str, Any], name: list[str], value: object, file: str) -> None:
    *tables, last = name
    for depth, table in enumerate(tables, start=1):
        document = document.setdefault(table, {})
        if not isinstance(document, dict):
            raise ConfigError(
                f"{file}: {'.'.join(name[:depth])}: not a table (write it as [{table}])"
            )
    document[last] = value


def _find_code(document: Mapping[str, Any], directory: Path) -> None:
    """Paths of code are relative to the file that names them."""
    functions = document.get("function")
    for function in functions if isinstance(functions, list) else []:
        if not isinstance(function, dict):
            continue
        if isinstance(code := function.get("code"), str) and code:
            function["code"] = os.path.normpath(directory / code)
        if isinstance(layers := function.get("layers"), list):
            function["layers"] = [
                os.path.normpath(directory / layer) if isinstance(layer, str) and layer else layer
                for layer in layers
            ]


def _refuse_missing_code(config: Config, file: str) -> None:
    missing = [
        Problem(
            source=file,
            line=None,
            entry=f'[[function]] "{function.name}"',
            field=field,
            what=f"{path}: there is no such file or directory, or it is a device or a pipe",
            remedy="name a directory, a zip archive or a .py file",
        )
        for function in config.function
        for field, paths in (("code", [function.code]), ("layers", function.layers))
        for path in paths
        if path is not None and not (Path(path).is_dir() or Path(path).is_file())
    ]
    if missing:
        raise ConfigError.of(missing)
