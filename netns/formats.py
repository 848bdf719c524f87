# SPDX-License-Identifier: Apache-2.0
"""The formats of route netlink's messages: pyroute2's, without the rest of that library.

Theory of operation
-------------------
A module cannot be imported before its package, and the package of pyroute2 imports everything there
is: 160 modules, a tenth of a controller's start, for five that are used. So the package is put in
its place unread; a module of it is imported when it is asked for, and all of it when anything else
is, by whoever shares this process.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType


class _Unread(ModuleType):
    """A package whose own file has not been executed."""

    def __getattr__(self, name: str) -> object:
        spec = self.__spec__
        if name.startswith("__") or spec is None or spec.loader is None:
            raise AttributeError(name)
        if importlib.util.find_spec(f"{self.__name__}.{name}") is not None:
            return importlib.import_module(f"{self.__name__}.{name}")
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec.loader.exec_module(self)
        return getattr(self, name)


def _place(package: str) -> None:
    """Have a package that is not there yet without what it imports."""
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    if spec is None:
        return
    module = _Unread(package)
    module.__spec__, module.__file__ = spec, spec.origin
    module.__loader__, module.__package__ = spec.loader, package
    module.__path__ = list(spec.submodule_search_locations or ())
    sys.modules[package] = module


_place("pyroute2")

from pyroute2.netlink import (  # noqa: E402
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
)
from pyroute2.netlink.rtnl import (  # noqa: E402
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_DELTFILTER,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETQDISC,
    RTM_GETROUTE,
    RTM_GETTFILTER,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWQDISC,
    RTM_NEWROUTE,
    RTM_NEWTFILTER,
)
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # noqa: E402
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # noqa: E402
from pyroute2.netlink.rtnl.rtmsg import rtmsg  # noqa: E402
from pyroute2.netlink.rtnl.tcmsg import tcmsg  # noqa: E402

__all__ = [
    "NLMSG_DONE",
    "NLMSG_ERROR",
    "NLM_F_ACK",
    "NLM_F_CREATE",
    "NLM_F_DUMP",
    "NLM_F_EXCL",
    "NLM_F_REQUEST",
    "RTM_DELADDR",
    "RTM_DELLINK",
    "RTM_DELROUTE",
    "RTM_DELTFILTER",
    "RTM_GETADDR",
    "RTM_GETLINK",
    "RTM_GETQDISC",
    "RTM_GETROUTE",
    "RTM_GETTFILTER",
    "RTM_NEWADDR",
    "RTM_NEWLINK",
    "RTM_NEWQDISC",
    "RTM_NEWROUTE",
    "RTM_NEWTFILTER",
    "ifaddrmsg",
    "ifinfmsg",
    "rtmsg",
    "tcmsg",
]
