"""The simulator: one seed, one order of events; what it finds, says, refuses, and leaves behind."""

# virtual time: all of this runs on the event loops of simulate()

from __future__ import annotations

import asyncio
import functools
import gc
import os
import random
import re
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import eventbus._threads
from eventbus import Event, EventBus, Retry, SystemClock, _admission
from eventbus._admission import Ticket
from eventbus._pump import PumpTask
from eventbus._state import State
from eventbus.errors import BusClosed, HandlerTimeout, NoRunningLoop, WouldDeadlock
from eventbus.instrumentation import LogHook
from eventbus.stream import EventStream
from eventbus.testing import (
    Deadlock,
    FakeClock,
    Livelock,
    Simulation,
    SimulationError,
    _blocked,
    _stage,
    simulate,
    wait_all_tasks_blocked,
    watch,
)
from eventbus.testing._loop import number_of

if TYPE_CHECKING:
    from eventbus.subscription import Subscription

APPLICATION = EventBus(name="application")
"""A bus as applications have them: made once, at import."""


def seeds_that_fail(scenario: Any, count: int = 200) -> list[int]:
    """The seeds with which a scenario fails."""
    found = []
    for seed in range(count):
        try:
            simulate(scenario, seeds=[seed])
        except AssertionError:
            found.append(seed)
    return found


async def nothing() -> None:
    """A scenario without concurrency."""


# ---- One seed, one order


async def workers(trace: list[str], count: int = 4) -> None:
    """Tasks that take turns, and write down when."""

    async def work(name: str) -> None:
        for step in range(3):
            trace.append(f"{name}{step}")
            await asyncio.sleep(0)

    await asyncio.gather(*(work(chr(ord("a") + number)) for number in range(count)))


def test_same_seed_same_order() -> None:
    """A seed draws the same order each time, and most seeds draw one of their own."""
    traces = []
    for seed in (*range(1, 50), *range(1, 50)):
        trace: list[str] = []
        simulate(functools.partial(workers, trace), seeds=[seed])
        traces.append(tuple(trace))
    assert traces[:49] == traces[49:]
    assert len(set(traces)) > 40


def test_seed_0_is_the_order_of_asyncio() -> None:
    """Seed 0 does what a plain event loop does."""
    simulated: list[str] = []
    real: list[str] = []
    simulate(functools.partial(workers, simulated), seeds=[0])
    asyncio.run(workers(real))
    assert simulated == real


def test_counts() -> None:
    """The result says how many runs and different orders there were, and how many steps."""
    done = simulate(functools.partial(workers, []), seeds=50)
    assert done.runs == 50
    assert 40 < done.orders <= 50
    assert done.steps > 50 * 12
    assert simulate(nothing, seeds=50).orders == 1


def test_timers_count_as_orders() -> None:
    """Timers that are due at once make orders that are told apart."""

    async def scenario() -> None:
        for _ in range(3):
            asyncio.get_running_loop().call_later(1, int)
        await asyncio.sleep(2)

    assert simulate(scenario, seeds=50).orders == 6


TRACE = """
import asyncio, random
import anyio
from eventbus import EventBus, Retry
from eventbus.testing import simulate
trace = []
async def scenario(sim):
    async with EventBus() as bus:
        @bus.on("a.*", concurrency=3, key=lambda event: event.data % 2, retry=Retry(), timeout=1)
        async def handle(event):
            trace.append(event.data)
            await asyncio.sleep(0.5 * random.randrange(4))
            if random.random() < 0.3:
                raise ValueError
        async def wait(number):
            try:
                await anyio.sleep_forever()
            finally:
                trace.append(-number)
        async with asyncio.TaskGroup() as group:
            for number in range(6):
                sim.start(bus.publish("a.b", number), cancel=True)
            with anyio.move_on_after(1):
                async with anyio.create_task_group() as waiting:
                    for number in range(1, 20):
                        waiting.start_soon(wait, number)
        await bus.settle()
done = simulate(scenario, seeds=range(1, 20))
print(done, hash(tuple(trace)))
"""


