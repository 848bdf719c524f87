# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What Python says of an attachment, as a record; ValueError for what cannot be.

What the record does not say by itself (its number, entries and policy) is whoever's who has the tables.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.caching cimport (
    cache_describe,
    cache_forget,
    cache_forget_shared,
)
from hyperplane_nat.engine.flows.nat cimport (
    ENDPOINT_ID_BYTES,
    ROUTE_TABLES_MAX,
    UNATTACHED,
    Attachment,
    BalancedTarget,
    Listener,
    Listeners,
    Nat,
    listeners_free,
)
from hyperplane_nat.engine.state.layout cimport DESTINATIONS_MAX, AttachmentRecord, first_host
from hyperplane_nat.engine.wire.checksum cimport swap16
from hyperplane_nat.engine.wire.text cimport address_number, mac_bytes, prefix_numbers


cdef inline int check_mtu(str what, uint32_t number, mtu) except -1:
    # The least that every link carries (RFC 791): any header, and eight bytes.
    if not 68 <= mtu <= 65535:
        raise ValueError(f"{what} {number}: an MTU is 68 to 65535, not {mtu}")
    return 0


cdef inline uint64_t owner_of(interface, uint32_t link) except? 0:
    """Environment and interface as one number, never 0: that is an attachment nobody has had."""
    cdef uint64_t attached = UNATTACHED if interface is None else interface
    return (<uint64_t>1 << 63) | (<uint64_t>link << 16) | attached


cdef inline uint64_t owner_of_host(uint32_t vpc, uint32_t link) except? 0:
    """VPC and host as one number, never 0."""
    return (<uint64_t>1 << 63) | (<uint64_t>link << 32) | vpc


cdef inline bint admits_owner(
    const Nat* nat, uint32_t number, uint64_t owner, uint32_t address
) noexcept nogil:
    """Whether no flow of another has the number of an environment, or (with an address) of a host."""
    cdef const AttachmentRecord* record = &nat.records[number]
    if nat.attachments[number].retiring:
        return False
    if nat.attachments[number].entries == 0 or record.owner == 0:
        return True
    return record.owner == owner and (address == 0 or record.address == address)


cdef inline uint16_t served_by(const Nat* nat, host, nat_gateway, node) except? 0xFFFF:
    """The attachment that an internet gateway's address stands for; 0 for none."""
    if host is not None:
        if not 0 <= host < nat.header.hosts_max:
            raise ValueError(f"host {host}: the state map has {nat.header.hosts_max}")
        return <uint16_t>(first_host(nat.header) + <uint32_t>host)
    interface = nat_gateway if node is None else node
    if interface is not None:
        if not 0 <= interface < nat.header.interfaces_max:
            raise ValueError(
                f"interface {interface}: the state map has {nat.header.interfaces_max}"
            )
        return <uint16_t>(nat.header.slots_max + <uint32_t>interface)
    return 0


cdef inline bint admits_address(
    const Nat* nat, uint16_t place, uint32_t address, uint16_t role, uint16_t serves
) noexcept nogil:
    """Whether no flow of an interface address that is another, or stands for another, has its number."""
    cdef const AttachmentRecord* record = &nat.records[place]
    if nat.attachments[place].retiring:
        return False
    return nat.attachments[place].entries == 0 or (
        record.address == address and record.role == role and record.serves == serves
    )


cdef inline uint8_t interface_role(bint internet_gateway, bint gateway_endpoint) noexcept:
    """What an interface with a link is besides."""
    if internet_gateway:
        return ROLE_INTERNET_GATEWAY
    return ROLE_GATEWAY_ENDPOINT if gateway_endpoint else ROLE_NONE


cdef inline uint32_t table_number(what, number) except? 0xFFFFFFFF:
    """How an attachment names its route table."""
    if number is None:
        return 0
    if not 0 <= number < ROUTE_TABLES_MAX:
        raise ValueError(f"{what}: route table {number} is out of range")
    return number + 1


