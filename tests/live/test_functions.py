# SPDX-License-Identifier: Apache-2.0
"""Functions of two accounts at work: who reaches whom, what they share, what a crash leaves.

The lab is the one of docs/examples/lambda.toml, under a name of its own.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.client import ApiError, Client, ClientError
from hyperplane_nat.config.lab import load
from netns import processes
from tests.live.conftest import Launch
from tests.live.lab import (
    Lab,
    difference,
    receive,
    require_program,
    switched,
    tcp_socket,
    wait_until,
)

pytestmark = [pytest.mark.live, pytest.mark.slow]

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "lambda.toml"
ENDPOINTS = {
    "web": ("10.0.1.80", 80),
    "db": ("10.0.1.54", 5432),
    "site": ("203.0.113.80", 80),
    "interface": ("10.0.1.4", 80),
    "neighbour": ("169.254.100.2", 80),
}
REACHED = {
    "checkout": {"web": 10000, "db": 11000},
    "refund": {"web": 10000, "db": 11000},
    "report": {"web": 20000},
    "webhook": {"site": 30000},
}
"""By the size of the file that the server has; whatever is not here cannot be reached."""

# Asks every endpoint for its file at the same time and prints what it got.
PROBE = """
import json, socket, sys, threading
found = {}
def ask(name, address, port):
    try:
        # Who is answered may be kept waiting on a loaded machine.
        patience = 20 if name in sys.argv[2:] else 1.5
        with socket.create_connection((address, port), timeout=patience) as connection:
            connection.sendall(b"GET /file HTTP/1.0\\r\\n\\r\\n")
            size = 0
            while piece := connection.recv(65536):
                size += len(piece)
            connection.close()
            found[name] = size
    except OSError:
        pass
threads = [threading.Thread(target=ask, args=(n, *e)) for n, e in json.loads(sys.argv[1]).items()]
for each in threads: each.start()
for each in threads: each.join()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    """With environments that are kept longer than any of the tests takes with one."""
    return started(launch_shared, kept_seconds=600)


def started(launch: Launch, *, kept_seconds: float | None = None) -> Lab:
    """The example's lab with every function Active; how long environments are kept, if it is not
    as in the example.
    """
    text = EXAMPLE.read_text(encoding="utf-8").replace('[lab]\nname = "lambda"\n', "")
    if kept_seconds is not None:
        section = "[lifecycle]\n"
        assert section in text
        text = text.replace(section, f"{section}warm_idle_seconds = {60 * kept_seconds}\n")
    lab = launch(environments=0, toml=text)
    wait_until(lambda: states(lab) == dict.fromkeys(REACHED, "Active"), "functions are Active")
    return lab


def states(lab: Lab) -> dict[str, str]:
    return {row["FunctionName"]: row["State"] for row in lab.rows("functions")}


def invoke(lab: Lab, name: str, *command: str, **more: Any) -> dict[str, Any]:
    answer = lab.client.post(f"/v1/functions/{name}/invocations", {"command": command, **more})
    assert isinstance(answer, dict)
    return answer


def output(answer: dict[str, Any]) -> str:
    assert answer["status"] == 0, base64.b64decode(answer["stderr"])
    return base64.b64decode(answer["stdout"]).decode()


def apply(lab: Lab, text: str) -> Any:
    """`text` is the example, changed."""
    path = lab.config_file.with_suffix(".changed")
    path.write_text(switched(text), encoding="utf-8")
    document = load(path).model_dump(mode="json")
    return lab.client.post("/v1/apply", {"config": document})


def number_of(answer: dict[str, Any]) -> int:
    return int(answer["environment"].removeprefix("env-"))


@pytest.mark.requirement("AWS-no-vpc-internet", profile="both")
@pytest.mark.parametrize("function", REACHED)
def test_who_reaches_whom(lab: Lab, function: str) -> None:
    asked = (PROBE, json.dumps(ENDPOINTS), *REACHED[function])
    answer = invoke(lab, function, sys.executable, "-c", *asked)
    found = json.loads(output(answer))
    # The header of the answer comes on top of the file.
    assert found.keys() == REACHED[function].keys()
    for name, size in REACHED[function].items():
        assert size < found[name] < size + 1000


