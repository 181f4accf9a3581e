"""`where` and `key`: when they are asked, in what task, and what happens when they misbehave."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from eventbus import Event, EventBus, Overflow, ReentrantCall, WouldBlock
from eventbus.testing import FakeClock
from tests.helpers import LogLines, balances, turns, within


def ignore(event: Event[Any]) -> None:
    """A handler that does nothing."""


def options(option: str, predicate: Callable[[Event[Any]], Any]) -> dict[str, Any]:
    """The options that make `predicate` one subscription's `where` or `key`."""
    return {option: predicate, "concurrency": 4}


class Recorder:
    """A predicate that remembers the events and the tasks of its calls."""

    def __init__(self, result: object = True) -> None:
        self.calls: list[tuple[Event[Any], asyncio.Task[Any] | None]] = []
        self.result = result

    def __call__(self, event: Event[Any]) -> object:
        self.calls.append((event, asyncio.current_task()))
        return self.result


both = pytest.mark.parametrize("option", ["where", "key"])


@both
async def test_called_once_in_the_publishers_task_on_the_event_as_published(option: str) -> None:
    """Once per subscription and event, before `publish` returns; handling asks no more."""
    bus, first, second = EventBus(), Recorder(), Recorder()
    bus.subscribe(ignore, "a", **options(option, first))
    bus.subscribe(ignore, "**", **options(option, second))
    receipt = await bus.publish("a", 1)
    for recorder in (first, second):
        assert recorder.calls == [(receipt.event, asyncio.current_task())]
    await within(receipt.outcomes())
    assert len(first.calls) == len(second.calls) == 1


async def test_key_is_not_asked_for_what_where_refuses() -> None:
    """`where` comes first; false makes no delivery and asks no further."""
    bus, where, key = EventBus(), Recorder(False), Recorder("k")
    sub = bus.subscribe(ignore, "a", where=where, key=key, concurrency=2)
    receipt = await bus.publish("a")
    assert (len(where.calls), len(key.calls)) == (1, 0)
    assert await receipt.outcomes() == ()
    assert sub.statistics().accepted == 0
    assert bus.statistics().unhandled == 1


@both
async def test_a_publisher_that_waits_for_room_asks_no_second_time(option: str) -> None:
    """The verdict of the first call holds when the event is accepted later."""
    bus, recorder, gate = EventBus(), Recorder(), asyncio.Event()

    async def slow(event: Event[Any]) -> None:
        await gate.wait()

    bus.subscribe(ignore, "a", **options(option, recorder))
    bus.subscribe(slow, "a", capacity=1)
    for _ in range(2):
        await bus.publish("a")
        await turns(3)
    waiting = asyncio.ensure_future(bus.publish("a", "late"))
    await turns(2)
    assert not waiting.done()
    gate.set()
    await within(waiting)
    assert [event.data for event, _ in recorder.calls] == [None, None, "late"]
    assert recorder.calls[-1][1] is waiting
    await within(bus.settle())


@both
async def test_who_came_while_a_publisher_waited_is_asked_once_in_its_context(option: str) -> None:
    """Its snapshot is of the moment of acceptance: the newcomer's predicate is asked then."""
    bus, gate = EventBus(), asyncio.Event()
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    async def slow(event: Event[Any]) -> None:
        await gate.wait()

    def look(event: Event[Any]) -> bool:
        seen.append(f"{event.data} in {variable.get()}")
        return True

    bus.subscribe(slow, "a", capacity=1)
    for number in range(2):
        await bus.publish("a", number)
        await turns(3)

    async def publish() -> None:
        variable.set("the publisher's")
        await bus.publish("a", 2)

    waiting = asyncio.ensure_future(publish())
    await turns(2)
    newcomer = bus.subscribe(ignore, "a", **options(option, look))
    gate.set()
    await within(waiting)
    await within(bus.settle())
    assert seen == ["2 in the publisher's"]
    assert newcomer.statistics().handled == 1


@both
async def test_what_a_predicate_raises_fails_its_own_delivery_alone(option: str) -> None:
    """`publish` goes on; one outcome, one dead letter and one log line have the error."""
    lines = LogLines()
    bus, seen, error = EventBus(hooks=[lines]), [], ZeroDivisionError("mine")

    def broken(event: Event[Any]) -> NoReturn:
        raise error

    bus.subscribe(lambda event: seen.append(1), "a", name="one")
    bus.subscribe(lambda event: seen.append(2), "a", name="two", **options(option, broken))
    bus.subscribe(lambda event: seen.append(3), "a", name="three")
    outcomes = await within(bus.publish_and_wait("a"))
    assert [(each.subscription, each.status, each.error) for each in outcomes] == [
        ("one", "handled", None),
        ("two", "failed", error),
        ("three", "handled", None),
    ]
    assert outcomes[1].attempts == 0
    assert seen == [1, 3]
    assert [letter.error for letter in bus.dead_letters] == [error]
    assert [line.error for line in lines.named("delivery.failed")] == [error]
    assert balances(bus, *bus.subscriptions)


