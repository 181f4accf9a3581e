"""P13 and P6 while an event loop ends: no handler begins there, and the next loop goes on."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eventbus import Event, EventBus, Hook, LogLine, Retry
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.helpers import LogLines, balances, within


@pytest.fixture(autouse=True)
def complaints(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """What asyncio said ("Task was destroyed but it is pending!"); nothing, in every test."""

    def said() -> list[str]:
        gc.collect()
        return [record.getMessage() for record in caplog.records if record.name == "asyncio"]

    yield said
    assert said() == []


def cancel_all() -> int:
    """Cancel every task but this one, as ``asyncio.run`` does at its end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    return len(tasks)


# Interleaving 1: the pump's task is cancelled before its first step, and in the turn in which the
# last waiting handler ends.


@pytest.mark.parametrize("times", [1, 3])
async def test_a_pump_that_is_cancelled_before_its_first_step_is_followed_by_another(
    times: int,
) -> None:
    """Interleaving 1: what is queued is delayed, not lost, however often that happens."""
    bus = EventBus()
    seen: list[object] = []
    bus.subscribe(lambda event: seen.append(event.data), "a")
    for number in range(times):
        await bus.publish("a", number)
        assert cancel_all() == (1 if number == 0 else 0)
        await asyncio.sleep(0)
        assert seen == []
    await within(bus.settle())
    assert seen == list(range(times))
    assert bus._loop is None


async def test_a_pump_that_is_cancelled_twice_gives_back_one_place() -> None:
    """Interleaving 1: two cancellations of one pump that has not begun count as one."""
    bus = EventBus()
    seen: list[object] = []
    bus.subscribe(lambda event: seen.append(event.data), "a")
    await bus.publish("a", 1)
    cancel_all()
    cancel_all()
    assert bus._pumps == 1
    await within(bus.settle())
    assert seen == [1]


async def test_the_pump_is_cancelled_in_the_turn_in_which_the_last_handler_ends() -> None:
    """Interleaving 1: a handler's end and the cancellation of the pump it needs fall together."""
    bus = EventBus()
    seen: list[object] = []
    release = asyncio.Event()

    async def wait(event: Event[Any]) -> None:
        if event.data == 1:
            await release.wait()
        seen.append(event.data)

    bus.subscribe(wait, "a")
    await bus.publish("a", 1)
    await wait_all_tasks_blocked()
    await bus.publish("a", 2)
    release.set()
    while seen != [1]:  # noqa: ASYNC110 - the very turn matters
        await asyncio.sleep(0)
    assert cancel_all() == 1  # the pump that the end of the first has scheduled
    await within(bus.settle())
    assert seen == [1, 2]
    assert balances(bus)


