"""Scenarios of the bus whose handlers wait now and then, so that some get tasks of their own.

A handler that has waited is started in a task of its own the next time, and one that has not is
stepped by a pump again: here every subscription goes back and forth between the two.
"""

# virtual time: all of this runs on the event loops of simulate()

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from eventbus import Event, EventBus, Hook, Receipt, Retry, Subscription
from eventbus.errors import BusClosed, WouldBlock
from eventbus.testing import Simulation, watch
from tests.helpers import balances

request: ContextVar[object] = ContextVar("request", default=None)


async def _now_and_then(sim: Simulation) -> None:
    """Wait as a handler does that often need not: not at all, a turn of the loop, or longer."""
    for _ in range(sim.random.choice((0, 1, 1, 2))):
        await asyncio.sleep(sim.random.choice((0, 0, 1)))


def _cancel_one_of_the_bus() -> None:
    tasks = [task for task in asyncio.all_tasks() if "eventbus" in task.get_name()]
    if tasks:
        min(tasks, key=asyncio.Task.get_name).cancel()  # one of a handler, if there is one


async def order_of_those_that_wait_at_times(sim: Simulation) -> None:
    """P3, P14: one order for all, nested events and retries too, each in its own context."""
    async with EventBus() as bus, watch(bus):
        seen: dict[str, list[Any]] = defaultdict(list)
        running: dict[str, int] = defaultdict(int)

        async def handle(event: Event) -> None:
            assert event.delivery is not None
            name, task = event.delivery.subscription, asyncio.current_task()
            running[name] += 1
            assert running[name] <= (2 if name == "two" else 1)
            assert request.get() == event.data
            request.set("spoilt")
            if event.delivery.attempt == 1:
                seen[name].append(event.data)
            await _now_and_then(sim)
            assert asyncio.current_task() is task
            assert request.get() == "spoilt"
            running[name] -= 1
            if name == "again" and event.delivery.attempt == 1 and sim.random.random() < 0.3:
                raise ValueError

        async def publish_nested(event: Event) -> None:
            await _now_and_then(sim)
            request.set((event.data,))
            await bus.publish("off", (event.data,))

        async def publish(*numbers: int) -> None:
            for number in numbers:
                request.set(number)
                receipt = await bus.publish("on", number)
                if sim.random.random() < 0.5:
                    await receipt.outcomes()

        bus.subscribe(publish_nested, "on")
        bus.subscribe(handle, "on", "off", name="one")
        bus.subscribe(handle, "**", name="again", retry=Retry(attempts=2, initial=1), capacity=2)
        bus.subscribe(handle, "**", name="two", concurrency=2)
        bus.subscribe(lambda event: seen["plain"].append(event.data), "**")
        await asyncio.gather(publish(1, 2), publish(3))
        await bus.settle()
        assert seen["plain"] == seen["one"] == seen["again"]
        assert set(seen["plain"]) == set(seen["two"])
        assert len(seen["two"]) == 6
        assert (bus._pumps, bus._full, bus._tickets) == (0, 0, {})


async def harm_before_they_begin(sim: Simulation) -> None:
    """P6, P8, P10, P11: tasks cancelled, subscriptions gone, the bus closed, before they begin."""
    bus = EventBus()
    left: set[str] = set()
    receipts: list[Receipt] = []

    async def handle(event: Event) -> None:
        assert event.delivery is not None
        assert event.delivery.subscription not in left
        await _now_and_then(sim)

    subscriptions = [
        bus.subscribe(handle, "a", name="block", capacity=2),
        bus.subscribe(handle, "a", name="oldest", capacity=1, overflow="drop_oldest"),
        bus.subscribe(handle, "a", "b", name="two", concurrency=2, capacity=3),
        bus.subscribe(handle, "b", name="newest", capacity=2, overflow="drop_newest"),
    ]

    async def publish(topic: str, *, wait: bool) -> None:
        for _ in range(2):
            with suppress(BusClosed):
                receipts.append(await bus.publish(topic))
                if wait:
                    await receipts[-1].outcomes()

    def harm() -> None:
        if sim.random.random() < 0.5:
            _cancel_one_of_the_bus()
        elif sim.random.random() < 0.5:
            subscription = sim.random.choice(subscriptions)
            subscription.unsubscribe()
            left.add(subscription.name)
        else:
            with suppress(BusClosed, WouldBlock):
                receipts.append(bus.publish_nowait("a"))

    async with bus:
        publishers = [sim.start(publish("ab"[n % 2], wait=n < 3)) for n in range(5)]
        for _ in range(3):
            for _ in range(sim.random.randrange(4)):
                await asyncio.sleep(0)
            harm()
        if sim.random.random() < 0.5:
            close = sim.start(bus.aclose(grace=sim.random.choice((0, 1, 9))))
            if sim.random.random() < 0.5:
                sim.cancel_sometime(close)
            await asyncio.wait([close])
        await asyncio.gather(*publishers)
    report = await bus.aclose()
    assert report.accepted == sum([len(await receipt.outcomes()) for receipt in receipts])
    assert report.accepted == report.handled + report.failed + report.dropped + report.cancelled
    assert report.failed == 0
    assert balances(bus, *subscriptions)
    assert (bus._pumps, bus._full, bus._tickets, bus._loop) == (0, 0, {}, None)


async def hooks_while_places_are_freed(sim: Simulation) -> None:
    """P5, P6, P14, P15: a hook does what it likes in the moment in which a waiting event fits."""
    closes: list[asyncio.Task[Any]] = []
    receipts: list[Receipt] = []

    class Meddle(Hook):
        def accepted(self, event: Event, deliveries: int) -> None:
            if event.data == "meddled":
                return
            request.set("meddled")
            what = sim.random.randrange(6)
            if what == 0:
                sim.random.choice(subscriptions).unsubscribe()
            elif what == 1:
                with suppress(BusClosed, WouldBlock):
                    receipts.append(bus.publish_nowait("a", "meddled"))
            elif what == 2:
                subscriptions.append(bus.subscribe(handle, "a", capacity=1))
            elif what == 3 and not closes:
                closes.append(sim.start(bus.aclose(grace=sim.random.choice((0, 1)))))

    async def handle(event: Event) -> None:
        assert request.get() == event.data
        assert event.cause is None
        await _now_and_then(sim)

    bus = EventBus(hooks=[Meddle()])
    subscriptions: list[Subscription] = [
        bus.subscribe(handle, "a", capacity=1),
        bus.subscribe(handle, "a", capacity=1),
        bus.subscribe(handle, "a", "b", capacity=2, concurrency=2),
    ]

    async def publish(topic: str, *numbers: int) -> None:
        for number in numbers:
            request.set(number)
            with suppress(BusClosed):
                receipts.append(await bus.publish(topic, number))

    async with bus:
        publishers = [sim.start(publish("ab"[n % 2], n, n + 10, n + 20)) for n in range(4)]
        await asyncio.gather(*publishers)
    await asyncio.gather(*closes)
    assert all(receipt.done for receipt in receipts)
    assert balances(bus, *subscriptions)
    assert (bus.statistics().pending, bus.statistics().failed) == (0, 0)
    assert (bus._pumps, bus._full, bus._tickets, bus._loop) == (0, 0, {}, None)


SCENARIOS = (
    order_of_those_that_wait_at_times,
    harm_before_they_begin,
    hooks_while_places_are_freed,
)
