# SPDX-License-Identifier: Apache-2.0
from mmap import mmap
from typing import NamedTuple

class SearchKey(NamedTuple):
    side: int
    protocol: int
    owner: int
    remote_address: bytes
    remote_port: bytes
    local_address: bytes
    local_port: bytes

def find_flows(memory: mmap, keys: list[SearchKey]) -> list[int | None]: ...
