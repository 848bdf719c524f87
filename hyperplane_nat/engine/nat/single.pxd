# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""One frame through the engine, for Python: what the packet path does with a batch of them."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.extras cimport Extra
from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.nat.translation cimport nat_apply, nat_classify
from hyperplane_nat.engine.nat.views cimport attachment_of, place_of
from hyperplane_nat.engine.wire.packet cimport ETHERNET_BYTES, OFFLOAD_BYTES, REPLY_BYTES, Packet


cdef inline object translate_frame(
    Nat* nat, frame, uint8_t side, uint16_t port, uint64_t now, bint partial, uint16_t gso_size,
    checksum_at,
):
    """The verdict of a frame, which is not changed (see `Engine.translate`)."""
    from hyperplane_nat.engine.state.constants import Action, DropReason, Side
    from hyperplane_nat.engine.state.settings import Verdict
    cdef bytearray work = bytearray(OFFLOAD_BYTES) + frame
    cdef unsigned char reply[REPLY_BYTES]
    cdef Packet p
    memset(&p, 0, sizeof(Packet))
    cdef Py_ssize_t length = len(frame)
    cdef unsigned char[::1] view = work
    p.frame = &view[0] + OFFLOAD_BYTES
    p.length = <uint32_t>length
    p.port = attachment_of(nat, side, port)
    p.partial = partial
    p.gso_size = gso_size
    p.reply = reply
    if checksum_at is not None:
        p.partial = 1
        p.checksum_start, p.checksum_offset = checksum_at
    elif partial and length >= ETHERNET_BYTES + 20:
        p.checksum_start = ETHERNET_BYTES + (p.frame[14] & 15) * 4
        p.checksum_offset = 16 if p.frame[23] == 6 else 6
    with nogil:
        nat_classify(nat, &p)
        if p.action == ACTION_FORWARD:
            nat_apply(nat, &p, now)
    if p.action == ACTION_DROP or p.action == ACTION_WAIT or p.action == ACTION_LEARN:
        reason = p.reason if p.action == ACTION_DROP else DROP_NONE
        return Verdict(Action(p.action), DropReason(reason), Side(side), port, b"")
    return Verdict(
        Action(p.action),
        DropReason.NONE,
        *place_of(nat, p.out_port),
        <bytes>p.out_frame[: p.out_length],
        p.gso_size,
    )


cdef inline list extras_of(const Nat* nat):
    """What leaves besides, as verdicts."""
    from hyperplane_nat.engine.state.constants import Action, DropReason
    from hyperplane_nat.engine.state.settings import Verdict
    cdef const Extra* extra
    cdef uint32_t i
    cdef list found = []
    for i in range(nat.extras.count):
        extra = &nat.extras.frames[i]
        found.append(
            Verdict(
                Action(extra.action),
                DropReason.NONE,
                *place_of(nat, extra.port),
                <bytes>extra.frame[: extra.length],
            )
        )
    return found
