"""Scenarios of the bus about order, room and keys. Each says which promise it attacks."""

# virtual time: all of this runs on the event loops of simulate()

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from eventbus import Event, EventBus, Retry
from eventbus.testing import Simulation, watch
from tests.helpers import balances


async def nested_order(sim: Simulation) -> None:
    """P3: every subscription sees one order, nested events included, whoever publishes."""
    async with EventBus() as bus, watch(bus):
        seen: dict[str, list[Any]] = defaultdict(list)
        caused: list[tuple[Any, Any]] = []

        @bus.on("on", "off", name="fast")
        def fast(event: Event) -> None:
            seen["fast"].append(event.data)

        @bus.on("on", name="nesting")
        async def nesting(event: Event) -> None:
            await asyncio.sleep(0)
            await bus.publish("off", (event.data, 1))
            caused.append((event.data, (event.data, 1)))
            await asyncio.sleep(sim.random.randrange(2))
            await bus.publish("off", (event.data, 2))
            caused.append(((event.data, 1), (event.data, 2)))

        @bus.on("on", "off", name="slow")
        async def slow(event: Event) -> None:
            await asyncio.sleep(sim.random.randrange(2))
            seen["slow"].append(event.data)

        @bus.on("**", name="last", capacity=1)
        async def last(event: Event) -> None:
            await asyncio.sleep(0)
            seen["last"].append(event.data)

        async def publish(name: str) -> None:
            for number in range(3):
                await bus.publish("on", f"{name}{number}")

        await asyncio.gather(publish("a"), publish("b"))
        await bus.settle()
        assert seen["fast"] == seen["slow"] == seen["last"]
        assert len(seen["fast"]) == 18
        for before, after in caused:
            assert seen["fast"].index(before) < seen["fast"].index(after)
        for name in "ab":
            own = [each for each in seen["fast"] if isinstance(each, str) and each[0] == name]
            assert own == sorted(own)
        assert not bus._full


async def room_is_served_in_order(sim: Simulation) -> None:
    """P5, P9: ``block`` keeps at most its capacity, and publishers get room as they came."""
    async with EventBus() as bus, watch(bus):
        arrived: list[str] = []
        handled: list[str] = []
        others: list[str] = []

        @bus.on("a", capacity=2)
        async def handle(event: Event) -> None:
            assert narrow.statistics().pending <= 3
            handled.append(event.data)
            await asyncio.sleep(sim.random.randrange(2))

        (narrow,) = bus.subscriptions
        bus.subscribe(lambda event: others.append(event.data), "**")

        async def publish(name: str) -> None:
            for number in range(3):
                await asyncio.sleep(sim.random.randrange(2))
                arrived.append(f"{name}{number}")
                await bus.publish("a", f"{name}{number}")

        async def pass_by() -> None:
            for number in range(3):
                await bus.publish("b", number)  # shares no full queue: waits for nobody
                await asyncio.sleep(0)

        await asyncio.gather(*map(publish, "abc"), pass_by())
        await bus.settle()
        assert handled == arrived
        assert [each for each in others if isinstance(each, str)] == arrived


async def two_full_queues(sim: Simulation) -> None:
    """P9: an event is queued everywhere or nowhere, however many full queues are in its way."""
    async with EventBus() as bus, watch(bus):
        seen: dict[str, list[int]] = defaultdict(list)

        def handler(name: str) -> Any:
            async def handle(event: Event) -> None:
                for each in bus.subscriptions:
                    assert each.statistics().pending <= 2  # one runs, one is queued
                await asyncio.sleep(sim.random.randrange(3))
                seen[name].append(event.data)

            return handle

        bus.subscribe(handler("left"), "both", "left", capacity=1)
        bus.subscribe(handler("right"), "both", "right", capacity=1)
        accepted: dict[int, str] = {}

        async def publish(topic: str, number: int) -> None:
            await bus.publish(topic, number)
            accepted[number] = topic

        topics = ["both", "left", "right", "both", "left", "right", "both"]
        tasks = [
            sim.start(publish(topic, number), cancel=number % 3 == 1)
            for number, topic in enumerate(topics)
        ]
        await asyncio.gather(*tasks, return_exceptions=True)
        await bus.settle()
        for number, topic in enumerate(topics):
            left, right = number in seen["left"], number in seen["right"]
            wanted = {"both": (True, True), "left": (True, False), "right": (False, True)}[topic]
            if number in accepted:
                assert (left, right) == wanted
            else:
                assert tasks[number].cancelled()
                assert (left, right) in (wanted, (False, False))
        both = [number for number in seen["left"] if topics[number] == "both"]
        assert both == [number for number in seen["right"] if topics[number] == "both"]
        assert all(len(each) == len(set(each)) for each in seen.values())
        assert not bus._tickets
        assert not bus._full


