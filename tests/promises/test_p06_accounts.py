"""P6, no silent drop: accepted = handled + failed + dropped + cancelled + pending, at every moment,
per subscription and in all; a delivery ends exactly once, whatever is thrown into it later."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from eventbus import (
    Event,
    EventBus,
    Hook,
    LogLine,
    Outcome,
    Retry,
    Statistics,
    Subscription,
    SubscriptionStatistics,
)
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.helpers import balances, turns, within


@dataclass
class Auditor:
    """Looks at the accounts whenever it is asked to, and remembers where they were wrong."""

    bus: EventBus | None = None
    subscriptions: list[Subscription] = field(default_factory=list)
    places: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    thread: int = field(default_factory=threading.get_ident)

    def look(self, place: str) -> None:
        assert self.bus is not None
        self.places[place] += 1
        owners: list[EventBus | Subscription] = [self.bus, *self.subscriptions]
        for owner in owners:
            balanced = balances(owner)
            if not balanced and threading.get_ident() == self.thread:  # others see half a step
                self.wrong.append(f"{place}: {owner!r} {owner.statistics()}")


class AcceptAuditor(Hook):
    """Leaves the pump's fast path on: it only listens to acceptances and to the log."""

    def __init__(self, auditor: Auditor) -> None:
        self.auditor = auditor

    def accepted(self, event: Event[Any], deliveries: int) -> None:
        self.auditor.look("accepted")

    def log(self, line: LogLine) -> None:
        self.auditor.look("log")


class EveryAuditor(AcceptAuditor):
    def attempt_started(self, event: Event[Any], delivery: object) -> None:
        self.auditor.look("attempt_started")

    def attempt_ended(
        self, event: Event[Any], delivery: object, error: BaseException | None
    ) -> None:
        self.auditor.look("attempt_ended")

    def delivery_ended(self, event: Event[Any], outcome: Outcome) -> None:
        self.auditor.look("delivery_ended")


class Audited(BaseModel):
    """A payload whose validation looks at the accounts of the bus that is audited."""

    number: int

    @field_validator("number")
    @classmethod
    def audit(cls, number: int) -> int:
        AUDITORS[-1].look("validator")
        return number


AUDITORS: list[Auditor] = []


@pytest.fixture
def auditor() -> Iterator[Auditor]:
    AUDITORS.append(Auditor())
    yield AUDITORS[-1]
    AUDITORS.pop()


class AuditedRetry(Retry):
    def delay(
        self, attempt: int, error: BaseException, *, random: Callable[[], float]
    ) -> float | None:
        AUDITORS[-1].look("retry")
        return super().delay(attempt, error, random=random)


def subscribe_all_kinds(bus: EventBus, auditor: Auditor) -> None:
    """One subscription for every way through the bus, each of which looks at the accounts."""

    def look(name: str) -> Callable[[Event[Any]], bool]:
        def predicate(event: Event[Any]) -> bool:
            auditor.look(name)
            return True

        return predicate

    def broken(event: Event[Any]) -> bool:
        auditor.look("where")
        raise ValueError("broken predicate")

    async def steps(event: Event[Any]) -> None:
        auditor.look("first step")
        if event.type == "root":
            await bus.publish("nested", event.data)
            auditor.look("after a nested publish")

    async def waits(event: Event[Any]) -> None:
        auditor.look("before waiting")
        await asyncio.sleep(0)
        auditor.look("after waiting")

    def plain(event: Event[Any]) -> None:
        auditor.look("def")

    def awaitable(event: Event[Any]) -> Any:
        return waits(event)

    async def fails(event: Event[Any]) -> None:
        auditor.look("failing")
        raise ValueError("a failure")

    async def typed(event: Event[Audited]) -> None:
        auditor.look("typed")

    def threaded(event: Event[Any]) -> None:
        pass

    add = auditor.subscriptions.append
    add(bus.subscribe(steps))
    add(bus.subscribe(waits, capacity=1))
    add(bus.subscribe(waits, concurrency=3, key=look("key")))
    add(bus.subscribe(plain, where=look("where")))
    add(bus.subscribe(plain, where=broken))
    add(bus.subscribe(awaitable, overflow="drop_oldest", capacity=1))
    add(bus.subscribe(waits, overflow="drop_newest", capacity=1))
    add(bus.subscribe(waits, overflow="drop_oldest", concurrency=2, key=look("key"), capacity=1))
    add(bus.subscribe(fails, retry=AuditedRetry(attempts=2, initial=0)))
    add(bus.subscribe(fails))
    add(bus.subscribe(typed))
    add(bus.subscribe(threaded, thread=True))
    add(bus.subscribe(plain, once=True))
    add(bus.subscribe(plain, once=True, where=broken))