def test_same_order_in_another_process() -> None:
    """Seeds mean the same in every process, whatever its hashes and addresses are."""
    said = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", TRACE]
        said.add(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    assert len(said) == 1
    assert b"runs=19" in said.pop()


def test_tasks_are_cancelled_in_the_same_order() -> None:
    """Groups that cancel their tasks, which they keep in sets, do it alike in every run."""
    orders = set()

    async def scenario() -> None:
        cancelled: list[int] = []

        async def wait(number: int) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(number)

        tasks = [asyncio.create_task(wait(number)) for number in range(30)]
        await asyncio.sleep(1)
        for task in set(tasks):
            task.cancel()
        await asyncio.sleep(1)
        async with anyio.create_task_group() as group:
            for number in range(30):
                group.start_soon(wait, number)
            await asyncio.sleep(1)
            group.cancel_scope.cancel()
        orders.add(tuple(cancelled))

    kept: list[object] = []
    for size in range(20):
        kept.append(bytearray(size * 100))  # so that addresses differ
        simulate(scenario, seeds=[0])
    assert len(orders) == 1


def test_pumps_have_numbers_too() -> None:
    """The tasks in which handlers run stand in sets by number while a simulation runs."""
    numbers = []

    async def scenario() -> None:
        bus = EventBus()

        @bus.on("a")
        async def handle(event: Event) -> None:
            task = asyncio.current_task()
            assert isinstance(task, PumpTask)
            numbers.append((hash(task), hash(task)))

        await bus.publish_and_wait("a")

    simulate(scenario, seeds=2)
    assert numbers[0] == numbers[1]
    assert numbers[0][0] < 100

    async def outside() -> None:
        task = PumpTask(APPLICATION, asyncio.get_running_loop())
        assert hash(task) == object.__hash__(task) == number_of(task)
        APPLICATION._pumps += 1
        await task

    asyncio.run(outside())


def test_choices_of_the_scenario_are_its_own() -> None:
    """What the scenario draws says nothing about the order that the loop draws."""
    fairness: set[tuple[float, float]] = set()

    async def scenario(sim: Simulation) -> None:
        fairness.add((sim._loop._fairness, sim.random.choice((0.0, 0.5, 0.9))))

    simulate(scenario, seeds=range(1, 100))
    assert len(fairness) == 9


# ---- What keeps its order, and what does not


def test_callbacks_keep_their_order() -> None:
    """``call_soon`` is first in, first out, whatever the seed."""

    async def scenario() -> None:
        called: list[int] = []
        loop = asyncio.get_running_loop()
        for number in range(5):
            (loop.call_soon_threadsafe if number % 2 else loop.call_soon)(called.append, number)
            asyncio.create_task(asyncio.sleep(0)).add_done_callback(repr)
        await asyncio.sleep(1)
        assert called == list(range(5))

    assert simulate(scenario).orders > 100


def test_timers_of_one_moment_are_shuffled() -> None:
    """Timers come in order of time; of those that are due at once, any may come first."""
    seen = set()

    async def scenario() -> None:
        called: list[str] = []
        loop = asyncio.get_running_loop()
        loop.call_later(2, called.append, "last")
        for name in "abc":
            loop.call_later(1, called.append, name)
        loop.call_later(0.5, called.append, "first")
        await asyncio.sleep(3)
        assert called[0] == "first"
        assert called[-1] == "last"
        seen.add("".join(called[1:-1]))

    simulate(scenario)
    assert len(seen) == 6


def test_sums_of_floats_are_one_moment() -> None:
    """Timers whose times differ in the last bit alone are due at once."""
    first = set()

    async def scenario() -> None:
        called: list[int] = []
        loop = asyncio.get_running_loop()
        loop.call_at(0.1 + 0.2, called.append, 1)
        loop.call_at(0.3, called.append, 2)
        await asyncio.sleep(1)
        first.add(called[0])

    simulate(scenario)
    assert first == {1, 2}


def test_time_is_virtual() -> None:
    """An hour takes no time, and everybody's clocks go by it."""

    async def scenario(sim: Simulation) -> None:
        loop, clock = asyncio.get_running_loop(), SystemClock()
        before = clock.time()
        await asyncio.sleep(3600)
        assert sim.time == loop.time() == clock.monotonic() == 3600
        assert clock.time() - before == 3600
        cancelled = loop.call_later(10, pytest.fail)
        loop.call_later(5, cancelled.cancel)
        await asyncio.sleep(20)
        assert repr(sim) == f"<Simulation: seed {sim.seed}, {sim._loop.steps} steps, 3620 s>"

    simulate(scenario, seeds=3)


# ---- What it finds: bugs planted in code of the test's own


class Mailbox:
    """Loses a wake-up: what comes between its look and its wait is not seen."""

    def __init__(self) -> None:
        self.letters: list[str] = []
        self.news = asyncio.Event()

    async def put(self, letter: str) -> None:
        await asyncio.sleep(0)  # an envelope
        self.letters.append(letter)
        self.news.set()

    async def take(self) -> str:
        while not self.letters:
            await asyncio.sleep(0)  # a look at the other mailbox
            self.news.clear()
            await self.news.wait()
        return self.letters.pop()


def test_it_finds_a_lost_wake_up() -> None:
    """A wake-up that only some orders lose is found, as a deadlock that says who waits where."""

    async def scenario() -> None:
        mailbox = Mailbox()
        async with asyncio.TaskGroup() as group:
            group.create_task(mailbox.take())
            group.create_task(mailbox.put("hello"))
            await asyncio.sleep(0)

    found = seeds_that_fail(scenario)
    assert 0 not in found
    assert 10 < len(found) < 170
    with pytest.raises(Deadlock, match=r"test_simulate.py:\d+ in Mailbox.take, in Event.wait"):
        simulate(scenario)


def test_it_finds_an_order_bug() -> None:
    """Two steps that only happen to follow each other are found."""

    async def scenario() -> None:
        balance = 100

        async def withdraw(amount: int) -> None:
            nonlocal balance
            if balance >= amount:
                await asyncio.sleep(0)  # ask the bank
                balance -= amount

        first = asyncio.create_task(withdraw(70))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.gather(first, withdraw(70))
        assert balance == 30

    found = seeds_that_fail(scenario)
    assert 0 not in found
    assert 10 < len(found) < 170


def test_it_finds_a_time_out_in_the_midst() -> None:
    """With steps that take time, a time-out comes to what could just go on, and not only before."""

    async def scenario(sim: Simulation, step_seconds: float) -> None:
        sim.step_seconds = step_seconds
        charged: list[int] = []
        bus = EventBus()

        @bus.on("invoice", timeout=1, retry=Retry(attempts=2))
        async def charge(event: Event) -> None:
            if not charged:
                await asyncio.sleep(0.9)
                charged.append(event.data)  # and not written down before it is interrupted
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            else:
                charged.append(event.data)

        (outcome,) = await bus.publish_and_wait("invoice", 1)
        assert outcome.status == "handled"
        assert charged == [1]

    assert seeds_that_fail(lambda sim: scenario(sim, 0), count=50) == []
    assert 5 < len(seeds_that_fail(lambda sim: scenario(sim, 0.1), count=50)) < 50


def test_steps_take_the_time_that_they_are_given() -> None:
    """Time passes with each step, at most as much as was said, and timers are called in order."""

    async def scenario(sim: Simulation) -> None:
        woken: list[int] = []
        assert sim.step_seconds == 0
        sim.step_seconds = 0.5
        assert sim.step_seconds == 0.5
        loop = asyncio.get_running_loop()
        for number in range(4):
            loop.call_later(0.1 * number, woken.append, number)
        loop.call_later(0.15, pytest.fail).cancel()
        before, began = sim._loop.steps, sim.time
        for _ in range(100):
            await asyncio.sleep(0)
        assert woken == [0, 1, 2, 3]
        assert 10 < sim.time - began < 0.5 * (sim._loop.steps - before)

    assert simulate(scenario, seeds=50).orders > 1


# ---- What it finds: bugs planted in the bus


async def _wait_and_forget_the_others(stream: EventStream[Any]) -> None:
    """As `EventStream._wait`, but a reader that is cancelled when woken wakes nobody else."""
    future = asyncio.get_running_loop().create_future()
    stream._readers.append(future)
    try:
        await future
    finally:
        if future in stream._readers:
            stream._readers.remove(future)


async def impatient_reader() -> None:
    """A reader gives up when an event is about to come; the other one reads that event."""
    bus = EventBus()
    async with bus.stream("a") as stream:
        impatient = asyncio.create_task(anext(aiter(stream)))
        patient = asyncio.create_task(anext(aiter(stream)))
        await asyncio.sleep(0)

        async def give_up() -> None:
            impatient.cancel()

        async def publish() -> None:
            await bus.publish("a")

        await asyncio.gather(give_up(), publish())
        await asyncio.wait([impatient])
        if impatient.cancelled():
            await patient
        else:
            patient.cancel()
        await asyncio.wait([patient])


def test_it_finds_a_lost_wake_up_in_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled reader that keeps its wake-up to itself is found, and the bus does not so."""
    simulate(impatient_reader)
    monkeypatch.setattr(EventStream, "_wait", _wait_and_forget_the_others)
    found = seeds_that_fail(impatient_reader)
    assert 0 not in found
    assert 3 <= len(found) < 100


def _serve_the_living(bus: Any, subscription: Subscription) -> None:
    """As `serve_line`, but who is cancelled is sent away, and nobody comes in his place."""
    line = subscription._line
    while line and not subscription._full:
        ticket = line.pop(0)
        ticket.blocked_by = None
        if _waits[ticket].cancelled():
            _admission._forget(ticket)
            return
        _admission._try_again(bus, ticket)


_waits: dict[Ticket, asyncio.Future[Any]] = {}


async def _wait_where_all_can_see(ticket: Ticket) -> Any:
    """As `Ticket.wait`, but others can look whether it is cancelled."""
    future = _waits[ticket] = asyncio.get_running_loop().create_future()
    ticket.accept = future.set_result
    try:
        return await future
    finally:
        ticket.withdraw()


async def cancelled_publishers(sim: Simulation) -> None:
    """Some publishers that wait for room are cancelled; all others get it."""
    bus, seen = EventBus(), []

    @bus.on("a", capacity=1)
    async def handle(event: Event) -> None:
        await asyncio.sleep(0)
        seen.append(event.data)

    publishers = [sim.start(bus.publish("a", number), cancel=number < 3) for number in range(6)]
    await asyncio.gather(*publishers, return_exceptions=True)
    await bus.settle()
    assert {3, 4, 5} <= set(seen)
    assert len(seen) == len(set(seen))


def test_it_finds_publishers_that_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is not served behind a cancelled publisher is found."""
    simulate(cancelled_publishers)
    monkeypatch.setattr(_admission, "serve_line", _serve_the_living)
    monkeypatch.setattr(Ticket, "wait", _wait_where_all_can_see)
    found = seeds_that_fail(cancelled_publishers)
    _waits.clear()
    assert 0 not in found
    assert 3 <= len(found) < 100


def _serve_newest_first(bus: Any, subscription: Subscription) -> None:
    """As `serve_line`, but who came last is served first."""
    line = subscription._line
    while line and not subscription._full:
        ticket = line.pop()
        ticket.blocked_by = None
        _admission._try_again(bus, ticket)


async def publishers_in_line() -> None:
    """Publishers that wait for one queue are served in order of arrival."""
    bus, arrived, handled = EventBus(), [], []
    bus.subscribe(lambda event: handled.append(event.data), "a", capacity=1)

    async def publish(name: str) -> None:
        for number in range(3):
            await asyncio.sleep(0)
            arrived.append(f"{name}{number}")
            await bus.publish("a", f"{name}{number}")
            await asyncio.sleep(0)

    await asyncio.gather(publish("a"), publish("b"))
    await bus.settle()
    assert handled == arrived


def test_it_finds_an_order_bug_in_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishers that are served last come, first served, are found."""
    simulate(publishers_in_line)
    monkeypatch.setattr(_admission, "serve_line", _serve_newest_first)
    found = seeds_that_fail(publishers_in_line)
    assert 0 not in found
    assert 3 <= len(found) < 190


# ---- What a failure says


def test_a_failure_names_its_seed() -> None:
    """What the scenario raises has a note: the run, the seed, how to repeat it, the last steps."""

    async def scenario(sim: Simulation) -> None:
        await asyncio.sleep(2)
        assert sim.seed != 7, "seven"

    with pytest.raises(AssertionError, match="seven") as caught:
        simulate(scenario, seeds=[5, 6, 7, 8])
    (note,) = caught.value.__notes__
    assert "run 3 of 4, seed 7, failed after" in note
    assert "at 2 s of virtual time" in note
    assert "Repeat it with simulate(scenario, seeds=[7])" in note
    assert "    a step of the scenario (_Run._main)" in note
    assert "    a call of _set_result_unless_cancelled" in note


def test_last_steps_say_where_tasks_are() -> None:
    """The last steps name the task, and where it waits now."""

    async def read_news() -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        await asyncio.gather(asyncio.sleep(1), read_news())

    with pytest.raises(Deadlock) as caught:
        simulate(scenario, seeds=[1])
    (note,) = caught.value.__notes__
    assert re.search(
        r"a step of Task-2 \(.*read_news\), now at .*test_simulate.py:\d+ in .*read_news, in Event",
        note,
    )
    assert "    a step of Task-1 (sleep)\n" in note


def test_callbacks_are_named() -> None:
    """A callback is called what the function in it is called, whatever is wrapped around it."""

    async def scenario() -> None:
        def bell() -> None: ...

        loop = asyncio.get_running_loop()
        loop.call_soon(functools.partial(bell))
        with pytest.raises(RuntimeError, match=r"a thread for .*scenario.<locals>.bell:"):
            await asyncio.to_thread(bell)
        await asyncio.sleep(1)
        raise AssertionError

    with pytest.raises(AssertionError) as caught:
        simulate(scenario, seeds=[0])
    assert "a call of test_callbacks_are_named.<locals>.scenario.<locals>.bell" in str(
        caught.value.__notes__
    )


def test_a_failure_that_does_not_repeat() -> None:
    """If the same seed ends in another way, the note says that, and why it may be."""
    runs = 0

    async def scenario() -> None:
        nonlocal runs
        runs += 1
        assert runs > 1

    with pytest.raises(AssertionError) as caught:
        simulate(scenario)
    assert "Repeated with the same seed, it went another way, and ended with None" in str(
        caught.value.__notes__
    )


async def stuck_handlers() -> None:
    """Handlers wait for each other's outcomes by ways that the bus cannot see."""
    bus = EventBus(name="billing")
    never = asyncio.Event()

    @bus.on("invoice.paid")
    async def ship(event: Event) -> None:
        await never.wait()

    receipt = await bus.publish("invoice.paid", {"id": "in_1"})

    @bus.on("a", capacity=1)
    async def ask(event: Event) -> None:
        await receipt.outcomes()

    @bus.on("b")
    async def ask_for_all(event: Event) -> None:
        await receipt.outcomes(cascade=True)

    @bus.on("c")
    async def ask_another(event: Event) -> None:
        await bus_of_c.settle()

    bus_of_c = EventBus(name="other")
    bus_of_c.subscribe(ship, "d")
    await bus_of_c.publish("d")
    await bus.publish("b")
    await bus.publish("c")
    for number in range(3):
        await bus.publish("a", number)


def test_a_deadlock_names_who_waits_for_what() -> None:
    """The message names tasks, handlers, what they wait for, what is queued, and publishers."""
    with pytest.raises(Deadlock) as caught:
        simulate(stuck_handlers)
    message = str(caught.value)
    here = r"test_simulate.py:\d+"
    ship = rf"stuck_handlers.<locals>.ship \(.*{here}\)"
    for expected in (
        rf"the scenario \(_Run._main\) waits at .*{here} in stuck_handlers, in Publishing.publish",
        rf"eventbus-pump \(_pump\) waits at .*{here} in stuck_handlers.<locals>.ship, in Event",
        rf"\[billing\] {ship} handles invoice.paid  {{'id': 'in_1'}}",
        r"\[billing\] stuck_handlers.<locals>.ask .* has 1 queued, first a  1",
        r"\[billing\] a publisher of a  2 waits for room in the queue of stuck_handlers.<locals>",
        r"ask \(.* waits for the outcomes of invoice.paid  {'id': 'in_1'}$",
        r"ask_for_all .* waits for the outcomes of invoice.paid .*, and all that it has caused",
        r"ask_another .* waits for all that is pending on other",
        rf"\[other\] {ship} handles d",
    ):
        assert re.search(expected, message, re.MULTILINE), expected


def test_a_bus_that_does_not_settle_is_a_deadlock() -> None:
    """The end of the scenario is the end of the run only when every bus has settled."""

    async def scenario() -> None:
        bus = EventBus()
        bus.subscribe(lambda event: asyncio.Event().wait(), "a")
        await bus.publish("a")

    with pytest.raises(Deadlock, match="handles a, for 0 s"):
        simulate(scenario)


def test_every_bus_settles() -> None:
    """Events that make buses publish to each other are all handled before a run ends."""
    handled = []

    async def scenario() -> None:
        one, two = EventBus(), EventBus()

        @one.on("a")
        async def to_two(event: Event) -> None:
            await asyncio.sleep(1)
            await two.publish("a", event.data - 1)

        @two.on("a")
        async def to_one(event: Event) -> None:
            await asyncio.sleep(1)
            handled.append(event.data)
            if event.data:
                await one.publish("a", event.data)

        await one.publish("a", 5)

    simulate(scenario, seeds=3)
    assert handled == [4, 3, 2, 1, 0] * 3


def test_a_livelock_says_what_goes_on() -> None:
    """A run that takes too many steps is stopped, and the message shows what is going on."""

    async def scenario() -> None:
        bus = EventBus(cascade_depth=10**9)

        @bus.on("a")
        async def again(event: Event) -> None:
            await asyncio.sleep(0)
            await bus.publish("a")

        await bus.publish("a")

    with pytest.raises(Livelock, match="has taken 500 steps, and does not end") as caught:
        simulate(scenario, steps=500)
    assert "again" in str(caught.value)
    assert simulate(nothing, seeds=1, steps=10).steps < 10


def test_errors_that_nobody_looks_at() -> None:
    """An exception in a callback, or in a task that nobody awaits, fails the run."""

    async def failing() -> None:
        raise ValueError("unseen")

    async def task_scenario() -> None:
        asyncio.create_task(failing())  # noqa: RUF006 - the loop keeps it
        await asyncio.sleep(1)

    async def callback_scenario() -> None:
        asyncio.get_running_loop().call_soon(int, "x")
        await asyncio.sleep(1)

    async def message_scenario() -> None:
        asyncio.get_running_loop().call_exception_handler({"message": "something is odd"})

    async def looked_at() -> None:
        task = asyncio.create_task(failing())
        await asyncio.wait([task])
        assert task.exception() is not None

    with pytest.raises(ValueError, match="unseen") as caught:
        simulate(task_scenario)
    assert caught.value.__notes__[0] == "the task Task-1 raised it, and nobody has looked"
    with pytest.raises(ValueError, match="invalid literal") as caught:
        simulate(callback_scenario)
    assert caught.value.__notes__[0].startswith("asyncio says: Exception in callback")
    with pytest.raises(SimulationError, match="something is odd"):
        simulate(message_scenario)
    simulate(looked_at)


def test_a_deadlock_tells_of_earlier_errors() -> None:
    """When nothing goes on because something has failed unseen, that is told too."""

    async def scenario() -> None:
        asyncio.get_running_loop().call_soon(int, "x")
        await asyncio.Event().wait()

    with pytest.raises(Deadlock) as caught:
        simulate(scenario)
    assert isinstance(caught.value.__cause__, ValueError)
    assert "Before that, nobody has looked at ValueError(" in caught.value.__notes__[0]


# ---- What is cancelled


async def five_points(points: list[str]) -> None:
    """Waits five times, and writes down what it has lived to see."""
    for number in range(5):
        points.append(f"before {number}")
        await asyncio.sleep(1)


def test_cancelling_at_every_point() -> None:
    """With the seed as the number of the step, a task is cancelled before and after each."""
    lived: dict[bool, set[int]] = {True: set(), False: set()}

    async def scenario(sim: Simulation, *, after: bool) -> None:
        points: list[str] = []
        task = sim.start(five_points(points))
        (sim.cancel_after_step if after else sim.cancel_before_step)(task, sim.seed)
        await asyncio.wait([task])
        assert task.cancelled() == (sim.seed < 6 - after)
        lived[after].add(len(points))

    for after in (False, True):
        simulate(functools.partial(scenario, after=after), seeds=10)
    assert lived == {False: {0, 1, 2, 3, 4, 5}, True: {1, 2, 3, 4, 5}}


def test_cancelling_sometime() -> None:
    """A task that may be cancelled at random is, at any of its points, or never."""
    ends: dict[tuple[bool, int], int] = {}

    async def scenario(sim: Simulation) -> None:
        points: list[str] = []
        task = sim.start(five_points(points), name="poor", cancel=True)
        assert task.get_name() == "poor"
        await asyncio.wait([task])
        end = (task.cancelled(), len(points))
        ends[end] = ends.get(end, 0) + 1

    simulate(scenario, seeds=1000)
    assert {points for cancelled, points in ends if cancelled} == {0, 1, 2, 3, 4, 5}
    assert ends[False, 5] > 100


def test_nobody_waits_for_ever_who_is_to_be_cancelled() -> None:
    """When nothing else can go on, whoever is to be cancelled at some point is cancelled."""

    async def forever() -> None:
        await asyncio.Event().wait()

    async def scenario(sim: Simulation) -> None:
        poor = [sim.start(forever(), cancel=True) for _ in range(3)]

        async def stubborn() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(1)

        poor.append(sim.start(stubborn(), cancel=True))
        await asyncio.wait(poor)

    simulate(scenario)


# ---- What is refused


def test_not_in_a_coroutine() -> None:
    """In a running loop it refuses to start, and says what to do; a scenario is one too."""

    async def test() -> None:
        simulate(nothing)

    with pytest.raises(RuntimeError, match="call it in a plain def"):
        asyncio.run(test())
    with pytest.raises(RuntimeError, match="call it in a plain def"):
        simulate(test)


async def takes_two(first: object, second: object) -> None:
    """No scenario."""


async def takes_keyword(*, sim: object) -> None:
    """No scenario."""


def test_what_is_no_scenario() -> None:
    """Whatever cannot be run is refused, with the cure."""
    coroutine = nothing()
    with pytest.raises(TypeError, match="calls an async def itself: pass that, not <coroutine"):
        simulate(coroutine)  # type: ignore[arg-type]  # that is the point
    coroutine.close()
    with pytest.raises(TypeError, match="pass that, not 'nothing'"):
        simulate("nothing")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match="the scenario takes_two has 2 parameters without default"):
        simulate(takes_two)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match="the scenario takes_keyword has 1 param"):
        simulate(takes_keyword)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match="the scenario returned 5: make it async def"):
        simulate(lambda: 5)  # type: ignore[arg-type]  # that is the point


