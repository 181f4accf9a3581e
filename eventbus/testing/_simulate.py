"""Runs a coroutine in many orders of events, and finds those that break it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from eventbus import EventBus, _binding
from eventbus._state import every_bus
from eventbus.testing._describe import cut, show_event, show_pending, show_task
from eventbus.testing._loop import (
    Idle,
    SimulationLoop,
    TooManySteps,
    show_step,
)
from eventbus.testing._stage import (
    collect_garbage,
    one_at_a_time,
    seeded_random,
    silence,
    stage,
    without_collector,
    without_threads,
)

if TYPE_CHECKING:
    from eventbus._delivery import Wait
    from eventbus.receipt import Receipt

T = TypeVar("T")

WIND_UP_STEPS: Final = 10_000
"""How many steps the tasks that a run leaves behind have to end."""

WIND_UP_ROUNDS: Final = 3
"""How often they are cancelled, if they refuse to end."""


class SimulationError(AssertionError):
    """A run that cannot go on as it should."""


class Deadlock(SimulationError):
    """Nothing can go on any more, and something is still waited for. The message names it."""


class Livelock(SimulationError):
    """A run has taken more steps than allowed."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """What ``simulate`` has done, when no run has failed."""

    runs: int
    orders: int
    """How many different orders of events there were. With 1, the scenario has no concurrency."""
    steps: int
    """Callbacks run, over all runs."""


class Simulation:
    """One run, for the scenario that takes it as its argument."""

    def __init__(self, seed: int, loop: SimulationLoop) -> None:
        self.seed = seed
        """The number that decides all that is left to chance in this run."""
        self.random = random.Random(f"scenario {seed}")
        """For choices of the scenario's own."""
        self._loop = loop

    @property
    def time(self) -> float:
        """Virtual seconds since the start of the run."""
        return self._loop.time()

    @property
    def thread_seconds(self) -> float:
        """How many virtual seconds a ``thread=True`` handler takes at most: by default 0.

        Each takes as long as chance wants: a random time passes before what it does, in one step,
        and a random time after that. Time-outs may then come at any point.
        """
        return self._loop.thread_seconds

    @thread_seconds.setter
    def thread_seconds(self, seconds: float) -> None:
        self._loop.thread_seconds = seconds

    @property
    def step_seconds(self) -> float:
        """How many virtual seconds each step of a task takes at most: by default 0.

        Without that, time passes only when everything waits. With it, time-outs come in the midst
        of things, as on a machine that is slow: also to a handler that could just go on.
        """
        return self._loop.step_seconds

    @step_seconds.setter
    def step_seconds(self, seconds: float) -> None:
        self._loop.step_seconds = seconds

    def start(
        self, coroutine: Coroutine[Any, Any, T], *, name: str | None = None, cancel: bool = False
    ) -> asyncio.Task[T]:
        """Start a task; with ``cancel=True`` it may be cancelled at a random point."""
        task = self._loop.create_task(coroutine, name=name)
        if cancel:
            self.cancel_sometime(task)
        return task

    def cancel_sometime(self, task: asyncio.Task[Any]) -> None:
        """Cancel a task at a random point, unless it has ended by then."""
        self._loop.cancel_sometime(task)

    def cancel_before_step(self, task: asyncio.Task[Any], number: int) -> None:
        """Cancel a task just before it goes on for the ``number``-th time from now, from 0.

        What it waited for has come, and it has not seen that yet. With ``sim.seed`` as the number
        and enough seeds, that happens at every point at which it waits.
        """
        self._loop.cancel_beside_step(task, number, after=False)

    def cancel_after_step(self, task: asyncio.Task[Any], number: int) -> None:
        """Cancel a task just after it has gone on for the ``number``-th time from now, from 0.

        It has begun to wait, and what it waits for has not come, or not been seen.
        """
        self._loop.cancel_beside_step(task, number, after=True)

    def __repr__(self) -> str:
        return f"<Simulation: seed {self.seed}, {self._loop.steps} steps, {self.time:g} s>"


Scenario = Callable[[Simulation], Awaitable[object]] | Callable[[], Awaitable[object]]


