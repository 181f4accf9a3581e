"""How many pumps an engine starts when a handler waits, and how long it rests after a cancellation.

Both are decisions of a moment, which a bus shows only as speed: so they are asked here directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from eventbus import BusClosed, Event, EventBus, _engine, _pump
from eventbus._pump import PumpTask
from eventbus.testing import FakeClock
from tests.conftest import VARIANT
from tests.helpers import turns, within


@pytest.mark.parametrize(
    ("queued", "due", "others", "started"),
    [
        ([], 0, 0, 0),
        ([1], 0, 0, 1),
        ([1], 0, 1, 0),
        ([3], 0, 0, 2),
        ([3], 0, 2, 1),
        ([3], 0, 3, 0),
        ([0], 1, 0, 1),
        ([1], 1, 0, 2),
        ([2], 1, 2, 1),
        ([1, 1], 0, 0, 2),
        ([1, 1], 0, 1, 1),
        ([1, 1], 0, 2, 0),
        ([1, 1, 1], 0, 0, 2),
        ([5, 5], 0, 1, 1),  # of two subscriptions, each is ready for one
        ([1] * 40, 0, 30, 2),
        ([1] * 40, 0, 31, 1),
        ([1] * 40, 0, 32, 0),
    ],
)
async def test_a_handler_that_waits_lets_others_take_what_is_ready(
    queued: list[int], due: int, others: int, started: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pump for each that is ready, at most two at a time and 32 in all."""
    pumps: list[object] = []
    monkeypatch.setattr(_engine, "DEBUG", False)  # the engine is only made up
    monkeypatch.setattr(_engine, "PumpTask", lambda *_: pumps.append(1))
    bus = EventBus()
    bus._loop = asyncio.get_running_loop()
    ready: Any = [SimpleNamespace(_queue=[0] * number, _due=[0] * due) for number in queued]
    bus._ready.extend(ready)
    bus._pumps = others + 1
    bus._pump_ended(spread=True)
    assert (len(pumps), bus._pumps) == (started, others + started)
    bus._ready.clear()
    bus._pumps, bus._loop = 0, None


class StandingLoop:
    """An event loop that keeps what it is to call, and whose turns and time the test decides."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], object]] = []
        self.later: list[tuple[float, Callable[[], object]]] = []

    def is_closed(self) -> bool:
        return False

    def call_soon(self, call: Callable[..., object], *args: Any) -> None:
        self.soon.append(partial(call, *args))

    def call_later(self, delay: float, call: Callable[..., object], *args: Any) -> None:
        self.later.append((delay, partial(call, *args)))

    def turn(self) -> None:
        """Call what is to be called soon."""
        calls, self.soon = self.soon, []
        for call in calls:
            call()

    def pass_time(self) -> None:
        """Let the one timer that is set go off."""
        ((_, call),) = self.later
        self.later.clear()
        call()


@pytest.fixture
def rest(monkeypatch: pytest.MonkeyPatch) -> tuple[EventBus, StandingLoop]:
    """A bus that rests, on a loop that stands still."""
    bus, loop = EventBus(), StandingLoop()
    monkeypatch.setattr(bus, "_loop", loop)
    bus._rest()
    loop.turn()
    assert bus._pumps == 1  # the place of the one to come is taken
    return bus, loop


def test_a_rest_is_ten_milliseconds_and_then_twenty_turns(
    rest: tuple[EventBus, StandingLoop],
) -> None:
    """A loop that something held up for the whole time gets to its end in those turns."""
    bus, loop = rest
    assert [delay for delay, _ in loop.later] == [_engine.REST_SECONDS] == [0.01]
    loop.pass_time()
    for _ in range(_engine.REST_TURNS):
        assert (bus._pumps, loop.later) == (1, [])
        loop.turn()
    assert _engine.REST_TURNS == 20
    assert (bus._pumps, loop.soon, loop.later) == (0, [], [])


async def test_a_rest_on_another_loop_starts_nothing_here(
    rest: tuple[EventBus, StandingLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bus that has moved on meanwhile has pumps of its own."""
    bus, loop = rest
    monkeypatch.setattr(bus, "_loop", None)
    loop.pass_time()
    assert (bus._pumps, loop.soon) == (1, [])
    bus._pumps = 0
    await within(bus.publish_and_wait("a"))


