"""P8: an event goes to the subscriptions that existed when it was accepted.

And: after `unsubscribe()` returned no new call starts; what was queued ends *cancelled*.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from eventbus import Event, EventBus, Hook, NameTaken, Retry, Subscription
from eventbus.testing import FakeClock
from tests.helpers import balances, turns, within


def ignore(event: Event[Any]) -> None:
    """A handler that does nothing."""


async def statuses(receipt: Any) -> list[tuple[str, str]]:
    """The ends of an event's deliveries, by subscription."""
    outcomes = await within(receipt.outcomes())
    return [(outcome.subscription, outcome.status) for outcome in outcomes]


async def test_a_later_subscription_does_not_get_an_earlier_event() -> None:
    """Whoever subscribes between accept and handling gets only what comes after."""
    bus, seen = EventBus(), []
    bus.subscribe(lambda event: seen.append(("old", event.data)), "a")
    await bus.publish("a", 1)
    bus.subscribe(lambda event: seen.append(("new", event.data)), "a")
    await bus.publish("a", 2)
    await within(bus.settle())
    assert seen == [("old", 1), ("old", 2), ("new", 2)]


async def test_a_handler_that_subscribes_does_not_reach_its_own_event() -> None:
    """A subscription made while an event is handled gets none of its deliveries."""
    bus, seen = EventBus(), []

    def handle(event: Event[Any]) -> None:
        bus.subscribe(lambda event: seen.append(event.data), "a")

    bus.subscribe(handle, "a", once=True)
    await bus.publish_and_wait("a", 1)
    await bus.publish_and_wait("a", 2)
    assert seen == [2]


async def test_a_waiting_event_goes_to_who_listens_when_it_is_accepted() -> None:
    """For a publisher that waits for room, the snapshot is of the moment of acceptance."""
    bus, seen = EventBus(), []
    gate = asyncio.Event()

    async def slow(event: Event[Any]) -> None:
        await gate.wait()

    bus.subscribe(slow, "a", capacity=1)
    left = bus.subscribe(lambda event: seen.append(("left", event.data)), "a")
    for number in range(2):
        await bus.publish("a", number)
        await asyncio.sleep(0)
    waiting = asyncio.ensure_future(bus.publish("a", 2))
    await asyncio.sleep(0)
    assert not waiting.done()
    left.unsubscribe()
    bus.subscribe(lambda event: seen.append(("came", event.data)), "a")
    gate.set()
    receipt = await within(waiting)
    assert [status for _, status in await statuses(receipt)] == ["handled", "handled"]
    await within(bus.settle())
    assert seen == [("left", 0), ("left", 1), ("came", 2)]


async def test_no_call_starts_after_unsubscribe_and_what_was_queued_is_cancelled() -> None:
    """Everything that was queued ends *cancelled*, in its receipt and in the statistics."""
    bus, seen = EventBus(), []
    sub = bus.subscribe(lambda event: seen.append(event.data), "a", name="leaver")
    receipts = [await bus.publish("a", number) for number in range(3)]
    sub.unsubscribe()
    assert sub.statistics().cancelled == bus.statistics().cancelled == 3
    assert balances(sub, bus)
    for receipt in receipts:
        assert await statuses(receipt) == [("leaver", "cancelled")]
    await within(bus.settle())
    assert seen == []


async def test_unsubscribe_lets_the_running_call_end() -> None:
    """A handler that runs when its subscription leaves goes on to its end, and is handled."""
    bus, gate, seen = EventBus(), asyncio.Event(), []

    async def slow(event: Event[Any]) -> str:
        await gate.wait()
        seen.append(event.data)
        return "done"

    sub = bus.subscribe(slow, "a", name="slow")
    first = await bus.publish("a", 1)
    second = await bus.publish("a", 2)
    await turns(2)
    sub.unsubscribe()
    assert sub.statistics().pending == 1
    gate.set()
    assert await statuses(first) == [("slow", "handled")]
    assert await statuses(second) == [("slow", "cancelled")]
    assert seen == [1]
    assert balances(sub, bus)


async def test_unsubscribe_is_idempotent_and_a_context_manager() -> None:
    """Twice is once; leaving the block is once; the name is free again."""
    bus = EventBus()
    with bus.subscribe(ignore, "a", name="n") as sub:
        with pytest.raises(NameTaken):
            bus.subscribe(ignore, "a", name="n")
        await bus.publish("a")
    assert not sub.active
    sub.unsubscribe()
    assert sub.statistics().cancelled == 1
    assert list(bus.subscriptions) == []
    again = bus.subscribe(ignore, "a", name="n")
    sub.unsubscribe()
    assert list(bus.subscriptions) == [again]
    assert (await bus.publish_and_wait("a"))[0].status == "handled"
    await within(bus.settle())


