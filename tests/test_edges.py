"""Moments in which two things happen at once: the edges between attempts, ends and closes."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import anyio
import pytest

import eventbus._threads
from eventbus import (
    BusClosed,
    Event,
    EventBus,
    Hook,
    LogLine,
    NotSubscribed,
    Outcome,
    Retry,
    TopicError,
)
from eventbus.testing import FakeClock
from tests.helpers import LogLines, balances, within


async def test_a_time_out_after_the_thread_has_returned_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The attempt is over when its thread has returned, not only when the loop has seen to it."""
    clock = FakeClock()
    returned = eventbus._threads._returned

    def then_the_time_is_over(delivery: Any, limit: Any) -> None:
        returned(delivery, limit)
        clock.advance(2)

    monkeypatch.setattr("eventbus._threads._returned", then_the_time_is_over)
    async with EventBus(clock=clock) as bus:
        bus.subscribe(lambda _: "in time", thread=True, timeout=1)
        (outcome,) = await within(bus.publish_and_wait("a"))
    assert (outcome.status, outcome.result) == ("handled", "in time")


def test_a_hook_may_publish_while_a_lost_loop_is_buried() -> None:
    """What it publishes then is handled on the new loop, and nothing waits for ever."""
    seen: list[object] = []

    class Echo(Hook):
        def delivery_ended(self, event: Event[Any], outcome: Outcome) -> None:
            if outcome.status == "cancelled" and not outcome.attempts:
                bus.publish_nowait("echo", event.data)

    bus = EventBus(hooks=[Echo()])
    bus.subscribe(lambda event: seen.append(event.data), "echo")

    async def wait(_: Event[Any]) -> None:
        await asyncio.Event().wait()

    bus.subscribe(wait, "a")

    async def lose() -> None:
        for number in range(3):
            await bus.publish("a", number)
        await anyio.wait_all_tasks_blocked()

    async def go_on() -> None:
        await bus.publish("other")
        await within(bus.settle())

    asyncio.run(lose())
    asyncio.run(go_on())
    assert seen == [1, 2]
    assert bus.statistics().pending == 0
    assert balances(bus)


class Raising(Hook):
    """Raises an exception whenever one of its methods is called, the first time."""

    def __init__(self, method: str, error: BaseException) -> None:
        self.method = method
        self.errors = [error]

    def _called(self, method: str) -> None:
        if method == self.method and self.errors:
            raise self.errors.pop()

    def attempt_started(self, event: Event[Any], delivery: object) -> None:
        self._called("attempt_started")

    def attempt_ended(self, event: Event[Any], delivery: object, error: object) -> None:
        self._called("attempt_ended")


METHODS = ["attempt_started", "attempt_ended"]


@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.parametrize("method", METHODS)
async def test_a_hook_that_raises_a_cancellation_loses_no_delivery(
    method: str, thread: bool
) -> None:
    """It is a fault of the hook, named in the log, and the handler runs as ever."""
    lines = LogLines()
    async with EventBus(hooks=[Raising(method, asyncio.CancelledError()), lines]) as bus:
        bus.subscribe(lambda event: event.data, thread=thread)
        for number in range(2):
            (outcome,) = await within(bus.publish_and_wait("a", number))
            assert (outcome.status, outcome.result) == ("handled", number)
    (line,) = lines.named("hook.failed")
    assert line.fields["method"] == method


@pytest.mark.parametrize("kind", ["def", "async", "thread"])
@pytest.mark.parametrize("method", METHODS)
def test_a_hook_that_ends_the_program_makes_a_failed_delivery(method: str, kind: str) -> None:
    """``SystemExit`` leaves the loop, and the delivery has ended as any other that raises it."""
    bus = EventBus(hooks=[Raising(method, SystemExit(3))])

    async def wait_a_turn(_: Event[Any]) -> None:
        await asyncio.sleep(0)

    if kind == "async":
        bus.subscribe(wait_a_turn, retry=Retry(initial=0))
    else:
        bus.subscribe(lambda _: None, thread=kind == "thread", retry=Retry(initial=0))
    with pytest.raises(SystemExit) as raised:
        asyncio.run(within(bus.publish_and_wait("a")))
    assert raised.value.code == 3
    statistics = bus.statistics()
    assert (statistics.failed, statistics.pending) == (1, 0)
    (letter,) = bus.dead_letters
    assert isinstance(letter.error, SystemExit)


