# SPDX-License-Identifier: Apache-2.0
"""Configuration: defaults, what is refused and with which words, and writing it out."""

from __future__ import annotations

import grp
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hyperplane_nat.config.lab import (
    Config,
    ConfigError,
    load,
)
from hyperplane_nat.config.nat import Timeouts, timeouts_ms
from hyperplane_nat.config.text import markdown, toml
from hyperplane_nat.config.values import DURATION_MAX_MILLISECONDS, nested_section


def _timeouts(config: Config) -> dict[str, int]:
    return timeouts_ms(config.timeouts, config.ports)


def refused(tmp_path: Path, text: str) -> str:
    """The error's lines, less the name of the file and the numbers of its lines."""
    file = tmp_path / "lab.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load(file)
    lines = str(raised.value).splitlines()
    assert all(line.endswith(")") for line in lines), "no remedy"
    place = re.compile(rf"{re.escape(str(file))}(:[0-9]+)?: ")
    assert all(place.match(line) for line in lines)
    return "\n".join(place.sub("", line, count=1) for line in lines)


def accepted(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "lab.toml"
    file.write_text(text, encoding="utf-8")
    return load(file)


def test_an_empty_file_is_the_default_lab(tmp_path: Path) -> None:
    assert accepted(tmp_path, "") == load(None) == Config()


def test_the_default_lab() -> None:
    config = Config()
    assert config.lab.environments == 100
    (vpc,) = config.vpc
    assert (vpc.name, vpc.cidr) == ("customer", "10.0.0.0/16")
    (interface,) = config.network_interface
    assert config.place(interface) == (vpc, vpc.subnet[0])
    assert vpc.subnet[0].router == "10.0.1.1"
    assert [(service.name, service.address, service.port) for service in vpc.service] == [
        ("web", "10.0.1.80", 80),
        ("echo", "10.0.1.81", 7),
    ]
    assert config.state_file == Path("/dev/shm/hyperplane-nat-default.map")
    assert config.runtime_directory == Path("/run/hyperplane-nat/default")


def test_json_is_read_back_as_the_same() -> None:
    config = load(None, {"lab.environments": 7})
    assert Config.model_validate(config.model_dump(mode="json")) == config
    assert Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("comments", [True, False])
def test_toml_is_read_back_as_the_same(comments: bool) -> None:
    config = load(None, {"lab.name": "other", "timeouts.time_scale": 12.5, "metrics.port": 0})
    assert Config.model_validate(tomllib.loads(toml(config, comments=comments))) == config


def test_toml_without_services_is_read_back_without(tmp_path: Path) -> None:
    config = accepted(
        tmp_path,
        """
        [[vpc]]
        name = "b"
        cidr = "10.0.0.0/16"
        [[vpc.subnet]]
        name = "private-a"
        cidr = "10.0.1.0/24"
        """,
    )
    assert config.vpc[0].service == []
    assert Config.model_validate(tomllib.loads(toml(config))) == config


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])).filter(lambda s: "\0" not in s))
def test_any_text_survives_toml(text: str) -> None:
    config = load(None, {"lab.state_directory": f"/{text}"})
    assert load_toml(toml(config)).lab.state_directory == f"/{text}"


def load_toml(text: str) -> Config:
    return Config.model_validate(tomllib.loads(text))


def test_several_vpcs_may_overlap_each_other(tmp_path: Path) -> None:
    config = accepted(
        tmp_path,
        "".join(
            f"""
            [[vpc]]
            name = "{name}"
            cidr = "10.0.0.0/16"
            [[vpc.subnet]]
            name = "private-{name}"
            cidr = "10.0.1.0/24"
            [[network_interface]]
            name = "eni-{name}"
            subnet = "private-{name}"
            address = "10.0.1.10"
            """
            for name in ("a", "b")
        ),
    )
    assert [config.interface_of(number).name for number in (1, 2, 3)] == ["eni-a", "eni-b", "eni-a"]


