# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with gateway endpoints by themselves: see `validation`.

Error names and texts: EC2 API, CreateVpcEndpoint, ModifyVpcEndpoint.
"""

from __future__ import annotations

import json

from hyperplane_nat.model.errors import ModelError, entry_of
from hyperplane_nat.model.gateway_endpoints import prefix_list_id, service_name
from hyperplane_nat.model.private_link_checks import no_service
from hyperplane_nat.model.resources import AWS_SERVICES, ServiceResource, VpcResource

POLICY_MAX = 20_480
"""Characters of a policy ("AWS PrivateLink quotas")."""


def service_of(named: str, region: str) -> str:
    """Which of AWS's services a name is that of. InvalidServiceName."""
    for service in AWS_SERVICES:
        if named in (service, service_name(service, region)):
            return service
    raise no_service(named)


def listed_service(named: str, region: str, field: str = "") -> str:
    """Whose prefix list a name or an id is that of. InvalidPrefixListID.NotFound."""
    for service in AWS_SERVICES:
        if named in (service, service_name(service, region), prefix_list_id(service, region)):
            return service
    raise ModelError(
        "InvalidPrefixListID.NotFound",
        f"The prefix list ID '{named}' does not exist",
        "name " + " or ".join(service_name(each, region) for each in AWS_SERVICES),
        field,
    )


def check_policy(policy: str) -> None:
    """A JSON object that is not too long, or nothing. InvalidPolicyDocument."""
    if not policy:
        return
    try:
        valid = isinstance(json.loads(policy), dict)
    except ValueError:
        valid = False
    if not valid or len(policy) > POLICY_MAX:
        raise ModelError(
            "InvalidPolicyDocument",
            "The policy document is not valid",
            f"write a JSON object of at most {POLICY_MAX} characters, or leave it out",
        )


def check_gateway_endpoints(vpc: VpcResource, region: str) -> None:
    """The gateway endpoints of a declared VPC."""
    names = [each.name for each in vpc.endpoints]
    names += [each.name for each in vpc.gateway_endpoints]
    tables = {each.name for each in vpc.route_tables}
    for endpoint in vpc.gateway_endpoints:
        try:
            if names.count(endpoint.name) > 1:
                raise ModelError(
                    "InvalidParameter",
                    f"{names.count(endpoint.name)} endpoints of VPC {vpc.name} are called "
                    f"{endpoint.name}",
                    "rename all but one",
                )
            service_of(endpoint.service, region)
            check_policy(endpoint.policy)
            for table in endpoint.route_tables:
                if table not in tables:
                    raise no_route_table(table)
        except ModelError as error:
            raise error.at(entry_of("gateway-endpoint", f"{vpc.name}/{endpoint.name}")) from None


def check_aws_service(host: ServiceResource) -> None:
    """An internet host is of a service that there is, if it says so. InvalidParameterValue."""
    if host.aws_service and host.aws_service not in AWS_SERVICES:
        raise ModelError(
            "InvalidParameterValue",
            f"internet host {host.name} is of AWS's service {host.aws_service!r}",
            "gateway endpoints are of " + " and ".join(AWS_SERVICES),
            entry_of("internet-host", host.name, "aws_service"),
        )


def no_route_table(named: str) -> ModelError:
    """A route table that is not there, or of another VPC."""
    return ModelError(
        "InvalidRouteTableId.NotFound",
        f"The routeTable ID '{named}' does not exist",
        "name one of the endpoint's VPC",
    )
