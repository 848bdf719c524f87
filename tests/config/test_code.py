# SPDX-License-Identifier: Apache-2.0
"""The code of functions in the configuration, and Lambda's own section."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from hyperplane_nat.config.lab import Config
from hyperplane_nat.config.text import toml
from tests.config.test_lab import accepted, refused
from tests.config.test_resources import FUNCTION, VPC


def test_code_is_relative_to_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("def handler(event, context): pass")
    code = 'code = "./app.py"\nhandler = "app.handler"\nenvironment = { TABLE = "t" }'
    config = accepted(tmp_path, VPC + FUNCTION + code)
    (function,) = config.function
    assert function.code == str(tmp_path / "app.py")
    assert function.environment == {"TABLE": "t"}
    assert function.timeout_seconds == 3
    assert function.ephemeral_storage_mb == 512
    assert Config.model_validate(tomllib.loads(toml(config))) == config


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ('code = "none.zip"\nhandler = "a.b"', "there is no such file or directory"),
        ('code = "/dev/zero"\nhandler = "a.b"', "or it is a device or a pipe"),
        ('code = "."', "handler: the code has no handler to call"),
        ('handler = "a.b"', "handler: the function has no code that it is about"),
        ('runtime = "python3.11"', "runtime: the function has no code that it is about"),
        ('code = "."\nhandler = "a.b"\ntimeout_seconds = 901', "timeout_seconds: 901"),
        ("ephemeral_storage_mb = 511", "ephemeral_storage_mb: 511"),
        ('layers = ["."]', "layers: the function has no code that it is about"),
        ('code = "."\nhandler = "a.b"\nlayers = ["none"]', "layers: "),
        ('code = "."\nhandler = "a.b"\nlayers = [".", ".", ".", ".", ".", "."]', "layers: "),
    ],
)
def test_code_that_is_refused(tmp_path: Path, code: str, says: str) -> None:
    assert says in refused(tmp_path, VPC + FUNCTION + code)


def test_layers_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "deps").mkdir()
    layers = f'code = "."\nhandler = "a.b"\nlayers = ["deps", "{tmp_path}"]'
    (function,) = accepted(tmp_path, VPC + FUNCTION + layers).function
    assert function.layers == [str(tmp_path / "deps"), str(tmp_path)]


def test_aliases(tmp_path: Path) -> None:
    text = VPC + FUNCTION + '[[function.alias]]\nname = "live"\n'
    config = accepted(tmp_path, text + '[[function.alias]]\nname = "old"\nversion = 3\n')
    assert [(each.name, each.version) for each in config.function[0].alias] == [
        ("live", None),
        ("old", 3),
    ]
    assert Config.model_validate(tomllib.loads(toml(config))) == config
    assert "12" in refused(tmp_path, text.replace("live", "12"))
    twice = '[[function.alias]]\nname = "live"\n'
    assert "two times alias 'live'" in refused(tmp_path, text + twice)
    for wrong in ('{ "$LATEST" = 0.1 }', '{ "2" = 1.5 }', '{ "2" = 0.1, "3" = 0.1 }'):
        weights = f"additional_version_weights = {wrong}\n"
        assert "additional_version_weights" in refused(tmp_path, text + weights)


def test_provided_needs_no_handler(tmp_path: Path) -> None:
    config = accepted(tmp_path, VPC + FUNCTION + 'code = "."\nruntime = "provided"')
    assert config.function[0].handler == ""


def test_the_section_of_the_service_is_called_lambda(tmp_path: Path) -> None:
    config = accepted(tmp_path, VPC + FUNCTION + "[lambda]\nport = 9999")
    assert config.aws_lambda.port == 9999
    assert "[lambda]" in toml(config)
