# SPDX-License-Identifier: Apache-2.0
"""The numbers that Python and the compiled engine share.

Every name here is written once. The build turns this module into `_constants.pxd`
(see `pxd`), so the compiled code and its Python readers cannot disagree.

`DropReason` is the one list of reasons for which a frame is not forwarded: a member is a
counter in the state map, a label of `hyperplane_nat_drops_total` and a test.
"""

from __future__ import annotations

from enum import IntEnum, unique

__all__ = [
    "COUNTER_NAMES",
    "EXHAUSTIONS",
    "INTERFACE_COUNTER_NAMES",
    "LAYOUT_VERSION",
    "NODE_COUNTER_NAMES",
    "Action",
    "AttachmentKind",
    "DropReason",
    "Effect",
    "EndCause",
    "EventKind",
    "Filtering",
    "FragmentAction",
    "FragmentEvent",
    "FragmentState",
    "Mapping",
    "NeighbourAction",
    "NeighbourEvent",
    "NeighbourState",
    "Peer",
    "Position",
    "Role",
    "RouteTarget",
    "Segment",
    "Side",
    "State",
    "counter_names",
    "pxd",
]

LAYOUT_VERSION = 7
"""Version of the state map; a forwarder refuses a map of another version."""

EXHAUSTIONS = 1024
"""Remote endpoints for which the state map remembers that ports ran out."""


@unique
class Peer(IntEnum):
    """The ends of a flow: who began it, and who answers."""

    ORIGINATOR = 0
    RESPONDER = 1


@unique
class Position(IntEnum):
    """Where on the way of a flow by a NAT gateway or a load balancer's node a packet is refused.

    At the interface of its client, of an endpoint, of the gateway or node on the side of the client
    or on the far one, or of the target.
    """

    CLIENT = 0
    ENDPOINT = 1
    NEAR = 2
    FAR = 3
    TARGET = 4


@unique
class Side(IntEnum):
    """Which side of the translation a frame arrived on: an environment's, or an interface's.

    Others than the engine name an attachment by it and a number.
    """

    INSIDE = 0
    OUTSIDE = 1
    HOST = 2
    """The link of a host of a VPC, whose packets may be from either end of a flow."""


@unique
class AttachmentKind(IntEnum):
    """What a packet can come from or leave by."""

    NONE = 0
    ENVIRONMENT = 1
    """One host, whose MAC address is known; it may begin flows, which leave by an interface."""
    INTERFACE = 2
    """An address of a network interface: who is behind it is found by ARP, and may only answer
    environments, but begin flows to hosts.
    """
    HOST = 3
    """One host of a VPC, known by address and MAC address; what it sends is not translated."""


@unique
class Role(IntEnum):
    """What an interface is besides an address with a link."""

    NONE = 0
    INTERNET_GATEWAY = 1
    """One end of the way between a VPC and the internet; its further addresses are public ones."""
    NAT_GATEWAY = 2
    """It has no link: what it translates leaves by an internet gateway."""
    LOAD_BALANCER = 3
    """It has no link: what is for its listeners goes on to a target of its VPC."""
    ENDPOINT = 4
    """It has no link: what is for it goes on by a load balancer's node of another VPC."""
    GATEWAY_ENDPOINT = 5
    """One end of the way between a VPC and AWS's services, by which private addresses stay."""


@unique
class RouteTarget(IntEnum):
    """Where a route leads."""

    BLACKHOLE = 0
    INTERNET_GATEWAY = 1
    NAT_GATEWAY = 2
    HOST = 3
    GATEWAY_ENDPOINT = 4


@unique
class Action(IntEnum):
    """What is to be done with a frame."""

    DROP = 0
    FORWARD = 1
    REPLY = 2
    HOLD = 3
    """It is kept, translated, until its next hop is known."""
    WAIT = 4
    """It is kept until the first fragment of its datagram arrives."""
    LEARN = 5
    """It answered a question for a next hop, and was for the engine alone."""


