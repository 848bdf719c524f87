# SPDX-License-Identifier: Apache-2.0
"""A map of layout 6, recorded by a version of it: the first that had extensions, and hosts.

`recorded/layout-6.map.gz` is the file, `recorded/layout-6.json` what that version read from it, and
what it then made of packets of its flows: the next ones of both ends. In it are those kinds of
flows that have extensions, and of a host and of an environment one each that has none.
"""

import contextlib
import gzip
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hyperplane_nat.engine import Action, Side, StateMap, StateMapError
from hyperplane_nat.engine.readers.migration import migrate
from hyperplane_nat.engine.readers.state_map import HEADER_BYTES, HOSTS_MAX, read_header
from tests.engine import former_map
from tests.engine.balancers import ACK, LISTENS, NODE, PLACES, SYN, SYNACK, WEB, listener
from tests.engine.endpoints import CLIENTS, ENDPOINT, Scene
from tests.engine.gateways import (
    ENVIRONMENT,
    FAR,
    FIRST,
    HOST,
    INSIDE,
    OUTSIDE,
    SECOND,
    ends,
)
from tests.reference.packet import parse_segment

RECORDED = Path(__file__).parent / "recorded"
PROXIED = (NODE, 81)
LISTENERS = (
    listener(WEB),
    listener(WEB, port=PROXIED[1])._replace(proxy_protocol=True),
    listener(WEB, protocol="udp", port=53, idle_ms=90_000),
)


class Sent(NamedTuple):
    """A packet: where it arrives, its ends, of TCP its numbers too."""

    place: tuple[int, int]
    source: tuple[str, int]
    destination: tuple[str, int]
    numbers: tuple[int, int] | None = None


def sent(scene: Scene, it: Sent) -> list[Any]:
    """Where it left, with which ends, of TCP with which numbers and data; as JSON has it."""
    way = it.place, it.source, it.destination
    verdict = scene.tcp(*way, ACK, it.numbers) if it.numbers else scene.udp(*way)
    assert verdict.action is Action.FORWARD, verdict
    content = None
    if it.numbers:
        segment = parse_segment(verdict.frame[34:])
        content = [segment.seq, segment.ack, verdict.frame[54:].hex()]
    left = [list(each) for each in ends(verdict)]
    return [int(verdict.side), verdict.port, *left, content]


def begun(scene: Scene) -> list[Sent]:
    """Flows of all kinds; the next packets of them, in an order in which they can come."""
    result = []
    places = {"own": PLACES, "consumer": CLIENTS}
    port = 5000
    for whose, listens in (("own", LISTENS), ("consumer", LISTENS), ("own", PROXIED)):
        for place, address in places[whose].values():
            port += 1
            client = (address, port)
            source, target = ends(scene.tcp(place, client, listens, SYN, (100, 0)))
            answers = scene.place_of(target[0], source[0])
            scene.tcp(answers, target, source, SYNACK, (500, 101))
            scene.tcp(place, client, listens, ACK, (101, 501))
            result.append(Sent(place, client, listens, (101, 501)))
            result.append(Sent(answers, target, source, (501, 101)))
    for place, client, far in (
        ((INSIDE, 1), (ENVIRONMENT, 6000), (FAR, 53)),
        ((HOST, 0), (FIRST, 6001), (FAR, 53)),
        ((HOST, 0), (FIRST, 6002), (SECOND, 53)),
        ((INSIDE, 2), (ENVIRONMENT, 6003), (FIRST, 53)),
        ((HOST, 3), (FIRST, 6004), (NODE, 53)),
    ):
        out = scene.udp(place, client, far)
        source, target = ends(out)
        answers = {Side.HOST: HOST, Side.OUTSIDE: OUTSIDE}[out.side], out.port
        result.append(Sent(answers, target, source))
        result.append(Sent(place, client, far))
    return result


def told(state: StateMap) -> dict[str, Any]:
    """What is read from a map; as JSON has it."""

    def some(values: dict[str, int]) -> dict[str, int]:
        return {name: value for name, value in values.items() if value}

    read: dict[str, Any] = {
        "flows": [each._asdict() for each in state.flows()],
        "host_flows": [each._asdict() for each in state.host_flows()],
        "counters": some(state.counters()),
        "environments": [some(state.slot_counters(n)) for n in range(state.slots_max)],
        "interfaces": [some(state.interface_counters(n)) for n in range(state.interfaces_max)],
        "addresses": [state.interface_address(n) for n in range(state.interfaces_max)],
        "hosts": [some(state.host_counters(n)) for n in range(state.hosts_max)],
        "nodes": [some(state.node_counters(n)) for n in (8, ENDPOINT)],
        "watermark": state.entries_watermark,
    }
    result: dict[str, Any] = json.loads(json.dumps(read))
    return result


