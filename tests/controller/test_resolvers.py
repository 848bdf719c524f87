# SPDX-License-Identifier: Apache-2.0
"""The resolvers of a lab: how they are started, what they are told, what is left of them."""

from __future__ import annotations

import sys
from pathlib import Path

from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.network import resolvers
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.resolver.figures import Figures, Outcome
from tests.controller.support import config_in, paths_of
from tests.controller.test_reconcile import region_of

VPCS = [
    {
        "name": name,
        "cidr": "10.0.0.0/16",
        "enable_dns_support": name != "quiet",
        "enable_dns_hostnames": name == "two",
        "subnet": [{"name": f"{name}-a", "cidr": "10.0.1.0/24"}],
        "service": [{"name": "web", "kind": "http", "address": "10.0.1.80", "port": 80}],
    }
    for name in ("one", "two", "quiet")
]


def lab(directory: Path, **sections: object) -> Config:
    named = {
        "vpc": VPCS,
        "network_interface": [],
        "lab": {"environments": 0, "process_uid": 7},
        **sections,
    }
    return config_in(directory, **named)


def test_every_vpc_with_dns_support_has_one(tmp_path: Path) -> None:
    config = lab(tmp_path)
    one, two = resolvers.resolver_specs(config, region_of(config).wanted().vpcs)
    assert (one.label, two.label) == ("Resolver/one", "Resolver/two")
    words = list(one.command)
    assert words[:4] == [sys.executable, "-P", "-m", "hyperplane_nat.resolver"]
    options = dict(zip(words[4::2], words[5::2], strict=True))
    assert options["--namespace"] == "hp-test-vpc-one"
    assert options["--names"] == str(paths_of(config).resolver_names("one"))
    assert options["--uid"] == "7"
    assert [words[n + 1] for n, word in enumerate(words) if word == "--address"] == [
        "10.0.0.2",
        "169.254.169.253",
    ]
    assert "--upstream" not in options


def test_an_upstream_is_a_matter_of_the_command_line(tmp_path: Path) -> None:
    for said, asked in (("192.0.2.1", "192.0.2.1:53"), ("127.0.0.1:5353", "127.0.0.1:5353")):
        config = lab(tmp_path, dns={"upstream": said})
        spec = resolvers.resolver_specs(config, region_of(config).wanted().vpcs)[0]
        assert spec.command[spec.command.index("--upstream") + 1] == asked


def test_they_are_told_and_forgotten_by_vpc(tmp_path: Path) -> None:
    config = lab(tmp_path, **{"lambda": {"region": "eu-west-1"}})
    paths: LabPaths = paths_of(config)
    paths.directory.mkdir(parents=True)
    vpcs = region_of(config).wanted().vpcs
    resolvers.tell(config, vpcs)
    assert paths.resolvers() == ["one", "two"]
    two = next(vpc.resolver for vpc in vpcs if vpc.name == "two")
    assert two is not None
    zone = resolvers.zone_of(config, two)
    assert zone.address("web.two.internal") == "10.0.1.80"
    assert zone.address("ip-10-0-0-9.eu-west-1.compute.internal") == "10.0.0.9"
    figures = Figures(paths.resolver_figures("one"))
    figures.count(Outcome.RATE_LIMITED)
    figures.close()
    assert resolvers.counts(paths)["one"]["rate_limited"] == 1
    assert sum(resolvers.counts(paths)["two"].values()) == 0
    resolvers.forget(config, [vpc for vpc in vpcs if vpc.name == "two"])
    assert paths.resolvers() == ["two"]
    assert not paths.resolver_figures("one").exists()