FAST_PLACES = {"first step", "after a nested publish", "before waiting", "after waiting", "def"}
ALL_PLACES = FAST_PLACES | {"accepted", "log", "where", "key", "failing", "typed", "validator"}


@pytest.mark.parametrize("hook", [AcceptAuditor, EveryAuditor])
async def test_the_accounts_balance_wherever_the_application_is_called(
    hook: type[AcceptAuditor], auditor: Auditor
) -> None:
    """In handlers, predicates, validators, retry policies, hooks and log hooks: P6 holds."""
    bus = auditor.bus = EventBus(hooks=[hook(auditor)])
    subscribe_all_kinds(bus, auditor)
    async with bus:
        publishers = [asyncio.create_task(bus.publish("root", {"number": n})) for n in range(5)]
        publishers.append(asyncio.create_task(bus.publish("root", {"number": "no number"})))
        await within(bus.settle())
        await asyncio.gather(*publishers)
        async with bus.stream("root", capacity=1, overflow="block") as stream:
            publisher = asyncio.create_task(bus.publish("root", {"number": 7}))
            await turns(2)
            await within(anext(stream))
            await within(publisher)
            auditor.look("stream")
    assert ALL_PLACES | {"retry"} <= set(auditor.places)
    if hook is EveryAuditor:
        assert {"attempt_started", "attempt_ended", "delivery_ended"} <= set(auditor.places)
    assert auditor.wrong == []


async def test_a_validator_of_a_stream_finds_balanced_accounts(auditor: Auditor) -> None:
    """While a stream's reader validates an event, that event is still pending."""
    from eventbus import Topic

    topic = Topic("audited", Audited)
    bus = auditor.bus = EventBus()
    async with bus.stream(topic) as stream:
        auditor.subscriptions.append(stream.subscription)
        await bus.publish("audited", {"number": 1})
        assert (await within(anext(stream))).data == Audited(number=1)
        await bus.publish("audited", {"number": "none"})
        await bus.publish("audited", {"number": 2})
        assert (await within(anext(stream))).data == Audited(number=2)
        assert stream.subscription.statistics() == SubscriptionStatistics(3, 2, 1, 0, 0, 0)
    assert auditor.places["validator"] >= 2
    assert auditor.wrong == []


async def test_a_stream_that_makes_room_for_a_publisher_balances(auditor: Auditor) -> None:
    """The event being read is in the accounts while its place is given to the next."""
    bus = auditor.bus = EventBus(hooks=[AcceptAuditor(auditor)])
    async with bus.stream("a", capacity=1, overflow="block") as stream:
        auditor.subscriptions.append(stream.subscription)
        await bus.publish("a", 1)
        publisher = asyncio.create_task(bus.publish("a", 2))
        await turns(2)
        assert [(await anext(stream)).data, (await anext(stream)).data] == [1, 2]
        await within(publisher)
    assert auditor.places["accepted"] == 2
    assert auditor.wrong == []


async def test_each_number_is_counted_when_its_thing_happens() -> None:
    """Accepted at accept, the ends when they happen."""
    bus = EventBus()
    seen: list[Statistics] = []
    gate = asyncio.Event()

    async def handler(event: Event[Any]) -> None:
        seen.append(bus.statistics())
        await gate.wait()
        seen.append(bus.statistics())

    bus.subscribe(handler, "a")
    bus.publish_nowait("a")
    bus.publish_nowait("b")
    assert bus.statistics() == Statistics(1, 0, 0, 0, 0, pending=1, events=2, unhandled=1)
    await turns(3)
    gate.set()
    await bus.settle()
    assert seen == [Statistics(1, 0, 0, 0, 0, pending=1, events=2, unhandled=1)] * 2
    assert bus.statistics() == Statistics(1, 1, 0, 0, 0, pending=0, events=2, unhandled=1)


