# SPDX-License-Identifier: Apache-2.0
"""For whom a request was meant, by its Host header.

A web page can let a name of its own resolve to an address of this host, and then read the answers
(DNS rebinding); the name is what gives it away. Only a browser has to be told from others, and it
always names a host.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit


def meant_for(said: str, names: Collection[str] = (), address: str = "") -> bool:
    """Whether `said` is a loopback name or address, one of `names`, or `address`."""
    try:
        name = (urlsplit(f"//{said}").hostname or "").rstrip(".")
    except ValueError:
        return False
    if name == "localhost" or name in names:
        return True
    try:
        found = ip_address(name)
    except ValueError:
        return False
    return found.is_loopback or str(found) == address
