# SPDX-License-Identifier: Apache-2.0
"""Functions at work: the region on disk, the network that follows it, the pool, the invocations.

Theory of operation
-------------------
Every command changes the region and is saved before anything else happens, so a controller killed
at any moment finds the same region again; the network then is made to follow.

What happens by itself is done by one task that sleeps until something is due, in rounds: the steps
of `Functions.settle` from the first to the last, each where it finds something to do.

    step     is due                            does
    time     always                            what the clock changes; each second, connections
    code     versions were published           keeps their code as it is now
    ended    environments terminate            takes them down and forgets them
    deleted  interfaces are being deleted      takes them from the forwarder, then their links
    network  the region wants something else   VPCs, links, forwarder, services (`Network.follow`)
    numbers  numbers are retired               frees those that no flow names any more
    pool     too few environments are ready    makes more
    ahead    provisioned concurrency misses    starts environments, has them initialized

Who uses something ends before it: environments before their interfaces, these before VPCs and
numbers. A step that fails ends the round, and the next round begins at the top, after a pause: each
step sees by itself what is left to be done, so nothing is remembered of a round that failed.

An invocation takes a place in the region, attaches a cold environment, runs the program inside it
and gives the place back. A controller that is killed meanwhile leaves environments that nobody
serves: its successor gives them up, with whatever still runs in them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import netns
from hyperplane_nat import model, runtime
from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.cold_starts import ColdStarts
from hyperplane_nat.controller.errors import ForwarderError
from hyperplane_nat.controller.handlers import placed
from hyperplane_nat.controller.network import reconcile
from hyperplane_nat.controller.network.network import Network
from hyperplane_nat.controller.network.pool import EnvironmentPool, plan_lines
from hyperplane_nat.controller.provisioning import Provisioning
from hyperplane_nat.controller.published import PublishedCode
from hyperplane_nat.controller.resources import resources_of
from hyperplane_nat.controller.stillness import Stillness
from hyperplane_nat.model.entities import LATEST, Resource
from hyperplane_nat.model.errors import ConcurrencyError, ModelError, StateError
from hyperplane_nat.model.invocation import code_of, not_ready
from hyperplane_nat.model.planner import PlanLine
from hyperplane_nat.model.region import Commands, Placement, Plan, Region
from hyperplane_nat.model.resources import MEMORY_MB
from hyperplane_nat.model.states import EnvironmentState, FunctionState
from hyperplane_nat.model.store import Store, from_text, to_text, token_mismatch
from netns import topology
from netns.errors import NetnsError
from netns.topology import Survey

POOL_SECONDS = 10.0
"""How long an invocation waits for the pool to be refilled."""

_PAUSE_SECONDS = 1.0
"""Between two looks at connections and retired numbers, and before a failure is tried again."""

Step = tuple[Callable[[], object], Callable[[], Awaitable[None]]]
"""What is due, if anything, and who does it."""

log = logging.getLogger(__name__)


class Functions:
    """The functions of one lab."""

    def __init__(
        self,
        config: Config,
        region: Region,
        store: Store,
        pool: EnvironmentPool,
        network: Network,
        connections: Callable[[Mapping[int, str]], Mapping[str, int]],
        clock: Callable[[], float] = time.time,
        steps: Sequence[Step] = (),
    ) -> None:
        """`connections` counts flows of environments' interfaces; `steps` follow the network."""
        self.region = region
        self.pool = pool
        self._config = config
        self._store = store
        self._network = network
        self._connections = connections
        self._clock = clock
        self._handled: set[int] = set()
        """Environments that were placed for a handler and have not come back."""
        self.published = PublishedCode(region, store.path.parent)
        self.provisioning = Provisioning(
            config.lab.name, region, lambda: store.save(region), self._networked, self._handled
        )
        self._steps: tuple[Step, ...] = (
            (lambda: True, self._pass_time),
            (self.published.missing, self.published.keep),
            (region.reaped, self._take_down),
            (self.published.former, self.published.drop),
            (region.deleting, network.remove_interfaces),
            (lambda: network.changed, network.follow),
            *steps,
            (lambda: network.retired, network.release_numbers),
            (pool.missing, self.fill),
            (self.provisioning.missing, self.provisioning.start),
        )
        self._poked = network.poked
        self._settling = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._running: dict[str, tuple[object, asyncio.Future[Mapping[str, Any]]]] = {}
        self._next_count = 0.0
        self.stillness = Stillness(config.lab.name, network.set_silent)
        self.invocations: Counter[tuple[str, str]] = Counter()
        """By function, and `cold` or `warm`."""
        self.cold_starts = ColdStarts()

    def states(self) -> dict[str, str]:
        """The state of each function, by Lambda's name."""
        return {name: str(each.state) for name, each in list(self.region.tables.functions.items())}

    @property
    def has_handlers(self) -> bool:
        """Whether there is a function with code."""
        return self.region.has_handlers

    # --- life ---

    def resume(self, handled: Mapping[int, bool]) -> None:
        """The region as it is to be, before anything stands; ModelError, StateError.

        What runs in `handled`, as of `settled`, goes on.
        """
        with self._saving():
            self.region.interrupted(handled)
            self.settled(handled)
            # An apply that waited for the end of interfaces may not have come to its own end.
            self.region.resume(resources_of(self._config))

    async def recover(self, found: Survey | None, former: Config | None = None) -> None:
        """Bring region and namespaces together; `found` is what a former controller has left.

        `former` is the configuration that it has applied.
        """
        environments = self.region.tables.environments
        served = {} if found is None else found.served
        standing = {number: slot for number, (slot, _) in served.items()}
        with self._saving():
            for number in environments.keys() - standing.keys() - self.pool.slots.keys():
                self.region.discard(number)
                self.region.removed(number)
        if found is None:
            return
        await self._network.adopt(
            found, set() if former is None else reconcile.addresses_of(former)
        )
        # Nobody may use what is not as it is made.
        altered = {each.slot.number for each in found.altered}
        unused = standing.keys() - environments.keys()
        await self._network.discard(sorted(unused & altered))
        self.pool.add((standing[number] for number in standing.keys() - unused), ready=False)
        self.pool.add(standing[number] for number in sorted(unused - altered))

    async def start(self, progress: Callable[[int, int], None]) -> None:
        """Make everything that is wanted, the pool included; the forwarder runs."""
        await self._network.follow()
        await self.fill(progress)
        self._task = asyncio.create_task(self._keep(), name="functions")

    async def stop(self) -> None:
        """End the task and let go of the file."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        self._store.close()

    @contextlib.contextmanager
    def _saving(self, *, poke: bool = True) -> Iterator[None]:
        """Changes of the region are saved, also those of a command that fails.

        `poke`: what follows from them is done soon.
        """
        try:
            yield
        finally:
            self._store.save(self.region)
            if poke:
                self._poked.set()

    @contextlib.contextmanager
    def _saving_later(self) -> Iterator[None]:
        """As `_saving`; what cannot be written yet is kept for the next time."""
        try:
            with self._saving():
                yield
        except StateError as error:
            log.warning("%s", error)

    # --- what happens by itself ---

    async def _keep(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._poked.wait()
            self._poked.clear()
            try:
                await self.settle()
            except _RETRIED as error:
                log.warning("the network does not follow yet: %s", error)
                await asyncio.sleep(_PAUSE_SECONDS)
                self._poked.set()

    def _pause(self) -> float:
        deadline = self.region.next_deadline()
        if deadline is None:
            return _PAUSE_SECONDS
        return min(max(deadline - self._clock(), 0.0), _PAUSE_SECONDS)

    async def settle(self) -> None:
        """Do what is due, and make the network as the region wants it."""
        async with self._settling:
            for due, work in self._steps:
                if due():
                    with self._saving(poke=False):
                        await work()

    async def _pass_time(self) -> None:
        self.region.advance()
        if time.monotonic() >= self._next_count:
            self._next_count = time.monotonic() + _PAUSE_SECONDS
            for trouble in self.region.note_connections(self._count()):
                log.warning("%s", trouble)

    async def _take_down(self) -> None:
        ending = self.region.reaped()
        await self._network.take_down(ending)
        for number in ending:
            self.stillness.gone(number)
            self.region.removed(number)

    async def fill(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Make the environments that the pool lacks; the forwarder runs."""
        while numbers := self.pool.missing():
            await self._network.fill(numbers)
            if progress is not None:
                progress(self.pool.ready, self.pool.size)

    def _count(self) -> Mapping[str, int]:
        attached = {
            environment.slot: environment.interface_id
            for environment in self.region.tables.environments.values()
            if environment.state is not EnvironmentState.PROVISIONED
        }
        return self._connections(attached)

    # --- commands ---

    def repeated(self, token: str | None, request: object) -> Mapping[str, Any] | None:
        """The answer that was given to this token before."""
        return None if token is None else self._store.answer(token, request)

    async def apply(
        self, config: Config, *, keep_used: bool, token: str | None, request: object
    ) -> Mapping[str, Any]:
        """Plan and do it; returns when the network stands, or has to be tried again.

        ModelError, StateError: nothing was changed.
        """
        result: dict[str, Any] = {}

        def commit(lines: Sequence[PlanLine]) -> None:
            result.update(self._answer(lines, config, applied=True))
            self._store.save(self.region, token=token, request=request, answer=result)

        self.region.apply(Plan(resources_of(config), keep_used=keep_used), commit)
        self._config = config
        self.pool.resize(config.pool.size, config.pool.refill_batch)
        await self.settle_now()
        return result

    def plan(self, config: Config, *, keep_used: bool) -> Mapping[str, Any]:
        """What `apply` would do. ModelError."""
        plan = self.region.plan(resources_of(config), keep_used=keep_used)
        return self._answer(plan.lines, config, applied=False)

    def _answer(
        self, planned: Sequence[PlanLine], config: Config, *, applied: bool
    ) -> Mapping[str, Any]:
        lines = [*plan_lines(self._config.pool, config.pool), *planned]
        return {"plan": [asdict(line) for line in lines], "applied": applied}

    async def command(
        self, work: Callable[[Commands], Resource | None], *, token: str | None, request: object
    ) -> Mapping[str, Any]:
        """Carry out commands; what is described in the end is what `work` has returned.

        ModelError, StateError: nothing was changed.
        """
        if (answer := self.repeated(token, request)) is not None:
            return answer
        result: dict[str, Any] = {}
        about: Resource | None = None

        def commit() -> None:
            if about is not None:
                result.update(model.description.describe(self.region, about))
            self._store.save(self.region, token=token, request=request, answer=result)

        with self.region.commands(commit) as commands:
            about = work(commands)
        await self.settle_now()
        return result

    async def settle_now(self) -> None:
        """As `settle`; what fails is tried again later."""
        try:
            await self.settle()
        except _RETRIED as error:
            # It is done: the network follows, as after any other change.
            log.warning("the network does not follow yet: %s", error)
            self._poked.set()

    async def invoke(
        self,
        name: str,
        command: Sequence[str],
        *,
        timeout_seconds: float | None,
        stdin: bytes | None,
        token: str | None = None,
        output: netns.execution.Output | None = None,
    ) -> Mapping[str, Any]:
        """Run a program in an environment of the function. ModelError, ProgramError.

        An invocation whose token was seen before runs nothing: it has the first one's answer.
        `output` has what the program writes, and the answer then nothing of it.
        """
        if token is None:
            return await self._invoke(name, command, timeout_seconds, stdin, output)
        request = {
            "invoke": name,
            "command": list(command),
            "timeout_seconds": timeout_seconds,
            "stdin": None if stdin is None else to_text(stdin),
        }
        return await self._once(
            token, request, lambda: self._invoke(name, command, timeout_seconds, stdin)
        )

    async def _once(
        self,
        token: str,
        request: Mapping[str, Any],
        work: Callable[[], Coroutine[Any, Any, Mapping[str, Any]]],
    ) -> Mapping[str, Any]:
        found = self._running.get(token)
        if found is None:
            if (answer := self._store.answer(token, request)) is not None:
                return {name: from_text(name, value) for name, value in answer.items()}
            running = asyncio.ensure_future(work())
            self._running[token] = (request, running)
            running.add_done_callback(lambda _done: self._running.pop(token, None))
            result = await asyncio.shield(running)
            answer = {name: to_text(value) for name, value in result.items()}
            with self._saving_later():
                self._store.save(self.region, token=token, request=request, answer=answer)
            return result
        if found[0] != request:
            raise token_mismatch(token)
        return await asyncio.shield(found[1])

    async def _invoke(
        self,
        name: str,
        command: Sequence[str],
        timeout_seconds: float | None,
        stdin: bytes | None,
        output: netns.execution.Output | None = None,
    ) -> Mapping[str, Any]:
        begin = time.perf_counter()
        placement, ready_seconds = await self._environment(name)
        number = self._counted(name, placement)
        try:
            # Whose network came with the same message has it before a program is started.
            await asyncio.sleep(0)
            await self.stillness.hold(number)
            outcome = await netns.execution.run(
                topology.environment_namespace(self._config.lab.name, number),
                command,
                env=self._variables(name, number),
                stdin=stdin,
                timeout_seconds=timeout_seconds,
                etc=self._config.runtime_directory,
                output=output,
            )
        finally:
            self.stillness.release(number)
            self._end([number])
        return {
            "status": outcome.status,
            "stdout": outcome.stdout,
            "stderr": outcome.stderr,
            "truncated": outcome.truncated,
            "timed_out": outcome.timed_out,
            "environment": f"env-{number}",
            "cold": placement.cold,
            "interface": placement.interface,
            "interface_created": placement.interface_created,
            "network_ready_seconds": ready_seconds,
            "modelled_seconds": self._modelled(placement),
            "elapsed_seconds": time.perf_counter() - begin,
        }

    def _counted(self, named: str, placement: Placement) -> int:
        """The number of its environment; an alias counts as the version that serves."""
        served = self.region.served_by(placement.environment)
        name = named if served is None else served.name
        self.invocations[name, "cold" if placement.cold else "warm"] += 1
        return placement.environment

    def _variables(self, name: str, environment: int) -> dict[str, str]:
        function = self.region.served_by(environment)
        # Deleted since: its last program has what every program has.
        memory_mb = MEMORY_MB if function is None else function.memory_mb
        own = {} if function is None else dict(function.environment)
        version = LATEST if function is None else function.qualifier
        own_name = name.partition(":")[0]
        region = self._config.aws_lambda.region
        identity = runtime.variables.Identity(own_name, memory_mb, region, version)
        return runtime.variables.of_program(identity, own)

    # --- handlers: `handlers.Placing` ---

    def checked(self, function: str, account: str | None = None) -> None:
        """ModelError when a handler of that function cannot be invoked."""
        self.region.advance()
        found = self.region.function(function, account)
        code_of(found)
        if found.state is not FunctionState.ACTIVE:
            raise not_ready(found)

    async def begun(self, function: str, account: str | None = None) -> Mapping[str, Any]:
        """A place for an invocation of a handler, and all that it is to know. ModelError."""
        code_of(self.region.function(function, account))
        placement, _ = await self._environment(function)
        number = self._counted(function, placement)
        self._handled.add(number)
        try:
            await self.stillness.stirred(number)
            # As it is by now.
            found = self.region.served_by(number) or self.region.function(function)
            code = code_of(found)
        except (ForwarderError, ModelError):
            self.abandoned(number)
            raise
        return placed(self._config.lab.name, number, found, code, cold=placement.cold)

    def ended(self, environment: int) -> None:
        """The invocation of a handler is over."""
        self._handled.discard(environment)
        self._end([environment])

    def stilled(self, environment: int) -> None:
        """Its processes stand still; what is said of one that was placed meanwhile is old."""
        if environment not in self._handled and environment in self.region.tables.environments:
            self.stillness.stilled(environment)

    def abandoned(self, environment: int) -> None:
        """An environment whose handler is gone serves nobody any more."""
        self._handled.discard(environment)
        with self._saving_later(), contextlib.suppress(ModelError):
            self.region.discard(environment)

    def failed(self, environment: int, reason: str) -> None:
        """It could not be initialized for provisioned concurrency."""
        self._handled.discard(environment)
        with self._saving_later(), contextlib.suppress(ModelError):
            self.region.provisioning_failed(environment, reason)

    def settled(self, standing: Mapping[int, bool]) -> None:
        """These environments have a handler, busy or not: what the region thinks is put right."""
        for number, each in list(self.region.tables.environments.items()):
            function = self.region.tables.functions.get(each.function_id)
            if number in standing:
                if each.state is EnvironmentState.BUSY and not standing[number]:
                    self.ended(number)
            elif number in self._handled or (
                each.state is EnvironmentState.IDLE and function is not None and function.code
            ):
                self.abandoned(number)

    async def provision(self, name: str, count: int) -> Mapping[str, Any]:
        """Start so many environments ahead; what is refused ends it and is told."""
        begin = time.perf_counter()
        placements: list[Placement] = []
        seconds: list[float] = []
        error = None
        try:
            for _ in range(count):
                placement, ready_seconds = await self._environment(name)
                placements.append(placement)
                seconds.append(ready_seconds)
        except ModelError as refused:
            error = {"code": refused.code, "message": str(refused)}
        finally:
            self._end(placement.environment for placement in placements)
        interfaces = list(dict.fromkeys(placement.interface for placement in placements))
        return {
            "requested": count,
            "started": len(placements),
            "network_ready_seconds": seconds,
            "modelled_seconds": [self._modelled(placement) for placement in placements],
            "elapsed_seconds": time.perf_counter() - begin,
            "interfaces": interfaces,
            "addresses": len(interfaces),
            "error": error,
        }

    def _modelled(self, placement: Placement) -> float:
        """What AWS takes, in its own time."""
        return placement.modelled_seconds * self._config.lifecycle.time_scale

    def _end(self, numbers: Iterable[int]) -> None:
        # What has run has run: what cannot be saved now is saved with the next change.
        with self._saving_later():
            for number in numbers:
                # Its interface failed meanwhile: it was given up.
                with contextlib.suppress(ModelError):
                    self.region.end(number)

    async def _environment(self, name: str) -> tuple[Placement, float]:
        """A place for an invocation, its network ready, and how long that took in seconds."""
        begin = time.perf_counter()
        placement = await self._place(name)
        if not placement.cold:
            return placement, time.perf_counter() - begin
        await self._networked(placement)
        seconds = time.perf_counter() - begin
        # It may have been deleted meanwhile.
        if (function := self.region.served_by(placement.environment)) is not None:
            kind = function.config.networking.value
            self.cold_starts.note(function.name, kind, seconds, self._modelled(placement))
        return placement, seconds

    async def _networked(self, placement: Placement) -> None:
        try:
            with self.pool.starting():
                await self._network.attach(placement.environment, placement.interface)
            with self._saving():
                self.region.ready(placement.environment)
        except BaseException:
            self._give_up(placement)
            raise

    async def _place(self, name: str) -> Placement:
        deadline = time.monotonic() + POOL_SECONDS
        while True:
            placement: Placement | None = None
            try:
                with self._saving():
                    placement = self.region.begin(name)
            except StateError:
                if placement is not None:
                    self._give_up(placement)
                raise
            except ConcurrencyError:
                raise
            except ModelError as error:
                if error.code != "TooManyRequestsException" or time.monotonic() > deadline:
                    raise
                refusal = error
            else:
                return placement
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + POOL_SECONDS):
                    await self.pool.wait()
            except TimeoutError:
                raise refusal from None

    def _give_up(self, placement: Placement) -> None:
        """Nobody will use it; also when that cannot be saved yet."""
        with contextlib.suppress(StateError), self._saving():
            self.region.discard(placement.environment)


_RETRIED = (ForwarderError, NetnsError, StateError)
"""What keeps the network or the file from following the region for a while."""
