"""P9: a publish has queued its event everywhere or nowhere, and the lines are served in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from eventbus import BusClosed, Event, EventBus, NotSubscribed, Receipt, Subscription, WouldBlock
from eventbus.testing import FakeClock
from tests.helpers import LogLines, balances, turns, within


class Gated:
    """A handler that works only while it is let through, one event per `step`."""

    def __init__(self, bus: EventBus, *patterns: str, capacity: int = 1, name: str) -> None:
        self.seen: list[Any] = []
        self._steps = asyncio.Semaphore(0)
        self.sub: Subscription = bus.subscribe(
            self._handle, *patterns, capacity=capacity, name=name
        )

    async def _handle(self, event: Event[Any]) -> None:
        self.seen.append(event.data)
        await self._steps.acquire()

    async def step(self, count: int = 1) -> None:
        """Let handlers end, and the next ones begin."""
        for _ in range(count):
            self._steps.release()
            await turns(6)

    def open(self) -> None:
        """Let everything through from now on."""
        for _ in range(1_000):
            self._steps.release()


async def fill(bus: EventBus, topic: str, events: int = 2) -> None:
    """One event for the handler and one for its queue."""
    for _ in range(events):
        await within(bus.publish(topic, "filler"))
        await turns(3)


async def publishing(bus: EventBus, topic: str, data: Any) -> asyncio.Task[Receipt]:
    """A task that publishes, and has begun to."""
    task = asyncio.ensure_future(bus.publish(topic, data))
    await asyncio.sleep(0)
    return task


def real(gated: Gated) -> list[Any]:
    """What a handler saw, fillers apart."""
    return [each for each in gated.seen if each != "filler"]


async def test_a_waiting_publish_has_queued_its_event_nowhere() -> None:
    """While one queue is full, the others have nothing of the event yet."""
    bus = EventBus()
    free = Gated(bus, "both", capacity=9, name="free")
    full = Gated(bus, "both", "full", name="full")
    await fill(bus, "full")
    waiting = await publishing(bus, "both", 1)
    await turns(5)
    assert free.sub.statistics().accepted == 0
    assert bus.statistics().events == 2
    await full.step()
    assert waiting.done()
    assert free.sub.statistics().accepted == 1
    full.open()
    free.open()
    await within(bus.settle())
    assert real(full) == real(free) == [1]


async def test_a_cancelled_waiting_publish_leaves_no_trace() -> None:
    """Cancelled before its turn, the event is nowhere, now and later."""
    bus = EventBus()
    free = Gated(bus, "both", capacity=9, name="free")
    full = Gated(bus, "both", "full", name="full")
    await fill(bus, "full")
    waiting = await publishing(bus, "both", 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    full.open()
    free.open()
    await within(bus.settle())
    assert real(full) == real(free) == []
    assert bus.statistics().events == 2
    assert not bus._tickets


async def test_a_failed_publish_has_queued_its_event_nowhere() -> None:
    """`WouldBlock`, a bad topic or bad fields: nothing was accepted, by anybody."""
    bus = EventBus()
    free = Gated(bus, "**", capacity=9, name="free")
    full = Gated(bus, "full", name="full")
    await fill(bus, "full")
    with pytest.raises(WouldBlock, match="full is full"):
        bus.publish_nowait("full")
    with pytest.raises(ValueError, match="topic"):
        await bus.publish("no topic")
    with pytest.raises(TypeError):
        await bus.publish("free", id=7)  # type: ignore[call-overload]  # on purpose
    assert bus.statistics().events == 2
    full.open()
    free.open()
    await within(bus.settle())


async def test_those_who_wait_for_one_queue_are_served_in_order_of_arrival() -> None:
    """Ten publishers in one line are accepted one after the other, as places come free."""
    bus = EventBus()
    gated = Gated(bus, "a", name="a")
    await fill(bus, "a")
    waiting = [await publishing(bus, "a", number) for number in range(10)]
    for number in range(10):
        assert [task.done() for task in waiting] == [index < number for index in range(10)]
        await gated.step()
    gated.open()
    await within(bus.settle())
    assert real(gated) == list(range(10))


async def test_acceptance_is_by_who_frees_the_place_so_no_newcomer_can_slip_in() -> None:
    """In the very turn in which a place comes free, the oldest waiter has it already."""
    bus = EventBus()
    async with bus.stream("a", capacity=1, overflow="block") as events:
        bus.publish_nowait("a", 0)
        first = await publishing(bus, "a", 1)
        assert (await anext(events)).data == 0  # frees the place, without a turn of the loop
        with pytest.raises(WouldBlock):
            bus.publish_nowait("a", 2)
        assert (await anext(events)).data == 1
        assert (await within(first)).event.data == 1


async def test_a_publisher_that_needs_another_full_queue_is_passed_over() -> None:
    """It keeps its place in the order, and holds up nobody who needs only what is free."""
    bus = EventBus()
    a = Gated(bus, "a", "both", name="a")
    b = Gated(bus, "b", "both", name="b")
    await fill(bus, "a")
    await fill(bus, "b")
    both = await publishing(bus, "both", "both")
    later_a = await publishing(bus, "a", "later a")
    await a.step()
    assert (both.done(), later_a.done()) == (False, True)
    later_b = await publishing(bus, "b", "later b")
    await b.step()  # the one in the way of `both` is `b` now, and then `a` again
    assert (both.done(), later_b.done()) == (False, True)
    await a.step()
    assert not both.done()
    await b.step()
    assert both.done()
    a.open()
    b.open()
    await within(bus.settle())
    assert real(a) == ["later a", "both"]
    assert real(b) == ["later b", "both"]


async def test_a_passed_over_publisher_goes_before_those_who_came_later() -> None:
    """Back in a line, it stands where its arrival puts it, not at the end."""
    bus = EventBus()
    a = Gated(bus, "a", "both", name="a")
    b = Gated(bus, "b", "both", name="b")
    await fill(bus, "a")
    await fill(bus, "b")
    both = await publishing(bus, "both", "both")  # in the line of a
    later_b = await publishing(bus, "b", "later b")
    await a.step()  # now in the line of b, before `later_b`
    assert not both.done()
    await b.step()
    assert both.done()
    assert not later_b.done()
    a.open()
    b.open()
    await within(bus.settle())
    assert real(b) == ["both", "later b"]


async def test_of_three_queues_the_second_is_full_and_then_the_third() -> None:
    """Interleaving 4: a newcomer, a passed-over publisher and a cancelled one in the same lines."""
    bus = EventBus()
    a = Gated(bus, "a", "all", capacity=9, name="a")
    b = Gated(bus, "b", "all", name="b")
    c = Gated(bus, "c", "all", name="c")
    await fill(bus, "b")
    passed_over = await publishing(bus, "all", "passed over")  # waits for b
    cancelled = await publishing(bus, "all", "cancelled")
    newcomer_b = await publishing(bus, "b", "newcomer b")
    await fill(bus, "c")
    newcomer_c = await publishing(bus, "c", "newcomer c")
    cancelled.cancel()
    await b.step()  # b has a place; c is in the way of `passed_over`, so the newcomer gets it
    assert (passed_over.done(), newcomer_b.done()) == (False, True)
    await b.step()  # a place in b that nobody wants
    last_b = await publishing(bus, "b", "last b")  # fits, and nobody could have fitted before it
    assert last_b.done()
    await c.step()  # `passed_over` is the oldest there, but b is full: the newcomer gets the place
    assert (passed_over.done(), newcomer_c.done()) == (False, True)
    await c.step()
    assert not passed_over.done()
    await b.step()
    assert passed_over.done()
    for gated in (a, b, c):
        gated.open()
    await within(bus.settle())
    assert real(a) == ["passed over"]
    assert real(b) == ["newcomer b", "last b", "passed over"]
    assert real(c) == ["newcomer c", "passed over"]
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert not bus._tickets
    assert balances(bus)


async def test_a_cancelled_publisher_makes_way_for_those_behind_it() -> None:
    """The line goes on as if it had never stood there."""
    bus = EventBus()
    gated = Gated(bus, "a", name="a")
    await fill(bus, "a")
    waiting = [await publishing(bus, "a", number) for number in range(4)]
    waiting[0].cancel()
    waiting[2].cancel()
    await asyncio.sleep(0)
    await gated.step()
    assert waiting[1].done()
    assert not waiting[3].done()
    gated.open()
    await within(bus.settle())
    assert real(gated) == [1, 3]


async def grant_by_reading(bus: EventBus, events: Any) -> None:
    """Free the place in this turn: a stream's reader takes the event."""
    assert (await anext(events)).data == 0


