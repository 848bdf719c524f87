# SPDX-License-Identifier: Apache-2.0
"""The endpoint: requests of AWS's clients, each given to what answers it.

Theory of operation
-------------------
Whose a request is and for which service is said by its credential scope (Signature Version 4); the
signature is not looked at. An access key of twelve digits is an account, one that IAM or STS have
given out is of theirs, every other one of the lab's first. `operations` says what becomes of the
operation: the region's answer is put into the service's protocol by moto's serializers, as a
refusal is; what is recorded goes to moto's own application, and by way of `journal` where it is to
be there for the next endpoint, too.

It listens on 127.0.0.1. A web page in a browser of this host could send to it, and has a name for
whom it means (Host) or says where it comes from (Origin); both are refused.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import sys
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

# moto reads these when it is imported. Others' pages are answered nothing.
os.environ["MOTO_DISABLE_GLOBAL_CORS"] = "true"
os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
os.environ["MOTO_IAM_LOAD_MANAGED_POLICIES"] = "true"

from botocore.exceptions import UnknownServiceError
from botocore.model import OperationNotFoundError
from botocore.validate import ParamValidator
from flask import Flask
from moto import backends
from moto.core import responses
from moto.core.model import OperationModel, ServiceModel
from moto.core.parse import PROTOCOL_PARSERS, RequestParserError
from moto.core.request import Request, determine_request_protocol
from moto.core.routing import get_service_router
from moto.core.serialize import SerializationContext
from moto.core.utils import get_service_model, method_names_from_class
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.datastructures import CombinedMultiDict, MultiDict
from werkzeug.exceptions import HTTPException
from werkzeug.serving import BaseWSGIServer, make_server
from werkzeug.wrappers import Response

from hyperplane_nat.aws import functions, metrics, motos_tables, operations, stack_threads
from hyperplane_nat.aws.call import Call, Lab
from hyperplane_nat.aws.errors import AwsError, of_region, unsupported
from hyperplane_nat.aws.operations import INVOKE, SIGNING_NAMES, Treatment
from hyperplane_nat.aws.recorder import Recorder
from hyperplane_nat.aws.xml import serializer_class
from hyperplane_nat.client import ClientError
from hyperplane_nat.hosts import meant_for
from hyperplane_nat.runtime.uploads import REQUEST_BYTES_MAX

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

ADDRESS = "127.0.0.1"

FORM = "application/x-www-form-urlencoded"

UPLOAD = "multipart/form-data"

OF_MOTO = ("/moto-api", "/latest/meta-data", "/latest/api")
"""Where moto has something of its own, whatever the service."""

IDLE_SECONDS = 600
"""How long a connection is kept that asks for nothing: SDKs have pools of them."""

BACKLOG = 128
"""Connections that may wait to be accepted."""

BODY_BYTES_MAX = REQUEST_BYTES_MAX
"""Of a request; an archive of code is the largest there is."""

SMALL_BODY_BYTES_MAX = 1 << 20
"""Of a request after which its connection is kept."""

log = logging.getLogger(__name__)

_SCOPE = re.compile(
    r"(?P<key>[A-Za-z0-9_-]{1,128})/[0-9]{8}/(?P<region>[a-z0-9-]+)/(?P<service>[a-z0-9-]+)/"
    r"aws4_request"
)
_ACCOUNT = re.compile("[0-9]{12}")

motos_tables.leave_out()

# moto looks into its directory, and over all names of a service's class, for each request.
_MODULES = frozenset(backends.list_of_moto_modules())
backends.list_of_moto_modules = lambda: _MODULES
vars(responses)["method_names_from_class"] = cache(method_names_from_class)


@dataclass(frozen=True, slots=True)
class Scope:
    """Who asks, and whom."""

    key: str
    service: str
    """As botocore calls it."""


class Application:
    """The endpoint of one lab, as WSGI has it."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        moto = DomainDispatcherApplication(_recorded_application)
        self._recorder = Recorder(lab, lambda environ: moto.get_application(environ))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        return self._answer(environ)(environ, start_response)

    def _answer(self, environ: WSGIEnvironment) -> WSGIApplication:
        request = Request(environ)
        if not meant_for(request.headers.get("Host", "")) or "Origin" in request.headers:
            return Response("this endpoint is for AWS's clients on this host\n", 403)
        request.max_content_length = BODY_BYTES_MAX
        try:
            request.get_data(parse_form_data=False)
        except HTTPException as refused:
            return refused.get_response(environ)
        scope = _scope(request)
        if scope is None:
            error = AwsError(
                "MissingAuthenticationToken", "Request is missing Authentication Token", 403
            )
            return _refusal("", None, request, error)
        account = _account(scope.key) or self._lab.account
        service, name, params = scope.service, None, {}
        model: OperationModel | None = None
        where: Mapping[str, Any] = {}
        try:
            if service == "s3" and request.mimetype == UPLOAD:
                # POST Object is a page's, so botocore has no model of it.
                return self._moto(request, account, service, "PostObject")
            model, where = _operation(request, service)
            name = str(model.name)
            kind = operations.treatment(service, name)
            if kind is Treatment.REFUSED:
                raise unsupported(f"The operation {name} is not emulated.")
            call = Call(self._lab, account, operations.REAL)
            if (service, name) == ("lambda", INVOKE):
                asked = {**where, "Qualifier": request.args.get("Qualifier")}
                status, headers, body = functions.invoke(
                    call, asked, request.get_data(), dict(request.headers)
                )
                return Response(body, status, _end_to_end(headers))
            done = operations.REAL.get(service, {}).get(name)
            if done is None:
                _readable(request, model.service_model)
                return self._moto(request, account, service, name)
            params = _params(request, model, where)
            if service == "cloudwatch" and not metrics.of_the_lab(name, params):
                metrics.check_periods(name, params)
                return self._moto(request, account, service, name)
            result = done.run(call, params)
            return _result(model, request, result)
        except AwsError as error:
            return _refusal(service, name, request, error)
        except ClientError as error:
            said = of_region(error, service, name or "", params)
            return _refusal(service, name, request, said)
        except Exception:
            if model is not None and (wrong := _wrong(request, model, where)) is not None:
                return _refusal(service, name, request, wrong)
            log.exception("%s %s", service, name)
            code = "ServiceException" if service == "lambda" else "InternalError"
            return _refusal(service, name, request, AwsError(code, "see its output", 500))

    def _moto(
        self, request: Request, account: str, service: str, operation: str
    ) -> WSGIApplication:
        if request.path.startswith(OF_MOTO):
            raise unsupported(f"The name {request.path.split('/')[1]} is taken.")
        request.environ["HTTP_X_MOTO_ACCOUNT_ID"] = account
        return self._recorder.answer(
            service, operation, account, request.environ, request.get_data()
        )

    def begin(self, take_over: Callable[[], None]) -> None:
        """What a former endpoint has recorded is there again; `take_over` has the stacks be."""
        self._recorder.repeat(take_over)

    def close(self) -> None:
        """Let go of the lab's files."""
        self._recorder.close()


