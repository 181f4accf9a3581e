"""``wait_for``: the next event that matches."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from eventbus import (
    BusClosed,
    Event,
    EventBus,
    NoRunningLoop,
    OptionError,
    PatternError,
    Topic,
)
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.helpers import balances, turns, within


class Paid(BaseModel):
    amount: int


PAID = Topic("invoice.paid", Paid)


def assert_nothing_left(bus: EventBus) -> None:
    """No subscription, no stream, no timer that keeps the bus busy."""
    assert bus.subscriptions == ()
    assert not bus._is_busy()
    assert bus.statistics().pending == 0
    assert balances(bus)


async def test_it_returns_the_first_event_that_matches() -> None:
    """Later ones are not its business, and it leaves nothing behind."""
    bus = EventBus()
    waiting = asyncio.create_task(bus.wait_for("a.*", "b"))
    await turns(1)
    await bus.publish("c", 0)
    receipt = await bus.publish("a.x", 1)
    await bus.publish("b", 2)
    event = await asyncio.wait_for(waiting, 5)
    assert event is receipt.event
    assert_nothing_left(bus)


async def test_without_a_pattern_any_event_will_do() -> None:
    """As ``subscribe`` does."""
    bus = EventBus()
    waiting: asyncio.Task[Event[Any]] = asyncio.create_task(bus.wait_for())
    await turns(1)
    await bus.publish("whatever", 1)
    assert (await asyncio.wait_for(waiting, 5)).data == 1


async def test_it_listens_from_its_first_step() -> None:
    """Started before the cause, it misses nothing; made and not yet awaited, it hears nothing."""
    bus = EventBus()
    waiting = bus.wait_for("a")
    await bus.publish("a", "before its first step")
    task = asyncio.create_task(waiting)
    await turns(1)
    assert len(bus.subscriptions) == 1
    bus.publish_nowait("a", "after its first step")
    assert (await asyncio.wait_for(task, 5)).data == "after its first step"


async def test_where_chooses() -> None:
    """Events for which it is false are passed over, and are no deliveries."""
    bus = EventBus()
    waiting = asyncio.create_task(bus.wait_for("a", where=lambda event: event.data > 2))
    await turns(1)
    for number in range(5):
        await bus.publish("a", number)
    assert (await asyncio.wait_for(waiting, 5)).data == 3
    assert (bus.statistics().handled, bus.statistics().failed) == (1, 0)
    assert_nothing_left(bus)


async def test_a_where_that_raises_does_not_end_the_wait() -> None:
    """It is a failed delivery, among the dead letters; the wait goes on."""
    bus = EventBus()
    waiting = asyncio.create_task(bus.wait_for("a", where=lambda event: 1 / event.data))
    await turns(1)
    await bus.publish("a", 0)
    await turns(3)
    assert not waiting.done()
    await bus.publish("a", 1)
    assert (await asyncio.wait_for(waiting, 5)).data == 1
    assert isinstance(bus.dead_letters[0].error, ZeroDivisionError)
    assert_nothing_left(bus)


async def test_a_burst_before_it_can_run_gives_it_the_first() -> None:
    """Its buffer keeps the oldest; the others are counted dropped."""
    bus = EventBus()
    waiting = asyncio.create_task(bus.wait_for("a"))
    await turns(1)
    for number in range(5):
        bus.publish_nowait("a", number)
    assert (await asyncio.wait_for(waiting, 5)).data == 0
    assert (bus.statistics().handled, bus.statistics().dropped) == (1, 4)
    assert_nothing_left(bus)


async def test_an_event_that_does_not_fit_does_not_hide_one_that_does() -> None:
    """The bad and the good in one turn, before the waiter runs: it still gets the good one."""
    bus = EventBus()
    waiting = asyncio.create_task(bus.wait_for(PAID))
    await turns(1)
    bus.publish_nowait("invoice.paid", {"amount": "none"})
    bus.publish_nowait("invoice.paid", {"amount": 1})
    assert (await asyncio.wait_for(waiting, 5)).data == Paid(amount=1)
    assert_nothing_left(bus)


async def test_a_typed_topic_gives_the_model() -> None:
    """Data that does not fit is a failed delivery, and the wait goes on."""
    bus = EventBus()
    waiting = asyncio.create_task(bus.wait_for(PAID))
    await turns(1)
    await bus.publish("invoice.paid", {"amount": "none"})
    await turns(3)
    assert not waiting.done()
    await bus.publish("invoice.paid", {"amount": 7})
    event: Event[Paid] = await asyncio.wait_for(waiting, 5)
    assert event.data.amount == 7
    assert bus.statistics().failed == 1
    assert_nothing_left(bus)


# Time.


async def test_the_timeout_is_measured_by_the_buss_clock() -> None:
    """At its moment, and not before, it raises ``TimeoutError``, which names the patterns."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    waiting = asyncio.create_task(bus.wait_for("a", "b.*", timeout=5))
    await wait_all_tasks_blocked()
    clock.advance(4.999)
    await wait_all_tasks_blocked()
    assert not waiting.done()
    clock.advance(0.001)
    with pytest.raises(TimeoutError, match=r"a, b\.\* within 5 s"):
        await asyncio.wait_for(waiting, 5)
    assert_nothing_left(bus)
    assert clock.next_timer is None