@pytest.mark.parametrize("others", [0, 2])
async def test_granted_and_cancelled_in_the_same_turn_is_accepted_everywhere(others: int) -> None:
    """Interleaving 3: the publisher hears of its cancellation; the event is handled."""
    bus, seen = EventBus(), []
    bus.subscribe(lambda event: seen.append(event.data), "a")
    async with bus.stream("a", capacity=1, overflow="block") as events:
        bus.publish_nowait("a", 0)
        waiting = await publishing(bus, "a", 1)
        behind = [await publishing(bus, "a", 2 + number) for number in range(others)]
        await grant_by_reading(bus, events)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(waiting)
        assert (await anext(events)).data == 1
        for number, task in enumerate(behind):
            await within(task)
            assert (await anext(events)).data == 2 + number
    await within(bus.settle())
    assert seen == list(range(2 + others))
    assert bus.statistics().events == 2 + others


async def test_cancelled_and_then_granted_in_the_same_turn_is_all_or_nothing() -> None:
    """Interleaving 3, the other way round: wherever it was accepted, it was accepted everywhere."""
    bus, seen = EventBus(), []
    bus.subscribe(lambda event: seen.append(event.data), "a")
    async with bus.stream("a", capacity=1, overflow="block") as events:
        bus.publish_nowait("a", 0)
        waiting = await publishing(bus, "a", 1)
        waiting.cancel()
        await grant_by_reading(bus, events)
        with pytest.raises(asyncio.CancelledError):
            await within(waiting)
        accepted = events.subscription.statistics().accepted
        await within(bus.settle())
    assert seen == list(range(accepted))
    assert bus.statistics().events == accepted
    assert not bus._tickets