VPC = """
[[vpc]]
name = "customer"
cidr = "10.0.0.0/16"
"""
SUBNET = """
[[vpc.subnet]]
name = "private-a"
cidr = "10.0.1.0/24"
"""
INTERFACE = """
[[network_interface]]
name = "eni-a"
subnet = "private-a"
address = "10.0.1.10"
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "[lab]\nenvironment = 3",
            "lab.environment: unknown field (did you mean 'environments'?)",
            id="unknown-field",
        ),
        pytest.param(
            "[lbb]",
            "lbb: unknown field (did you mean 'lab'?)",
            id="unknown-section",
        ),
        pytest.param(
            '[lab]\nname = "Big Lab"',
            "lab.name: 'Big Lab' is not a lab name (use 1 to 15 lower-case letters, digits and "
            "dashes, not starting with a dash)",
            id="lab-name",
        ),
        pytest.param(
            '[lab]\nname = "a-vpc-b"',
            "lab.name: 'a-vpc-b' contains 'vpc', which namespace names are made of (choose "
            "another name)",
            id="lab-name-that-is-anothers-namespace",
        ),
        pytest.param(
            '[lab]\nenvironments = "ten"',
            "lab.environments: 'ten': input should be a valid integer (write a whole number "
            "without quotes)",
            id="text-for-a-number",
        ),
        pytest.param(
            "[lab]\nenvironments = true",
            "lab.environments: True: input should be a valid integer (write a whole number "
            "without quotes)",
            id="truth-for-a-number",
        ),
        pytest.param(
            "[lab]\nenvironments = -1",
            "lab.environments: -1: input should be greater than or equal to 0 (see "
            "docs/configuration.md)",
            id="out-of-range",
        ),
        pytest.param(
            '[lab]\nstate_directory = "shm"',
            "lab.state_directory: 'shm' is not an absolute path (start it with a slash)",
            id="relative-path",
        ),
        pytest.param(
            "lab = 3",
            "lab: 3: input should be a valid dictionary or instance of Lab (write it as a table, "
            "[name])",
            id="value-for-a-section",
        ),
        pytest.param(
            "[lab]\nnam = 1\nenv = 2",
            "lab.nam: unknown field (did you mean 'name'?)\n"
            "lab.env: unknown field (known: environments, name, process_uid, runtime_directory, "
            "socket_group, state_directory)",
            id="two-problems",
        ),
        pytest.param(
            '[environment]\naddress = "169.254.100.2"',
            "environment.address: '169.254.100.2' is not an IPv4 address with a prefix length "
            "(write it like 169.254.100.2/30)",
            id="no-prefix",
        ),
        pytest.param(
            '[environment]\ngateway = "169.254.100.5"',
            "environment.gateway: 169.254.100.5 is outside 169.254.100.0/30 (choose an address "
            "inside the network)",
            id="gateway-outside",
        ),
        pytest.param(
            '[environment]\ngateway = "169.254.100.2"',
            "environment.gateway: 169.254.100.2 is the environment's own address (choose another "
            "one)",
            id="gateway-is-the-environment",
        ),
        pytest.param(
            '[environment]\ngateway = "169.254.100.3"',
            "environment.gateway: 169.254.100.3 is the network or broadcast address of "
            "169.254.100.0/30 (choose a host address)",
            id="gateway-is-broadcast",
        ),
        pytest.param(
            VPC + SUBNET + '[[vpc.subnet]]\nname = "b"\ncidr = "10.0.1.128/25"',
            '[[vpc]] "customer", subnet "b": cidr: 10.0.1.128/25 overlaps subnet '
            "'private-a', 10.0.1.0/24 (give each subnet of a VPC a network of its own)",
            id="overlapping-subnets",
        ),
        pytest.param(
            VPC + '[[vpc.subnet]]\nname = "private-a"\ncidr = "10.1.0.0/24"',
            '[[vpc]] "customer", subnet "private-a": cidr: 10.1.0.0/24 is outside VPC '
            "'customer', 10.0.0.0/16 (choose a network inside it)\n"
            '[[network_interface]] "eni-a": address: 10.0.1.10 is outside subnet '
            "'private-a', 10.1.0.0/24 (it is the default lab's: write "
            "[[network_interface]] in the file)",
            id="subnet-outside-its-vpc",
        ),
        pytest.param(
            VPC + '[[vpc.subnet]]\nname = "private-a"\ncidr = "10.0.1.7/24"',
            '[[vpc]] "customer", subnet "private-a": cidr: \'10.0.1.7/24\' is not an IPv4 '
            "network (the bits after the prefix must be zero: did you mean 10.0.1.0/24?)",
            id="host-bits",
        ),
        pytest.param(
            VPC + '[[vpc.subnet]]\nname = "private-a"\ncidr = "10.0.1.0/29"',
            '[[vpc]] "customer", subnet "private-a": cidr: 10.0.1.0/29 is smaller than a '
            "/28 (choose a larger one)\n"
            '[[network_interface]] "eni-a": address: 10.0.1.10 is outside subnet '
            "'private-a', 10.0.1.0/29 (it is the default lab's: write "
            "[[network_interface]] in the file)",
            id="subnet-too-small",
        ),
        pytest.param(
            '[[vpc]]\nname = "a"\ncidr = "169.254.0.0/16"\n' + SUBNET.replace("10.0", "169.254"),
            '[[vpc]] "a": cidr: 169.254.0.0/16 overlaps the environments\' own network, '
            "169.254.100.0/30 (move either)\n"
            '[[network_interface]] "eni-a": address: 10.0.1.10 is outside subnet '
            "'private-a', 169.254.1.0/24 (it is the default lab's: write "
            "[[network_interface]] in the file)",
            id="vpc-over-the-environments",
        ),
        pytest.param(
            VPC + SUBNET + VPC + SUBNET.replace("private-a", "private-b"),
            "[[vpc]] \"customer\": name: 2 VPCs are called 'customer' (rename all but one)",
            id="two-vpcs-of-a-name",
        ),
        pytest.param(
            VPC + SUBNET + VPC.replace("customer", "other") + SUBNET,
            '[[vpc]] "other", subnet "private-a": name: 2 subnets are called \'private-a\' '
            "(rename all but one)",
            id="two-subnets-of-a-name",
        ),
        pytest.param(
            INTERFACE.replace("10.0.1.10", "10.0.2.10"),
            '[[network_interface]] "eni-a": address: 10.0.2.10 is outside subnet '
            "'private-a', 10.0.1.0/24 (choose an address inside)",
            id="address-outside-the-subnet",
        ),
        pytest.param(
            INTERFACE.replace("10.0.1.10", "10.0.1.3"),
            '[[network_interface]] "eni-a": address: 10.0.1.3 is one of the five reserved '
            "addresses of 10.0.1.0/24 (choose one from 10.0.1.4 to 10.0.1.254)",
            id="reserved-address",
        ),
        pytest.param(
            INTERFACE.replace("10.0.1.10", "10.0.1.255"),
            '[[network_interface]] "eni-a": address: 10.0.1.255 is one of the five '
            "reserved addresses of 10.0.1.0/24 (choose one from 10.0.1.4 to 10.0.1.254)",
            id="broadcast-address",
        ),
        pytest.param(
            INTERFACE.replace("10.0.1.10", "10.0.1.80"),
            '[[network_interface]] "eni-a": address: 10.0.1.80 is the address of service '
            "'web' too (choose another one)",
            id="address-of-a-service",
        ),
        pytest.param(
            INTERFACE + INTERFACE.replace("eni-a", "eni-b"),
            '[[network_interface]] "eni-b": address: 10.0.1.10 is the address of network '
            "interface 'eni-a' too (choose another one)",
            id="two-interfaces-of-an-address",
        ),
        pytest.param(
            INTERFACE + 'secondary_addresses = ["10.0.1.11", "10.0.1.10"]\n',
            '[[network_interface]] "eni-a": secondary_addresses[1]: 10.0.1.10 is the '
            "address of network interface 'eni-a' too (choose another one)",
            id="secondary-address-twice",
        ),
        pytest.param(
            INTERFACE + 'secondary_addresses = ["10.0.9.11"]\n',
            '[[network_interface]] "eni-a": secondary_addresses[0]: 10.0.9.11 is outside '
            "subnet 'private-a', 10.0.1.0/24 (choose an address inside)",
            id="secondary-address-outside",
        ),
        pytest.param(
            INTERFACE + 'secondary_addresses = ["10.0.1.80"]\n',
            '[[network_interface]] "eni-a": secondary_addresses[0]: 10.0.1.80 is the '
            "address of service 'web' too (choose another one)",
            id="secondary-address-of-a-service",
        ),
        pytest.param(
            INTERFACE + INTERFACE.replace("10.0.1.10", "10.0.1.11"),
            "[[network_interface]] \"eni-a\": name: 2 network interfaces are called 'eni-a' "
            "(rename all but one)",
            id="two-interfaces-of-a-name",
        ),
        pytest.param(
            INTERFACE.replace("eni-a", "eni-of-the-payment-team"),
            '[[network_interface]] "eni-of-the-payment-team": name: '
            "'eni-of-the-payment-team' has 23 characters, a network link's name holds 15 "
            "(choose a shorter name)",
            id="name-too-long",
        ),
        pytest.param(
            INTERFACE.replace("eni-a", "env7"),
            "[[network_interface]] \"env7\": name: 'env7' is taken by a link of the lab "
            "itself (choose another name)",
            id="name-of-a-slot",
        ),
        pytest.param(
            INTERFACE.replace("private-a", "private-b"),
            "[[network_interface]] \"eni-a\": subnet: there is no subnet 'private-b' (did "
            "you mean 'private-a'?)",
            id="no-such-subnet",
        ),
        pytest.param(
            VPC
            + SUBNET
            + '[[vpc.service]]\nname = "a"\nkind = "http"\naddress = "10.0.9.9"\nport = 80',
            '[[vpc]] "customer", service "a": address: 10.0.9.9 is outside every subnet of '
            "VPC 'customer' (choose an address inside)",
            id="service-outside",
        ),
        pytest.param(
            VPC
            + SUBNET
            + "".join(
                f'[[vpc.service]]\nname = "{name}"\nkind = "http"\n'
                'address = "10.0.1.9"\nport = 80\n'
                for name in "ab"
            ),
            '[[vpc]] "customer", service "b": port: service \'a\' already listens on '
            "10.0.1.9:80 (choose another port or address)",
            id="two-services-on-a-port",
        ),
        pytest.param(
            "[forwarder]\nring_slots = 5000",
            "forwarder.ring_slots: 5000 is not a power of two (use 4096 or 8192)",
            id="ring-slots",
        ),
        pytest.param(
            "[forwarder]\nring_slot_bytes = 3000",
            "forwarder.ring_slot_bytes: 3000 is not a power of two (use 2048 or 4096)",
            id="ring-slot-bytes",
        ),
        pytest.param(
            "[forwarder]\nbudget_frames = 10",
            "forwarder.budget_frames: 10 is less than forwarder.batch_frames, 128 (raise it or "
            "lower the other)",
            id="budget-below-batch",
        ),
        pytest.param(
            "[ports]\nfirst = 5000\nlast = 4000",
            "ports.first: 5000 is above ports.last, 4000 (swap them)",
            id="ports-swapped",
        ),
        pytest.param(
            "[timeouts]\ntime_scale = 0.0001",
            "timeouts.time_scale: 0.0001 makes the longest timeout 3500000 seconds, above 2147483 "
            "(raise it or shorten the timeouts)",
            id="time-scale",
        ),
        pytest.param(
            "[timeouts]\ntime_scale = nan",
            "timeouts.time_scale: nan: input should be a finite number (see docs/configuration.md)",
            id="not-a-number",
        ),
        pytest.param(
            '[lab]\nsocket_group = "net dev"',
            "lab.socket_group: 'net dev' is not a group of a host (write its name or its number)",
            id="socket-group",
        ),
        pytest.param(
            '[lab]\nsocket_group = "4294967295"',
            "lab.socket_group: '4294967295' is not the number of a group (use one below "
            "4294967295)",
            id="socket-group-number",
        ),
        pytest.param(
            '[metrics]\nhosts = ["Gateway:9109"]',
            "metrics.hosts[0]: 'Gateway:9109' is not a host name (write it in lower case and "
            "without a port)",
            id="metrics-host",
        ),
    ],
)
def test_refused_with_one_line_and_a_remedy(tmp_path: Path, text: str, message: str) -> None:
    assert refused(tmp_path, text) == message


@pytest.mark.requirement("RFC6888-3", profile="both")
def test_an_interface_has_eight_addresses_at_most(tmp_path: Path) -> None:
    """Any of its subnet, next to each other or not."""
    addresses = [f"10.0.1.{number}" for number in (11, 12, 30, 99, 150, 222, 254, 13)]
    file = tmp_path / "lab.toml"
    file.write_text(f"{INTERFACE}secondary_addresses = {addresses[:7]}\n")
    assert load(file).network_interface[0].addresses == ["10.0.1.10", *addresses[:7]]
    words = refused(tmp_path, f"{INTERFACE}secondary_addresses = {addresses}\n")
    assert words.startswith('[[network_interface]] "eni-a": secondary_addresses: ')


def test_a_group_is_a_name_or_a_number(tmp_path: Path) -> None:
    name = grp.getgrgid(0).gr_name
    for text, group in (("44", "44"), ('"44"', "44"), (f'"{name}"', name)):
        assert accepted(tmp_path, f"[lab]\nsocket_group = {text}").lab.socket_group == group


def test_a_directory_that_is_too_deep_for_sockets(tmp_path: Path) -> None:
    """The longest of the sockets' paths just fits, and then does not."""
    fits = "/" + "x" * (107 - len("//default/forwarder.sock"))
    accepted(tmp_path, f'[lab]\nruntime_directory = "{fits}"')
    message = refused(tmp_path, f'[lab]\nruntime_directory = "{fits}x"')
    assert message == (
        f"lab.runtime_directory: {fits}x/default/forwarder.sock has 108 bytes, the path of a unix "
        "socket at most 107 (choose a shorter directory)"
    )