cdef inline Attachment nat_gateway_attachment(
    uint32_t number, address, uint32_t vpc, mtu, bint draining, route_table
) except *:
    check_mtu("interface", number, mtu)
    cdef Attachment record = attachment(
        ATTACHMENT_INTERFACE, address, address, "00:00:00:00:00:00", mtu
    )
    record.role = ROLE_NAT_GATEWAY
    record.vpc = vpc
    record.draining = draining
    record.route_table = table_number(f"interface {number}", route_table)
    return record


cdef inline Attachment node_attachment(
    uint32_t number, address, uint32_t vpc, uint16_t interface, mtu, route_table
) except *:
    check_mtu("interface", number, mtu)
    cdef Attachment record = attachment(
        ATTACHMENT_INTERFACE, address, address, "00:00:00:00:00:00", mtu
    )
    record.role = ROLE_LOAD_BALANCER
    record.vpc = vpc
    record.interface = interface
    record.route_table = table_number(f"interface {number}", route_table)
    return record


cdef inline Attachment endpoint_attachment(
    uint32_t number, address, uint32_t vpc, uint16_t interface, str id, mtu
) except *:
    check_mtu("interface", number, mtu)
    cdef bytes text = id.encode("ascii")
    cdef Attachment record = attachment(
        ATTACHMENT_INTERFACE, address, address, "00:00:00:00:00:00", mtu
    )
    if not 0 < len(text) < ENDPOINT_ID_BYTES:
        raise ValueError(f"interface {number}: {id!r} is no id of an endpoint")
    record.role = ROLE_ENDPOINT
    record.vpc = vpc
    record.interface = interface
    memcpy(record.endpoint_id, <const char*>text, len(text))
    return record


cdef inline uint8_t protocol_number(protocol) except 0:
    """That of a listener."""
    if protocol not in ("tcp", "udp"):
        raise ValueError(f"a listener is of tcp or udp, not {protocol}")
    return 6 if protocol == "tcp" else 17


cdef inline Listeners* listeners_from(uint32_t number, list listeners) except? NULL:
    """What is listened to, in memory of its own; NULL for nothing."""
    cdef Listeners* made
    cdef Listener* record
    cdef uint32_t i, k
    if not listeners:
        return NULL
    for listener in listeners:
        protocol_number(listener.protocol)
        if not 1 <= listener.port <= 65535:
            raise ValueError(f"node {number}: a listener has no port {listener.port}")
        if not 1 <= listener.idle_ms < 1 << 31:
            raise ValueError(f"node {number}: {listener.idle_ms} ms is no idle time of a listener")
        if listener.proxy_protocol and listener.protocol != "tcp":
            raise ValueError(f"node {number}: the PROXY protocol's header goes with tcp alone")
        for target in listener.targets:
            address_number(target.address)
            if not 1 <= target.port <= 65535:
                raise ValueError(f"node {number}: a target has no port {target.port}")
    if len({(listener.protocol, listener.port) for listener in listeners}) < len(listeners):
        raise ValueError(f"node {number} has two listeners at one port")
    made = <Listeners*>calloc(1, sizeof(Listeners))
    if made == NULL:
        raise MemoryError
    made.listeners = <Listener*>calloc(len(listeners), sizeof(Listener))
    if made.listeners == NULL:
        free(made)
        raise MemoryError
    made.count = len(listeners)
    for i, listener in enumerate(listeners):
        record = &made.listeners[i]
        record.port = swap16(<uint16_t>listener.port)
        record.protocol = protocol_number(listener.protocol)
        record.sticky = listener.sticky
        record.preserves = listener.preserve_client_ip
        record.proxies = listener.proxy_protocol
        record.idle = listener.idle_ms
        record.targets = <BalancedTarget*>calloc(
            max(len(listener.targets), 1), sizeof(BalancedTarget)
        )
        if record.targets == NULL:
            listeners_free(made)
            raise MemoryError
        record.count = len(listener.targets)
        for k, target in enumerate(listener.targets):
            record.targets[k].address = address_number(target.address)
            record.targets[k].port = swap16(<uint16_t>target.port)
    return made