async def dropping(sim: Simulation) -> None:
    """P5, P6: drop policies keep what they say they keep, and count the rest."""
    async with EventBus() as bus, watch(bus):
        seen: dict[str, list[int]] = {"oldest": [], "newest": []}

        def handler(name: str) -> Any:
            async def handle(event: Event) -> None:
                seen[name].append(event.data)
                await asyncio.sleep(1)

            return handle

        oldest = bus.subscribe(handler("oldest"), "a", capacity=2, overflow="drop_oldest")
        newest = bus.subscribe(handler("newest"), "a", capacity=2, overflow="drop_newest")
        numbers = iter(range(100))
        accepted = []

        async def publish() -> None:
            for _ in range(4):
                number = next(numbers)
                accepted.append((number, bus.publish_nowait("a", number)))
                assert oldest.statistics().pending <= 3
                assert newest.statistics().pending <= 3
                await asyncio.sleep(sim.random.randrange(2) / 2)

        await asyncio.gather(publish(), publish(), publish())
        await bus.settle()
        for name, subscription in (("oldest", oldest), ("newest", newest)):
            ends = {
                number: next(o for o in await receipt.outcomes() if o.subscription == each.name)
                for each in [subscription]
                for number, receipt in accepted
            }
            handled = [number for number in ends if ends[number].status == "handled"]
            assert seen[name] == sorted(handled)
            assert subscription.dropped == 12 - len(handled)
        assert 11 in seen["oldest"]
        assert {0, 1} <= set(seen["newest"])


async def keys_with_concurrency(sim: Simulation) -> None:
    """P3: in order within a key, at most ``concurrency`` at once, and no key waits for another."""
    async with EventBus() as bus, watch(bus):
        running: list[str] = []
        most = [0]
        seen: dict[str, list[int]] = defaultdict(list)
        pauses = {"a": 5.0, "b": 0.0, "c": 0.5}

        @bus.on(
            "a", concurrency=2, key=lambda event: event.data[0], capacity=sim.random.choice((2, 20))
        )
        async def handle(event: Event) -> None:
            key, number = event.data
            assert key not in running
            running.append(key)
            most[0] = max(most[0], len(running))
            await asyncio.sleep(pauses[key])
            running.remove(key)
            seen[key].append(number)

        async def publish(key: str) -> None:
            for number in range(4):
                await bus.publish("a", (key, number))

        tasks = [sim.start(publish(key)) for key in "abc"]
        await asyncio.gather(*tasks)
        await bus.settle()
        assert all(numbers == [0, 1, 2, 3] for numbers in seen.values())
        assert most[0] == 2
        assert sim.time <= 22.01  # the other keys ran beside "a", or before it


