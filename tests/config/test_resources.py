# SPDX-License-Identifier: Apache-2.0
"""Accounts, security groups, the internet and functions in the configuration."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperplane_nat.config.lab import Config, ConfigError, load
from hyperplane_nat.config.resources import POOL_SIZE, Lifecycle, Rule
from hyperplane_nat.config.text import toml
from tests.config.test_lab import accepted, load_toml, refused

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"

VPC = """
[[vpc]]
name = "orders"
cidr = "10.0.0.0/16"
[[vpc.subnet]]
name = "a"
cidr = "10.0.1.0/24"
[[vpc.subnet]]
name = "b"
cidr = "10.0.2.0/24"
[[vpc.security_group]]
name = "functions"
"""
DATABASE = """
[[vpc.security_group]]
name = "db"
ingress = [{ protocol = "tcp", ports = "5432", group = "functions" }]
[[vpc.service]]
name = "db"
kind = "http"
address = "10.0.1.54"
port = 5432
security_groups = ["db"]
"""
OTHER = """
[[vpc]]
name = "other"
cidr = "10.0.0.0/16"
[[vpc.subnet]]
name = "c"
cidr = "10.0.1.0/24"
[[vpc.security_group]]
name = "others"
"""
FUNCTION = """
[[function]]
name = "f"
subnets = ["a", "b"]
security_groups = ["functions"]
"""
OUTSIDE = """
[[function]]
name = "outside"
networking = "none"
"""
HOST = """
[[internet]]
name = "site"
kind = "http"
address = "203.0.113.80"
port = 80
"""
INTERFACE = """
[[network_interface]]
name = "eni-a"
subnet = "a"
address = "10.0.1.10"
"""


def rule(text: str) -> str:
    """A VPC whose group has one ingress rule."""
    return f"{VPC}ingress = [{{ {text} }}]"


RULE = "vpc[0].security_group[0].ingress[0]"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_every_example_loads_and_survives_being_written_out(path: Path) -> None:
    config = load(path)
    for comments in (True, False):
        assert load_toml(toml(config, comments=comments)) == config
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_there_is_an_example_of_every_networking() -> None:
    kinds = {function.networking for function in load(EXAMPLES / "lambda.toml").function}
    assert kinds == {"hyperplane", "interface-per-environment", "none"}


def test_a_lab_without_functions_has_neither_pool_nor_internet() -> None:
    config = Config()
    assert (config.function, config.internet, config.pool.size) == ([], [], 0)


def test_a_function_changes_what_is_left_out(tmp_path: Path) -> None:
    config = accepted(tmp_path, VPC + FUNCTION)
    assert (config.lab.environments, config.network_interface) == (0, [])
    assert config.pool.size == POOL_SIZE
    assert load_toml(toml(config)) == config


def test_a_function_changes_nothing_that_is_said(tmp_path: Path) -> None:
    config = accepted(
        tmp_path, "[lab]\nenvironments = 5\n[pool]\nsize = 3\n" + VPC + INTERFACE + FUNCTION
    )
    assert (config.lab.environments, config.pool.size) == (5, 3)
    assert [config.interface_of(number).name for number in (1, 2)] == ["eni-a", "eni-a"]


def test_static_environments_stay_where_a_network_interface_is_given(tmp_path: Path) -> None:
    assert accepted(tmp_path, VPC + INTERFACE + FUNCTION).lab.environments == 100


@pytest.mark.parametrize(
    ("text", "interfaces"),
    [
        pytest.param("vpc = []", 0, id="nothing"),
        pytest.param('[[vpc]]\nname = "bare"\ncidr = "10.0.0.0/16"', 0, id="vpc-without-subnet"),
        pytest.param("[lab]\nenvironments = 0", 1, id="no-environment"),
    ],
)
def test_a_lab_may_be_empty(tmp_path: Path, text: str, interfaces: int) -> None:
    config = accepted(tmp_path, text)
    assert (config.lab.environments, len(config.network_interface)) == (0, interfaces)
    assert load_toml(toml(config)) == config


def test_a_new_group_lets_everything_out_and_nothing_in(tmp_path: Path) -> None:
    (group,) = accepted(tmp_path, VPC + FUNCTION).vpc[0].security_group
    assert group.ingress == []
    assert group.egress == [Rule(protocol="all", cidr="0.0.0.0/0")]


def test_a_group_without_egress_rules_keeps_none_when_written_out(tmp_path: Path) -> None:
    config = accepted(tmp_path, VPC + "egress = []\n" + FUNCTION)
    assert config.vpc[0].security_group[0].egress == []
    for comments in (True, False):
        assert Config.model_validate(tomllib.loads(toml(config, comments=comments))) == config


def test_rules_may_be_tables_of_their_own(tmp_path: Path) -> None:
    inline = accepted(tmp_path, rule('protocol = "udp", cidr = "10.0.0.0/8"') + FUNCTION)
    tables = accepted(
        tmp_path,
        VPC + '[[vpc.security_group.ingress]]\nprotocol = "udp"\ncidr = "10.0.0.0/8"\n' + FUNCTION,
    )
    assert inline == tables


@pytest.mark.parametrize(
    ("ports", "expected"),
    [("5432", (5432, 5432)), ("1024-2048", (1024, 2048)), ("0-65535", (0, 65535))],
)
def test_ports_of_a_rule(ports: str, expected: tuple[int, int]) -> None:
    assert Rule(protocol="tcp", ports=ports, cidr="0.0.0.0/0").port_range == expected


def test_a_rule_without_ports_is_for_all() -> None:
    assert Rule(protocol="tcp", cidr="0.0.0.0/0").port_range == (0, 65535)


@given(st.integers(0, 70_000), st.integers(0, 70_000))
def test_a_range_of_ports_is_accepted_exactly_if_it_is_one(first: int, last: int) -> None:
    text = f"{first}-{last}"
    if first <= last <= 65535:
        assert Rule(protocol="udp", ports=text, group="g").port_range == (first, last)
    else:
        with pytest.raises(ValueError, match=r"ends before it begins|is not a port"):
            Rule(protocol="udp", ports=text, group="g")


def test_the_owner_of_a_function_is_its_vpcs(tmp_path: Path) -> None:
    config = accepted(
        tmp_path,
        '[[account]]\nname = "one"\n[[account]]\nname = "two"\n'
        + VPC.replace("cidr", 'account = "two"\ncidr', 1)
        + OTHER
        + FUNCTION
        + OUTSIDE,
    )
    assert [config.account_of(item) for item in config.vpc] == ["two", "one"]
    assert [config.account_of(item) for item in config.function] == ["two", "one"]
    assert config.vpc_of(config.function[0]).name == "orders"
    with pytest.raises(KeyError):
        config.vpc_of(config.function[1])


def test_accounts_are_named_by_their_ids_too(tmp_path: Path) -> None:
    config = accepted(
        tmp_path,
        '[[account]]\nname = "one"\n[[account]]\nname = "two"\nid = "111122223333"\n'
        + VPC.replace("cidr", 'account = "111122223333"\ncidr', 1)
        + FUNCTION.replace("subnets", 'account = "two"\nsubnets', 1),
    )
    assert [config.account_of(vpc) for vpc in config.vpc] == ["two"]
    assert [config.account_of(function) for function in config.function] == ["two"]


def test_two_vpcs_may_have_groups_of_the_same_name(tmp_path: Path) -> None:
    config = accepted(tmp_path, VPC + OTHER.replace("others", "functions") + FUNCTION)
    assert len(config.vpc) == 2


def test_a_vpc_may_be_called_internet_where_there_is_none(tmp_path: Path) -> None:
    assert accepted(tmp_path, VPC.replace("orders", "internet") + INTERFACE).vpc[0].name


def test_a_scale_may_be_a_whole_number(tmp_path: Path) -> None:
    assert accepted(tmp_path, "[lifecycle]\ntime_scale = 60").lifecycle.time_scale == 60.0


def test_every_duration_has_its_unit_in_its_name() -> None:
    numbers = {name for name, field in Lifecycle.model_fields.items() if field.annotation is float}
    assert {name for name in numbers if not name.endswith("_seconds")} == {"time_scale"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "network_interface = []",
            "lab.environments: 100 environments have no network interface to share (add a "
            "[[network_interface]])",
            id="no-interface",
        ),
        pytest.param(
            "[lab]\nenvironments = 2\n" + VPC + FUNCTION,
            "lab.environments: 2 environments have no network interface to share (add a "
            "[[network_interface]], or set it to 0: functions bring their own)",
            id="no-interface-beside-functions",
        ),
        pytest.param(
            "[lab]\nenvironments = 16000\n[pool]\nsize = 1000",
            "pool.size: with lab.environments, 16000, it makes more than 16383 environments (make "
            "it 383 or less)",
            id="pool-too-large",
        ),
        pytest.param(
            '[[account]]\nname = "a"\nid = "1234"',
            "[[account]] \"a\": id: '1234' is not an account id (write 12 digits in quotes)",
            id="account-id",
        ),
        pytest.param(
            '[[account]]\nname = "a"\nid = 111122223333',
            '[[account]] "a": id: 111122223333: input should be a valid string (put it in quotes)',
            id="account-id-as-a-number",
        ),
        pytest.param(
            '[[account]]\nname = "a"\n[[account]]\nname = "a"',
            "[[account]] \"a\": name: 2 accounts are called 'a' (rename all but one)",
            id="two-accounts-of-a-name",
        ),
        pytest.param(
            '[[account]]\nname = "a"\nid = "111122223333"\n'
            '[[account]]\nname = "b"\nid = "111122223333"',
            "[[account]] \"b\": id: 111122223333 is the id of account 'a' too (give each "
            "account an id of its own)",
            id="two-accounts-of-an-id",
        ),
        pytest.param(
            VPC.replace("cidr", 'account = "defualt"\ncidr', 1) + FUNCTION,
            "[[vpc]] \"orders\": account: there is no account 'defualt' (did you mean 'default'?)",
            id="vpc-of-no-account",
        ),
        pytest.param(
            VPC + OUTSIDE + 'account = "x"',
            "[[function]] \"outside\": account: there is no account 'x' (known: default)",
            id="function-of-no-account",
        ),
        pytest.param(
            '[[account]]\nname = "a"\n[[account]]\nname = "b"\n'
            + VPC
            + FUNCTION
            + 'account = "b"\n',
            "[[function]] \"f\": account: VPC 'orders' belongs to account 'a', not 'b' (a "
            "function and its VPC have the same account)",
            id="function-in-a-strangers-vpc",
        ),
        pytest.param(
            rule('protocol = "tcp", ports = "2048-1024", cidr = "0.0.0.0/0"'),
            '[[vpc]] "orders", security_group "functions": ingress[0].ports: \'2048-1024\' '
            'ends before it begins (write "1024-2048")',
            id="reversed-ports",
        ),
        pytest.param(
            rule('protocol = "tcp", ports = "65536", cidr = "0.0.0.0/0"'),
            '[[vpc]] "orders", security_group "functions": ingress[0].ports: 65536 is not '
            "a port (ports end at 65535)",
            id="port-too-large",
        ),
        pytest.param(
            rule('protocol = "tcp", ports = "http", cidr = "0.0.0.0/0"'),
            '[[vpc]] "orders", security_group "functions": ingress[0].ports: \'http\' is '
            'neither a port nor a range of ports (write it like "80" or "1024-2048")',
            id="port-by-name",
        ),
        pytest.param(
            rule('protocol = "tcp", ports = 80, cidr = "0.0.0.0/0"'),
            '[[vpc]] "orders", security_group "functions": ingress[0].ports: 80: input '
            "should be a valid string (put it in quotes)",
            id="port-as-a-number",
        ),
        pytest.param(
            rule('protocol = "icmp", ports = "8", cidr = "0.0.0.0/0"'),
            '[[vpc]] "orders", security_group "functions": ingress[0].ports: protocol '
            "'icmp' has no ports to choose from (leave it out)\n"
            "[[network_interface]] \"eni-a\": subnet: there is no subnet 'private-a' (it is "
            "the default lab's: write [[network_interface]] in the file)",
            id="ports-of-icmp",
        ),
        pytest.param(
            rule('protocol = "sctp", cidr = "0.0.0.0/0"'),
            '[[vpc]] "orders", security_group "functions": ingress[0].protocol: \'sctp\': '
            "input should be 'tcp', 'udp', 'icmp' or 'all' (see docs/configuration.md)",
            id="protocol",
        ),
        pytest.param(
            rule('protocol = "tcp", cidr = "10.0.1.7/24"'),
            '[[vpc]] "orders", security_group "functions": ingress[0].cidr: \'10.0.1.7/24\' '
            "is not an IPv4 network (the bits after the prefix must be zero: did you mean "
            "10.0.1.0/24?)",
            id="rule-with-host-bits",
        ),
        pytest.param(
            rule('protocol = "tcp"'),
            '[[vpc]] "orders", security_group "functions": ingress[0].cidr: the rule names '
            'no other side (add a cidr ("0.0.0.0/0" is all), group or prefix_list)\n'
            "[[network_interface]] \"eni-a\": subnet: there is no subnet 'private-a' (it is "
            "the default lab's: write [[network_interface]] in the file)",
            id="rule-without-other-side",
        ),
        pytest.param(
            rule('protocol = "tcp", cidr = "0.0.0.0/0", group = "functions"'),
            '[[vpc]] "orders", security_group "functions": ingress[0].group: the rule has '
            "a cidr as well as a group (make it two rules)\n"
            "[[network_interface]] \"eni-a\": subnet: there is no subnet 'private-a' (it is "
            "the default lab's: write [[network_interface]] in the file)",
            id="rule-with-two-other-sides",
        ),
        pytest.param(
            rule('protocol = "tcp", cidr = "0.0.0.0/0", prefix_list = "s3"'),
            '[[vpc]] "orders", security_group "functions": ingress[0].prefix_list: the rule has '
            "a cidr as well as a prefix_list (make it two rules)\n"
            "[[network_interface]] \"eni-a\": subnet: there is no subnet 'private-a' (it is "
            "the default lab's: write [[network_interface]] in the file)",
            id="rule-with-a-prefix-list-and-more",
        ),
        pytest.param(
            rule('protocol = "tcp", group = "function"') + FUNCTION,
            '[[vpc]] "orders", security_group "functions": ingress[0].group: there is no '
            "security group of VPC 'orders' called 'function' (did you mean 'functions'?)",
            id="rule-with-an-unknown-group",
        ),
        pytest.param(
            VPC.replace('"functions"', '"sg-12"'),
            '[[vpc]] "orders", security_group "sg-12": name: \'sg-12\' starts like a group\'s '
            "id, with sg- (choose another name)",
            id="group-named-like-an-id",
        ),
        pytest.param(
            VPC.replace('"functions"', '"a|b"'),
            '[[vpc]] "orders", security_group "a|b": name: \'a|b\' is not a security group\'s '
            "name (use 1 to 255 letters, digits, spaces and ._-:/()#,@[]+=&;{}!$*)",
            id="group-name",
        ),
        pytest.param(
            VPC + '[[vpc.security_group]]\nname = "functions"' + FUNCTION,
            '[[vpc]] "orders", security_group "functions": name: 2 security groups are '
            "called 'functions' (rename all but one)",
            id="two-groups-of-a-name",
        ),
        pytest.param(
            VPC + DATABASE.replace('["db"]', '["dbs"]') + FUNCTION,
            '[[vpc]] "orders", service "db": security_groups[0]: there is no security '
            "group of VPC 'orders' called 'dbs' (did you mean 'db'?)",
            id="service-with-an-unknown-group",
        ),
        pytest.param(
            VPC + DATABASE.replace('["db"]', '["db", "db"]') + FUNCTION,
            '[[vpc]] "orders", service "db": security_groups[1]: \'db\' is named twice (name '
            "it once)",
            id="group-named-twice",
        ),
        pytest.param(
            VPC
            + DATABASE
            + '[[vpc.service]]\nname = "web"\nkind = "http"\naddress = "10.0.1.54"\nport = 80'
            + FUNCTION,
            '[[vpc]] "orders", service "web": security_groups: service \'db\' has the same '
            "address but other groups (give both the same groups, or each an address)",
            id="two-sets-of-groups-at-an-address",
        ),
        pytest.param(
            HOST.replace("203.0.113.80", "10.0.0.7"),
            '[[internet]] "site": address: 10.0.0.7 is not one of the lab\'s public '
            "addresses (choose one from 198.51.100.0/24 or 203.0.113.0/24)",
            id="private-host-in-the-internet",
        ),
        pytest.param(
            HOST.replace("203.0.113.80", "203.0.113.255"),
            '[[internet]] "site": address: 203.0.113.255 is the network or broadcast '
            "address of 203.0.113.0/24 (choose a host address)",
            id="broadcast-in-the-internet",
        ),
        pytest.param(
            '[environment]\naddress = "203.0.113.82/28"\ngateway = "203.0.113.81"\n'
            + HOST.replace("203.0.113.80", "203.0.113.90"),
            '[[internet]] "site": address: 203.0.113.90 is in the environments\' own '
            "network, 203.0.113.80/28 (move either)",
            id="internet-over-the-environments",
        ),
        pytest.param(
            HOST + HOST,
            "[[internet]] \"site\": name: 2 internet hosts are called 'site' (rename all but "
            "one)\n"
            "[[internet]] \"site\": port: service 'site' already listens on 203.0.113.80:80 "
            "(choose another port or address)",
            id="two-hosts-of-a-name",
        ),
        pytest.param(
            HOST + HOST.replace("site", "page"),
            "[[internet]] \"page\": port: service 'site' already listens on 203.0.113.80:80 "
            "(choose another port or address)",
            id="two-hosts-on-a-port",
        ),
        pytest.param(
            HOST + 'security_groups = ["x"]',
            '[[internet]] "site": security_groups: unknown field (known: address, '
            "aws_service, kind, name, port, size_bytes)",
            id="host-with-groups",
        ),
        pytest.param(
            VPC.replace("orders", "internet") + OUTSIDE,
            "[[vpc]] \"internet\": name: 'internet' is the network of the internet's hosts "
            "(choose another name)",
            id="vpc-called-internet",
        ),
        pytest.param(
            VPC.replace("orders", "internet").replace(
                "[[vpc]]\n", "[[vpc]]\ninternet_gateway = true\n"
            )
            + OUTSIDE,
            "[[vpc]] \"internet\": name: 'internet' is the network of the internet's hosts "
            "(choose another name)",
            id="vpc-called-internet-with-a-gateway-to-it",
        ),
        pytest.param(
            VPC + FUNCTION + FUNCTION,
            "[[function]] \"f\": name: 2 functions are called 'f' (rename all but one)",
            id="two-functions-of-a-name",
        ),
        pytest.param(
            VPC + FUNCTION.replace('"f"', '"check out"'),
            "[[function]] \"check out\": name: 'check out' is not a function's name (use 1 "
            "to 64 letters, digits, dashes and underscores)",
            id="function-name",
        ),
        pytest.param(
            VPC + FUNCTION + 'networking = "hyper-plane"',
            "[[function]] \"f\": networking: 'hyper-plane': input should be 'hyperplane', "
            "'none' or 'interface-per-environment' (see docs/configuration.md)",
            id="networking",
        ),
        pytest.param(
            VPC + FUNCTION + 'networking = "none"',
            '[[function]] "f": subnets: a function with networking = "none" is outside '
            'every VPC (leave it out or choose "hyperplane")\n'
            '[[function]] "f": security_groups: a function with networking = "none" is '
            'outside every VPC (leave it out or choose "hyperplane")',
            id="subnets-outside-every-vpc",
        ),
        pytest.param(
            VPC + FUNCTION.replace('["a", "b"]', "[]"),
            "[[function]] \"f\": subnets: function 'f' is in a VPC, but has none (name at "
            'least one, or choose networking = "none")',
            id="function-without-subnet",
        ),
        pytest.param(
            VPC + FUNCTION.replace('["functions"]', "[]"),
            "[[function]] \"f\": security_groups: function 'f' is in a VPC, but has none "
            '(name at least one, or choose networking = "none")',
            id="function-without-group",
        ),
        pytest.param(
            VPC + FUNCTION + 'vpc = "order"',
            "[[function]] \"f\": vpc: there is no VPC 'order' (did you mean 'orders'?)",
            id="function-in-no-vpc",
        ),
        pytest.param(
            VPC + FUNCTION.replace('"b"', '"z"'),
            "[[function]] \"f\": subnets[1]: there is no subnet 'z' (known: a, b)",
            id="function-in-no-subnet",
        ),
        pytest.param(
            VPC + FUNCTION.replace('"b"', '"a"'),
            "[[function]] \"f\": subnets[1]: 'a' is named twice (name it once)",
            id="subnet-named-twice",
        ),
        pytest.param(
            VPC + OTHER + FUNCTION.replace('"b"', '"c"'),
            "[[function]] \"f\": subnets[1]: subnet 'c' is in VPC 'other', the function in "
            "'orders' (choose subnets of one VPC)",
            id="function-in-two-vpcs",
        ),
        pytest.param(
            VPC + OTHER + FUNCTION + 'vpc = "other"',
            "[[function]] \"f\": subnets[0]: subnet 'a' is in VPC 'orders', the function in "
            "'other' (choose subnets of one VPC)\n"
            "[[function]] \"f\": subnets[1]: subnet 'b' is in VPC 'orders', the function in "
            "'other' (choose subnets of one VPC)\n"
            "[[function]] \"f\": security_groups[0]: security group 'functions' is of VPC "
            "'orders', the function in 'other' (choose groups of the function's VPC)",
            id="subnet-of-another-vpc",
        ),
        pytest.param(
            VPC + OTHER + FUNCTION.replace('["functions"]', '["others"]'),
            "[[function]] \"f\": security_groups[0]: security group 'others' is of VPC "
            "'other', the function in 'orders' (choose groups of the function's VPC)",
            id="group-of-another-vpc",
        ),
        pytest.param(
            VPC + FUNCTION.replace('["functions"]', '["function"]'),
            '[[function]] "f": security_groups[0]: there is no security group of VPC '
            "'orders' called 'function' (did you mean 'functions'?)",
            id="function-with-an-unknown-group",
        ),
        pytest.param(
            VPC + FUNCTION + "memory_mb = 64",
            '[[function]] "f": memory_mb: 64: input should be greater than or equal to 128 '
            "(see docs/configuration.md)",
            id="memory",
        ),
        pytest.param(
            "[lifecycle]\ninterface_creation_second = 1",
            "lifecycle.interface_creation_second: unknown field (did you mean "
            "'interface_creation_seconds'?)",
            id="life-cycle-field",
        ),
        pytest.param(
            "[lifecycle]\ntime_scale = 0",
            "lifecycle.time_scale: 0: input should be greater than 0 (see docs/configuration.md)",
            id="life-cycle-scale",
        ),
    ],
)
def test_refused_with_one_line_and_a_remedy(tmp_path: Path, text: str, message: str) -> None:
    assert refused(tmp_path, text) == message


def test_environments_of_the_command_line_need_an_interface_too(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text(VPC + FUNCTION)
    with pytest.raises(ConfigError, match=r"^command line: lab\.environments: 5 environments"):
        load(file, {"lab.environments": 5})


@pytest.mark.parametrize(
    "text", ["", "[lab]\n", '[nat]\nprofile = "rfc"\n[timeouts]\nudp_seconds = 7\n']
)
def test_nobody_has_said_what_was_filled_in(tmp_path: Path, text: str) -> None:
    """What is kept of a lab, and what `apply` sends, is what the file says."""
    file = tmp_path / "lab.toml"
    file.write_text(text + VPC + FUNCTION)
    config = load(file)
    said = config.model_dump(mode="json", exclude_unset=True)
    document = tomllib.loads(file.read_text())
    assert said.keys() == document.keys()
    assert said.get("timeouts") == document.get("timeouts")
    assert said.get("lab") == document.get("lab")
    assert Config.model_validate(said) == config