@pytest.mark.parametrize("name", ["accepted", "handled", "failed", "dropped", "cancelled"])
async def test_no_number_is_computed_from_the_others(name: str) -> None:
    """Falsifying one sum by hand changes that sum, and no other, so a bug would be seen."""
    bus = EventBus()
    subscription = bus.subscribe(lambda event: None, "a")
    bus.publish_nowait("a")
    before = bus.statistics()
    setattr(subscription, name, getattr(subscription, name) + 1)
    after = bus.statistics()
    changed = {key for key in Statistics.__slots__ if getattr(before, key) != getattr(after, key)}
    assert changed == {name}
    assert not balances(bus)
    assert not balances(subscription)
    setattr(subscription, name, getattr(subscription, name) - 1)
    await bus.settle()


async def test_a_subscription_that_left_stays_in_the_sums_of_the_bus() -> None:
    """Unsubscribing changes no sum but pending, which becomes cancelled; nothing is forgotten."""
    bus = EventBus()
    gate = asyncio.Event()

    async def handler(event: Event[Any]) -> None:
        await gate.wait()

    subscription = bus.subscribe(handler, "a")
    for _ in range(3):
        bus.publish_nowait("a")
    await turns(2)
    subscription.unsubscribe()
    assert subscription.statistics() == SubscriptionStatistics(3, 0, 0, 0, 2, pending=1)
    assert bus.statistics() == Statistics(3, 0, 0, 0, 2, pending=1, events=3, unhandled=0)
    gate.set()
    await bus.settle()
    del subscription
    gc.collect()
    assert bus.statistics() == Statistics(3, 1, 0, 0, 2, pending=0, events=3, unhandled=0)


@pytest.mark.parametrize("where", [None, lambda event: 1 / 0], ids=["handled", "failed"])
async def test_subscriptions_that_leave_by_themselves_leave_only_their_sums(
    where: Callable[[Event[Any]], object] | None,
) -> None:
    """A thousand once-subscriptions leave no list behind, whatever became of their deliveries."""
    bus = EventBus()
    for _ in range(100):
        bus.subscribe(lambda event: None, "a", once=True, where=where)
        bus.publish_nowait("a")
    await bus.settle()
    assert bus.statistics().accepted == 100
    assert balances(bus)
    assert len(bus._all_subscriptions()) == 0


async def test_the_sums_of_a_bus_are_those_of_its_subscriptions() -> None:
    """In all: every number of the bus is the sum over the subscriptions it has had."""
    bus = EventBus()

    def fails(event: Event[Any]) -> None:
        raise ValueError("no")

    subscriptions = [
        bus.subscribe(lambda event: None, "a"),
        bus.subscribe(fails, "a"),
        bus.subscribe(lambda event: None, "a", capacity=1, overflow="drop_newest"),
        bus.subscribe(lambda event: None, "a", once=True),
    ]
    for _ in range(3):
        bus.publish_nowait("a")
    subscriptions[0].unsubscribe()
    for finish in (turns(0), bus.settle()):
        await finish
        total = bus.statistics()
        for name in ("accepted", "handled", "failed", "dropped", "cancelled", "pending"):
            parts = [getattr(each.statistics(), name) for each in subscriptions]
            assert getattr(total, name) == sum(parts), name
    assert bus.statistics() == Statistics(10, 2, 3, 2, 3, pending=0, events=3, unhandled=0)


async def test_a_redelivery_is_a_delivery_and_no_event() -> None:
    """The old delivery stays failed; the new one is accepted and ends on its own."""
    bus = EventBus()
    healthy = False

    def handler(event: Event[Any]) -> None:
        if not healthy:
            raise ValueError("no")

    bus.subscribe(handler, "a")
    await bus.publish_and_wait("a")
    healthy = True
    await bus.redeliver(bus.dead_letters[0])
    assert bus.statistics() == Statistics(2, 0, 1, 0, 0, pending=1, events=1, unhandled=0)
    await bus.settle()
    assert bus.statistics() == Statistics(2, 1, 1, 0, 0, pending=0, events=1, unhandled=0)