async def test_a_redelivered_event_keeps_its_time_when_it_waits_for_room() -> None:
    """It is the same event: only a new one is dated when it gets its place."""
    clock, release = FakeClock(), asyncio.Event()
    seen: list[Event[Any]] = []

    async def fail_once(event: Event[Any]) -> None:
        seen.append(event)
        if len(seen) == 1:
            raise ValueError
        await release.wait()

    async with EventBus(clock=clock) as bus:
        bus.subscribe(fail_once, capacity=1)
        await within(bus.publish_and_wait("a", "first"))
        (letter,) = bus.dead_letters
        time = letter.event.time
        await bus.publish("a", "runs")
        await anyio.wait_all_tasks_blocked()
        await bus.publish("a", "queued")
        again = asyncio.create_task(bus.redeliver(letter))
        await anyio.wait_all_tasks_blocked()
        assert not again.done()
        clock.advance(100)
        release.set()
        receipt = await within(again)
        await within(bus.settle())
    assert [event.data for event in seen] == ["first", "runs", "queued", "first"]
    assert receipt.event.time == seen[-1].time == time


async def test_a_redelivery_goes_to_no_other_subscription_of_the_same_default_name() -> None:
    """A default name says nothing of who it is: only a chosen one does."""
    seen: list[str] = []

    def ship(_: Event[Any]) -> None:
        seen.append("ship")
        raise ValueError

    async with EventBus() as bus:
        first = bus.subscribe(ship)
        await within(bus.publish_and_wait("a"))
        first.unsubscribe()
        assert bus.subscribe(ship).name == first.name
        (letter,) = bus.dead_letters
        with pytest.raises(NotSubscribed):
            await bus.redeliver(letter)
    assert seen == ["ship"]
    assert list(bus.dead_letters) == [letter]


@pytest.mark.parametrize("kind", ["def", "async", "waiting", "keyed", "thread", "observed"])
async def test_failed_deliveries_make_no_garbage_for_the_collector(kind: str) -> None:
    """Errors, deliveries and frames do not hold each other: counting references frees them."""

    def fail(_: Event[Any]) -> None:
        raise ValueError

    async def fail_async(_: Event[Any]) -> None:
        raise ValueError

    async def fail_later(_: Event[Any]) -> None:
        await asyncio.sleep(0)
        raise ValueError

    class Observer(Hook):
        def attempt_ended(self, event: Event[Any], delivery: object, error: object) -> None:
            """Makes the pump take its careful path."""

    hooks = [Observer()] if kind == "observed" else []
    async with EventBus(dead_letters=0, hooks=hooks) as bus:
        if kind == "keyed":
            bus.subscribe(fail, key=lambda event: event.data, concurrency=2)
        else:
            handlers = {"async": fail_async, "waiting": fail_later}
            bus.subscribe(handlers.get(kind, fail), thread=kind == "thread")
        await within(bus.publish_and_wait("a", 0))
        gc.collect()
        gc.disable()
        try:
            for number in range(50):
                await bus.publish("a", number % 3)
            await within(bus.settle())
            found = gc.collect()
        finally:
            gc.enable()
        assert bus.statistics().failed == 51
    assert found < 50


async def test_unsubscribing_ends_what_waits_for_a_thread() -> None:
    """It has not begun, so it ends there and then, and not when a thread is free."""
    release = threading.Event()
    bus = EventBus(threads=1)
    ran: list[object] = []
    bus.subscribe(lambda _: release.wait(5), "busy", thread=True)
    sub = bus.subscribe(ran.append, "a", thread=True)
    await bus.publish("busy")
    await anyio.wait_all_tasks_blocked()
    receipt = await bus.publish("a")
    await anyio.wait_all_tasks_blocked()
    sub.unsubscribe()
    assert (sub.statistics().cancelled, sub.statistics().pending) == (1, 0)
    (outcome,) = await within(receipt.outcomes())
    assert (outcome.status, outcome.attempts) == ("cancelled", 0)
    release.set()
    await within(bus.settle())
    assert ran == []


