# SPDX-License-Identifier: Apache-2.0
"""All mistakes of a file at once, each with its line and the name of its entry."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperplane_nat.config.lab import ConfigError, load, validated
from hyperplane_nat.errors import Problem

MISTAKES = """\
[lab]
environments = "ten"

[forwarder]
ring_slots = 5000
budget_frames = 1

[metrics]
prt = 1

[[vpc]]
name = "orders"
cidr = "10.0.0.0/16"
[[vpc.subnet]]
name = "a"
cidr = "10.0.1.0/24"
[[vpc.subnet]]
name = "b"
cidr = "10.9.2.0/24"
[[vpc.security_group]]
name = "functions"
egress = [
    { protocol = "tcp", cidr = "10.0.0.0/8" },
    { protocol = "icmp", ports = "80", cidr = "10.0.0.0/8" },
    { protocol = "tcp", group = "database" },
]

[[function]]
name = "web"
subnets = ["a"]
security_groups = ["functions"]
memory_mb = 12

[[function]]
name = "other"
subnets = ["z"]
security_groups = ["functions"]

[[function]]
networking = "none"
"""


def mistakes(tmp_path: Path, text: str, **overrides: object) -> list[Problem]:
    file = tmp_path / "lab.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load(file, {name.replace("__", "."): value for name, value in overrides.items()})
    assert str(raised.value).splitlines() == [str(each) for each in raised.value.problems]
    return list(raised.value.problems)


def places(problems: list[Problem]) -> list[tuple[int | None, str, str]]:
    return [(problem.line, problem.entry, problem.field) for problem in problems]


def test_all_mistakes_of_fields_at_once(tmp_path: Path) -> None:
    assert places(mistakes(tmp_path, MISTAKES)) == [
        (2, "", "lab.environments"),
        (5, "", "forwarder.ring_slots"),
        (9, "", "metrics.prt"),
        (32, '[[function]] "web"', "memory_mb"),
        (39, "[[function]] number 3", "name"),
    ]


def test_mistakes_between_fields_beside_those_of_fields(tmp_path: Path) -> None:
    """A field that is wrong does not hide what is wrong elsewhere."""
    text = MISTAKES.replace("[[function]]\nnetworking", '[[function]]\nname = "n"\nnetworking')
    assert places(mistakes(tmp_path, text)) == [
        (2, "", "lab.environments"),
        (5, "", "forwarder.ring_slots"),
        (9, "", "metrics.prt"),
        (19, '[[vpc]] "orders", subnet "b"', "cidr"),
        (24, '[[vpc]] "orders", security_group "functions"', "egress[1].ports"),
        (25, '[[vpc]] "orders", security_group "functions"', "egress[2].group"),
        (32, '[[function]] "web"', "memory_mb"),
        (36, '[[function]] "other"', "subnets[0]"),
    ]


def test_a_field_left_out_for_being_wrong_brings_no_mistakes_of_its_own(tmp_path: Path) -> None:
    """Without its environments' number, the lab would have 100 and no interface for them."""
    text = '[lab]\nenvironments = -1\n[[network_interface]]\nname = "e"\n'
    text += 'subnet = "private-a"\naddress = "10.0.1.10"\n'
    assert places(mistakes(tmp_path, text)) == [(2, "", "lab.environments")]
    text = "network_interface = []\n[lab]\nenvironments = -1\n"
    assert places(mistakes(tmp_path, text)) == [(3, "", "lab.environments")]


def test_a_name_with_an_end_of_line_is_told_in_one(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text('[[vpc]]\nname = "a\\nb"\ncidr = 1\n"c\\nd" = 1\n')
    with pytest.raises(ConfigError) as caught:
        load(file)
    told = [(each.entry, each.field) for each in caught.value.problems]
    assert ('[[vpc]] "a\\nb"', "cidr") in told
    assert ('[[vpc]] "a\\nb"', "c\\nd") in told


def test_a_mistake_is_a_line_for_an_editor(tmp_path: Path) -> None:
    [problem] = mistakes(
        tmp_path, '[[function]]\nname = "web"\nnetworking = "none"\nmemory_mb = 12'
    )
    assert str(problem) == (
        f'{tmp_path / "lab.toml"}:4: [[function]] "web": memory_mb: 12: input should be greater '
        "than or equal to 128 (see docs/configuration.md)"
    )


def test_a_group_that_this_host_has_not_is_told_with_the_rest(tmp_path: Path) -> None:
    text = MISTAKES.replace("[lab]", '[lab]\nsocket_group = "no-such-group"')
    found = mistakes(tmp_path, text)
    assert places(found)[:2] == [(2, "", "lab.socket_group"), (3, "", "lab.environments")]
    assert found[0].what == "there is no group 'no-such-group' on this host"


def test_what_is_kept_of_a_lab_is_understood_without_its_group() -> None:
    kept = validated({"lab": {"socket_group": "no-such-group"}}, "lab.json")
    assert kept.lab.socket_group == "no-such-group"


def test_what_the_command_line_says_has_no_line(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "[metrics]\nport = 1\nadress = 2\n", metrics__port=-1)
    assert [(each.source, each.line) for each in found] == [
        (str(tmp_path / "lab.toml"), 3),
        ("command line", None),
    ]


def test_what_the_default_lab_says_is_not_the_files_mistake(tmp_path: Path) -> None:
    text = '[[vpc]]\nname = "b"\ncidr = "10.0.0.0/16"\n'
    text += '[[vpc.subnet]]\nname = "b"\ncidr = "10.0.1.0/24"\n'
    [problem] = mistakes(tmp_path, text)
    assert (problem.line, problem.entry) == (None, '[[network_interface]] "eni-a"')
    assert problem.remedy == "it is the default lab's: write [[network_interface]] in the file"


@pytest.mark.parametrize("document", [[], 3, {"vpc": 3}, {"vpc": [3]}, {"vpc": [{"subnet": [[]]}]}])
def test_any_document_is_told_what_is_wrong_with_it(document: object) -> None:
    with pytest.raises(ConfigError) as raised:
        validated(document, "x")
    assert raised.value.problems
    assert all(str(each).startswith("x: ") for each in raised.value.problems)
