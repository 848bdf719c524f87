# SPDX-License-Identifier: Apache-2.0
"""What strangers send to a program of the host, and nobody else reads: a server of two sides.

Theory of operation
-------------------
Boxes are opened by whoever reaches the unix socket, a program of root's, under names that nobody
guesses. On the network's side a box takes one letter, which is PUT there; what comes later is
answered as the first one was and forgotten. A name without a box is 403, so who tries names learns
nothing. Boxes are few and letters small: strangers fill no memory. Nor do they keep others out with
connections that say nothing: the oldest go.

* network: `PUT /NAME`, and whatever query
* unix socket: `PUT /NAME` opens a box, `GET /NAME` is its letter (404 while there is none, 410
  without a box), `DELETE /NAME` closes it
"""

from __future__ import annotations

from aiohttp import web

LETTER_BYTES_MAX = 65_536

BOXES_MAX = 1024

CONNECTIONS_MAX = 512
"""Of strangers: who reads needs some, too."""


class Mailbox:
    """The boxes, and what answers on either side."""

    def __init__(self) -> None:
        self._boxes: dict[str, bytes | None] = {}

    def outside(self) -> web.Application:
        """What answers on the network."""
        application = web.Application(client_max_size=LETTER_BYTES_MAX)
        application.add_routes([web.put("/{name}", self._take)])
        return application

    def inside(self) -> web.Application:
        """What answers on the unix socket."""
        application = web.Application()
        application.add_routes(
            [
                web.put("/{name}", self._open),
                web.get("/{name}", self._read),
                web.delete("/{name}", self._close),
            ]
        )
        return application

    async def _take(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._boxes:
            raise web.HTTPForbidden
        letter = await request.read()
        # It may have been closed meanwhile.
        if self._boxes.get(name, b"") is None:
            self._boxes[name] = letter
        return web.Response()

    async def _open(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._boxes and len(self._boxes) >= BOXES_MAX:
            raise web.HTTPServiceUnavailable
        self._boxes.setdefault(name, None)
        return web.Response()

    async def _read(self, request: web.Request) -> web.Response:
        try:
            letter = self._boxes[request.match_info["name"]]
        except KeyError:
            raise web.HTTPGone from None
        if letter is None:
            raise web.HTTPNotFound
        return web.Response(body=letter)

    async def _close(self, request: web.Request) -> web.Response:
        self._boxes.pop(request.match_info["name"], None)
        return web.Response()
