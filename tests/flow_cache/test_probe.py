# SPDX-License-Identifier: Apache-2.0
"""What a kernel lacks for the flow cache has a name, feature by feature."""

from __future__ import annotations

import errno
import os

import pytest

from hyperplane_nat.flow_cache import probe
from hyperplane_nat.flow_cache.errors import FlowCacheError
from hyperplane_nat.flow_cache.probe import FEATURES, Missing, missing
from netns import NetnsError
from tests.conftest import require_root


def fails(error: Exception) -> None:
    raise error


@pytest.mark.stand_in("kernels without the flow cache's features", "a probe that says so")
@pytest.mark.parametrize("lacking", [name for name, _ in FEATURES])
def test_a_feature_that_is_missing_is_named_and_no_other(lacking: str) -> None:
    refusal = OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    features = [
        (name, lambda name=name: fails(refusal) if name == lacking else None)
        for name, _ in FEATURES
    ]
    assert missing(features) == [Missing(lacking, "Invalid argument")]
    assert str(missing(features)[0]) == f"{lacking}: Invalid argument"


@pytest.mark.stand_in("kernels without the flow cache's features", "a probe that says so")
def test_reasons_are_one_line_each() -> None:
    said = FlowCacheError("the kernel does not take it: Permission denied\n0: R1=ctx\nand so on")
    refused = NetnsError("cannot attach the flow cache to link 1", "the kernel lacks clsact")
    found = missing([("one", lambda: fails(said)), ("two", lambda: fails(refused))])
    assert [each.feature for each in found] == ["one", "two"]
    assert found[0].reason == "the kernel does not take it: Permission denied"
    assert "clsact" in found[1].reason
    assert all("\n" not in str(each) for each in found)


def test_an_error_of_ours_is_no_missing_feature() -> None:
    with pytest.raises(ZeroDivisionError):
        missing([("a mistake", lambda: print(1 // 0))])


@pytest.mark.live
@pytest.mark.usefixtures("collected")
def test_this_kernel_is_asked_and_nothing_is_left() -> None:
    """Where features are missing, the tests beside this one are skipped with what it says."""
    require_root()
    before = sorted(os.listdir("/proc/self/fd"))
    found = missing()
    assert {each.feature for each in found} <= {name for name, _ in FEATURES}
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.live
def test_a_helper_that_a_kernel_does_not_have_is_refused() -> None:
    """As bpf_redirect_peer is before 5.10."""
    require_root()
    code = probe._REDIRECT_PEER.replace(b"\x85\0\0\0\x9b\0\0\0", b"\x85\0\0\0\xff\xff\xff\x7f")
    (found,) = missing([("a helper of the future", lambda: probe._loads(code))])
    assert found == Missing("a helper of the future", "Invalid argument")
