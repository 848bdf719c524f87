# SPDX-License-Identifier: Apache-2.0
"""One request of a client of AWS: whose it is, and the region that it is about.

What belongs to another account is not there for it. Names that the control API would take, too, are
none here: AWS has ids alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from hyperplane_nat.aws.errors import AwsError, missing, of_region, unsupported
from hyperplane_nat.aws.figures import Kept
from hyperplane_nat.aws.notes import TAGS_MAX, Note, Notes, too_many_tags
from hyperplane_nat.client import ApiError, Client, ClientError, UnixConnection
from hyperplane_nat.unix_socket import LAMBDA

T = TypeVar("T")
Params = Mapping[str, Any]
Row = dict[str, Any]

ALWAYS = frozenset({"ClientToken", "DryRun", "Filter", "Filters", "MaxResults", "NextToken"})
"""Parameters that every operation may have."""

TAG_KEY_MAX, TAG_VALUE_MAX = 128, 256
"""Characters."""

AWAY_PAUSE = 0.2
"""Seconds between two looks for a controller."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of resources: the key of its ids, and the error without it."""

    path: str
    """Its list in the control API; empty where it is in none by itself."""
    key: str
    code: str
    text: str
    further: tuple[str, ...] = ()
    """Other lists that have some of the kind."""

    def absent(self, key: str) -> AwsError:
        """The error of one that is not there."""
        return AwsError(self.code, self.text.format(key))

    def known(self, rows: Iterable[Row], wanted: Iterable[str]) -> dict[str, Row]:
        """Rows by their ids; the kind's own error where one of the wanted is not among them."""
        found = by_id(rows, self.key)
        for each in wanted:
            if each not in found:
                raise self.absent(each)
        return found


VPC = Kind("/v1/vpcs", "VpcId", "InvalidVpcID.NotFound", "The vpc ID '{}' does not exist")
SUBNET = Kind(
    "/v1/subnets", "SubnetId", "InvalidSubnetID.NotFound", "The subnet ID '{}' does not exist"
)
GROUP = Kind(
    "/v1/security-groups",
    "GroupId",
    "InvalidGroup.NotFound",
    "The security group '{}' does not exist",
)
ROUTE_TABLE = Kind(
    "/v1/route-tables",
    "RouteTableId",
    "InvalidRouteTableID.NotFound",
    "The routeTable ID '{}' does not exist",
)
INTERNET_GATEWAY = Kind(
    "/v1/internet-gateways",
    "InternetGatewayId",
    "InvalidInternetGatewayID.NotFound",
    "The internetGateway ID '{}' does not exist",
)
ADDRESS = Kind(
    "/v1/addresses",
    "AllocationId",
    "InvalidAllocationID.NotFound",
    "The allocation ID '{}' does not exist",
)
NAT_GATEWAY = Kind(
    "/v1/nat-gateways", "NatGatewayId", "NatGatewayNotFound", "NAT gateway {} was not found"
)
HOST = Kind(
    "/v1/hosts", "InstanceId", "InvalidInstanceID.NotFound", "The instance ID '{}' does not exist"
)

ENDPOINT_SERVICE = Kind(
    "/v1/endpoint-services",
    "ServiceId",
    "InvalidVpcEndpointServiceId.NotFound",
    "The VpcEndpointService Id '{}' does not exist",
)
GATEWAY_ENDPOINTS = "/v1/gateway-endpoints"
ENDPOINT = Kind(
    "/v1/endpoints",
    "VpcEndpointId",
    "InvalidVpcEndpointId.NotFound",
    "The Vpc Endpoint Id '{}' does not exist",
    (GATEWAY_ENDPOINTS,),
)

FLOW_LOG = Kind(
    "/v1/flow-logs",
    "FlowLogId",
    "InvalidFlowLogId.NotFound",
    "These flow log ids in the input list are not found: [TotalCount: 1] {}",
)

KINDS: Mapping[str, Kind] = {
    "vpc": VPC,
    "subnet": SUBNET,
    "sg": GROUP,
    "rtb": ROUTE_TABLE,
    "igw": INTERNET_GATEWAY,
    "eipalloc": ADDRESS,
    "nat": NAT_GATEWAY,
    "i": HOST,
    "fl": FLOW_LOG,
    "vpce": ENDPOINT,
    "vpce-svc": ENDPOINT_SERVICE,
}
"""By what ids begin with."""


@dataclass(frozen=True, slots=True)
class Lab:
    """What all requests have in common."""

    client: Client
    notes: Notes
    region: str
    """Name of the region, "us-east-1"."""
    account: str
    """Id of the account of access keys that name none."""
    kept: Kept = field(default_factory=Kept)
    """Figures for CloudWatch."""
    flow_logs: Path | None = None
    """Where the lab's flow logs are; None for one that writes none."""


