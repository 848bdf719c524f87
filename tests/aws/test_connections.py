# SPDX-License-Identifier: Apache-2.0
"""The connections of clients to the endpoint: which of them may have another request."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import pytest

from hyperplane_nat.aws import server
from hyperplane_nat.aws.server import SMALL_BODY_BYTES_MAX
from tests.aws.support import ACCOUNT, REGION, Endpoint

SIGNED = {
    "Authorization": f"AWS4-HMAC-SHA256 Credential={ACCOUNT}/20260101/{REGION}/ec2/aws4_request",
    "Content-Type": "application/x-www-form-urlencoded",
}
ASKED = b"Action=DescribeVpcs&Version=2016-11-15"


@contextlib.contextmanager
def connected(endpoint: Endpoint) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(urlsplit(endpoint.url).netloc, timeout=30)
    connection.connect()
    # What ends is not begun again unasked.
    connection.auto_open = 0
    with contextlib.closing(connection):
        yield connection


def asked(
    connection: http.client.HTTPConnection,
    body: bytes = ASKED,
    headers: Mapping[str, str] = SIGNED,
    method: str = "POST",
) -> tuple[int, bytes]:
    connection.request(method, "/", body, dict(headers))
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_connection_has_many_requests(endpoint: Endpoint) -> None:
    with connected(endpoint) as connection:
        for _ in range(3):
            status, body = asked(connection)
            assert status == 200
            assert b"DescribeVpcsResponse" in body


@pytest.mark.parametrize(
    ("refused", "method"),
    [
        ({"Content-Type": "text/plain"}, "POST"),
        ({**SIGNED, "Origin": "http://example.com"}, "POST"),
        ({**SIGNED, "Origin": "http://example.com"}, "HEAD"),
    ],
)
def test_what_was_refused_is_not_read_as_the_next_request(
    endpoint: Endpoint, refused: Mapping[str, str], method: str
) -> None:
    with connected(endpoint) as connection:
        assert asked(connection, headers=refused, method=method)[0] == 403
        assert asked(connection)[0] == 200


@pytest.mark.parametrize("headers", [{"Connection": "close"}, {"Expect": "100-continue"}])
def test_who_asks_for_it_has_the_last_answer(
    endpoint: Endpoint, headers: Mapping[str, str]
) -> None:
    with connected(endpoint) as connection:
        assert asked(connection, headers={**SIGNED, **headers})[0] == 200
        with pytest.raises(http.client.NotConnected):
            asked(connection)


def test_a_large_body_ends_its_connection(endpoint: Endpoint) -> None:
    with connected(endpoint) as connection:
        large = ASKED + b"&Filter.1.Name=" + b"x" * SMALL_BODY_BYTES_MAX
        assert asked(connection, large)[0] in (200, 400)
        with pytest.raises(http.client.NotConnected):
            asked(connection)


@pytest.mark.parametrize("size", ["-1", "+3", "0x3", "3, 3", "\u00b2", ""])
def test_a_body_without_a_plain_size_ends_its_connection(endpoint: Endpoint, size: str) -> None:
    with connected(endpoint) as connection:
        connection.putrequest("POST", "/")
        for name, value in {**SIGNED, "Content-Length": size}.items():
            connection.putheader(name, value.encode("latin-1"))
        connection.endheaders()
        answer = connection.getresponse()
        answer.read()
        assert answer.getheader("Connection") == "close"


def test_a_client_that_leaves_within_its_body_is_not_answered(endpoint: Endpoint) -> None:
    with connected(endpoint) as connection:
        connection.putrequest("POST", "/")
        for name, value in {**SIGNED, "Content-Length": "100"}.items():
            connection.putheader(name, value)
        connection.endheaders(ASKED)
        assert connection.sock is not None
        connection.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(http.client.RemoteDisconnected):
            connection.getresponse()


def test_clients_of_aws_keep_their_connections(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = []
    handle = server._Handler.setup

    def setup(handler: server._Handler) -> None:
        accepted.append(handler.client_address)
        handle(handler)

    monkeypatch.setattr(server._Handler, "setup", setup)
    ec2, s3 = endpoint.client("ec2", "777788889999"), endpoint.client("s3", "777788889999")
    for _ in range(4):
        ec2.describe_vpcs()
        s3.list_buckets()
    assert len(accepted) == 2