def known(read: list[dict[str, Any]], recorded: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each what that version told; a newer one may tell more."""
    return [
        {name: each[name] for name in former} for each, former in zip(read, recorded, strict=True)
    ]


@pytest.fixture
def record() -> Any:
    """What the version said and did."""
    return json.loads((RECORDED / "layout-6.json").read_text())


@pytest.fixture
def scene() -> Iterator[Scene]:
    """The forwarder that goes on; its map is replaced by `goes_on`."""
    it = Scene(*LISTENERS)
    yield it
    assert it.engine.verify() == []
    it.close()


def goes_on(scene: Scene, write: Callable[[Path], object]) -> None:
    """A forwarder of this version on what is written in the place of the map."""
    del scene.engine
    scene.map.close()
    write(scene.path)
    with pytest.raises(StateMapError, match="layout 6"):
        StateMap.open(scene.path)
    assert migrate(scene.path, now_ms=scene.now)
    assert not migrate(scene.path, now_ms=scene.now)
    scene.map = StateMap.open(scene.path, writable=True)


def put_record(path: Path) -> None:
    path.write_bytes(gzip.decompress((RECORDED / "layout-6.map.gz").read_bytes()))


def test_everything_is_kept(scene: Scene, record: Any) -> None:
    goes_on(scene, put_record)
    read, wanted = told(scene.map), record["told"]
    for kind in ("flows", "host_flows", "nodes"):
        assert known(read.pop(kind), wanted[kind]) == wanted.pop(kind)
    assert read == wanted
    assert scene.path.stat().st_mode & 0o777 == 0o600
    scene.serve()


def test_packets_of_its_flows_go_on_as_they_did(scene: Scene, record: Any) -> None:
    goes_on(scene, put_record)
    scene.serve()
    assert scene.engine.counters()["rebuild_discarded"] == 0
    assert scene.engine.verify() == []
    for (place, source, destination, numbers), left in record["packets"]:
        way = tuple(place), tuple(source), tuple(destination)
        assert sent(scene, Sent(*way, numbers and tuple(numbers))) == left
    assert len(record["packets"]) == 2 * scene.engine.counters()["flows_entries_used"]


def test_flows_of_now_written_as_layout_6(scene: Scene) -> None:
    """What nobody has written stays a hole."""
    packets = begun(scene)
    left = [sent(scene, each) for each in packets]
    before = told(scene.map)
    allocated = scene.path.stat().st_blocks
    goes_on(scene, former_map.write_layout_6)
    assert told(scene.map) == before
    assert scene.path.stat().st_blocks <= allocated
    scene.serve()
    assert [sent(scene, each) for each in packets] == left


def test_a_map_from_before_hosts_gets_room_for_them(scene: Scene) -> None:
    def without(path: Path) -> None:
        path.unlink()
        StateMap.create(path, flows_max=64, slots_max=8, interfaces_max=16, hosts_max=0).close()
        former_map.write_layout_6(path)

    goes_on(scene, without)
    assert scene.map.hosts_max == HOSTS_MAX
    scene.serve()


def test_damaged_extensions_do_no_harm(scene: Scene) -> None:
    def damaged(path: Path) -> None:
        put_record(path)
        content = bytearray(path.read_bytes())
        header = read_header(path, bytes(content[:HEADER_BYTES]), len(content))
        first = header.offsets["extensions"]
        content[first:] = b"\xff" * (len(content) - first)
        path.write_bytes(content)

    goes_on(scene, damaged)
    scene.serve()
    assert scene.engine.counters()["rebuild_discarded"] > 0
    assert scene.engine.verify() == []


def test_no_room_for_the_extensions(tmp_path: Path) -> None:
    """The map is left as it was: nothing is lost, and nobody is killed by a signal."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", tmp_path], check=True)
    try:
        path = tmp_path / "state.map"
        put_record(path)
        content = path.read_bytes()
        header = read_header(path, content[:HEADER_BYTES], len(content))
        free = os.statvfs(tmp_path)
        # Room for all of the new map that exists from the start, and for no page more.
        taken = free.f_bavail * free.f_frsize - header.offsets["extensions"]
        with (tmp_path / "others").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, taken)
        with pytest.raises(StateMapError, match="no room for the state map's extensions"):
            migrate(path, now_ms=0)
        assert path.read_bytes() == content
        assert {each.name for each in tmp_path.iterdir()} == {"state.map", "others"}
        (tmp_path / "others").unlink()
        assert migrate(path, now_ms=0)
        with contextlib.closing(StateMap.open(path)) as state:
            assert len(state.flows()) + len(state.host_flows()) > 0
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)