def _recorded_application(service: Any) -> Flask:
    application = create_backend_app(service)
    if (s3 := sys.modules.get("moto.s3.models")) is not None:
        from moto.iam.access_control import PermissionResult

        # Everybody is root. moto would refuse by a policy without a look at its conditions.
        s3.FakeBucket.get_permission = lambda *_: PermissionResult.NEUTRAL
    # Flask's own page for what fails shows sources and a console.
    application.debug = False
    application.config["PROPAGATE_EXCEPTIONS"] = True
    return application


def _scope(request: Request) -> Scope | None:
    """The credential scope of the header, of a presigned address, or of a presigned form.

    What botocore signs beforehand for S3 has Signature Version 2 in some regions, which names a key
    alone ("Signing and authenticating REST requests", Amazon S3 User Guide).
    """
    text = request.headers.get("Authorization", "")
    _, _, said = text.partition("Credential=")
    if not said:
        beforehand = _presigned(request)
        said = beforehand.get("X-Amz-Credential") or beforehand.get("x-amz-credential") or ""
        if not said and (key := beforehand.get("AWSAccessKeyId")):
            return Scope(key, "s3")
    found = _SCOPE.match(said)
    if found is None:
        return None
    return Scope(found["key"], SIGNING_NAMES.get(found["service"], found["service"]))


