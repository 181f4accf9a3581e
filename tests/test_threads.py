"""Handlers with ``thread=True``: their threads, their places, and what ends them."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.from_thread
import pytest

from eventbus import (
    Event,
    EventBus,
    HandlerErrors,
    HandlerTimeout,
    Outcome,
    Retry,
    Subscription,
    WouldDeadlock,
    _threads,
)
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.helpers import LogLines, balances, within


class Gate:
    """A handler for threads that tells when it has begun and ends when it is let."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.most = 0
        self._inside = 0
        self._places = threading.Semaphore(0)
        self._changed = threading.Condition()

    def __call__(self, event: Event[Any]) -> Any:
        with self._changed:
            self.begun.append(event.data)
            self._inside += 1
            self.most = max(self.most, self._inside)
            self._changed.notify_all()
        assert self._places.acquire(timeout=5)
        with self._changed:
            self._inside -= 1
        return event.data

    def let(self, count: int = 1) -> None:
        """Let so many of those that wait, or will wait, go on."""
        self._places.release(count)

    async def until_begun(self, count: int) -> None:
        """Wait until so many have begun."""

        def wait() -> bool:
            with self._changed:
                return self._changed.wait_for(lambda: len(self.begun) >= count, 5)

        assert await asyncio.to_thread(wait), self.begun


async def quiet() -> None:
    """Wait until nobody can go on any more without the test."""
    await wait_all_tasks_blocked()
    await asyncio.to_thread(lambda: None)
    await wait_all_tasks_blocked()


def statuses(outcomes: tuple[Outcome, ...]) -> list[str]:
    return [outcome.status for outcome in outcomes]


async def test_a_thread_handler_runs_in_another_thread(bus: EventBus) -> None:
    """Its result is the outcome's, and the loop goes on meanwhile."""
    bus.subscribe(lambda _: threading.get_ident(), thread=True)
    (outcome,) = await within(bus.publish_and_wait("a", check=True))
    assert outcome.result not in (None, threading.get_ident())


async def test_what_a_thread_handler_raises_is_its_error(bus: EventBus) -> None:
    """The error, with the handler's own traceback, is in the outcome and in the dead letters."""

    def fail(_: Event[Any]) -> None:
        raise LookupError("in the thread")

    bus.subscribe(fail, thread=True)
    with pytest.raises(HandlerErrors) as raised:
        await within(bus.publish_and_wait("a", check=True))
    (error,) = raised.value.exceptions
    assert isinstance(error, LookupError)
    assert [letter.error for letter in bus.dead_letters] == [error]


async def test_an_awaitable_result_is_refused(bus: EventBus) -> None:
    """A thread cannot await: the handler that returns a coroutine fails with the cure."""
    bus.subscribe(lambda _: asyncio.sleep(0), thread=True)
    (outcome,) = await within(bus.publish_and_wait("a"))
    assert isinstance(outcome.error, TypeError)
    assert "async def" in str(outcome.error)


@pytest.mark.parametrize("threads", [1, 3, 40])
async def test_no_more_threads_run_than_the_bus_allows(threads: int) -> None:
    """The limit is for the whole bus; whoever comes after waits for a thread."""
    gate = Gate()
    async with EventBus() if threads == 40 else EventBus(threads=threads) as bus:
        subs = [bus.subscribe(gate, f"a.{n % 2}", thread=True, concurrency=50) for n in range(2)]
        for number in range(threads + 2):
            await bus.publish(f"a.{number % 2}", number)
        await gate.until_begun(threads)
        await quiet()
        assert len(gate.begun) == threads
        assert sum(sub.statistics().pending for sub in subs) == threads + 2
        gate.let(threads + 2)
        await within(bus.settle())
    assert gate.most == threads
    assert sorted(gate.begun) == list(range(threads + 2))


async def test_events_of_one_thread_handler_are_in_order(bus: EventBus) -> None:
    """With ``concurrency=1`` the next begins when the thread has returned."""
    gate = Gate()
    bus.subscribe(gate, thread=True)
    for number in range(5):
        await bus.publish("a", number)
    gate.let(5)
    await within(bus.settle())
    assert gate.begun == [0, 1, 2, 3, 4]
    assert gate.most == 1


