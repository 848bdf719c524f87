# SPDX-License-Identifier: Apache-2.0
"""The profiles `aws` and `rfc`, and what a file may say beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.config.lab import Config, ConfigError, load, validated
from hyperplane_nat.config.nat import RFC_VALUES, behaviour, scaled_ms, timeouts_ms
from hyperplane_nat.config.text import toml
from hyperplane_nat.engine import Behaviour, Ports, Timeouts
from hyperplane_nat.forwarder import desired
from tests.forwarder.work import finish


def _value(config: Config, section: str, field: str) -> object:
    return getattr(getattr(config, section), field)


def test_aws_is_the_default_and_what_the_engine_does_by_itself() -> None:
    config = Config()
    assert config.nat.profile == "aws"
    state = finish(
        desired.parse(
            {
                "everything": True,
                "interfaces": [],
                "slots": [],
                "behaviour": behaviour(config.nat, config.timeouts),
            }
        )
    )
    assert state.settings["behaviour"] == Behaviour()
    assert Timeouts(**timeouts_ms(config.timeouts, config.ports)) == Timeouts()
    ports = config.ports.model_dump(exclude={"hold_seconds", "limit_per_interface"})
    assert Ports(**ports) == Ports()


def test_rfc_differs_from_aws_in_what_the_profile_lists() -> None:
    aws, rfc = Config(), load(None, {"nat.profile": "rfc"})
    for (section, field), value in RFC_VALUES.items():
        assert _value(rfc, section, field) == value
    for section in ("nat", "timeouts", "ports"):
        for field in type(getattr(aws, section)).model_fields:
            if (section, field) not in RFC_VALUES and field != "profile":
                assert _value(rfc, section, field) == _value(aws, section, field)


@pytest.mark.parametrize("profile", ["aws", "rfc"])
def test_what_the_file_says_stands_in_either_profile(profile: str) -> None:
    config = load(
        None,
        {
            "nat.profile": profile,
            "nat.idle": "drop",
            "timeouts.tcp_established_seconds": 99,
            "ports.hold_seconds": 0,
        },
    )
    assert (config.nat.idle, config.timeouts.tcp_established_seconds) == ("drop", 99)
    assert config.ports.hold_seconds == 0


@pytest.mark.parametrize("profile", ["aws", "rfc"])
def test_a_profile_survives_being_written_and_read(profile: str, tmp_path: Path) -> None:
    config = load(None, {"nat.profile": profile, "ports.hold_seconds": 7})
    assert validated(config.model_dump(mode="json"), "again") == config
    file = tmp_path / "lab.toml"
    file.write_text(toml(config, comments=True))
    assert load(file) == config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"nat.filtering": "address-dependent"},
            "command line: nat.filtering: address-dependent needs endpoint-independent mapping",
        ),
        ({"nat.hairpinning": True}, "nat.hairpinning: needs endpoint-independent mapping"),
        ({"nat.profile": "gcp"}, "nat.profile: 'gcp'"),
        ({"nat.fragments": ["sctp"]}, "nat.fragments"),
    ],
)
def test_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_durations_are_scaled_but_not_to_nothing() -> None:
    config = load(None, {"timeouts.time_scale": 100.0})
    assert scaled_ms(350, config.timeouts) == 3500
    fast = load(None, {"timeouts.time_scale": 1e6})
    assert behaviour(fast.nat, fast.timeouts)["fragment_ms"] == 1
    assert scaled_ms(0, fast.timeouts) == 0