class Scenarios:
    """Scenarios need not be functions."""

    def __init__(self) -> None:
        self.got: list[object] = []

    async def method(self, sim: Simulation) -> None:
        self.got.append(sim)

    async def __call__(self) -> None:
        self.got.append("called")


def test_what_is_a_scenario() -> None:
    """Methods, partial functions, callable objects, lambdas; defaults are left as they are."""
    scenarios = Scenarios()

    async def with_default(number: int = 3, *rest: int, **more: int) -> None:
        scenarios.got.append((number, rest, more))

    async def takes_sim(sim: Simulation, number: int = 0) -> None:
        scenarios.got.append((type(sim), number))

    for scenario in (
        scenarios.method,
        scenarios,
        with_default,
        takes_sim,
        functools.partial(takes_sim, number=5),
        functools.partial(with_default, 4),
        lambda: with_default(7),
        lambda sim: takes_sim(sim, 8),
    ):
        simulate(scenario, seeds=1)
    assert isinstance(scenarios.got[0], Simulation)
    assert scenarios.got[1:] == [
        "called",
        (3, (), {}),
        (Simulation, 0),
        (Simulation, 5),
        (4, (), {}),
        (7, (), {}),
        (Simulation, 8),
    ]


def test_seeds() -> None:
    """Seeds are a number of runs, or any iterable of whole numbers, and there is at least one."""
    seen: list[int] = []

    async def scenario(sim: Simulation) -> None:
        seen.append(sim.seed)

    assert simulate(scenario, seeds=3).runs == 3
    assert simulate(scenario, seeds=(seed for seed in (9, 8))).runs == 2
    assert simulate(scenario, seeds={7}).runs == 1
    assert seen == [0, 1, 2, 9, 8, 7]
    empty: list[int] = []
    for none in (0, empty, -1):
        with pytest.raises(ValueError, match="nothing would be tested"):
            simulate(scenario, seeds=none)
    with pytest.raises(TypeError, match="the seed None is no whole number"):
        simulate(scenario, seeds=[None])  # type: ignore[list-item]  # that is the point
    with pytest.raises(ValueError, match="steps=0: pass a whole number of at least 1"):
        simulate(scenario, steps=0)