async def test_a_cancelled_thread_keeps_its_limit_until_it_returns() -> None:
    """Cancelling the bus's task ends the delivery; the thread still counts among the threads."""
    gate, other = Gate(), Gate()
    bus = EventBus(threads=1)
    bus.subscribe(gate, "a", thread=True)
    bus.subscribe(other, "b", thread=True)
    receipt = await bus.publish("a", 1)
    await gate.until_begun(1)
    await cancel_carriers()
    assert statuses(await within(receipt.outcomes())) == ["cancelled"]
    await bus.publish("b", 2)
    await quiet()
    assert other.begun == []
    gate.let()
    other.let()
    await within(bus.settle())
    assert other.begun == [2]
    assert balances(bus)


async def cancel_carriers() -> None:
    """Cancel the tasks in which the bus waits for threads, as the end of a run does."""
    for task in asyncio.all_tasks():
        if task.get_name() == "eventbus-thread":
            task.cancel()


@pytest.mark.parametrize("turns", range(6))
async def test_a_thread_delivery_that_is_cancelled_at_any_moment_ends(turns: int) -> None:
    """Cancelled before, while and after it gets its thread: it ends once, and its place is free."""
    bus = EventBus(threads=1)
    seen: list[object] = []
    bus.subscribe(lambda event: seen.append(event.data), thread=True)
    receipt = await bus.publish("a", 1)
    await asyncio.sleep(0)  # the pump
    for _ in range(turns):
        await asyncio.sleep(0)
    await cancel_carriers()
    (outcome,) = await within(receipt.outcomes())
    assert outcome.status in ("handled", "cancelled")
    assert outcome.status == "cancelled" or seen == [1]
    await within(bus.publish_and_wait("a", 2, check=True))
    assert seen[-1] == 2
    assert balances(bus)


async def test_unsubscribed_while_it_waits_for_a_thread_it_never_runs() -> None:
    """After ``unsubscribe`` no call starts, neither of what was queued nor of what had a place."""
    gate, other = Gate(), Gate()
    async with EventBus(threads=1) as bus:
        bus.subscribe(gate, "a", thread=True)
        sub = bus.subscribe(other, "b", thread=True)
        await bus.publish("a", 1)
        await gate.until_begun(1)
        receipts = [await bus.publish("b", number) for number in range(2)]
        await quiet()
        sub.unsubscribe()
        gate.let()
        other.let(2)
        for receipt in receipts:
            assert statuses(await within(receipt.outcomes())) == ["cancelled"]
    assert other.begun == []


# Time-outs.


async def timed_out(bus: EventBus, clock: FakeClock, gate: Gate, **options: Any) -> Subscription:
    """A subscription whose first event, 1, has taken too long, and still runs."""
    sub = bus.subscribe(gate, "a", thread=True, timeout=3, **options)
    await bus.publish("a", 1)
    await gate.until_begun(1)
    clock.advance(3)
    return sub


async def test_a_timed_out_thread_keeps_its_place_until_it_returns() -> None:
    """The delivery ends at once; the next begins when the thread is back."""
    clock, gate = FakeClock(), Gate()
    bus = EventBus(clock=clock)
    sub = await timed_out(bus, clock, gate)
    assert sub.statistics().failed == 1
    assert sub.statistics().pending == 0
    (letter,) = bus.dead_letters
    assert isinstance(letter.error, HandlerTimeout)
    receipt = await bus.publish("a", 2)
    await quiet()
    assert gate.begun == [1]
    gate.let(2)
    assert statuses(await within(receipt.outcomes())) == ["handled"]
    assert gate.begun == [1, 2]
    assert gate.most == 1
    assert bus._stuck_threads == 0


async def test_a_thread_at_work_goes_on_when_its_subscription_leaves() -> None:
    """Only what has not begun ends with it."""
    gate = Gate()
    bus = EventBus()
    sub = bus.subscribe(gate, thread=True)
    receipts = [await bus.publish("a", number) for number in (1, 2)]
    await gate.until_begun(1)
    sub.unsubscribe()
    assert (sub.statistics().cancelled, sub.statistics().pending) == (1, 1)
    gate.let()
    (outcome,) = await within(receipts[0].outcomes())
    assert (outcome.status, outcome.result, outcome.attempts) == ("handled", 1, 1)


