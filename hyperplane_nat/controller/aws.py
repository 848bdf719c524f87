# SPDX-License-Identifier: Apache-2.0
"""AWS's endpoint (`hyperplane_nat.aws`) as the controller sees it: one more service, of a lab that
names a port for it.

It is in an extra of its own, which need not be installed, and nothing of it is imported here.
"""

from __future__ import annotations

from importlib.util import find_spec

from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.network.reconcile import module_command
from hyperplane_nat.controller.network.services import ServiceSpec
from hyperplane_nat.controller.program import identity

PROGRAM = module_command("hyperplane_nat.aws")

GROUP = "AWS"
"""What it is grouped under, as servers are under their VPC; no VPC has a name like this."""

NEEDED = ("moto", "flask")
"""What only the extra brings."""


def refuse_missing(config: Config) -> None:
    """ControllerError for a lab that is to have an endpoint where its extra is not installed."""
    if config.aws.port is None:
        return
    for package in NEEDED:
        if find_spec(package) is None:
            raise ControllerError(
                f"aws.port: the endpoint needs {package}, which is not installed "
                '(pip install "hyperplane-nat[aws]", or leave the port out)'
            )


def endpoint_specs(config: Config) -> list[ServiceSpec]:
    """The endpoint of a lab that names a port; none without."""
    if config.aws.port is None:
        return []
    command = (
        *PROGRAM,
        *("--lab", config.lab.name),
        *("--runtime-directory", config.lab.runtime_directory),
        *("--port", str(config.aws.port)),
        *("--program", identity()),
    )
    return [ServiceSpec(GROUP, "endpoint", command, PROGRAM[-1])]


def url(config: Config) -> str | None:
    """Where it is asked; None without one."""
    port = config.aws.port
    return None if port is None else f"http://127.0.0.1:{port}"