async def retries_keep_their_place(sim: Simulation) -> None:
    """P3, P10: what waits for a retry stays in front, through time-outs and failures."""
    async with EventBus() as bus:
        seen: list[int] = []
        tries: dict[int, int] = defaultdict(int)
        retry = Retry(attempts=3, initial=1, jitter=sim.random.choice((0, 0.5)))
        sim.step_seconds = sim.random.choice((0, 0, 0.1, 1))

        @bus.on("a", retry=retry, timeout=2, capacity=2)
        async def handle(event: Event) -> None:
            assert event.delivery is not None
            tries[event.data] += 1
            assert event.delivery.attempt == tries[event.data]
            chance = sim.random.random()
            if chance < 0.3:
                raise ValueError
            await asyncio.sleep(3 if chance < 0.5 else 2 if chance < 0.6 else 0)
            seen.append(event.data)

        outcomes = await asyncio.gather(*(bus.publish_and_wait("a", number) for number in range(6)))
        good = [number for number in range(6) if outcomes[number][0].status == "handled"]
        assert [each for each in seen if each in good] == sorted(good, key=seen.index)
        assert sorted(set(seen)) == sorted(seen)
        assert all(outcomes[number][0].attempts == tries[number] for number in range(6))
        assert all(tries[number] == 3 for number in range(6) if number not in good)
        assert len(bus.dead_letters) == 6 - len(good)
        assert balances(bus, *bus.subscriptions)


async def unsubscribe_during_the_pause(sim: Simulation) -> None:
    """P3, P8: a subscription that leaves ends what it has: the pause *failed*, the queue *cancelled*."""  # noqa: E501
    async with EventBus() as bus:
        runs: list[tuple[int, float]] = []
        sim.step_seconds = sim.random.choice((0, 0, 0.2))

        @bus.on("a", retry=Retry(attempts=5, initial=1, jitter=0), concurrency=2)
        async def handle(event: Event) -> None:
            runs.append((event.data, sim.time))
            await asyncio.sleep(sim.random.randrange(2))
            if event.data < 3:
                raise ValueError(event.data)

        (subscription,) = bus.subscriptions
        receipts = [await bus.publish("a", number) for number in range(5)]
        await asyncio.sleep(sim.random.randrange(9) / 2)
        before = len(runs)
        subscription.unsubscribe()
        outcomes = [(await receipt.outcomes())[0] for receipt in receipts]
        assert len(runs) == before
        for number, outcome in enumerate(outcomes):
            attempts = sum(each == number for each, _ in runs)
            assert outcome.attempts == attempts
            if not attempts:
                assert outcome.status == "cancelled"
            elif number < 3:
                assert outcome.status == "failed"
                assert isinstance(outcome.error, ValueError)
            else:
                assert outcome.status == "handled"
        assert len(bus.dead_letters) == sum(each.status == "failed" for each in outcomes)
        assert balances(bus, subscription)
        assert not bus.subscriptions


async def once_and_unsubscribe(sim: Simulation) -> None:
    """P8: ``once`` gets one event, and after ``unsubscribe`` no call starts, mid-dispatch too."""
    async with EventBus() as bus, watch(bus):
        first: list[int] = []
        left_at: list[int] = []
        seen: list[int] = []
        bus.subscribe(lambda event: first.append(event.data), "a", once=True)

        @bus.on("a")
        async def leaver(event: Event) -> None:
            await asyncio.sleep(0)
            if event.data == 3:
                target.unsubscribe()
                left_at.append(len(seen))

        async def handle(event: Event) -> None:
            seen.append(event.data)
            await asyncio.sleep(0)

        target = bus.subscribe(handle, "a", capacity=2)
        receipts = await asyncio.gather(*(sim.start(bus.publish("a", n)) for n in range(6)))
        outcomes = [await receipt.outcomes() for receipt in receipts]
        assert len(first) == 1
        assert left_at == [len(seen)]
        statistics = target.statistics()
        assert statistics.handled == len(seen) == len(set(seen))
        assert statistics.accepted == statistics.handled + statistics.cancelled
        ends = [o.status for each in outcomes for o in each if o.subscription == target.name]
        assert sorted(ends) == ["cancelled"] * statistics.cancelled + ["handled"] * len(seen)


SCENARIOS = (
    nested_order,
    room_is_served_in_order,
    two_full_queues,
    dropping,
    keys_with_concurrency,
    retries_keep_their_place,
    unsubscribe_during_the_pause,
    once_and_unsubscribe,
)
