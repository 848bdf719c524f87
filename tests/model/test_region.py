# SPDX-License-Identifier: Apache-2.0
"""A region under any sequence of commands: what `invariants` says stays true.

The region is saved after each command, also after one that was refused, and now and then thrown
away and loaded again, as after a kill: the loaded one is the one that was saved.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hyperplane_nat.model.entities import Combination, InterfaceKind
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.identifiers import seeded_hex
from hyperplane_nat.model.region import Plan, Region
from hyperplane_nat.model.resources import (
    FunctionResource,
    Networking,
    Resources,
    RuleResource,
    SecurityGroupResource,
)
from hyperplane_nat.model.states import EnvironmentState, InterfaceStatus
from hyperplane_nat.model.store import Store
from tests.model.invariants import violations
from tests.model.support import HYPERPLANE, NONE, OWN, Scene, interface, lab, service, vpc

FUNCTIONS = ("orders", "mail", "ledger", "public")
SUBNETS = ("a", "b")
SMALL = (("a", "10.0.1.0/28"), ("b", "10.0.2.0/28"))
GROUPS = ("app", "db", "old")


@st.composite
def functions(draw: st.DrawFn) -> list[FunctionResource]:
    wanted = []
    for name in draw(st.sets(st.sampled_from(FUNCTIONS))):
        networking = draw(st.sampled_from(list(Networking)))
        memory = draw(st.sampled_from((128, 256)))
        if networking is Networking.NONE:
            wanted.append(FunctionResource(name, networking, "shop", memory_mb=memory))
            continue
        place, account = draw(st.sampled_from((("customer", "shop"), ("vault", "bank"))))
        subnets = draw(st.sets(st.sampled_from(SUBNETS), min_size=1))
        groups = draw(st.sets(st.sampled_from(GROUPS), min_size=1, max_size=2))
        wanted.append(
            FunctionResource(
                name,
                networking,
                account,
                place,
                tuple(sorted(subnets)),
                tuple(sorted(groups)),
                memory,
            )
        )
    return wanted


@st.composite
def labs(draw: st.DrawFn) -> Resources:
    # Egress to a group makes policies depend on which interfaces there are.
    app = SecurityGroupResource("app", egress=(RuleResource(group=draw(st.sampled_from(GROUPS))),))
    groups = (app, *GROUPS[1:]) if draw(st.booleans()) else GROUPS[: draw(st.integers(2, 3))]
    services = [
        service("web", f"10.0.1.{draw(st.integers(4, 14))}", groups=("db",))
        for _ in range(draw(st.integers(0, 1)))
    ]
    return lab(
        *draw(functions()),
        vpcs=(
            vpc(groups=groups, subnets=SMALL, services=services),
            vpc("vault", account="bank", groups=GROUPS, subnets=SMALL),
        ),
        interfaces=(interface("eni-a", "10.0.1.4", vpc="vault", subnet="small"),),
        environments=2,
    )


class RegionMachine(RuleBasedStateMachine):
    """Commands in any order; refusals are part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene(interfaces_per_vpc=6)
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "model.db"
        self.store = Store(self.path)
        self.shared_extra: set[Combination] = set()
        self.lives = 1

    def teardown(self) -> None:
        self.store.close()
        self.directory.cleanup()

    @property
    def region(self) -> Region:
        return self.scene.region

    def slots(self, *states: EnvironmentState) -> list[int]:
        return [
            item.slot for item in self.region.tables.environments.values() if item.state in states
        ]

    @initialize()
    def start(self) -> None:
        """Most of what can happen needs functions that serve."""
        self.scene.apply(
            lab(
                FunctionResource("orders", HYPERPLANE, "shop", "customer", ("a",), ("app",)),
                FunctionResource("mail", HYPERPLANE, "shop", "customer", ("a", "b"), ("app",)),
                FunctionResource("ledger", OWN, "bank", "vault", ("b",), ("db",)),
                FunctionResource("public", NONE, "shop"),
                vpcs=(vpc(subnets=SMALL), vpc("vault", account="bank", subnets=SMALL)),
            )
        )
        self.scene.active()

    @rule(wanted=labs())
    def apply(self, wanted: Resources) -> None:
        self.region.advance()
        before = self.region.document()
        try:
            plan = self.region.plan(wanted)
        except ModelError:
            with suppress(ModelError):
                self.region.apply(Plan(wanted, ()))
            assert self.region.document() == before
            return
        assert self.region.document() == before, "a plan changes nothing"
        assert self.region.apply(plan) == plan.lines
        assert self.region.plan(wanted).lines == (), "what was applied is there"

    @rule(name=st.sampled_from(FUNCTIONS), token=st.sampled_from((None, "t-1", "t-2")))
    def begin(self, name: str, token: str | None) -> None:
        with suppress(ModelError):
            placement = self.region.begin(name, token)
            environment = self.region.tables.environments[placement.environment]
            assert environment.function_name == name
            assert environment.cold == placement.cold

    @rule(name=st.sampled_from(FUNCTIONS))
    def invoke(self, name: str) -> None:
        with suppress(ModelError):
            self.scene.run(name)

    @rule(name=st.sampled_from(("orders", "mail")), subnet=st.sampled_from(SUBNETS))
    def change(self, name: str, subnet: str) -> None:
        """Another configuration for one function, all else as it is."""
        wanted = lab(
            FunctionResource(name, HYPERPLANE, "shop", "customer", (subnet,), ("db",)),
            vpcs=(vpc(subnets=SMALL, groups=GROUPS), vpc("vault", account="bank", subnets=SMALL)),
        )
        with suppress(ModelError):
            self.scene.apply(wanted)

    @rule(data=st.data())
    def ready(self, data: st.DataObject) -> None:
        if slots := self.slots(EnvironmentState.INITIALIZING):
            self.region.ready(data.draw(st.sampled_from(slots)))

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if slots := self.slots(EnvironmentState.BUSY):
            self.region.end(data.draw(st.sampled_from(slots)))

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        if slots := list(self.region.tables.environments):
            self.region.discard(data.draw(st.sampled_from(slots)))

    @rule()
    def reap(self) -> None:
        self.scene.reap()

    @rule()
    def take_down(self) -> None:
        self.scene.take_down()

    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        pending = [
            item.id
            for item in self.region.tables.interfaces.values()
            if item.status is InterfaceStatus.PENDING
        ]
        if pending:
            interface = data.draw(st.sampled_from(pending))
            with suppress(ModelError):
                self.region.interface_failed(interface, "InternalError", "no link")

    @rule(data=st.data())
    def connections(self, data: st.DataObject) -> None:
        shared = [
            item
            for item in self.region.tables.interfaces.values()
            if item.kind is not InterfaceKind.PER_ENVIRONMENT
        ]
        full = [item for item in shared if data.draw(st.booleans())]
        self.shared_extra |= {item.combination for item in full if item.combination is not None}
        self.region.note_connections({item.id: 65_000 for item in full})

    @rule(seconds=st.sampled_from((1.0, 90.0, 600.0, 1200.0, 86_400.0, 14 * 86_400.0)))
    def time(self, seconds: float) -> None:
        self.scene.clock.pass_seconds(seconds)

    @rule()
    def advance(self) -> None:
        self.region.advance()
        deadline = self.region.next_deadline()
        assert deadline is None or deadline > self.scene.clock()

    @precondition(lambda self: self.region.tables.functions)
    @rule()
    def killed(self) -> None:
        saved = self.region.document()
        self.store.close()
        self.store = Store(self.path)
        # The source of before would give the ids of before once more.
        self.lives += 1
        options = self.scene.options() | {"random_hex": seeded_hex(self.lives)}
        self.scene.region = self.store.load_region(**options)
        assert self.region.document() == saved

    @invariant()
    def holds(self) -> None:
        self.store.save(self.region)
        assert violations(self.region, self.shared_extra) == []
        wanted = self.region.wanted()
        assert len({item.link for item in wanted.interfaces}) == len(wanted.interfaces)
        assert all(item == self.region.wanted_interface(item.id) for item in wanted.interfaces)


RegionMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestRegion = RegionMachine.TestCase
