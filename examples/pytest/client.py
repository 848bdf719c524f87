# SPDX-License-Identifier: Apache-2.0
"""An HTTP client as it should be behind a NAT gateway: this is what is tested."""

from __future__ import annotations

import http.client


class Client:
    """Keeps a connection to each of its servers, and asks the next one where there is none."""

    def __init__(self, *servers: str, timeout: float = 2.0) -> None:
        self.connections = [
            http.client.HTTPConnection(server, timeout=timeout) for server in servers
        ]
        self.resets = 0

    def get(self, path: str) -> str:
        """The page, from the first server that can be reached."""
        for connection in self.connections:
            try:
                return self._ask(connection, path)
            except TimeoutError:
                # No source port is left towards this one: its SYN is dropped without an answer.
                connection.close()
        raise TimeoutError("no server can be reached")

    def _ask(self, connection: http.client.HTTPConnection, path: str) -> str:
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        except ConnectionError:
            # It was idle for too long: the request has not got there, so it may be sent again.
            self.resets += 1
            connection.close()
            connection.request("GET", path)
            return connection.getresponse().read().decode()