async def test_a_wait_for_a_thread_is_a_wait_in_the_queue() -> None:
    """``queued`` ends as the first attempt begins in its thread; ``ran`` has all attempts."""
    clock, gate = FakeClock(), Gate()
    bus = EventBus(clock=clock, threads=1)
    bus.subscribe(gate, "busy", thread=True)
    attempts: list[int] = []

    def fail_once(_: Event[Any]) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError

    bus.subscribe(fail_once, "a", thread=True, retry=Retry(initial=4, jitter=0))
    await bus.publish("busy")
    await gate.until_begun(1)
    receipt = await bus.publish("a")
    await quiet()
    clock.advance(3)
    gate.let()
    async with asyncio.timeout(5):
        while clock.next_timer != 4:  # noqa: ASYNC110 - the thread has yet to return
            await asyncio.sleep(0)
    clock.advance(4)
    (outcome,) = await within(receipt.outcomes())
    assert (outcome.status, outcome.queued, outcome.ran) == ("handled", 3, 4)


@pytest.mark.parametrize(("status", "timed_out"), [("cancelled", False), (None, True)])
async def test_a_thread_that_comes_too_late_runs_nothing(
    status: str | None, timed_out: bool
) -> None:
    """Its delivery has ended, or has been timed out, before the thread could begin."""
    delivery: Any = SimpleNamespace(
        status=status, working=lambda: SimpleNamespace(timed_out=timed_out)
    )
    loop: Any = SimpleNamespace(call_soon_threadsafe=lambda *_: None)
    ran: list[object] = []
    context: Any = SimpleNamespace(run=lambda *_: ran.append(1))
    answer = _threads._run(delivery, context, loop, _threads.ThreadLimit(1), [None])
    assert (answer, ran) == (None, [])


async def test_a_late_result_changes_nothing() -> None:
    """What a timed-out thread returns is not its outcome's result."""
    clock, gate = FakeClock(), Gate()
    bus = EventBus(clock=clock)
    bus.subscribe(gate, thread=True, timeout=3)
    receipt = await bus.publish("a", 1)
    await gate.until_begun(1)
    clock.advance(3)
    before = await within(receipt.outcomes())
    gate.let(2)
    await within(bus.publish_and_wait("a", 2))
    assert await receipt.outcomes() == before
    assert (before[0].status, before[0].result) == ("failed", None)
    assert balances(bus)


async def test_a_timed_out_thread_keeps_its_key() -> None:
    """With ``key``, other keys go on, the same key waits for the thread."""
    clock, gate = FakeClock(), Gate()
    bus = EventBus(clock=clock)
    await timed_out(bus, clock, gate, concurrency=3, key=lambda event: event.data % 10)
    await bus.publish("a", 11)
    await bus.publish("a", 12)
    await gate.until_begun(2)
    await quiet()
    assert gate.begun == [1, 12]
    gate.let(3)
    await within(bus.settle())
    assert gate.begun == [1, 12, 11]


async def test_a_timed_out_thread_keeps_its_place_among_the_threads() -> None:
    """With ``threads=1`` no other thread handler begins before it has returned."""
    clock, gate, other = FakeClock(), Gate(), Gate()
    bus = EventBus(clock=clock, threads=1)
    await timed_out(bus, clock, gate)
    bus.subscribe(other, "b", thread=True)
    await bus.publish("b", 2)
    await quiet()
    assert other.begun == []
    gate.let()
    other.let()
    await within(bus.settle())
    assert other.begun == [2]


async def test_a_timed_out_thread_is_retried_when_it_has_returned() -> None:
    """The next attempt waits for the thread and for the pause; later events wait behind it."""
    clock, gate = FakeClock(), Gate()
    bus = EventBus(clock=clock)
    sub = await timed_out(bus, clock, gate, retry=Retry(attempts=2, initial=50, jitter=0))
    await bus.publish("a", 2)
    await quiet()
    assert (gate.begun, sub.statistics().pending) == ([1], 2)
    gate.let()
    async with asyncio.timeout(5):
        while clock.next_timer != 50:  # noqa: ASYNC110 - the thread has yet to return
            await asyncio.sleep(0)
    assert gate.begun == [1]
    clock.advance(50)
    await gate.until_begun(2)
    assert gate.begun == [1, 1]
    gate.let(2)
    await within(bus.settle())
    assert gate.begun == [1, 1, 2]
    assert (sub.statistics().handled, sub.statistics().failed) == (2, 0)


