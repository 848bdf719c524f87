# SPDX-License-Identifier: Apache-2.0
"""The section about flow logs: what can be said in it, and what is said about mistakes."""

from typing import Any

import pytest

from hyperplane_nat.config.flow_logs import interval_ms
from hyperplane_nat.config.lab import Config, ConfigError, validated
from hyperplane_nat.flow_logs.fields import VERSION_2


def config(timeouts: dict[str, Any] | None = None, **values: object) -> Config:
    return validated({"flow_logs": values, "timeouts": timeouts or {}}, "lab.toml")


@pytest.mark.requirement("RFC6888-12", profile="both")
def test_flow_logs_are_off_and_in_version_2() -> None:
    settings = config().flow_logs
    assert not settings.enabled
    assert tuple(settings.fields) == VERSION_2
    assert settings.aggregation_seconds == 600


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"fields": ["srcadr"]}, "flow_logs.fields[0]: 'srcadr' is no field of flow logs"),
        ({"fields": []}, "flow_logs.fields: no field is named"),
        ({"fields": ["start", "start"]}, "flow_logs.fields[1]: 'start' is there twice"),
        ({"aggregation_seconds": 61}, "flow_logs.aggregation_seconds: 61: input should be 60 or"),
        ({"directory": "logs"}, "flow_logs.directory: "),
        ({"files_kept": 0}, "flow_logs.files_kept: 0: "),
    ],
)
def test_mistakes(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config(**values)
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("seconds", "scale", "expected"), [(60, 1.0, 60_000), (600, 100.0, 6_000), (60, 1e6, 100)]
)
def test_intervals_are_scaled(seconds: int, scale: float, expected: int) -> None:
    made = config({"time_scale": scale}, aggregation_seconds=seconds)
    assert interval_ms(made.flow_logs, made.timeouts) == expected