REFUSED: dict[str, Callable[[], Awaitable[object]]] = {
    "a thread for print": lambda: asyncio.to_thread(print),
    "a thread for repr": lambda: asyncio.get_running_loop().run_in_executor(None, repr, 1),
    "the thread 'AnyIO worker thread'": lambda: anyio.to_thread.run_sync(print),
    "loop.create_connection()": lambda: asyncio.open_connection("127.0.0.1", 1),
    "loop.create_server()": lambda: asyncio.start_server(print, "127.0.0.1", 0),
    "loop.subprocess_exec()": lambda: anyio.run_process(["true"]),
    "loop.subprocess_shell()": lambda: asyncio.create_subprocess_shell("true"),
    "loop.getaddrinfo()": lambda: anyio.connect_tcp("localhost", 1),
}


@pytest.mark.parametrize("what", REFUSED)
def test_threads_and_sockets_are_refused(what: str) -> None:
    """What needs a thread, a socket or a process is refused, and the message says what to do."""

    async def scenario() -> None:
        with pytest.raises(RuntimeError, match="a simulation has no threads, sockets") as caught:
            await REFUSED[what]()
        assert f"was asked for {what}: put something else in its place" in str(caught.value)

    simulate(scenario, seeds=1)


def test_plain_threads_are_refused() -> None:
    """A thread that code starts by itself is refused, in this thread alone."""
    other: list[threading.Thread] = []

    def elsewhere() -> None:
        go.wait()
        other.append(threading.Thread(target=int))
        other[0].start()
        other[0].join()

    go = threading.Event()
    helper = threading.Thread(target=elsewhere)
    helper.start()

    async def scenario() -> None:
        with pytest.raises(RuntimeError, match="asked for the thread 'poor'"):
            threading.Thread(target=print, name="poor").start()
        with pytest.raises(RuntimeError, match="asked for the thread 'ThreadPool"):
            ThreadPoolExecutor().submit(print)
        go.set()
        helper.join()

    simulate(scenario, seeds=1)
    assert len(other) == 1