@pytest.mark.requirement("AWS-shared-interface", profile="both")
def test_functions_of_one_combination_share_one_interface(lab: Lab) -> None:
    answers = {name: invoke(lab, name, "/bin/true") for name in REACHED}
    assert answers["checkout"]["interface"] == answers["refund"]["interface"]
    assert len({answer["interface"] for answer in answers.values()}) == 3
    rows = {row["id"]: row for row in lab.rows("interfaces")}
    shared = rows[answers["checkout"]["interface"]]
    assert (shared["kind"], shared["status"]) == ("hyperplane", "in-use")
    assert shared["description"].startswith("AWS Lambda VPC ENI-checkout-")
    assert rows[answers["report"]["interface"]]["kind"] == "per-environment"
    assert rows[answers["webhook"]["interface"]]["kind"] == "internet"


def test_a_second_invocation_is_warm(lab: Lab) -> None:
    first, second = (invoke(lab, "refund", "/bin/true") for _ in range(2))
    assert not second["cold"]
    assert first["environment"] == second["environment"]
    assert second["modelled_seconds"] == 0


@pytest.mark.requirement("AWS-per-environment-eni", profile="both")
def test_cold_starts_of_both_models(lab: Lab) -> None:
    """What they took, in milliseconds: printed, not judged."""
    for name in ("checkout", "report"):
        answer = lab.client.post(f"/v1/functions/{name}/provision", {"count": 40})
        assert isinstance(answer, dict)
        assert answer["error"] is None
        assert answer["started"] == 40
        seconds = sorted(answer["network_ready_seconds"])
        print(f"{name}: p50 {seconds[20] * 1000:.2f} ms, worst {seconds[-1] * 1000:.2f} ms")
    kinds = [row["kind"] for row in lab.rows("interfaces")]
    assert kinds.count("hyperplane") == 1
    assert kinds.count("per-environment") >= 40
    latest = lab.rows("cold-starts", limit=80)
    # Some of the first function's may have begun before, and others' are known then.
    assert {
        (row["function"], row["networking"]) for row in latest if row["function"] != "webhook"
    } == {("checkout", "hyperplane"), ("report", "interface-per-environment")}

    def agree() -> bool:
        listed = states_of(lab)
        sums = {
            (row["function"], row["interface"]): (row["states"], row["environments"])
            for row in lab.rows("environment-sums")
        }
        # The pool is refilled meanwhile: what was there before and after was there between.
        if listed != states_of(lab):
            return False
        assert sums == {of: (states, states.total()) for of, states in listed.items()}
        return True

    wait_until(agree, "environments do not change while they are summed")


def states_of(lab: Lab) -> dict[tuple[str | None, str | None], Counter[str]]:
    """How many environments are in which state, by function and interface."""
    found: dict[tuple[str | None, str | None], Counter[str]] = {}
    for row in lab.rows("environments", limit=1000):
        found.setdefault((row["function"], row["interface"]), Counter())[row["state"]] += 1
    return found


def test_programs_that_fail(lab: Lab) -> None:
    with pytest.raises(ApiError) as refused:
        invoke(lab, "checkout", "no-such-program")
    assert (refused.value.status, refused.value.code) == (422, "ProgramNotFound")
    with pytest.raises(ApiError) as refused:
        invoke(lab, "nobody", "/bin/true")
    assert (refused.value.status, refused.value.code) == (404, "ResourceNotFoundException")
    assert invoke(lab, "checkout", "/bin/sh", "-c", "exit 3")["status"] == 3
    late = invoke(
        lab, "checkout", "/bin/sh", "-c", "(sleep 1000 &) ; sleep 1000", timeout_seconds=0.3
    )
    assert late["timed_out"]
    assert processes.kill_all(lab.environment(number_of(late))) == 0


def test_who_goes_away_ends_the_program(lab: Lab) -> None:
    impatient = Client(lab.name, timeout=0.5)
    with pytest.raises(ClientError):
        impatient.post("/v1/functions/refund/invocations", {"command": ["/bin/sleep", "1000"]})

    def idle() -> bool:
        return all(row["state"] != "busy" for row in lab.rows("environments"))

    wait_until(idle, "the environment is free again")
    for row in lab.rows("environments"):
        if row["function"] == "refund":
            assert processes.kill_all(row["namespace"]) == 0