# A delivery ends exactly once.


class Ends(Hook):
    """Counts the ends of every delivery."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    def delivery_ended(self, event: Event[Any], outcome: Outcome) -> None:
        self.ends.append(outcome.status)


class Stubborn:
    """A handler that refuses to end, however often it is cancelled, until it is let go."""

    def __init__(self, last_words: BaseException | None = None) -> None:
        self.gate = asyncio.Event()
        self.task: asyncio.Task[Any] | None = None
        self.last_words = last_words
        self.ended = False

    async def __call__(self, event: Event[Any]) -> str:
        self.task = asyncio.current_task()
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                continue
        self.ended = True
        if self.last_words is not None:
            raise self.last_words
        return "too late"


@pytest.mark.parametrize("last_words", [None, ValueError("late"), asyncio.CancelledError()])
async def test_an_abandoned_handler_changes_nothing_when_it_ends(
    last_words: BaseException | None,
) -> None:
    """Counted cancelled by the close; returning, raising or being cancelled later is no end."""
    clock, ends = FakeClock(), Ends()
    bus = EventBus(clock=clock, hooks=[ends])
    handler = Stubborn(last_words)
    subscription = bus.subscribe(handler, "a", retry=Retry(attempts=3))
    receipt = await bus.publish("a")
    await turns(3)
    closing = asyncio.create_task(bus.aclose(grace=1))
    for _ in range(3):
        await wait_all_tasks_blocked()
        clock.advance(1)
    report = await within(closing)
    assert (report.cancelled, report.abandoned) == (1, (subscription.name,))
    outcomes = await receipt.outcomes()
    before = bus.statistics()
    assert handler.task is not None
    handler.task.cancel()
    handler.gate.set()
    await wait_all_tasks_blocked()
    clock.advance(100)
    assert handler.ended
    assert bus.statistics() == before
    assert await receipt.outcomes() == outcomes
    assert ends.ends == ["cancelled"]
    assert len(bus.dead_letters) == 0


async def test_everything_thrown_into_one_delivery_ends_it_once() -> None:
    """A time-out, cancellations from outside, unsubscribe and close in one turn: one end."""
    clock, ends = FakeClock(), Ends()
    bus = EventBus(clock=clock, hooks=[ends])
    tasks: list[asyncio.Task[Any]] = []

    async def handler(event: Event[Any]) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        await asyncio.Event().wait()

    subscription = bus.subscribe(handler, "a", timeout=1, retry=Retry(attempts=5))
    receipt = await bus.publish("a")
    await wait_all_tasks_blocked()
    clock.advance(1)
    tasks[0].cancel()
    subscription.unsubscribe()
    closing = asyncio.create_task(bus.aclose(grace=0))
    tasks[0].cancel()
    closing.cancel()
    await wait_all_tasks_blocked()
    clock.advance(5)
    await asyncio.gather(closing, return_exceptions=True)
    clock.advance(100)
    outcomes = await within(receipt.outcomes())
    assert [outcome.status for outcome in outcomes] == ends.ends
    assert len(ends.ends) == 1
    assert balances(bus, subscription)
    assert bus.statistics().pending == 0


@pytest.mark.parametrize("raises", [False, True])
async def test_a_thread_that_returns_late_ends_nothing_again(raises: bool) -> None:
    """Timed out, a thread's delivery has ended; what the thread returns is not counted."""
    clock, ends = FakeClock(), Ends()
    bus = EventBus(clock=clock, hooks=[ends])
    started, gate = threading.Event(), threading.Event()

    def handler(event: Event[Any]) -> None:
        started.set()
        gate.wait(5)
        if raises:
            raise ValueError("late")

    subscription = bus.subscribe(handler, "a", thread=True, timeout=1)
    receipt = await bus.publish("a")
    await asyncio.to_thread(started.wait, 5)
    await wait_all_tasks_blocked()
    clock.advance(1)
    outcomes = await within(receipt.outcomes())
    assert [outcome.status for outcome in outcomes] == ["failed"]
    assert balances(bus, subscription)
    gate.set()
    while subscription._occupied:  # noqa: ASYNC110 - the thread's end has no event of its own
        await asyncio.sleep(0)
    await within(bus.settle())
    assert ends.ends == ["failed"]
    assert bus.statistics() == Statistics(1, 0, 1, 0, 0, pending=0, events=1, unhandled=0)
    assert len(bus.dead_letters) == 1


