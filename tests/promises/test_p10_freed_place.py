"""P10: a handler that is over frees its place, at once and not before it is over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eventbus import Event, EventBus, HandlerTimeout, Retry
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.helpers import LogLines, turns, within


def current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def thread_tasks() -> list[asyncio.Task[Any]]:
    """The tasks that wait for handlers in threads, as a shutdown that cancels everything does."""
    return [task for task in asyncio.all_tasks() if task.get_name() == "eventbus-thread"]


async def until(condition: Callable[[], object]) -> None:
    """Give other threads time until something holds; the order of things does not hang on it."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - a thread has no event of the loop to set
            await asyncio.sleep(0.001)  # real clock: threads have no other


class Gates:
    """A handler for threads that stops inside until it is let go."""

    def __init__(self) -> None:
        self.started: list[Any] = []
        self.returned: list[Any] = []
        self._gates: dict[Any, threading.Event] = {}
        self._lock = threading.Lock()

    def _gate(self, data: Any) -> threading.Event:
        with self._lock:
            return self._gates.setdefault(data, threading.Event())

    def handler(self, event: Event[Any]) -> None:
        self.started.append(event.data)
        self._gate(event.data).wait(10)
        self.returned.append(event.data)

    def open(self, *data: Any) -> None:
        for each in data:
            self._gate(each).set()

    def open_all(self) -> None:
        with self._lock:
            self._gates = {**{data: _open() for data in range(10)}, **self._gates}
            for gate in self._gates.values():
                gate.set()


def _open() -> threading.Event:
    gate = threading.Event()
    gate.set()
    return gate


@pytest.fixture
def gates() -> Iterator[Gates]:
    """Let go of every thread when the test has ended, however it did."""
    gates = Gates()
    yield gates
    gates.open_all()


class Stage:
    """A bus on a fake clock, with one handler that keeps its task and waits for a future."""

    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock()
        self.lines = LogLines()
        self.bus = EventBus(clock=self.clock, hooks=[self.lines])
        self.began: list[Any] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.futures: list[asyncio.Future[Any]] = []
        self.clean_up: asyncio.Event | None = None
        self.bus.subscribe(self.handler, **options)

    async def handler(self, event: Event[Any]) -> Any:
        self.began.append(event.data)
        self.tasks.append(current_task())
        self.futures.append(asyncio.get_running_loop().create_future())
        try:
            return await self.futures[-1]
        finally:
            if self.clean_up is not None:
                await self.clean_up.wait()


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_a_handler_that_ends_frees_its_place(how: str) -> None:
    """The next delivery begins once the coroutine has ended, and not while it cleans up."""
    stage = Stage(timeout=5)
    stage.clean_up = asyncio.Event()
    first = stage.bus.publish_nowait("a", 1)
    stage.bus.publish_nowait("a", 2)
    await wait_all_tasks_blocked()
    if how == "cancelled":
        stage.tasks[0].cancel()
    else:
        stage.clock.advance(5)
    await wait_all_tasks_blocked()
    assert stage.began == [1]
    assert not first.done
    stage.clean_up.set()
    (outcome,) = await within(first.outcomes())
    assert outcome.status == ("cancelled" if how == "cancelled" else "failed")
    await until(lambda: stage.began == [1, 2])
    stage.futures[1].set_result(None)
    await within(stage.bus.settle())


async def test_a_place_among_several_is_freed_for_the_next() -> None:
    """With ``concurrency=2`` the third takes the place of the one that timed out."""
    stage = Stage(timeout=5, concurrency=2)
    for number in range(4):
        stage.bus.publish_nowait("a", number)
    await wait_all_tasks_blocked()
    stage.futures[1].set_result(None)
    await wait_all_tasks_blocked()
    assert stage.began == [0, 1, 2]
    stage.clock.advance(5)
    await wait_all_tasks_blocked()
    assert stage.began == [0, 1, 2, 3]
    stage.clock.advance(5)
    await within(stage.bus.settle())
    assert stage.bus.statistics().failed == 3