# A pump that is through lives for one more turn, while a publisher is about to go on.


def pumps() -> set[asyncio.Task[Any]]:
    """The tasks of pumps that have not ended."""
    return {task for task in asyncio.all_tasks() if isinstance(task, PumpTask)}


async def test_a_publisher_that_waits_for_each_event_is_served_by_one_task() -> None:
    """Making a task would cost more than handling the event."""
    bus = EventBus()
    served: list[object] = []
    bus.subscribe(lambda event: served.append(asyncio.current_task()))
    for number in range(3):
        await bus.publish_and_wait("a", number)
    assert len(served) == 3
    assert len(set(served)) == 1
    assert set(served) == pumps()
    await asyncio.sleep(0)
    assert pumps() == set()
    assert (bus._spare, bus._loop) == (None, None)


async def test_a_pump_that_nobody_waits_for_ends_at_once() -> None:
    """Nobody is about to go on, so nobody will need it."""
    bus = EventBus()
    bus.subscribe(lambda event: None)
    await bus.publish("a")
    await asyncio.sleep(0)
    assert pumps() == set()
    assert (bus._spare, bus._loop) == (None, None)


async def test_a_spare_pump_that_is_cancelled_holds_nothing_up() -> None:
    """It has no place to give back, and the next event gets another pump."""
    bus = EventBus()
    bus.subscribe(lambda event: None)
    await bus.publish_and_wait("a")
    (spare,) = pumps()
    assert spare.cancel()
    await asyncio.sleep(0)
    assert spare.cancelled()
    assert (bus._pumps, bus._spare, bus._loop) == (0, None, None)
    assert len(await within(bus.publish_and_wait("a"))) == 1


async def test_a_spare_pump_that_was_cancelled_is_not_taken() -> None:
    """Its next step will raise: an event published before that needs another pump."""
    bus = EventBus()
    bus.subscribe(lambda event: None)
    await bus.publish_and_wait("a")
    (spare,) = pumps()
    assert spare.cancel()
    assert len(await within(bus.publish_and_wait("a"))) == 1
    assert spare.cancelled()


async def test_a_spare_pump_cancelled_when_it_is_needed_again_gives_back_its_place() -> None:
    """As one that was cancelled before its first step does."""
    bus = EventBus()
    bus.subscribe(lambda event: None)
    await bus.publish_and_wait("a")
    (spare,) = pumps()
    receipt = await bus.publish("a")
    assert (bus._pumps, bus._spare) == (1, None)
    assert spare.cancel()
    assert len(await within(receipt.outcomes())) == 1
    assert spare.cancelled()


@pytest.mark.parametrize("taken_back", [False, True])
async def test_a_pump_whose_handler_cancelled_it_is_not_kept(taken_back: bool) -> None:
    """The request is for the handler, which is over, and must arrive at nobody else.

    Until Python 3.13 it arrives even if the handler has taken it back.
    """
    bus = EventBus()

    @bus.on("a")
    def cancel_own_task(event: Event[Any]) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if taken_back:
            task.uncancel()

    for _ in range(2):
        (outcome,) = await within(bus.publish_and_wait("a"))
        assert outcome.status == "handled"
        assert bus._spare is None


async def test_every_field_of_a_bus_has_a_slot() -> None:
    """Its dictionary is for what applications hang on it, and more than a few there are slow."""
    bus = EventBus(strict=True, catalog=["a"])
    bus.subscribe(lambda event: None, "a")
    async with bus, bus.stream("a"):
        await within(bus.publish_and_wait("a"))
    assert vars(bus) == {}