# ---- Primitives


async def anyio_primitives() -> None:
    """anyio's events, locks, limiters, streams, scopes and groups, all at once."""
    done, lock, limiter = anyio.Event(), anyio.Lock(), anyio.CapacityLimiter(2)
    condition, semaphore = anyio.Condition(), anyio.Semaphore(2)
    send, receive = anyio.create_memory_object_stream[int](1)
    got: list[int] = []

    async def produce(number: int) -> None:
        async with limiter, semaphore:
            async with lock:
                await anyio.sleep(0.1)
            await send.send(number)
        async with condition:
            condition.notify_all()

    async def consume() -> None:
        async for number in receive:
            got.append(number)
            if len(got) == 5:
                done.set()

    async def wait_for_one() -> None:
        async with condition:
            await condition.wait()

    async with send, receive, anyio.create_task_group() as group:
        group.start_soon(wait_for_one)
        for number in range(5):
            group.start_soon(produce, number)
        group.start_soon(consume)
        group.start_soon(anyio.sleep_forever)
        await done.wait()
        with anyio.move_on_after(5) as scope:
            await anyio.sleep(10)
        assert scope.cancelled_caught
        with anyio.fail_after(5), anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    assert sorted(got) == list(range(5))


async def asyncio_primitives() -> None:
    """asyncio's queues, conditions, barriers, semaphores, groups, time-outs and waits."""
    queue: asyncio.Queue[int] = asyncio.Queue(1)
    condition, barrier, semaphore = asyncio.Condition(), asyncio.Barrier(3), asyncio.Semaphore(2)

    async def produce(number: int) -> int:
        async with semaphore:
            await queue.put(number)
        await barrier.wait()
        async with condition:
            condition.notify_all()
        return number

    async def fail() -> None:
        raise ValueError

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        tasks = [group.create_task(produce(number)) for number in range(3)]
        assert sorted([await queue.get() for _ in range(3)]) == [0, 1, 2]
    assert [task.result() for task in tasks] == [0, 1, 2]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await asyncio.sleep(2)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(asyncio.sleep(3)), 1)
    sleepers = [asyncio.create_task(asyncio.sleep(each, each)) for each in (3, 1, 2)]
    assert [await each for each in asyncio.as_completed(sleepers)] == [1, 2, 3]
    with pytest.raises(ExceptionGroup):  # noqa: PT012 - the block is what raises
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(100))
            group.create_task(fail())