async def test_a_cancelled_handler_lets_the_loop_breathe_before_the_next_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Interleaving 1: after a cancellation from outside no handler begins in the same turns."""
    monkeypatch.setattr("eventbus._engine.REST_SECONDS", 0.3)  # the first log line is slow
    bus = EventBus()
    begun: list[object] = []

    async def wait(event: Event[Any]) -> None:
        begun.append(event.data)
        if event.data == 1:
            await asyncio.get_running_loop().create_future()

    bus.subscribe(wait, "a")
    first = await bus.publish("a", 1)
    await wait_all_tasks_blocked()
    await bus.publish("a", 2)
    assert cancel_all() == 1
    assert [o.status for o in await within(first.outcomes())] == ["cancelled"]
    for _ in range(5):
        await asyncio.sleep(0)
    assert begun == [1]
    await within(bus.settle())
    assert begun == [1, 2]


# Interleaving 2: asyncio.run ends with a waiting handler and a queue behind it; the old tasks are
# collected after the bus was used on a new loop.


def when_main_has_ended(call: Callable[[], object]) -> None:
    """Call something in the last turn of a loop, when what it schedules runs no more."""
    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(lambda _: call())


@pytest.mark.parametrize("waits", [True, False], ids=["waiting handler", "pump not begun"])
@pytest.mark.parametrize("again", [True, False])
def test_a_run_that_ends_with_a_waiting_handler_and_a_queue_begins_no_other(
    waits: bool, again: bool
) -> None:
    """Interleaving 2: the next loop finds the bus free; what was left there ended cancelled."""
    lines = LogLines()
    bus = EventBus(hooks=[lines])
    begun: list[object] = []
    tasks: list[asyncio.Task[Any] | None] = []

    async def wait(event: Event[Any]) -> None:
        begun.append(event.data)
        tasks.append(asyncio.current_task())
        if event.data != "next":
            await asyncio.get_running_loop().create_future()

    bus.subscribe(wait, "a", name="one")
    bus.subscribe(wait, "a", name="two")

    def publish() -> None:
        for number in range(3):
            bus.publish_nowait("a", number)

    async def main() -> None:
        if waits:
            publish()
            await wait_all_tasks_blocked()
        else:
            # uvloop takes one more turn before it stops: there the pump needs to be cancelled now
            when_main_has_ended(publish_and_cancel)

    def publish_and_cancel() -> None:
        publish()
        for task in asyncio.all_tasks():
            task.cancel()

    asyncio.run(main())
    assert begun == ([0, 0] if waits else [])
    if again:
        asyncio.run(bus.publish_and_wait("a", "next"))
        assert begun[-2:] == ["next", "next"]
        assert bus.statistics().cancelled == 6
        assert len(lines.named("loop.lost")) == 1
    tasks.clear()
    gc.collect()
    assert balances(bus, *bus.subscriptions)
    asyncio.run(bus.settle())
    assert bus.statistics().pending == 0


def test_a_loop_that_was_held_up_while_it_ended_begins_no_handler() -> None:
    """Interleaving 2: for the loop's end it needs turns, and time alone gives it none."""
    bus = EventBus()
    begun: list[object] = []

    async def wait(event: Event[Any]) -> None:
        begun.append(event.data)
        await asyncio.get_running_loop().create_future()

    def hold_up_the_loop() -> None:
        time.sleep(0.018)  # real clock: the bus rests by the loop's own, for 0.01 s

    async def hold_up() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            hold_up_the_loop()

    bus.subscribe(wait, "a")

    async def main() -> None:
        await bus.publish("a", 1)
        await wait_all_tasks_blocked()
        await bus.publish("a", 2)
        holding = asyncio.create_task(hold_up())
        await wait_all_tasks_blocked()
        del holding

    asyncio.run(main())
    assert begun == [1]
    asyncio.run(bus.settle())
    assert (begun, bus.statistics().cancelled) == ([1], 2)


@pytest.mark.parametrize("finish", ["raises", "waits", "ends"])
def test_tasks_of_a_lost_loop_change_nothing_when_they_are_collected(finish: str) -> None:
    """Interleaving 2: whatever a handler does with ``GeneratorExit``, its delivery has ended."""
    bus = EventBus(hooks=[lines := LogLines()])
    loop = asyncio.new_event_loop()
    thrown: list[BaseException] = []

    async def wait(event: Event[Any]) -> None:
        try:
            if event.data != "next":
                await asyncio.Future()
        except GeneratorExit as error:
            thrown.append(error)
            if finish == "raises":
                raise ValueError("while it was destroyed") from None
            if finish == "waits":
                raise

    bus.subscribe(wait, "a")

    async def main() -> None:
        await bus.publish("a", 1)
        await bus.publish("a", 2)
        await wait_all_tasks_blocked()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant

    loop.run_until_complete(main())
    loop.close()
    asyncio.run(bus.publish_and_wait("a", "next"))
    before = bus.statistics()
    assert (before.handled, before.cancelled, before.pending) == (1, 2, 0)
    gc.collect()
    assert bus.statistics() == before
    assert bus._loop is None
    asyncio.run(bus.publish_and_wait("a", "next", check=True))
    assert len(lines.named("loop.lost")) == 1
    assert len(bus.dead_letters) == 0