def _presigned(request: Request) -> Mapping[str, str]:
    """Where a request that was signed beforehand says by whom."""
    if request.mimetype != UPLOAD:
        return request.args
    try:
        return request.form
    except HTTPException:
        return {}


def _account(key: str) -> str | None:
    """The account that an access key says, or for which moto has made it."""
    if _ACCOUNT.fullmatch(key):
        return key
    # Who has no such module has given out no key.
    if (iam := sys.modules.get("moto.iam.models")) is not None:
        for account, partitions in list(iam.iam_backends.items()):
            if key in partitions["aws"].access_keys:
                return str(account)
    return None


def _operation(request: Request, service: str) -> tuple[OperationModel, Mapping[str, Any]]:
    """The operation, and what its path says. UnsupportedOperation, InvalidAction."""
    try:
        model = get_service_model(service)
    except UnknownServiceError:
        raise unsupported(f"The service {service} is not emulated.") from None
    target = request.headers.get("X-Amz-Target")
    said = target.rpartition(".")[2] if target else _action(request)
    try:
        if said:
            return model.operation_model(said), {}
        found, where = get_service_router(service).match(request)
    except (OperationNotFoundError, HTTPException, NotImplementedError):
        raise AwsError(
            "InvalidAction", f"The action {said or request.path} is not valid for this web service."
        ) from None
    return found, where


def _action(request: Request) -> str | None:
    """The operation of a request in the form of a query."""
    if request.mimetype == FORM:
        text = request.get_data().decode("utf-8", "replace")
        found = parse_qs(text).get("Action")
        if found:
            return found[0]
    return request.args.get("Action")


def _readable(request: Request, service: ServiceModel) -> None:
    """Whether a body in JSON is an object, which moto takes for granted. SerializationException."""
    body = request.get_data()
    if not body or _protocol(service, request) != "json":
        return
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise AwsError("SerializationException", "The body is not an object in JSON.")


def _params(request: Request, model: OperationModel, where: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, as botocore's model has them. InvalidParameterValue for what is none."""
    service = model.service_model
    try:
        parser = PROTOCOL_PARSERS[_protocol(service, request)](model, map_type=dict)
        found = parser.parse(
            {
                "method": request.method,
                "values": _values(request),
                "headers": request.headers,
                "body": request.get_data(),
                "url_path": request.path,
                "url_params": dict(where),
            }
        )
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        NotImplementedError,
        RequestParserError,
        RecursionError,
    ) as error:
        raise AwsError("InvalidParameterValue", f"The request cannot be read: {error}") from None
    return dict(found)


def _wrong(request: Request, model: OperationModel, where: Mapping[str, Any]) -> AwsError | None:
    """What is not as botocore's model has it in a request that nobody could answer, if anything.

    Most SDKs look before they ask; those that do not would ask again and again for a failure.
    """
    try:
        found = _params(request, model, where)
    except AwsError as error:
        return error
    report = ParamValidator().validate(found, model.input_shape)
    if not report.has_errors():
        return None
    code = "ValidationError" if "query" in model.service_model.protocol else "ValidationException"
    return AwsError(code, report.generate_report())


def _values(request: Request) -> Any:
    if request.mimetype != FORM:
        return request.values
    body = parse_qs(request.get_data().decode("utf-8", "replace"), keep_blank_values=True)
    return CombinedMultiDict([request.args, MultiDict(body)])


def _protocol(service: ServiceModel, request: Request) -> str:
    return determine_request_protocol(service, request.headers.get("Content-Type", ""))


