"""Handlers that have waited before get tasks of their own: what may happen until those begin.

Every case begins with two subscriptions whose handlers have waited once, so that the pump that
takes the next event makes a task for at least one of them. That pump runs in the first turn of the
loop after a publication, and the task in the second: the cases do their harm in between.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest

from eventbus import Event, EventBus, Hook, LogLine, Outcome, Retry, Subscription, _apart
from eventbus._apart import HandlerTask
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.conftest import VARIANT
from tests.helpers import balances, turns, within

pytestmark = pytest.mark.skipif(VARIANT in ("careful", "apart"), reason="it says itself who waits")

request: ContextVar[object] = ContextVar("request", default=None)


class Case:
    """A bus with two subscriptions, whose handlers wait for one turn of the loop."""

    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock()
        self.bus = EventBus(clock=self.clock)
        self.seen: list[object] = []
        self.tasks: list[asyncio.Task[Any] | None] = []
        self.waits = True
        self.first = self.bus.subscribe(self.handle, "a", name="first", **options)
        self.second = self.bus.subscribe(self.other, "a", name="second")

    async def handle(self, event: Event[Any]) -> object:
        before = asyncio.current_task()
        self.tasks.append(before)
        self.seen.append(event.data)
        if event.data == "for ever":
            await asyncio.Event().wait()
        if self.waits:
            await asyncio.sleep(0)
        assert asyncio.current_task() is before
        assert event.delivery is not None
        if isinstance(event.data, BaseException):
            raise event.data
        return request.get()

    async def other(self, _: Event[Any]) -> None:
        await asyncio.sleep(0)

    async def warm_up(self) -> None:
        await within(self.bus.publish_and_wait("a", "warm"))
        self.seen.clear()
        self.tasks.clear()


@pytest.fixture
async def case() -> AsyncIterator[Case]:
    case = Case()
    await case.warm_up()
    yield case
    await within(case.bus.settle())
    assert balances(case.bus, case.first, case.second)
    assert (case.bus._pumps, case.bus._loop) == (0, None)


def scheduled() -> list[HandlerTask]:
    """The tasks that have not begun, in order."""
    tasks = [task for task in asyncio.all_tasks() if isinstance(task, HandlerTask)]
    return sorted((task for task in tasks if not task.begun), key=lambda task: not task.last)


async def test_it_runs_in_a_task_of_its_own_in_its_publishers_context(case: Case) -> None:
    """From its first step to its last, and its result is in the outcome."""
    request.set("r1")
    receipt = case.bus.publish_nowait("a", 1)
    request.set("r2")
    first, second = await within(receipt.outcomes(check=True))
    assert (first.result, second.result) == ("r1", None)
    assert isinstance(case.tasks[0], HandlerTask)
    assert case.tasks[0] is not asyncio.current_task()


async def test_all_begin_in_one_turn_of_the_loop() -> None:
    """A hundred handlers that are known to wait do not wait for each other's pumps."""
    bus, begun = EventBus(clock=FakeClock()), []  # however long a busy machine takes

    async def handle(_: Event[Any]) -> None:
        begun.append(1)
        await asyncio.Event().wait() if len(begun) > 100 else await asyncio.sleep(0)

    subscriptions = [bus.subscribe(handle, "a") for _ in range(100)]
    await within(bus.publish_and_wait("a"))
    bus.publish_nowait("a")
    await turns(2)
    assert len(begun) == 200
    for subscription in subscriptions:
        for delivery in subscription._running_deliveries():
            assert delivery.work is not None
            assert delivery.work.task is not None
            delivery.work.task.cancel()
    await within(bus.settle())
    assert bus.statistics().cancelled == 100


async def test_no_more_begin_than_may_run_at_once_and_in_order() -> None:
    """With ``concurrency=2`` the third waits for the end of one before it."""
    case = Case(concurrency=2)
    await case.warm_up()
    for number in range(5):
        case.bus.publish_nowait("a", number)
    await turns(2)
    assert case.seen == [0, 1]
    await within(case.bus.settle())
    assert case.seen == [0, 1, 2, 3, 4]


