"""P14, context: a handler runs in a copy of the ``contextvars`` of the publish that caused it, each
handler and each attempt in its own; a task in which a handler has waited runs no other handler."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import structlog.contextvars
from pydantic import BaseModel

from eventbus import Event, EventBus, Hook, Retry
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.helpers import turns, within

REQUEST: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")


class Payment(BaseModel):
    amount: int


class Kinds:
    """Every kind of handler, each of which notes the request it runs for, and then changes it."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def note(self) -> None:
        self.seen.append(REQUEST.get())
        REQUEST.set("changed by a handler")

    async def steps(self, event: Event[Any]) -> None:
        self.note()

    async def waits(self, event: Event[Any]) -> None:
        before = REQUEST.get()
        await asyncio.sleep(0)
        assert REQUEST.get() == before
        self.note()

    def plain(self, event: Event[Any]) -> None:
        self.note()

    def awaitable(self, event: Event[Any]) -> Awaitable[None]:
        return self.waits(event)

    async def typed(self, event: Event[Payment]) -> None:
        self.note()

    async def retried(self, event: Event[Any]) -> None:
        self.note()
        assert event.delivery is not None
        if event.delivery.attempt == 1:
            raise ValueError("once more")


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("steps", {}),
    ("waits", {}),
    ("waits", {"concurrency": 2}),
    ("waits", {"concurrency": 2, "key": lambda event: None}),
    ("waits", {"timeout": 60}),
    ("plain", {}),
    ("plain", {"once": True}),
    ("plain", {"thread": True}),
    ("plain", {"capacity": 1}),
    ("awaitable", {}),
    ("typed", {}),
    ("retried", {"retry": Retry(attempts=2, initial=0)}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
async def test_every_kind_of_handler_runs_in_the_context_of_its_publish(
    kind: str, options: dict[str, Any]
) -> None:
    """What the publisher had set when it published is what each handler and attempt sees."""
    bus, kinds = EventBus(), Kinds()
    bus.subscribe(getattr(kinds, kind), "a", **options)
    for number in range(1 if "once" in options else 3):
        REQUEST.set(f"request {number}")
        await within(bus.publish_and_wait("a", {"amount": 1}, check=True))
        assert REQUEST.get() == f"request {number}"
    REQUEST.set("afterwards")
    per_event = 2 if kind == "retried" else 1
    published = 1 if "once" in options else 3
    assert kinds.seen == [f"request {n}" for n in range(published) for _ in range(per_event)]


@pytest.mark.parametrize("capacity", [1, 100])
async def test_a_burst_keeps_every_publishers_context(capacity: int) -> None:
    """Many events in one batch of the pump, and publishers that wait for room: each its own."""
    bus, seen = EventBus(), list[tuple[Any, str]]()

    async def steps(event: Event[Any]) -> None:
        seen.append((event.data, REQUEST.get()))
        REQUEST.set("left behind")

    async def publish(number: int) -> None:
        REQUEST.set(f"request {number}")
        await bus.publish("a", number)
        REQUEST.set("published")

    bus.subscribe(steps, "a", capacity=capacity)
    await within(asyncio.wait_for(asyncio.gather(*(publish(n) for n in range(20))), 5))
    await within(bus.settle())
    assert sorted(seen) == [(n, f"request {n}") for n in range(20)]


async def test_the_context_is_that_of_the_publish_not_of_later() -> None:
    """What the publisher sets after it has published reaches no handler."""
    bus, kinds = EventBus(), Kinds()
    bus.subscribe(kinds.steps, "a")
    REQUEST.set("at the publish")
    await bus.publish("a")
    REQUEST.set("later")
    await bus.settle()
    assert kinds.seen == ["at the publish"]


async def test_handlers_of_one_event_do_not_see_each_others_changes() -> None:
    """A fan-out of every kind: each has a copy of its own, whoever ran before it."""
    bus, kinds = EventBus(), Kinds()
    for kind, options in KINDS:
        bus.subscribe(getattr(kinds, kind), "a", **options)
    REQUEST.set("request 1")
    await within(bus.publish_and_wait("a", {"amount": 1}, check=True))
    assert kinds.seen == ["request 1"] * (len(KINDS) + 1)


async def test_nested_events_carry_what_the_handler_has_set() -> None:
    """The publish that caused them was the handler's: its changes travel on."""
    bus, kinds = EventBus(), Kinds()

    async def first(event: Event[Any]) -> None:
        REQUEST.set(REQUEST.get() + ", first")
        await bus.publish("b")
        REQUEST.set("too late")
        await asyncio.sleep(0)

    bus.subscribe(first, "a")
    bus.subscribe(kinds.steps, "b")
    REQUEST.set("root")
    await bus.publish("a")
    await within(bus.settle())
    assert kinds.seen == ["root, first"]


async def test_structlogs_bound_values_travel_through_queues() -> None:
    """A request id bound for the log by the publisher is bound in the handler."""
    bus, seen = EventBus(), list[dict[str, Any]]()

    async def handler(event: Event[Any]) -> None:
        seen.append(structlog.contextvars.get_contextvars())
        structlog.contextvars.bind_contextvars(request_id="handler's")

    bus.subscribe(handler, "a")
    with structlog.contextvars.bound_contextvars(request_id="req_1"):
        await bus.publish("a")
        await bus.publish("a")
    await bus.settle()
    assert seen == [{"request_id": "req_1"}] * 2


async def test_a_publish_from_a_thread_carries_that_threads_context(bus: EventBus) -> None:
    """The context is that of the thread that published, not that of the loop."""
    kinds = Kinds()
    bus.subscribe(kinds.steps, "a")

    def publish() -> None:
        REQUEST.set("thread's")
        bus.publish_from_thread("a")

    REQUEST.set("loop's")
    thread = threading.Thread(target=publish)
    thread.start()
    await asyncio.to_thread(thread.join, 5)
    await bus.settle()
    assert kinds.seen == ["thread's"]


async def test_predicates_run_in_the_publishers_context_and_task() -> None:
    """``where`` and ``key`` are asked when the event is published, where it is published."""
    bus, seen = EventBus(), list[tuple[str, bool]]()
    publisher = asyncio.current_task()

    def look(event: Event[Any]) -> bool:
        seen.append((REQUEST.get(), asyncio.current_task() is publisher))
        return True

    bus.subscribe(lambda event: None, "a", where=look, key=look, concurrency=2)
    REQUEST.set("publisher's")
    await bus.publish("a")
    assert seen == [("publisher's", True)] * 2
    await bus.settle()


async def test_the_running_delivery_is_right_in_every_interleaving() -> None:
    """``event.delivery`` names its own subscription and attempt, before and after others ran."""
    bus, gate = EventBus(), asyncio.Event()
    wrong: list[str] = []

    def check(event: Event[Any], name: str) -> None:
        if event.delivery is None or event.delivery.subscription != name:
            wrong.append(f"{event!r} in {name}: {event.delivery!r}")

    def handler(name: str) -> Callable[[Event[Any]], Awaitable[None]]:
        async def handle(event: Event[Any]) -> None:
            check(event, name)
            if name.startswith("waits"):
                await gate.wait()
                check(event, name)

        return handle

    for name in ("waits 1", "steps 1", "waits 2", "steps 2"):
        bus.subscribe(handler(name), "a", name=name)
    await bus.publish("a")
    await bus.publish("a")
    await turns(4)
    gate.set()
    await within(bus.settle())
    assert wrong == []


# Tasks.


class TaskWatcher:
    """Notes in which task every step of every handler runs."""

    def __init__(self) -> None:
        self.started = 0
        self.waited: set[asyncio.Task[Any] | None] = set()
        self.wrong: list[str] = []

    def start(self, event: Event[Any]) -> None:
        self.started += 1
        if asyncio.current_task() in {None, *self.waited}:
            self.wrong.append(f"{event!r} began in a task in which a handler had waited")

    async def steps(self, event: Event[Any]) -> None:
        self.start(event)

    def plain(self, event: Event[Any]) -> None:
        self.start(event)

    async def waits(self, event: Event[Any]) -> None:
        self.start(event)
        task = asyncio.current_task()
        self.waited.add(task)
        for _ in range(event.data):
            await asyncio.sleep(0)
            if asyncio.current_task() is not task:
                self.wrong.append(f"{event!r} went on in another task")

    async def fails(self, event: Event[Any]) -> None:
        await self.waits(event)
        raise ValueError("no")


async def test_a_task_in_which_a_handler_waited_runs_no_other_handler() -> None:
    """From its first wait on, a handler has its task for itself, the same one to its end."""
    bus, watcher = EventBus(), TaskWatcher()
    for _ in range(3):
        bus.subscribe(watcher.steps, "a")
        bus.subscribe(watcher.waits, "a", concurrency=2)
        bus.subscribe(watcher.plain, "a")
        bus.subscribe(watcher.waits, "a")
        bus.subscribe(watcher.fails, "a", retry=Retry(attempts=2, initial=0), timeout=9)
    for number in range(1, 5):
        await bus.publish("a", number)
    await within(bus.settle())
    assert watcher.started == 3 * 4 * 6
    assert len(watcher.waited) == 3 * 4 * 4
    assert watcher.wrong == []


async def test_asyncio_timeout_ends_only_the_handler_that_set_it() -> None:
    """A deadline in the first step fires after the handler has come to wait, and in it alone."""
    bus, ended = EventBus(), list[str]()

    async def impatient(event: Event[Any]) -> None:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            ended.append("impatient")

    async def patient(event: Event[Any]) -> None:
        async with asyncio.timeout(60):
            await turns(5)
        ended.append("patient")

    async def quick(event: Event[Any]) -> None:
        async with asyncio.timeout(0):  # noqa: ASYNC100 - it never waits: that is the test
            ended.append("quick")

    for handler in (quick, impatient, quick, patient, impatient, patient):
        bus.subscribe(handler, "a")
    outcomes = await within(bus.publish_and_wait("a", check=True))
    await turns(5)
    assert sorted(ended) == ["impatient"] * 2 + ["patient"] * 2 + ["quick"] * 2
    assert {outcome.status for outcome in outcomes} == {"handled"}


async def test_a_task_group_in_a_handler_works() -> None:
    """Children run, a failing child cancels its handler alone, and the group raises in it."""
    bus, done = EventBus(), list[str]()

    async def child(name: str) -> None:
        await asyncio.sleep(0)
        done.append(name)

    async def broken() -> None:
        raise ValueError("child")

    async def good(event: Event[Any]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child("one"))
            group.create_task(child("two"))

    async def bad(event: Event[Any]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(broken())
            await asyncio.Event().wait()

    async def neighbour(event: Event[Any]) -> str:
        await turns(10)
        return "untouched"

    for handler in (neighbour, bad, good, neighbour):
        bus.subscribe(handler, "a")
    outcomes = await within(bus.publish_and_wait("a"))
    statuses = ["handled", "failed", "handled", "handled"]
    assert [outcome.status for outcome in outcomes] == statuses
    assert isinstance(outcomes[1].error, ExceptionGroup)
    assert [outcome.result for outcome in outcomes[::3]] == ["untouched"] * 2
    assert sorted(done) == ["one", "two"]


async def test_anyio_cancel_scopes_in_handlers_work() -> None:
    """``move_on_after``, a scope cancelled by itself, by others, and a task group of anyio's."""
    bus = EventBus()
    scopes: list[anyio.CancelScope] = []

    async def moves_on(event: Event[Any]) -> bool:
        with anyio.move_on_after(0) as scope:
            await anyio.sleep_forever()
        return scope.cancelled_caught

    async def cancels_itself(event: Event[Any]) -> bool:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        return scope.cancelled_caught

    async def is_cancelled(event: Event[Any]) -> bool:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await anyio.sleep_forever()
        return scope.cancelled_caught

    async def shields(event: Event[Any]) -> bool:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
        return group.cancel_scope.cancel_called

    async def never_waits(event: Event[Any]) -> bool:
        with anyio.CancelScope() as scope:  # noqa: ASYNC100 - it never waits: that is the test
            scope.cancel()
        return scope.cancel_called

    handlers = (never_waits, moves_on, cancels_itself, never_waits, is_cancelled, shields)
    for handler in handlers:
        bus.subscribe(handler, "a")
    receipt = await bus.publish("a")
    await wait_all_tasks_blocked()
    scopes[0].cancel()
    outcomes = await within(receipt.outcomes(check=True))
    assert [outcome.result for outcome in outcomes] == [True] * len(handlers)


async def test_a_handler_that_cancels_its_own_task_reaches_nobody_else() -> None:
    """Interleaving 7: it ends without waiting; the next one in the batch, which waits, goes on."""
    bus, ended = EventBus(), list[str]()

    async def cancels(event: Event[Any]) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async def waits(event: Event[Any]) -> None:
        await turns(3)
        ended.append("waits")

    def plain(event: Event[Any]) -> None:
        ended.append("plain")

    for handler in (cancels, waits, plain, cancels, plain):
        bus.subscribe(handler, "a")
    for _ in range(2):
        await within(bus.publish_and_wait("a", check=True))
    assert sorted(ended) == ["plain"] * 4 + ["waits"] * 2


async def test_a_timed_out_attempt_leaves_the_next_ones_task_alone() -> None:
    """Each attempt that waits has its own task and context, also after a time-out."""
    clock = FakeClock()
    bus, tasks, seen = EventBus(clock=clock), list[Any](), list[str]()

    async def handler(event: Event[Any]) -> None:
        tasks.append(asyncio.current_task())
        seen.append(REQUEST.get())
        REQUEST.set("changed")
        if len(tasks) < 3:
            await asyncio.Event().wait()
        await turns(3)

    REQUEST.set("request 1")
    bus.subscribe(handler, "a", timeout=1, retry=Retry(attempts=3, initial=0, jitter=0))
    receipt = await bus.publish("a")
    for _ in range(4):
        await wait_all_tasks_blocked()
        clock.advance(1)
    (outcome,) = await within(receipt.outcomes())
    assert (outcome.status, outcome.attempts) == ("handled", 3)
    assert len(set(tasks)) == 3
    assert seen == ["request 1"] * 3


async def test_the_context_is_let_go_with_the_last_delivery() -> None:
    """A receipt that is kept does not keep what the publisher had in its context."""
    import gc
    import weakref

    class Big:
        pass

    variable: contextvars.ContextVar[Big | None] = contextvars.ContextVar("big", default=None)
    bus = EventBus()
    bus.subscribe(lambda event: None, "a")

    async def publish() -> tuple[Any, weakref.ref[Big]]:
        big = Big()
        variable.set(big)
        return await bus.publish("a"), weakref.ref(big)

    receipt, big = await asyncio.create_task(publish())
    await bus.settle()
    await turns(2)
    gc.collect()
    assert receipt.done
    assert big() is None


async def test_the_accepted_hook_of_a_publisher_that_waited_has_its_context() -> None:
    """Whoever made room: the pump, or a handler that has unsubscribed the full one."""
    told: list[tuple[Any, str]] = []
    causes: list[str | None] = []

    class Audit(Hook):
        def accepted(self, event: Event[Any], deliveries: int) -> None:
            if event.type == "a":
                told.append((event.data, REQUEST.get()))
                causes.append(bus.publish_nowait("audit").event.cause)

    bus = EventBus(hooks=[Audit()])
    over = asyncio.Semaphore(0)

    async def slow(_: Event[Any]) -> None:
        REQUEST.set("a handler's")
        await over.acquire()

    def unsubscribe(_: Event[Any]) -> None:
        REQUEST.set("the other handler's")
        full.unsubscribe()

    async def publish(number: int) -> None:
        REQUEST.set(f"request {number}")
        await bus.publish("a", number)

    full = bus.subscribe(slow, "a", capacity=1)
    bus.subscribe(unsubscribe, "b")
    publishers = []
    for number in range(4):
        publishers.append(asyncio.create_task(publish(number)))
        await wait_all_tasks_blocked()
    over.release()
    await within(publishers[2])
    await bus.publish("b")
    await within(publishers[3])
    over.release()
    await within(bus.settle())
    assert told == [(number, f"request {number}") for number in range(4)]
    assert causes == [None] * 4
