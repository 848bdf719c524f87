# SPDX-License-Identifier: Apache-2.0
"""A service that serves nothing: says "ready" and waits for SIGTERM. Port 1 is always taken.

In the directory `fake` beside the labs', if there is one, `fail-service` makes it fail with its
text.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    complaint = Path(os.environ["HYPERPLANE_NAT_LAB_DIRECTORY"]).parents[1] / "fake/fail-service"
    if complaint.exists():
        print(complaint.read_text(), file=sys.stderr)
        sys.exit(2)
    if "--port" in sys.argv and sys.argv[sys.argv.index("--port") + 1] == "1":
        print("port 1 is taken (choose another)", file=sys.stderr)
        sys.exit(2)
    print("ready", flush=True)
    signal.pause()
