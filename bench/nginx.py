# SPDX-License-Identifier: Apache-2.0
"""nginx inside a namespace, with everything it writes in a directory that goes away with it."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from netns import namespace

START_SECONDS = 10.0


class NginxError(Exception):
    """nginx does not start; the text is one line."""


CONFIGURATION = """\
daemon off;
worker_processes 1;
user root;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {address}:{port} backlog=8192{options};
        root {directory}/files;{more}
    }}
}}
"""


CLIENT = """
        location = /client {
            set $listener "$proxy_protocol_server_addr:$proxy_protocol_server_port";
            return 200 "$proxy_protocol_addr:$proxy_protocol_port $listener";
        }"""
"""Who a header of the PROXY protocol says that is connected, and to whom."""


def find() -> str | None:
    """The path of nginx, if it is installed."""
    return shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin")


@contextlib.contextmanager
def serving(
    program: str,
    namespace_name: str,
    address: str,
    port: int,
    files: dict[str, bytes],
    *,
    proxy_protocol: bool = False,
) -> Iterator[None]:
    """
    Run nginx in a namespace with these files, by their paths, while the context lasts. With
    `proxy_protocol` it asks for its header, and `/client` says what that was.

    Raises NginxError with nginx's own words if it does not listen within 10 seconds.
    """
    with tempfile.TemporaryDirectory(prefix="hyperplane-nat-nginx-") as name:
        directory = Path(name)
        (directory / "files").mkdir()
        for path, content in files.items():
            (directory / "files" / path).write_bytes(content)
        configuration = directory / "nginx.conf"
        configuration.write_text(
            CONFIGURATION.format(
                directory=directory,
                address=address,
                port=port,
                options=" proxy_protocol" if proxy_protocol else "",
                more=CLIENT if proxy_protocol else "",
            )
        )
        process = namespace.call(
            namespace_name, _start, [program, "-p", name, "-c", str(configuration)]
        )
        try:
            _wait_listening(process, namespace_name, address, port)
            yield
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _wait_listening(
    process: subprocess.Popen[bytes], namespace_name: str, address: str, port: int
) -> None:
    deadline = time.monotonic() + START_SECONDS
    watch = os.pidfd_open(process.pid)
    try:
        while not namespace.call(namespace_name, _connects, address, port):
            # The end of the process, or a moment.
            ended, _, _ = select.select([watch], [], [], 0.02)
            if ended:
                _, words = process.communicate()
                text = words.decode(errors="replace").strip() or f"status {process.returncode}"
                raise NginxError(f"nginx does not start: {text}")
            if time.monotonic() > deadline:
                raise NginxError(f"nginx does not listen after {START_SECONDS:g} seconds")
    finally:
        os.close(watch)


def _connects(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0
