# SPDX-License-Identifier: Apache-2.0
"""docs/conformance.md: what is asked of a NAT, what this one does in each profile, and who shows
it.

Theory of operation
-------------------
Requirements.toml says what is asked and what the gateway claims to do. The markers of the suite say
which tests show it (see `tests.conformance.shown`). The page joins them: a claim that no test of
that profile shows is written "untested", whatever it is.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.shown import PROFILES, Shown

SOURCE = Path(__file__).with_name("requirements.toml")

MET = "met"
DEVIATES = "deviates"
NOT_APPLICABLE = "not applicable"
UNTESTED = "untested"
WORDS = (MET, DEVIATES, NOT_APPLICABLE)

HEAD = """<!-- Written by `python -m tests.conformance`; do not edit. -->
# Conformance

What the RFCs about NAT and AWS's documentation ask for, and what the gateway does in its two
profiles: `aws`, the default, and `rfc` (`nat.profile`, see [configuration.md](configuration.md)).
A profile is a set of values; each can be changed by itself, and the rows below are about the
profile as it is.

* **met**: it does what is asked.
* **deviates**: it does something else, and why.
* **not applicable**: it does not have what the requirement is about.
* **untested**: no test shows what is claimed, so do not rely on it.

The last column has the tests that show a row; without a profile's name behind it a test shows it
in both. Tests under `tests/live` drive a running gateway with real clients or hand-written packets;
the vectors under `tests/engine/vectors` are frames in and frames out, played to the engine and to
its reference model. Requirements are in our words: the document has the authority.
"""


@dataclass(frozen=True)
class Claim:
    """What the gateway does about a requirement in one profile."""

    word: str
    details: str


@dataclass(frozen=True)
class Row:
    """One requirement."""

    id: str
    text: str
    claims: dict[str, Claim]


@dataclass(frozen=True)
class Document:
    """The requirements of one source."""

    prefix: str
    title: str
    link: str
    intro: str
    rows: tuple[Row, ...]


def load(path: Path = SOURCE) -> list[Document]:
    """The documents with their rows, in the file's order; ValueError for a row of none."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    rows = [
        Row(item["id"], item["text"], {profile: _claim(item[profile]) for profile in PROFILES})
        for item in table["requirement"]
    ]
    documents = [
        Document(
            prefix=item["prefix"],
            title=item["title"],
            link=item["link"],
            intro=item.get("intro", ""),
            rows=tuple(row for row in rows if row.id.startswith(f"{item['prefix']}-")),
        )
        for item in table["document"]
    ]
    strays = {row.id for row in rows} - {row.id for each in documents for row in each.rows}
    if strays:
        raise ValueError(f"rows of no document: {sorted(strays)} (name their prefix)")
    return documents


def _claim(text: str) -> Claim:
    word, _, details = text.partition(": ")
    return Claim(word, details)


def problems(documents: Iterable[Document], markers: Iterable[Shown]) -> list[str]:
    """What is wrong with rows or markers, a line each; [] when nothing."""
    rows = [row for document in documents for row in document.rows]
    times = Counter(row.id for row in rows)
    wrong = [f"{name}: {count} rows (keep one)" for name, count in times.items() if count > 1]
    for row in rows:
        for profile, claim in row.claims.items():
            if claim.word not in WORDS:
                wrong.append(f"{row.id}: {profile} is {claim.word!r} (choose of {WORDS})")
            elif claim.word != MET and not claim.details:
                wrong.append(f"{row.id}: {claim.word} in {profile} without a reason (say why)")
    for each in markers:
        where = f"{each.path} {each.test}"
        if each.row not in times:
            wrong.append(f"{where}: no row {each.row!r} (see tests/conformance/requirements.toml)")
        if each.profile not in PROFILES:
            wrong.append(f"{where}: profile {each.profile!r} (choose aws, rfc or both)")
    return wrong


def untested(documents: Iterable[Document], markers: Sequence[Shown]) -> list[tuple[str, str]]:
    """(row, profile) of the claims that no test shows; what is not applicable needs none."""
    shown = {(each.row, each.profile) for each in markers}
    return [
        (row.id, profile)
        for document in documents
        for row in document.rows
        for profile, claim in row.claims.items()
        if claim.word != NOT_APPLICABLE and (row.id, profile) not in shown
    ]


def markdown(documents: Sequence[Document], markers: Sequence[Shown]) -> str:
    """The page."""
    lacking = set(untested(documents, markers))
    parts = [HEAD, _summary(documents, lacking)]
    for document in documents:
        parts.append(f"## {document.title}\n\n[{document.link}]({document.link})\n")
        if document.intro:
            parts.append(f"{document.intro}\n")
        lines = ["| | asked | `aws` | `rfc` | shown by |", "|---|---|---|---|---|"]
        for row in document.rows:
            cells = [
                _verdict(claim, (row.id, profile) in lacking)
                for profile, claim in row.claims.items()
            ]
            name = row.id.removeprefix(f"{document.prefix}-")
            tests = _tests([each for each in markers if each.row == row.id])
            lines.append(f"| {name} | {row.text} | {' | '.join(cells)} | {tests} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _summary(documents: Sequence[Document], lacking: set[tuple[str, str]]) -> str:
    """How many rows of each document are what, by profile."""
    lines = [
        "| | profile | met | deviates | not applicable | untested |",
        "|---|---|---|---|---|---|",
    ]
    for document in documents:
        for profile in PROFILES:
            counts = Counter(
                UNTESTED if (row.id, profile) in lacking else row.claims[profile].word
                for row in document.rows
            )
            figures = " | ".join(str(counts[word]) for word in (*WORDS, UNTESTED))
            lines.append(f"| {document.title.partition(':')[0]} | `{profile}` | {figures} |")
    return "\n".join(lines) + "\n"


def _verdict(claim: Claim, lacking: bool) -> str:
    words = [f"**{UNTESTED}**", claim.word] if lacking else [f"**{claim.word}**"]
    return ": ".join([*words, claim.details] if claim.details else words)


def _tests(markers: Iterable[Shown]) -> str:
    """Links to the tests of a row, those that drive a running gateway first."""
    profiles: dict[tuple[str, str], set[str]] = {}
    for each in markers:
        profiles.setdefault((each.path, each.test), set()).add(each.profile)
    ordered = sorted(profiles, key=lambda key: (not key[0].startswith("tests/live/"), key))
    return "<br>".join(
        f"[{path.removeprefix('tests/')}](../{path}) `{test}`"
        + ("" if len(profiles[path, test]) > 1 else f" ({', '.join(profiles[path, test])})")
        for path, test in ordered
    )
