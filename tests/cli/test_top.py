# SPDX-License-Identifier: Apache-2.0
"""`top`: rates from two looks, a picture that fits, and names that are never interpreted."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from hyperplane_nat.cli.top_picture import Picture, bar, deal, quantity
from hyperplane_nat.ui.look import Look, document
from tests.cli.conftest import INTERFACE, PORTS, REMOTE, SHARED_INTERFACE, STATUS, Run
from tests.cli.fake_api import FakeApi
from tests.cli.test_events import EVENT
from tests.cli.test_hosts import ATTACHED, HOST

HOSTILE = "[bold red]x[/]\x1b[2J\x1b]0;t\x07\n\t\u202e"
SIZES = [(80, 24), (200, 60)]


def look(moment: float, packets: int, dropped: int, **more: Any) -> Look:
    """The lab at a moment, after so many packets of 1,000 bytes each way."""
    traffic = {"packets_out": packets, "bytes_out": packets * 1000}
    traffic |= {"packets_in": packets, "bytes_in": packets * 1000}
    counters = {"ring_slots": 1000, "ring_slots_used": 250}
    forwarder = {"pid": 4712, "restarts": 1, "cpu_seconds": moment / 2}
    status: dict[str, Any] = STATUS | {
        "counters": counters,
        "forwarder": forwarder,
        "traffic": traffic,
    }
    status["drops"] = {"no_flow": dropped, "source_spoofed": 3}
    rows = [INTERFACE | traffic, SHARED_INTERFACE | traffic]
    ports = PORTS | {"remotes": [REMOTE] * 30}
    fields: dict[str, Any] = {"status": status, "interfaces": rows, "ports": ports}
    return Look(moment, **(fields | {"events": [EVENT] * 30, "hosts": []} | more))


def drawn(picture: Picture, width: int, height: int) -> str:
    """What a terminal of that size is sent."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, height=height, highlight=False)
    console.print(picture)
    return file.getvalue()


def plain(picture: Picture, width: int, height: int) -> list[str]:
    """The lines of it without styles."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system=None, width=width, height=height)
    console.print(picture)
    return file.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_it_fits_and_tells_the_figures(width: int, height: int) -> None:
    shown = document(look(0, 0, 0), look(2, 3000, 10))
    lines = plain(Picture(shown), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    words = ["out 1.5k pkt/s 12.0Mbit/s", "flows 6 of 1048576", "pid 4712, restarts 1"]
    words += ["processor 50.0 %", "ring 25.0 % full", "10.0.1.54:5432", "55000", "100.0"]
    words += ["no_flow", EVENT["kind"]]
    assert [word for word in words if word not in text] == []
    assert "source_spoofed" not in text
    assert ("VPC" in text) == (width == 200)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_hosts_have_a_section_where_there_are_some(width: int, height: int) -> None:
    before = look(0, 0, 0, hosts=[HOST, ATTACHED])
    moved = [HOST | {"drops": 13}, ATTACHED | {"packets_out": 3017, "HostName": "[red]x\x1b"}]
    shown = document(before, look(2, 3000, 10, hosts=moved))
    lines = plain(Picture(shown), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    heading = next(number for number, line in enumerate(lines) if line.startswith("host "))
    first, second = lines[heading + 1 : heading + 3]
    # Who has most packets comes first.
    assert "1.5k" in first
    assert first.startswith("[red]x\\x1b ")
    assert second.split()[0] == "db"
    assert second.split()[-1] == "5"
    without = plain(Picture(document(look(0, 0, 0), look(2, 1, 1))), width, height)
    assert not any(line.startswith("host ") for line in without)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_hostile_names_are_shown_and_not_interpreted(width: int, height: int) -> None:
    hostile = look(
        1,
        1,
        1,
        interfaces=[INTERFACE | {"name": HOSTILE}],
        events=[EVENT | {"message": HOSTILE, "kind": "k"}],
    )
    picture = Picture(document(hostile, hostile), 0.0, HOSTILE)
    text = "\n".join(plain(picture, width, height))
    assert "[bold red]x[/]\\x1b[2J" in text
    assert not set(text) & set("\x1b\x07\t\u202e")
    assert max(map(len, text.splitlines())) <= width


def test_a_lab_that_does_not_answer_is_told_in_words() -> None:
    shown = document(look(0, 0, 0), look(1, 1, 0))
    why = "lab 'default' is not running (start it with: hyperplane-nat up --lab default)"
    first, second, *_ = lines = plain(Picture(shown, 5.0, why), 80, 24)
    assert (first[:16], first[-12:]) == ("NO ANSWER since ", "asking again")
    assert second == why
    assert len(lines) <= 24


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    shown = document(look(0, 0, 0), look(1, 1, 0))
    assert "\x1b[1;31m" not in drawn(Picture(shown, 5.0, "gone"), 80, 24)


def test_counters_that_begin_anew_are_no_negative_rate() -> None:
    shown = document(look(0, 1000, 7), look(1, 5, 0))
    assert (shown["packets_out_per_second"], shown["drops_per_second"]) == (0, {})


def test_the_processor_share_of_a_successor_is_not_known_at_once() -> None:
    now = look(2, 0, 0)
    now.status["forwarder"]["pid"] = 4713
    assert document(look(1, 0, 0), now)["forwarder"]["cpu_percent"] is None


def test_a_pipe_gets_sections_of_rows(run: Run, api: FakeApi) -> None:
    api.answers["/v1/events"] = [EVENT]
    result = run("top", "--interval", "0.1")
    assert result.exit_code == 0
    titles = [line for line in result.stdout.splitlines() if line.startswith("# ")]
    assert titles[0] == "# lab"
    assert len(titles) == 5
    assert "remote\tprotocol\tinterface" in result.stdout


def test_json_is_what_is_shown(run: Run, api: FakeApi) -> None:
    api.answers["/v1/events"] = [EVENT]
    shown = json.loads(run("top", "--json", "--interval", "0.1").stdout)
    assert shown["flows"] == {"active": 6, "max": 1048576}
    assert [row["interface"] for row in shown["interfaces"]] == ["eni-a", "eni-0a1b2c3d4e5f60718"]
    assert shown["events"] == [EVENT]


def test_a_lab_that_is_not_there_is_an_error(run: Run) -> None:
    assert run("top", "--once").exit_code == 2


def test_a_controller_of_a_former_version_is_one_line(run: Run, api: FakeApi) -> None:
    api.answers["/v1/status"] = {name: STATUS[name] for name in STATUS if name != "traffic"}
    result = run("top", "--once")
    assert result.exit_code == 2
    assert "is its version another one?" in result.stderr


def test_lines_are_dealt_out_to_whoever_wants_some() -> None:
    assert deal(10, [1, 20, 0, 3]) == [1, 6, 0, 3]
    assert deal(3, [5, 5]) == [2, 1]
    assert deal(9, [1, 2]) == [1, 2]


def test_quantities_and_bars() -> None:
    assert [quantity(each) for each in (0, 0.3, 7, 999, 12_500, 3_200_000)] == [
        "0", "0.3", "7", "999", "12.5k", "3.2M"
    ]  # fmt: skip
    assert [bar(each) for each in (None, 0, 0.1, 50, 99.9, 100)] == [
        "-", "..........", "#.........", "#####.....", "#########.", "##########"
    ]  # fmt: skip