async def test_a_handler_that_refuses_to_end_is_named_in_the_log() -> None:
    """One warning, a second after its time-out; its place stays taken until it ends."""
    stage = Stage(timeout=5, name="stubborn")
    stage.clean_up = asyncio.Event()
    receipt = stage.bus.publish_nowait("a", 1)
    stage.bus.publish_nowait("a", 2)
    await wait_all_tasks_blocked()
    stage.clock.advance(5)
    await wait_all_tasks_blocked()
    stage.clock.advance(0.9)
    assert stage.lines.named("handler.stubborn") == []
    stage.clock.advance(100)
    await wait_all_tasks_blocked()
    (line,) = stage.lines.named("handler.stubborn")
    assert (line.fields["subscription"], line.fields["event_id"]) == ("stubborn", receipt.event.id)
    assert stage.began == [1]
    stage.clean_up.set()
    await wait_all_tasks_blocked()
    stage.futures[1].set_result(None)
    await within(stage.bus.settle())
    assert len(stage.lines.named("handler.stubborn")) == 1


async def test_one_that_ends_in_time_is_not_named() -> None:
    """No warning about a handler that was quick to clean up."""
    stage = Stage(timeout=5)
    stage.bus.publish_nowait("a", 1)
    await wait_all_tasks_blocked()
    stage.clock.advance(5)
    await within(stage.bus.settle())
    stage.clock.advance(100)
    assert stage.lines.named("handler.stubborn") == []
    assert stage.clock.next_timer is None


async def test_a_timed_out_handler_is_retried_in_its_place() -> None:
    """``timeout`` is for each attempt, and begins anew with it."""
    stage = Stage(timeout=5, retry=Retry(attempts=2, initial=1, jitter=0))
    receipt = stage.bus.publish_nowait("a", 1)
    await wait_all_tasks_blocked()
    stage.clock.advance(5)
    await wait_all_tasks_blocked()
    stage.clock.advance(1)
    await wait_all_tasks_blocked()
    stage.clock.advance(4.9)
    await wait_all_tasks_blocked()
    assert (stage.began, receipt.done) == ([1, 1], False)
    stage.futures[1].set_result("late, and in time")
    (outcome,) = await within(receipt.outcomes())
    assert (outcome.status, outcome.result, outcome.attempts) == ("handled", "late, and in time", 2)
    assert outcome.ran == pytest.approx(10.9)
    assert stage.clock.next_timer is None


async def test_the_time_out_of_one_attempt_does_not_hit_the_next() -> None:
    """An attempt that failed early takes its time-out with it."""
    stage = Stage(timeout=5, retry=Retry(attempts=2, initial=1, jitter=0))
    receipt = stage.bus.publish_nowait("a", 1)
    await wait_all_tasks_blocked()
    stage.futures[0].set_exception(ValueError())
    await wait_all_tasks_blocked()
    stage.clock.advance(1)
    await wait_all_tasks_blocked()
    stage.clock.advance(4.9)
    await wait_all_tasks_blocked()
    assert (stage.began, receipt.done) == ([1, 1], False)
    stage.clock.advance(0.1)
    (outcome,) = await within(receipt.outcomes())
    assert isinstance(outcome.error, HandlerTimeout)


async def test_the_time_out_counts_from_the_beginning_of_the_attempt() -> None:
    """Time that the handler takes before it first waits counts too."""
    clock = FakeClock()
    bus = EventBus(clock=clock)

    @bus.on(timeout=5)
    async def handler(event: Event[Any]) -> None:
        clock.advance(4)
        await asyncio.Event().wait()

    receipt = bus.publish_nowait("a")
    await wait_all_tasks_blocked()
    clock.advance(1)
    (outcome,) = await within(receipt.outcomes())
    assert isinstance(outcome.error, HandlerTimeout)