async def test_one_event_of_one_subscription_is_left_to_the_pump() -> None:
    """It has nothing better to do, and needs no second task."""
    bus, tasks = EventBus(), []

    async def handle(_: Event[Any]) -> None:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)

    bus.subscribe(handle, "a")
    for _ in range(2):
        await within(bus.publish_and_wait("a"))
    assert not any(isinstance(task, HandlerTask) for task in tasks)


async def test_a_handler_that_does_not_wait_any_more_gets_no_more_tasks(case: Case) -> None:
    """One has been made in vain; from then on pumps step it again."""
    case.waits = False
    for number in range(3):
        await within(case.bus.publish_and_wait("a", number))
    assert [isinstance(task, HandlerTask) for task in case.tasks] == [True, False, False]


async def test_a_failure_is_reported_as_anywhere(case: Case) -> None:
    """Its outcome has the error, with the application's frames alone."""
    error = ValueError("no")
    first, second = await within(case.bus.publish_and_wait("a", error))
    assert (first.status, first.error, second.status) == ("failed", error, "handled")
    assert error.__traceback__ is not None
    assert error.__traceback__.tb_frame.f_code is Case.handle.__code__


async def test_a_retry_comes_before_what_is_queued_behind_it() -> None:
    """The first attempt had a task of its own; the second keeps the place of its delivery."""
    case = Case(retry=Retry(attempts=2, initial=1, jitter=0))
    await case.warm_up()
    error = ValueError("no")
    receipt = case.bus.publish_nowait("a", error)
    case.bus.publish_nowait("a", 2)
    await turns(5)
    assert case.seen == [error]
    case.clock.advance(1)
    (outcome, _) = await within(receipt.outcomes())
    assert (outcome.attempts, outcome.error) == (2, error)
    await within(case.bus.settle())
    assert case.seen == [error, error, 2]


async def test_unsubscribed_before_it_begins_it_never_does(case: Case) -> None:
    """What was queued ends cancelled, and no call starts."""
    receipt = case.bus.publish_nowait("a", 1)
    await turns(1)
    assert len(scheduled()) == 1
    case.first.unsubscribe()
    first, second = await within(receipt.outcomes())
    assert (first.status, first.attempts, second.status) == ("cancelled", 0, "handled")
    assert case.seen == []


async def test_its_event_was_dropped_before_it_began() -> None:
    """It takes no other in its place: that has another context, and a pump will come to it."""
    case = Case(capacity=1, overflow="drop_oldest")
    await case.warm_up()
    request.set("r1")
    dropped = case.bus.publish_nowait("a", 1)
    await turns(1)
    request.set("r2")
    kept = case.bus.publish_nowait("a", 2)
    statuses = [(await within(each.outcomes()))[0] for each in (dropped, kept)]
    assert [each.status for each in statuses] == ["dropped", "handled"]
    assert statuses[1].result == "r2"
    assert case.seen == [2]


async def test_cancelled_before_it_begins_it_leaves_its_event_to_others(case: Case) -> None:
    """But not at once: the loop may be closing."""
    receipt = case.bus.publish_nowait("a", 1)
    await turns(1)
    (task,) = scheduled()
    assert task.cancel()
    await turns(10)
    assert task.cancelled()
    assert case.seen == []
    (outcome, _) = await within(receipt.outcomes())
    assert outcome.status == "handled"
    assert case.seen == [1]


@pytest.mark.parametrize("which", [[0], [1], [2], [2, 0], [0, 1, 2]])
async def test_any_of_several_tasks_cancelled_before_they_begin(which: list[int]) -> None:
    """All is handled once and in order, and no more at once than may be."""
    case = Case(concurrency=3)
    await case.warm_up()
    for number in range(6):
        case.bus.publish_nowait("a", number)
    await turns(1)
    tasks = [task for task in asyncio.all_tasks() if isinstance(task, HandlerTask)]
    tasks = sorted((task for task in tasks if not task.begun), key=_number_of)
    of_first = [task for task in tasks if task.subscription is case.first]
    assert len(of_first) == 3
    for index in which:
        of_first[index].cancel()
        assert not of_first[index].cancel() or not of_first[index].done()
    await within(case.bus.settle())
    assert case.seen == [0, 1, 2, 3, 4, 5]


