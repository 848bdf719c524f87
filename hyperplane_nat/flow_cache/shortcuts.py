# SPDX-License-Identifier: Apache-2.0
"""Whether hits go right to the far end of a link, or leave by its near end as all else does.

Theory of operation
-------------------
A hit that is handed to the far end (`bpf_redirect_peer`) costs its sender a tenth less, and whoever
is at the near end does not see it: a capture, tcpdump, netem. So the shortcut is taken where there
is nobody (`netns.near_ends`). Who comes there is noticed at the next look, within a second (a
queueing discipline within ten). A capture does not wait for that: it opens taps that see nothing,
takes the shortcut away itself (`leave_by_near_ends`) and then opens its own. A look that did not
see the taps yet does not give it back for good: having given shortcuts it looks at the taps again.

Linux before 6.15 leaves a frame's kind as it was (bpf_redirect_peer does not scrub it), so that one
for another station would be dropped behind. No hit is of another kind than PACKET_HOST: the program
takes no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hyperplane_nat.flow_cache.errors import FlowCacheError
from hyperplane_nat.flow_cache.maps import Maps
from hyperplane_nat.flow_cache.program import attached, find
from netns import links, near_ends
from netns.interior import route_socket
from netns.near_ends import ANY, Taps
from netns.netlink import RouteSocket


class Shortcuts:
    """Those of the links of one gateway. Methods block, and are called one at a time."""

    def __init__(self, gateway: str, maps: Maps, route: RouteSocket) -> None:
        """`route` is of the namespace `gateway`; raises `NetnsError`."""
        self._maps = maps
        self._route = route
        self._taps = Taps(gateway)
        self._tapped: frozenset[int] = frozenset()
        self._queued: frozenset[int] = frozenset()
        try:
            self.look_at_queues()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Shortcuts stay as they are."""
        self._taps.close()

    def look_at_queues(self) -> None:
        """Know of queueing disciplines that came or went; `decide` goes by it. `NetnsError`."""
        self._queued = near_ends.queued(self._route)

    def decide(self, numbers: Mapping[int, int]) -> None:
        """Give or take the shortcuts of links, given with their attachments' numbers by index."""
        tapped = self._taps.read()
        for index, number in numbers.items():
            free = index not in tapped and ANY not in tapped and index not in self._queued
            if free != self._maps.has_shortcut(number):
                self._maps.set_shortcut(number, free)
        self._take(numbers, self._taps.read())

    def look_at_taps(self, numbers: Mapping[int, int]) -> None:
        """Take the shortcuts of links that are tapped, and give back those of links no longer."""
        tapped = self._taps.read()
        self._take(numbers, tapped)
        left, self._tapped = self._tapped - tapped, tapped
        gone = numbers if ANY in left else left & numbers.keys()
        if gone:
            self.decide({index: numbers[index] for index in gone})

    def _take(self, numbers: Mapping[int, int], tapped: frozenset[int]) -> None:
        for index in numbers if ANY in tapped else tapped & numbers.keys():
            self._maps.set_shortcut(numbers[index], False)


def leave_by_near_ends(gateway: str, names: Iterable[str]) -> None:
    """Have what leaves by links of a gateway do so by their near ends, from the next frame on.

    Links without the flow cache's program are left alone. Raises `FlowCacheError`, `NetnsError`.
    """
    with route_socket(gateway) as route:
        for name in names:
            index = links.existing(route, name).index
            there, cache = attached(route, index), find(route, index)
            if there is None or cache is None:
                continue
            with cache:
                if there.attachment >= cache.maps.attachments:
                    raise FlowCacheError(f"link {name} has a number that its flow cache has not")
                cache.maps.set_shortcut(there.attachment, False)
