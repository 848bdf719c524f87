# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin in projects of its own, without a lab."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hyperplane_nat.errors import ConfigError
from hyperplane_nat.testing import Lab
from hyperplane_nat.testing.running import settings

pytest_plugins = ["pytester"]


def test_without_root_it_skips_with_the_reason(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import os; os.geteuid = lambda: 1000")
    pytester.makepyfile("def test_it(hyperplane_lab): pass")
    result = pytester.runpytest_subprocess("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*hyperplane_lab needs root*run pytest with sudo*"])


def test_ini_names_the_file(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nhyperplane_lab = some/lab.toml\n")
    pytester.makepyfile(
        """
        def test_it(hyperplane_config, pytestconfig):
            assert hyperplane_config == pytestconfig.inipath.parent / "some" / "lab.toml"
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_loading_it_imports_nothing_else_of_the_product() -> None:
    code = (
        "import pytest, sys; before = set(sys.modules); import hyperplane_nat.testing.plugin;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = "hyperplane_nat", "hyperplane_nat.testing"
    assert done.stdout.split() == [*names, f"{names[1]}.builder", f"{names[1]}.plugin"]


def test_builder_writes_what_a_file_would_say() -> None:
    rule = {"protocol": "tcp", "ports": "80", "cidr": "10.0.0.0/16"}
    lab = Lab().vpc("10.0.0.0/16", name="v").subnet("10.0.1.0/24", name="a")
    lab.security_group("g", egress=[rule]).set("timeouts", time_scale=10)
    lab.service("web", kind="http", address="10.0.1.80", port=80)
    lab.host("store", address="10.0.1.90").host("other", subnet="a")
    lab.function("f", subnets=["a"], security_groups=["g"])
    document = tomllib.loads(lab.toml())
    assert document == lab.document
    assert document["vpc"][0]["security_group"] == [{"name": "g", "egress": [rule]}]
    store, other = document["vpc"][0]["host"]
    assert store == {"name": "store", "address": "10.0.1.90", "subnet": "a"}
    assert other == {"name": "other", "subnet": "a"}


def test_builder_names_and_joins() -> None:
    lab = Lab().vpc("10.0.0.0/16").subnet("10.0.1.0/24").subnet("10.0.2.0/24").security_group("g")
    lab.function("f").function("out", networking="none").vpc("10.1.0.0/16", name="other")
    lab.subnet("10.1.0.0/24").function("late", subnets=["subnet-1"], security_groups=["g"])
    document = tomllib.loads(lab.toml())
    assert [vpc["name"] for vpc in document["vpc"]] == ["vpc-1", "other"]
    assert [each["name"] for each in document["vpc"][1]["subnet"]] == ["subnet-3"]
    inside, outside, late = document["function"]
    assert inside["subnets"] == ["subnet-1", "subnet-2"]
    assert inside["security_groups"] == ["g"]
    assert outside == {"name": "out", "networking": "none"}
    assert late["subnets"] == ["subnet-1"]


def handler(event: object, _context: object) -> object:
    return event


def test_builder_takes_a_python_function() -> None:
    (function,) = Lab().function("f", handler=handler, networking="none").document["function"]
    assert function["code"] == __file__
    assert function["handler"] == "test_plugin.handler"
    for other in (lambda event, _context: event, print, str.upper):
        with pytest.raises(ValueError, match="is no function of a module"):
            Lab().function("f", handler=other)


def test_code_is_where_the_test_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    lab = Lab().function("f", code="app.zip", handler="app.handler", networking="none")
    assert lab.document["function"][0]["code"] == str(tmp_path / "app.zip")


def test_builder_is_checked() -> None:
    with pytest.raises(ConfigError, match="time_scale"):
        Lab().set("timeouts", time_scale=0).toml()
    with pytest.raises(ValueError, match="belongs to a VPC"):
        Lab().subnet("10.0.1.0/24", name="a")


def test_what_the_configuration_says_is_kept(tmp_path: Path) -> None:
    said = settings({"lab": {"environments": 7}, "flows": {"max": 5}}, tmp_path)
    assert "lab.environments=2" not in said
    assert "metrics.port=0" in said
    assert not any(word.startswith("flows.max") for word in said)