def test_concurrent_cold_starts(lab: Lab) -> None:
    """More at the same time than the pool has ready; what they took is printed, not judged."""
    count = 40
    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(lambda _: invoke(lab, "refund", "/bin/sleep", "0.5"), range(count)))
    assert {answer["status"] for answer in answers} == {0}
    assert len({answer["environment"] for answer in answers}) > 1
    assert len({answer["interface"] for answer in answers}) == 1
    waited = sorted(answer["network_ready_seconds"] for answer in answers)
    print(f"p50 {waited[count // 2] * 1000:.1f} ms, worst {waited[-1] * 1000:.1f} ms")


def test_a_client_token_runs_a_program_once(lab: Lab, tmp_path: Path) -> None:
    command = ("/bin/sh", "-c", f"echo x >> {tmp_path / 'runs'}; echo done")
    answers = [invoke(lab, "checkout", *command, client_token="once") for _ in range(2)]
    assert [output(answer) for answer in answers] == ["done\n"] * 2
    assert (tmp_path / "runs").read_text() == "x\n"


@pytest.mark.requirement("AWS-sg-rule-removal", profile="both")
def test_a_removed_rule_stops_new_flows_only(lab: Lab) -> None:
    text = lab.config_file.read_text(encoding="utf-8")
    rule = '    { protocol = "tcp", ports = "5432", group = "database" },\n'
    assert rule in text
    number = number_of(invoke(lab, "checkout", "/bin/true"))
    with tcp_socket(lab.environment(number)) as tracked:
        tracked.connect(ENDPOINTS["db"])
        assert apply(lab, text.replace(rule, ""))["plan"]
        try:
            with (
                tcp_socket(lab.environment(number), seconds=1) as late,
                pytest.raises(TimeoutError),
            ):
                late.connect(ENDPOINTS["db"])
            tracked.sendall(b"GET /sha256?bytes=1 HTTP/1.1\r\nHost: db\r\n\r\n")
            assert receive(tracked, 12) == b"HTTP/1.1 200"
            wait_until(lambda: lab.drops().get("security_group_egress"), "the late one is dropped")
        finally:
            apply(lab, text)
        with tcp_socket(lab.environment(number)) as again:
            again.connect(ENDPOINTS["db"])


@pytest.mark.requirement("AWS-port-25", profile="both")
@pytest.mark.requirement("AWS-function-protocols", profile="both")
@pytest.mark.parametrize("function", ["checkout", "webhook"])
def test_lambda_carries_no_mail_and_no_ping(lab: Lab, function: str) -> None:
    """Security groups that let everything out, and none at all, make no difference."""
    ping = require_program("ping", "iputils-ping")
    address = ENDPOINTS["web" if function == "checkout" else "site"][0]
    mail = f"import socket; socket.create_connection(('{address}', 25), timeout=0.3)"
    before = lab.drops()
    script = f'{ping} -c 1 -W 1 {address}; {sys.executable} -c "{mail}" || exit 7'
    assert invoke(lab, function, "/bin/sh", "-c", script)["status"] == 7
    reasons = {"lambda_icmp", "lambda_port"}
    wait_until(lambda: difference(before, lab.drops()).keys() >= reasons, "both are dropped")


def test_a_new_function_and_its_end(lab: Lab) -> None:
    text = lab.config_file.read_text(encoding="utf-8")
    more = (
        text
        + """
[[vpc.security_group]]
name = "late"

[[function]]
name = "late"
account = "analytics"
networking = "hyperplane"
vpc = "analytics"
subnets = ["analytics-a"]
security_groups = ["reports"]
"""
    ).replace('[[vpc.security_group]]\nname = "late"\n\n', "")
    plan = apply(lab, more)["plan"]
    assert [(line["action"], line["kind"], line["name"]) for line in plan] == [
        ("create", "function", "late")
    ]
    with pytest.raises(ApiError) as refused:
        invoke(lab, "late", "/bin/true")
    assert (refused.value.status, refused.value.code) == (409, "ResourceConflictException")
    wait_until(lambda: states(lab)["late"] == "Active", "the function is Active")
    assert invoke(lab, "late", "/bin/true")["status"] == 0
    assert [line["action"] for line in apply(lab, text)["plan"]] == ["delete"]
    assert "late" not in states(lab)


def test_settings_cannot_be_applied(lab: Lab) -> None:
    text = lab.config_file.read_text(encoding="utf-8")
    with pytest.raises(ApiError, match=r"ports\.limit_per_remote: cannot change while"):
        apply(lab, f"[ports]\nlimit_per_remote = 7\n{text}")


