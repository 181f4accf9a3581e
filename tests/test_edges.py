"""Moments in which two things happen at once: the edges between attempts, ends and closes."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import anyio
import anyio.from_thread
import pytest
import typing_extensions
from anyio import to_thread
from pydantic import AfterValidator

import eventbus._state
import eventbus._threads
from eventbus import (
    BusClosed,
    Event,
    EventBus,
    HandlerErrors,
    Hook,
    LogLine,
    NotSubscribed,
    Outcome,
    Receipt,
    Retry,
    Topic,
    TopicError,
    UnmatchedPattern,
    WouldDeadlock,
    WrongLoop,
    _drivers,
    _ends,
)
from eventbus._handler import inspect_handler
from eventbus._queues import KeyedQueue
from eventbus.testing import FakeClock, expect_failure, wait_all_tasks_blocked
from tests.helpers import LogLines, balances, turns, within


async def test_a_time_out_after_the_thread_has_returned_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The attempt is over when its thread has returned, not only when the loop has seen to it."""
    clock = FakeClock()
    returned = eventbus._threads._returned

    def then_the_time_is_over(delivery: Any, limit: Any) -> None:
        returned(delivery, limit)
        clock.advance(2)

    monkeypatch.setattr("eventbus._threads._returned", then_the_time_is_over)
    async with EventBus(clock=clock) as bus:
        bus.subscribe(lambda _: "in time", thread=True, timeout=1)
        (outcome,) = await within(bus.publish_and_wait("a"))
    assert (outcome.status, outcome.result) == ("handled", "in time")


def test_a_hook_may_publish_while_a_lost_loop_is_buried() -> None:
    """What it publishes then is handled on the new loop, and nothing waits for ever."""
    seen: list[object] = []

    class Echo(Hook):
        def delivery_ended(self, event: Event[Any], outcome: Outcome) -> None:
            if outcome.status == "cancelled" and not outcome.attempts:
                bus.publish_nowait("echo", event.data)

    bus = EventBus(hooks=[Echo()])
    bus.subscribe(lambda event: seen.append(event.data), "echo")

    async def wait(_: Event[Any]) -> None:
        await asyncio.Event().wait()

    bus.subscribe(wait, "a")

    async def lose() -> None:
        for number in range(3):
            await bus.publish("a", number)
        await wait_all_tasks_blocked()

    async def go_on() -> None:
        await bus.publish("other")
        await within(bus.settle())

    asyncio.run(lose())
    asyncio.run(go_on())
    assert seen == [1, 2]
    assert bus.statistics().pending == 0
    assert balances(bus)


class Raising(Hook):
    """Raises an exception whenever one of its methods is called, the first time."""

    def __init__(self, method: str, error: BaseException) -> None:
        self.method = method
        self.errors = [error]

    def _called(self, method: str) -> None:
        if method == self.method and self.errors:
            raise self.errors.pop()

    def attempt_started(self, event: Event[Any], delivery: object) -> None:
        self._called("attempt_started")

    def attempt_ended(self, event: Event[Any], delivery: object, error: object) -> None:
        self._called("attempt_ended")


METHODS = ["attempt_started", "attempt_ended"]


@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.parametrize("method", METHODS)
async def test_a_hook_that_raises_a_cancellation_loses_no_delivery(
    method: str, thread: bool
) -> None:
    """It is a fault of the hook, named in the log, and the handler runs as ever."""
    lines = LogLines()
    async with EventBus(hooks=[Raising(method, asyncio.CancelledError()), lines]) as bus:
        bus.subscribe(lambda event: event.data, thread=thread)
        for number in range(2):
            (outcome,) = await within(bus.publish_and_wait("a", number))
            assert (outcome.status, outcome.result) == ("handled", number)
    (line,) = lines.named("hook.failed")
    assert line.fields["method"] == method


