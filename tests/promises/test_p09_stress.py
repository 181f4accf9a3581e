"""P5 and P9 under stress: many publishers, few places, random cancellations, all from a seed."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import defaultdict
from typing import Any

import pytest

from eventbus import Event, EventBus, Receipt, Subscription
from eventbus._admission import first_full
from tests.helpers import balances, turns, within

TOPICS = {"a": "x", "b": "y", "c": "z", "ab": "xy", "bc": "yz", "abc": "xyz"}
"""Each topic and the subscriptions that it reaches. Some have one queue, some share several."""


class Storm:
    """One seeded run, and what must hold of it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.bus = EventBus()
        self.subs: dict[str, Subscription] = {}
        self.seen: dict[str, list[int]] = defaultdict(list)
        self.arrivals = itertools.count()
        self.accepted: dict[int, Receipt] = {}
        self.topics: dict[int, str] = {}
        self.nested: set[int] = set()
        for name in "xyz":
            self.subs[name] = self.subscribe(name)

    def subscribe(self, name: str) -> Subscription:
        patterns = [topic for topic, reached in TOPICS.items() if name in reached]
        keyed = self.random.random() < 0.3
        options: dict[str, Any] = {"key": self.key, "concurrency": 2} if keyed else {}

        async def handle(event: Event[Any]) -> None:
            self.seen[name].append(event.data)
            await self.work(event)

        return self.bus.subscribe(
            handle, *patterns, name=name, capacity=self.random.randint(1, 3), **options
        )

    @staticmethod
    def key(event: Event[Any]) -> str:
        """One key for all, so that order can be checked: only the paths differ."""
        return "key"

    async def work(self, event: Event[Any]) -> None:
        if self.random.random() < 0.5:
            await turns(self.random.randrange(4))
        if event.data not in self.nested and self.random.random() < 0.2:
            number = next(self.arrivals)
            self.nested.add(number)
            self.topics[number] = self.random.choice(list(TOPICS))
            self.accepted[number] = await self.bus.publish(self.topics[number], number)

    async def publish(self, number: int) -> None:
        self.accepted[number] = await self.bus.publish(self.topics[number], number)

    def look(self) -> None:
        """What must hold between any two steps of the loop."""
        for ticket in self.bus._tickets.values():
            assert first_full(ticket.verdicts()) is not None, "it waits, and would fit"
            assert ticket.blocked_by is not None
            assert ticket in (ticket.blocked_by._line or ())
        assert balances(self.bus, *self.subs.values())
        outsiders = [each for each in self.subs.values() if each._queue]
        for sub in outsiders:
            queued = [entry.event.data for entry in sub._queue or ()]
            beyond = len([number for number in queued if number not in self.nested])
            assert beyond <= sub.capacity, "more outsiders than places"

    async def run(self, publishers: int) -> None:
        loop = asyncio.get_running_loop()
        problems: list[AssertionError] = []
        over = False

        def look() -> None:
            try:
                self.look()
            except AssertionError as problem:
                problems.append(problem)
            if not over:
                loop.call_soon(look)

        look()
        tasks: list[asyncio.Task[None]] = []
        for _ in range(publishers):
            number = next(self.arrivals)
            self.topics[number] = self.random.choice(list(TOPICS))
            tasks.append(asyncio.ensure_future(self.publish(number)))
            if self.random.random() < 0.3:
                await turns(self.random.randrange(3))
            if self.random.random() < 0.25:
                self.random.choice(tasks).cancel()
        await within(asyncio.gather(*tasks, return_exceptions=True))
        await within(self.bus.settle())
        over = True
        assert problems == []

    def check(self) -> None:
        """What must hold of the whole run."""
        for name in TOPICS["abc"]:
            seen = self.seen[name]
            assert len(set(seen)) == len(seen), "delivered twice"
        for number, topic in self.topics.items():
            reached = {name for name in "xyz" if number in self.seen[name]}
            if number in self.accepted:
                assert reached == set(TOPICS[topic]), "accepted, and lost somewhere"
            else:
                assert reached in (set(), set(TOPICS[topic])), (
                    "accepted somewhere and not elsewhere"
                )
        for one, other in itertools.combinations("xyz", 2):
            common = set(self.seen[one]) & set(self.seen[other])
            assert [number for number in self.seen[one] if number in common] == [
                number for number in self.seen[other] if number in common
            ], "two subscriptions saw the same events in different order"
        for topic, reached_by in TOPICS.items():
            order = [
                number
                for number in self.seen[reached_by[0]]
                if self.topics[number] == topic and number not in self.nested
            ]
            assert order == sorted(order), "publishers with equal needs overtook each other"
        assert not self.bus._tickets
        assert not any(sub._line for sub in self.subs.values())


@pytest.mark.parametrize("seed", range(12))
async def test_nothing_is_lost_or_reordered_and_nobody_waits_in_vain(seed: int) -> None:
    """120 publishers, three queues of 1 to 3 places, a quarter of the publishers cancelled."""
    storm = Storm(seed)
    await storm.run(120)
    storm.check()
    assert storm.accepted
    assert len(storm.accepted) < len(storm.topics)  # some were cancelled


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1_000, 1_060))
async def test_nothing_is_lost_in_many_other_storms(seed: int) -> None:
    """The same, from sixty other seeds and with more publishers."""
    storm = Storm(seed)
    await storm.run(300)
    storm.check()


@pytest.mark.parametrize("seed", range(6))
async def test_publishers_get_through_while_queues_come_and_go(seed: int) -> None:
    """Subscriptions leave and come back while publishers wait: everybody gets an answer."""
    storm = Storm(seed)
    chance = storm.random

    async def come_and_go() -> None:
        for _ in range(30):
            await turns(chance.randrange(6))
            name = chance.choice("xyz")
            storm.subs[name].unsubscribe()
            storm.look()
            await turns(chance.randrange(4))
            storm.subs[name] = storm.subscribe(name)

    going = asyncio.ensure_future(come_and_go())
    await storm.run(150)
    await within(going)
    await within(storm.bus.settle())
    assert not storm.bus._tickets
    assert balances(storm.bus)
    for topic, reached_by in TOPICS.items():
        for name in reached_by:
            mine = [number for number in storm.seen[name] if storm.topics[number] == topic]
            outside = [number for number in mine if number not in storm.nested]
            assert len(set(mine)) == len(mine)
            assert outside == sorted(outside)


@pytest.mark.parametrize("seed", range(6))
async def test_a_close_in_the_middle_of_a_storm_answers_everybody(seed: int) -> None:
    """Interleaving 3: each publisher has a receipt, or `BusClosed`, or its cancellation."""
    storm = Storm(seed)
    tasks: list[asyncio.Task[None]] = []
    for _ in range(60):
        number = next(storm.arrivals)
        storm.topics[number] = storm.random.choice(list(TOPICS))
        tasks.append(asyncio.ensure_future(storm.publish(number)))
    await turns(storm.random.randrange(1, 12))
    for task in storm.random.sample(tasks, 10):
        task.cancel()
    report = await within(storm.bus.aclose())
    await within(asyncio.gather(*tasks, return_exceptions=True))
    storm.check()
    assert report.handled == report.accepted == sum(len(each) for each in storm.seen.values())
