# SPDX-License-Identifier: Apache-2.0
"""The addresses that custom resources answer at, in the lab's internet.

Theory of operation
-------------------
The endpoint is on the host's loopback link, where no environment gets. What does get there is the
lab's internet: functions outside every VPC, and those in one through a NAT gateway, as on AWS. So
the first address that is asked for has the region start a mailbox there (`netns.mailbox`), a public
host like others, which stays with the lab. It is spoken to by a unix socket in the lab's directory.

Who knows an address may answer, as with the presigned ones of AWS: 192 random bits are in it. It is
`http`: there is no certificate that a function would believe.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import Any

from hyperplane_nat import unix_socket
from hyperplane_nat.aws.call import Call, Row
from hyperplane_nat.aws.stack_making import ResourceError
from hyperplane_nat.aws.stack_pauses import Pauses
from hyperplane_nat.client import ApiError, UnixConnection

VPC, NAME, PORT = "internet", "cfn-responses", 80

ADDRESSES = IPv4Network("198.51.100.0/24")
"""The mailbox has the last one that nobody has."""

START_SECONDS = 30.0
"""For the mailbox to answer."""

ANSWER_SECONDS = 5.0

ATTEMPTS = 3

LETTER_BYTES_MAX = 4096
"""Of a response ("Custom resource response objects")."""

_GONE = 410


class Response:
    """One address, until it has been answered at."""

    def __init__(self, call: Call, address: str) -> None:
        self._call = call
        self._name = secrets.token_urlsafe(24)
        self.url = f"http://{address}/{self._name}"

    def read(self) -> Row | None:
        """What was answered; None while there is nothing. ResourceError for what is none."""
        try:
            status, body = self._ask("GET")
            if status == _GONE:
                # The mailbox was started anew.
                self._ask("PUT")
        except OSError:
            return None
        if status != http.client.OK:
            return None
        try:
            found: Any = json.loads(body) if len(body) <= LETTER_BYTES_MAX else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ResourceError(
                f"Invalid response: it is not an object in JSON of at most {LETTER_BYTES_MAX} bytes"
            )
        return found

    def open(self) -> None:
        """From now on it takes an answer. ResourceError."""
        pauses = Pauses(START_SECONDS)
        while True:
            with contextlib.suppress(OSError):
                if self._ask("PUT")[0] == http.client.OK:
                    return
            if pauses.over:
                raise ResourceError("Nothing takes responses in the lab's internet")
            pauses.rest()

    def close(self) -> None:
        """It takes none any more."""
        with contextlib.suppress(OSError):
            self._ask("DELETE")

    def _ask(self, method: str) -> tuple[int, bytes]:
        directory = self._call.lab.client.path.parent
        path = directory / unix_socket.mailbox(VPC, NAME)
        with contextlib.closing(UnixConnection(path, ANSWER_SECONDS)) as connection:
            try:
                connection.request(method, f"/{self._name}")
                answer = connection.getresponse()
                return answer.status, answer.read()
            except http.client.HTTPException as error:
                raise OSError(str(error)) from None


@contextlib.contextmanager
def expected(call: Call) -> Iterator[Response]:
    """An address that takes an answer meanwhile. ResourceError, ClientError."""
    found = Response(call, call.patiently(lambda: _address(call)))
    found.open()
    try:
        yield found
    finally:
        found.close()


def _address(call: Call) -> str:
    """Where the mailbox is, which is made if there is none."""
    refused: set[str] = set()
    for attempt in range(ATTEMPTS):
        fresh = call.fresh()
        if (there := _mailbox(fresh)) is not None:
            return there
        taken = refused | {row["PublicIp"] for row in fresh.rows("/v1/addresses")}
        taken |= {each["PrivateIpAddress"] for each in fresh.rows("/v1/services")}
        hosts = reversed(list(ADDRESSES.hosts()))
        address = next((str(each) for each in hosts if str(each) not in taken), None)
        if address is None:
            break
        body = {"vpc": VPC, "name": NAME, "kind": "mailbox", "address": address, "port": PORT}
        try:
            call.lab.client.post("/v1/services", body)
        except ApiError:
            # Somebody was faster, with the address or with the mailbox.
            refused.add(address)
            if attempt == ATTEMPTS - 1:
                raise
    raise ResourceError(f"No address of {ADDRESSES} is free for responses")


def _mailbox(call: Call) -> str | None:
    for row in call.rows("/v1/services"):
        if (row["VpcName"], row["ServiceName"], row["Kind"]) == (VPC, NAME, "mailbox"):
            return str(row["PrivateIpAddress"])
    return None
