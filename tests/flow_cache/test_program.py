# SPDX-License-Identifier: Apache-2.0
"""The program on links: attached, found by a later process, taken off, refused with a reason."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hyperplane_nat.flow_cache import elf
from hyperplane_nat.flow_cache import program as programs
from hyperplane_nat.flow_cache.errors import FlowCacheError
from hyperplane_nat.flow_cache.maps import KEYS, RECORDS, Key, Rewrite, Use, delete
from hyperplane_nat.flow_cache.program import OBJECT, Attached, FlowCache, attached, detach, find
from netns import NetnsError, ingress, links, namespace, syscalls
from netns.interior import created, route_socket
from tests.flow_cache.scene import INTERFACE_ATTACHMENT, SERVICE, Scene, ordinary
from tests.live.lab import udp_socket, wait_until

pytestmark = pytest.mark.live

BYTES_PER_FLOW = 320
MANY = 1 << 16
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def where(offered: None, lab_name: str) -> str:
    """The name of a namespace that is still to be made."""
    return lab_name


def memory(descriptor: int) -> int:
    """What a map takes, as the kernel tells (exactly since Linux 6.4)."""
    text = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="utf-8")
    found = re.search(r"^memlock:\s*(\d+)$", text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_a_cached_flow_takes_so_much(offered: None) -> None:
    with FlowCache.load(flows=MANY, attachments=2) as cache:
        taken = sum(memory(cache.maps.descriptors[name]) for name in (KEYS, RECORDS))
        assert 128 * MANY < taken <= BYTES_PER_FLOW * MANY


def test_a_full_cache_refuses(offered: None) -> None:
    rewrite = Rewrite((SERVICE, 1), (SERVICE, 2), bytes(6), 1, (1, 1))
    keys = [Key(1, 17, (SERVICE, 1), (SERVICE, port)) for port in range(5)]
    with FlowCache.load(flows=2, attachments=2) as cache:
        for line, key in enumerate(keys[:4]):
            cache.maps.put(line, key, rewrite, Use(0, 0, 0))
        with pytest.raises(FlowCacheError, match="cannot cache a flow: Argument list too long"):
            cache.maps.put(0, keys[4], rewrite, Use(0, 0, 0))
        assert [cache.maps.line(key) for key in keys] == [0, 1, 2, 3, None]


def test_a_key_is_counted_while_it_is_there(offered: None) -> None:
    """Where the program looks before it looks for the key: once, however often it is put."""
    key, other = (Key(1, 17, (SERVICE, 1), (SERVICE, port)).packed() for port in (2, 3))
    with FlowCache.load(flows=1, attachments=2) as cache:
        maps = cache.maps
        assert maps.counted(key) == maps.counted(other) == 0
        maps.put_key(key, 0)
        maps.put_key(key, 1)
        assert maps.line_of(key) == 1
        assert (maps.counted(key), maps.counted(other)) == (1, 0)
        assert maps.remove_key(key)
        assert not maps.remove_key(key)
        assert maps.counted(key) == 0


def test_a_key_without_room_is_not_counted(offered: None) -> None:
    keys = [Key(1, 17, (SERVICE, 1), (SERVICE, port)).packed() for port in range(1, 4)]
    with FlowCache.load(flows=1, attachments=2) as cache:
        for line, key in enumerate(keys[:2]):
            cache.maps.put_key(key, line)
        with pytest.raises(OSError, match="Argument list too long"):
            cache.maps.put_key(keys[2], 0)
        assert [cache.maps.counted(key) for key in keys] == [1, 1, 0]


def test_a_full_count_stays(offered: None) -> None:
    """How many keys it is of is not known any more: they are looked for, whoever goes."""
    key = Key(1, 17, (SERVICE, 1), (SERVICE, 2)).packed()
    with FlowCache.load(flows=1, attachments=2) as cache:
        # As if others with this digest were put, and never removed.
        for _ in range(254):
            cache.maps.put_key(key, 0)
            delete(cache.maps.descriptors[KEYS], key)
        assert cache.maps.counted(key) == 254
        cache.maps.put_key(key, 0)
        assert cache.maps.remove_key(key)
        assert cache.maps.counted(key) == 255


def test_attached_once_told_and_taken_off(where: str) -> None:
    try:
        with (
            created([where], {}) as (route,),
            FlowCache.load(flows=1, attachments=65535) as cache,
        ):
            assert attached(route, links.LOOPBACK_INDEX) is None
            detach(route, links.LOOPBACK_INDEX)
            cache.attach(route, {links.LOOPBACK_INDEX: 65534})
            found = attached(route, links.LOOPBACK_INDEX)
            assert found is not None
            assert found.attachment == 65534
            with FlowCache.load(flows=1, attachments=1) as other:
                other.attach(route, {links.LOOPBACK_INDEX: 3})
            replaced = attached(route, links.LOOPBACK_INDEX)
            assert replaced is not None
            assert replaced.attachment == 3
            assert replaced.program != found.program
            with pytest.raises(NetnsError, match="cannot attach the flow cache"):
                cache.attach(route, {999: 1, links.LOOPBACK_INDEX: 4})
            assert attached(route, links.LOOPBACK_INDEX) == Attached(found.program, 4)
            detach(route, links.LOOPBACK_INDEX)
            assert attached(route, links.LOOPBACK_INDEX) is None
            detach(route, 999)
    finally:
        namespace.delete([where])


def test_what_stands_at_a_link_besides_it_stays(where: str) -> None:
    """The drop of a lab's links, whichever comes first."""
    try:
        with created([where], {}) as (route,), FlowCache.load(flows=1, attachments=1) as cache:
            ingress.drop(route, [links.LOOPBACK_INDEX])
            cache.attach(route, {links.LOOPBACK_INDEX: 0})
            assert ingress.missing(route, [links.LOOPBACK_INDEX]) == []
            detach(route, links.LOOPBACK_INDEX)
            assert ingress.missing(route, [links.LOOPBACK_INDEX]) == []
    finally:
        namespace.delete([where])