@both
async def test_a_failed_predicate_needs_no_room(option: str) -> None:
    """A full queue makes nobody wait for an event that will not be queued there."""
    bus = EventBus()

    def odd(event: Event[Any]) -> bool:
        if event.data == "broken":
            raise ValueError
        return True

    sub = bus.subscribe(ignore, "a", capacity=1, **options(option, odd))
    bus.publish_nowait("a")
    with pytest.raises(WouldBlock):
        bus.publish_nowait("a")
    bus.publish_nowait("a", "broken")
    assert sub.statistics().failed == 1
    await within(bus.settle())


@both
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
async def test_what_ends_programs_leaves_publish_and_nothing_is_accepted(
    option: str, error: BaseException
) -> None:
    """Neither by those asked before nor by those asked after; the bus works on."""
    bus, seen, armed = EventBus(), [], True

    def stop(event: Event[Any]) -> bool:
        if armed:
            raise error
        return True

    bus.subscribe(lambda event: seen.append(1), "a")
    bus.subscribe(lambda event: seen.append(2), "a", **options(option, stop))
    bus.subscribe(lambda event: seen.append(3), "a")
    coroutine = bus.publish("a")
    with pytest.raises(type(error)):
        coroutine.send(None)  # in a task it would end the whole test run
    assert (bus.statistics().accepted, bus.statistics().events) == (0, 0)
    armed = False
    await within(bus.publish_and_wait("a", check=True))
    assert sorted(seen) == [1, 2, 3]


@both
async def test_the_warning_about_a_waiting_publisher_asks_nobody(option: str) -> None:
    """Who came meanwhile is asked when the event is accepted, and never if it has left by then."""
    clock, lines, gate = FakeClock(), LogLines(), asyncio.Event()
    bus, recorder = EventBus(clock=clock, hooks=[lines]), Recorder()

    async def slow(event: Event[Any]) -> None:
        await gate.wait()

    bus.subscribe(slow, "a", capacity=1, name="slow")
    for _ in range(2):
        await bus.publish("a")
        await turns(3)
    waiting = asyncio.ensure_future(bus.publish("a"))
    await turns(1)
    newcomer = bus.subscribe(ignore, "a", **options(option, recorder))
    clock.advance(5)
    assert [line.fields["subscriptions"] for line in lines.named("publish.waiting")] == [["slow"]]
    newcomer.unsubscribe()
    gate.set()
    await within(waiting)
    await within(bus.settle())
    assert recorder.calls == []


@both
async def test_what_ends_programs_leaves_a_publish_that_waited(option: str) -> None:
    """A newcomer's predicate raises it when the place comes free: the publisher gets it."""
    bus = EventBus()

    def stop(event: Event[Any]) -> NoReturn:
        raise SystemExit(3)

    caught: list[BaseException] = []

    async def publish() -> None:
        try:
            await bus.publish("a", 2)
        except SystemExit as error:
            caught.append(error)

    async with bus.stream("a", capacity=1, overflow="block") as events:
        bus.publish_nowait("a", 1)
        waiting = asyncio.ensure_future(publish())
        await turns(1)
        newcomer = bus.subscribe(ignore, "a", **options(option, stop))
        assert (await anext(events)).data == 1
        await within(waiting)
        assert len(caught) == 1
        assert newcomer.statistics().accepted == 0
        assert bus.statistics().events == 1
        newcomer.unsubscribe()
        await within(bus.publish("a", 3))
        assert (await anext(events)).data == 3


@both
@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit(), StopIteration()])
async def test_other_exceptions_of_the_interpreter_fail_the_delivery(
    option: str, error: BaseException
) -> None:
    """Raised by a predicate they are no request to the publisher: the delivery fails with them."""
    bus = EventBus()

    def broken(event: Event[Any]) -> NoReturn:
        raise error

    bus.subscribe(ignore, "a", **options(option, broken))
    [outcome] = await within(bus.publish_and_wait("a"))
    assert (outcome.status, outcome.error) == ("failed", error)


REENTRIES: dict[str, Callable[[EventBus], object]] = {
    "publish": lambda bus: bus.publish("a").send(None),
    "publish_nowait": lambda bus: bus.publish_nowait("a"),
    "publish_nowait elsewhere": lambda bus: bus.publish_nowait("elsewhere"),
    "subscribe": lambda bus: bus.subscribe(ignore, "a"),
    "on": lambda bus: bus.on("a")(ignore),
    "unsubscribe": lambda bus: bus.subscriptions[0].unsubscribe(),
    "stream": lambda bus: bus.stream("a").__aenter__().send(None),
}


