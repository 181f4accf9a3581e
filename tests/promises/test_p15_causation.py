"""P15, causation: an event published inside a handler knows the event that caused it (``cause``)
and the first of its chain (``root``)."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from eventbus import CascadeOverflow, Event, EventBus, Hook, Receipt, Retry
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.helpers import turns, within


class Chain:
    """Remembers every event of a bus by its topic."""

    def __init__(self, *buses: EventBus) -> None:
        self.events: dict[str, Event[Any]] = {}
        for bus in buses:
            bus.subscribe(self.remember, name="chain")

    def remember(self, event: Event[Any]) -> None:
        self.events[event.type] = event

    def cause(self, topic: str) -> str | None:
        """The topic of the cause."""
        return self.by_id(self.events[topic].cause)

    def root(self, topic: str) -> str | None:
        """The topic of the root."""
        return self.by_id(self.events[topic].root)

    def by_id(self, wanted: str | None) -> str | None:
        return next((topic for topic, event in self.events.items() if event.id == wanted), None)


async def test_an_event_from_outside_has_no_cause_and_is_its_own_root() -> None:
    """Published outside any handler, an event is a root."""
    bus = EventBus()
    event = (await bus.publish("a")).event
    assert (event.cause, event.root) == (None, event.id)
    named = (await bus.publish("a", id="evt_1")).event
    assert (named.cause, named.root) == (None, "evt_1")


class Payment(BaseModel):
    amount: int


def publishing_handlers(bus: EventBus) -> dict[str, tuple[Callable[[Event[Any]], Any], Any]]:
    """Every kind of handler, each of which publishes ``nested``, with its options."""

    async def steps(event: Event[Any]) -> None:
        await bus.publish("nested")

    async def waits(event: Event[Any]) -> None:
        await turns(3)
        await bus.publish("nested")

    def plain(event: Event[Any]) -> None:
        bus.publish_nowait("nested")

    async def typed(event: Event[Payment]) -> None:
        await bus.publish("nested")

    def threaded(event: Event[Any]) -> None:
        bus.publish_from_thread("nested")

    async def to_thread(event: Event[Any]) -> None:
        await asyncio.to_thread(bus.publish_from_thread, "nested")

    async def child(event: Event[Any]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(bus.publish("nested"))

    async def retried(event: Event[Any]) -> None:
        assert event.delivery is not None
        if event.delivery.attempt == 1:
            raise ValueError("once more")
        await bus.publish("nested")

    return {
        "steps": (steps, {}),
        "waits": (waits, {}),
        "keyed": (waits, {"concurrency": 2, "key": lambda event: 1}),
        "plain": (plain, {}),
        "typed": (typed, {}),
        "threaded": (threaded, {"thread": True}),
        "to_thread": (to_thread, {}),
        "child": (child, {}),
        "retried": (retried, {"retry": Retry(attempts=2, initial=0)}),
    }


KINDS = list(publishing_handlers(EventBus()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own_id", [None, "evt_own"])
async def test_every_kind_of_handler_is_the_cause(
    bus: EventBus, kind: str, own_id: str | None
) -> None:
    """What a handler publishes knows the event it was handling, however it publishes."""
    handler, options = publishing_handlers(bus)[kind]
    chain = Chain(bus)
    bus.subscribe(handler, "root", **options)
    receipt = await bus.publish("root", {"amount": 1}, id=own_id)
    await within(bus.settle())
    nested = chain.events["nested"]
    assert (nested.cause, nested.root) == (receipt.event.id, receipt.event.id)
    assert own_id is None or nested.cause == own_id


async def test_a_chain_knows_its_first_and_each_knows_its_last() -> None:
    """Five events deep, over several subscriptions, with ids of both kinds."""
    bus = EventBus()
    chain = Chain(bus)

    async def next_one(event: Event[Any]) -> None:
        number = int(event.type.removeprefix("n"))
        if number < 5:
            await bus.publish(f"n{number + 1}", id=f"evt_{number}" if number % 2 else None)

    bus.subscribe(next_one)
    await bus.publish("n0")
    await within(bus.settle())
    assert [chain.cause(f"n{n}") for n in range(6)] == [None, "n0", "n1", "n2", "n3", "n4"]
    assert {chain.root(f"n{n}") for n in range(6)} == {"n0"}


async def test_siblings_share_the_cause_and_roots_stay_apart() -> None:
    """Two roots in flight at once in the same batch do not mix."""
    bus, pairs = EventBus(), list[tuple[str | None, str]]()

    async def fan_out(event: Event[Any]) -> None:
        await bus.publish("leaf", event.id)
        await asyncio.sleep(0)
        await bus.publish("leaf", event.id)

    bus.subscribe(fan_out, "root", concurrency=3)
    bus.subscribe(lambda event: pairs.append((event.cause, event.data)), "leaf")
    receipts = [await bus.publish("root") for _ in range(3)]
    await within(bus.settle())
    assert len(pairs) == 6
    assert all(cause == data for cause, data in pairs)
    assert {cause for cause, _ in pairs} == {receipt.event.id for receipt in receipts}


async def test_a_leftover_task_publishes_as_an_outsider_with_cause_and_root() -> None:
    """Interleaving 10: after its delivery has ended it waits for room, and keeps its cause."""
    bus = EventBus(cascade_limit=1, cascade_depth=1)
    chain, gate, room = Chain(bus), asyncio.Event(), asyncio.Event()
    leftovers: list[asyncio.Task[Any]] = []
    accepted: list[str] = []

    async def leave() -> None:
        await gate.wait()
        for topic in ("left.one", "left.two", "left.three"):
            last = await bus.publish(topic)
            accepted.append(topic)
            if topic == "left.three":
                await last.outcomes()
        await bus.settle()

    async def root(event: Event[Any]) -> None:
        leftovers.append(asyncio.create_task(leave()))

    async def slow(event: Event[Any]) -> None:
        await room.wait()

    bus.subscribe(root, "root")
    bus.subscribe(slow, "left.*", capacity=1)
    receipt = await bus.publish("root")
    await within(receipt.outcomes(cascade=True))
    gate.set()
    await wait_all_tasks_blocked()
    assert accepted == ["left.one", "left.two"]
    room.set()
    await within(leftovers[0])
    for topic in accepted:
        assert (chain.cause(topic), chain.root(topic)) == ("root", "root")
    assert len(accepted) == 3


async def test_a_leftover_is_inside_until_its_delivery_ends() -> None:
    """The same task is charged to the root before, and not after; the cause stays."""
    bus = EventBus(cascade_limit=1)
    tasks: list[asyncio.Task[Any]] = []
    release, gate = asyncio.Event(), asyncio.Event()
    results: list[Any] = []

    async def left() -> None:
        for _ in range(2):
            try:
                results.append((await bus.publish("leaf")).event)
            except CascadeOverflow as error:
                results.append(error)
        await gate.wait()
        results.extend([(await bus.publish("leaf")).event for _ in range(2)])

    async def root(event: Event[Any]) -> None:
        tasks.append(asyncio.create_task(left()))
        await release.wait()

    async def leaf(event: Event[Any]) -> None:
        await gate.wait()

    bus.subscribe(root, "root")
    bus.subscribe(leaf, "leaf")
    event = (await bus.publish("root")).event
    await wait_all_tasks_blocked()
    release.set()
    await wait_all_tasks_blocked()
    gate.set()
    await within(bus.settle())
    await within(tasks[0])
    assert isinstance(results.pop(1), CascadeOverflow)
    assert [(each.cause, each.root) for each in results] == [(event.id, event.id)] * 3


async def test_a_thread_without_the_context_publishes_roots(bus: EventBus) -> None:
    """A bare thread carries no context, so what it publishes has no cause."""
    chain = Chain(bus)
    threads: list[threading.Thread] = []

    def handler(event: Event[Any]) -> None:
        threads.append(threading.Thread(target=bus.publish_from_thread, args=("bare",)))
        threads[0].start()
        context = contextvars.copy_context()
        threads.append(
            threading.Thread(target=context.run, args=(bus.publish_from_thread, "carried"))
        )
        threads[1].start()

    bus.subscribe(handler, "root")
    await bus.publish("root")
    await bus.settle()
    for thread in threads:
        await asyncio.to_thread(thread.join, 5)
    await within(bus.settle())
    assert (chain.cause("bare"), chain.root("bare")) == (None, "bare")
    assert (chain.cause("carried"), chain.root("carried")) == ("root", "root")


async def test_cause_and_root_go_through_several_buses() -> None:
    """A handler of one bus publishes on another, which publishes on the first again."""
    left, right = EventBus(name="left"), EventBus(name="right")
    chain = Chain(left, right)

    async def to_right(event: Event[Any]) -> None:
        await right.publish("two")

    async def to_left(event: Event[Any]) -> None:
        await asyncio.sleep(0)
        await left.publish("three")

    left.subscribe(to_right, "one")
    right.subscribe(to_left, "two")
    receipt = await left.publish("one")
    await within(receipt.outcomes(cascade=True))
    await within(left.settle())
    assert [chain.cause(topic) for topic in ("one", "two", "three")] == [None, "one", "two"]
    assert {chain.root(topic) for topic in ("one", "two", "three")} == {"one"}


async def test_hooks_publish_in_the_name_of_what_they_are_told_about() -> None:
    """A hook runs in the handler's context, or in the publisher's."""
    bus: EventBus

    class Publisher(Hook):
        def attempt_started(self, event: Event[Any], delivery: object) -> None:
            if event.type == "root":
                bus.publish_nowait("started")

        def accepted(self, event: Event[Any], deliveries: int) -> None:
            if event.type == "root":
                bus.publish_nowait("accepted")

    bus = EventBus(hooks=[Publisher()])
    chain = Chain(bus)
    await bus.publish("root")
    await within(bus.settle())
    assert chain.cause("started") == "root"
    assert chain.cause("accepted") is None


async def test_a_publish_that_waited_for_room_keeps_its_cause() -> None:
    """Another bus's full queue makes nobody wait inside; a leftover's wait loses no cause."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    gate, tasks = asyncio.Event(), list[asyncio.Task[Any]]()

    async def full(event: Event[Any]) -> None:
        await gate.wait()

    async def leftover() -> Receipt:
        await asyncio.sleep(0)  # also where tasks are eager: the handler has ended by then
        return await bus.publish("full")

    async def root(event: Event[Any]) -> None:
        tasks.append(asyncio.create_task(leftover()))

    bus.subscribe(full, "full", capacity=1)
    bus.subscribe(root, "root")
    await bus.publish("full")
    await turns(3)
    await bus.publish("full")
    event = (await bus.publish("root")).event
    await wait_all_tasks_blocked()
    assert not tasks[0].done()
    clock.advance(3)
    gate.set()
    waited = (await asyncio.wait_for(tasks[0], 5)).event
    assert (waited.cause, waited.root) == (event.id, event.id)
    assert (waited.time - event.time).total_seconds() == 3
    await bus.settle()


