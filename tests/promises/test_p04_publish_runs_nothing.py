"""P4: `publish` never runs a handler, and gives the loop a turn at least once per 256 events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from eventbus import Event, EventBus, Receipt
from tests.helpers import within

TURN_EVERY = 256


def run_without_loop_turn(coroutine: Any) -> Any:
    """The result of a coroutine that ends in its first step; fails the test if it suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise AssertionError("it gave the loop a turn")


async def call_nothing(event: Event[Any]) -> None:
    """A handler that does nothing, without waiting."""


async def longest_stretch(publish_all: Callable[[], Any], count: Callable[[], int]) -> int:
    """The most events that were accepted while the loop got no turn."""
    loop = asyncio.get_running_loop()
    longest = last = 0
    running = True

    def look() -> None:
        nonlocal longest, last
        longest = max(longest, count() - last)
        last = count()
        if running:
            loop.call_soon(look)

    look()
    await within(publish_all())
    look()
    running = False
    return longest


@pytest.mark.parametrize("way", ["async def", "def", "returns an awaitable"])
async def test_publish_runs_no_handler_in_its_call_stack(way: str) -> None:
    """Any kind of handler has not begun when an uncontended `publish` has returned."""
    bus, ran = EventBus(), []

    async def handle(event: Event[Any]) -> None:
        ran.append(event.data)

    def handle_plainly(event: Event[Any]) -> None:
        ran.append(event.data)

    def handle_later(event: Event[Any]) -> Any:
        ran.append("called")
        return handle(event)

    handlers = {"async def": handle, "def": handle_plainly, "returns an awaitable": handle_later}
    bus.subscribe(handlers[way], "a")
    receipt = run_without_loop_turn(bus.publish("a", 1))
    assert isinstance(receipt, Receipt)
    bus.publish_nowait("a", 2)
    assert ran == []
    await within(bus.settle())
    assert [each for each in ran if each != "called"] == [1, 2]


async def test_publish_in_a_handler_runs_no_handler() -> None:
    """A nested publish returns before any handler of its event, itself included, has begun."""
    bus, seen = EventBus(), []

    async def outer(event: Event[Any]) -> None:
        seen.append(f"begin {event.type}")
        if event.type == "a":
            run_without_loop_turn(bus.publish("b"))
            bus.publish_nowait("b")
        seen.append(f"end {event.type}")

    bus.subscribe(outer, "a", "b")
    bus.subscribe(lambda event: seen.append("other"), "b")
    await bus.publish("a")
    await within(bus.settle())
    assert seen[:2] == ["begin a", "end a"]
    assert seen.count("other") == 2
    assert seen.count("end b") == 2


async def test_publish_that_is_careful_runs_no_handler() -> None:
    """Predicates, keys, `once` and drop policies do not make `publish` run a handler either."""
    bus, ran = EventBus(), []

    def handle(event: Event[Any]) -> None:
        ran.append(event.data)

    bus.subscribe(handle, where=lambda event: True)
    bus.subscribe(handle, key=lambda event: event.data, concurrency=2)
    bus.subscribe(handle, once=True)
    bus.subscribe(handle, capacity=1, overflow="drop_oldest")
    bus.subscribe(handle, capacity=1, overflow="drop_newest")
    for number in range(3):
        run_without_loop_turn(bus.publish("a", number))
    assert ran == []
    await within(bus.settle())
    assert sorted(ran) == [0, 0, 0, 0, 1, 1, 2, 2, 2]


async def test_publish_that_frees_nothing_runs_nobody_elses_handler() -> None:
    """Handlers that others' events have made ready do not run in a `publish` that has room."""
    bus, ran = EventBus(), []
    bus.subscribe(lambda event: ran.append(1), "a")
    bus.subscribe(lambda event: ran.append(2), "b")
    bus.publish_nowait("a")
    run_without_loop_turn(bus.publish("b"))
    assert ran == []
    await within(bus.settle())
    assert ran == [1, 2]


@pytest.mark.parametrize("subscribers", [0, 1, 3])
async def test_publish_gives_the_loop_a_turn_per_256_accepted_events(subscribers: int) -> None:
    """One publisher in a loop lets others run, also if nobody listens."""
    bus = EventBus()
    for _ in range(subscribers):
        bus.subscribe(call_nothing, "a", capacity=10_000)

    async def publish_all() -> None:
        for _ in range(2_000):
            await bus.publish("a")

    longest = await longest_stretch(publish_all, lambda: bus.statistics().events)
    assert 1 <= longest <= TURN_EVERY
    await within(bus.settle())


async def test_the_turns_count_careful_and_nowait_publishes_too() -> None:
    """Events accepted the careful way, or with `publish_nowait`, bring the next turn nearer."""
    bus = EventBus()
    bus.subscribe(call_nothing, "a", capacity=10_000, where=lambda event: event.data % 2)

    async def publish_all() -> None:
        for number in range(1_200):
            if number % 3 == 0:
                await bus.publish("a", number)
            else:
                bus.publish_nowait("a", number)

    longest = await longest_stretch(publish_all, lambda: bus.statistics().events)
    assert longest <= TURN_EVERY + 2  # at most two `nowait` ones stand before the next `publish`
    await within(bus.settle())


async def test_handlers_that_publish_give_the_loop_turns() -> None:
    """A handler that publishes without end, and many that publish a little, let the loop turn."""
    bus = EventBus()
    bus.subscribe(call_nothing, "leaf", capacity=10_000)

    async def publish_many(event: Event[Any]) -> None:
        for _ in range(event.data):
            await bus.publish("leaf")

    bus.subscribe(publish_many, "many", capacity=100)

    async def publish_all() -> None:
        await bus.publish("many", 1_500)
        for _ in range(20):
            await bus.publish("many", 100)
        await bus.settle()

    longest = await longest_stretch(publish_all, lambda: bus.statistics().events)
    assert longest <= TURN_EVERY


async def test_the_turn_comes_before_the_event_is_accepted() -> None:
    """Cancelled during its turn, `publish` has accepted nothing."""
    bus = EventBus()
    bus.subscribe(call_nothing, "a", capacity=10_000)
    for _ in range(TURN_EVERY):
        run_without_loop_turn(bus.publish("a"))
    coroutine = bus.publish("a")
    coroutine.send(None)  # its turn
    with pytest.raises(asyncio.CancelledError):
        coroutine.throw(asyncio.CancelledError())
    assert bus.statistics().events == TURN_EVERY
    await within(bus.settle())


async def test_a_turn_of_the_loop_starts_the_count_anew() -> None:
    """A publisher whose events are handled as they come gives no turns that nobody needs."""
    bus = EventBus()
    bus.subscribe(call_nothing, "a")
    for _ in range(3 * TURN_EVERY):
        receipt = run_without_loop_turn(bus.publish("a"))
        await within(receipt.outcomes())
