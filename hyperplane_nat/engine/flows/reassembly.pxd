# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What unfinished datagrams take of the memory of the hosts that are to put them together.

Theory of operation
-------------------
A host keeps the pieces of a datagram until the others come, for 30 s in Linux
(`net.ipv4.ipfrag_time`), and 4 MiB of them at most (`ipfrag_high_thresh`); then it refuses
whatever is in pieces. All environments behind an address are one sender to it, so that first pieces
without seconds of one environment would end what the others send in pieces.

So each environment has an account, and each destination. A piece that goes on is charged to both, at
its length and PIECE_BYTES for the buffer it lies in; a datagram is given back when its last piece has
gone on, less what time has made up for, and not when it is given up. What is spent is forgotten at the rate of
SHARED_BYTES in the time that we wait for a datagram ourselves. So within that time a host gets no
more than twice SHARED_BYTES of what stays unfinished, 3 MiB, and from one environment no more than
one and a half times as much, 2.25 MiB. Linux counts 1,032 bytes for the smallest piece and 2,504 for
one of 1,500 bytes, which is what is charged, but up to 1.7 times that for lengths just above a power
of two: one environment cannot fill a host whatever it sends, several that choose such lengths can.

An environment may have spent no more than is left at the destination. The one that sends nothing but
first pieces has half then, and the other half is there for everybody else; of several each has what
is left for a newcomer. Nobody looks for the greediest one: it refuses itself. Whoever completes what
it begins has next to nothing on its account, whatever its rate.
"""

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    # What unfinished datagrams may take at one destination, and the room that a piece takes beside
    # its own length, in bytes.
    SHARED_BYTES = 1572864
    PIECE_BYTES = 1024

# Zeroed memory is an account of which nothing is spent.
cdef struct Account:
    uint64_t aged
    uint32_t spent


cdef inline void age(Account* account, uint64_t now, uint32_t window) noexcept nogil:
    """Forget what time has made up for; what is less than a byte stays for the next time."""
    cdef uint64_t elapsed = now - account.aged, forgotten
    if account.spent == 0 or elapsed >= window:
        account.spent = 0
        account.aged = now
        return
    forgotten = <uint64_t>SHARED_BYTES * elapsed // window
    if forgotten >= account.spent:
        account.spent = 0
        account.aged = now
    elif forgotten:
        account.spent -= <uint32_t>forgotten
        account.aged += (forgotten * window + SHARED_BYTES - 1) // SHARED_BYTES


cdef inline bint reassembly_charge(
    Account* sender, Account* destination, uint32_t cost, uint64_t now, uint32_t window
) noexcept nogil:
    """Charge a piece of `cost` bytes to both; False, and nothing charged, when it may not go on.

    `now` and `window`, the time after which everything spent is forgotten, are in ms.
    """
    age(sender, now, window)
    age(destination, now, window)
    if sender.spent + destination.spent + cost > SHARED_BYTES:
        return False
    sender.spent += cost
    destination.spent += cost
    return True


cdef inline void reassembly_refund(
    Account* account, uint32_t cost, uint64_t since, uint32_t window
) noexcept nogil:
    """Give back what a datagram begun at `since` was charged that takes no memory any more.

    Time has made up for a part of it by now, and for nothing twice.
    """
    cdef uint64_t elapsed = account.aged - since if account.aged > since else 0
    if elapsed >= window:
        return
    cost -= <uint32_t>(<uint64_t>cost * elapsed // window)
    account.spent -= min(account.spent, cost)
