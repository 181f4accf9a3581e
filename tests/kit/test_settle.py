"""``settle``: until nothing is pending, and where that hangs; and how the kit shows it."""

from __future__ import annotations

import asyncio
import collections
import threading
from collections.abc import AsyncIterator, Generator
from typing import Any

import anyio
import pytest

from eventbus import Event, EventBus, Retry, WouldDeadlock
from eventbus.testing import FakeClock, settle, simulate, wait_all_tasks_blocked
from eventbus.testing._describe import show_task, where_waiting


async def lines_of(bus: EventBus) -> list[str]:
    """What is said of a bus that does not settle."""
    await wait_all_tasks_blocked()
    with pytest.raises(AssertionError) as error:
        await settle(bus, timeout=0.001)
    first, *others = str(error.value).splitlines()
    assert first == f"{bus!r} did not settle within 0.001 s:"
    return others


async def test_it_waits_until_nothing_is_pending() -> None:
    """For at most five seconds by default, for any time if told so, and cascades included."""
    bus, handled = EventBus(), list[str]()

    @bus.on()
    async def nested(event: Event[Any]) -> None:
        await asyncio.sleep(0)
        handled.append(event.type)
        if event.type == "a":
            await bus.publish("b")

    await bus.publish("a")
    await settle(bus)
    await bus.publish("b")
    await settle(bus, timeout=None)
    assert handled == ["a", "b", "b"]
    with pytest.raises(TypeError, match="is no EventBus"):
        await settle("bus")  # type: ignore[arg-type]  # the point


def test_in_a_simulation_it_waits_for_any_time() -> None:
    """An hour of virtual time is no reason to give up."""

    async def scenario() -> None:
        bus = EventBus()
        bus.subscribe(lambda _: asyncio.sleep(3600))  # real clock: none, this one is virtual
        await bus.publish("a")
        await settle(bus)
        assert bus.statistics().handled == 1

    simulate(scenario, seeds=1)


async def test_in_a_handler_it_is_refused() -> None:
    """As ``bus.settle()`` is."""
    bus = EventBus()
    bus.subscribe(lambda _: settle(bus))
    (outcome,) = await bus.publish_and_wait("a")
    assert isinstance(outcome.error, WouldDeadlock)


async def test_what_is_pending_is_shown() -> None:
    """Handlers that wait with their line, queues, pauses, threads and publishers."""
    bus, gate, in_thread = EventBus(threads=1), asyncio.Event(), threading.Event()

    async def hang(_: Event[Any]) -> None:
        await gate.wait()

    def fail(_: Event[Any]) -> None:
        raise ValueError

    def blocking(_: Event[Any]) -> None:
        in_thread.wait(5)

    bus.subscribe(hang, "a", capacity=1)
    bus.subscribe(fail, "b", retry=Retry(initial=60, maximum=60))
    bus.subscribe(blocking, "b", thread=True, concurrency=2)
    for number in range(2):
        await bus.publish("a", number)
        await wait_all_tasks_blocked()
    publisher = asyncio.create_task(bus.publish("a", 2))
    async with bus.stream("b"):
        await bus.publish("b")
        await bus.publish("b")
        lines = await lines_of(bus)
    parts = [
        (".hang (", f"{__file__}:", "handles a  0, for ", "it waits at ", "hang, in Event.wait"),
        (".hang (", "has 1 queued, first a  1"),
        (".fail (", "pauses before attempt 2 at b, for "),
        (".fail (", "has 1 queued, first b"),
        (".blocking (", "runs in a thread, handling b, for "),
        (".blocking (", "waits for a free thread, to handle b, for "),
        ("a publisher of a  2 waits for room in the queue of ", ".hang"),
    ]
    assert len(lines) == len(parts)
    for line, wanted in zip(lines, parts, strict=True):
        for part in wanted:
            assert part in line
    gate.set()
    in_thread.set()
    bus.subscriptions[1].unsubscribe()
    await publisher
    await settle(bus)


async def test_a_handler_that_looks_at_its_own_bus() -> None:
    """What a pump is stepping through, and what comes after its pause, is shown too."""
    bus, clock = EventBus(), FakeClock()
    bus = EventBus(clock=clock)
    seen: list[str] = []

    def look(_: Event[Any]) -> None:
        seen.extend(show_all())

    def fail(_: Event[Any]) -> None:
        raise ValueError

    def show_all() -> list[str]:
        from eventbus.testing._describe import show_pending

        return show_pending(bus)

    bus.subscribe(look, "a")
    await bus.publish("a")
    await settle(bus)
    assert "is running attempt 1 at a, for 0 s" in seen.pop()
    bus.subscribe(fail, "b", retry=Retry(attempts=2, initial=1, jitter=0))
    await bus.publish("b")
    await wait_all_tasks_blocked()
    clock.advance(1)
    assert "is about to run attempt 2 at b, for 1 s by the bus's clock" in show_all()[0]
    await settle(bus)