def test_unsubscribing_from_a_lost_bus_starts_nothing_on_its_closed_loop() -> None:
    """Interleaving 2: a publication that fits once its obstacle has left begins no pump there."""
    bus = EventBus(hooks=[lines := LogLines()])
    loop = asyncio.new_event_loop()
    seen: list[object] = []

    async def wait(_: Event[Any]) -> None:
        await asyncio.Future()

    obstacle = bus.subscribe(wait, "a.*", capacity=1)
    bus.subscribe(lambda event: seen.append(event.data), "a.both")

    async def main() -> asyncio.Task[Any]:
        for number in range(2):
            await bus.publish("a.one", number)
            await wait_all_tasks_blocked()
        waiting = asyncio.create_task(bus.publish("a.both", "lost"))
        await wait_all_tasks_blocked()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant
        return waiting

    waiting = loop.run_until_complete(main())
    loop.close()
    obstacle.unsubscribe()  # needs no loop
    assert balances(bus)
    asyncio.run(bus.publish_and_wait("a.both", "next", check=True))
    assert seen == ["next"]
    assert bus.statistics().pending == 0
    assert len(lines.named("loop.lost")) == 1
    del waiting


def test_a_pump_of_a_lost_loop_that_is_cancelled_late_takes_no_place() -> None:
    """Interleaving 2: cancelling a closed loop's pump does nothing to the pumps of the next."""
    bus = EventBus()
    loop = asyncio.new_event_loop()
    seen: list[object] = []
    bus.subscribe(lambda event: seen.append(event.data), "a")
    old: set[asyncio.Task[Any]] = set()

    async def main() -> None:
        def publish() -> None:
            bus.publish_nowait("a", "lost")
            old.update(asyncio.all_tasks())

        when_main_has_ended(publish)

    async def go_on() -> None:
        async with bus:
            await bus.publish("a", 1)
            for task in old:
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant
                task.cancel()
            assert bus._pumps == 1
            await bus.settle()
            await asyncio.sleep(0.02)  # real clock: the rest, which is 10 ms, would be over
            assert bus._pumps == 0
            await bus.publish_and_wait("a", 2)

    loop.run_until_complete(main())
    loop.close()
    if seen:
        pytest.skip("this loop takes one more turn before it stops, so the pump has begun")
    asyncio.run(within(go_on()))
    assert seen == [1, 2]
    (pump,) = old
    coroutine = pump.get_coro()
    assert coroutine is not None
    coroutine.close()  # it never began, and Python would say so


def test_no_handler_begins_while_the_run_waits_for_its_threads() -> None:
    """Interleaving 2: a run that ends slowly, for its executor's threads, begins no handler."""
    bus = EventBus()
    begun: list[object] = []
    release = threading.Event()

    async def wait(event: Event[Any]) -> None:
        begun.append(event.data)
        await asyncio.get_running_loop().create_future()

    bus.subscribe(wait, "a")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await bus.publish("a", 1)
        await bus.publish("a", 2)
        await wait_all_tasks_blocked()
        loop.run_in_executor(None, release.wait, 0.05)  # its end waits for this

    asyncio.run(main())
    assert begun == [1]
    asyncio.run(bus.settle())
    assert bus.statistics().cancelled == 2


class AnywhereClock(FakeClock):
    """A clock that makes its calls whatever has become of the loop on which they were set."""

    def call_later(self, delay: float, callback: Callable[[], object]) -> Any:
        timer = super().call_later(delay, callback)
        timer.loop = None
        return timer


def test_timers_of_a_lost_loop_change_nothing() -> None:
    """A close, a time-out and a warning that were under way do not reach into the next loop."""
    clock = AnywhereClock()
    bus = EventBus(clock=clock, hooks=[lines := LogLines()])

    async def wait(event: Event[Any]) -> None:
        if event.data != "next":
            await asyncio.Future()

    bus.subscribe(wait, "a", timeout=20, capacity=1)

    async def main(close: bool) -> None:
        for _ in range(2):
            await bus.publish("a")
            await wait_all_tasks_blocked()
        waiting = asyncio.create_task(bus.aclose() if close else bus.publish("a"))
        await wait_all_tasks_blocked()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant
        del waiting

    for close in (False, True):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main(close))
        loop.close()
        set_before = clock.next_timer
        asyncio.run(bus.settle())
        assert (set_before is not None, clock.next_timer) == (True, None)
        lost = bus.statistics()
        clock.advance(100)
        assert bus.statistics() == lost
    assert [line.name for line in lines.lines if line.name != "delivery.cancelled"] == [
        "loop.lost"
    ] * 2