def _result(model: OperationModel, request: Request, result: object) -> Response:
    return _serialized(model, _protocol(model.service_model, request), result)


def _refusal(service: str, name: str | None, request: Request, error: AwsError) -> Response:
    try:
        model = get_service_model(service)
    except (UnknownServiceError, ValueError):
        model = get_service_model(_stand_in(request))
    try:
        operation = model.operation_model(name) if name else OperationModel({}, model)
        protocol = _protocol(model, request)
    except (OperationNotFoundError, NotImplementedError):
        operation, protocol = OperationModel({}, model), str(model.protocol)
    response = _serialized(operation, protocol, error)
    if error.status is not None:
        response.status_code = error.status
    return response


def _stand_in(request: Request) -> str:
    """A service of the same protocol, where that which is meant is not known."""
    if "X-Amz-Target" in request.headers:
        return "logs"
    return "sts" if request.mimetype == FORM else "lambda"


def _serialized(model: OperationModel, protocol: str, result: object) -> Response:
    identifier = str(uuid.uuid4())
    serializer = serializer_class(str(model.service_model.service_name), protocol)(
        operation_model=model, context=SerializationContext(identifier), pretty_print=False
    )
    found: Any = serializer.serialize(result)
    response = Response(found["body"], found["status_code"], found["headers"])
    response.headers["x-amzn-RequestId"] = identifier
    return response


def _end_to_end(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that are not of one connection alone (RFC 9110, section 7.6.1)."""
    own = {"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"}
    return {name: value for name, value in headers.items() if name.lower() not in own}


class _Handler(MotoRequestHandler):
    timeout = IDLE_SECONDS
    wbufsize = -1
    """Head and body of an answer are sent at once."""
    disable_nagle_algorithm = True
    """The end of a large one does not wait for the client's delayed acknowledgement, 40 ms."""

    def make_environ(self) -> WSGIEnvironment:
        """werkzeug's; before it a client that waits with its body is told to go on."""
        self.wfile.flush()
        return super().make_environ()

    def run_wsgi(self) -> None:
        """Answer a request, after which the connection may have another one.

        werkzeug ends the connection with each, as what is left of a body would be read as the next
        request. So what has no plain and small body is left to werkzeug.
        """
        size = self._size()
        if size is None:
            super().run_wsgi()
            return
        body = self.rfile.read(size)
        if len(body) < size:
            self.close_connection = True
            return
        environ = self.make_environ()
        environ["wsgi.input"] = io.BytesIO(body)
        answer = Response.from_app(self.server.app, environ, buffered=True)
        content, status, headers = answer.get_wsgi_response(environ)
        code, _, text = status.partition(" ")
        self.send_response(int(code), text)
        for name, value in headers:
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.writelines(content)
        self.wfile.flush()

    def _size(self) -> int | None:
        """Of a body that is to be read here, in bytes."""
        headers = self.headers
        if self.request_version != "HTTP/1.1" or "Transfer-Encoding" in headers:
            return None
        said = headers.get_all("Content-Length", ["0"])
        if len(said) > 1 or not (said[0].isascii() and said[0].isdigit()) or "Expect" in headers:
            return None
        size = int(said[0])
        return size if size <= SMALL_BODY_BYTES_MAX else None

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Keep quiet, before a line is made."""

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - werkzeug's name
        """Keep quiet: each request would be a line."""


def listen(lab: Lab, listener: socket.socket) -> BaseWSGIServer:
    """The endpoint on a socket that is bound to a port of 127.0.0.1."""
    # EC2 models none of its errors, and moto would say so of each.
    warnings.filterwarnings("ignore", message=".* does not match an error shape")
    application = Application(lab)
    application.begin(
        lambda: stack_threads.take_over(lambda account: Call(lab, account, operations.REAL))
    )
    listener.listen(BACKLOG)
    address, port = listener.getsockname()
    return make_server(
        address,
        port,
        application,
        threaded=True,
        request_handler=_Handler,
        fd=listener.fileno(),
    )
