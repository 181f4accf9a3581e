"""P7 against an oracle: random buses, and a second opinion on every wait that handlers make.

The oracle knows nothing of the bus. It keeps its own account of what is queued, what runs and who
waits for what, and answers by playing on: let everybody go who can, until nobody can. Whoever still
stands there then would wait for ever. The bus must refuse exactly those, and at once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from eventbus import Event, EventBus, Receipt, WouldDeadlock
from eventbus._delivery import Delivery
from eventbus.event import current

TOPICS = ("a", "b", "c")
MOST_PUBLICATIONS = 30


@dataclass(eq=False)
class Listener:
    """A subscription as the oracle sees it."""

    name: str
    bus: int
    topics: frozenset[str]
    concurrency: int
    keyed: bool


@dataclass(eq=False)
class Publication:
    """An event, and how far each of its deliveries has come."""

    number: int
    bus: int
    key: int
    parent: Publication | None
    state: dict[Listener, str]
    receipt: Receipt | None = None

    def is_in_cascade_of(self, other: Publication) -> bool:
        return self is other or (self.parent is not None and self.parent.is_in_cascade_of(other))


@dataclass(eq=False)
class Wanted:
    """What one wait is for: an event, its cascade, or all of a bus."""

    publication: Publication | None = None
    cascade: bool = False
    bus: int = -1
    refused: bool = False
    """It was admitted, then grew, and was refused."""

    def covers(self, other: Publication) -> bool:
        if self.publication is None:
            return other.bus == self.bus
        if self.cascade:
            return other.is_in_cascade_of(self.publication)
        return other is self.publication


Key = tuple[Publication, Listener]


@dataclass(eq=False)
class Running:
    """A handler at work."""

    core: Delivery
    waits: list[Wanted] = field(default_factory=list)


class World:
    """One random configuration, its run, and the oracle's account of it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        random = Random(seed)
        self.buses = [EventBus(name=f"bus{n}") for n in range(random.choice((1, 1, 2)))]
        self.listeners: list[Listener] = []
        self.publications: list[Publication] = []
        self.running: dict[Key, Running] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.seen: Counter[str] = Counter()
        for n in range(random.randint(1, 4)):
            self._subscribe(f"s{n}", random)

    def _subscribe(self, name: str, random: Random) -> None:
        concurrency = random.choice((1, 1, 1, 2, 2, 3))
        listener = Listener(
            name,
            random.randrange(len(self.buses)),
            frozenset(random.sample(TOPICS, random.randint(1, 2))),
            concurrency,
            concurrency > 1 and random.random() < 0.5,
        )
        self.listeners.append(listener)

        async def handler(event: Event[Any]) -> None:
            await self._handle(event.data, listener)

        self.buses[listener.bus].subscribe(
            handler,
            *sorted(listener.topics),
            name=name,
            concurrency=concurrency,
            key=(lambda event: event.data.key) if listener.keyed else None,
        )

    # The oracle.

    def who_is_stuck(self) -> set[Key]:
        """Play on without new waits: these handlers would never end."""
        running = {key: list(each.waits) for key, each in self.running.items()}
        queued = [
            (publication, listener)
            for publication in self.publications
            for listener, state in publication.state.items()
            if state == "queued"
        ]
        while True:
            pending = {*running, *queued}
            free = {
                key
                for key, waits in running.items()
                if not any(wait.covers(other) for wait in waits for other, _ in pending)
            }
            begun = next(((p, s) for p, s in queued if self._may_begin(p, s, running.keys())), None)
            if not free and begun is None:
                return set(running)
            for key in free:
                del running[key]
            if begun is not None:
                queued.remove(begun)  # it runs, waits for nothing, and ends

    def _may_begin(
        self, publication: Publication, listener: Listener, running: Iterable[Key]
    ) -> bool:
        rivals = [p for p, s in running if s is listener]
        if listener.keyed and any(rival.key == publication.key for rival in rivals):
            return False
        return len(rivals) < listener.concurrency

    # The run.

    def publish(self, bus: int, random: Random, parent: Publication | None) -> Publication | None:
        """Publish, and see that waits for the cascade that have become hopeless are refused."""
        if len(self.publications) >= MOST_PUBLICATIONS:
            return None
        topic = random.choice(TOPICS)
        state = {s: "queued" for s in self.listeners if s.bus == bus and topic in s.topics}
        number = len(self.publications)
        publication = Publication(number, bus, random.randrange(2), parent, state)
        self.publications.append(publication)
        publication.receipt = self.buses[bus].publish_nowait(topic, publication)
        stuck = self.who_is_stuck()
        for key in stuck:
            self._note_refusals(self.running[key])
        assert not self.who_is_stuck(), f"{self}: nobody was refused when a cascade grew"
        return publication

    def _note_refusals(self, running: Running) -> None:
        assert running.core.work is not None
        left = {wait.receipt for wait in running.core.work.waits if wait.cascade}
        for wanted in list(running.waits):
            if wanted.cascade and wanted.publication and wanted.publication.receipt not in left:
                wanted.refused = True
                running.waits.remove(wanted)
                self.seen["refused later"] += 1

    async def _handle(self, publication: Publication, listener: Listener) -> None:
        key = (publication, listener)
        core = current.get()
        assert isinstance(core, Delivery)
        publication.state[listener] = "running"
        self.running[key] = Running(core)
        random = Random(f"{self.seed} {publication.number} {listener.name}")
        children: list[asyncio.Task[None]] = []
        last: Publication | None = None
        for _ in range(random.randint(0, 4)):
            action = random.choice(("pause", "publish", "publish", "wait", "wait", "child", "left"))
            if action == "pause":
                for _ in range(random.randint(1, 4)):
                    await asyncio.sleep(0)
            elif action == "publish":
                bus = random.randrange(len(self.buses))
                last = self.publish(bus, random, publication) or last
            else:
                wait = self._wait(key, self._choose(random, last))
                if action == "wait":
                    await (asyncio.wait_for(wait, 60) if random.random() < 0.5 else wait)
                    continue
                task = asyncio.create_task(wait)
                (children if action == "child" else self.tasks).append(task)
        if children:
            await asyncio.wait(children)
        del self.running[key]
        publication.state[listener] = "ended"

    def _choose(self, random: Random, last: Publication | None) -> Wanted:
        if random.random() < 0.15:
            return Wanted(bus=random.randrange(len(self.buses)))
        wanted = last if last and random.random() < 0.6 else random.choice(self.publications)
        return Wanted(wanted, cascade=random.random() < 0.5)

    async def _wait(self, key: Key, wanted: Wanted) -> None:
        """Wait, and hold the bus to the oracle's opinion."""
        waits = self.running[key].waits if key in self.running else []  # else: a leftover's
        waits.append(wanted)
        hopeless = key in self.who_is_stuck()
        if wanted.publication is None:
            waiting = self.buses[wanted.bus].settle()
        else:
            assert wanted.publication.receipt is not None
            waiting = wanted.publication.receipt.outcomes(cascade=wanted.cascade)  # type: ignore[assignment]  # both are awaited
        if hopeless:
            self.seen["refused"] += 1
            waits.remove(wanted)
            with pytest.raises(WouldDeadlock, match=f"{key[1].name} .* -> "):
                waiting.send(None)
            return
        self.seen["admitted"] += 1
        try:
            await waiting
        except WouldDeadlock:
            assert wanted.refused, f"{self}: refused what could finish"
        else:
            assert not wanted.refused
        if wanted in waits:
            waits.remove(wanted)

    async def run(self) -> None:
        """Publish some roots, and see that everything ends."""
        random = Random(f"{self.seed} roots")
        async with asyncio.timeout(10):
            for _ in range(random.randint(1, 5)):
                self.publish(random.randrange(len(self.buses)), random, None)
                for _ in range(random.randint(0, 3)):
                    await asyncio.sleep(0)
            for _ in self.buses:  # what one bus still does may reach another
                for bus in self.buses:
                    await bus.settle()
            await asyncio.gather(*self.tasks)
        assert not self.running
        assert all(
            state == "ended" for each in self.publications for state in each.state.values()
        ), f"{self}: something never ran"
        for bus in self.buses:
            counted = bus.statistics()
            assert counted.accepted == counted.handled, f"{self}: {bus.dead_letters!r}"

    def __repr__(self) -> str:
        return f"World({self.seed})"


async def run_worlds(seeds: range) -> Counter[str]:
    seen: Counter[str] = Counter()
    for seed in seeds:
        world = World(seed)
        await world.run()
        seen += world.seen
    return seen


@pytest.mark.parametrize("batch", range(5))
async def test_a_wait_is_refused_exactly_when_it_would_last_for_ever(batch: int) -> None:
    """In random worlds, the bus and the oracle agree on every wait, and every run finishes."""
    seen = await run_worlds(range(batch * 25, batch * 25 + 25))
    assert min(seen["admitted"], seen["refused"]) > 10


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(10))
async def test_a_wait_is_refused_exactly_when_it_would_last_for_ever_at_length(batch: int) -> None:
    """The same, in many more worlds, some of which refuse waits that have grown."""
    seen = await run_worlds(range(1000 + batch * 200, 1200 + batch * 200))
    assert min(seen["admitted"], seen["refused"], seen["refused later"]) > 0