async def eager_tasks() -> None:
    """Tasks that begin to run when they are made."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]  # from 3.12 on
    async with EventBus() as bus:

        @bus.on("a")
        async def handle(event: Event) -> int:
            await asyncio.sleep(1)
            return int(event.data)

        receipts = await asyncio.gather(*(bus.publish("a", number) for number in range(3)))
        outcomes = await asyncio.gather(*(receipt.outcomes() for receipt in receipts))
        assert [each[0].result for each in outcomes] == [0, 1, 2]


@pytest.mark.parametrize("scenario", [anyio_primitives, asyncio_primitives, eager_tasks])
def test_primitives(scenario: Callable[[], Awaitable[None]]) -> None:
    """What asyncio and anyio promise holds in every order."""
    if scenario is eager_tasks and sys.version_info < (3, 12):
        pytest.skip("eager tasks came with Python 3.12")
    assert simulate(scenario, seeds=50).orders > 1


def test_task_factories_and_cancelled_calls() -> None:
    """A loop with a task factory of the application's uses it; a cancelled call is not made."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coro, **more: asyncio.Task(coro, loop=loop, **more))
        loop.call_soon(pytest.fail).cancel()
        task = loop.create_task(asyncio.sleep(1))
        assert type(task) is asyncio.Task
        await task

    simulate(scenario, seeds=5)


def test_async_generators_end_with_the_run() -> None:
    """An async generator that is left in the middle is closed before its loop."""
    ended: list[str] = []

    async def numbers() -> Any:
        try:
            yield 1
        finally:
            await asyncio.sleep(1)
            ended.append("ended")

    kept = []

    async def scenario() -> None:
        kept.append(numbers())
        await anext(kept[-1])

    simulate(scenario, seeds=2)
    assert ended == ["ended"] * 2


# ---- The kit in a simulation


def test_fake_clock_in_a_simulation() -> None:
    """A `FakeClock` that jumps does so in virtual time too."""

    async def scenario() -> None:
        bus = EventBus(clock=FakeClock(autojump=0.01))

        @bus.on("a", retry=Retry(attempts=3, initial=3600, maximum=9000))
        async def fail(event: Event) -> None:
            assert event.delivery is not None
            if event.delivery.attempt < 3:
                raise ValueError

        (outcome,) = await bus.publish_and_wait("a")
        assert outcome.status == "handled"
        assert outcome.ran > 3600 * 3

    assert simulate(scenario, seeds=20).runs == 20


def test_a_bus_from_outside_goes_by_virtual_time_too() -> None:
    """One that was made before the simulation, and by the clock on the wall again after it."""
    bus = EventBus()

    @bus.on("a")
    async def handle(event: Event[Any]) -> None:
        await asyncio.sleep(3600)

    async def scenario() -> float:
        (outcome,) = await bus.publish_and_wait("a")
        return outcome.ran

    rans: list[float] = []

    async def note() -> None:
        rans.append(await scenario())

    simulate(note, seeds=3)
    assert all(ran >= 3600 for ran in rans)
    assert abs(bus._monotonic() - time.monotonic()) < 60


