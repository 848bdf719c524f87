# SPDX-License-Identifier: Apache-2.0
"""The compiled program in the repository: that of its source, and as the loader takes it."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from hyperplane_nat.flow_cache import elf
from hyperplane_nat.flow_cache.errors import FlowCacheError
from hyperplane_nat.flow_cache.maps import CONTROL, KEYS, LINKS, RECORDS, VALUES, MapKind
from hyperplane_nat.flow_cache.program import OBJECT, FlowCache

ROOT = Path(__file__).resolve().parent.parent.parent
COMPILER = "clang-19"
HASH, ARRAY, MMAPABLE = 1, 2, 1 << 10


@pytest.mark.skipif(
    shutil.which(COMPILER) is None, reason=f"no {COMPILER}: tools/install-packages bpf"
)
def test_the_object_is_the_source_compiled(tmp_path: Path) -> None:
    built = tmp_path / "built.o"
    done = subprocess.run(
        [ROOT / "tools" / "build-bpf", built], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert built.read_bytes() == OBJECT.read_bytes(), "run: make bpf"


def test_a_missing_compiler_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", ROOT / "tools" / "build-bpf", tmp_path / "built.o"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"build-bpf: no {COMPILER}: run tools/install-packages bpf\n"
    assert list(tmp_path.iterdir()) == []


def test_its_maps_and_where_they_are_used() -> None:
    read = elf.read(OBJECT)
    assert read.maps == {
        KEYS: MapKind(HASH, 16, VALUES[KEYS], 0),
        RECORDS: MapKind(ARRAY, 4, 64, MMAPABLE),
        LINKS: MapKind(ARRAY, 4, VALUES[LINKS], MMAPABLE),
        CONTROL: MapKind(ARRAY, 4, VALUES[CONTROL], MMAPABLE),
    }
    names = [name for _, name in read.uses]
    assert sorted(names) == [CONTROL, KEYS, LINKS, LINKS, RECORDS, RECORDS]
    code = read.linked({KEYS: 11, RECORDS: 12, LINKS: 13, CONTROL: 14})
    assert len(code) == len(read.instructions)
    for offset, name in read.uses:
        operation, registers, _, descriptor = struct.unpack_from("<BBhi", code, offset)
        # BPF_LD | BPF_IMM | BPF_DW with BPF_PSEUDO_MAP_FD as its source.
        assert (operation, registers >> 4) == (0x18, 1)
        assert descriptor == {KEYS: 11, RECORDS: 12, LINKS: 13, CONTROL: 14}[name]


def test_it_calls_no_helper_that_is_newer_than_linux_5_10() -> None:
    """Nor one for GPL programs only: ours is not. Fields of the frame are those of 5.7."""
    code = elf.read(OBJECT).instructions
    calls = {
        immediate
        for operation, registers, _, immediate in struct.iter_unpack("<BBhi", code)
        if (operation, registers >> 4) == (0x85, 0)
    }
    # map_lookup_elem, ktime_get_ns, l4_csum_replace, skb_vlan_push, redirect, skb_pull_data,
    # redirect_peer
    assert calls == {1, 5, 11, 18, 23, 39, 155}


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("empty", lambda _: b"", "is no BPF object"),
        ("text", lambda _: b"not an object\n" * 20, "is no BPF object"),
        ("cut", lambda whole: whole[: len(whole) // 2], "is no BPF object"),
        ("machine", lambda whole: whole[:18] + b"\x3e\0" + whole[20:], "for another machine"),
        ("section", lambda whole: whole.replace(b".reltc", b".relxx"), "a section is missing"),
        ("map", lambda whole: whole.replace(b"\0keys\0", b"\0kays\0"), "maps of another form"),
    ],
)
def test_a_file_that_is_no_object_of_ours(
    tmp_path: Path, name: str, damage: object, reason: str
) -> None:
    assert callable(damage)
    path = tmp_path / name
    path.write_bytes(damage(OBJECT.read_bytes()))
    with pytest.raises(FlowCacheError, match=reason):
        FlowCache.load(flows=1, attachments=1, path=path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FlowCacheError, match=r"cannot read .*: No such file or directory"):
        elf.read(tmp_path / "nothing.o")