async def test_a_time_out_that_is_over_before_the_handler_waits_comes_at_once() -> None:
    """The first step has taken longer than the time-out; no time need pass after it."""
    clock = FakeClock()
    bus = EventBus(clock=clock)

    @bus.on(timeout=5)
    async def handler(event: Event[Any]) -> None:
        clock.advance(6)
        await asyncio.Event().wait()

    receipt = bus.publish_nowait("a")
    await wait_all_tasks_blocked()
    assert clock.next_timer == 0
    clock.advance(0)
    (outcome,) = await within(receipt.outcomes())
    assert isinstance(outcome.error, HandlerTimeout)


async def test_a_handler_that_cancels_itself_lets_the_next_begin_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody has cancelled it from outside, so no loop is about to end, and nobody rests."""
    monkeypatch.setattr("eventbus._engine.REST_SECONDS", 60)
    async with EventBus() as bus:

        @bus.on("a")
        async def handler(event: Event[Any]) -> None:
            await asyncio.sleep(0)
            raise asyncio.CancelledError

        receipts = [await bus.publish("a") for _ in range(3)]
        for receipt in receipts:
            (outcome,) = await within(receipt.outcomes())
            assert outcome.status == "cancelled"


@pytest.mark.parametrize("asked", [True, False], ids=["cancelled", "raises it"])
async def test_the_task_of_a_cancelled_handler_is_cancelled(asked: bool) -> None:
    """Cancellation is passed on to whoever asked for it; what a handler raises itself is not."""
    bus = EventBus()
    tasks: list[asyncio.Task[Any]] = []

    async def handler(event: Event[Any]) -> None:
        tasks.append(current_task())
        await asyncio.sleep(0)
        if not asked:
            raise asyncio.CancelledError
        await asyncio.Event().wait()

    bus.subscribe(handler)
    receipt = await bus.publish("a")
    await turns(1)
    await wait_all_tasks_blocked()
    if asked:
        tasks[0].cancel()
    (outcome,) = await within(receipt.outcomes())
    await wait_all_tasks_blocked()
    assert outcome.status == "cancelled"
    assert tasks[0].cancelled() is asked


# Interleaving 7: a handler ends without waiting after having cancelled its own task; the next in
# the same batch waits.


@pytest.mark.parametrize("same", [True, False], ids=["one subscription", "two subscriptions"])
@pytest.mark.parametrize("ending", ["returns", "raises"])
@pytest.mark.parametrize("careful", [False, True], ids=["direct", "with a key"])
async def test_a_handler_that_cancelled_its_own_task_cancels_nobody(
    same: bool, ending: str, careful: bool
) -> None:
    """Interleaving 7: the request arrives at nobody, and the next handler waits in peace."""
    bus = EventBus()
    ended: list[str] = []

    async def cancels(event: Event[Any]) -> None:
        current_task().cancel()
        if ending == "raises":
            raise ValueError

    async def waits(event: Event[Any]) -> None:
        await turns(3)
        assert current_task().cancelling() == 0
        ended.append("waits")

    async def both(event: Event[Any]) -> None:
        await (cancels if event.data == 0 else waits)(event)

    options: dict[str, Any] = {"concurrency": 2, "key": lambda event: 0} if careful else {}
    if same:
        bus.subscribe(both, **options)
        receipts = [bus.publish_nowait("a", 0), bus.publish_nowait("a", 1)]
    else:
        bus.subscribe(cancels, **options)
        bus.subscribe(waits, **options)
        receipts = [bus.publish_nowait("a")]
    outcomes = [outcome for each in receipts for outcome in await within(each.outcomes())]
    assert [each.status for each in outcomes] == [
        "handled" if ending == "returns" else "failed",
        "handled",
    ]
    assert ended == ["waits"]


async def test_a_handler_that_cancelled_its_own_task_and_waits_is_cancelled() -> None:
    """Interleaving 7, its other half: the request arrives where it was made, once it waits."""
    bus = EventBus()
    caught: list[str] = []

    @bus.on()
    async def cancels(event: Event[Any]) -> None:
        current_task().cancel("mine")
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            caught.append(str(error))
            raise

    bus.subscribe(lambda event: caught.append("next"))
    outcomes = await within(bus.publish_and_wait("a"))
    assert [each.status for each in outcomes] == ["cancelled", "handled"]
    assert sorted(caught) == ["mine", "next"]


# Interleaving 8: a timeout fires in the turn in which the handler returns, raises, or is cancelled
# from outside; and while a retry sleeps.


@pytest.mark.parametrize("first", ["result", "time-out"])
async def test_a_time_out_in_the_turn_in_which_the_handler_would_return(first: str) -> None:
    """Interleaving 8: what came to its future cannot be taken back, the time-out still wins."""
    stage = Stage(timeout=5)
    receipt = stage.bus.publish_nowait("a", 1)
    stage.bus.publish_nowait("a", 2)
    await wait_all_tasks_blocked()
    if first == "result":
        stage.futures[0].set_result("done")
        stage.clock.advance(5)
    else:
        stage.clock.advance(5)
        assert stage.futures[0].cancelled()
    (outcome,) = await within(receipt.outcomes())
    assert (outcome.status, type(outcome.error)) == ("failed", HandlerTimeout)
    assert len(stage.bus.dead_letters) == len(stage.lines.named("delivery.failed")) == 1
    await wait_all_tasks_blocked()
    assert stage.began == [1, 2]
    stage.futures[1].set_result(None)
    await within(stage.bus.settle())


async def test_a_time_out_after_the_handler_returned_in_the_same_turn() -> None:
    """Interleaving 8: a handler that has returned is handled, whatever fires afterwards."""
    stage = Stage(timeout=5)
    receipt = stage.bus.publish_nowait("a", 1)
    await wait_all_tasks_blocked()
    stage.futures[0].add_done_callback(lambda _: stage.clock.advance(5))  # after the task's own
    stage.tasks[0].add_done_callback(lambda _: stage.clock.advance(5))
    stage.futures[0].set_result("done")
    (outcome,) = await within(receipt.outcomes())
    assert (outcome.status, outcome.result) == ("handled", "done")
    assert stage.bus.statistics().pending == 0
    assert stage.clock.next_timer is None


@pytest.mark.parametrize("retry", [None, Retry(attempts=2, initial=1, jitter=0)])
async def test_a_handler_that_answers_its_time_out_with_an_error(retry: Retry | None) -> None:
    """Interleaving 8: it fails with what it raised, once, and is retried for that."""
    clock = FakeClock()
    lines = LogLines()
    bus = EventBus(clock=clock, hooks=[lines])
    attempts = 0

    @bus.on(timeout=5, retry=retry)
    async def handler(event: Event[Any]) -> None:
        nonlocal attempts
        attempts += 1
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError(attempts)

    receipt = bus.publish_nowait("a")
    for _ in range(3):
        await wait_all_tasks_blocked()
        clock.advance(5)
    (outcome,) = await within(receipt.outcomes())
    assert (outcome.status, outcome.attempts) == ("failed", 1 if retry is None else 2)
    assert isinstance(outcome.error, ValueError)
    assert len(bus.dead_letters) == len(lines.named("delivery.failed")) == 1


@pytest.mark.parametrize("first", ["cancel", "time-out"])
async def test_a_time_out_in_the_turn_of_a_cancellation_from_outside(first: str) -> None:
    """Interleaving 8: the cancellation is not swallowed: no failure, no other attempt."""
    stage = Stage(timeout=5, retry=Retry(attempts=3, initial=1))
    receipt = stage.bus.publish_nowait("a", 1)
    await wait_all_tasks_blocked()
    if first == "cancel":
        stage.tasks[0].cancel()
        stage.clock.advance(5)
    else:
        stage.clock.advance(5)
        stage.tasks[0].cancel()
    (outcome,) = await within(receipt.outcomes())
    assert (outcome.status, outcome.attempts, outcome.error) == ("cancelled", 1, None)
    await asyncio.wait(stage.tasks)
    assert stage.tasks[0].cancelled()
    assert len(stage.bus.dead_letters) == 0


async def test_no_time_out_while_a_retry_sleeps() -> None:
    """Interleaving 8: a pause longer than ``timeout`` is no time-out."""
    stage = Stage(timeout=5, retry=Retry(attempts=2, initial=60, jitter=0))
    receipt = stage.bus.publish_nowait("a", 1)
    await wait_all_tasks_blocked()
    stage.futures[0].set_exception(ValueError())
    await wait_all_tasks_blocked()
    stage.clock.advance(59)
    await wait_all_tasks_blocked()
    assert (stage.began, receipt.done) == ([1], False)
    stage.clock.advance(1)
    await wait_all_tasks_blocked()
    stage.futures[1].set_result("second")
    (outcome,) = await within(receipt.outcomes())
    assert (outcome.status, outcome.result, outcome.attempts) == ("handled", "second", 2)


async def test_a_handler_that_swallows_its_time_out_and_returns_is_handled() -> None:
    """It was told, had its say, and returned."""
    clock = FakeClock()
    bus = EventBus(clock=clock)

    @bus.on(timeout=5)
    async def handler(event: Event[Any]) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "partial"
        return "whole"

    receipt = bus.publish_nowait("a")
    await wait_all_tasks_blocked()
    clock.advance(5)
    (outcome,) = await within(receipt.outcomes())
    assert (outcome.status, outcome.result) == ("handled", "partial")


# Handlers in threads.


@pytest.mark.parametrize("how", ["timed out", "cancelled"])
async def test_a_thread_keeps_its_place_after_its_delivery_has_ended(
    gates: Gates, how: str
) -> None:
    """The delivery ends at once; the next begins when the thread has returned."""
    clock = FakeClock()
    lines = LogLines()
    bus = EventBus(clock=clock, hooks=[lines])
    bus.subscribe(gates.handler, thread=True, timeout=5)
    first = bus.publish_nowait("a", 1)
    second = bus.publish_nowait("a", 2)
    await until(lambda: gates.started == [1])
    if how == "timed out":
        clock.advance(5)
        assert first.done
    else:
        for task in thread_tasks():
            task.cancel()
    (outcome,) = await within(first.outcomes())
    assert outcome.status == ("failed" if how == "timed out" else "cancelled")
    assert outcome.attempts == 1
    await wait_all_tasks_blocked()
    assert gates.started == [1]
    if how == "timed out":
        clock.advance(1)
        assert len(lines.named("handler.stubborn")) == 1
    gates.open(1, 2)
    (outcome,) = await within(second.outcomes())
    assert outcome.status == "handled"
    assert (gates.started, gates.returned) == ([1, 2], [1, 2])
    assert first.done
    assert bus.statistics().handled == 1


async def test_a_thread_keeps_its_key_after_its_delivery_has_ended(gates: Gates) -> None:
    """Another key goes on; the same key waits for the thread."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    bus.subscribe(
        gates.handler, thread=True, timeout=5, concurrency=2, key=lambda event: event.data // 10
    )
    first = bus.publish_nowait("a", 1)
    bus.publish_nowait("a", 2)
    bus.publish_nowait("a", 11)
    await until(lambda: len(gates.started) == 2)
    clock.advance(5)
    assert first.done
    gates.open(11)
    await until(lambda: gates.returned == [11])
    await turns(20)
    assert sorted(gates.started) == [1, 11]
    gates.open(1, 2)
    await within(bus.settle())
    assert gates.started[2:] == [2]