async def test_granted_by_unsubscribe_and_cancelled_in_the_same_turn() -> None:
    """Interleaving 3: the full queue leaves, which accepts the event for the others."""
    bus, seen = EventBus(), []
    full = Gated(bus, "a", name="full")
    bus.subscribe(lambda event: seen.append(event.data), "a")
    await fill(bus, "a")
    waiting = await publishing(bus, "a", 1)
    full.sub.unsubscribe()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(waiting)
    full.open()
    await within(bus.settle())
    assert seen == ["filler", "filler", 1]
    assert balances(bus, full.sub)


async def test_granted_and_the_bus_closed_in_the_same_turn() -> None:
    """Interleaving 3: what was accepted is drained; the next in the line gets `BusClosed`."""
    bus, seen = EventBus(), []

    async def close() -> None:
        await bus.aclose()

    full = Gated(bus, "a", name="full")
    bus.subscribe(lambda event: seen.append(event.data), "a", capacity=9)
    await fill(bus, "a")
    granted = await publishing(bus, "a", 1)
    refused = await publishing(bus, "a", 2)
    full.sub.unsubscribe()  # both are granted here: the only queue in their way is gone
    closing = asyncio.ensure_future(close())
    full.open()
    assert (await within(granted)).event.data == 1
    assert (await within(refused)).event.data == 2
    await within(closing)
    assert seen == ["filler", "filler", 1, 2]