async def test_unsubscribe_from_the_handler_itself() -> None:
    """Interleaving 5 (a): the handler that leaves is handled; what follows is cancelled."""
    bus, seen = EventBus(), []

    def leave(event: Event[Any]) -> None:
        seen.append(event.data)
        sub.unsubscribe()

    sub = bus.subscribe(leave, "a", name="leaver")
    receipts = [await bus.publish("a", number) for number in range(3)]
    found = [(await statuses(receipt))[0][1] for receipt in receipts]
    assert found == ["handled", "cancelled", "cancelled"]
    assert seen == [0]
    assert balances(sub, bus)


@pytest.mark.parametrize("order", ["leaver first", "leaver last"])
async def test_unsubscribe_from_another_handler_of_the_same_batch(order: str) -> None:
    """Another handler may take a subscription off the bus while both are ready."""
    bus, seen = EventBus(), []

    def other(event: Event[Any]) -> None:
        sub.unsubscribe()

    def leaver(event: Event[Any]) -> None:
        seen.append(event.data)

    if order == "leaver last":
        bus.subscribe(other, "a")
    sub = bus.subscribe(leaver, "a")
    if order == "leaver first":
        bus.subscribe(other, "a")
    await bus.publish("a", 1)
    if order == "leaver last":
        await bus.publish("a", 2)
    await within(bus.settle())
    assert seen == ([1] if order == "leaver first" else [])
    assert balances(sub, bus)


async def test_unsubscribe_while_in_back_off_fails_with_the_last_error() -> None:
    """Interleaving 5 (b): a delivery that waits for its retry ends failed; no attempt follows."""
    clock = FakeClock()
    bus, attempts = EventBus(clock=clock), []

    async def fail(event: Event[Any]) -> None:
        attempts.append(event.data)
        raise ValueError("last")

    sub = bus.subscribe(fail, "a", name="f", retry=Retry(attempts=5, initial=1, jitter=0))
    first = await bus.publish("a", 1)
    second = await bus.publish("a", 2)
    for _ in range(3):
        await asyncio.sleep(0)
    sub.unsubscribe()
    [outcome] = await within(first.outcomes())
    assert (outcome.status, repr(outcome.error)) == ("failed", "ValueError('last')")
    assert await statuses(second) == [("f", "cancelled")]
    clock.advance(100)
    await within(bus.settle())
    assert attempts == [1]
    assert [letter.attempts for letter in bus.dead_letters] == [1]
    assert balances(sub, bus)


async def test_unsubscribe_after_the_pause_and_before_the_retry_starts_nothing() -> None:
    """Interleaving 5 (b): the pause is over, the next attempt has not begun: it never will."""
    clock = FakeClock()
    bus, attempts = EventBus(clock=clock), []

    def fail(event: Event[Any]) -> None:
        attempts.append(event.data)
        raise ValueError("last")

    sub = bus.subscribe(fail, "a", retry=Retry(attempts=5, initial=1, jitter=0))
    receipt = await bus.publish("a", 1)
    for _ in range(3):
        await asyncio.sleep(0)
    clock.advance(1)
    sub.unsubscribe()
    assert (await statuses(receipt))[0][1] == "failed"
    await within(bus.settle())
    assert attempts == [1]
    assert balances(sub, bus)


async def test_unsubscribe_in_back_off_serves_all_who_wait_for_room() -> None:
    """Interleaving 5 (b) and (c): back-off, a full queue and three publishers in its line."""
    clock = FakeClock()
    bus = EventBus(clock=clock)

    def fail(event: Event[Any]) -> None:
        raise ValueError

    sub = bus.subscribe(fail, "a", capacity=1, retry=Retry(attempts=5, initial=1))
    await bus.publish("a", 0)
    await asyncio.sleep(0)
    await bus.publish("a", 1)
    publishers = [asyncio.ensure_future(bus.publish("a", number)) for number in (2, 3, 4)]
    await asyncio.sleep(0)
    assert not any(publisher.done() for publisher in publishers)
    sub.unsubscribe()
    receipts = await within(asyncio.gather(*publishers))
    assert [await statuses(receipt) for receipt in receipts] == [[], [], []]
    assert bus.statistics().unhandled == 3
    assert balances(sub, bus)


async def test_unsubscribe_frees_publishers_that_waited_for_this_queue_alone() -> None:
    """Interleaving 5 (c): the event then goes to the others, or is unhandled."""
    bus, gate, seen = EventBus(), asyncio.Event(), []

    async def slow(event: Event[Any]) -> None:
        await gate.wait()

    sub = bus.subscribe(slow, "a", capacity=1)
    bus.subscribe(lambda event: seen.append(event.data), "a")
    for number in range(2):
        await bus.publish("a", number)
        await asyncio.sleep(0)
    publishers = [asyncio.ensure_future(bus.publish("a", number)) for number in (2, 3)]
    await asyncio.sleep(0)
    assert seen == [0, 1]
    sub.unsubscribe()
    gate.set()
    await within(asyncio.gather(*publishers))
    await within(bus.settle())
    assert seen == [0, 1, 2, 3]
    assert balances(sub, bus)