async def test_a_timed_out_thread_is_retried_when_it_has_returned(gates: Gates) -> None:
    """Its next attempt never runs beside the one that took too long."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    bus.subscribe(gates.handler, thread=True, timeout=5, retry=Retry(initial=1, jitter=0))
    receipt = bus.publish_nowait("a", 1)
    await until(lambda: gates.started == [1])
    clock.advance(100)
    await turns(20)
    assert (gates.started, receipt.done) == ([1], False)
    gates.open(1)
    await until(lambda: clock.next_timer == 1)
    clock.advance(1)
    (outcome,) = await within(receipt.outcomes())
    assert (outcome.status, outcome.attempts) == ("handled", 2)


@pytest.mark.parametrize("how", ["timed out", "cancelled"])
async def test_a_thread_is_given_back_only_when_it_returns(gates: Gates, how: str) -> None:
    """With ``threads=1`` no other handler begins while one that was given up still runs."""
    clock = FakeClock()
    bus = EventBus(clock=clock, threads=1)
    bus.subscribe(gates.handler, "a", thread=True, timeout=5)
    bus.subscribe(gates.handler, "b", thread=True)
    first = bus.publish_nowait("a", 1)
    await until(lambda: gates.started == [1])
    if how == "timed out":
        clock.advance(5)
    else:
        for task in thread_tasks():
            task.cancel()
    await within(first.outcomes())
    second = bus.publish_nowait("b", 2)
    await turns(50)
    await asyncio.sleep(0.02)  # real clock: a thread that should not be there would begin
    assert gates.started == [1]
    gates.open(1, 2)
    await within(second.outcomes())
    assert gates.started == [1, 2]


@pytest.mark.parametrize("after", range(8))
async def test_a_thread_handler_cancelled_before_it_began_frees_its_place(after: int) -> None:
    """Whatever turn its task is cancelled in, the delivery ends and the next one runs."""
    bus = EventBus()
    ran: list[int] = []
    bus.subscribe(lambda event: ran.append(event.data), thread=True)
    first = bus.publish_nowait("a", 1)
    second = bus.publish_nowait("a", 2)
    await turns(after)
    for task in thread_tasks():
        task.cancel()
    (outcome,) = await within(first.outcomes())
    assert outcome.attempts == (1 in ran)
    if after:
        assert outcome.status in ("cancelled", "handled")
    (outcome,) = await within(second.outcomes())
    assert outcome.status == "handled"
    assert ran in ([2], [1, 2])


async def test_a_thread_handler_that_never_got_a_thread_was_not_run(gates: Gates) -> None:
    """Closing cancels it in its line for a thread; its outcome says zero attempts."""
    bus = EventBus(threads=1)
    bus.subscribe(gates.handler, "a", thread=True)
    bus.subscribe(gates.handler, "b", thread=True)
    first = bus.publish_nowait("a", 1)
    second = bus.publish_nowait("b", 2)
    await until(lambda: gates.started == [1])
    await within(bus.aclose(grace=0))
    gates.open(1, 2)
    await until(lambda: gates.returned == [1])
    await turns(20)
    outcomes = [*await first.outcomes(), *await second.outcomes()]
    assert [(each.status, each.attempts) for each in outcomes] == [
        ("cancelled", 1),
        ("cancelled", 0),
    ]
    assert gates.started == [1]


async def test_a_thread_that_cannot_be_started_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Out of threads, the delivery fails and its place is free."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    bus = EventBus()
    bus.subscribe(lambda event: None, thread=True)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    first = bus.publish_nowait("a")
    second = bus.publish_nowait("a")
    (outcome,) = await within(first.outcomes())
    assert outcome.status == "failed"
    assert isinstance(outcome.error, RuntimeError)
    monkeypatch.undo()
    await within(second.outcomes())
    assert bus.statistics().pending == 0


async def test_a_thread_that_outlasts_the_close_is_named() -> None:
    """Its delivery ends *cancelled* with the grace period; the log says that it is still there."""
    lines, clock = LogLines(), FakeClock()
    bus, begun, over = EventBus(hooks=[lines], clock=clock), threading.Event(), threading.Event()

    def stay(_: Event[Any]) -> None:
        begun.set()
        over.wait(10)

    bus.subscribe(stay, "a", thread=True, name="stubborn")
    await bus.__aenter__()
    await bus.publish("a")
    await asyncio.to_thread(begun.wait, 5)
    closing = asyncio.create_task(bus.aclose(grace=1))
    await turns(5)
    clock.advance(1)
    report = await within(closing)
    assert report.interrupted == {"stubborn": 1}
    assert lines.named("handler.stubborn") == []
    clock.advance(1)
    (line,) = lines.named("handler.stubborn")
    assert line.fields["subscription"] == "stubborn"
    over.set()
    await until(lambda: not thread_tasks())
