"""P3: each subscription sees events in the order in which the bus accepted them."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from typing import Any

import pytest

from eventbus import Event, EventBus, Retry
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.helpers import turns, within


async def test_nested_events_come_after_the_one_that_caused_them() -> None:
    """A's handler publishes ``off`` while handling ``on``: everybody sees ``on``, then ``off``."""
    bus = EventBus()
    seen: dict[str, list[str]] = defaultdict(list)
    bus.subscribe(lambda event: seen["first"].append(event.type))

    @bus.on("on")
    async def switch(event: Event[Any]) -> None:
        await bus.publish("off")

    @bus.on()
    async def waits(event: Event[Any]) -> None:
        await turns(3)
        seen["waits"].append(event.type)

    bus.subscribe(lambda event: seen["last"].append(event.type))
    await bus.publish("on")
    await within(bus.settle())
    assert dict(seen) == {name: ["on", "off"] for name in ("first", "waits", "last")}


async def test_nested_events_come_in_the_order_of_acceptance_at_any_depth() -> None:
    """A tree of events, published by handlers that wait and by ones that do not."""
    bus = EventBus()
    accepted: list[str] = []
    seen: list[list[str]] = [[], [], []]

    async def publish(name: str) -> None:
        await bus.publish("tree", name)
        accepted.append(name)

    @bus.on("tree")
    async def grows(event: Event[Any]) -> None:
        if len(event.data) < 5:
            await publish(event.data + "l")
            await asyncio.sleep(0)
            await publish(event.data + "r")

    bus.subscribe(lambda event: seen[0].append(event.data), "tree")

    @bus.on("tree")
    async def waits(event: Event[Any]) -> None:
        await turns(len(event.data))
        seen[1].append(event.data)

    bus.subscribe(lambda event: seen[2].append(event.data), "*")
    await publish("")
    await within(bus.settle())
    assert len(accepted) == 63
    assert seen == [accepted] * 3


async def test_concurrent_publishers_share_one_order() -> None:
    """Whatever the publishers' interleaving, all subscriptions agree on it."""
    bus = EventBus()
    seen: list[list[tuple[int, int]]] = [[], [], []]
    chance = random.Random(1)

    for number in range(3):

        @bus.on(capacity=number + 1)
        async def handler(event: Event[Any], number: int = number) -> None:
            await turns(chance.randrange(3))
            seen[number].append(event.data)

    async def publisher(number: int) -> None:
        for count in range(20):
            await bus.publish("a", (number, count))

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(publisher(number))
    await within(bus.settle())
    assert seen[0] == seen[1] == seen[2]
    for number in range(5):
        assert [each for each in seen[0] if each[0] == number] == [(number, c) for c in range(20)]


async def test_a_delivery_in_its_pause_keeps_its_place() -> None:
    """Later events wait behind the one that waits for its retry."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    runs: list[tuple[int, int]] = []
    others: list[int] = []

    @bus.on(retry=Retry(attempts=3, initial=1, jitter=0))
    async def handler(event: Event[Any]) -> None:
        assert event.delivery is not None
        runs.append((event.data, event.delivery.attempt))
        if event.data == 0 and event.delivery.attempt < 3:
            raise ValueError

    bus.subscribe(lambda event: others.append(event.data))
    for number in range(3):
        bus.publish_nowait("a", number)
    await wait_all_tasks_blocked()
    assert (runs, others) == ([(0, 1)], [0, 1, 2])
    clock.advance(0.999)
    await wait_all_tasks_blocked()
    assert runs == [(0, 1)]
    clock.advance(0.001)
    await wait_all_tasks_blocked()
    assert runs == [(0, 1), (0, 2)]
    clock.advance(2)
    await within(bus.settle())
    assert runs == [(0, 1), (0, 2), (0, 3), (1, 1), (2, 1)]


async def test_what_a_retried_handler_publishes_comes_in_its_turn() -> None:
    """A nested event of the second attempt stands behind what was accepted in the pause."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    seen: list[str] = []

    @bus.on("a", retry=Retry(initial=1, jitter=0))
    async def handler(event: Event[Any]) -> None:
        assert event.delivery is not None
        await bus.publish("nested", event.delivery.attempt)
        if event.delivery.attempt == 1:
            raise ValueError

    bus.subscribe(lambda event: seen.append(f"{event.type}{event.data}"))
    await bus.publish("a", "")
    await wait_all_tasks_blocked()
    await bus.publish("b", "")
    clock.advance(1)
    await within(bus.settle())
    assert seen == ["a", "nested1", "b", "nested2"]


