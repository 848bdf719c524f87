# SPDX-License-Identifier: Apache-2.0
"""What moves no packets, done by moto: at once, and again for the next endpoint.

Theory of operation
-------------------
What changes something is done alone and under the journal's seed and moment (`journal`, `draws`).
At the start of an endpoint the journal is repeated. A bucket or role may be one that a stack has
made: what fails before the stacks are there is tried once more behind them, and told if it fails
again.

CloudWatch Logs also have what functions and flow logs write (`log_delivery`), which is looked for
whenever Logs are asked.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from werkzeug.wrappers import Response

from hyperplane_nat.aws.call import Lab
from hyperplane_nat.aws.draws import drawing
from hyperplane_nat.aws.journal import Entry, Journal, keeps
from hyperplane_nat.aws.log_delivery import LogDelivery

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

_TOLD_MAX = 5


class Recorder:
    """moto's application, and the journal of one lab."""

    def __init__(self, lab: Lab, moto: Callable[[WSGIEnvironment], WSGIApplication]) -> None:
        """`moto` gives what answers a request."""
        self._moto = moto
        self._journal = Journal(lab.client.path.parent)
        self._alone = threading.Lock()
        self._logs = LogDelivery(lab, self.answer)

    def answer(
        self, service: str, operation: str, account: str, environ: WSGIEnvironment, body: bytes
    ) -> Response:
        """What moto answers; AwsError where the journal has no room."""
        if service == "logs":
            self._logs.deliver(account)
        if not keeps(service, operation):
            return self._done(environ, body, None)
        with self._alone:
            entry, take_back = self._journal.note(service, operation, account, environ, body)
            accepted = False
            try:
                response = self._done(environ, body, entry)
                accepted = response.status_code < 400
            finally:
                if not accepted:
                    take_back()
        if accepted and service == "logs":
            # A delivery waits for its turn here while it keeps others from the logs.
            self._logs.note_deleted(account, operation, body)
        return response

    def repeat(self, take_over: Callable[[], None]) -> None:
        """Do what the journal has, and between its two rounds what has the stacks be there."""
        try:
            self._journal.open()
        except OSError as error:
            log.error("what is recorded is lost with this endpoint: %s", error)
            take_over()
            return
        with self._quiet():
            failed = [entry for entry in self._journal.entries() if not self._again(entry)]
            take_over()
            failed = [entry for entry in failed if not self._again(entry)]
        for entry in failed[:_TOLD_MAX]:
            log.warning("%s %s could not be repeated", entry.service, entry.operation)
        if len(failed) > _TOLD_MAX:
            log.warning("nor could %d others", len(failed) - _TOLD_MAX)

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()

    def _again(self, entry: Entry) -> bool:
        try:
            body = self._journal.body(entry)
        except OSError:
            return False
        environ: dict[str, Any] = {
            **entry.environ,
            "wsgi.errors": sys.stderr,
            "wsgi.multiprocess": False,
            "wsgi.multithread": True,
            "wsgi.run_once": False,
            "wsgi.url_scheme": "http",
            "wsgi.version": (1, 0),
        }
        return self._done(environ, body, entry).status_code < 400

    def _done(self, environ: WSGIEnvironment, body: bytes, entry: Entry | None) -> Response:
        # Its body has been read here.
        environ["wsgi.input"] = io.BytesIO(body)
        if "CONTENT_LENGTH" not in environ and "HTTP_TRANSFER_ENCODING" not in environ:
            environ["CONTENT_LENGTH"] = str(len(body))
        # The first one of a service has its modules imported, which draw, too.
        application = self._moto(environ)
        with nullcontext() if entry is None else drawing(entry.seed, entry.moment):
            # What fails there is told in the service's form, as it is here.
            return Response.from_app(application, environ)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Without a line of moto's for each that fails."""
        logger = logging.getLogger("moto")
        before, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = before
