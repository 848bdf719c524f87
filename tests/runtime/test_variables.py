# SPDX-License-Identifier: Apache-2.0
"""What is in the environment block of a function."""

from __future__ import annotations

import pytest

from hyperplane_nat.model.validation import RESERVED_VARIABLES
from hyperplane_nat.runtime import variables
from hyperplane_nat.runtime.variables import Identity

IDENTITY = Identity("orders", 512, "eu-west-1")


def test_nothing_of_the_shell_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("PATH", "/home/somebody/bin")
    made = variables.of_program(IDENTITY, {"TABLE": "t"})
    assert "AWS_SECRET_ACCESS_KEY" not in made
    assert "/home" not in made["PATH"]
    assert made["TABLE"] == "t"
    assert made["AWS_REGION"] == "eu-west-1"
    assert made["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "512"


def test_what_lambda_sets_is_what_nobody_else_may() -> None:
    made = variables.of_handler(
        IDENTITY, {}, handler="app.handler", runtime="python3.11", log_stream="s"
    )
    assert made["_HANDLER"] == "app.handler"
    # It comes with each invocation.
    assert RESERVED_VARIABLES - made.keys() == {"_X_AMZN_TRACE_ID"}