async def test_a_bus_that_is_closed_keeps_no_spare_pump() -> None:
    """P11, P13: who was about to publish again is told that the bus is closed, and nothing else."""
    bus = EventBus()
    bus.subscribe(lambda event: None)

    async def publish_twice() -> None:
        await bus.publish_and_wait("a")
        assert (bus._spare, bus._loop) == (None, None)
        with pytest.raises(BusClosed):
            await bus.publish("a")

    async with bus:
        publisher = asyncio.create_task(publish_twice())
        await asyncio.sleep(0)
        await within(bus.aclose())
        await publisher


async def test_a_batch_that_is_full_goes_on_in_the_same_task() -> None:
    """While a publisher waits for its end."""
    bus = EventBus()
    served: list[object] = []
    for _ in range(_pump.BATCH_STEPS + 1):
        bus.subscribe(lambda event: served.append(asyncio.current_task()))
    await within(bus.publish_and_wait("a"))
    assert len(served) == _pump.BATCH_STEPS + 1
    assert len(set(served)) == 1


async def test_a_spare_pump_of_an_entered_bus_leaves_it_its_loop() -> None:
    """The bus is entered, and so it belongs to its loop."""
    bus = EventBus()
    bus.subscribe(lambda event: None)
    async with bus:
        await bus.publish_and_wait("a")
        await asyncio.sleep(0)
        assert pumps() == set()
        assert bus._loop is asyncio.get_running_loop()


def test_a_spare_pump_of_another_loop_is_not_used() -> None:
    """A loop may stop in the very turn in which a pump became spare."""
    bus = EventBus()
    bus.subscribe(lambda event: None)
    first = asyncio.new_event_loop()

    async def publish_and_stop() -> None:
        await bus.publish_and_wait("a")
        first.stop()

    async def publish() -> None:
        assert len(await bus.publish_and_wait("a")) == 1

    task = first.create_task(publish_and_stop())
    first.run_forever()
    assert task.done()
    spare: PumpTask | None = bus._spare
    assert spare is not None
    asyncio.run(publish())
    assert bus._spare is not spare
    first.run_until_complete(asyncio.sleep(0))
    assert asyncio.all_tasks(first) == set()
    first.close()


@pytest.mark.skipif(VARIANT == "apart", reason="a handler that waits is in no pump")
async def test_a_handler_that_waits_in_a_pump_that_served_others_keeps_its_task() -> None:
    """From its first step to its last, in its publisher's context; and it gets that task alone."""
    bus = EventBus()
    request: ContextVar[int] = ContextVar("request")
    seen: list[tuple[int, object, object]] = []

    @bus.on("*")
    async def handle(event: Event[Any]) -> None:
        task = asyncio.current_task()
        if event.type == "slow":
            await asyncio.sleep(0)
        assert request.get() == event.data
        seen.append((event.data, task, asyncio.current_task()))

    for number, topic in enumerate(["quick", "quick", "slow", "quick", "slow"]):
        request.set(number)
        await within(bus.publish_and_wait(topic, number, check=True))
    tasks = [before for _, before, _ in seen]
    assert [after for _, _, after in seen] == tasks
    assert [number for number, _, _ in seen] == [0, 1, 2, 3, 4]
    assert tasks[0] is tasks[1] is tasks[2]
    assert tasks[3] is not tasks[2]


@pytest.mark.parametrize("subscriptions", [1, 3], ids=["queue", "round"])
async def test_a_batch_ends_once_it_has_taken_its_time(
    subscriptions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop has a turn after the step in which the time is up."""
    monkeypatch.setattr(_pump, "BATCH_SECONDS", 0.005)
    clock = FakeClock()
    bus, served = EventBus(clock=clock), []

    def handle(event: Event[Any]) -> None:
        served.append(event.data)
        clock.advance(0.003)

    for _ in range(subscriptions):
        bus.subscribe(handle, "a")
    for number in range(6 // subscriptions):
        bus.publish_nowait("a", number)
    await turns(1)
    assert len(served) == 2
    await within(bus.settle())
    assert len(served) == 6