@unique
class DropReason(IntEnum):
    """Why a frame was not forwarded."""

    NONE = 0
    FRAME_TRUNCATED = 1
    NOT_OURS = 2
    ETHERTYPE = 3
    IPV6 = 4
    IP_TRUNCATED = 5
    IP_HEADER = 6
    IP_LENGTH = 7
    IP_CHECKSUM = 8
    SOURCE_SPOOFED = 9
    SOURCE_INVALID = 10
    FRAGMENT = 11
    DESTINATION_INVALID = 12
    DESTINATION_GATEWAY = 13
    DESTINATION_HAIRPIN = 14
    NO_ROUTE = 15
    PROTOCOL = 16
    TCP_HEADER = 17
    UDP_HEADER = 18
    ICMP_HEADER = 19
    L4_CHECKSUM = 20
    TCP_FLAGS = 21
    OFFLOAD = 22
    TTL_EXCEEDED = 23
    ICMP_TYPE = 24
    NO_FLOW = 25
    TCP_NO_FLOW = 26
    FLOW_TABLE_FULL = 27
    PORT_ALLOCATION = 28
    TCP_RST_WINDOW = 29
    FLOW_HELD = 30
    ICMP_ERROR_MALFORMED = 31
    ICMP_ERROR_MISMATCH = 32
    ICMP_ERROR_NO_FLOW = 33
    ARP_MALFORMED = 34
    ARP_SPOOFED = 35
    ARP_IGNORED = 36
    ARP_UNSOLICITED = 37
    NEIGHBOUR_FAILED = 38
    NEIGHBOUR_QUEUE_FULL = 39
    NEIGHBOUR_TABLE_FULL = 40
    UNKNOWN_LINK = 41
    VLAN = 42
    OVERSIZE = 43
    FAIR_SHARE = 44
    SECURITY_GROUP_EGRESS = 45
    SECURITY_GROUP_INGRESS = 46
    ENVIRONMENT_UNATTACHED = 47
    PORT_LIMIT_INTERFACE = 48
    PORT_LIMIT_ENVIRONMENT = 49
    FILTERED = 50
    HAIRPIN_NO_MAPPING = 51
    FRAGMENT_TINY = 52
    FRAGMENT_OVERLAP = 53
    FRAGMENT_QUOTA = 54
    FRAGMENT_TIMEOUT = 55
    FRAGMENT_REFUSED = 56
    MTU_EXCEEDED = 57
    TCP_IDLE_TIMEOUT = 58
    SOURCE_ROUTE = 59
    BIG_TCP = 60
    TCP_SYN_UNSOLICITED = 61
    ENVIRONMENT_FROZEN = 62
    ROUTE_BLACKHOLE = 63
    NAT_GATEWAY_PRIVATE = 64
    NO_PUBLIC_ADDRESS = 65
    LAMBDA_PORT = 66
    LAMBDA_ICMP = 67
    LOAD_BALANCER_NO_LISTENER = 68
    LOAD_BALANCER_NO_TARGET = 69
    LOAD_BALANCER_TARGET = 70
    LOAD_BALANCER_HAIRPIN = 71
    FLOW_COLLISION = 72
    LOAD_BALANCER_RETURN_PATH = 73
    LOAD_BALANCER_PORT_ALLOCATION = 74
    LOAD_BALANCER_STRAY = 75
    LOAD_BALANCER_ICMP = 76
    ENDPOINT_UNAVAILABLE = 77
    ENDPOINT_MTU = 78
    NETWORK_ACL_EGRESS = 79
    NETWORK_ACL_INGRESS = 80


@unique
class State(IntEnum):
    """State of a flow entry; FREE is also the mark of an entry that is not committed."""

    FREE = 0
    SYN_SENT = 1
    SYN_RECEIVED = 2
    ESTABLISHED = 3
    FIN_INSIDE = 4
    FIN_OUTSIDE = 5
    FIN_BOTH = 6
    TIME_WAIT = 7
    RESET = 8
    UDP = 9
    UDP_REPLIED = 10
    ICMP = 11
    HELD = 12
    MAPPING = 13


@unique
class Segment(IntEnum):
    """What the tracker distinguishes in a TCP segment.

    Its flags give one of the first six; the others are what such a segment is to its flow, told by
    its numbers (:mod:`tcp_states`).
    """

    SYN = 0
    SYNACK = 1
    ACK = 2
    FIN = 3
    RST = 4
    INVALID = 5
    SYN_REPEATED = 6
    SYN_CROSSING = 7
    SYN_UNSOLICITED = 8
    ANSWER = 9
    STRAY = 10
    REFUSAL = 11
    RST_STRAY = 12
    LAST_ACK = 13


