# SPDX-License-Identifier: Apache-2.0
"""A compiled BPF object as it is before maps exist: instructions, maps, and where which is used.

The kernel takes instructions with a map's descriptor in them. The compiler leaves a relocation
there that names the map; its definition is `struct map` of the program, in the section "maps".
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from hyperplane_nat.flow_cache.errors import FlowCacheError
from hyperplane_nat.flow_cache.maps import MapKind

PROGRAM, MAPS = "tc", "maps"
"""Sections."""

_EM_BPF = "EM_BPF"
# linux/bpf.h, struct bpf_insn: code, registers (source above destination), offset, immediate.
_INSTRUCTION = struct.Struct("<BBhi")
_LOAD_64_BITS = 0x18
_PSEUDO_MAP_FD = 1
_R_BPF_64_64 = 1
_MAP = struct.Struct("<IIII")


@dataclass(frozen=True, slots=True)
class Object:
    """One program and its maps."""

    instructions: bytes
    maps: Mapping[str, MapKind]
    uses: tuple[tuple[int, str], ...]
    """Offset of an instruction in bytes, and the map whose descriptor it loads."""

    def linked(self, descriptors: Mapping[str, int]) -> bytes:
        """The instructions with the descriptors of the maps in them."""
        code = bytearray(self.instructions)
        for offset, name in self.uses:
            operation, registers, other, _ = _INSTRUCTION.unpack_from(code, offset)
            registers = registers & 0x0F | _PSEUDO_MAP_FD << 4
            _INSTRUCTION.pack_into(code, offset, operation, registers, other, descriptors[name])
        return bytes(code)


def read(path: Path) -> Object:
    """The object in a file; `FlowCacheError` when it is none that can be loaded."""
    try:
        with path.open("rb") as file:
            return _read(ELFFile(file))
    except OSError as error:
        raise FlowCacheError(f"cannot read {path}: {error.strerror}") from None
    except (ELFError, ValueError, KeyError, AttributeError, struct.error) as error:
        raise FlowCacheError(f"{path} is no BPF object of the flow cache: {error}") from None


def _read(elf: ELFFile) -> Object:
    if elf["e_machine"] != _EM_BPF or not elf.little_endian:
        raise ValueError("it is for another machine")
    program, maps = elf.get_section_by_name(PROGRAM), elf.get_section_by_name(MAPS)
    symbols = elf.get_section_by_name(".symtab")
    relocations = elf.get_section_by_name(f".rel{PROGRAM}")
    if program is None or maps is None:
        raise ValueError("a section is missing")
    if not isinstance(symbols, SymbolTableSection) or not isinstance(
        relocations, RelocationSection
    ):
        raise ValueError("a section is missing")
    number = elf.get_section_index(MAPS)
    kinds = {
        symbol.name: MapKind(*_MAP.unpack_from(maps.data(), symbol["st_value"]))
        for symbol in symbols.iter_symbols()
        if symbol["st_shndx"] == number and symbol.name
    }
    code = program.data()
    uses = []
    for each in relocations.iter_relocations():
        offset, name = each["r_offset"], symbols.get_symbol(each["r_info_sym"]).name
        operation = _INSTRUCTION.unpack_from(code, offset)[0]
        if each["r_info_type"] != _R_BPF_64_64 or operation != _LOAD_64_BITS or name not in kinds:
            raise ValueError(f"the relocation at {offset} is of no map")
        uses.append((offset, name))
    return Object(code, kinds, tuple(uses))