def test_wait_all_tasks_blocked_in_a_simulation() -> None:
    """It returns when the others wait, not when chance has passed over them for a while."""

    async def scenario() -> None:
        done: list[int] = []

        async def work() -> None:
            inner = asyncio.gather(asyncio.gather(asyncio.sleep(0)), asyncio.sleep(0))
            await inner
            done.append(1)
            await asyncio.Event().wait()

        tasks = [asyncio.create_task(work()) for _ in range(3)]
        await asyncio.gather(wait_all_tasks_blocked(), wait_all_tasks_blocked())
        assert len(done) == 3
        for task in tasks:
            task.cancel()

    simulate(scenario, seeds=100)


def test_watch_in_a_simulation() -> None:
    """The checks at the end of a block work, and find what they find elsewhere."""

    async def scenario(fail: bool) -> None:
        bus = EventBus()
        async with watch(bus):

            @bus.on("a")
            async def handle(event: Event) -> None:
                await asyncio.sleep(1)
                if fail:
                    raise ValueError

            await bus.publish("a")

    simulate(lambda: scenario(False), seeds=20)
    with pytest.raises(AssertionError, match="ValueError"):
        simulate(lambda: scenario(True), seeds=20)


# ---- Threads that are none


def test_thread_handlers_run_in_one_step() -> None:
    """A ``thread=True`` handler runs, alone, and sees what it would see in a thread."""
    seen: list[Any] = []

    async def scenario() -> None:
        seen.clear()
        async with EventBus(threads=2) as bus, EventBus(name="closed") as closed:
            await closed.aclose()

            @bus.on("a", thread=True, concurrency=5)
            def handle(event: Event) -> int:
                with pytest.raises(RuntimeError, match="no running event loop"):
                    asyncio.get_running_loop()
                with pytest.raises(NoRunningLoop):
                    bus.publish_nowait("b")
                with pytest.raises(BusClosed):
                    closed.publish_from_thread("b")
                with pytest.raises(BusClosed, match="not entered"):
                    EventBus().publish_from_thread("b")
                seen.append(event.data)
                receipt = bus.publish_from_thread("b", event.data, subject="s")
                assert receipt.event.cause == event.id
                if event.data == 3:
                    raise ValueError
                return int(event.data)

            bus.subscribe(lambda event: seen.append(-event.data), "b", capacity=1)
            receipts = [await bus.publish("a", number) for number in range(1, 6)]
            outcomes = [(await receipt.outcomes())[0] for receipt in receipts]
            assert [outcome.result for outcome in outcomes] == [1, 2, None, 4, 5]
            assert isinstance(outcomes[2].error, ValueError)
        assert sorted(seen) == [-5, -4, -3, -2, -1, 1, 2, 3, 4, 5]

    assert simulate(scenario, seeds=100).orders > 50


def test_threads_take_the_time_that_they_are_given() -> None:
    """With ``thread_seconds`` a handler may time out before, and after, what it does."""
    ends = set()

    async def scenario(sim: Simulation) -> None:
        assert sim.thread_seconds == 0
        sim.thread_seconds = 4
        bus, did = EventBus(), []

        @bus.on("a", thread=True, timeout=1)
        def handle(event: Event) -> None:
            did.append(event.data)

        (outcome,) = await bus.publish_and_wait("a")
        await asyncio.sleep(4)
        ends.add((outcome.status, isinstance(outcome.error, HandlerTimeout), len(did)))
        assert handle_is_free(bus)

    simulate(scenario)
    assert ends == {("handled", False, 1), ("failed", True, 1), ("failed", True, 0)}


def handle_is_free(bus: EventBus) -> bool:
    """Whether no place of its subscriptions is taken."""
    return not any(subscription._running for subscription in bus.subscriptions)


def test_cancelled_threads_report_to_nobody() -> None:
    """A handler's thread whose delivery is cancelled by the close ends all the same."""

    async def scenario(sim: Simulation) -> None:
        sim.thread_seconds = 5
        did = []
        bus = EventBus()
        bus.subscribe(lambda event: did.append(1), "a", thread=True)
        await bus.publish("a")
        report = await bus.aclose(grace=sim.random.choice((0, 1, 2)))
        assert report.accepted == report.handled + report.cancelled == 1
        for task in asyncio.all_tasks():
            if task.get_name() == "eventbus-thread" and sim.seed % 2:
                task.cancel()
        await asyncio.sleep(10)
        assert handle_is_free(bus)

    simulate(scenario)


def test_publish_from_thread_refuses_the_loop() -> None:
    """Code of the loop gets what it gets outside: it is in the thread of the bus's loop."""

    async def scenario() -> None:
        async with EventBus() as bus:
            with pytest.raises(RuntimeError, match="own event loop"):
                bus.publish_from_thread("a")

    simulate(scenario, seeds=1)


# ---- What it leaves behind


def world() -> list[object]:
    """All that a simulation puts something else in the place of."""
    policy = asyncio.get_event_loop_policy()
    return [
        vars(SystemClock)["time"].__func__,
        vars(SystemClock)["monotonic"].__func__,
        threading.Thread.start,
        LogHook.log,
        random.getstate(),
        eventbus._threads.run_in_thread,
        EventBus.publish_from_thread,
        PumpTask.__hash__,
        _blocked.QUIET_TURNS,
        gc.isenabled(),
        asyncio._get_running_loop(),
        getattr(policy, "_local", None) and getattr(policy._local, "_loop", None),  # type: ignore[attr-defined]  # no public way
    ]


async def fails() -> None:
    """A scenario that raises, with a bus and a task under way."""
    bus = EventBus()
    bus.subscribe(lambda event: asyncio.sleep(5), "a")
    await bus.publish("a")
    asyncio.create_task(asyncio.sleep(7))  # noqa: RUF006 - the loop keeps it
    await asyncio.sleep(1)
    raise AssertionError("it fails")


async def exits() -> None:
    """A scenario that ends the program."""
    await asyncio.sleep(1)
    raise SystemExit(3)


async def is_interrupted() -> None:
    """A scenario in whose handler the user presses Ctrl-C."""
    bus = EventBus()

    @bus.on("a")
    async def handle(event: Event) -> None:
        await asyncio.sleep(1)
        raise KeyboardInterrupt

    await bus.publish_and_wait("a")


async def is_stuck() -> None:
    """A scenario that waits for ever, and so do its tasks."""
    tasks = [asyncio.create_task(asyncio.Event().wait()) for _ in range(3)]
    await asyncio.wait(tasks)


