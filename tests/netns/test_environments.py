# SPDX-License-Identifier: Apache-2.0
"""Environments come and go in a standing lab."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from netns import NetnsError, environments, links, namespace, topology
from netns.netlink import RouteSocket
from tests.netns.conftest import inspect, lab_spec


@pytest.mark.live
def test_environments_come_and_go(lab: str) -> None:
    spec = lab_spec(lab, 3)
    built = topology.build(spec)
    (added,) = topology.add_environments(spec, [4])
    four = replace(spec, environments=4)
    found = inspect(four)
    assert found is not None
    assert found.slots == (*built.slots, added)

    topology.remove_environments(lab, [2, 4, 5])
    topology.remove_environments(lab, [2, 4])
    assert inspect(four) is None
    with namespace.call(built.gateway, RouteSocket) as inside:
        assert set(links.links(inside)) == {"lo", "eni-a", "eni-b", "env1", "env3"}

    (again,) = topology.add_environments(spec, [2])
    # A hardware address belongs to the environment, not to one life of its link.
    assert again == replace(built.slots[1], ifindex=again.ifindex)
    assert inspect(spec) == replace(built, slots=(built.slots[0], again, built.slots[2]))


@pytest.mark.live
def test_adding_what_is_there_takes_back_only_its_own(lab: str) -> None:
    spec = lab_spec(lab, 2)
    built = topology.build(spec)
    with pytest.raises(NetnsError, match="File exists"):
        topology.add_environments(spec, [3, 2])
    assert inspect(spec) == built


@pytest.mark.live
@pytest.mark.parametrize("numbers", [[0], [-1], [16385]])
def test_impossible_environment_numbers(lab: str, numbers: list[int]) -> None:
    with pytest.raises(NetnsError, match="is impossible"):
        topology.add_environments(lab_spec(lab), numbers)


@pytest.mark.parametrize(
    ("count", "expected"), [(0, (512, 1024)), (192, (512, 1024)), (1000, (2128, 4256))]
)
def test_neighbour_limits_are_raised_only_where_needed(
    count: int,
    expected: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    files = tmp_path / "gc_thresh2", tmp_path / "gc_thresh3"
    monkeypatch.setattr(environments, "_NEIGHBOUR_LIMITS", tmp_path)
    for file, value in zip(files, (512, 1024), strict=True):
        file.write_text(f"{value}\n")
    environments.raise_neighbour_limits(count)
    assert tuple(int(file.read_text()) for file in files) == expected
    environments.raise_neighbour_limits(0)
    assert tuple(int(file.read_text()) for file in files) == expected
