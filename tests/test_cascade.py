"""Large cascades: handlers that publish to the subscription they run for."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from eventbus import CascadeOverflow, Event, EventBus
from tests.helpers import balances, pending_nested, turns, within

ROOTS = 4
EVENTS = 20_000


@pytest.mark.parametrize("waits", [False, True], ids=["steps", "waits"])
async def test_twenty_thousand_nested_events_of_four_roots_come_in_order(waits: bool) -> None:
    """One serial subscription fans out to itself: nothing is lost, doubled, mixed or overtaken."""
    bus = EventBus()
    accepted: list[str] = []
    handled: list[str] = []
    running = most_running = most_queued = 0
    roots: Counter[str] = Counter()
    causes: dict[str, str | None] = {}

    async def fan_out(event: Event[Any]) -> None:
        nonlocal running, most_running, most_queued
        running += 1
        most_running = max(most_running, running)
        most_queued = max(most_queued, subscription.statistics().pending)
        handled.append(event.id)
        roots[event.root] += 1
        if waits and len(handled) % 100 == 0:
            await turns(1)
        for _ in range(2):
            if len(accepted) < EVENTS:
                nested = (await bus.publish("tree")).event
                accepted.append(nested.id)
                causes[nested.id] = nested.cause
                assert nested.cause == event.id
        running -= 1

    subscription = bus.subscribe(fan_out, "tree", capacity=8)
    receipts = []
    for _ in range(ROOTS):
        receipts.append(await bus.publish("tree"))
        accepted.append(receipts[-1].event.id)
    async with asyncio.timeout(20):
        await asyncio.gather(*(receipt.outcomes(cascade=True) for receipt in receipts))
        assert len(handled) == EVENTS
        await bus.settle()
    assert handled == accepted
    assert most_running == 1
    assert most_queued > 8
    assert sum(roots.values()) == EVENTS
    assert set(roots) == {receipt.event.id for receipt in receipts}
    assert balances(bus, subscription)
    statistics = bus.statistics()
    assert (statistics.handled, statistics.pending, statistics.events) == (EVENTS, 0, EVENTS)
    assert [pending_nested(receipt) for receipt in receipts] == [0] * ROOTS


async def test_one_root_waits_for_its_own_cascade_alone() -> None:
    """A root whose cascade is over is not kept waiting by another root's endless one."""
    bus = EventBus()
    going = True

    async def chain(event: Event[Any]) -> None:
        await turns(1)
        if event.data is None and going:
            await bus.publish("chain")
        elif event.data:
            await bus.publish("chain", event.data - 1)

    bus.subscribe(chain, "chain", concurrency=2)
    await bus.publish("chain")
    short = await bus.publish("chain", 20)
    await within(short.outcomes(cascade=True))
    assert bus.statistics().pending == 1
    going = False
    await within(bus.settle())


async def test_an_endless_chain_ends_with_an_error_and_nothing_is_lost() -> None:
    """A handler that publishes to itself for ever meets ``cascade_depth``, in the handler."""
    bus = EventBus(cascade_depth=50)

    async def endless(event: Event[Any]) -> None:
        await bus.publish("endless")

    bus.subscribe(endless, "endless")
    await within(bus.publish_and_wait("endless", cascade=True))
    (letter,) = bus.dead_letters
    assert isinstance(letter.error, CascadeOverflow)
    statistics = bus.statistics()
    assert (statistics.accepted, statistics.handled, statistics.failed) == (51, 50, 1)


async def test_a_cascade_that_doubles_for_ever_stops_at_its_limit() -> None:
    """The root's budget is charged for what is pending, and free again when that has ended."""
    bus = EventBus(cascade_limit=100)
    stop = False

    async def doubles(event: Event[Any]) -> None:
        if not stop:
            await bus.publish("tree")
            await bus.publish("tree")

    subscription = bus.subscribe(doubles, "tree")

    async def stop_at_overflow(event: Event[Any]) -> None:
        nonlocal stop
        stop = stop or subscription.statistics().failed > 0

    bus.subscribe(stop_at_overflow, "tree")
    receipt = await bus.publish("tree")
    await within(receipt.outcomes(cascade=True))
    assert subscription.statistics().failed > 0
    assert pending_nested(receipt) == 0
    assert balances(bus)
    stop = True
    await within(bus.publish_and_wait("tree", cascade=True, check=True))