@pytest.mark.parametrize("due", [False, True], ids=["in its pause", "pause just over"])
async def test_a_pause_ends_failed_when_the_subscription_leaves(due: bool) -> None:
    """It ends *failed* with its last error, at once; what was queued behind it is cancelled."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    errors: list[ValueError] = []

    def handler(event: Event[Any]) -> None:
        errors.append(ValueError())
        raise errors[-1]

    sub = bus.subscribe(handler, retry=Retry(initial=1, jitter=0, attempts=9))
    first = bus.publish_nowait("a")
    second = bus.publish_nowait("a")
    await wait_all_tasks_blocked()
    if due:
        clock.advance(1)  # the next attempt is in line, and no pump has begun it
    sub.unsubscribe()
    assert first.done
    assert second.done
    (failed,) = await first.outcomes()
    (cancelled,) = await second.outcomes()
    assert (failed.status, failed.error, failed.attempts) == ("failed", errors[0], 1)
    assert (cancelled.status, cancelled.attempts) == ("cancelled", 0)
    assert [letter.error for letter in bus.dead_letters] == errors
    clock.advance(100)
    await within(bus.settle())
    assert len(errors) == 1


async def test_a_pause_ends_failed_when_the_grace_period_does() -> None:
    """Also if the pause is over in the same moment: no attempt begins after the grace period."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    errors: list[ValueError] = []

    def handler(event: Event[Any]) -> None:
        errors.append(ValueError())
        raise errors[-1]

    bus.subscribe(handler, "together", retry=Retry(initial=10, jitter=0))
    bus.subscribe(handler, "longer", retry=Retry(initial=11, jitter=0))
    receipts = [bus.publish_nowait("together"), bus.publish_nowait("longer")]
    await wait_all_tasks_blocked()
    closing = asyncio.create_task(bus.aclose(grace=10))
    await wait_all_tasks_blocked()
    clock.advance(10)
    report = await within(closing)
    assert (report.failed, report.cancelled, len(errors)) == (2, 0, 2)
    for receipt, error in zip(receipts, errors, strict=True):
        (outcome,) = await receipt.outcomes()
        assert (outcome.error, outcome.attempts) == (error, 1)


async def test_with_a_key_order_holds_within_the_key() -> None:
    """Four run at once, never two of one key, and each key's events in order."""
    bus = EventBus()
    chance = random.Random(2)
    running: list[int] = []
    most = 0
    seen: dict[int, list[int]] = defaultdict(list)

    @bus.on(concurrency=4, key=lambda event: event.data[0])
    async def handler(event: Event[Any]) -> None:
        nonlocal most
        key, number = event.data
        assert key not in running
        running.append(key)
        most = max(most, len(running))
        await turns(chance.randrange(4))
        running.remove(key)
        seen[key].append(number)

    for number in range(200):
        await bus.publish("a", (chance.randrange(6), number))
    await within(bus.settle())
    assert most == 4
    assert sum(map(len, seen.values())) == 200
    assert all(numbers == sorted(numbers) for numbers in seen.values())