def simulate(
    scenario: Scenario, seeds: int | Iterable[int] = 200, *, steps: int = 100_000
) -> Simulated:
    """Run a coroutine function in as many orders of events as there are seeds.

    Each run has an event loop of its own, on which chance decides which of the tasks that can go
    on does so; time is virtual, so that nothing ever waits; and the end of the scenario is
    followed by the settling of every bus it has used. What then still runs is cancelled.
    ``seeds`` is a number of runs, or the seeds themselves; seed 0 takes the order of asyncio.
    ``steps`` is how many callbacks one run may take. A scenario that has a parameter without
    default gets the `Simulation`, to start tasks that are cancelled at random points, for example.

    What the scenario raises leaves the call, with a note that names the seed, and so does the error
    of a task that nobody has looked at: calling ``simulate`` with ``seeds=[…]`` repeats that run
    step by step. Buses with a `SystemClock`, ``asyncio.sleep`` and all time-outs go by virtual
    time; ``time.time()`` does not. The global generator of ``random`` is seeded too. A handler with
    ``thread=True`` runs whole, in one step; other threads are refused with a ``RuntimeError``, and
    so are the sockets and subprocesses of asyncio. A scenario that iterates over a set of strings
    is only repeatable within one process, and over a set of objects not even there. Another version
    of Python or anyio takes other steps, so that a seed may mean another order there.

    Meanwhile threads of the program that exist already must leave every bus alone.

    >>> from eventbus import EventBus
    >>> async def scenario():
    ...     bus, seen = EventBus(), []
    ...     bus.subscribe(lambda event: seen.append(event.data), "a")
    ...     await asyncio.gather(bus.publish("a", 1), bus.publish("a", 2))
    ...     await bus.settle()
    ...     assert sorted(seen) == [1, 2]
    >>> simulate(scenario).runs
    200

    Raises what the scenario raises, `Deadlock` when nothing can go on, `Livelock` when a run takes
    too many steps, ``RuntimeError`` when an event loop is already running in this thread,
    ``TypeError`` for a scenario that cannot be called, and ``ValueError`` without any seed or step.
    """
    __tracebackhide__ = True
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(
            "simulate() runs event loops of its own: call it in a plain def, not in a coroutine"
        )
    call = _check_scenario(scenario)
    chosen = _check_seeds(seeds)
    if steps < 1:
        raise ValueError(f"steps={steps!r}: pass a whole number of at least 1")
    orders: set[int] = set()
    total = 0
    with one_at_a_time, without_threads(), seeded_random(), without_collector():
        for number, seed in enumerate(chosen, start=1):
            run = _Run(call, seed, steps)
            with silence():
                error = run.go()
            if error is not None:
                where = f"simulate: run {number} of {len(chosen)}, seed {seed}, "
                error.add_note(where + _how_it_failed(run, error, _name(scenario)))
                raise error.with_traceback(_from_the_scenario(error))
            orders.add(run.signature)
            total += run.steps
            collect_garbage(number)
    return Simulated(len(chosen), len(orders), total)


def _check_scenario(scenario: Any) -> Callable[[Simulation], Awaitable[object]]:
    """A function that always takes the simulation."""
    name = _name(scenario)
    if not callable(scenario):
        raise TypeError(f"simulate() calls an async def itself: pass that, not {scenario!r}")
    parameters = inspect.signature(scenario).parameters.values()
    required = [each for each in parameters if each.default is each.empty and _takes_one(each)]
    if len(required) > 1 or any(each.kind is each.KEYWORD_ONLY for each in required):
        raise TypeError(
            f"the scenario {name} has {len(required)} parameters without default: it gets one "
            "argument, the Simulation, or none"
        )
    call = cast("Callable[..., Awaitable[object]]", scenario)  # callable() has narrowed it
    return call if required else lambda _: call()


def _takes_one(parameter: inspect.Parameter) -> bool:
    return parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def _check_seeds(seeds: Any) -> list[int] | range:
    chosen = range(seeds) if isinstance(seeds, int) else list(seeds)
    for seed in chosen if isinstance(chosen, list) else ():
        if not isinstance(seed, int):
            raise TypeError(f"the seed {seed!r} is no whole number")
    if not chosen:
        raise ValueError(f"seeds={seeds!r}: without a run, nothing would be tested")
    return chosen


class _Run:
    """One run: an event loop, a scenario on it, and how it ended."""

    def __init__(
        self, scenario: Callable[[Simulation], Awaitable[object]], seed: int, limit: int
    ) -> None:
        self.scenario = scenario
        self.seed = seed
        self.limit = limit
        self.steps = 0
        self.signature = 0
        self.seconds = 0.0
        """Virtual ones that it took."""
        self.last_steps = ""

    def go(self) -> BaseException | None:
        """Run it to its end. Returns what it raised; raises only what ends programs."""
        random.seed(self.seed)
        loop = SimulationLoop(
            random.Random(f"loop {self.seed}"), limit=self.limit, fair=self.seed == 0
        )
        with stage(loop):
            try:
                error = self._how_it_ends(loop)
                self.steps, self.signature, self.seconds = loop.steps, loop.signature, loop.time()
                if error is not None:
                    self.last_steps = cut(map(show_step, loop.last), indent="    ")
                _wind_up(loop)
            finally:
                refusing = loop.all_tasks()
                loop.close()
                _bury(loop, refusing)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                error.add_note(f"simulate: raised in the run with seed {self.seed}")
                raise error
            return error

    def _how_it_ends(self, loop: SimulationLoop) -> BaseException | None:
        try:
            loop.run_until_complete(loop.create_task(self._main(loop), name="the scenario"))
        except Idle:
            return _with_errors(Deadlock(f"nothing can go on any more{_who_waits(loop)}"), loop)
        except TooManySteps:
            taken = f"the run has taken {self.limit} steps, and does not end"
            return _with_errors(Livelock(f"{taken}{_who_waits(loop)}"), loop)
        except BaseException as error:
            return error
        return _unseen_error(loop)

    async def _main(self, loop: SimulationLoop) -> None:
        awaitable = self.scenario(Simulation(self.seed, loop))
        if not inspect.isawaitable(awaitable):
            raise TypeError(f"the scenario returned {awaitable!r}: make it async def")
        await awaitable
        while busy := [bus for bus in _buses_of(loop) if not bus._is_drained()]:
            for bus in busy:
                await bus.settle()


