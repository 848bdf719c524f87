# SPDX-License-Identifier: Apache-2.0
"""The life of a controller, from its start to its end by a request or a signal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import threading
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller import record
from tests.conftest import free_port
from tests.controller.support import (
    DEADLINE_SECONDS,
    ControllerProcess,
    FakeNetns,
    RunningDaemon,
    ask,
    config_in,
    eventually,
    gone,
    paths_of,
    pid_in,
    run,
)


async def health(metrics_url: str) -> tuple[int, Any]:
    url = metrics_url.replace("/metrics", "/healthz")
    async with aiohttp.ClientSession() as client, client.get(url) as response:
        return response.status, await response.json()


def assert_nothing_left(directory: Path, netns: FakeNetns) -> None:
    assert netns.names() == []
    # `fake` is how tests talk to the fakes.
    assert [path.name for path in directory.iterdir()] == ["fake"]


def test_life(directory: Path, netns: FakeNetns) -> None:
    async def work() -> None:
        config = config_in(directory)
        async with RunningDaemon(config, netns.parts()) as running:
            status = await ask(running, "/v1/status")
            assert status["state"] == "running"
            assert (status["environments"], status["interfaces"], status["vpcs"]) == (5, 1, 1)
            assert status["flows"] == {"tcp": 0, "udp": 0, "icmp": 0, "entries": 0, "max": 10_000}
            assert status["drops"] == {}
            assert status["forwarder"]["uptime_seconds"] == 1.5
            file = running.paths.state_file.stat()
            assert status["state_file"]["bytes"] == file.st_blocks * 512
            environments = await ask(running, "/v1/environments")
            assert [each["name"] for each in environments] == [f"env-{n}" for n in range(1, 6)]
            assert {each["address"] for each in environments} == {"169.254.100.2"}
            assert environments[4]["namespace"] == "hp-test-env-5"
            (interface,) = await ask(running, "/v1/interfaces")
            assert (interface["name"], interface["environments"]) == ("eni-a", 5)
            assert await ask(running, "/v1/flows") == []
            assert await ask(running, "/v1/verify") == {"problems": [], "entries": 3}
            assert await ask(running, "/v1/config") == config.model_dump(mode="json")
            async with (
                aiohttp.ClientSession() as client,
                client.get(status["metrics_url"]) as response,
            ):
                text = await response.text()
            assert 'hyperplane_nat_network_interface_environments{interface="eni-a"} 5.0' in text
            assert await health(status["metrics_url"]) == (
                200,
                {"status": "ok", "controller": "ok", "forwarder": "ok"},
            )
            assert stat.S_IMODE(running.paths.control_socket.stat().st_mode) == 0o600
            assert record.read(running.paths.config_file) == config
            reports = running.reports()
            assert {"progress": "creating environments", "done": 5, "total": 5} in reports
            assert reports[-1]["ready"] is True
            assert reports[-1]["status"]["metrics_url"] == status["metrics_url"]
        assert running.task.result() == 0

    run(work())
    assert_nothing_left(directory, netns)


@pytest.mark.parametrize("vpcs", [[], [{"name": "bare", "cidr": "10.0.0.0/16"}]])
def test_a_lab_may_be_empty(directory: Path, netns: FakeNetns, vpcs: list[dict[str, str]]) -> None:
    said = record.said(config_in(directory, vpc=vpcs, lab={"environments": 0}))
    config = Config.model_validate(said)

    async def work() -> None:
        async with RunningDaemon(config, netns.parts()) as running:
            status = await ask(running, "/v1/status")
            found = (status["environments"], status["interfaces"], status["vpcs"])
            assert found == (0, 0, len(vpcs))
            assert await ask(running, "/v1/environments") == []
            assert await ask(running, "/v1/interfaces") == []

    run(work())
    assert_nothing_left(directory, netns)


@pytest.mark.races
def test_shutdown_answers_when_everything_is_gone(directory: Path, netns: FakeNetns) -> None:
    async def work() -> None:
        async with RunningDaemon(config_in(directory), netns.parts()) as running:
            pids = [pid_in(file) for file in running.paths.pid_files()]
            answer = await asyncio.gather(*(ask(running, "/v1/shutdown", "POST") for _ in "ab"))
            assert answer == [{"state": "down"}] * 2
            assert_nothing_left(directory, netns)
            assert all(gone(pid) for pid in pids if pid)
            assert await running.task == 0

    run(work())


@pytest.mark.races
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_tear_down(directory: Path, netns: FakeNetns, number: int) -> None:
    controller = ControllerProcess.on_fakes(config_in(directory), directory)
    assert controller.ready
    assert controller.end(number)[0] == 0
    assert_nothing_left(directory, netns)


@pytest.mark.races
def test_second_controller_is_refused_and_breaks_nothing(directory: Path, netns: FakeNetns) -> None:
    async def work() -> None:
        config = config_in(directory)
        async with RunningDaemon(config, netns.parts()) as running:
            with pytest.raises(AssertionError, match="already running"):
                async with RunningDaemon(config, netns.parts()):
                    pass
            assert (await ask(running, "/v1/status"))["state"] == "running"

    run(work())


@pytest.mark.parametrize("place", ["lab.state_directory", "flow_logs.directory"])
def test_a_place_that_is_not_ours_alone_is_refused(
    directory: Path, netns: FakeNetns, place: str
) -> None:
    others = directory / "others"
    others.mkdir()
    others.chmod(0o777)
    section, field = place.split(".")
    sections: dict[str, dict[str, object]] = {section: {field: str(others)}}
    if section == "flow_logs":
        sections[section]["enabled"] = True
    config = config_in(directory, **sections)

    async def work() -> None:
        with pytest.raises(AssertionError) as failure:
            async with RunningDaemon(config, netns.parts()):
                pass
        assert f"{place}: others can replace what is in {others} (" in str(failure.value)
        assert "'exit': 2" in str(failure.value)

    run(work())
    others.rmdir()


def test_a_group_that_is_not_there_costs_a_line(directory: Path, netns: FakeNetns) -> None:
    config = config_in(directory, lab={"socket_group": "no-such-group"})
    assert "there is no group 'no-such-group'" in refused(netns, config)
    assert_nothing_left(directory, netns)


CHANGES = {
    "config": "asked for: flows.max (",
    "namespace": "it has no gateway",
    "lab.json": "lab.json cannot be read",
}
"""What may differ, and what is said of it."""


class TestAdoption:
    """A controller is killed with SIGKILL, another one comes."""

    @staticmethod
    def killed(directory: Path, config: Config) -> dict[str, int]:
        controller = ControllerProcess.on_fakes(config, directory)
        assert controller.ready, controller.reports
        paths = paths_of(config)
        pids = {file.name: pid_in(file) for file in paths.pid_files()}
        controller.end(signal.SIGKILL)
        return pids

    @pytest.mark.races
    def test_forwarder_and_services_are_kept(self, directory: Path, netns: FakeNetns) -> None:
        config = config_in(directory)
        before = self.killed(directory, config)
        built = netns.file.stat().st_mtime_ns

        async def work() -> None:
            async with RunningDaemon(config, netns.parts()) as running:
                status = await ask(running, "/v1/status")
                assert status["forwarder"]["pid"] == before["forwarder.pid"]
                assert status["forwarder"]["restarts"] == 0
                for name in ("service-customer.web.pid", "service-customer.echo.pid"):
                    assert pid_in(running.paths.directory / name) == before[name]
                assert netns.file.stat().st_mtime_ns == built
                # The standby had nobody left to wait for.
                await eventually(lambda: gone(before["standby.pid"]), "the standby's end")
            assert gone(before["forwarder.pid"])

        run(work())
        assert_nothing_left(directory, netns)

    @pytest.mark.races
    def test_forwarder_that_died_meanwhile_is_started_on_the_same_map(
        self, directory: Path, netns: FakeNetns
    ) -> None:
        config = config_in(directory)
        before = self.killed(directory, config)
        os.kill(before["forwarder.pid"], signal.SIGKILL)
        os.kill(before["service-customer.web.pid"], signal.SIGKILL)
        inode = paths_of(config).state_file.stat().st_ino

        async def work() -> None:
            async with RunningDaemon(config, netns.parts()) as running:
                status = await ask(running, "/v1/status")
                assert status["forwarder"]["pid"] not in (None, before["forwarder.pid"])
                assert running.paths.state_file.stat().st_ino == inode
                assert all(each["up"] for each in status["services"].values())

        run(work())
        assert_nothing_left(directory, netns)

    @staticmethod
    def changed(config: Config, directory: Path, netns: FakeNetns, change: str) -> Config:
        """The configuration to start with, once what stands has been changed."""
        match change:
            case "config":
                return config_in(directory, flows={"max": 20_000})
            case "namespace":
                netns.file.write_text("\n".join(netns.names()[1:]))
            case "lab.json":
                paths_of(config).config_file.write_text("{")
        return config

    @pytest.mark.parametrize("change", CHANGES)
    def test_what_differs_is_refused_while_it_forwards(
        self, directory: Path, netns: FakeNetns, change: str
    ) -> None:
        config = config_in(directory)
        before = self.killed(directory, config)
        wanted = self.changed(config, directory, netns, change)
        map_before = paths_of(config).state_file.stat()
        error = refused(netns, wanted)
        assert CHANGES[change] in error
        assert f"forwarder (pid {before['forwarder.pid']})" in error
        assert "--replace" in error
        kept = ("forwarder.pid", "service-customer.web.pid", "service-customer.echo.pid")
        assert not any(gone(before[name]) for name in kept)
        assert paths_of(config).state_file.stat().st_ino == map_before.st_ino
        assert paths_of(config).region_file.exists()

        async def work() -> None:
            async with RunningDaemon(wanted, netns.parts(), replace=True) as running:
                assert all(gone(pid) for pid in before.values() if pid)
                status = await ask(running, "/v1/status")
                assert status["flows"]["max"] == wanted.flows.max
                assert len(netns.names()) == 6

        run(work())
        assert_nothing_left(directory, netns)

    @pytest.mark.parametrize("change", CHANGES)
    def test_what_differs_is_built_anew_when_nothing_forwards(
        self, directory: Path, netns: FakeNetns, change: str
    ) -> None:
        config = config_in(directory)
        before = self.killed(directory, config)
        os.kill(before["forwarder.pid"], signal.SIGKILL)
        wanted = self.changed(config, directory, netns, change)

        async def work() -> None:
            await eventually(lambda: gone(before["forwarder.pid"]))
            async with RunningDaemon(wanted, netns.parts()) as running:
                assert all(gone(pid) for pid in before.values() if pid)
                status = await ask(running, "/v1/status")
                assert status["flows"]["max"] == wanted.flows.max
                assert len(netns.names()) == 6

        run(work())
        assert_nothing_left(directory, netns)

    def test_own_settings_may_differ(self, directory: Path, netns: FakeNetns) -> None:
        port = free_port()
        before = self.killed(directory, config_in(directory))
        group = str(os.getegid())
        config = config_in(directory, metrics={"port": port}, lab={"socket_group": group})

        async def work() -> None:
            async with RunningDaemon(config, netns.parts()) as running:
                status = await ask(running, "/v1/status")
                assert status["forwarder"]["pid"] == before["forwarder.pid"]
                assert status["metrics_url"].endswith(f":{port}/metrics")
                assert stat.S_IMODE(running.paths.control_socket.stat().st_mode) == 0o660
                assert record.read(running.paths.config_file) == config

        run(work())

    def test_the_port_of_the_metrics_stays(self, directory: Path, netns: FakeNetns) -> None:
        """Somebody scrapes it, whoever chose it."""
        config = config_in(directory)
        assert config.metrics.port == 0
        self.killed(directory, config)
        noted = directory / "run" / "test" / "metrics.port"
        assert int(noted.read_text()) > 0
        # In its place one that nobody is given meanwhile who asks for any.
        port = free_port()
        noted.write_text(str(port))

        async def work() -> None:
            async with RunningDaemon(config, netns.parts()) as running:
                status = await ask(running, "/v1/status")
                assert status["metrics_url"].endswith(f":{port}/metrics")
                assert status["metrics_port_passed_over"] is None

        run(work())

    def test_what_was_started_otherwise_is_replaced_by_itself(
        self, directory: Path, netns: FakeNetns
    ) -> None:
        before = self.killed(directory, config_in(directory))
        inode = paths_of(config_in(directory)).state_file.stat().st_ino
        config = config_in(directory, forwarder={"batch_frames": 64})

        async def work() -> None:
            async with RunningDaemon(config, netns.parts()) as running:
                status = await ask(running, "/v1/status")
                assert status["forwarder"]["pid"] != before["forwarder.pid"]
                assert gone(before["forwarder.pid"])
                assert running.paths.state_file.stat().st_ino == inode
                web = pid_in(running.paths.directory / "service-customer.web.pid")
                assert web == before["service-customer.web.pid"]

        run(work())

    def test_a_failed_start_leaves_what_stood(self, directory: Path, netns: FakeNetns) -> None:
        before = self.killed(directory, config_in(directory))
        with socket.create_server(("127.0.0.1", 0)) as taken:
            config = config_in(directory, metrics={"port": taken.getsockname()[1]})
            assert "metrics.port: cannot listen" in refused(netns, config)
        assert not gone(before["forwarder.pid"])
        assert not gone(before["service-customer.web.pid"])

        async def work() -> None:
            async with RunningDaemon(config_in(directory), netns.parts()) as running:
                status = await ask(running, "/v1/status")
                assert status["forwarder"]["pid"] == before["forwarder.pid"]

        run(work())
        assert_nothing_left(directory, netns)

    def test_a_service_that_fails_leaves_the_forwarder(
        self, directory: Path, netns: FakeNetns
    ) -> None:
        """What is started beside an adopted forwarder may fail; it goes on."""
        config = config_in(directory)
        before = self.killed(directory, config)
        os.kill(before["service-customer.web.pid"], signal.SIGKILL)
        (directory / "fake" / "fail-service").write_text("port 1 is taken")
        assert "port 1 is taken" in refused(netns, config)
        assert not gone(before["forwarder.pid"])
        (directory / "fake" / "fail-service").unlink()

        async def work() -> None:
            async with RunningDaemon(config, netns.parts()) as running:
                status = await ask(running, "/v1/status")
                assert status["forwarder"]["pid"] == before["forwarder.pid"]
                assert all(each["up"] for each in status["services"].values())

        run(work())
        assert_nothing_left(directory, netns)

    def test_the_record_of_the_former_version_is_adopted(
        self, directory: Path, netns: FakeNetns
    ) -> None:
        """A release that adds a field: what is kept does not have it, and means its default."""
        config = config_in(directory)
        before = self.killed(directory, config)
        former = config.model_dump(mode="json")
        del former["forwarder"]["coalesce_udp"], former["flow_logs"]
        paths_of(config).config_file.write_text(json.dumps(former))

        async def work() -> None:
            async with RunningDaemon(config, netns.parts()) as running:
                status = await ask(running, "/v1/status")
                assert status["forwarder"]["pid"] == before["forwarder.pid"]
                assert record.read(running.paths.config_file) == config

        run(work())
        assert_nothing_left(directory, netns)


def refused(netns: FakeNetns, config: Config) -> str:
    """The error of a start that is refused; what stands is left."""
    reports: list[dict[str, Any]] = []

    async def work() -> None:
        running = RunningDaemon(config, netns.parts())
        assert await running.task == 2
        reports.extend(running.reports())
        os.close(running._read)

    run(work())
    text: str = reports[-1]["error"]
    assert "\n" not in text
    return text


def failing(directory: Path, netns: FakeNetns, config: Config) -> str:
    """The error of a start that fails; nothing may be left."""
    text = refused(netns, config)
    assert_nothing_left(directory, netns)
    return text


def test_port_in_use(directory: Path, netns: FakeNetns) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = config_in(directory, metrics={"port": port})
        assert "metrics.port: cannot listen" in failing(directory, netns, config)
    assert_nothing_left(directory, netns)


def test_a_port_that_nobody_named_gives_way(directory: Path, netns: FakeNetns) -> None:
    said = record.said(config_in(directory))
    del said["metrics"]
    config = Config.model_validate(said)

    async def work() -> None:
        with contextlib.ExitStack() as stack:
            # Another test run lets go of it soon; whoever else has it on this host does as well.
            for _ in range(200):
                with contextlib.suppress(OSError):
                    stack.enter_context(socket.create_server(("127.0.0.1", config.metrics.port)))
                    break
                await asyncio.sleep(0.05)
            async with RunningDaemon(config, netns.parts()) as running:
                status = await ask(running, "/v1/status")
                assert status["metrics_port_passed_over"] == config.metrics.port
                assert not status["metrics_url"].endswith(f":{config.metrics.port}/metrics")

    run(work())
    assert_nothing_left(directory, netns)


def test_build_that_fails(directory: Path, netns: FakeNetns) -> None:
    netns.fail = "no room for namespaces"
    error = failing(directory, netns, config_in(directory))
    assert error == "no room for namespaces (try again)"
    assert_nothing_left(directory, netns)


@pytest.mark.races
def test_service_that_fails(directory: Path, netns: FakeNetns) -> None:
    config = config_in(directory).model_dump(mode="json")
    config["vpc"][0]["service"][0]["port"] = 1
    error = failing(directory, netns, Config.model_validate(config))
    assert error == ("service customer/web exited with status 2: port 1 is taken (choose another)")
    assert_nothing_left(directory, netns)


@pytest.mark.races
@pytest.mark.parametrize(
    ("file", "words"), [("fail-start", "no packet sockets"), ("fail-configure", "no such link")]
)
def test_forwarder_that_fails(directory: Path, netns: FakeNetns, file: str, words: str) -> None:
    (directory / "fake" / file).write_text("no packet sockets (run as root)")
    assert words in failing(directory, netns, config_in(directory))
    assert_nothing_left(directory, netns)


class Building:
    """Netns in the middle of building, until `go_on` is set."""

    def __init__(self, netns: FakeNetns) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        netns.pause = self._pause

    def _pause(self) -> None:
        self.begun.set()
        assert self.go_on.wait(2 * DEADLINE_SECONDS)


@pytest.mark.races
def test_signal_while_building(directory: Path, netns: FakeNetns) -> None:
    building = Building(netns)

    async def work() -> None:
        running = RunningDaemon(config_in(directory), netns.parts())
        await eventually(building.begun.is_set)
        os.kill(os.getpid(), signal.SIGTERM)
        await eventually(running.daemon._stop.is_set)
        building.go_on.set()
        assert await running.task == 1
        assert "stopped before it was ready" in running.reports()[-1]["error"]
        os.close(running._read)

    run(work())
    assert_nothing_left(directory, netns)


@pytest.mark.races
@pytest.mark.parametrize("when", ["before", "while building"])
def test_a_start_whose_client_has_gone_comes_to_nothing(
    directory: Path, netns: FakeNetns, when: str
) -> None:
    building = Building(netns)

    async def work() -> None:
        running = RunningDaemon(config_in(directory), netns.parts())
        if when == "while building":
            await eventually(building.begun.is_set)
        os.close(running._read)
        if when == "while building":
            await eventually(running.daemon._stop.is_set, "the controller's notice")
        building.go_on.set()
        assert await running.task == 1

    run(work())
    assert_nothing_left(directory, netns)


@pytest.mark.races
def test_a_client_that_goes_when_the_lab_is_up_is_no_matter(
    directory: Path, netns: FakeNetns
) -> None:
    async def work() -> None:
        async with RunningDaemon(config_in(directory), netns.parts()) as running:
            read, write = os.pipe()
            os.dup2(read, running._read)
            os.close(read)
            os.close(write)
            assert (await ask(running, "/v1/status"))["state"] == "running"

    run(work())


def test_error_goes_to_stderr_in_the_foreground(
    directory: Path, netns: FakeNetns, capfd: pytest.CaptureFixture[str]
) -> None:
    from hyperplane_nat.controller.daemon import Daemon

    netns.fail = "no room"

    async def work() -> None:
        assert await Daemon(config_in(directory), parts=netns.parts()).run() == 2

    run(work())
    assert capfd.readouterr().err.endswith("no room (try again)\n")


@pytest.mark.races
def test_loop_is_not_stalled_by_work(directory: Path, netns: FakeNetns) -> None:
    """The loop turns while netns builds, which goes on only when it has."""
    building = Building(netns)

    async def work() -> None:
        running = RunningDaemon(config_in(directory), netns.parts())
        await eventually(building.begun.is_set)
        for _ in range(100):
            await asyncio.sleep(0)
        building.go_on.set()
        async with running:
            pass

    run(work())
