"""P5: bounded memory. Outsiders wait or lose events by policy; insiders are counted and stopped."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any, Literal

import pytest

from eventbus import BusClosed, CascadeOverflow, Event, EventBus, Receipt, WouldBlock
from tests.helpers import balances, pending_nested, turns, within


def ignore(event: Event[Any]) -> None:
    """A handler that does nothing."""


async def test_a_queue_holds_at_most_capacity_events_beside_those_that_run() -> None:
    """With `concurrency` handlers at work, `capacity` further events are accepted, and no more."""
    bus, gate = EventBus(), asyncio.Event()

    async def slow(event: Event[Any]) -> None:
        await gate.wait()

    sub = bus.subscribe(slow, "a", capacity=3, concurrency=2)
    publishers = [asyncio.ensure_future(bus.publish("a", number)) for number in range(9)]
    await turns(20)
    assert [publisher.done() for publisher in publishers] == [True] * 5 + [False] * 4
    assert sub.statistics().pending == 5
    with pytest.raises(WouldBlock):
        bus.publish_nowait("a")
    gate.set()
    await within(asyncio.gather(*publishers))
    await within(bus.settle())
    assert sub.statistics().handled == 9


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
@pytest.mark.parametrize("keyed", [False, True])
async def test_drop_policies_lose_the_events_they_say(
    overflow: Literal["drop_oldest", "drop_newest"], keyed: bool
) -> None:
    """Nobody waits; what is dropped stands in receipt and statistics, and the rest is handled."""
    bus, seen = EventBus(), []

    def handle(event: Event[Any]) -> None:
        seen.append(event.data)

    if keyed:
        sub = bus.subscribe(
            handle, "a", capacity=2, overflow=overflow, concurrency=9, key=lambda event: event.data
        )
    else:
        sub = bus.subscribe(handle, "a", capacity=2, overflow=overflow)
    bus.subscribe(ignore, "a")  # behind the full queue: it loses nothing by that
    receipts = [bus.publish_nowait("a", number) for number in range(5)]
    assert sub.statistics().pending == 2
    ends = [(await within(receipt.outcomes()))[0].status for receipt in receipts]
    if overflow == "drop_oldest":
        assert seen == [3, 4]
        assert ends == ["dropped"] * 3 + ["handled"] * 2
    else:
        assert seen == [0, 1]
        assert ends == ["handled"] * 2 + ["dropped"] * 3
    assert sub.statistics().dropped == bus.statistics().dropped == 3
    assert bus.statistics().handled == 7
    assert balances(bus, sub)


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_drop_policies_apply_to_nested_events_too(
    overflow: Literal["drop_oldest", "drop_newest"],
) -> None:
    """A handler that publishes to a full queue that drops does not make it grow."""
    bus, seen = EventBus(), []

    async def handle(event: Event[Any]) -> None:
        for number in range(5):
            await bus.publish("b", number)
        assert sub.statistics().pending == 2

    bus.subscribe(handle, "a")
    sub = bus.subscribe(lambda event: seen.append(event.data), "b", capacity=2, overflow=overflow)
    [outcome] = await within(bus.publish_and_wait("a", check=True))
    assert outcome.status == "handled"
    await within(bus.settle())
    assert seen == ([3, 4] if overflow == "drop_oldest" else [0, 1])
    assert sub.statistics().dropped == 3


async def test_a_publish_inside_a_handler_never_waits() -> None:
    """A handler that publishes into its own full queue goes on; the queue grows, in order."""
    bus, seen = EventBus(), []

    async def handle(event: Event[Any]) -> None:
        seen.append(event.data)
        if event.data == 0:
            for number in range(1, 20):
                await bus.publish("a", number)
                bus.publish_nowait("a", -number)

    sub = bus.subscribe(handle, "a", capacity=1)
    await bus.publish("a", 0)
    await within(bus.settle())
    assert seen == [0] + [sign * number for number in range(1, 20) for sign in (1, -1)]
    assert balances(sub)


async def test_a_queue_grown_by_nested_events_stays_full_for_outsiders() -> None:
    """An outsider is let in when the queue is below its capacity again, and not before."""
    bus, gate, seen = EventBus(), asyncio.Event(), []

    async def handle(event: Event[Any]) -> None:
        seen.append(event.data)
        if event.data == "root":
            for number in range(3):
                await bus.publish("a", number)
            await gate.wait()

    bus.subscribe(handle, "a", capacity=2)
    await bus.publish("a", "root")
    await turns(3)
    outsider = asyncio.ensure_future(bus.publish("a", "outsider"))
    await turns(3)
    assert not outsider.done()
    gate.set()
    await within(outsider)
    await within(bus.settle())
    assert seen == ["root", 0, 1, 2, "outsider"]


async def test_nested_events_keep_their_order_in_full_lanes() -> None:
    """Nested events that find a keyed queue full stand in the lanes of their keys, in order."""
    bus, seen = EventBus(), []

    async def handle(event: Event[Any]) -> None:
        key, number = event.data
        await turns(3 - number)
        seen.append((key, number))
        if number == 0:
            await bus.publish("a", (key, 1))
            await bus.publish("a", (key, 2))

    bus.subscribe(handle, "a", capacity=1, concurrency=3, key=lambda event: event.data[0])
    for key in "xyz":
        await within(bus.publish("a", (key, 0)))
    await within(bus.settle())
    for key in "xyz":
        assert [number for each, number in seen if each == key] == [0, 1, 2]


async def test_inside_is_inside_of_any_bus() -> None:
    """A handler of one bus does not wait for room on another, and is charged to its own root."""
    first, second, seen = EventBus(), EventBus(cascade_limit=3), []

    async def handle(event: Event[Any]) -> None:
        try:
            for number in range(9):
                await second.publish("b", number)
        except CascadeOverflow:
            seen.append("overflow")

    first.subscribe(handle, "a")
    second.subscribe(lambda event: seen.append(event.data), "b", capacity=1)
    receipt = await first.publish("a")
    await within(receipt.outcomes(cascade=True))
    assert seen == ["overflow", 0, 1, 2]


async def test_one_root_may_have_cascade_limit_nested_deliveries_pending() -> None:
    """The publish that would be one too many raises in its handler, and accepts nothing."""
    bus, seen = EventBus(cascade_limit=4), []

    async def handle(event: Event[Any]) -> None:
        for number in range(9):
            await bus.publish("b", number)

    bus.subscribe(handle, "a", name="flood")
    bus.subscribe(lambda event: seen.append(event.data), "b")
    bus.subscribe(lambda event: seen.append(event.data), "b")  # two deliveries an event
    [outcome] = await within(bus.publish_and_wait("a"))
    assert isinstance(outcome.error, CascadeOverflow)
    await within(bus.settle())
    assert seen == [0, 0, 1, 1] or sorted(seen) == [0, 0, 1, 1]
    assert bus.statistics().events == 3
    assert balances(bus)


async def test_the_limit_is_for_what_is_pending_and_for_one_root() -> None:
    """What has ended frees the budget; another root, and the outside, have their own."""
    bus = EventBus(cascade_limit=2)

    async def handle(event: Event[Any]) -> None:
        for _ in range(5):
            receipts = [await bus.publish("b"), await bus.publish("b")]
            for receipt in receipts:
                await receipt.outcomes()

    bus.subscribe(handle, "a", concurrency=3)
    bus.subscribe(ignore, "b")
    roots = [await bus.publish("a") for _ in range(3)]
    for root in roots:
        await within(root.outcomes(check=True))
        assert pending_nested(root) == 0
    for _ in range(9):
        bus.publish_nowait("b")
    await within(bus.settle())


async def test_the_budget_is_given_back_whatever_end_the_nested_events_have() -> None:
    """Handled, failed, dropped, cancelled, read by a stream, reaching nobody: all give back."""
    bus = EventBus(cascade_limit=6)
    roots: list[Receipt] = []

    def fail(event: Event[Any]) -> None:
        raise ValueError

    async def handle(event: Event[Any]) -> None:
        await bus.publish("b")
        await bus.publish("nobody")
        leaver.unsubscribe()

    def refuse(event: Event[Any]) -> bool:
        raise ValueError

    bus.subscribe(handle, "a")
    bus.subscribe(fail, "b")
    bus.subscribe(ignore, "b", where=refuse)
    bus.subscribe(ignore, "b", capacity=1, overflow="drop_oldest")
    leaver = bus.subscribe(ignore, "b")
    bus.subscribe(ignore, "b")
    async with bus.stream("b") as events:
        for _ in range(2):
            roots.append(await bus.publish("a"))
            await within(bus.settle())
            await within(anext(events))
    assert [pending_nested(root) for root in roots] == [0, 0]


async def test_unread_events_in_streams_count_as_pending_nested() -> None:
    """A handler that floods a stream that nobody reads is stopped as well."""
    bus = EventBus(cascade_limit=5)

    async def flood(event: Event[Any]) -> None:
        while True:
            await bus.publish("b")

    bus.subscribe(flood, "a")
    async with bus.stream("b", overflow="block", capacity=1) as events:
        [outcome] = await within(bus.publish_and_wait("a"))
        assert isinstance(outcome.error, CascadeOverflow)
        for _ in range(5):
            await within(anext(events))
    await within(bus.settle())


@pytest.mark.parametrize("depth", [1, 3])
async def test_a_chain_may_be_cascade_depth_long(depth: int) -> None:
    """A handler that publishes what it handles is stopped, though never much is pending."""
    bus, seen = EventBus(cascade_depth=depth), []

    async def again(event: Event[Any]) -> None:
        seen.append(event.data)
        await bus.publish("a", event.data + 1)

    bus.subscribe(again, "a")
    await bus.publish("a", 0)
    await within(bus.settle())
    assert seen == list(range(depth + 1))
    [letter] = bus.dead_letters
    assert isinstance(letter.error, CascadeOverflow)
    assert balances(bus)


async def test_the_defaults_are_10_000_pending_and_chains_of_1_000() -> None:
    """A chain without end stops after 1,000 nested events; a flood at 10,000."""
    bus, longest = EventBus(), 0

    async def again(event: Event[Any]) -> None:
        nonlocal longest
        longest = event.data
        await bus.publish("a", event.data + 1)

    async def flood(event: Event[Any]) -> None:
        nonlocal longest
        longest = 0
        while True:
            bus.publish_nowait("nothing")
            longest += 1

    bus.subscribe(again, "a")
    await bus.publish("a", 0)
    await within(bus.settle())
    assert longest == 1_000
    assert bus._cascade_limit == 10_000


async def leftover_publisher(
    bus: EventBus, release: asyncio.Event, results: list[Any], way: str
) -> None:
    """What a handler leaves behind: it publishes once the handler has ended."""
    await release.wait()
    try:
        if way == "nowait":
            results.append(bus.publish_nowait("b", "leftover"))
        else:
            results.append(await bus.publish("b", "leftover"))
    except (WouldBlock, BusClosed) as error:
        results.append(type(error))


@pytest.mark.parametrize("way", ["nowait", "await"])
async def test_a_task_that_a_handler_left_behind_publishes_as_an_outsider(way: str) -> None:
    """It waits for room once the delivery has ended; its event keeps cause and root."""
    bus, release, gate = EventBus(cascade_limit=1), asyncio.Event(), asyncio.Event()
    results: list[Any] = []
    tasks: list[asyncio.Task[None]] = []

    async def handle(event: Event[Any]) -> None:
        tasks.append(asyncio.ensure_future(leftover_publisher(bus, release, results, way)))
        await asyncio.sleep(0)

    async def slow(event: Event[Any]) -> None:
        await gate.wait()

    bus.subscribe(handle, "a")
    bus.subscribe(slow, "b", capacity=1)
    root = await bus.publish("a")
    await within(root.outcomes(check=True))
    for _ in range(2):
        await bus.publish("b")
        await turns(2)
    release.set()
    await turns(3)
    if way == "nowait":
        assert results == [WouldBlock]
        gate.set()
        await within(bus.settle())
        return
    assert results == []  # it waits
    gate.set()
    await within(asyncio.gather(*tasks))
    [receipt] = results
    assert receipt.event.cause == receipt.event.root == root.event.id
    assert root.cascade_done
    await within(bus.settle())


async def test_a_task_of_a_handler_is_inside_while_the_handler_runs() -> None:
    """The same task does not wait as long as the delivery goes on, retries and all."""
    bus, gate = EventBus(), asyncio.Event()
    results: list[Any] = []

    async def handle(event: Event[Any]) -> None:
        go = asyncio.Event()
        go.set()
        await asyncio.ensure_future(leftover_publisher(bus, go, results, "await"))
        await asyncio.ensure_future(leftover_publisher(bus, go, results, "nowait"))

    async def slow(event: Event[Any]) -> None:
        await gate.wait()

    bus.subscribe(handle, "a")
    sub = bus.subscribe(slow, "b", capacity=1)
    for _ in range(2):
        await bus.publish("b")
        await turns(2)
    root = await bus.publish("a")
    await within(root.outcomes(check=True))
    assert sub.statistics().pending == 4
    gate.set()
    await within(root.outcomes(cascade=True))


async def test_a_leftover_task_is_refused_by_a_closing_bus() -> None:
    """While the bus drains, handlers publish; what they left behind may not."""
    bus, release, gate = EventBus(), asyncio.Event(), asyncio.Event()
    results: list[Any] = []
    tasks: list[asyncio.Task[None]] = []

    async def handle(event: Event[Any]) -> None:
        tasks.append(asyncio.ensure_future(leftover_publisher(bus, release, results, "await")))

    async def slow(event: Event[Any]) -> None:
        await gate.wait()

    bus.subscribe(handle, "a")
    bus.subscribe(slow, "c")
    await within(bus.publish_and_wait("a"))
    await bus.publish("c")
    await turns(2)
    closing = asyncio.ensure_future(bus.aclose())
    await turns(1)
    release.set()
    await within(asyncio.gather(*tasks))
    assert results == [BusClosed]
    gate.set()
    await within(closing)


async def test_a_copied_context_is_outside_after_the_delivery_too() -> None:
    """The delivery decides, not the task: a context kept from a handler is an outsider's."""
    bus = EventBus()
    contexts: list[contextvars.Context] = []
    bus.subscribe(lambda event: contexts.append(contextvars.copy_context()), "a")
    bus.subscribe(ignore, "b", capacity=1)
    root = await bus.publish("a")
    await within(bus.settle())
    bus.publish_nowait("b")
    with pytest.raises(WouldBlock):
        contexts[0].run(bus.publish_nowait, "b")
    await within(bus.settle())
    receipt = contexts[0].run(bus.publish_nowait, "b")
    assert receipt.event.cause == root.event.id
    await within(bus.settle())