def _buses_of(loop: SimulationLoop) -> list[EventBus]:
    """The buses that are busy on a loop, in the order in which they were made."""
    buses = [bus for bus in every_bus() if bus._loop is loop and isinstance(bus, EventBus)]
    return sorted(buses, key=lambda bus: bus._serial)


def _wind_up(loop: SimulationLoop) -> None:
    """End what is left on a loop: it must not be destroyed while it waits."""
    loop.limit = loop.steps + WIND_UP_STEPS
    loop.cancel_nobody()
    for _ in range(WIND_UP_ROUNDS):
        left = loop.all_tasks()
        if not left:
            break
        for task in left:
            task.cancel()
        with contextlib.suppress(Idle, TooManySteps):
            loop.run_until_complete(asyncio.wait(left))
        for task in left:
            if task.done() and not task.cancelled():
                task.exception()  # the run is over: nobody will ask
    if loop._asyncgens:  # type: ignore[attr-defined]  # asyncio's own
        with contextlib.suppress(Idle, TooManySteps):
            loop.run_until_complete(loop.shutdown_asyncgens())


def _bury(loop: SimulationLoop, refusing: list[asyncio.Task[Any]]) -> None:
    """End what has refused to end on a loop that is closed, and let go of the buses there."""
    with silence():
        for bus in _buses_of(loop):
            _binding._bury(bus)
    for task in refusing:
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio need not tell
        with contextlib.suppress(BaseException):
            task.get_coro().close()  # it has not ended


def _how_it_failed(run: _Run, error: BaseException, name: str) -> str:
    """For the note: where, the last steps, and whether it is so every time."""
    again = _Run(run.scenario, run.seed, run.limit)
    repeated = again.go()
    if type(repeated) is type(error) and again.signature == run.signature:
        how = f"Repeat it with simulate({name}, seeds=[{run.seed}])."
    else:
        how = (
            f"Repeated with the same seed, it went another way, and ended with {repeated!r}: "
            "the scenario depends on something that is not seeded, or left over from other runs."
        )
    return (
        f"failed after {run.steps} steps, at {run.seconds:g} s of virtual time.\n{how}\n"
        f"The last steps:\n{run.last_steps}"
    )


# ---- What a failure says


def _from_the_scenario(error: BaseException) -> TracebackType | None:
    """The traceback of an error without what has called the scenario."""
    whole = rest = error.__traceback__
    while rest is not None:
        if rest.tb_frame.f_code is _Run._main.__code__ and rest.tb_next is not None:
            return rest.tb_next
        rest = rest.tb_next
    return whole


def _with_errors(error: SimulationError, loop: SimulationLoop) -> SimulationError:
    """Tell of what went wrong before: it may be why."""
    unseen = _unseen_error(loop)
    if unseen is not None:
        error.add_note(f"Before that, nobody has looked at {unseen!r}")
        error.__cause__ = unseen
    return error


def _unseen_error(loop: SimulationLoop) -> BaseException | None:
    """What only a log would show: errors of callbacks, and of tasks that nobody awaits."""
    for context in loop.errors:
        error = context.get("exception")
        if isinstance(error, BaseException):
            error.add_note(f"asyncio says: {context.get('message')}")
            return error
        return SimulationError(f"asyncio says: {context.get('message')}")
    task = loop.unseen()
    if task is None:
        return None
    error = task.exception()
    assert error is not None
    error.add_note(f"the task {task.get_name()} raised it, and nobody has looked")
    return error


def _who_waits(loop: SimulationLoop) -> str:
    buses = _buses_of(loop)
    pending = [f"[{bus.name}] {line}" for bus in buses for line in show_pending(bus)]
    waits = [f"[{bus.name}] {line}" for bus in buses for line in _show_waits(bus)]
    return (
        f", and these wait:\n{cut(map(show_task, loop.all_tasks()))}"
        + (f"\nPending on the bus:\n{cut(pending)}" if pending else "")
        + (f"\nHandlers that wait for the bus:\n{cut(waits)}" if waits else "")
    )


def _show_waits(bus: EventBus) -> Iterator[str]:
    """What handlers wait for, as far as the bus knows."""
    for subscription, _, delivery in bus._pending_deliveries():
        for wait in delivery.work.waits if delivery is not None and delivery.work else ():
            yield f"{subscription._describe()} waits for {_show_wait(wait)}"


def _show_wait(wait: Wait) -> str:
    receipt: Receipt | None = wait.receipt
    if receipt is None:
        return f"all that is pending on {wait.bus.name}"
    more = ", and all that it has caused" if wait.cascade else ""
    return f"the outcomes of {show_event(receipt.event)}{more}"


def _name(scenario: object) -> str:
    while isinstance(scenario, functools.partial):
        scenario = scenario.func
    return getattr(scenario, "__name__", repr(scenario))