async def test_a_redelivered_event_keeps_its_own_and_causes_in_its_name() -> None:
    """Redelivery changes no event; what its handler publishes then is caused by it."""
    bus = EventBus()
    chain = Chain(bus)
    healthy = False

    async def nested(event: Event[Any]) -> None:
        if not healthy:
            raise ValueError("no")
        await bus.publish("leaf")

    async def root(event: Event[Any]) -> None:
        await bus.publish("nested")

    bus.subscribe(root, "root")
    bus.subscribe(nested, "nested")
    await bus.publish("root")
    await within(bus.settle())
    healthy = True
    letter = bus.dead_letters[0]
    receipt = await bus.redeliver(letter)
    await within(bus.settle())
    assert receipt.event is letter.event
    assert chain.cause("nested") == "root"
    assert (chain.cause("leaf"), chain.root("leaf")) == ("nested", "root")


async def test_a_reader_of_a_stream_is_no_handler() -> None:
    """What a task publishes after it has read an event is a root: reading is not handling."""
    bus = EventBus()
    async with bus.stream("a") as stream:
        await bus.publish("a")
        await within(anext(stream))
        event = (await bus.publish("b")).event
    assert (event.cause, event.root) == (None, event.id)


async def test_cause_and_root_survive_pickling_and_typed_copies() -> None:
    """They are ids, so they mean the same in another process."""
    bus, seen = EventBus(), list[Event[Any]]()

    async def root(event: Event[Any]) -> None:
        await bus.publish("nested", {"amount": 1})

    async def typed(event: Event[Payment]) -> None:
        seen.append(event)

    bus.subscribe(root, "root")
    bus.subscribe(typed, "nested")
    event = (await bus.publish("root")).event
    await within(bus.settle())
    copy = pickle.loads(pickle.dumps(seen[0]))  # noqa: S301 - the test's own bytes
    for each in (seen[0], copy):
        assert (each.cause, each.root) == (event.id, event.id)
    assert type(copy.cause) is str
    assert type(copy.root) is str


async def test_a_chain_keeps_none_of_its_events_alive() -> None:
    """The last event of a chain knows ids, not events: the payloads before it are freed."""

    class Payload:
        pass

    bus, last, payloads = EventBus(), list[Event[Any]](), list[weakref.ref[Payload]]()

    async def next_one(event: Event[Any]) -> None:
        if len(payloads) < 5:
            payload = Payload()
            payloads.append(weakref.ref(payload))
            await bus.publish("a", payload)
        else:
            last.append(event)

    bus.subscribe(next_one, "a")
    await bus.publish("a")
    await within(bus.settle())
    await turns(3)
    gc.collect()
    assert [payload() is None for payload in payloads] == [True] * 4 + [False]
    assert last[0].cause is not None