def test_one_line_tells_of_a_lost_loop_and_later_ones_of_what_comes_later() -> None:
    """What was pending there is not told one by one; streams end with the rest, in any order."""
    bus = EventBus(hooks=[lines := LogLines()])
    loop = asyncio.new_event_loop()

    async def wait(_: Event[Any]) -> None:
        await asyncio.Future()

    async def main() -> None:
        await stream.__aenter__()
        for _ in range(3):
            bus.subscribe(wait)
        await bus.publish("a")
        await wait_all_tasks_blocked()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant

    async def go_on() -> None:
        receipt = await bus.publish("a")
        await wait_all_tasks_blocked()
        cancel_all()
        await within(receipt.outcomes())

    stream = bus.stream("a")
    loop.run_until_complete(main())
    loop.close()
    asyncio.run(go_on())
    names = [line.name for line in lines.lines]
    assert names == ["loop.lost", *["delivery.cancelled"] * 3]
    assert bus.statistics().cancelled == 4 + 3


def test_no_handler_begins_on_a_loop_that_ends_while_the_log_is_slow() -> None:
    """The rest after a cancellation is begun anew when something has held up the loop."""
    begun: list[object] = []

    class SlowLog(Hook):
        def log(self, line: LogLine) -> None:
            if line.name == "delivery.cancelled":
                time.sleep(0.05)  # real clock: a log that blocks for longer than the rest

    bus = EventBus(hooks=[SlowLog()])

    async def wait(event: Event[Any]) -> None:
        begun.append(event.data)
        await asyncio.Event().wait()

    bus.subscribe(wait)

    async def main() -> None:
        for number in range(3):
            await bus.publish("a", number)
        await wait_all_tasks_blocked()

    asyncio.run(main())
    assert begun == [0]
    assert bus.statistics().cancelled == 1
    assert balances(bus)


def test_a_retry_that_was_due_on_a_lost_loop_is_cancelled_there() -> None:
    """Its pause was over and its next attempt had not begun when the loop ended."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    attempts: list[int] = []

    def fail(_: Event[Any]) -> None:
        attempts.append(1)
        raise ValueError

    bus.subscribe(fail, "a", retry=Retry(initial=1, jitter=0))

    async def main() -> None:
        await bus.publish("a")
        await wait_all_tasks_blocked()
        clock.advance(1)
        cancel_all()

    asyncio.run(main())
    asyncio.run(within(_publish(bus, "b")))
    assert attempts == [1]
    assert (bus.statistics().cancelled, bus.statistics().pending) == (1, 0)


async def _publish(bus: EventBus, topic: str) -> None:
    await bus.publish(topic)
    await bus.settle()


def test_a_close_on_a_lost_loop_ends_by_its_clock() -> None:
    """The handler's task is destroyed, the grace period passes, and the report is made."""
    clock, lines = AnywhereClock(), LogLines()
    bus = EventBus(clock=clock, hooks=[lines])
    tasks: list[Any] = []

    async def wait(_: Event[Any]) -> None:
        tasks.append(asyncio.current_task())
        await asyncio.Event().wait()

    bus.subscribe(wait)

    async def main() -> None:
        for _ in range(2):
            await bus.publish("a")
        await wait_all_tasks_blocked()
        tasks.append(asyncio.create_task(bus.aclose(grace=1)))
        await wait_all_tasks_blocked()

    loop = asyncio.SelectorEventLoop()
    loop.run_until_complete(main())
    loop.close()
    for task in tasks:
        task._log_destroy_pending = False
    tasks[0].get_coro().close()
    assert (bus.statistics().cancelled, bus.statistics().pending) == (1, 1)
    clock.advance(1)
    (line,) = lines.named("bus.closed")
    assert line.fields["cancelled"] == 2
    assert balances(bus)