# --- the controller is killed ---


def controller(lab: Lab) -> int:
    return int(lab.status()["pid"])


def kill_controller(lab: Lab) -> None:
    pid = controller(lab)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the controller is gone")


def model_of(lab: Lab) -> Any:
    """What functions and interfaces there are, without what time alone changes."""
    functions = [
        {name: row[name] for name in ("FunctionName", "Networking", "VpcConfig", "Account")}
        for row in lab.rows("functions")
    ]
    interfaces = sorted(
        (row["id"], row["number"], row["address"], row["kind"])
        for row in lab.rows("interfaces")
        if row["kind"] != "per-environment"
    )
    return functions, interfaces


@pytest.fixture
def mortal(launch: Launch) -> Lab:
    """What is warm is warm until the test is over, however long that takes beside others."""
    return started(launch, kept_seconds=86400)


def test_killed_during_an_invocation(mortal: Lab) -> None:
    lab = mortal
    before = model_of(lab)
    number = number_of(invoke(lab, "checkout", "/bin/true"))
    with tcp_socket(lab.environment(number)) as tracked:
        tracked.connect(ENDPOINTS["web"])

        def suffer() -> None:
            with pytest.raises(ClientError):
                invoke(lab, "refund", "/bin/sleep", "1000")

        victim = threading.Thread(target=suffer)
        victim.start()

        def busy() -> list[int]:
            rows = lab.rows("environments")
            return [row["number"] for row in rows if row["state"] == "busy"]

        wait_until(lambda: busy(), "the program runs")
        (left,) = busy()
        kill_controller(lab)
        victim.join(60)
        lab.up()
        assert model_of(lab) == before
        # Its environment is given up, with what still ran in it.
        wait_until(lambda: not busy(), "nothing is busy")
        wait_until(
            lambda: not Path(f"/run/netns/{lab.environment(left)}").exists(), "it is taken down"
        )
        # The warm one is as it was, its connection too.
        tracked.sendall(b"GET /sha256?bytes=1 HTTP/1.1\r\nHost: web\r\n\r\n")
        assert receive(tracked, 12) == b"HTTP/1.1 200"
        again = invoke(lab, "checkout", "/bin/true")
        assert not again["cold"]
        assert number_of(again) == number
    assert lab.verify() == []


def test_killed_while_the_pool_is_refilled_and_a_plan_is_done(mortal: Lab) -> None:
    lab = mortal
    text = lab.config_file.read_text(encoding="utf-8")
    more = text.replace('name = "refund"', 'name = "refund2"')
    for round_number, wanted in enumerate((more, text, more)):

        def ask(wanted: str = wanted) -> None:
            try:
                lab.client.post("/v1/functions/checkout/provision", {"count": 10})
                apply(lab, wanted)
            except ClientError:
                pass

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(0.02 + 0.05 * round_number)
        kill_controller(lab)
        asking.join(60)
        # Whichever of the two was in force is what a new start with either file leads to.
        lab.config_file.write_text(switched(wanted), encoding="utf-8")
        lab.up()
        name = "refund2" if wanted is more else "refund"
        wait_until(
            lambda name=name: states(lab).get(name) == "Active",  # type: ignore[misc]
            "the function is Active",
        )
        assert set(states(lab)) == {"checkout", name, "report", "webhook"}
        assert lab.verify() == []
        wait_until(lambda: len(set(lab.status()["pool"].values())) == 1, "the pool is full")
        standing = {row["number"] for row in lab.rows("environments")}
        namespaces = {
            int(path.name.rpartition("-")[2])
            for path in Path("/run/netns").glob(f"hp-{lab.name}-env-*")
        }
        assert namespaces == standing


def test_a_state_that_cannot_be_read(mortal: Lab) -> None:
    """It is left where it is, and so is the lab: one line says what to do."""
    lab = mortal
    kill_controller(lab)
    region = lab.runtime_directory / "region.sqlite"
    for log in lab.runtime_directory.glob("region.sqlite-*"):
        log.unlink()
    region.write_bytes(b"no database" * 1000)
    refused = lab.cli("up", "-c", str(lab.config_file), check=False)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "region.sqlite" in refused.stderr
    assert Path(f"/run/netns/{lab.gateway}").exists()