async def test_a_bus_that_closes_refuses_who_waits_and_keeps_who_was_accepted() -> None:
    """Interleaving 3: one place comes free in the turn in which the bus begins to close."""
    bus = EventBus()
    async with bus.stream("a", capacity=1, overflow="block") as events:
        bus.publish_nowait("a", 0)
        granted = await publishing(bus, "a", 1)
        refused = await publishing(bus, "a", 2)
        await grant_by_reading(bus, events)
        closing = asyncio.ensure_future(bus.aclose())
        assert (await within(granted)).event.data == 1
        with pytest.raises(BusClosed):
            await within(refused)
        await within(closing)
        assert [event.data async for event in events] == [1]
    assert bus.statistics().events == 2


async def test_waiting_publishers_are_refused_when_the_bus_closes() -> None:
    """`aclose` before a place comes free: nothing of the waiting events is accepted."""
    bus = EventBus()
    gated = Gated(bus, "a", name="a")
    await fill(bus, "a")
    waiting = [await publishing(bus, "a", number) for number in range(3)]
    closing = asyncio.ensure_future(bus.aclose())
    await asyncio.sleep(0)
    gated.open()
    found = await within(asyncio.gather(*waiting, return_exceptions=True))
    assert [type(each) for each in found] == [BusClosed] * 3
    await within(closing)
    assert real(gated) == []


async def test_a_redelivery_waits_in_line_and_for_its_own_subscription_alone() -> None:
    """Served in order of arrival; if its subscription leaves, the letter stays where it is."""
    bus, gate, seen = EventBus(), asyncio.Event(), []

    async def handle(event: Event[Any]) -> None:
        seen.append(event.data)
        if event.data == "fails" and len(seen) < 2:
            raise ValueError
        await gate.wait()

    sub = bus.subscribe(handle, "a", capacity=1, name="mine")
    bystander: list[Any] = []
    bus.subscribe(lambda event: bystander.append(event.data), "a")
    await within(bus.publish_and_wait("a", "fails"))
    [letter] = bus.dead_letters
    await fill(bus, "a")
    before = await publishing(bus, "a", "before")
    again = asyncio.ensure_future(bus.redeliver(letter))
    await asyncio.sleep(0)
    after = await publishing(bus, "a", "after")
    cancelled = asyncio.ensure_future(bus.redeliver(letter))
    await asyncio.sleep(0)
    cancelled.cancel()
    await turns(2)
    assert letter in bus.dead_letters
    gate.set()
    await within(asyncio.gather(before, again, after))
    await within(bus.settle())
    assert seen == ["fails", "filler", "filler", "before", "fails", "after"]
    assert bystander == ["fails", "filler", "filler", "before", "after"]
    assert list(bus.dead_letters) == []
    gate.clear()
    await fill(bus, "a")
    refused = asyncio.ensure_future(bus.redeliver(letter))
    await asyncio.sleep(0)
    bus.subscribe(lambda event: None, "a")
    sub.unsubscribe()
    with pytest.raises(NotSubscribed):
        await within(refused)
    gate.set()
    await within(bus.settle())
    assert balances(bus)


