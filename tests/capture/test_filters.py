# SPDX-License-Identifier: Apache-2.0
"""Filter expressions become programs of the kernel, or one line that says why not."""

from __future__ import annotations

import struct

import pytest

from hyperplane_nat.capture import filters
from hyperplane_nat.capture.errors import CaptureError

RETURN = 0x06


@pytest.mark.parametrize("expression", ["", "tcp port 80", "host 10.0.1.80 and not icmp", "arp"])
def test_a_filter_is_a_program_that_takes_whole_frames(expression: str) -> None:
    program = filters.compiled(expression)
    instructions = list(struct.iter_unpack("HBBI", program))
    returned = {value for code, _, _, value in instructions if code == RETURN}
    assert filters.SNAPLEN in returned
    assert returned <= {0, filters.SNAPLEN}


@pytest.mark.parametrize("expression", ["tcp prt 80", "(", "port http and", "host", "x" * 5000])
def test_what_does_not_parse_is_one_line(expression: str) -> None:
    with pytest.raises(CaptureError) as caught:
        filters.compiled(expression)
    text = str(caught.value)
    assert text.startswith("filter ")
    assert text.endswith("(see pcap-filter(7))")
    assert "\n" not in text
    assert len(text) < 300


def test_a_null_byte_is_no_end_of_a_filter() -> None:
    with pytest.raises(CaptureError, match="null byte"):
        filters.compiled("tcp\0nonsense")


def test_without_libpcap_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    filters._library.cache_clear()
    monkeypatch.setattr("ctypes.util.find_library", lambda _name: "libmissing.so")
    try:
        with pytest.raises(CaptureError, match="apt-get install libpcap"):
            filters.compiled("tcp")
    finally:
        filters._library.cache_clear()