async def test_who_leaves_as_its_second_attempt_starts_has_failed_with_the_first() -> None:
    """A hook unsubscribes it: there is no second attempt, and the error of the first stands."""

    class Leave(Hook):
        def attempt_started(self, event: Event[Any], delivery: Any) -> None:
            if delivery.attempt == 2:
                sub.unsubscribe()

    attempts: list[int] = []

    async def fail(_: Event[Any]) -> None:
        attempts.append(1)
        raise LookupError("the first")

    async with EventBus(hooks=[Leave()]) as bus:
        sub = bus.subscribe(fail, retry=Retry(initial=0))
        (outcome,) = await within(bus.publish_and_wait("a"))
    assert (outcome.status, outcome.attempts, len(attempts)) == ("failed", 1, 1)
    assert isinstance(outcome.error, LookupError)


async def test_a_refused_publish_leaves_an_idle_bus_without_a_loop() -> None:
    """Nothing was accepted, so nothing holds the bus to this loop."""
    bus = EventBus()
    for publish in (bus.publish, _nowait(bus)):
        with pytest.raises(TopicError):
            await publish("not a topic!")
        assert bus._loop is None
    await bus.aclose()
    for publish in (bus.publish, _nowait(bus)):
        with pytest.raises(BusClosed):
            await publish("a")
        assert bus._loop is None


def _nowait(bus: EventBus) -> Any:
    async def publish(topic: str) -> None:
        bus.publish_nowait(topic)

    return publish


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_the_time_that_the_log_takes_is_no_handlers(kind: str) -> None:
    """A delivery starts when its handler does: after what came before, log lines included."""
    clock = FakeClock()

    class SlowLog(Hook):
        def log(self, line: LogLine) -> None:
            clock.advance(5)

    def fail(_: Event[Any]) -> None:
        clock.advance(1)
        raise ValueError

    async def fail_async(event: Event[Any]) -> None:
        fail(event)

    async with EventBus(clock=clock, hooks=[SlowLog()]) as bus:
        bus.subscribe(fail if kind == "def" else fail_async, "a")
        receipts = [await bus.publish("a") for _ in range(3)]
        times = []
        for receipt in receipts:
            (outcome,) = await within(receipt.outcomes())
            times.append((outcome.queued, outcome.ran))
    assert times == [(0, 1), (6, 1), (12, 1)]


async def test_no_time_of_an_outcome_is_negative() -> None:
    """Also of an event that was published in the middle of a batch."""
    clock = FakeClock()
    receipts = []

    def cause(event: Event[Any]) -> None:
        clock.advance(3)
        if event.data:
            receipts.append(bus.publish_nowait("a", event.data - 1))
            receipts.append(bus.publish_nowait("b"))

    async with EventBus(clock=clock) as bus:
        bus.subscribe(cause, "a")
        bus.subscribe(lambda _: clock.advance(1), "b", capacity=1, overflow="drop_oldest")
        receipts.append(await bus.publish("a", 5))
        await within(bus.settle())
        outcomes = [outcome for receipt in receipts for outcome in await receipt.outcomes()]
    assert len(outcomes) == 11
    assert min(min(outcome.queued, outcome.ran) for outcome in outcomes) >= 0


async def test_a_second_close_that_is_cancelled_does_not_hurry_the_first() -> None:
    """It only stops waiting; the handler still has the grace of the first."""
    release = asyncio.Event()

    async def wait(_: Event[Any]) -> str:
        await release.wait()
        return "through"

    bus = EventBus()
    bus.subscribe(wait)
    receipt = await bus.publish("a")
    await anyio.wait_all_tasks_blocked()
    first = asyncio.create_task(bus.aclose())
    await anyio.wait_all_tasks_blocked()
    second = asyncio.create_task(bus.aclose())
    await anyio.wait_all_tasks_blocked()
    second.cancel()
    await anyio.wait_all_tasks_blocked()
    assert second.cancelled()
    assert not first.done()
    release.set()
    report = await within(first)
    assert (report.handled, dict(report.interrupted)) == (1, {})
    (outcome,) = await receipt.outcomes()
    assert outcome.result == "through"
