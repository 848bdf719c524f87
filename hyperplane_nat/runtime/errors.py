# SPDX-License-Identifier: Apache-2.0
"""What an invocation is refused with: the names of the Lambda API and their HTTP statuses."""

from __future__ import annotations

STATUSES = {
    "AccessDeniedException": 403,
    "ENILimitReachedException": 502,
    "InvalidParameterValueException": 400,
    "InvalidRequestContentException": 400,
    "RequestEntityTooLargeException": 413,
    "ResourceConflictException": 409,
    "ResourceNotFoundException": 404,
    "ResourceNotReadyException": 502,
    "ServiceException": 500,
    "SubnetIPAddressLimitReachedException": 502,
    "TooManyRequestsException": 429,
    "UnrecognizedClientException": 403,
    "ValidationException": 400,
}
"""Lambda API, Invoke, "Errors", and its common errors, but for RequestTooLargeException, which the
service calls RequestEntityTooLargeException. What is not here is the service's: 500.
"""


class LambdaError(Exception):
    """A refusal; `code` is the error's name, `reason` that of TooManyRequestsException."""

    def __init__(self, code: str, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message

    @property
    def status(self) -> int:
        """Of HTTP."""
        return STATUSES.get(self.code, 500)