async def test_an_event_in_time_stops_the_timer() -> None:
    """No timer is left behind by a wait that succeeded."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    waiting = asyncio.create_task(bus.wait_for("a", timeout=5))
    await wait_all_tasks_blocked()
    await bus.publish("a")
    await asyncio.wait_for(waiting, 5)
    assert clock.next_timer is None
    assert_nothing_left(bus)


@pytest.mark.parametrize("event_first", [True, False])
async def test_an_event_and_the_timeout_in_one_turn(event_first: bool) -> None:
    """Accepted before the time was over, the event is returned; after it, the time-out stands."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    waiting = asyncio.create_task(bus.wait_for("a", timeout=5))
    await wait_all_tasks_blocked()
    if event_first:
        bus.publish_nowait("a", 1)
    clock.advance(5)
    if event_first:
        assert (await asyncio.wait_for(waiting, 5)).data == 1
    else:
        bus.publish_nowait("a", 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiting, 5)
        assert bus.statistics().unhandled == 1
    assert_nothing_left(bus)


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "soon", True])
async def test_a_timeout_that_is_no_number_of_seconds_is_refused(timeout: Any) -> None:
    """Before anything is subscribed."""
    bus = EventBus()
    with pytest.raises(OptionError, match="timeout"):
        await bus.wait_for("a", timeout=timeout)
    assert_nothing_left(bus)


async def test_a_bad_pattern_is_refused() -> None:
    """With the error that ``subscribe`` raises."""
    bus = EventBus()
    with pytest.raises(PatternError):
        await bus.wait_for("a..b", timeout=1)
    assert_nothing_left(bus)


def test_it_needs_a_running_loop() -> None:
    """Stepped without one, it says so and leaves nothing."""
    bus = EventBus()
    with pytest.raises(NoRunningLoop):
        bus.wait_for("a").send(None)
    assert_nothing_left(bus)


# Closing and cancelling.


async def test_closing_the_bus_ends_it_with_bus_closed() -> None:
    """``BusClosed``, also for those with a time-out, whose timers go."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    waiting = [asyncio.create_task(bus.wait_for("a", timeout=t)) for t in (None, 5)]
    await wait_all_tasks_blocked()
    await within(bus.aclose())
    for task in waiting:
        with pytest.raises(BusClosed):
            await asyncio.wait_for(task, 5)
    assert clock.next_timer is None
    assert_nothing_left(bus)


async def test_a_closed_bus_refuses_it() -> None:
    """Nothing can come any more."""
    bus = EventBus()
    await bus.aclose()
    with pytest.raises(BusClosed):
        await bus.wait_for("a")
    assert_nothing_left(bus)


async def test_an_event_accepted_before_the_close_is_returned() -> None:
    """Closing lets it take what is there."""
    bus = EventBus()
    waiting = asyncio.create_task(bus.wait_for("a"))
    await turns(1)
    await bus.publish("a", 1)
    closing = asyncio.create_task(bus.aclose())
    assert (await asyncio.wait_for(waiting, 5)).data == 1
    assert (await asyncio.wait_for(closing, 5)).accepted == 1
    assert_nothing_left(bus)


@pytest.mark.parametrize("with_event", [True, False])
async def test_cancelling_it_leaves_nothing_behind(with_event: bool) -> None:
    """Also in the turn in which its event came: that one ends cancelled, and the timer goes."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    waiting = asyncio.create_task(bus.wait_for("a", timeout=5))
    await wait_all_tasks_blocked()
    if with_event:
        bus.publish_nowait("a")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert bus.statistics().cancelled == with_event
    assert clock.next_timer is None
    assert_nothing_left(bus)


async def test_an_outer_timeout_ends_it() -> None:
    """asyncio's own time-out around it works too."""
    bus = EventBus()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await bus.wait_for("a")
    assert_nothing_left(bus)


async def test_it_keeps_no_publisher_waiting() -> None:
    """Its buffer drops rather than blocks: a publisher does not depend on a waiter's speed."""
    bus = EventBus()
    waiting = asyncio.create_task(bus.wait_for("a"))
    await turns(1)
    for _ in range(3):
        await within(bus.publish("a"))
    await asyncio.wait_for(waiting, 5)


async def test_many_wait_for_the_same_event() -> None:
    """Each gets it: they are subscriptions of their own."""
    bus = EventBus()
    waiting = [asyncio.create_task(bus.wait_for("a")) for _ in range(10)]
    await turns(1)
    receipt = await bus.publish("a")
    assert await asyncio.wait_for(asyncio.gather(*waiting), 5) == [receipt.event] * 10
    assert_nothing_left(bus)


async def test_a_handler_can_wait_for_an_event() -> None:
    """For one that another handler publishes; while it waits, it is a handler like any other."""
    bus, got = EventBus(), list[Any]()

    async def asks(event: Event[Any]) -> None:
        waiting = asyncio.create_task(bus.wait_for("answer", timeout=5))
        await turns(1)
        await bus.publish("question", 20)
        got.append((await waiting).data)

    async def answers(event: Event[Any]) -> None:
        await bus.publish("answer", event.data + 1)

    bus.subscribe(asks, "start")
    bus.subscribe(answers, "question")
    await within(bus.publish_and_wait("start", check=True))
    assert got == [21]