async def test_a_bus_on_which_something_is_always_published() -> None:
    """Without anything pending at that moment, the message says what must be going on."""
    bus = EventBus()
    bus._settlers.append(waiter := asyncio.get_running_loop().create_future())
    bus._open += 1  # as between an end and the next publication
    with pytest.raises(AssertionError, match=r"within 0.01 s: something publishes all the time"):
        await settle(bus, timeout=0.01)
    bus._open -= 1
    bus._settlers.remove(waiter)


@pytest.mark.parametrize("autojump", [None, 3600])
async def test_a_clock_that_stands_still(autojump: float | None) -> None:
    """Its next timer is named, with the cure, or with what keeps it from jumping."""
    clock = FakeClock(autojump=autojump)
    bus = EventBus(clock=clock)
    bus.subscribe(lambda _: anyio.sleep_forever(), timeout=30)
    await bus.publish("a")
    *_, hint = await lines_of(bus)
    if autojump is None:
        assert hint == (
            "Its FakeClock has a timer in 30 s: advance it, "
            "or let it jump with FakeClock(autojump=0.01)"
        )
    else:
        assert hint == (
            "Its FakeClock has a timer in 30 s: and has not jumped there, "
            "because something else goes on all the time"
        )
    clock.advance(30)
    await settle(bus)
    bus.subscriptions[0].unsubscribe()
    gate = asyncio.Event()
    bus.subscribe(lambda _: gate.wait())
    await bus.publish("a")
    assert "FakeClock" not in (await lines_of(bus))[-1]
    gate.set()
    await settle(bus)


# ---- Where code waits


async def waits_at(coroutine: Any) -> str:
    """Where a coroutine waits, once it does."""
    task = asyncio.create_task(coroutine, name="worker")
    await wait_all_tasks_blocked()
    try:
        return show_task(task)
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_a_task_is_shown_with_its_line() -> None:
    """The innermost line of the application, and what that calls in a library."""

    async def helper() -> None:
        await anyio.Event().wait()

    async def outer() -> None:
        await helper()

    text = await waits_at(outer())
    assert text.startswith("worker (test_a_task_is_shown_with_its_line.<locals>.outer) waits at ")
    assert f"{__file__}:" in text
    assert text.endswith("<locals>.helper, in Event.wait")


async def test_generators_and_iterators_are_followed_as_far_as_they_show() -> None:
    """An ``__await__`` written in Python is looked into; an async generator hides its own."""
    gate = asyncio.Event()

    class Awaitable:
        def __await__(self) -> Generator[Any, None, Any]:
            return (yield from gate.wait().__await__())

    async def numbers() -> AsyncIterator[int]:
        await gate.wait()
        yield 1

    async def iterating() -> None:
        async for _ in numbers():
            pass

    async def awaiting() -> None:
        await Awaitable()

    assert "Awaitable.__await__" in await waits_at(awaiting())
    assert (await waits_at(iterating())).endswith("iterating")


async def test_a_library_is_shown_if_there_is_nothing_else() -> None:
    """A task of a library alone is told by its outermost own code; one without code, in words."""
    text = await waits_at(asyncio.Event().wait())
    assert text.startswith("worker (Event.wait) waits at ")
    assert text.endswith("in Event.wait")
    assert where_waiting(asyncio.get_running_loop().create_future()).startswith("outside of Py")
    assert where_waiting(collections.deque()).startswith("outside of Python code")


async def test_a_handler_with_a_local_called_driver() -> None:
    """Names of variables in the application mean nothing."""

    class Driving:
        def __await__(self) -> Generator[Any, None, Any]:
            driver = lines_of(bus)  # another coroutine, which nobody awaits
            yield from gate.wait().__await__()
            driver.close()

    bus, gate = EventBus(), asyncio.Event()

    async def drive(_: Event[Any]) -> None:
        await Driving()

    bus.subscribe(drive)
    await bus.publish("a")
    (line,) = await lines_of(bus)
    assert line.endswith("Driving.__await__")
    gate.set()
    await settle(bus)