def test_a_handler_destroyed_with_its_loop_ends_once() -> None:
    """Interleaving 2: buried on a new loop, then collected with ``GeneratorExit``: one end."""
    ends = Ends()
    bus = EventBus(hooks=[ends])
    loops: list[asyncio.AbstractEventLoop] = [asyncio.new_event_loop(), asyncio.new_event_loop()]
    closed: list[str] = []

    async def handler(event: Event[Any]) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            closed.append(str(event.data))

    subscription = bus.subscribe(handler, "a", capacity=5)

    async def publish(data: str) -> None:
        for _ in range(2):
            bus.publish_nowait("a", data)
        await turns(3)

    async def use_again() -> None:
        subscription.unsubscribe()
        await bus.publish("a")
        await bus.settle()

    loops[0].run_until_complete(publish("lost"))
    pending = asyncio.all_tasks(loops[0])
    for task in pending:  # as a program that ends without asyncio.run: nothing is cancelled
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own
    del pending, task
    loops[0].close()
    loops[1].run_until_complete(use_again())
    assert bus.statistics() == Statistics(2, 0, 0, 0, 2, pending=0, events=3, unhandled=1)
    loops[1].close()
    del loops[:]
    gc.collect()
    assert closed == ["lost"]
    assert ends.ends == ["cancelled", "cancelled"]
    assert bus.statistics() == Statistics(2, 0, 0, 0, 2, pending=0, events=3, unhandled=1)


async def test_unsubscribing_in_a_hook_while_an_event_is_taken_starts_no_call() -> None:
    """A hook that unsubscribes while the bus gives a freed place away is between two deliveries."""
    ran: list[Any] = []
    bus: EventBus

    class Unsubscriber(Hook):
        def accepted(self, event: Event[Any], deliveries: int) -> None:
            if event.data == "second":
                subscription.unsubscribe()

    bus = EventBus(hooks=[Unsubscriber()])
    subscription = bus.subscribe(lambda event: ran.append(event.data), "a", capacity=1)
    publishers = [asyncio.create_task(bus.publish("a", data)) for data in ("first", "second")]
    first, second = await asyncio.gather(*publishers)
    await within(bus.settle())
    outcomes = [*await first.outcomes(), *await second.outcomes()]
    assert ran == []
    assert [outcome.status for outcome in outcomes] == ["cancelled", "cancelled"]
    assert balances(bus, subscription)


async def test_a_hook_that_unsubscribes_at_every_end_upsets_no_account() -> None:
    """The first failure of a fan-out removes everybody, in the middle of the bus's own work."""
    subscriptions: list[Subscription] = []

    class Breaker(Ends):
        def delivery_ended(self, event: Event[Any], outcome: Outcome) -> None:
            super().delivery_ended(event, outcome)
            for subscription in subscriptions:
                subscription.unsubscribe()

    def fails(event: Event[Any]) -> None:
        raise ValueError("no")

    ends = Breaker()
    bus = EventBus(hooks=[ends])
    subscriptions.extend(
        bus.subscribe(fails, "a", where=where, capacity=2)
        for where in (None, lambda event: 1 / 0, None)
    )
    for _ in range(2):
        bus.publish_nowait("a")
    await within(bus.settle())
    assert balances(bus, *subscriptions)
    assert sum(each.statistics().accepted for each in subscriptions) == len(ends.ends)
    assert Counter(ends.ends)["handled"] == 0


async def test_a_result_given_to_a_waiter_never_changes() -> None:
    """Outcomes read twice, also after every other delivery of the bus has ended, are equal."""
    bus = EventBus()

    async def handler(event: Event[Any]) -> Any:
        return event.data

    bus.subscribe(handler, "a")
    first = await bus.publish_and_wait("a", 1)
    receipt = await bus.publish("a", 2)
    outcomes = await receipt.outcomes()
    await bus.publish_and_wait("a", 3)
    assert await receipt.outcomes() == outcomes
    assert [outcome.result for outcome in (*first, *outcomes)] == [1, 2]