@pytest.mark.parametrize("kind", ["def", "async", "thread"])
@pytest.mark.parametrize("method", METHODS)
def test_a_hook_that_ends_the_program_makes_a_failed_delivery(method: str, kind: str) -> None:
    """``SystemExit`` leaves the loop, and the delivery has ended as any other that raises it."""
    bus = EventBus(hooks=[Raising(method, SystemExit(3))])

    async def wait_a_turn(_: Event[Any]) -> None:
        await asyncio.sleep(0)

    if kind == "async":
        bus.subscribe(wait_a_turn, retry=Retry(initial=0))
    else:
        bus.subscribe(lambda _: None, thread=kind == "thread", retry=Retry(initial=0))
    with pytest.raises(SystemExit) as raised:
        asyncio.run(within(bus.publish_and_wait("a")))
    assert raised.value.code == 3
    statistics = bus.statistics()
    assert (statistics.failed, statistics.pending) == (1, 0)
    (letter,) = bus.dead_letters
    assert isinstance(letter.error, SystemExit)


async def test_a_redelivered_event_keeps_its_time_when_it_waits_for_room() -> None:
    """It is the same event: only a new one is dated when it gets its place."""
    clock, release = FakeClock(), asyncio.Event()
    seen: list[Event[Any]] = []

    async def fail_once(event: Event[Any]) -> None:
        seen.append(event)
        if len(seen) == 1:
            raise ValueError
        await release.wait()

    async with EventBus(clock=clock) as bus:
        bus.subscribe(fail_once, capacity=1)
        await within(bus.publish_and_wait("a", "first"))
        (letter,) = bus.dead_letters
        time = letter.event.time
        await bus.publish("a", "runs")
        await wait_all_tasks_blocked()
        await bus.publish("a", "queued")
        again = asyncio.create_task(bus.redeliver(letter))
        await wait_all_tasks_blocked()
        assert not again.done()
        clock.advance(100)
        release.set()
        receipt = await within(again)
        await within(bus.settle())
    assert [event.data for event in seen] == ["first", "runs", "queued", "first"]
    assert receipt.event.time == seen[-1].time == time


async def test_a_redelivery_goes_to_no_other_subscription_of_the_same_default_name() -> None:
    """A default name says nothing of who it is: only a chosen one does."""
    seen: list[str] = []

    def ship(_: Event[Any]) -> None:
        seen.append("ship")
        raise ValueError

    async with EventBus() as bus:
        first = bus.subscribe(ship)
        await within(bus.publish_and_wait("a"))
        first.unsubscribe()
        assert bus.subscribe(ship).name == first.name
        (letter,) = bus.dead_letters
        with pytest.raises(NotSubscribed):
            await bus.redeliver(letter)
    assert seen == ["ship"]
    assert list(bus.dead_letters) == [letter]


