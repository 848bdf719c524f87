# SPDX-License-Identifier: Apache-2.0
"""A service that serves nothing: says "ready" and waits for SIGTERM. Port 1 is always taken."""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    if sys.argv[sys.argv.index("--port") + 1] == "1":
        print("port 1 is taken (choose another)", file=sys.stderr)
        sys.exit(2)
    print("ready", flush=True)
    signal.pause()
