# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""How long to look for the next frame before sleeping.

Theory of operation
-------------------
Waking a sleeping process costs the sender of a frame more than its translation, and on a virtual
machine, where an idle processor is given back to the host, ten times as much. So an empty ring is
looked at again for up to `spin_ns` while frames come at intervals of that order: traffic that
dense keeps one processor busy. Sparser traffic is slept for.

That alone has two stable states where a program waits for each answer before it asks again. With
the forwarder awake the answer comes in time and keeps it awake; once it has slept, every frame
waits for it to wake, intervals are long, and it goes on sleeping. Which of the two it is, chance
decides. So now and then the forwarder tries whether frames would come faster if it stayed awake: it
looks for up to LOOK_NS behind each, and if they do, the average of the intervals falls and it is
awake for good. Trials are paid from a credit that grows by a sixteenth of the time slept, so that
they never take more than that of a processor. One begins when the credit is full and goes on until
it is spent: others have to get used to it, too, such as a host that polls for a halted processor only
where halts have lately been short. They begin behind a frame, so a gateway without traffic sleeps.
"""

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    INTERVAL_NS_MAX = 2000000
    LOOK_NS = 500000
    SLEEP_SHARE = 16
    CREDIT_NS_MAX = 10000000


cdef void patience_init(Patience* patience, uint64_t spin_ns) noexcept:
    """Without any experience; `spin_ns` 0 is never to look again."""
    patience.spin_ns = spin_ns
    patience.last_ns = 0
    patience.interval_ns = INTERVAL_NS_MAX
    patience.credit_ns = 0
    patience.trying = False
    patience.looking = False


cdef inline void looked(Patience* patience, uint64_t duration) noexcept nogil:
    """A look that was a trial is over, and paid for."""
    patience.credit_ns -= min(duration, patience.credit_ns)
    patience.looking = False


cdef void patience_arrived(Patience* patience, uint64_t now, uint32_t frames) noexcept nogil:
    """So many frames were found together."""
    cdef uint64_t gap = now - patience.last_ns
    patience.last_ns = now
    # A moving average over about eight batches of the time between two frames.
    patience.interval_ns += (
        min(gap // frames, <uint64_t>INTERVAL_NS_MAX) // 8 - patience.interval_ns // 8
    )
    if patience.looking:
        looked(patience, gap)
    else:
        patience.credit_ns = min(
            patience.credit_ns + gap // SLEEP_SHARE, <uint64_t>CREDIT_NS_MAX
        )


cdef uint64_t patience_begin(Patience* patience) noexcept nogil:
    """Nothing waits: until when to look again; 0 is to sleep."""
    if patience.interval_ns <= patience.spin_ns:
        return patience.last_ns + patience.spin_ns
    if patience.credit_ns == CREDIT_NS_MAX:
        patience.trying = patience.spin_ns != 0
    elif patience.credit_ns < LOOK_NS:
        patience.trying = False
    patience.looking = patience.trying
    return patience.last_ns + LOOK_NS if patience.looking else 0


cdef void patience_end(Patience* patience, uint64_t now) noexcept nogil:
    """Nothing came in time."""
    if patience.looking:
        looked(patience, now - patience.last_ns)


cdef class Watch:
    """Patience by itself, for tests. See the type stub."""

    cdef Patience patience

    def __cinit__(self, *, uint64_t spin_ns):
        patience_init(&self.patience, spin_ns)

    def arrived(self, uint64_t now, uint32_t frames=1):
        patience_arrived(&self.patience, now, max(frames, <uint32_t>1))

    def begin(self):
        return patience_begin(&self.patience)

    def end(self, uint64_t now):
        patience_end(&self.patience, now)