@pytest.mark.usefixtures("collected")
def test_the_descriptors_of_a_cache_are_closed_with_it(offered: None) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    cache = FlowCache.load(flows=1, attachments=1)
    # The program, four maps, and those of the three mappings.
    assert len(os.listdir("/proc/self/fd")) == len(before) + 8
    cache.close()
    cache.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


FINDER = """
import sys
from hyperplane_nat.flow_cache.program import find
from netns.interior import route_socket
from tests.flow_cache.scene import INTERFACE_ATTACHMENT, SERVICE, ordinary
from hyperplane_nat.flow_cache.maps import Key
with route_socket(sys.argv[1]) as route, find(route, int(sys.argv[2])) as cache:
    (out, back) = (Key(1, 17, *ordinary(41000, 31000, 8000)[0]),
                   Key(INTERFACE_ATTACHMENT, 17, *ordinary(41000, 31000, 8000)[1][::-1]))
    line = cache.maps.line(out)
    print(line, cache.maps.line(back), cache.maps.flows, cache.maps.attachments,
          cache.maps.use(line).packets)
    assert cache.maps.remove(back)
"""


def test_another_process_finds_it_by_the_link_alone(scene: Scene) -> None:
    """Whoever loaded it has gone; flows went on, and what the successor does counts."""
    flow = scene.udp()
    scene.cache.close()
    with udp_socket(scene.vpc) as server, udp_socket(scene.environment(), port=41000) as client:
        server.bind((SERVICE, 8000))
        client.sendto(b"nobody holds it", (SERVICE, 8000))
        _, translated = server.recvfrom(64)
        done = subprocess.run(
            [sys.executable, "-c", FINDER, scene.lab.gateway, str(scene.lab.slots[0].ifindex)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        assert done.stdout.split() == [str(flow.line), str(flow.line + 1), "64", "8", "1"]
        client.settimeout(0.2)
        server.sendto(b"removed", translated)
        with pytest.raises(TimeoutError):
            client.recvfrom(64)
        with route_socket(scene.lab.gateway) as route:
            again = find(route, scene.interface.ifindex)
        assert again is not None
        with again:
            assert again.maps.use(flow.line + 1).packets == 0
            client.sendto(b"and on", (SERVICE, 8000))
            assert server.recv(64) == b"and on"
            wait_until(lambda: again.maps.use(flow.line).packets == 2, "both counted")
            out, back = ordinary(41000, 31000, 8000)
            key = Key(INTERFACE_ATTACHMENT, 17, back[1], back[0])
            assert (again.maps.line(Key(1, 17, *out)), again.maps.line(key)) == (flow.line, None)


def test_nothing_is_found_where_nothing_is(where: str) -> None:
    try:
        with created([where], {}) as (route,):
            assert find(route, links.LOOPBACK_INDEX) is None
    finally:
        namespace.delete([where])


def test_a_program_of_another_version_is_not_taken_for_ours(where: str) -> None:
    """One of our name without maps."""
    code = bytes.fromhex("b7000000ffffffff9500000000000000")
    other = syscalls.load_program(syscalls.BPF_PROG_TYPE_SCHED_CLS, code, programs.NAME)
    try:
        with created([where], {}) as (route,), FlowCache.load(flows=1, attachments=1) as cache:
            ours, cache.descriptor = cache.descriptor, other
            cache.attach(route, {links.LOOPBACK_INDEX: 0})
            cache.descriptor = ours
            with pytest.raises(FlowCacheError, match="of another version"):
                find(route, links.LOOPBACK_INDEX)
    finally:
        os.close(other)
        namespace.delete([where])


def test_a_refusal_has_the_verifier_s_words(offered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first instruction reads a register that has nothing in it."""
    read = elf.read(OBJECT)
    code = bytes.fromhex("bf70000000000000") + read.instructions[8:]
    wrong = elf.Object(code, read.maps, read.uses)
    monkeypatch.setattr(elf, "read", lambda _path: wrong)
    with pytest.raises(FlowCacheError) as caught:
        FlowCache.load(flows=1, attachments=1)
    first, *said = str(caught.value).splitlines()
    assert first == "the kernel does not take the flow cache: Permission denied"
    assert any("R7 !read_ok" in line for line in said)


def test_a_cache_too_large_for_the_kernel_is_refused(offered: None) -> None:
    with pytest.raises(FlowCacheError, match="cannot make map keys of 4294967294 entries"):
        FlowCache.load(flows=(1 << 31) - 1, attachments=1)