cdef inline Attachment attachment(int kind, address, router, mac, mtu) except *:
    """What is said of each kind; `mac` is ours on its link."""
    cdef Attachment record
    cdef bytes ours = mac_bytes(mac)
    memset(&record, 0, sizeof(Attachment))
    record.kind = kind
    record.address = address_number(address)
    record.router = address_number(router)
    record.mtu = mtu
    record.active = 1
    memcpy(record.mac, <const unsigned char*>ours, 6)
    return record


cdef inline Attachment interface_attachment(
    uint32_t number, address, mac, subnet, router, destinations, uint32_t vpc, mtu
) except *:
    if len(destinations) > DESTINATIONS_MAX:
        raise ValueError(f"interface {number}: at most {DESTINATIONS_MAX} destinations")
    check_mtu("interface", number, mtu)
    cdef Attachment record = attachment(ATTACHMENT_INTERFACE, address, router, mac, mtu)
    record.subnet, record.subnet_mask = prefix_numbers(subnet)
    record.vpc = vpc
    for destination in destinations:
        prefix, mask = prefix_numbers(destination)
        record.destinations[record.destinations_count] = prefix
        record.destination_masks[record.destinations_count] = mask
        record.destinations_count += 1
    return record


cdef inline Attachment environment_attachment(
    uint32_t number, address, gateway, subnet, environment_mac, gateway_mac, uint16_t interface, mtu
) except *:
    check_mtu("slot", number, mtu)
    cdef Attachment record = attachment(ATTACHMENT_ENVIRONMENT, address, gateway, gateway_mac, mtu)
    cdef bytes theirs = mac_bytes(environment_mac)
    record.subnet, record.subnet_mask = prefix_numbers(subnet or f"{address}/30")
    record.interface = interface
    memcpy(record.peer_mac, <const unsigned char*>theirs, 6)
    return record


cdef inline Attachment host_attachment(
    uint32_t number, address, router, host_mac, gateway_mac, uint16_t interface, uint32_t vpc, mtu
) except *:
    check_mtu("host", number, mtu)
    cdef Attachment record = attachment(ATTACHMENT_HOST, address, router, gateway_mac, mtu)
    cdef bytes theirs = mac_bytes(host_mac)
    record.interface = interface
    record.vpc = vpc
    memcpy(record.peer_mac, <const unsigned char*>theirs, 6)
    return record


cdef inline Attachment said_of(const Attachment* attachment) noexcept nogil:
    """What is said of an attachment that decides how its packets are forwarded."""
    cdef Attachment said = attachment[0]
    # Derived, counted, or asked for new flows alone.
    said.next_address = 0
    said.addresses = 0
    said.gateway = 0
    said.public_address = 0
    said.entries = 0
    said.plain = 0
    said.draining = 0
    said.policy = NULL
    said.admission = NULL
    return said


cdef inline void cache_follow(Nat* nat, uint16_t number, const Attachment* new) noexcept nogil:
    """Have the flow cache follow a change of an attachment: what it forwards may be another's.

    An address of a VPC that is new there may be a flow's destination.
    """
    cdef Attachment before = said_of(&nat.attachments[number]), after = said_of(new)
    if memcmp(&before, &after, sizeof(Attachment)) == 0:
        return
    if before.active or after.silent:
        cache_forget(nat, number)
    if after.kind != ATTACHMENT_ENVIRONMENT:
        cache_forget_shared(nat)


cdef inline void attachment_set(Nat* nat, uint16_t number, const Attachment* attachment) noexcept nogil:
    """Have an attachment from now on, with the entries that its number has."""
    cdef uint32_t entries = nat.attachments[number].entries, plain = nat.attachments[number].plain
    if nat.cache != NULL:
        cache_follow(nat, number, attachment)
    nat.attachments[number] = attachment[0]
    nat.attachments[number].entries = entries
    nat.attachments[number].plain = plain
    nat.records[number].address = attachment.address
    if number >= nat.attachments_used:
        nat.attachments_used = number + 1
    if nat.cache != NULL and number < nat.cache.links_max:
        cache_describe(nat, number)
