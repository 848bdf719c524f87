# SPDX-License-Identifier: Apache-2.0
"""A synchronous client of the control API: HTTP over the controller's unix socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from hyperplane_nat import unix_socket
from hyperplane_nat.unix_socket import ADVANCE_SECONDS, RUNTIME_DIRECTORY, VERIFY_SECONDS

TIMEOUT_SECONDS = 30.0
"""Between two pieces of an answer; a controller that is silent for so long is stuck."""

_CONNECT_SECONDS = 1.0

_KEPT_SECONDS = 5.0
"""How long a connection is kept that asks for nothing; the controller keeps it for longer."""

_KEPT_MAX = 64


class ClientError(Exception):
    """The controller could not be asked, or refused; the text is one line with the remedy."""


class AwayError(ClientError):
    """No controller is there to answer; the next one may."""


class NotRunningError(AwayError):
    """No controller answers for this lab; the text says what stands of it when it is read."""

    def __init__(self, lab: str, runtime_directory: Path) -> None:
        super().__init__(lab)
        self.lab = lab
        self.runtime_directory = runtime_directory

    def __str__(self) -> str:
        directory = self.runtime_directory / self.lab
        if directory.is_dir() and not os.access(directory, os.R_OK):
            return (
                f"no controller of lab {self.lab!r} answers, and what stands of it only root sees "
                f"(sudo hyperplane-nat --lab {self.lab} status)"
            )
        # Imported here: who only tries again need not wait for the libraries of a controller.
        from hyperplane_nat.controller.cleanup import absence

        return absence(self.lab, self.runtime_directory)


class SilentError(ClientError):
    """A controller is there, and has not answered in time."""


class BrokenOffError(AwayError):
    """A controller was there, and has ended or given up its connection while it answered."""


class NoPermissionError(ClientError):
    """The socket is not for this user."""


class ApiError(ClientError):
    """
    The controller answered with an error; `code` is the API's word for it.

    Where AWS has a name for the error, that is the code, and the text begins with it.
    """

    def __init__(
        self, status: int, code: str, message: str, problems: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """`problems` has what is wrong with a configuration, each as an object."""
        # AWS's names are in camel case, the API's own are not.
        self.name = f"{code}: " if code[:1].isupper() and code not in message else ""
        self.message = message
        super().__init__(self.name + message)
        self.status = status
        self.code = code
        self.problems = tuple(problems)


def running_labs(runtime_directory: Path) -> list[str]:
    """The labs whose controller takes connections."""
    return [
        path.parent.name
        for path in sorted(runtime_directory.glob(f"*/{unix_socket.CONTROL}"))
        if _connects(path)
    ]


def _connects(path: Path) -> bool:
    connection = UnixConnection(path, _CONNECT_SECONDS)
    try:
        connection.connect()
    except OSError:
        return False
    connection.close()
    return True


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket; `timeout` in seconds, between two pieces."""

    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    @property
    def ended(self) -> bool:
        """Whether there is something to be read, if only the end."""
        look = select.poll()
        look.register(self.sock, select.POLLIN)
        return bool(look.poll(0))

    def connect(self) -> None:
        """Connect; TimeoutError when too many wait for too long."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Blocking: a socket with a timeout is told EAGAIN when many wait to be accepted, and
            # does not wait with them; unix(7). SO_SNDTIMEO is how long it waits.
            seconds = 0 if self.timeout is None else max(int(self.timeout), 1)
            self.sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", seconds, 0)
            )
            try:
                self.sock.connect(str(self._path))
            except BlockingIOError:
                raise TimeoutError from None
            self.sock.settimeout(self.timeout)
        except BaseException:
            self.close()
            raise


def _read_whole(response: http.client.HTTPResponse) -> bool:
    """Whether nothing of an answer is left, and its connection may have another one."""
    if response.length == 0:
        # `read1` does not see that by itself.
        response.close()
    return response.isclosed() and not response.will_close


class Client:
    """
    The control API of one lab. Each request uses a connection of its own, unless `keeping`: then
    one that was answered serves the next request, of whatever thread, and `close` ends it.

    `timeout` is in seconds, between two pieces of an answer; None waits for as long as it takes.
    """

    def __init__(
        self,
        lab: str = "default",
        *,
        runtime_directory: Path = RUNTIME_DIRECTORY,
        timeout: float | None = TIMEOUT_SECONDS,
        keeping: bool = False,
    ) -> None:
        self.lab = lab
        self.path = runtime_directory / lab / unix_socket.CONTROL
        self._timeout = timeout
        self._keeping = keeping
        self._kept: deque[tuple[float, UnixConnection]] = deque()
        """When they were answered, and connections that nobody uses, the last one last."""

    def close(self) -> None:
        """End the connections that are kept."""
        while self._kept:
            self._kept.pop()[1].close()

    def get(self, path: str, query: Mapping[str, object] | None = None) -> object:
        """The answer to GET `path`, decoded; query values that are None are left out."""
        return self._decode(b"".join(self.stream("GET", path, query)))

    def post(self, path: str, body: object = None) -> object:
        """The answer to POST `path`, decoded; `body` is sent as JSON, None is no body."""
        return self._decode(b"".join(self.stream("POST", path, body=body)))

    def patch(self, path: str, body: object) -> object:
        """The answer to PATCH `path`, decoded."""
        return self._decode(b"".join(self.stream("PATCH", path, body=body)))

    def put(self, path: str, body: object) -> object:
        """The answer to PUT `path`, decoded."""
        return self._decode(b"".join(self.stream("PUT", path, body=body)))

    def delete(self, path: str) -> object:
        """The answer to DELETE `path`, decoded."""
        return self._decode(b"".join(self.stream("DELETE", path)))

    def verify(self) -> object:
        """The answer to GET /v1/verify, for which the controller itself waits long."""
        return self._patient(VERIFY_SECONDS).get("/v1/verify")

    def advance(self, seconds: float) -> object:
        """The answer to POST /v1/advance: what ends in that time has ended with it."""
        return self._patient(ADVANCE_SECONDS).post("/v1/advance", {"seconds": seconds})

    def _patient(self, seconds: float) -> Client:
        root = self.path.parent.parent
        return Client(self.lab, runtime_directory=root, timeout=seconds + TIMEOUT_SECONDS)

    def stream(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        *,
        body: object = None,
    ) -> Iterator[bytes]:
        """
        The body of the answer in pieces, as it comes.

        Raises NotRunningError if nobody listens, ApiError if the controller refuses,
        BrokenOffError for an answer cut short, ClientError for the rest: no permission, silence.
        """
        if (problem := unix_socket.too_long(self.path)) is not None:
            raise ClientError(f"{problem} (choose a shorter runtime directory)")
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"{path}?{urlencode(given)}" if given else path
        text = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection, again = self._connection(), False
        try:
            try:
                connection.request(method, target, text, headers)
                response = connection.getresponse()
                if response.status >= 400:
                    refusal = self._refusal(response)
                    again = _read_whole(response)
                    raise refusal
                while piece := response.read1(65536):
                    yield piece
                again = _read_whole(response)
            except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
                raise NotRunningError(self.lab, self.path.parent.parent) from None
            except PermissionError:
                raise NoPermissionError(
                    f"no permission to use {self.path} (run it as root: sudo hyperplane-nat ...; "
                    "or have root set lab.socket_group to a group of yours)"
                ) from None
            except TimeoutError:
                raise SilentError(
                    f"the controller of lab {self.lab!r} has not answered for "
                    f"{self._timeout or 0:g} seconds (see {self.path.parent / 'controller.log'}; "
                    "if it hangs, end it with: kill -KILL "
                    f"$(cat {self.path.parent / 'controller.pid'}), and take its lab over with: "
                    f"hyperplane-nat up --lab {self.lab})"
                ) from None
            except (OSError, http.client.HTTPException) as error:
                reason = str(error) or type(error).__name__
                raise BrokenOffError(
                    f"the controller of lab {self.lab!r} broke off its answer: {reason} "
                    f"(see {self.path.parent / 'controller.log'})"
                ) from None
        finally:
            if again and self._keeping and len(self._kept) < _KEPT_MAX:
                self._kept.append((time.monotonic(), connection))
            else:
                connection.close()

    def _connection(self) -> UnixConnection:
        """One that is kept and good, or another one."""
        # Another thread may be faster.
        with contextlib.suppress(IndexError):
            while True:
                answered, connection = self._kept.pop()
                # The controller says nothing unasked: what is there to be read is the end.
                if time.monotonic() - answered < _KEPT_SECONDS and not connection.ended:
                    return connection
                connection.close()
        return UnixConnection(self.path, self._timeout)

    @staticmethod
    def _refusal(response: http.client.HTTPResponse) -> ApiError:
        body = response.read()
        try:
            document = json.loads(body)
            return ApiError(
                response.status,
                document["error"],
                document["message"],
                document.get("problems") or (),
            )
        except (ValueError, KeyError, TypeError):
            text = body.decode(errors="replace").strip() or response.reason
            return ApiError(response.status, "http", f"{response.status} {text}")

    def _decode(self, body: bytes) -> object:
        try:
            return json.loads(body) if body else None
        except ValueError as error:
            raise ClientError(
                f"the controller of lab {self.lab!r} answered something that is not JSON: {error} "
                "(is its version another one?)"
            ) from None