@dataclass(slots=True)
class Call:
    """One request."""

    lab: Lab
    account: str
    """Id of the account whose request it is."""
    operations: Mapping[str, Mapping[str, Operation]] = field(default_factory=dict)
    """What is done in the region, by service and operation: for those that need others."""
    token: str = ""
    """By which its commands are known: the same ones again, in this order, are not done again."""
    patience: float = 0.0
    """Seconds that a controller that is away is waited for, where it is."""
    repeated: bool = False
    """Whether it was broken off and is asked again: what it makes may be there already."""
    _commands: int = 0
    _lists: dict[str, list[Row]] = field(default_factory=dict)
    _kept: Mapping[str, Note] | None = None

    @property
    def notes(self) -> Notes:
        """What is kept of resources beside the region, to be changed."""
        self._kept = None
        return self.lab.notes

    def note(self, key: str) -> Note:
        """What is kept of a resource; looked at once, until something is changed."""
        if self._kept is None:
            self._kept = self.lab.notes.all()
        return self._kept.get(key, {})

    # -- what there is

    def fresh(self, token: str = "") -> Call:
        """The same account's, which knows nothing yet: what it is asked is as it is now."""
        return Call(self.lab, self.account, self.operations, token, self.patience)

    def rows(self, path: str) -> list[Row]:
        """A list of the control API; asked for once, until something is changed."""
        if path not in self._lists:
            found: Any = self.lab.client.get(path)
            self._lists[path] = found
        return self._lists[path]

    def own(self, kind: Kind) -> list[Row]:
        """Those of the account."""
        return [
            row
            for path in (kind.path, *kind.further)
            for row in self.rows(path)
            if row["OwnerId"] == self.account
        ]

    def find(self, kind: Kind, wanted: str | None) -> Row:
        """One of the account, by its id. MissingParameter, or the kind's own error."""
        if not wanted:
            raise missing(kind.key)
        for row in self.own(kind):
            if row[kind.key] == wanted:
                return row
        raise kind.absent(wanted)

    def select(self, kind: Kind, wanted: Sequence[str] | None) -> list[Row]:
        """Those with the ids, in the list's order; all without any."""
        if not wanted:
            return self.own(kind)
        found = kind.known(self.own(kind), wanted)
        return [row for key, row in found.items() if key in wanted]

    # -- commands

    def post(self, path: str, body: Row) -> Row:
        """Create something."""
        named = self._named(body)
        return self._done(lambda: self.lab.client.post(path, named))

    def patch(self, path: str, name: str, body: Row) -> Row:
        """Change something."""
        named, path = self._named(body), f"{path}/{quote(name, safe='')}"
        return self._done(lambda: self.lab.client.patch(path, named))

    def put(self, path: str, body: Row) -> Row:
        """Replace something."""
        named = self._named(body)
        return self._done(lambda: self.lab.client.put(path, named))

    def delete(self, path: str, name: str, *, forget: bool = True) -> None:
        """Delete something, and what was kept of it unless that is to stay."""
        self._done(lambda: self.lab.client.delete(f"{path}/{quote(name, safe='')}"))
        if forget:
            self.notes.forget(name)

    def unique(self) -> str:
        """Hexadecimal digits that no other command has, and that a repeated one has again."""
        if not self.token:
            return uuid.uuid4().hex
        return hashlib.sha256(f"{self.token}-{self._commands}".encode()).hexdigest()

    def _named(self, body: Row) -> Row:
        if not self.token:
            return body
        self._commands += 1
        return {**body, "client_token": f"{self.token}-{self._commands}"}

    def _done(self, work: Callable[[], object]) -> Row:
        self._lists.clear()
        self._kept = None
        answer: Any = work()
        return answer or {}

    def perform(self, service: str, name: str, params: Params) -> Row:
        """Another operation, as if it were asked for. AwsError."""
        found = self.operations.get(service, {}).get(name)
        if found is None:
            raise unsupported(f"The operation {name} is not emulated.")
        commands, repeated = self._commands, self.repeated

        def work() -> Row:
            # Asked again under the same tokens, what was done meanwhile is not done twice.
            self._commands = commands
            try:
                return found.run(self, params, reserved=True) or {}
            except ClientError:
                self.repeated = True
                raise

        try:
            return self.patiently(work)
        except ClientError as error:
            raise of_region(error, service, name, params) from None
        finally:
            self.repeated = repeated

    def patiently(self, work: Callable[[], T]) -> T:
        """What `work` returns, done again while the controller is away, for `patience`; ClientError
        after that.
        """
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return work()
            except ApiError:
                raise
            except ClientError:
                # Away, or ended while it answered.
                if time.monotonic() >= deadline:
                    raise
                time.sleep(AWAY_PAUSE)

    def owner(self, other: str | None = None) -> str:
        """The account's id, or another one's, for a command; one that is not there is made."""
        key = other or self.account
        known = {row["Id"] for row in self.rows("/v1/accounts")}
        if key not in known:
            self.post("/v1/accounts", {"name": f"a{key}", "id": key})
        elif self.token:
            # The commands behind this one have the same tokens, whether it has to be made or not.
            self._commands += 1
        return key

    def invoke(
        self, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        """Ask the lab's own Lambda endpoint. ServiceException when it does not answer."""
        connection = UnixConnection(self.lab.client.path.with_name(LAMBDA), None)
        with contextlib.closing(connection):
            try:
                connection.request("POST", path, body, dict(headers))
                answer = connection.getresponse()
                return answer.status, dict(answer.getheaders()), answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise AwsError(
                    "ServiceException", f"nothing runs the functions of the lab: {error}", 500
                ) from None

    # -- tags

    def tags(self, key: str) -> list[dict[str, str]]:
        """The tags of a resource, as EC2 lists them."""
        return tag_list(self.note(key).get("Tags", {}))

    def tag_new(self, key: str, kind: str, params: Params) -> None:
        """The tags that something is created with (`TagSpecifications`)."""
        found = {
            each["Key"]: each.get("Value") or ""
            for specification in params.get("TagSpecifications") or ()
            if specification.get("ResourceType") == kind
            for each in specification.get("Tags") or ()
        }
        if found:
            self.notes.tag([key], found)

    # -- names

    def zone(self, letter: str) -> str:
        """The name of an availability zone, of which the region knows the letter."""
        return f"{self.lab.region}{letter}"

    def arn(self, service: str, resource: str) -> str:
        """The ARN of something of the account."""
        return f"arn:aws:{service}:{self.lab.region}:{self.account}:{resource}"


@dataclass(frozen=True, slots=True)
class Operation:
    """What is done for an operation, and which parameters it takes: others are refused."""

    work: Callable[[Call, Params], Row | None]
    takes: frozenset[str]
    makes: frozenset[str] = frozenset()
    """What it makes that may have tags, by EC2's `ResourceType`."""
    inner: frozenset[str] = frozenset()
    """Beside `takes`, from a stack alone."""

    def run(self, call: Call, params: Params, *, reserved: bool = False) -> Row | None:
        """Do it. UnsupportedOperation for a parameter that would have no effect.

        `reserved`: it is asked by what may use AWS's own tags, a stack.
        """
        takes = self.takes | self.inner if reserved else self.takes
        for name, value in params.items():
            if name not in takes and name not in ALWAYS and value not in (None, False, [], {}):
                raise unsupported(f"The parameter {name} is not emulated.")
        for each in params.get("TagSpecifications") or ():
            # Before anything is made.
            self._check_tagged(each.get("ResourceType"))
            checked_tags(each.get("Tags"), reserved=reserved)
        if params.get("DryRun"):
            raise AwsError(
                "DryRunOperation",
                "Request would have succeeded, but DryRun flag is set.",
                412,
            )
        return self.work(call, params)

    def _check_tagged(self, kind: str | None) -> None:
        if not kind:
            raise AwsError(
                "InvalidParameterValue", "Tag specification resource type must have a value"
            )
        if kind not in self.makes:
            raise AwsError(
                "InvalidParameterValue",
                f"'{kind}' is not a valid taggable resource type for this operation.",
            )


def operation(
    work: Callable[[Call, Params], Row | None], takes: str = "", makes: str = "", inner: str = ""
) -> Operation:
    """One that takes the parameters named, beside those that all may have."""
    return Operation(
        work, frozenset(takes.split()), frozenset(makes.split()), frozenset(inner.split())
    )


def checked_tags(
    said: Iterable[Mapping[str, Any]] | None, *, reserved: bool = False
) -> dict[str, str]:
    """The tags of a request to EC2. MissingParameter, InvalidParameterValue, TagLimitExceeded.

    Limits: "Tag your Amazon EC2 resources", restrictions.
    """
    found = {}
    for each in said or ():
        name, value = each.get("Key"), each.get("Value") or ""
        if not name:
            raise missing("Key")
        if name.startswith("aws:") and not reserved:
            raise AwsError(
                "InvalidParameterValue",
                "Tag keys starting with 'aws:' are reserved for internal use",
            )
        for text, kind, most in ((name, "key", TAG_KEY_MAX), (value, "value", TAG_VALUE_MAX)):
            if len(text) > most:
                raise AwsError(
                    "InvalidParameterValue",
                    f"Tag {kind} exceeds the maximum length of {most} characters",
                )
        found[name] = value
    if len(found) > TAGS_MAX:
        raise too_many_tags()
    return found


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags in the form of EC2."""
    return [{"Key": name, "Value": value} for name, value in sorted(tags.items())]


def token_of(params: Params) -> Row:
    """The client's own token, as a command has it."""
    token = params.get("ClientToken")
    return {"client_token": token} if token else {}


def derived(prefix: str, *parts: str) -> str:
    """An id of what the region gives none: always the same one for the same parts."""
    digest = hashlib.sha256("/".join(parts).encode()).hexdigest()
    return f"{prefix}-{digest[:17]}"


def utc(seconds: float | None) -> datetime | None:
    """A time of the control API or of the notes, in seconds since the epoch, as AWS tells it."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def text_of(value: object) -> str:
    """A value of JSON as AWS writes it where there is text: truths in small letters."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def by_id(rows: Iterable[Row], key: str) -> dict[str, Row]:
    """Rows by their ids."""
    return {row[key]: row for row in rows}
