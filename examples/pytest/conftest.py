# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL in the VPC."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

ADDRESS = "10.0.1.82"


@pytest.fixture(scope="session")
def postgresql(hyperplane_lab):
    """The address of a database that ends with the session; Debian's package postgresql."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not versions:
        pytest.fail("PostgreSQL is missing (apt-get install postgresql)", pytrace=False)
    with tempfile.TemporaryDirectory(prefix="hyperplane-example-") as directory:
        # It does not run as root.
        shutil.chown(directory, "postgres")
        place = {"user": "postgres", "group": "postgres", "cwd": directory}
        subprocess.run(
            [versions[-1] / "initdb", "--auth=trust", "--no-sync", "data"],
            check=True,
            stdout=subprocess.DEVNULL,
            **place,
        )
        (Path(directory) / "data" / "pg_hba.conf").write_text("host all all 10.0.0.0/16 trust\n")
        settings = [f"listen_addresses={ADDRESS}", "unix_socket_directories=", "fsync=off"]
        options = [word for setting in settings for word in ("-c", setting)]
        with (Path(directory) / "log").open("w") as log:
            server = hyperplane_lab.inside(
                "customer",
                subprocess.Popen,
                [versions[-1] / "postgres", "-D", "data", *options],
                stderr=log,
                **place,
            )
            try:
                _wait_ready(Path(directory))
                yield ADDRESS
            finally:
                # Its clients may still hold connections, whose end SIGTERM would wait for.
                server.send_signal(signal.SIGINT)
                server.wait()


def _wait_ready(directory):
    deadline = time.monotonic() + 60
    while "is ready to accept connections" not in (directory / "log").read_text():
        assert time.monotonic() < deadline, (directory / "log").read_text()
        time.sleep(0.05)