async def spins() -> None:
    """A scenario that never ends, and starts ever new tasks."""
    while True:
        asyncio.create_task(asyncio.sleep(3))  # noqa: RUF006 - the loop keeps it
        await asyncio.sleep(0)


async def refuses_to_end() -> None:
    """A scenario that goes on when it is cancelled, and so do its tasks and its handlers."""
    bus = EventBus()

    async def stubborn(event: object) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                asyncio.create_task(stubborn(None))  # noqa: RUF006 - the loop keeps it

    bus.subscribe(stubborn, "a")
    await bus.publish("a")
    asyncio.create_task(stubborn(None))  # noqa: RUF006 - the loop keeps it
    await stubborn(None)


async def spins_when_cancelled() -> None:
    """A scenario that takes any number of steps when it is cancelled."""
    asyncio.get_running_loop().call_soon(int)
    try:
        await asyncio.Event().wait()
    finally:
        while True:
            asyncio.create_task(asyncio.sleep(0))  # noqa: RUF006 - the loop keeps it
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("scenario", "error"),
    [
        (nothing, None),
        (fails, AssertionError),
        (exits, SystemExit),
        (is_interrupted, KeyboardInterrupt),
        (is_stuck, Deadlock),
        (spins, Livelock),
        (refuses_to_end, Deadlock),
        (spins_when_cancelled, Deadlock),
    ],
)
def test_the_world_is_put_back(scenario: Any, error: type[BaseException] | None) -> None:
    """However runs end, all is as it was, and nothing is left that warns when it is collected."""
    before = world()
    if error is None:
        simulate(scenario, seeds=3)
    else:
        with pytest.raises(error) as caught:
            simulate(scenario, seeds=3, steps=300)
        assert "seed 0" in str(caught.value.__notes__)
        del caught
    assert world() == before
    assert "__hash__" not in vars(PumpTask)
    gc.collect()  # warnings of what is destroyed now are errors


def test_garbage_is_collected_between_runs_alone() -> None:
    """The collector stays off if it was off."""
    collecting = []

    async def scenario() -> None:
        collecting.append(gc.isenabled())

    gc.disable()
    try:
        simulate(scenario, seeds=2)
        assert not gc.isenabled()
    finally:
        gc.enable()
    simulate(scenario, seeds=1)
    assert collecting == [False] * 3


def test_garbage_is_collected_by_its_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run costs no look at what is older, and leaves nothing; now and then all is looked at."""
    looked_at: list[int] = []
    loops: list[weakref.ref[Any]] = []

    def collected(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            looked_at.append(info["generation"])

    async def scenario() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await asyncio.gather(*(asyncio.sleep(1) for _ in range(100)))

    gc.callbacks.append(collected)
    try:
        simulate(scenario, seeds=3)
        monkeypatch.setattr(_stage, "COLLECT_ALL_EVERY", 2)
        simulate(scenario, seeds=3)
    finally:
        gc.callbacks.remove(collected)
    assert looked_at[:6] == [0, 0, 0, 0, 2, 0]
    assert [loop() for loop in loops] == [None] * 6


@pytest.fixture
def application() -> Iterator[EventBus]:
    """The bus of the application, which tests leave without subscriptions."""
    yield APPLICATION
    for subscription in APPLICATION.subscriptions:
        subscription.unsubscribe()
    APPLICATION._state, APPLICATION._barred = State.OPEN, False


@pytest.mark.parametrize("entered", [False, True])
@pytest.mark.parametrize("end", ["raise", "wait", "spin"])
def test_a_bus_of_the_application_survives(application: EventBus, entered: bool, end: str) -> None:
    """A bus that had something pending, or was entered, when a run failed can be used again."""

    async def scenario(sim: Simulation) -> None:
        with application.subscribe(lambda event: asyncio.Event().wait(), "a"):
            if entered:
                await application.__aenter__()
            await application.publish("a")
            await application.publish("a")
            await asyncio.sleep(1)
            if end == "raise":
                raise SimulationError
            if end == "wait":
                await application.settle()
            while True:  # noqa: ASYNC110 - that is the point
                await asyncio.sleep(0)

    async def ordinary() -> None:
        handled: list[int] = []
        with application.subscribe(lambda event: handled.append(event.data), "a"):
            await application.publish_and_wait("a", 1)
            assert handled == [1]

    for _ in range(2):
        with pytest.raises(SimulationError):
            simulate(scenario, seeds=3, steps=1000)
        assert application._loop is None
        simulate(ordinary, seeds=3)
        asyncio.run(ordinary())


def test_runs_are_quiet_but_for_the_one_that_is_repeated(caplog: pytest.LogCaptureFixture) -> None:
    """Only the failing run writes to the log, once."""

    async def scenario(sim: Simulation) -> None:
        bus = EventBus()

        @bus.on("a")
        async def handle(event: Event) -> None:
            raise ValueError

        await bus.publish_and_wait("a")
        assert sim.seed < 5

    with pytest.raises(AssertionError):
        simulate(scenario)
    assert len(caplog.records) == 1


def test_one_simulation_at_a_time() -> None:
    """Simulations in several threads take turns, for they change the world."""
    inside: list[int] = []

    async def scenario() -> None:
        inside.append(1)
        assert len(inside) == 1
        await asyncio.sleep(1)
        inside.pop()

    before = world()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            simulate(scenario, seeds=200)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert world()[:4] == before[:4]


def test_would_deadlock_is_seen_as_outside() -> None:
    """What a bus refuses in a handler, it refuses in a simulation."""

    async def scenario() -> None:
        bus = EventBus()

        @bus.on("a")
        async def handle(event: Event) -> None:
            with pytest.raises(WouldDeadlock):
                await bus.settle()

        (outcome,) = await bus.publish_and_wait("a")
        assert outcome.status == "handled"

    simulate(scenario, seeds=3)


def test_a_thousand_tasks_take_steps_of_their_own_alone() -> None:
    """With many tasks the number of steps is theirs; choosing one does not make any."""

    async def scenario() -> None:
        await asyncio.gather(*(five_points([]) for _ in range(1000)))

    done = simulate(scenario, seeds=[0, 1])
    assert done.orders == 2
    assert done.steps < 2 * 13_100