async def test_a_publisher_that_waited_is_dated_when_it_was_accepted() -> None:
    """`event.time` is the moment of acceptance, not that of the call."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    gated = Gated(bus, "a", name="a")
    await fill(bus, "a")
    before = (await bus.publish("elsewhere")).event
    waiting = await publishing(bus, "a", 1)
    clock.advance(3)
    gated.open()
    receipt = await within(waiting)
    assert (receipt.event.time - before.time).total_seconds() == 3
    await within(bus.settle())


async def test_a_publisher_that_waits_five_seconds_causes_one_warning() -> None:
    """It names every subscription in the way, the topic and the id; once per publisher."""
    clock, lines = FakeClock(), LogLines()
    bus = EventBus(clock=clock, hooks=[lines])
    a = Gated(bus, "a", "both", name="first")
    b = Gated(bus, "b", "both", name="second")
    Gated(bus, "both", capacity=9, name="free").open()
    await fill(bus, "a")
    await fill(bus, "b")
    both = await publishing(bus, "both", 1)
    clock.advance(3)
    later = await publishing(bus, "a", 2)
    clock.advance(1.9)
    assert lines.named("publish.waiting") == []
    clock.advance(0.1)
    [line] = lines.named("publish.waiting")
    assert line.level == "warning"
    fields = dict(line.fields)
    assert fields.pop("event_id").startswith("evt_")
    assert fields == {
        "bus": "eventbus",
        "topic": "both",
        "seconds": 5.0,
        "subscriptions": ["first", "second"],
        "publishers": 2,
    }
    clock.advance(3)
    assert [dict(each.fields)["topic"] for each in lines.named("publish.waiting")] == ["both", "a"]
    clock.advance(1_000)
    assert len(lines.named("publish.waiting")) == 2
    assert clock.next_timer is None
    a.open()
    b.open()
    await within(asyncio.gather(both, later))
    await within(bus.settle())


async def test_a_publisher_that_gets_its_place_in_time_causes_no_warning() -> None:
    """Nor does one that is cancelled, or refused; the bus keeps no timer for them."""
    clock, lines = FakeClock(), LogLines()
    bus = EventBus(clock=clock, hooks=[lines])
    gated = Gated(bus, "a", name="a")
    await fill(bus, "a")
    accepted = await publishing(bus, "a", 1)
    cancelled = await publishing(bus, "a", 2)
    clock.advance(4)
    await gated.step()
    cancelled.cancel()
    await asyncio.wait([accepted, cancelled])
    assert clock.next_timer is None
    clock.advance(10)
    assert lines.named("publish.waiting") == []
    gated.open()
    await within(bus.settle())


async def test_the_warning_comes_again_for_later_publishers() -> None:
    """The timer is set anew after a time in which nobody waited."""
    clock, lines = FakeClock(), LogLines()
    bus = EventBus(clock=clock, hooks=[lines])
    gated = Gated(bus, "a", name="a")
    for number in range(2):
        await fill(bus, "a")
        waiting = await publishing(bus, "a", number)
        clock.advance(5)
        assert len(lines.named("publish.waiting")) == number + 1
        await gated.step(3)
        await within(waiting)
        await within(bus.settle())


@pytest.mark.parametrize("start", [0.0, 6.5418910644965935, 1e9 / 3])
async def test_the_warning_comes_at_any_time_of_day(start: float) -> None:
    """Sums of floats do not make the timer miss its moment, or be set again and again for it."""
    clock, lines = FakeClock(start), LogLines()
    bus = EventBus(clock=clock, hooks=[lines])
    gated = Gated(bus, "a", name="a")
    await fill(bus, "a")
    waiting = await publishing(bus, "a", 1)
    clock.advance(5)
    clock.advance(1e-6)
    assert len(lines.named("publish.waiting")) == 1
    gated.open()
    await within(waiting)
    await within(bus.settle())


class LoopsClock(FakeClock):
    """A clock whose timers go down with the loop on which they were set, as real ones do."""

    def call_later(self, delay: float, callback: Callable[[], object]) -> Any:
        loop = asyncio.get_running_loop()
        return super().call_later(delay, lambda: None if loop.is_closed() else callback())


def test_a_publisher_on_a_second_loop_is_warned_for_too() -> None:
    """A timer that went down with its loop does not keep later publishers from being named."""
    clock, lines = LoopsClock(), LogLines()
    bus = EventBus(clock=clock, hooks=[lines])

    async def wait_for_room(seconds: float) -> None:
        gated = Gated(bus, "a", name="a")
        await fill(bus, "a")
        waiting = await publishing(bus, "a", 1)
        clock.advance(seconds)
        gated.open()
        await within(waiting)
        await within(bus.settle())
        gated.sub.unsubscribe()

    asyncio.run(wait_for_room(1))
    asyncio.run(wait_for_room(5))
    assert len(lines.named("publish.waiting")) == 1
