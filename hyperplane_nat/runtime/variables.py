# SPDX-License-Identifier: Apache-2.0
"""The environment block of what runs in an environment: Lambda's variables and the function's own.

Nothing of the shell that has started the lab is in it. What Lambda sets itself is in "Defined
runtime environment variables" of the Lambda developer guide; the model refuses a function that
gives one of these another value (`RESERVED_VARIABLES`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hyperplane_nat.runtime.code import PATH

RUNTIME_API = "127.0.0.1:9001"
"""Where a runtime asks for invocations, inside its environment."""

TASK_ROOT = "/var/task"
RUNTIME_DIRECTORY = "/var/runtime"
LANGUAGE_DIRECTORY = "/var/lang"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a function is called, where."""

    name: str
    memory_mb: int
    region: str
    version: str = "$LATEST"
    """Or the number of a published one."""


def of_program(identity: Identity, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of a program that an invocation names."""
    return {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "HOME": "/",
        "TZ": ":UTC",
        "AWS_REGION": identity.region,
        "AWS_DEFAULT_REGION": identity.region,
        "AWS_LAMBDA_FUNCTION_NAME": identity.name,
        "AWS_LAMBDA_FUNCTION_VERSION": identity.version,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(identity.memory_mb),
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{identity.name}",
        **environment,
    }


def of_handler(
    identity: Identity,
    environment: Mapping[str, str],
    *,
    handler: str,
    runtime: str,
    log_stream: str,
    ahead: bool = False,
) -> dict[str, str]:
    """The variables of a runtime, beside those of a program; `ahead` of its first invocation."""
    return {
        "LD_LIBRARY_PATH": f"{LANGUAGE_DIRECTORY}/lib:{TASK_ROOT}:{TASK_ROOT}/lib:/opt/lib",
        **of_program(identity, {"PATH": f"{PATH}:/opt/bin", **environment}),
        "_HANDLER": handler,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{runtime}",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "provisioned-concurrency" if ahead else "on-demand",
        "AWS_LAMBDA_LOG_STREAM_NAME": log_stream,
        "AWS_LAMBDA_RUNTIME_API": RUNTIME_API,
        "LAMBDA_TASK_ROOT": TASK_ROOT,
        "LAMBDA_RUNTIME_DIR": RUNTIME_DIRECTORY,
    }