def test_bad_toml_says_where(tmp_path: Path) -> None:
    assert refused(tmp_path, "[lab]\nname = = 3").startswith("not valid TOML: ")
    assert "line 2" in refused(tmp_path, "[lab]\nname = = 3")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "absent.toml")


def test_a_directory_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory \(name a file\)$"):
        load(tmp_path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(file)


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text("[lab]\nenvironments = 3\n")
    assert load(file, {"lab.environments": 5}).lab.environments == 5
    assert load(file, {"lab.environments": None}).lab.environments == 3


def test_a_wrong_override_is_the_command_lines_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^command line: lab\.environments: -1: "):
        load(None, {"lab.environments": -1})
    file = tmp_path / "lab.toml"
    file.write_text("lab = 3\n")
    with pytest.raises(ConfigError, match="lab: not a table"):
        load(file, {"lab.environments": 5})


def test_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Config().lab.name = "other"  # type: ignore[misc]


@pytest.mark.requirement("RFC4787-5", profile="aws")
@pytest.mark.requirement("RFC5508-2", profile="aws")
def test_timeouts_are_scaled_and_in_milliseconds() -> None:
    assert _timeouts(load(None, {"timeouts.time_scale": 10.0})) == {
        "tcp_opening": 6000,
        "tcp_established": 35000,
        "tcp_half_closed": 35000,
        "tcp_closing": 6000,
        "tcp_reset": 6000,
        "udp": 35000,
        "icmp": 6000,
        "hold": 6000,
    }


def test_no_timeout_is_scaled_to_nothing_but_no_hold_stays_none() -> None:
    config = load(None, {"timeouts.time_scale": 1e6, "ports.hold_seconds": 0})
    timeouts = _timeouts(config)
    assert timeouts.pop("hold") == 0
    assert set(timeouts.values()) == {1}


def test_the_longest_timeout_fits_the_data_path() -> None:
    longest = DURATION_MAX_MILLISECONDS // 1000
    assert _timeouts(load(None, {"timeouts.udp_seconds": longest}))["udp"] == longest * 1000
    with pytest.raises(ConfigError):
        load(None, {"timeouts.udp_seconds": longest + 1})


def test_every_field_is_described_and_on_the_page() -> None:
    page = markdown()

    def walk(model: type, prefix: str) -> None:
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            nested = nested_section(field)
            if nested is not None:
                walk(nested, f"{prefix}{name}.")
            else:
                assert field.description, prefix + name
                assert f"| `{name}` |" in page

    walk(Config, "")


def test_every_duration_has_its_unit_in_its_name() -> None:
    assert all(name.endswith("_seconds") for name in Timeouts.model_fields if name != "time_scale")
