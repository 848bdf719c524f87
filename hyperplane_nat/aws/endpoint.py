# SPDX-License-Identifier: Apache-2.0
"""How the endpoint of a lab begins: its port, and whose requests are answered in which region."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

from werkzeug.serving import BaseWSGIServer

from hyperplane_nat.aws import server
from hyperplane_nat.aws.call import Lab
from hyperplane_nat.aws.notes import Notes
from hyperplane_nat.client import Client
from hyperplane_nat.model.resources import DEFAULT_ACCOUNT, DEFAULT_ACCOUNT_ID
from netns import privileges


def listener(port: int) -> socket.socket:
    """A socket that is bound to a port of this host, 0 being any; OSError."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((server.ADDRESS, port))
    except OSError:
        found.close()
        raise
    return found


def serving(lab: Lab, listener: socket.socket) -> BaseWSGIServer:
    """The endpoint on such a socket, which nobody is to have asked; NetnsError.

    It is root, who alone may use the control socket, without capabilities, and changes files in
    the lab's directory alone. Only root has any to give up.
    """
    if os.geteuid() == 0:
        directory = lab.client.path.parent
        tempfile.tempdir = str(directory)
        privileges.drop(privileges.AWS, uid=0, writes=directory)
    return server.listen(lab, listener)


def lab_of(client: Client) -> Lab:
    """The lab that a client asks; ClientError."""
    config: Any = client.get("/v1/config")
    accounts: Any = client.get("/v1/accounts")
    written = config["flow_logs"]
    return Lab(
        client,
        Notes(client.path.parent),
        str(config["lambda"]["region"]),
        _first(accounts),
        flow_logs=Path(written["directory"]) / client.lab if written["enabled"] else None,
    )


def _first(accounts: list[dict[str, Any]]) -> str:
    """The account of access keys that are none: the default one, or else the first."""
    known = {row["Name"]: row["Id"] for row in accounts}
    found: str = known.get(DEFAULT_ACCOUNT) or next(iter(known.values()), DEFAULT_ACCOUNT_ID)
    return found
