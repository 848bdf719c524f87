# SPDX-License-Identifier: Apache-2.0
"""Which server that runs is the one that is wanted."""

from __future__ import annotations

import pytest

from hyperplane_nat.controller.network.services import serves

TOLD = ("netns.services", "http", "--port", "80")
SERVER = ("/usr/bin/python3", "-P", "-m", *TOLD)
WANTED = (*SERVER, "--uid", "65530", "--size-bytes", "9")


@pytest.mark.parametrize(
    ("found", "same"),
    [
        pytest.param(WANTED, True, id="itself"),
        pytest.param((*SERVER, "--size-bytes", "9"), True, id="without-a-user-as-in-0.1.0"),
        pytest.param((*SERVER, "--uid", "0", "--size-bytes", "9"), False, id="another-user"),
        pytest.param((*SERVER, "--size-bytes", "8"), False, id="other-content"),
        pytest.param(
            ("/opt/next/bin/python3.13", "-m", *TOLD, "--uid", "65530", "--size-bytes", "9"),
            True,
            id="of-a-program-elsewhere",
        ),
        pytest.param(("python3", "-m", "http.server", "80"), False, id="another-program"),
        pytest.param((), False, id="gone"),
    ],
)
def test_a_server_goes_on_where_it_is_what_is_wanted(found: tuple[str, ...], same: bool) -> None:
    assert serves(list(found), WANTED, TOLD[0]) == same


def test_a_server_without_a_user_is_wanted_so() -> None:
    assert serves(SERVER, SERVER, TOLD[0])
    assert not serves(WANTED, SERVER, TOLD[0])
