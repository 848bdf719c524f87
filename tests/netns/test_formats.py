# SPDX-License-Identifier: Apache-2.0
"""pyroute2's formats alone, and pyroute2 for whoever wants the rest."""

from __future__ import annotations

import subprocess
import sys


def _run(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.split()


def test_the_rest_of_the_library_is_not_read() -> None:
    code = "import sys, netns.topology; print(*sys.modules)"
    found = set(_run(code))
    assert "pyroute2.netlink.rtnl.tcmsg" in found
    assert not found & {"pyroute2.iproute", "pyroute2.ndb.main", "pyroute2.ipdb"}


def test_who_shares_the_process_has_all_of_it() -> None:
    code = (
        "import netns.topology, pyroute2; from pyroute2 import NDB; import pyroute2.netlink.rtnl; "
        "print(pyroute2.IPRoute.__name__, NDB.__name__, pyroute2.netlink.rtnl.RTM_NEWLINK)"
    )
    assert _run(code) == ["IPRoute", "NDB", "16"]


def test_a_library_that_is_there_already_stays() -> None:
    code = (
        "import pyroute2; whole = pyroute2.IPRoute; import sys, netns.topology; "
        "print(sys.modules['pyroute2'] is pyroute2, pyroute2.IPRoute is whole)"
    )
    assert _run(code) == ["True", "True"]


def test_what_it_does_not_have_is_an_error_as_ever() -> None:
    code = (
        "import netns.topology, pyroute2\n"
        "try:\n    pyroute2.nothing_of_this_name\nexcept AttributeError:\n    print('none')"
    )
    assert _run(code) == ["none"]