@unique
class Effect(IntEnum):
    """What the tracker does about a segment."""

    PASS = 0
    """It is forwarded, and the flow learns nothing."""
    FOLLOW = 1
    """It is recorded, and the clock set."""
    ESTABLISH = 2
    """The same, and the handshake is over with it."""
    CLOSE = 3
    """The same, and the connection is over with it."""
    RESET = 4
    """The connection is over with it; it is not recorded, for it is a reset; the clock is set."""
    REMEMBER = 5
    """It is a SYN that may begin another connection; the clock is set."""
    RESTART = 6
    """The flow ends and another begins with this segment."""
    DROP = 7


@unique
class EndCause(IntEnum):
    """Why a flow ended."""

    FIN = 0
    RST = 1
    TIMEOUT = 2
    REMOVED = 3
    REPLACED = 4


@unique
class Mapping(IntEnum):
    """How a source port is chosen (RFC 4787 section 4.1)."""

    ADDRESS_AND_PORT_DEPENDENT = 0
    ENDPOINT_INDEPENDENT = 1


@unique
class Filtering(IntEnum):
    """Who outside may send to a mapping (RFC 4787 section 5)."""

    ADDRESS_AND_PORT_DEPENDENT = 0
    ADDRESS_DEPENDENT = 1
    ENDPOINT_INDEPENDENT = 2


@unique
class NeighbourState(IntEnum):
    """What is known of a next hop (see :mod:`neighbour_states`)."""

    NONE = 0
    INCOMPLETE = 1
    REACHABLE = 2
    PROBING = 3
    FAILED = 4


@unique
class NeighbourEvent(IntEnum):
    """What can happen to a next hop."""

    ANSWERED = 0
    HINTED = 1
    DUE = 2
    SPENT = 3


@unique
class NeighbourAction(IntEnum):
    """What a transition of a next hop does."""

    NOTHING = 0
    LEARN = 1
    """Take the MAC address, and let go what waits."""
    DOUBT = 2
    """Ask everybody, as soon as the batch is done."""
    ASK = 3
    FAIL = 4
    """Drop what waits."""
    FORGET = 5


@unique
class FragmentState(IntEnum):
    """What is known of a datagram that comes in fragments (see :mod:`fragment_states`)."""

    WAITING = 0
    ANSWERED = 1
    REFUSED = 2
    NONE = 3


@unique
class FragmentEvent(IntEnum):
    """What can happen to such a datagram."""

    FIRST = 0
    LATER = 1
    PASSED = 2
    DENIED = 3
    SPOILED = 4
    WHOLE = 5
    GIVEN_UP = 6


@unique
class FragmentAction(IntEnum):
    """What a transition does, to the fragment that comes or to those that wait."""

    DROP = 0
    KEEP = 1
    """Copy the fragment, until the first one comes."""
    TRANSLATE = 2
    FOLLOW = 3
    LET_GO = 4
    """Let what waits follow the first fragment."""
    REFUSE = 5
    """Drop what waits, and remember why."""
    FORGET = 6


@unique
class EventKind(IntEnum):
    """What the engine reports besides counters."""

    PORT_ALLOCATION = 1
    FLOW_TABLE_FULL = 2


_PROTOCOLS = ("tcp", "udp", "icmp")
_CAUSES = tuple(cause.name.lower() for cause in EndCause)

COUNTER_NAMES: tuple[str, ...] = (
    "packets_in_from_source",
    "bytes_in_from_source",
    "packets_out_to_destination",
    "bytes_out_to_destination",
    "packets_in_from_destination",
    "bytes_in_from_destination",
    "packets_out_to_source",
    "bytes_out_to_source",
    *(f"flows_created_{protocol}" for protocol in _PROTOCOLS),
    *(f"flows_ended_{protocol}_{cause}" for protocol in _PROTOCOLS for cause in _CAUSES),
    *(f"flows_active_{protocol}" for protocol in _PROTOCOLS),
    "flows_entries_used",
    "icmp_errors_translated",
    "replies_arp",
    "replies_icmp",
    "port_allocation_errors",
    "events_lost",
    "rebuild_discarded",
    "ring_received",
    "ring_dropped",
    "ring_oversize",
    "ring_bytes",
    "transmitted",
    "transmit_full",
    "transmit_errors",
    "batches",
    "batch_frames",
    *(f"batch_size_bucket_{1 << power}" for power in range(10)),
    "batch_size_bucket_inf",
    "neighbour_requests",
    "neighbour_failures",
    "forwarder_starts",
    "tcp_syns_from_source",
    "flows_established_tcp",
    "replies_tcp",
    "fragments_forwarded",
    "fragments_waiting",
    "packets_fragmented",
    "mss_clamped",
    "packets_hairpinned",
    "mappings_active",
    "flow_records_lost",
    "transmit_coalesced",
    "forwarder_timer_failures",
    "ring_slots",
    "ring_slots_used",
    "ring_slots_peak",
    "flow_cache_flows",
    "flow_cache_promotions",
    "flow_cache_demotions",
    "flow_cache_full",
    "flow_cache_packets",
    "flow_cache_network_acl",
)
"""Names of the counters in the state map, in the order of their indices."""