def _number_of(task: HandlerTask) -> int:
    number = task.receipt.event.data
    assert isinstance(number, int)
    return number


def test_a_loop_that_is_closed_before_it_begins_starts_nothing() -> None:
    """Its task is cancelled; the event is given up with the loop, and the bus goes on."""
    case = Case()

    async def end_too_early() -> None:
        await case.warm_up()
        case.bus.publish_nowait("a", 1)
        await turns(1)
        assert len(scheduled()) == 1
        asyncio.get_running_loop().stop()

    with asyncio.Runner() as runner:  # cancels all tasks at its end, as asyncio.run does
        task = runner.get_loop().create_task(end_too_early())
        runner.get_loop().run_forever()
        task.result()
    assert case.seen == []
    asyncio.run(case.bus.publish_and_wait("a", 2))
    assert case.seen == [2]
    assert case.first.statistics().cancelled == 1


def test_destroyed_with_its_loop_its_delivery_ends_once() -> None:
    """The handler is still waiting when nobody knows its task any more."""
    case = Case()

    async def leave() -> None:
        await case.warm_up()
        case.bus.publish_nowait("a", "for ever")
        await turns(2)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    (delivery,) = case.first._running_deliveries()
    task = delivery.working().task
    assert isinstance(task, HandlerTask)
    task.get_coro().close()  # as its collection does
    assert delivery.status == "cancelled"
    loop.close()
    asyncio.run(case.bus.publish_and_wait("a", 2))
    assert case.first.statistics().cancelled == 1
    assert balances(case.bus)