async def test_a_thread_that_does_not_return_is_named_in_the_log() -> None:
    """A second after its time-out the log names it; once it is back, it does not."""
    clock, gate = FakeClock(), Gate()
    bus = EventBus(clock=clock, hooks=[lines := LogLines()])
    sub = await timed_out(bus, clock, gate)
    assert lines.named("handler.stubborn") == []
    clock.advance(1)
    (line,) = lines.named("handler.stubborn")
    assert line.fields["subscription"] == sub.name
    gate.let()
    async with asyncio.timeout(5):
        while clock.next_timer is not None:  # noqa: ASYNC110 - the thread has yet to return
            await asyncio.sleep(0)


# What a thread handler may use.


async def test_the_context_of_the_publisher_is_there(bus: EventBus) -> None:
    """Each attempt has its own copy of the publisher's context variables."""
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")
    seen: list[str] = []

    def handle(event: Event[Any]) -> None:
        seen.append(request.get())
        request.set("changed by the handler")
        assert event.delivery is not None
        if event.delivery.attempt == 1:
            raise ValueError

    bus.subscribe(handle, thread=True, retry=Retry(initial=0))
    request.set("req_1")
    await within(bus.publish_and_wait("a", check=True))
    assert seen == ["req_1", "req_1"]
    assert request.get() == "req_1"


async def test_anyio_from_thread_works_inside(bus: EventBus) -> None:
    """``anyio.from_thread`` reaches the loop, and what it publishes there is nested."""
    seen: list[Event[Any]] = []
    bus.subscribe(seen.append, "b")

    def handle(_: Event[Any]) -> int:
        anyio.from_thread.run(bus.publish, "b")
        return anyio.from_thread.run_sync(threading.get_ident)

    bus.subscribe(handle, "a", thread=True)
    receipt = await bus.publish("a")
    (outcome,) = await within(receipt.outcomes(cascade=True, check=True))
    assert outcome.result == threading.get_ident()
    assert [event.cause for event in seen] == [receipt.event.id]


async def test_a_thread_handler_that_would_wait_for_itself_is_told(bus: EventBus) -> None:
    """``settle`` through ``anyio.from_thread`` in a handler raises instead of waiting for ever."""
    bus.subscribe(lambda _: anyio.from_thread.run(bus.settle), thread=True)
    (outcome,) = await within(bus.publish_and_wait("a"))
    assert isinstance(outcome.error, WouldDeadlock)


def test_system_exit_in_a_thread_leaves_the_loop() -> None:
    """It counts as failed, is not retried, and ends the program as it does in any task."""
    bus = EventBus()
    attempts: list[int] = []

    def leave(_: Event[Any]) -> None:
        attempts.append(1)
        raise SystemExit(3)

    bus.subscribe(leave, thread=True, retry=Retry(initial=0))
    with pytest.raises(SystemExit) as raised:
        asyncio.run(within(bus.publish_and_wait("a")))
    assert raised.value.code == 3
    assert attempts == [1]
    assert bus.statistics().failed == 1
    assert balances(bus)


def test_a_thread_of_another_loop_that_returns_late_takes_no_place() -> None:
    """From one loop to another and back: a thread gives back what it still has, and no more."""
    clock, gate = FakeClock(), Gate()
    bus = EventBus(clock=clock)
    first = asyncio.new_event_loop()

    async def begin() -> Subscription:
        return await timed_out(bus, clock, gate)

    async def back() -> None:
        bus.publish_nowait("b")
        gate.let()
        await quiet()

    sub = first.run_until_complete(within(begin()))
    asyncio.run(within(_publish(bus, "b")))
    first.run_until_complete(within(back()))
    assert sub._running == 0
    gate.let()
    first.run_until_complete(within(bus.publish_and_wait("a", 2, check=True)))
    first.run_until_complete(first.shutdown_default_executor())
    first.close()
    assert balances(bus)


async def _publish(bus: EventBus, topic: str) -> None:
    await bus.publish(topic)
    await bus.settle()


async def test_a_thread_that_cannot_be_started_is_a_failure(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has no thread to give, the delivery fails with its error and goes on."""

    async def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    bus.subscribe(lambda _: None, thread=True)
    with monkeypatch.context() as patch:
        patch.setattr("eventbus._threads.run_in_thread", refuse)
        (outcome,) = await within(bus.publish_and_wait("a"))
    assert outcome.status == "failed"
    assert "can't start" in str(outcome.error)
    await within(bus.publish_and_wait("a", check=True))
