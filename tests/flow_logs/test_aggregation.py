# SPDX-License-Identifier: Apache-2.0
"""Rows of an interval: what has one key is one row."""

from hyperplane_nat.engine import DropReason
from hyperplane_nat.flow_logs.aggregation import Gathering, rows_of
from hyperplane_nat.flow_logs.fields import View
from tests.flow_logs.test_fields import delta


def test_an_ended_flow_and_a_live_one_with_its_key_are_one_row() -> None:
    gathering = Gathering()
    gathering.gather([delta(last_seen_ms=5, flags_out=2)])
    rows = gathering.claim([delta(created_ms=6, last_seen_ms=20, flags_out=1)])
    assert gathering.rest() == []
    assert len(rows) == 4
    sums = rows[0][1]
    assert (sums.packets, sums.bytes) == (10, 1000)
    assert (sums.first_ms, sums.last_ms, sums.flags) == (0, 20, 3)


def test_another_nat_port_is_another_row_only_towards_the_vpc() -> None:
    gathering = Gathering()
    gathering.gather([delta(nat_port=1), delta(nat_port=2)])
    views = sorted(View(key.view).name for key, _ in gathering.rest())
    towards = ["FROM_REMOTE", "FROM_REMOTE", "TO_REMOTE", "TO_REMOTE"]
    assert views == sorted([*towards, "FROM_ENVIRONMENT", "TO_ENVIRONMENT"])


def test_environments_with_the_same_address_and_port_have_rows_of_their_own() -> None:
    gathering = Gathering()
    gathering.gather([delta(slot=1), delta(slot=2)])
    slots = [key.slot for key, _ in gathering.rest() if key.view == View.FROM_ENVIRONMENT]
    assert sorted(slots) == [1, 2]


def test_what_was_refused_is_not_mixed_with_what_passed() -> None:
    refused = delta(packets_in=0, bytes_in=0, reason=45)
    assert {key for key, _ in rows_of(refused)}.isdisjoint({key for key, _ in rows_of(delta())})


def test_what_a_network_acl_refuses_is_refused_where_its_border_is() -> None:
    """A destination's border is not the sender's; that of who gets an answer is its own."""

    def told(reason: DropReason, **fields: int) -> list[tuple[str, bool]]:
        refused = delta(**fields, reason=int(reason))
        return [(View(key.view).name, key.refused) for key, _ in rows_of(refused)]

    out, come = {"packets_in": 0, "bytes_in": 0}, {"packets_out": 0, "bytes_out": 0}
    assert told(DropReason.NETWORK_ACL_EGRESS, **out) == [("TO_REMOTE", True)]
    passed = [("FROM_ENVIRONMENT", False), ("TO_REMOTE", False)]
    assert told(DropReason.NETWORK_ACL_INGRESS, **out) == passed
    assert told(DropReason.NETWORK_ACL_INGRESS, **come) == [("FROM_REMOTE", True)]


def test_times_beyond_32_bits_are_compared_whole() -> None:
    gathering = Gathering()
    gathering.gather([delta(created_ms=2**32 + 3, last_seen_ms=2**32 + 4)])
    gathering.gather([delta(created_ms=10, last_seen_ms=2**32 - 1)])
    _, sums = gathering.rest()[0]
    assert (sums.first_ms, sums.last_ms) == (10, 2**32 + 4)


def test_what_is_gathered_is_bounded() -> None:
    gathering = Gathering(limit=100)
    for port in range(25):
        assert not gathering.full
        gathering.gather([delta(inside_port=port, nat_port=port)])
    assert gathering.full
    assert len(gathering.rest()) == 100
    assert not gathering.full