async def test_with_a_key_a_pause_holds_up_its_own_key_alone() -> None:
    """The events of other keys go on; those of the same key wait behind the retry."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    runs: list[str] = []

    @bus.on(concurrency=2, key=lambda event: event.data[0], retry=Retry(initial=1, jitter=0))
    async def handler(event: Event[Any]) -> None:
        assert event.delivery is not None
        runs.append(event.data)
        if event.data == "x1" and event.delivery.attempt == 1:
            raise ValueError

    for data in ("x1", "x2", "y1", "y2"):
        bus.publish_nowait("a", data)
    await wait_all_tasks_blocked()
    assert runs == ["x1", "y1", "y2"]
    clock.advance(1)
    await within(bus.settle())
    assert runs == ["x1", "y1", "y2", "x1", "x2"]


async def test_pauses_take_the_places_of_concurrency() -> None:
    """Two that wait for their retries are two that run: with ``concurrency=2`` nothing begins."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    runs: list[int] = []

    @bus.on(concurrency=2, retry=Retry(attempts=2, initial=1, jitter=0))
    def handler(event: Event[Any]) -> None:
        runs.append(event.data)
        if event.data < 2:
            raise ValueError

    for number in range(3):
        bus.publish_nowait("a", number)
    await wait_all_tasks_blocked()
    assert runs == [0, 1]
    clock.advance(1)
    await within(bus.settle())
    assert sorted(runs[2:]) == [0, 1, 2]


async def test_with_concurrency_alone_as_many_run_at_once_and_no_more() -> None:
    """Starts are in order; three run together, and the fourth waits for the first to end."""
    bus = EventBus()
    gates = [asyncio.Event() for _ in range(5)]
    started: list[int] = []

    @bus.on(concurrency=3)
    async def handler(event: Event[Any]) -> None:
        started.append(event.data)
        await gates[event.data].wait()

    for number in range(5):
        bus.publish_nowait("a", number)
    await wait_all_tasks_blocked()
    assert started == [0, 1, 2]
    gates[2].set()
    await wait_all_tasks_blocked()
    assert started == [0, 1, 2, 3]
    for gate in gates:
        gate.set()
    await within(bus.settle())


@pytest.mark.parametrize("thread", [False, True])
async def test_one_after_the_other_by_default(thread: bool) -> None:
    """The next delivery starts when the one before has ended, whatever kind of handler it is."""
    bus = EventBus()
    steps: list[tuple[str, int]] = []

    def blocks(event: Event[Any]) -> None:
        steps.append(("begin", event.data))
        steps.append(("end", event.data))

    async def waits(event: Event[Any]) -> None:
        steps.append(("begin", event.data))
        await turns(event.data % 3)
        steps.append(("end", event.data))

    bus.subscribe(blocks if thread else waits, thread=thread)
    for number in range(10):
        await bus.publish("a", number)
    await within(bus.settle())
    assert steps == [(step, number) for number in range(10) for step in ("begin", "end")]


async def test_a_handler_sees_its_own_nested_event_after_itself() -> None:
    """What a handler publishes to itself is handled when it has returned, and in order."""
    bus = EventBus()
    steps: list[str] = []

    @bus.on()
    async def handler(event: Event[Any]) -> None:
        steps.append(f"begin {event.data}")
        if event.data < 2:
            await bus.publish("a", event.data + 1)
            await turns(2)
        steps.append(f"end {event.data}")

    await bus.publish("a", 0)
    await within(bus.settle())
    assert steps == [f"{step} {number}" for number in range(3) for step in ("begin", "end")]


async def test_dropping_the_oldest_keeps_the_order_of_the_rest() -> None:
    """With a key too: what is left is in order, and the newest are what is left."""
    bus = EventBus()
    gate = asyncio.Event()
    plain: list[int] = []
    keyed: list[int] = []

    async def handler(event: Event[Any]) -> None:
        await gate.wait()
        assert event.delivery is not None
        (plain if event.delivery.subscription == "plain" else keyed).append(event.data)

    bus.subscribe(handler, name="plain", capacity=3, overflow="drop_oldest")
    bus.subscribe(
        handler, name="keyed", capacity=3, overflow="drop_oldest", concurrency=2, key=lambda e: "k"
    )
    await bus.publish("a", 0)
    await wait_all_tasks_blocked()
    for number in range(1, 10):
        await bus.publish("a", number)
    gate.set()
    await within(bus.settle())
    assert plain == keyed == [0, 7, 8, 9]