INTERFACE_COUNTER_NAMES: tuple[str, ...] = (
    "packets_in_from_source",
    "bytes_in_from_source",
    "packets_out_to_destination",
    "bytes_out_to_destination",
    "packets_in_from_destination",
    "bytes_in_from_destination",
    "packets_out_to_source",
    "bytes_out_to_source",
    "tcp_syns_from_source",
    "flows_established_tcp",
    "flows_timed_out",
    "port_allocation_errors",
    "drops",
    "ports",
)
"""Names of the counters of an interface address, in the order of their indices."""

ATTACHMENT_COUNTER_NAMES: tuple[str, ...] = (*INTERFACE_COUNTER_NAMES, "flows", "tcp_flows")
"""The same for every attachment; an environment has those that it leaves and is reached by, its
drops and the last two.
"""

NODE_COUNTER_NAMES: tuple[str, ...] = (
    "new_flows_udp",
    "tcp_client_resets",
    "tcp_elb_resets",
    "tcp_target_resets",
    "security_group_blocked",
)
"""Names of the counters that only a load balancer's node has, in the order of their indices."""

ATTACHMENT_COUNTERS = 16
"""Counters for which an attachment has room: two cache lines."""

DROP_BASE = 128
"""Index of the first drop counter: the counters before it are those of COUNTER_NAMES."""

COUNTERS_MAX = 256
"""Counters for which the state map has room."""


def counter_names() -> dict[str, int]:
    """Every counter of the state map by name, with its index."""
    names = {name: index for index, name in enumerate(COUNTER_NAMES)}
    names.update(
        {f"drop_{reason.name.lower()}": DROP_BASE + reason for reason in DropReason if reason}
    )
    return names


def pxd() -> str:
    """The text of ``_constants.pxd``: the same numbers for the compiled modules."""
    assert len(COUNTER_NAMES) <= DROP_BASE
    assert len(ATTACHMENT_COUNTER_NAMES) <= ATTACHMENT_COUNTERS
    assert len(DropReason) <= COUNTERS_MAX - DROP_BASE
    lines = ["# Generated from constants.py by the build; do not edit.", "cdef enum:"]
    lines += [
        f"    LAYOUT_VERSION = {LAYOUT_VERSION}",
        f"    COUNTERS_MAX = {COUNTERS_MAX}",
        f"    EXHAUSTIONS = {EXHAUSTIONS}",
        f"    C_DROP_BASE = {DROP_BASE}",
        f"    ATTACHMENT_COUNTERS = {ATTACHMENT_COUNTERS}",
        f"    NODE_COUNTERS = {len(NODE_COUNTER_NAMES)}",
    ]
    for prefix, members in (
        ("PEER", Peer),
        ("AT", Position),
        ("SIDE", Side),
        ("ATTACHMENT", AttachmentKind),
        ("ROLE", Role),
        ("ROUTE_TO", RouteTarget),
        ("ACTION", Action),
        ("DROP", DropReason),
        ("STATE", State),
        ("SEGMENT", Segment),
        ("EFFECT", Effect),
        ("END", EndCause),
        ("NEIGHBOUR", NeighbourState),
        ("NEIGHBOUR_EVENT", NeighbourEvent),
        ("NEIGHBOUR_DO", NeighbourAction),
        ("FRAGMENT", FragmentState),
        ("FRAGMENT_EVENT", FragmentEvent),
        ("FRAGMENT_DO", FragmentAction),
        ("EVENT", EventKind),
        ("MAPPING", Mapping),
        ("FILTERING", Filtering),
    ):
        lines += [f"    {prefix}_{member.name} = {member.value}" for member in members]
    lines += [f"    C_{name.upper()} = {index}" for index, name in enumerate(COUNTER_NAMES)]
    lines += [f"    A_{name.upper()} = {i}" for i, name in enumerate(ATTACHMENT_COUNTER_NAMES)]
    lines += [f"    N_{name.upper()} = {index}" for index, name in enumerate(NODE_COUNTER_NAMES)]
    return "\n".join(lines) + "\n"
