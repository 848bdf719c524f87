# SPDX-License-Identifier: Apache-2.0
"""AWS's endpoint as a service of a lab: only where a port is named, and only where it can run."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from hyperplane_nat.aws import __main__ as process
from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller import aws
from hyperplane_nat.controller.errors import ControllerError


def config(**fields: object) -> Config:
    return Config.model_validate({"lab": {"name": "shop"}, "aws": fields})


def test_a_lab_without_a_port_has_no_endpoint() -> None:
    assert aws.endpoint_specs(config()) == []
    assert aws.url(config()) is None


def test_it_is_told_what_it_serves_and_where() -> None:
    (spec,) = aws.endpoint_specs(config(port=4566))
    assert spec.label == "AWS/endpoint"
    told = process._arguments(list(spec.command[spec.command.index(spec.word) + 1 :]))
    assert (told.lab, told.port, str(told.runtime_directory)) == (
        "shop",
        4566,
        "/run/hyperplane-nat",
    )
    assert aws.url(config(port=4566)) == "http://127.0.0.1:4566"


def test_without_the_extra_a_port_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def missing(name: str, *rest: Any) -> Any:
        return None if name == "moto" else found(name, *rest)

    monkeypatch.setattr(aws, "find_spec", missing)
    aws.refuse_missing(config())
    with pytest.raises(ControllerError, match=r"^aws.port: .* moto, .*hyperplane-nat\[aws\]"):
        aws.refuse_missing(config(port=4566))


def test_what_it_needs_is_in_the_extra() -> None:
    aws.refuse_missing(config(port=4566))
