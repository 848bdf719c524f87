# SPDX-License-Identifier: Apache-2.0
"""Names of interfaces, as the control API tells them."""

from pathlib import Path
from typing import Any

from hyperplane_nat.client import NotRunningError
from hyperplane_nat.flow_logs.fields import Place
from hyperplane_nat.flow_logs.places import Places

STATIC = {"number": 0, "name": "eni-a", "id": None, "owner": "111122223333"}
FUNCTION = {"number": 1, "name": "link", "id": "eni-0123", "owner": "444455556666"}
WHERE = {"vpc": "customer", "subnet": "private-a"}


class Api:
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = [STATIC | WHERE]
        self.asked = 0
        self.up = True

    def get(self, path: str) -> Any:
        if not self.up:
            raise NotRunningError("test", Path("/nowhere"))
        assert path == "/v1/interfaces"
        self.asked += 1
        return self.rows


def test_interfaces_of_the_file_and_of_functions() -> None:
    api = Api()
    api.rows.append(FUNCTION | WHERE)
    places = Places(api.get, lambda: 10.0)
    assert places.of(0) == Place("eni-a", "111122223333", "customer", "private-a")
    assert places.of(1) == Place("eni-0123", "444455556666", "customer", "private-a")
    assert set(places.present) == {0, 1}
    assert api.asked == 1


def test_further_addresses_are_the_same_interface() -> None:
    api = Api()
    api.rows[0] = api.rows[0] | {"secondary_numbers": [1, 2]}
    places = Places(api.get, lambda: 10.0)
    assert places.of(2) == places.of(0)
    assert set(places.present) == {0}
    assert api.asked == 1


def test_a_number_nobody_names_is_asked_for_once_a_second() -> None:
    api, now = Api(), 10.0
    places = Places(api.get, lambda: now)
    for _ in range(5):
        assert places.of(7) == Place("7")
    assert api.asked == 1
    now = 12.0
    places.of(7)
    assert api.asked == 2


def test_an_interface_that_went_keeps_its_name() -> None:
    api = Api()
    api.rows.append(FUNCTION | WHERE)
    places = Places(api.get, lambda: 10.0)
    places.refresh()
    api.rows.pop()
    places.refresh()
    assert set(places.present) == {0}
    assert places.of(1).interface_id == "eni-0123"


def test_without_a_controller_what_is_known_stays() -> None:
    api = Api()
    places = Places(api.get, lambda: 10.0)
    places.refresh()
    api.up = False
    places.refresh()
    assert places.of(0).interface_id == "eni-a"
    assert set(places.present) == {0}
