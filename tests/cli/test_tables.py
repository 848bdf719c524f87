# SPDX-License-Identifier: Apache-2.0
"""Tables on terminals of several widths, and in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from hyperplane_nat.cli import common, flows, network_acls
from hyperplane_nat.cli.tables import Column, Remark, Table
from tests.cli.conftest import FLOW

LONG = FLOW | {
    "inside_address": "169.254.100.2",
    "inside_port": 65535,
    "nat_address": "255.255.255.254",
    "nat_port": 65535,
    "remote_address": "100.100.100.100",
    "remote_port": 65535,
    "environment": "env-16383",
}


def drawn(table: object, *, width: int) -> str:
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=True).print(table)
    return Text.from_ansi(file.getvalue()).plain


def piped(table: object, capsys: pytest.CaptureFixture[str]) -> str:
    common.console().print(table)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [72, 80, 100, 132, 200])
def test_addresses_are_whole_and_no_line_is_wider_than_the_terminal(width: int) -> None:
    output = drawn(flows.picture([LONG], 10), width=width)
    assert max(map(cell_len, output.splitlines())) <= width
    for whole in ("255.255.255.254:65535", "100.100.100.100:65535", "env-16383"):
        assert whole in output


def test_columns_go_by_rank_and_are_named() -> None:
    columns = [Column("stays"), Column("second", rank=1), Column("first", rank=2)]
    table = Table(None, columns)
    table.add_row("aaaa", "bbbb", "cccc")
    assert "not shown" not in drawn(table, width=30)
    narrow = drawn(table, width=20)
    assert "not shown: first" in narrow
    assert "bbbb" in narrow
    narrow = drawn(table, width=12)
    assert "bbbb" not in narrow
    assert "aaaa" in narrow


def test_what_always_stays_folds_where_there_is_no_room_at_all() -> None:
    table = Table(None, [Column("a"), Column("b")])
    table.add_row("1234567890", "abcdefghij")
    output = drawn(table, width=14)
    assert max(map(cell_len, output.splitlines())) <= 14
    assert {*"1234567890abcdefghij"} <= {*output}


def test_a_pipe_gets_a_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("title", [Column("name"), Column("packets", numeric=True, rank=9)])
    table.add_row("[b]markup[/b]", "1")
    table.add_row("two\nlines", "x" * 300)
    assert piped(table, capsys) == (
        f"# title\nname\tpackets\n[b]markup[/b]\t1\ntwo; lines\t{'x' * 300}\n"
    )


def test_a_table_without_headings_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("lab", [Column(""), Column("")])
    table.add_row("flows", "7")
    assert piped(table, capsys) == "# lab\nflows\t7\n"
    assert len(drawn(table, width=40).splitlines()) == 4


def test_a_remark_is_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    remark = Remark("hook: 7 [of] them")
    assert piped(remark, capsys) == "# hook: 7 [of] them\n"
    assert drawn(remark, width=40) == "hook: 7 [of] them\n"


def test_a_row_has_a_cell_for_each_column() -> None:
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        Table(None, [Column("a"), Column("b")]).add_row("x")


@pytest.mark.parametrize("width", [80, 100])
def test_a_rule_of_a_network_acl_stands_on_one_line(width: int) -> None:
    entry = {
        "RuleNumber": 32766,
        "Egress": False,
        "RuleAction": "allow",
        "Protocol": "6",
        "CidrBlock": "100.100.100.0/24",
        "PortRange": {"From": 10240, "To": 65535},
    }
    row = {
        "NetworkAclId": "acl-0123456789abcdef0",
        "NetworkAclName": "default",
        "VpcName": "shop",
        "Associations": [{"SubnetName": name} for name in ("app-a", "app-b")],
        "Entries": [entry, {**entry, "Egress": True}],
    }
    output = drawn(network_acls.picture([row]), width=width)
    for rule in (
        "ingress 32766 allow tcp 10240-65535 from",
        "egress 32766 allow tcp 10240-65535 to",
    ):
        assert f"{rule} 100.100.100.0/24 " in output