@both
@pytest.mark.parametrize("verb", REENTRIES)
async def test_a_predicate_may_not_publish_subscribe_or_unsubscribe(option: str, verb: str) -> None:
    """`ReentrantCall` names the subscription; uncaught it fails that delivery alone."""
    bus, caught = EventBus(), []
    bus.subscribe(ignore, "a", name="bystander")

    def reenter(event: Event[Any]) -> bool:
        try:
            REENTRIES[verb](bus)
        except ReentrantCall as error:
            caught.append(str(error))
            raise
        return True

    bus.subscribe(ignore, "a", name="meddler", **options(option, reenter))
    outcomes = await within(bus.publish_and_wait("a"))
    assert [(each.subscription, each.status) for each in outcomes] == [
        ("bystander", "handled"),
        ("meddler", "failed"),
    ]
    assert isinstance(outcomes[1].error, ReentrantCall)
    assert "meddler" in caught[0]
    assert bus.statistics().events == 1
    assert len(bus.subscriptions) == 2
    await within(bus.publish("elsewhere"))  # the bus is not barred any more
    await within(bus.settle())


@both
async def test_a_predicate_may_not_publish_while_a_handler_publishes(option: str) -> None:
    """Being inside a running delivery is no licence."""
    bus = EventBus()

    def reenter(event: Event[Any]) -> bool:
        bus.publish_nowait("c")
        return True

    async def handle(event: Event[Any]) -> None:
        await bus.publish("b")

    bus.subscribe(handle, "a")
    bus.subscribe(ignore, "b", **options(option, reenter))
    await within(bus.publish_and_wait("a", check=True))
    await within(bus.settle())
    [letter] = bus.dead_letters
    assert isinstance(letter.error, ReentrantCall)
    assert bus.statistics().events == 2


async def test_a_predicate_of_a_stream_that_raises_is_a_failed_delivery() -> None:
    """The reader gets the events it wants, and the error is in the log and the dead letters."""
    bus = EventBus()

    def odd(event: Event[Any]) -> bool:
        return bool(1 / event.data)

    async with bus.stream("a", where=odd) as events:
        for number in (1, 0, 2):
            await bus.publish("a", number)
        assert [(await anext(events)).data for _ in range(2)] == [1, 2]
    assert [type(letter.error) for letter in bus.dead_letters] == [ZeroDivisionError]
    assert balances(bus)


async def test_a_key_that_cannot_be_compared_fails_its_own_delivery() -> None:
    """Keys of one hash are compared when an event is queued; what that raises is theirs alone."""
    bus, seen = EventBus(), []

    class Incomparable:
        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            raise ValueError("cannot be compared")

    bus.subscribe(lambda event: seen.append(event.data), "a")
    sub = bus.subscribe(
        ignore, "a", capacity=1, overflow="drop_oldest", concurrency=2, key=lambda e: Incomparable()
    )
    bus.subscribe(lambda event: seen.append(event.data), "a")
    receipts = [bus.publish_nowait("a", number) for number in range(2)]
    assert sub.statistics().failed == 1
    assert balances(bus, *bus.subscriptions)
    ends = [[each.status for each in await within(receipt.outcomes())] for receipt in receipts]
    assert ends == [["handled"] * 3, ["handled", "failed", "handled"]]
    assert sorted(seen) == [0, 0, 1, 1]


async def test_predicates_of_a_thread_publish_run_on_the_loop() -> None:
    """There the publisher's task is the loop's own callback: no task, and the loop's thread."""
    async with EventBus() as bus:
        recorder, threads = Recorder(), []

        def look(event: Event[Any]) -> object:
            threads.append(threading.get_ident())
            return recorder(event)

        bus.subscribe(ignore, "a", where=look)
        await within(asyncio.to_thread(bus.publish_from_thread, "a"))
        assert threads == [threading.get_ident()]
        assert recorder.calls[0][1] is None


@pytest.mark.parametrize("overflow", ["block", "drop_oldest"])
async def test_a_key_that_can_be_compared_no_more_ends_its_delivery(overflow: Overflow) -> None:
    """Its place is free, its receipt is told, and the key is the same once it can be compared."""
    bus, running = EventBus(), []
    broken, over = False, {1: asyncio.Event(), 2: asyncio.Event()}

    class Key:
        def __init__(self, data: object) -> None:
            self.data = data

        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            if broken:
                raise ValueError("cannot be compared any more")
            return isinstance(other, Key) and other.data == self.data

    async def handle(event: Event[Any]) -> None:
        running.append(event.data)
        await over[event.data].wait()
        running.remove(event.data)

    sub = bus.subscribe(
        handle, "a", concurrency=2, overflow=overflow, key=lambda event: Key(event.data)
    )
    receipts = [bus.publish_nowait("a", data) for data in (1, 2)]
    await turns(3)
    broken = True
    for data in (2, 1):  # the second one is found behind the first, with which it is compared
        over[data].set()
        (outcome,) = await within(receipts[data - 1].outcomes())
        assert outcome.status == "handled"
    assert (sub.statistics().handled, sub.pending, running) == (2, 0, [])
    broken = False
    for each in over.values():
        each.clear()
    receipts = [bus.publish_nowait("a", data) for data in (2, 2, 1)]
    await turns(5)
    assert sorted(running) == [1, 2]  # one of each key
    for each in over.values():
        each.set()
    await within(bus.settle())
    assert balances(bus, sub)
