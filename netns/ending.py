# SPDX-License-Identifier: Apache-2.0
"""The end of a process, without what the kernel does anyway.

An interpreter that ends takes apart module after module, 15 to 50 ms of processor time, and then
the kernel takes back all of it at once. A lab has a dozen processes that end together, and a
command is hardly longer than that.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import NoReturn


def leave(status: int) -> NoReturn:
    """End the process, once what was printed is written, where it can be.

    Functions registered with `atexit` are not called. Threads are cut off where an interpreter's
    end would cut them off too; others are waited for.
    """
    others = [each for each in threading.enumerate() if each is not threading.main_thread()]
    if not all(each.daemon for each in others):
        sys.exit(status)
    for stream in (sys.stdout, sys.stderr):
        # One that was closed is a ValueError; None is one that never was.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)
