"""P12: ``publish_from_thread`` loses and reorders nothing, and waits like any outsider."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, TypeVar, cast

import pytest
from pydantic import AfterValidator, BaseModel

from eventbus import (
    BusClosed,
    CascadeOverflow,
    Event,
    EventBus,
    PayloadError,
    Receipt,
    Topic,
    TopicError,
    UnknownTopic,
    WrongLoop,
)
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.helpers import LogLines, balances, within

T = TypeVar("T")


async def in_thread(call: Callable[[], T]) -> T:
    """What the call returns or raises in a thread that knows nothing of any handler."""
    context = contextvars.Context()
    return await within(asyncio.to_thread(context.run, call))


async def until(condition: Callable[[], object]) -> None:
    """Give the loop turns until a thread has got so far."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - threads cannot set events of a loop
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("threads", "count"),
    [(4, 150), pytest.param(8, 20_000, marks=pytest.mark.slow)],
)
async def test_many_threads_lose_duplicate_and_reorder_nothing(threads: int, count: int) -> None:
    """All that the threads publish arrives once, and each thread's events in its order."""
    seen: list[list[int]] = [[] for _ in range(threads)]
    async with EventBus() as bus:

        async def record(event: Event[Any]) -> None:
            thread, number = event.data
            seen[thread].append(number)
            if number % 7 == 0:
                await asyncio.sleep(0)

        def publish(thread: int) -> None:
            for number in range(count):
                receipt = bus.publish_from_thread("a", (thread, number))
                assert receipt.event.data == (thread, number)

        bus.subscribe(record, "a", capacity=3)  # so that most publications wait for room
        await asyncio.gather(*(asyncio.to_thread(publish, each) for each in range(threads)))
        await bus.settle()
        assert bus.statistics().events == bus.statistics().handled == threads * count
    assert seen == [list(range(count))] * threads


async def test_it_returns_once_the_event_is_accepted(bus: EventBus) -> None:
    """When the call returns, the event is in the accounts; its handler may still run."""
    release = asyncio.Event()

    async def wait(_: Event[Any]) -> None:
        await release.wait()

    sub = bus.subscribe(wait, "a")

    def publish() -> tuple[int, bool]:
        receipt = bus.publish_from_thread("a")
        return sub.statistics().accepted, receipt.done

    assert await in_thread(publish) == (1, False)
    release.set()


async def test_the_receipt_has_the_outcomes(bus: EventBus) -> None:
    """What the thread gets is a receipt like any other, for the loop to wait for."""
    bus.subscribe(lambda event: event.data + 1, "a", name="add")
    receipt = await in_thread(lambda: bus.publish_from_thread("a", 1, id="evt_7"))
    assert receipt.event.id == "evt_7"
    assert [(o.subscription, o.result) for o in await receipt.outcomes()] == [("add", 2)]


async def test_it_waits_for_room_in_order_of_arrival(bus: EventBus) -> None:
    """A thread before a full queue waits, and is served before those that came after it."""
    release = asyncio.Event()
    seen: list[str] = []

    async def slow(event: Event[Any]) -> None:
        seen.append(event.data)
        await release.wait()

    bus.subscribe(slow, "a", capacity=1)
    await bus.publish("a", "runs")
    await wait_all_tasks_blocked()
    await bus.publish("a", "queued")
    thread = asyncio.create_task(in_thread(lambda: bus.publish_from_thread("a", "thread")))
    await until(lambda: bus._tickets)
    later = asyncio.create_task(bus.publish("a", "later"))
    await wait_all_tasks_blocked()
    assert not thread.done()
    assert bus.statistics().accepted == 2
    release.set()
    await within(asyncio.wait_for(thread, 5))
    await within(asyncio.wait_for(later, 5))
    await bus.settle()
    assert seen == ["runs", "queued", "thread", "later"]