async def test_once_gets_exactly_one_event_and_leaves_at_once() -> None:
    """`once` is off the bus when `publish` returns, and handles the one event it has accepted."""
    bus, seen = EventBus(), []
    sub = bus.subscribe(lambda event: seen.append(event.data), "a", once=True)
    for number in range(3):
        bus.publish_nowait("a", number)
        assert not sub.active
    assert bus.subscriptions == ()
    await within(bus.settle())
    assert seen == [0]
    assert sub.statistics().accepted == bus.statistics().accepted == 1


async def test_unsubscribe_while_the_once_delivery_is_queued() -> None:
    """Interleaving 5 (d): it has left the index, and `unsubscribe` still cancels its event."""
    bus, seen = EventBus(), []
    sub = bus.subscribe(lambda event: seen.append(event.data), "a", once=True, name="o")
    receipt = await bus.publish("a", 1)
    sub.unsubscribe()
    assert await statuses(receipt) == [("o", "cancelled")]
    await within(bus.settle())
    assert seen == []
    assert balances(sub, bus)


async def test_once_with_where_leaves_at_the_first_event_it_wants() -> None:
    """An event that `where` refuses is not accepted by the subscription, so it stays."""
    bus, seen = EventBus(), []
    bus.subscribe(
        lambda event: seen.append(event.data), "a", once=True, where=lambda event: event.data > 1
    )
    for number in range(4):
        bus.publish_nowait("a", number)
    await within(bus.settle())
    assert seen == [2]


async def test_two_once_subscriptions_and_a_nested_event_in_the_same_turn() -> None:
    """Each of several `once` subscriptions gets one event, nested publishes included."""
    bus, seen = EventBus(), []

    async def first(event: Event[Any]) -> None:
        seen.append(("first", event.data))
        await bus.publish("a", event.data + 1)

    bus.subscribe(first, "a", once=True)
    bus.subscribe(lambda event: seen.append(("second", event.data)), "a", once=True)
    await bus.publish("a", 1)
    await within(bus.settle())
    assert sorted(seen) == [("first", 1), ("second", 1)]


class LeavesAt(Hook):
    """Unsubscribes somebody when one of its methods is called."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.sub: Subscription | None = None
        self.armed = False

    def _leave(self, method: str) -> None:
        if self.armed and method == self.method and self.sub is not None:
            self.sub.unsubscribe()


class LeavesAtAccept(LeavesAt):
    def accepted(self, event: Event[Any], deliveries: int) -> None:
        self._leave("accepted")


class LeavesAtStart(LeavesAt):
    def attempt_started(self, event: Event[Any], delivery: Any) -> None:
        self._leave("attempt_started")


@pytest.mark.parametrize("hook", [LeavesAtAccept("accepted"), LeavesAtStart("attempt_started")])
async def test_a_hook_may_unsubscribe_when_a_delivery_is_about_to_start(hook: LeavesAt) -> None:
    """Also if the event has just been taken off its queue, no new call starts."""
    bus, seen = EventBus(hooks=[hook]), []
    hook.sub = sub = bus.subscribe(lambda event: seen.append(event.data), "a", capacity=1)
    waiting = asyncio.Task(bus.publish("a", 2))  # never eager: accepted when 1 is taken off
    receipt = await bus.publish("a", 1)
    hook.armed = True
    await within(bus.settle())
    await within(waiting)
    await within(bus.settle())
    hook.armed = False
    (outcome,) = await receipt.outcomes()
    assert (outcome.status, outcome.attempts) == ("cancelled", 0)
    assert seen == []
    assert not sub.active
    assert balances(sub, bus)


async def test_unsubscribe_while_a_delivery_waits_for_a_thread() -> None:
    """A `thread=True` delivery that no thread has taken yet does not start any more."""
    release, seen = threading.Event(), []

    def hold(event: Event[Any]) -> None:
        release.wait(5)

    async with EventBus(threads=1) as bus:
        bus.subscribe(hold, "hold", thread=True)
        sub = bus.subscribe(lambda event: seen.append(event.data), "a", thread=True, name="late")
        await bus.publish("hold")
        await asyncio.sleep(0)
        receipt = await bus.publish("a", 1)
        for _ in range(5):
            await asyncio.sleep(0)
        sub.unsubscribe()
        release.set()
        assert await statuses(receipt) == [("late", "cancelled")]
    assert seen == []
    assert balances(sub, bus)