@pytest.mark.parametrize(
    "kind",
    [
        "def",
        "async",
        "waiting",
        "apart",
        "keyed",
        "thread",
        "observed",
        "observed thread",
        "typed",
        "typed thread",
        "checked",
    ],
)
async def test_failed_deliveries_make_no_garbage_for_the_collector(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Errors, deliveries and frames do not hold each other: counting references frees them."""
    caplog.set_level(logging.CRITICAL + 1, logger="eventbus")  # its records would keep the errors

    def fail(_: Event[Any]) -> None:
        raise ValueError

    def fail_typed(_: Event[str]) -> None:
        """Is not reached: the data is a number."""

    async def fail_async(_: Event[Any]) -> None:
        raise ValueError

    async def fail_later(_: Event[Any]) -> None:
        await asyncio.sleep(0)
        raise ValueError

    class Observer(Hook):
        def attempt_ended(self, event: Event[Any], delivery: object, error: object) -> None:
            """Makes the pump take its careful path."""

    hooks = [Observer()] if "observed" in kind else []
    async with EventBus(dead_letters=0, hooks=hooks) as bus:
        if kind == "keyed":
            bus.subscribe(fail, key=lambda event: event.data, concurrency=2)
        else:
            handlers = {"async": fail_async, "waiting": fail_later, "apart": fail_later}
            handler = fail_typed if "typed" in kind else handlers.get(kind, fail)
            concurrency = 4 if kind == "apart" else 1
            bus.subscribe(handler, concurrency=concurrency, thread="thread" in kind)
        await within(bus.publish_and_wait("a", 0))
        gc.collect()
        gc.disable()
        try:
            for number in range(200):
                if kind == "checked":
                    with contextlib.suppress(HandlerErrors):
                        await bus.publish_and_wait("a", number, check=True)
                else:
                    await bus.publish("a", number % 3)
            await within(bus.settle())
            found = gc.collect()
        finally:
            gc.enable()
        assert bus.statistics().failed == 201
    assert found < 200  # a cycle is two objects or more; what other tests have left is less


async def test_unsubscribing_ends_what_waits_for_a_thread() -> None:
    """It has not begun, so it ends there and then, and not when a thread is free."""
    release = threading.Event()
    bus = EventBus(threads=1)
    ran: list[object] = []
    bus.subscribe(lambda _: release.wait(5), "busy", thread=True)
    sub = bus.subscribe(ran.append, "a", thread=True)
    await bus.publish("busy")
    await wait_all_tasks_blocked()
    receipt = await bus.publish("a")
    await wait_all_tasks_blocked()
    sub.unsubscribe()
    assert (sub.statistics().cancelled, sub.statistics().pending) == (1, 0)
    (outcome,) = await within(receipt.outcomes())
    assert (outcome.status, outcome.attempts) == ("cancelled", 0)
    release.set()
    await within(bus.settle())
    assert ran == []


async def test_who_leaves_as_its_second_attempt_starts_has_failed_with_the_first() -> None:
    """A hook unsubscribes it: there is no second attempt, and the error of the first stands."""

    class Leave(Hook):
        def attempt_started(self, event: Event[Any], delivery: Any) -> None:
            if delivery.attempt == 2:
                sub.unsubscribe()

    attempts: list[int] = []

    async def fail(_: Event[Any]) -> None:
        attempts.append(1)
        raise LookupError("the first")

    async with EventBus(hooks=[Leave()]) as bus:
        sub = bus.subscribe(fail, retry=Retry(initial=0))
        (outcome,) = await within(bus.publish_and_wait("a"))
    assert (outcome.status, outcome.attempts, len(attempts)) == ("failed", 1, 1)
    assert isinstance(outcome.error, LookupError)


async def test_a_refused_publish_leaves_an_idle_bus_without_a_loop() -> None:
    """Nothing was accepted, so nothing holds the bus to this loop."""
    bus = EventBus()
    for publish in (bus.publish, _nowait(bus)):
        with pytest.raises(TopicError):
            await publish("not a topic!")
        assert bus._loop is None
    await bus.aclose()
    for publish in (bus.publish, _nowait(bus)):
        with pytest.raises(BusClosed):
            await publish("a")
        assert bus._loop is None


def _nowait(bus: EventBus) -> Any:
    async def publish(topic: str) -> None:
        bus.publish_nowait(topic)

    return publish


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_the_time_that_the_log_takes_is_no_handlers(kind: str) -> None:
    """A delivery starts when its handler does: after what came before, log lines included."""
    clock = FakeClock()

    class SlowLog(Hook):
        def log(self, line: LogLine) -> None:
            clock.advance(5)

    def fail(_: Event[Any]) -> None:
        clock.advance(1)
        raise ValueError

    async def fail_async(event: Event[Any]) -> None:
        fail(event)

    async with EventBus(clock=clock, hooks=[SlowLog()]) as bus:
        bus.subscribe(fail if kind == "def" else fail_async, "a")
        receipts = [await bus.publish("a") for _ in range(3)]
        times = []
        for receipt in receipts:
            (outcome,) = await within(receipt.outcomes())
            times.append((outcome.queued, outcome.ran))
    assert times == [(0, 1), (6, 1), (12, 1)]


async def test_no_time_of_an_outcome_is_negative() -> None:
    """Also of an event that was published in the middle of a batch."""
    clock = FakeClock()
    receipts = []

    def cause(event: Event[Any]) -> None:
        clock.advance(3)
        if event.data:
            receipts.append(bus.publish_nowait("a", event.data - 1))
            receipts.append(bus.publish_nowait("b"))

    async with EventBus(clock=clock) as bus:
        bus.subscribe(cause, "a")
        bus.subscribe(lambda _: clock.advance(1), "b", capacity=1, overflow="drop_oldest")
        receipts.append(await bus.publish("a", 5))
        await within(bus.settle())
        outcomes = [outcome for receipt in receipts for outcome in await receipt.outcomes()]
    assert len(outcomes) == 11
    assert min(min(outcome.queued, outcome.ran) for outcome in outcomes) >= 0


async def test_a_second_close_that_is_cancelled_does_not_hurry_the_first() -> None:
    """It only stops waiting; the handler still has the grace of the first."""
    release = asyncio.Event()

    async def wait(_: Event[Any]) -> str:
        await release.wait()
        return "through"

    bus = EventBus()
    bus.subscribe(wait)
    receipt = await bus.publish("a")
    await wait_all_tasks_blocked()
    first = asyncio.create_task(bus.aclose())
    await wait_all_tasks_blocked()
    second = asyncio.create_task(bus.aclose())
    await wait_all_tasks_blocked()
    second.cancel()
    await wait_all_tasks_blocked()
    assert second.cancelled()
    assert not first.done()
    release.set()
    report = await within(first)
    assert (report.handled, dict(report.interrupted)) == (1, {})
    (outcome,) = await receipt.outcomes()
    assert outcome.result == "through"


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_a_handler_that_is_given_up_in_its_first_step_changes_nothing(kind: str) -> None:
    """The close expires and abandons it while it runs; its time-out finds nothing to end."""
    clock = FakeClock()
    release = asyncio.Event()
    through: list[object] = []

    def pass_the_time(event: Event[Any]) -> None:
        if event.data:
            clock.advance(1)
            clock.advance(1)
            through.append(event.data)

    async def wait(event: Event[Any]) -> None:
        pass_the_time(event)
        await release.wait()
        through.append("waited")

    bus = EventBus(clock=clock)
    other = bus.subscribe(lambda _: release.wait(), "first")
    sub = bus.subscribe(wait if kind == "async" else pass_the_time, "a", timeout=5)
    await bus.publish("first")
    await wait_all_tasks_blocked()
    receipt = bus.publish_nowait("a", 1)
    closing = bus.aclose(grace=1).send(None)
    await wait_all_tasks_blocked()
    assert closing is not None
    report = await within(bus.aclose())
    assert sub.name in report.abandoned
    assert other.statistics().cancelled == sub.statistics().cancelled == 1
    release.set()
    await wait_all_tasks_blocked()
    clock.advance(10)
    (outcome,) = await receipt.outcomes()
    assert outcome.status == "cancelled"
    assert through == ([1, "waited"] if kind == "async" else [1])


async def test_a_running_thread_handler_that_waits_for_a_thread_is_seen() -> None:
    """The one thread waits for a delivery that waits for that thread."""
    bus = EventBus(threads=1)
    refused: list[str] = []

    def outer(_: Event[Any]) -> None:
        receipt = anyio.from_thread.run(bus.publish, "b")
        anyio.from_thread.run(turns, 5)
        try:
            anyio.from_thread.run(receipt.outcomes)
        except WouldDeadlock as error:
            refused.append(str(error))

    bus.subscribe(outer, "a", thread=True)
    bus.subscribe(lambda _: None, "b", thread=True)
    await within(bus.publish_and_wait("a", check=True))
    await within(bus.settle())
    assert len(refused) == 1


async def test_a_wait_for_the_whole_bus_does_not_need_its_streams(bus: EventBus) -> None:
    """A handler that settles its own bus is refused because of itself, not of a reader."""

    async def settle(_: Event[Any]) -> None:
        with pytest.raises(WouldDeadlock) as raised:
            await bus.settle()
        assert str(raised.value).count("settle (a)") == 3

    bus.subscribe(settle, "a")
    async with bus.stream("**"):
        await within(bus.publish_and_wait("a", check=True))


async def test_more_subscriptions_than_the_checks_look_at(bus: EventBus) -> None:
    """A large bus in debug mode stays usable, and right."""
    for _ in range(201):
        bus.subscribe(lambda _: None)
    outcomes = await within(bus.publish_and_wait("a", check=True))
    assert len(outcomes) == 201


@pytest.mark.parametrize("end", ["cancel", "time out"])
async def test_a_thread_that_begins_late_runs_nothing(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its delivery has ended while the thread was being started."""
    clock, gate, waits = FakeClock(), threading.Event(), threading.Event()
    run_sync: Any = to_thread.run_sync
    ran: list[object] = []

    async def late(function: Any, *args: Any, limiter: Any) -> Any:
        def begin() -> Any:
            waits.set()
            gate.wait(5)
            return function(*args)

        return await run_sync(begin, limiter=limiter)

    monkeypatch.setattr("eventbus._threads.run_in_thread", late)
    bus = EventBus(clock=clock)
    bus.subscribe(ran.append, thread=True, timeout=1)
    receipt = await bus.publish("a")
    await wait_all_tasks_blocked()
    assert await asyncio.get_running_loop().run_in_executor(None, waits.wait, 5)
    if end == "cancel":
        (task,) = [each for each in asyncio.all_tasks() if each.get_name() == "eventbus-thread"]
        task.cancel()
        await wait_all_tasks_blocked()
    else:
        clock.advance(1)
    gate.set()
    (outcome,) = await within(receipt.outcomes())
    await within(bus.settle())
    await wait_all_tasks_blocked()
    await asyncio.get_running_loop().run_in_executor(None, waits.wait, 5)
    assert outcome.status == ("cancelled" if end == "cancel" else "failed")
    assert ran == []


async def test_a_hook_in_a_thread_may_unsubscribe_before_the_handler_runs() -> None:
    """Then it does not run, and its delivery is cancelled."""

    class Leave(Hook):
        def attempt_started(self, event: Event[Any], delivery: object) -> None:
            anyio.from_thread.run_sync(sub.unsubscribe)

    ran: list[object] = []
    async with EventBus(hooks=[Leave()]) as bus:
        sub = bus.subscribe(ran.append, thread=True)
        (outcome,) = await within(bus.publish_and_wait("a"))
    assert (outcome.status, ran) == ("cancelled", [])


async def test_any_awaitable_of_a_thread_handler_is_refused(bus: EventBus) -> None:
    """Also one that cannot be closed."""

    class Awaitable:
        def __await__(self) -> Any:
            raise NotImplementedError

    bus.subscribe(lambda _: Awaitable(), thread=True)
    (outcome,) = await within(bus.publish_and_wait("a"))
    assert isinstance(outcome.error, TypeError)


async def test_a_redelivery_that_is_cancelled_while_it_waits_leaves_its_letter() -> None:
    """Nothing was accepted, so the letter is still to be delivered."""
    release = asyncio.Event()

    async def handle(event: Event[Any]) -> None:
        if event.data == "bad":
            raise ValueError
        await release.wait()

    bus = EventBus()
    bus.subscribe(handle, capacity=1)
    await within(bus.publish_and_wait("a", "bad"))
    (letter,) = bus.dead_letters
    await bus.publish("a")
    await wait_all_tasks_blocked()
    await bus.publish("a")
    again = asyncio.create_task(bus.redeliver(letter))
    await wait_all_tasks_blocked()
    again.cancel()
    await wait_all_tasks_blocked()
    assert list(bus.dead_letters) == [letter]
    release.set()
    await within(bus.settle())


async def test_a_redelivery_follows_a_chosen_name(bus: EventBus) -> None:
    """Who is subscribed anew under the name that was chosen gets the letter."""
    seen: list[object] = []

    def fail(_: Event[Any]) -> None:
        raise ValueError

    first = bus.subscribe(fail, name="mine")
    await within(bus.publish_and_wait("a", 1))
    first.unsubscribe()
    bus.subscribe(lambda event: seen.append(event.data), name="mine")
    (letter,) = bus.dead_letters
    await within((await bus.redeliver(letter)).outcomes(check=True))
    assert seen == [1]


async def test_a_bus_is_entered_once(bus: EventBus) -> None:
    """Entering it again while it is entered is a mistake of the application."""
    with pytest.raises(WrongLoop, match="entered already"):
        await bus.__aenter__()


async def test_a_stream_that_was_never_entered_is_left_without_a_word(bus: EventBus) -> None:
    """As an exit stack may do."""
    stream = bus.stream("a")
    await stream.__aexit__(None, None, None)
    assert bus.subscriptions == ()


def test_a_strict_bus_refuses_patterns_that_match_nothing() -> None:
    """Nothing is subscribed then."""
    bus = EventBus(catalog=["a"], strict=True)
    with pytest.raises(UnmatchedPattern):
        bus.subscribe(print, "b")
    assert bus.subscriptions == ()


def test_buses_made_by_another_thread_meanwhile_do_no_harm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The set of all buses may grow while it is read: it is read again."""

    class Growing(list[object]):
        def __iter__(self) -> Any:
            if not self:
                self.append("bus")
                raise RuntimeError("Set changed size during iteration")
            return super().__iter__()

    monkeypatch.setattr("eventbus._state.instances", Growing())
    found: list[Any] = [*eventbus._state.every_bus()]
    assert found == ["bus"]


def test_a_key_that_changes_its_hash_costs_a_lane_and_nothing_else() -> None:
    """Its lane is not found again when it is empty, and that raises nothing."""

    class Key:
        value = 1

        def __hash__(self) -> int:
            return self.value

    key, queue = Key(), KeyedQueue()
    receipt: Any = object()
    queue.append(receipt, key)
    taken, lane = queue.take()
    key.value = 2
    queue.release(lane)
    assert taken is receipt
    assert len(queue) == 0


def test_a_builtin_without_a_signature_may_be_a_handler() -> None:
    """What cannot be looked at is trusted."""
    builtin: Any = max
    assert EventBus().subscribe(builtin).name == "max"


def test_an_alias_of_an_event_type_is_looked_through() -> None:
    """As the ``type`` statement makes it."""
    alias = typing_extensions.TypeAliasType("alias", Event[int])

    def handle(event: Any) -> None:
        """Annotated below, with what no checker could know."""

    handle.__annotations__["event"] = alias
    payload = inspect_handler(handle).payload
    assert payload is not None
    assert payload.validate("1", "it") == 1


def test_a_publisher_in_a_thread_is_told_that_the_loop_was_closed() -> None:
    """It does not wait for ever for a loop that will never accept its event."""
    bus = EventBus()
    loop: Any = asyncio.SelectorEventLoop()
    loop.run_until_complete(bus.__aenter__())
    hand_over = loop.call_soon_threadsafe

    def hand_over_and_close(*args: Any, **options: Any) -> None:
        hand_over(*args, **options)
        loop.close()

    loop.call_soon_threadsafe = hand_over_and_close
    with ThreadPoolExecutor(1) as pool, pytest.raises(BusClosed, match="was closed"):
        pool.submit(bus.publish_from_thread, "a").result(10)


@pytest.mark.parametrize("kind", ["plain", "result", "careful"])
async def test_a_driver_that_is_destroyed_ends_without_a_word(kind: str) -> None:
    """Its handler's wait is over, and that is no error of the handler."""

    async def wait(_: Event[Any]) -> None:
        await asyncio.Event().wait()

    bus = EventBus()
    receipt = await bus.publish("other")
    handler: Any = wait if kind != "result" else lambda event: wait(event)
    delivery = _ends.new_delivery(bus.subscribe(handler), receipt, None)
    run = _drivers.careful_driver if kind == "careful" else _drivers.plain_driver
    driver = run(delivery)
    contextvars.copy_context().run(next, driver)
    driver.close()
    assert delivery.error is None


class Carried:
    """Data that can be watched going away."""


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("events", [1, 2])
@pytest.mark.parametrize("handlers", ["bad", "bad good", "good bad", "waits good", "good waits"])
@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_a_handler_that_raises_leaves_no_garbage(
    kind: str, handlers: str, events: int, observed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The frames of its error know nothing of the deliveries before it and after it."""
    caplog.set_level(logging.CRITICAL + 1, logger="eventbus")  # captured, errors would be kept

    def raising(_: Event[Any]) -> None:
        raise ValueError

    async def raising_async(_: Event[Any]) -> None:
        raise ValueError

    async def waiting_first(_: Event[Any]) -> None:
        await asyncio.sleep(0)
        raise ValueError

    class Watcher(Hook):
        def attempt_started(self, event: Event[Any], delivery: object) -> None:
            """Lets every delivery take the careful way."""

    bus = EventBus(dead_letters=0, hooks=[Watcher()] if observed else [])
    names: dict[str, Any] = {
        "bad": raising if kind == "def" else raising_async,
        "good": lambda event: None,
        "waits": waiting_first if kind == "async def" else lambda event: waiting_first(event),
    }
    for name in handlers.split():
        bus.subscribe(names[name], "a")
    gc.collect()
    gc.disable()
    try:
        receipts = [await bus.publish("a", Carried()) for _ in range(events)]
        carried = [weakref.ref(receipt.event.data) for receipt in receipts]
        await within(receipts[-1].outcomes())
        receipts.clear()
        await within(bus.settle())
        await turns(2)
        assert [each() for each in carried] == [None] * events
    finally:
        gc.enable()


async def test_a_validator_of_a_stream_may_publish_and_may_break(bus: EventBus) -> None:
    """What overflow drops meanwhile is not read; what is no payload error reaches the reader."""
    checked: list[object] = []

    def check(data: object) -> object:
        checked.append(data)
        if data == "first":
            bus.publish_nowait("a", "second")
        if data == "broken":
            raise LookupError("in the validator")
        return data

    topic: Topic[Any] = Topic("a", Annotated[Any, AfterValidator(check)])
    async with bus.stream(topic, capacity=1) as events:
        bus.publish_nowait("a", "first")
        assert (await within(anext(events))).data == "second"
        assert events.lagged == 1
        bus.publish_nowait("a", "broken")
        with expect_failure(bus, LookupError, handler="stream"), pytest.raises(LookupError):
            await within(anext(events))
    assert checked == ["first", "second", "broken"]


async def test_a_validator_of_a_topic_may_publish() -> None:
    """P13: an event for nobody leaves the bus idle; the one that is being published binds it."""
    bus, seen = EventBus(), []

    def check(data: object) -> object:
        bus.publish_nowait("for.nobody")
        return data

    topic: Topic[Any] = Topic("a", Annotated[Any, AfterValidator(check)])
    bus.subscribe(lambda event: seen.append(event.data), "a")
    for number in range(2):
        await bus.publish(topic, number)
        await turns(2)
    assert seen == [0, 1]
    assert (bus._pumps, bus._loop) == (0, None)


@pytest.mark.parametrize("known_to_wait", [False, True])
def test_a_hook_that_ends_the_program_while_a_place_is_freed(known_to_wait: bool) -> None:
    """P2, P6: the delivery that has left the queue ends, and the publisher who waited is told."""

    class Leave(Hook):
        def accepted(self, event: Event[Any], deliveries: int) -> None:
            if event.data == "waited":
                raise SystemExit

    async def handle(event: Event[Any]) -> None:
        await asyncio.sleep(0)
        seen.append(event.data)

    bus, seen = EventBus(hooks=[Leave()]), list[object]()
    bus.subscribe(handle, "a", capacity=1)
    bus.subscribe(handle, "b")

    async def main() -> tuple[Outcome, ...]:
        if known_to_wait:
            await bus.publish_and_wait("a", "before")
            await bus.publish_and_wait("b", "before")
            seen.clear()
        waiting = asyncio.ensure_future(publish_last())
        first = bus.publish_nowait("a", "first")
        bus.publish_nowait("b", "beside")
        (outcome,) = await first.outcomes()
        return outcome, *await (await waiting).outcomes()

    async def publish_last() -> Receipt:
        return await bus.publish("a", "waited")  # before the pump has its turn

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.set_exception_handler(lambda *_: None)  # it tells of the exit as well
        task = loop.create_task(main())
        with pytest.raises(SystemExit):
            loop.run_until_complete(task)
        first, second = loop.run_until_complete(within(task))
        assert (first.status, first.attempts, second.status) == ("cancelled", 0, "handled")
        loop.run_until_complete(within(bus.settle()))
    assert set(seen) == {"beside", "waited"}
    assert balances(bus, *bus.subscriptions)
    assert (bus._pumps, bus._loop) == (0, None)


async def test_a_delivery_that_ended_as_its_thread_came_free_does_not_begin() -> None:
    """Whatever has ended it: the place goes to the next, and its handler does not run."""
    release = threading.Event()
    bus = EventBus(threads=1)
    ran: list[object] = []
    bus.subscribe(lambda _: release.wait(5), "busy", thread=True)
    sub = bus.subscribe(lambda event: ran.append(event.data), "a", thread=True)
    await bus.publish("busy")
    await wait_all_tasks_blocked()
    receipt = await bus.publish("a", 1)
    await wait_all_tasks_blocked()
    (delivery,) = sub._running_deliveries()
    _ends.end(delivery, "cancelled")
    release.set()
    await within(bus.publish_and_wait("a", 2, check=True))
    (outcome,) = await receipt.outcomes()
    assert (outcome.status, ran) == ("cancelled", [2])