async def test_long_first_steps_do_not_hold_up_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that come too late leave their events to the next pump, and nothing is lost."""
    case = Case(concurrency=8)
    await case.warm_up()
    step = case.handle

    async def take_long(event: Event[Any]) -> None:
        case.clock.advance(_apart.BEGIN_SECONDS / 2)
        await step(event)

    case.first.handler = take_long
    for number in range(8):
        case.bus.publish_nowait("a", number)
    await turns(2)
    assert case.seen == [0, 1, 2]
    await within(case.bus.settle())
    assert case.seen == [0, 1, 2, 3, 4, 5, 6, 7]


async def test_a_hook_that_unsubscribes_it_in_the_moment_it_begins() -> None:
    """Its place was freed for a publisher who waited; a hook of that has unsubscribed it."""

    class Leave(Hook):
        def accepted(self, event: Event[Any], deliveries: int) -> None:
            if event.data == 2:
                subscription.unsubscribe()

    bus, seen = EventBus(hooks=[Leave()]), []

    async def handle(event: Event[Any]) -> None:
        seen.append(event.data)
        await asyncio.sleep(0)

    subscription = bus.subscribe(handle, "a", capacity=1)
    other: Subscription = bus.subscribe(handle, "b")
    await within(bus.publish_and_wait("a", 0))
    await within(bus.publish_and_wait("b", 0))
    first = bus.publish_nowait("a", 1)
    bus.publish_nowait("b", 1)
    waiting = asyncio.create_task(bus.publish("a", 2))
    (outcome,) = await within(first.outcomes())
    assert (outcome.status, outcome.attempts) == ("cancelled", 0)
    second: tuple[Outcome, ...] = await within((await waiting).outcomes())
    assert [each.status for each in second] == ["cancelled"]
    await within(bus.settle())
    assert seen == [0, 0, 1]
    assert balances(bus, subscription, other)


async def test_what_it_handled_needs_no_collector(case: Case) -> None:
    """P5: with the task of its last handler, an event is gone; no cycle keeps it in memory."""

    class Data:
        pass

    gc.disable()
    try:
        data = Data()
        gone = weakref.ref(data)
        await within(case.bus.publish_and_wait("a", data))
        assert isinstance(case.tasks[0], HandlerTask)
        del data
        case.seen.clear()
        case.tasks.clear()
        await turns(2)
        assert gone() is None
    finally:
        gc.enable()


async def test_hooks_that_it_calls_are_not_in_its_context() -> None:
    """P14, P15: a hook called when it frees a place does not write to its context.

    Nor is that hook inside a handler, though the publisher of the event is one that still runs.
    """
    published: list[Event[Any]] = []

    class Note(Hook):
        def accepted(self, event: Event[Any], deliveries: int) -> None:
            if event.data == "outsider":
                request.set("the hook's")
                published.append(bus.publish_nowait("note").event)

    bus, seen = EventBus(hooks=[Note()]), []

    async def handle(event: Event[Any]) -> None:
        seen.append((event.data, request.get(), type(asyncio.current_task())))
        await asyncio.sleep(0)

    async def publish_nested(_: Event[Any]) -> None:
        await bus.publish("a", "nested")
        await bus.publish("b", "nested")
        await leave.wait()

    leave = asyncio.Event()
    bus.subscribe(handle, "a", capacity=1)
    bus.subscribe(handle, "b")
    bus.subscribe(publish_nested, "outer")
    await within(bus.publish_and_wait("a"))
    await within(bus.publish_and_wait("b"))
    seen.clear()
    await bus.publish("outer")
    waiting = asyncio.create_task(bus.publish("a", "outsider"))
    await within(waiting)
    leave.set()
    await within(bus.settle())
    assert ("nested", None, HandlerTask) in seen
    assert [each.cause for each in published] == [None]


def test_a_task_of_a_lost_loop_has_nothing_to_give_back() -> None:
    """It had not begun when its loop was closed; cancelled later, it leaves the bus as it is."""
    case = Case()
    tasks: list[HandlerTask] = []

    async def leave() -> None:
        await case.warm_up()
        case.bus.publish_nowait("a", 1)
        await turns(1)
        tasks.extend(scheduled())
        for task in asyncio.all_tasks():
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant
        asyncio.get_running_loop().stop()

    loop = asyncio.new_event_loop()
    task = loop.create_task(leave())
    loop.run_forever()
    task.result()
    loop.close()
    asyncio.run(case.bus.publish_and_wait("a", 2))
    (scheduled_once,) = tasks
    assert scheduled_once.cancel()
    assert (case.bus._pumps, case.bus._ready) == (0, type(case.bus._ready)())
    assert balances(case.bus)
    scheduled_once.get_coro().close()
    assert case.seen == [2]


async def test_what_is_told_of_its_end_is_not_in_its_context() -> None:
    """P14, P15: what listens to the log is not inside the handler that failed, or ended last."""
    heard: list[tuple[str, object, str | None]] = []

    class Alarm(Hook):
        def log(self, line: LogLine) -> None:
            heard.append((line.name, request.get(), alarms.publish_nowait("alarm").event.cause))

    clock = FakeClock()
    bus, alarms = EventBus(hooks=[Alarm()], clock=clock), EventBus()
    apart: set[str] = set()

    async def ends(event: Event[Any]) -> None:
        assert event.delivery is not None
        if isinstance(asyncio.current_task(), HandlerTask):
            apart.add(event.delivery.subscription)
        request.set("the handler's")
        await asyncio.sleep(0)

    async def fails(event: Event[Any]) -> None:
        await ends(event)
        raise ValueError

    bus.subscribe(fails, "a", name="first", retry=Retry(attempts=2, initial=1, jitter=0))
    bus.subscribe(ends, "b", name="second")
    bus.subscribe(ends, "a", "b", name="third")
    async with bus:
        for _ in range(3):
            await bus.publish("a")
            await wait_all_tasks_blocked()
            clock.advance(1)
            await within(bus.settle())
            await bus.publish("b")
            await within(bus.settle())
        bus.publish_nowait("b")
        bus.publish_nowait("b")
    assert apart >= {"first", "second"}
    assert {name for name, *_ in heard} == {"delivery.retrying", "delivery.failed", "bus.closed"}
    assert [where for _, *where in heard] == [[None, None]] * 7
