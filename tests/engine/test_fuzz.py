# SPDX-License-Identifier: Apache-2.0
"""A short run of the fuzzer with every test run; the long one is `make asan`'s."""

import pytest

from tests.fuzz import engine_fuzz


@pytest.mark.parametrize("seed", [1, 2])
def test_short_run(seed: int) -> None:
    outcomes = engine_fuzz.run(20_000, seed, report=False)
    assert outcomes.total() - outcomes["extra"] == 20_000
    # It gets behind the first checks: otherwise it would look for nothing.
    for name in ("forward", "reply", "flow_held", "icmp_error_malformed", "l4_checksum"):
        assert outcomes[name] > 0, outcomes