async def test_it_waits_for_longer_than_it_takes_to_look_after_the_loop(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that waits looks now and then whether the loop still lives, and goes on waiting."""
    looks: list[float | None] = []

    class Watched(concurrent.futures.Future[Any]):
        def result(self, timeout: float | None = None) -> Any:
            looks.append(timeout)
            return super().result(0.001 if timeout else None)

    monkeypatch.setattr(concurrent.futures, "Future", Watched)
    release = asyncio.Event()
    bus.subscribe(lambda _: release.wait(), "a", capacity=1)
    await bus.publish("a", "runs")
    await wait_all_tasks_blocked()
    await bus.publish("a", "queued")
    done: list[str] = []
    thread = threading.Thread(
        target=lambda: done.append(bus.publish_from_thread("a", "late").event.data)
    )
    thread.start()
    await until(lambda: len(looks) > 2)
    release.set()
    await until(lambda: done)
    thread.join()
    await bus.settle()
    assert done == ["late"]
    assert looks[0] == 1.0


async def test_it_refuses_on_the_loop_of_the_bus(bus: EventBus) -> None:
    """In a coroutine and in a ``def`` handler it raises instead of waiting for itself."""
    errors: list[BaseException] = []

    def handler(_: Event[Any]) -> None:
        with pytest.raises(WrongLoop, match="publish_nowait") as raised:
            bus.publish_from_thread("b")
        errors.append(raised.value)

    bus.subscribe(handler, "a")
    with pytest.raises(WrongLoop, match=r"await bus\.publish"):
        bus.publish_from_thread("a")
    await bus.publish_and_wait("a", check=True)
    assert len(errors) == 1
    assert bus.statistics().events == 1


async def test_it_refuses_while_the_bus_is_not_entered() -> None:
    """Before entering, although the bus is busy, and after leaving, it raises."""
    bus = EventBus()
    release = asyncio.Event()

    async def wait(_: Event[Any]) -> None:
        await release.wait()

    bus.subscribe(wait, "a")
    with pytest.raises(BusClosed, match="not entered"):
        bus.publish_from_thread("a")
    await bus.publish("a")
    with pytest.raises(BusClosed, match="not entered"):
        await in_thread(lambda: bus.publish_from_thread("a"))
    release.set()
    async with bus:
        pass
    with pytest.raises(BusClosed, match="closed"):
        await in_thread(lambda: bus.publish_from_thread("a"))
    assert bus.statistics().events == 1


class Amount(BaseModel):
    """A payload that takes long to look at, so long that it says so."""

    amount: Annotated[int, AfterValidator(lambda value: _refuse_13(value))]


def _refuse_13(value: int) -> int:
    if value == 13:
        raise TimeoutError("the rates did not come")
    return value


async def test_it_raises_what_publish_raises() -> None:
    """A bad topic, an unknown one and bad data raise in the thread; nothing is accepted."""
    paid = Topic("invoice.paid", Amount)
    async with EventBus(catalog=[paid], strict=True) as bus:
        with pytest.raises(TopicError):
            await in_thread(lambda: bus.publish_from_thread("a..b"))
        with pytest.raises(UnknownTopic):
            await in_thread(lambda: bus.publish_from_thread("invoice.pay"))
        with pytest.raises(PayloadError):
            await in_thread(lambda: bus.publish_from_thread(paid, cast("Any", {"amount": "?"})))
        with pytest.raises(ValueError, match="time zone"):
            await in_thread(lambda: bus.publish_from_thread("invoice.paid", time=_naive()))
        assert bus.statistics().events == 0


def _naive() -> datetime:
    return datetime(2026, 1, 1)  # noqa: DTZ001 - what it is about


async def test_a_time_out_in_the_applications_code_is_no_time_out_of_the_wait(
    bus: EventBus,
) -> None:
    """A ``TimeoutError`` from a validator leaves the call; it does not make it wait for ever."""
    topic = Topic("invoice.paid", Amount)
    with pytest.raises(TimeoutError, match="rates"):
        await in_thread(lambda: bus.publish_from_thread(topic, cast("Any", {"amount": 13})))


async def test_the_context_of_the_thread_reaches_the_handler(bus: EventBus) -> None:
    """What the thread set in its context, the handler sees."""
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")
    seen: list[str] = []
    bus.subscribe(lambda _: seen.append(request.get()), "a")

    def publish() -> None:
        request.set("req_1")
        bus.publish_from_thread("a")

    await in_thread(publish)
    await bus.settle()
    assert seen == ["req_1"]


# Inside a handler.


async def test_a_thread_handler_counts_as_inside(bus: EventBus) -> None:
    """What it publishes knows its cause, and is accepted although the queue is full."""
    seen: list[Event[Any]] = []

    def nest(event: Event[Any]) -> None:
        seen.append(event)
        if event.type == "a.start":
            for _ in range(3):
                bus.publish_from_thread("a.next")

    bus.subscribe(nest, "a.*", thread=True, capacity=1)
    receipt = await bus.publish("a.start")
    await within(receipt.outcomes(cascade=True, check=True))
    assert [event.type for event in seen] == ["a.start", "a.next", "a.next", "a.next"]
    assert {event.cause for event in seen[1:]} == {receipt.event.id}
    assert {event.root for event in seen} == {receipt.event.id}


async def test_a_thread_handler_is_charged_for_its_cascade() -> None:
    """The limit of a cascade holds for what a thread handler publishes."""
    release = asyncio.Event()
    async with EventBus(cascade_limit=2) as bus:

        def nest(event: Event[Any]) -> None:
            for _ in range(3):
                bus.publish_from_thread("b")

        async def slow(_: Event[Any]) -> None:
            await release.wait()

        bus.subscribe(nest, "a", thread=True)
        bus.subscribe(slow, "b")
        (outcome,) = await within(bus.publish_and_wait("a"))
        release.set()
        assert isinstance(outcome.error, CascadeOverflow)
        assert bus.statistics().events == 3


async def test_a_thread_whose_delivery_has_ended_is_an_outsider() -> None:
    """After the time-out the thread that goes on waits for room; cause and root stay."""
    clock = FakeClock()
    begun, go = threading.Event(), threading.Event()
    receipts: list[Receipt] = []
    release = asyncio.Event()
    async with EventBus(clock=clock) as bus:

        def leftover(_: Event[Any]) -> None:
            begun.set()
            go.wait(5)
            receipts.append(bus.publish_from_thread("b", "late"))

        async def slow(_: Event[Any]) -> None:
            await release.wait()

        bus.subscribe(leftover, "a", thread=True, timeout=3)
        bus.subscribe(slow, "b", capacity=1)
        await bus.publish("b")
        await wait_all_tasks_blocked()
        await bus.publish("b")
        first = await bus.publish("a")
        await in_thread(lambda: begun.wait(5))
        clock.advance(3)
        (outcome,) = await within(first.outcomes())
        assert outcome.status == "failed"
        go.set()
        await until(lambda: bus._tickets)
        assert not receipts
        release.set()
        await until(lambda: receipts)
    assert (receipts[0].event.cause, receipts[0].event.root) == (first.event.id,) * 2
    assert balances(bus)


async def test_a_handler_of_a_bus_on_another_loop_is_not_nested_there(bus: EventBus) -> None:
    """A publication from one loop to a bus on another leaves the first one's receipts alone."""
    ready, stop = threading.Event(), threading.Event()
    far = EventBus(name="far")
    threads: list[int] = []

    async def run_far() -> None:
        async with far:
            far.subscribe(lambda _: threads.append(threading.get_ident()), "b")
            ready.set()
            await asyncio.to_thread(stop.wait, 5)

    async def forward(_: Event[Any]) -> str:
        receipt = await asyncio.to_thread(far.publish_from_thread, "b")
        assert receipt._cascade is None  # a receipt belongs to one loop
        return str(receipt.event.cause)

    bus.subscribe(forward, "a")
    other = threading.Thread(target=lambda: asyncio.run(run_far()))
    other.start()
    await in_thread(lambda: ready.wait(5))
    receipt = await bus.publish("a")
    outcomes = await within(receipt.outcomes(cascade=True, check=True))
    stop.set()
    await in_thread(lambda: other.join(5))
    assert outcomes[0].result == receipt.event.id
    assert threads == [other.ident]


# Closing.


async def test_a_thread_that_waits_is_refused_when_the_bus_closes() -> None:
    """A thread that waits for room gets ``BusClosed`` as soon as the bus begins to close."""
    release = asyncio.Event()
    async with EventBus() as bus:

        async def slow(_: Event[Any]) -> None:
            await release.wait()

        bus.subscribe(slow, "a", capacity=1)
        await bus.publish("a")
        await wait_all_tasks_blocked()
        await bus.publish("a")
        thread = asyncio.create_task(in_thread(lambda: bus.publish_from_thread("a")))
        await until(lambda: bus._tickets)
        closing = asyncio.create_task(bus.aclose())
        with pytest.raises(BusClosed, match="waited for room"):
            await thread
        with pytest.raises(BusClosed):
            await in_thread(lambda: bus.publish_from_thread("a"))
        release.set()
        report = await within(asyncio.wait_for(closing, 5))
    assert (report.accepted, report.handled) == (2, 2)


async def test_a_thread_handler_may_publish_while_the_bus_drains() -> None:
    """It is inside, so it may; after the grace period it may not."""
    clock = FakeClock()
    lines = LogLines()
    begun, go, late = threading.Event(), threading.Event(), threading.Event()
    answers: list[object] = []
    seen: list[str] = []
    bus = EventBus(clock=clock, hooks=[lines])

    def publish(_: Event[Any]) -> None:
        begun.set()
        go.wait(5)
        answers.append(bus.publish_from_thread("b"))
        late.wait(5)
        try:
            bus.publish_from_thread("b")
        except BusClosed as error:
            answers.append(error)

    async with bus:
        bus.subscribe(publish, "a", thread=True)
        bus.subscribe(lambda event: seen.append(event.type), "b")
        await bus.publish("a")
        await in_thread(lambda: begun.wait(5))
        closing = asyncio.create_task(bus.aclose(grace=10))
        await wait_all_tasks_blocked()
        go.set()
        await until(lambda: seen)
        clock.advance(10)
        late.set()
        report = await within(asyncio.wait_for(closing, 5))
        await until(lambda: len(answers) == 2)
    assert isinstance(answers[0], Receipt)
    assert isinstance(answers[1], BusClosed)
    assert (report.handled, report.cancelled) == (1, 1)
    assert seen == ["b"]


def test_a_loop_that_closes_while_a_thread_waits_for_room_lets_it_go() -> None:
    """The thread gets ``BusClosed``, at the latest a second after its loop has closed."""
    bus = EventBus(hooks=[lines := LogLines()])
    errors: list[BaseException] = []
    loop = asyncio.new_event_loop()

    def publish() -> None:
        try:
            bus.publish_from_thread("a", 3)
        except BusClosed as error:
            errors.append(error)

    async def main() -> threading.Thread:
        await bus.__aenter__()
        bus.subscribe(lambda _: asyncio.get_running_loop().create_future(), "a", capacity=1)
        await bus.publish("a", 1)
        await wait_all_tasks_blocked()
        await bus.publish("a", 2)
        thread = threading.Thread(target=publish)
        thread.start()
        await until(lambda: bus._tickets)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        return thread

    thread = loop.run_until_complete(main())
    loop.close()
    asyncio.run(
        bus.settle()
    )  # whoever uses the bus next buries what was lost, and wakes the thread
    thread.join(5)
    assert not thread.is_alive()
    assert len(errors) == 1
    assert bus.statistics().events == 2
    assert len(lines.named("loop.lost")) == 1


@pytest.mark.parametrize(
    "when",
    ["before the call", pytest.param("before the event was looked at", marks=pytest.mark.slow)],
)
def test_a_loop_that_is_closed_refuses_threads(when: str) -> None:
    """A bus whose loop was closed under it refuses with ``BusClosed``, in any thread."""
    bus = EventBus()
    errors: list[BaseException] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(bus.__aenter__())

    def publish() -> None:
        try:
            bus.publish_from_thread("a")
        except BusClosed as error:
            errors.append(error)

    thread = threading.Thread(target=publish)
    if when == "before the call":
        loop.close()
        publish()
        thread.start()
    else:
        called = threading.Event()
        handed_over = loop.call_soon_threadsafe

        def call_soon_threadsafe(*args: Any, **kwargs: Any) -> Any:
            try:
                return handed_over(*args, **kwargs)
            finally:
                called.set()

        bus._loop = _Spy(loop, call_soon_threadsafe)  # type: ignore[assignment]  # has what is asked
        thread.start()
        called.wait(5)
        loop.close()
    thread.join(5)
    assert not thread.is_alive()
    assert len(errors) == (2 if when == "before the call" else 1)
    assert bus.statistics().events == 0


class _Spy:
    """A loop that tells when a thread has handed something over."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call_soon_threadsafe: Any) -> None:
        self.is_closed = loop.is_closed
        self.call_soon_threadsafe = call_soon_threadsafe
