"""P11: after ``aclose()`` all that was accepted is accounted for, whatever refused to end."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import pytest

from eventbus import BusClosed, CloseReport, Event, EventBus, Receipt, Retry, WouldDeadlock
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.helpers import LogLines, turns, within


def accounts_for_all(report: CloseReport) -> bool:
    ends = report.handled + report.failed + report.dropped + report.cancelled
    return report.accepted == ends + report.unread + report.stored


async def closed(closing: asyncio.Task[CloseReport], clock: FakeClock) -> CloseReport:
    """The report of a close that should be over by now. Cancelling it would not end it."""
    await asyncio.wait([closing], timeout=2)
    in_time = closing.done()
    for _ in range(3):  # so that a close that is late lets the test fail, and not hang
        await turns(0 if in_time else 5)
        clock.advance(0 if in_time else 1000)
    assert in_time, "the close is not over"
    return closing.result()


async def hang(event: Event[Any]) -> None:
    await asyncio.Event().wait()


async def refuse_to_end(event: Event[Any]) -> None:
    while True:
        try:
            await event.data.wait()
        except asyncio.CancelledError:
            continue
        return


async def test_leaving_the_block_handles_what_was_accepted() -> None:
    """Waiting, queued and nested deliveries all end before the block is left."""
    bus = EventBus()
    seen: list[str] = []

    async def handler(event: Event[Any]) -> None:
        await turns(2)
        seen.append(event.type)
        if event.type == "a":
            await bus.publish("b")

    bus.subscribe(handler)
    async with asyncio.timeout(5), bus:
        for _ in range(3):
            await bus.publish("a")
    assert seen == ["a", "a", "a", "b", "b", "b"]
    report = await bus.aclose()
    assert report == CloseReport(accepted=6, handled=6, failed=0, dropped=0, cancelled=0)


async def test_while_it_drains_handlers_publish_and_outsiders_do_not() -> None:
    """Nested events go even into full queues; outsiders, leftovers and streams get BusClosed."""
    bus = EventBus()
    gate = asyncio.Event()
    left: list[asyncio.Task[Receipt]] = []

    async def leftover() -> Receipt:
        await gate.wait()
        await turns(3)
        return await bus.publish("b")

    async def handler(event: Event[Any]) -> None:
        if event.type == "a":
            left.append(asyncio.create_task(leftover()))
            await gate.wait()
            for _ in range(5):
                await bus.publish("b")

    async def slow(event: Event[Any]) -> None:
        await turns(3)

    bus.subscribe(handler, "a")
    bus.subscribe(slow, "b", capacity=1)
    await bus.publish("a")
    await turns(3)
    closing = asyncio.create_task(bus.aclose())
    await turns(1)
    with pytest.raises(BusClosed):
        await bus.publish("a")
    with pytest.raises(BusClosed):
        bus.publish_nowait("a")
    with pytest.raises(BusClosed):
        await bus.wait_for("a")
    with pytest.raises(BusClosed):
        await bus.__aenter__()
    gate.set()
    report = await within(closing)
    assert (report.accepted, report.handled) == (6, 6)
    with pytest.raises(BusClosed):
        await within(left[0])


async def test_a_publisher_that_waits_for_room_is_told_that_the_bus_closes() -> None:
    """It gets BusClosed, and its event is accepted nowhere."""
    bus = EventBus()
    gate = asyncio.Event()

    async def handler(event: Event[Any]) -> None:
        await gate.wait()

    bus.subscribe(handler, "a", capacity=1)
    await bus.publish("a")
    await turns(3)
    await bus.publish("a")
    waiting = asyncio.create_task(bus.publish("a"))
    await turns(1)
    closing = asyncio.create_task(bus.aclose())
    with pytest.raises(BusClosed):
        await within(waiting)
    gate.set()
    assert (await within(closing)).accepted == 2


async def test_past_the_grace_period_what_runs_is_cancelled_and_named() -> None:
    """The report names who was interrupted and what was never begun; a retry has its error."""
    clock, lines = FakeClock(), LogLines()
    bus = EventBus(clock=clock, hooks=[lines])

    async def flaky(event: Event[Any]) -> None:
        raise OSError("again")

    bus.subscribe(hang, "a", name="hangs")
    bus.subscribe(flaky, "b", name="flaky", retry=Retry(initial=60))
    receipts = [await bus.publish(topic) for topic in ("a", "a", "a", "b", "b")]
    await turns(3)
    closing = asyncio.create_task(bus.aclose(grace=7))
    await turns(3)
    clock.advance(6.9)
    await turns(3)
    assert not closing.done()
    clock.advance(0.1)
    report = await closed(closing, clock)
    assert report == CloseReport(
        accepted=5,
        handled=0,
        failed=1,
        dropped=0,
        cancelled=4,
        interrupted={"hangs": 1, "flaky": 1},
        unstarted={"hangs": 2, "flaky": 1},
    )
    outcomes = [(await receipt.outcomes())[0] for receipt in receipts]
    assert [(each.status, each.attempts) for each in outcomes] == [
        ("cancelled", 1),
        ("cancelled", 0),
        ("cancelled", 0),
        ("failed", 1),
        ("cancelled", 0),
    ]
    assert str(outcomes[3].error) == "again"
    (line,) = lines.named("bus.interrupted")
    assert line.fields["interrupted"] == {"hangs": 1, "flaky": 1}
    assert clock.next_timer is None


async def test_a_retry_that_falls_due_as_the_grace_ends_is_not_begun() -> None:
    """Pause and grace end in one moment: the delivery ends failed, no handler starts after that."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    attempts: list[int] = []

    async def flaky(event: Event[Any]) -> None:
        assert event.delivery
        attempts.append(event.delivery.attempt)
        if event.delivery.attempt == 1:
            raise OSError("again")
        await hang(event)

    bus.subscribe(flaky, "a", retry=Retry(initial=5, jitter=0))
    receipt = await bus.publish("a")
    await turns(3)
    closing = asyncio.create_task(bus.aclose(grace=5))
    await turns(1)
    clock.advance(5)
    await turns(3)
    clock.advance(1)
    report = await closed(closing, clock)
    assert (report.failed, report.cancelled, report.abandoned) == (1, 0, ())
    (outcome,) = await receipt.outcomes()
    assert (outcome.status, str(outcome.error), attempts) == ("failed", "again", [1])


async def test_grace_ends_while_handlers_publish_into_a_full_queue() -> None:
    """Interleaving 9: what was nested before is unstarted, what comes after gets BusClosed."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    refused: list[BusClosed] = []

    async def publisher(event: Event[Any]) -> None:
        await bus.publish("b")
        await bus.publish("b")
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await bus.publish("b")
            except BusClosed as error:
                refused.append(error)

    bus.subscribe(publisher, "a", name="publisher")
    bus.subscribe(hang, "b", name="full", capacity=1)
    await bus.publish("a")
    await turns(5)
    closing = asyncio.create_task(bus.aclose(grace=1))
    await turns(1)
    clock.advance(1)
    report = await closed(closing, clock)
    assert len(refused) == 1
    assert accounts_for_all(report)
    assert (report.accepted, report.cancelled) == (3, 3)
    assert report.interrupted == {"publisher": 1, "full": 1}
    assert report.unstarted == {"full": 1}


async def test_who_refuses_to_end_is_abandoned_and_changes_nothing_later() -> None:
    """Interleaving 9: a second after it was cancelled it is counted and named, and let alone."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    gate = asyncio.Event()
    bus.subscribe(refuse_to_end, "a", name="stubborn")
    receipt = await bus.publish("a", gate)
    await turns(3)
    closing = asyncio.create_task(bus.aclose(grace=1))
    await turns(1)
    clock.advance(1)
    await turns(3)
    clock.advance(0.9)
    await turns(3)
    assert not closing.done()
    clock.advance(0.1)
    report = await closed(closing, clock)
    assert (report.cancelled, report.interrupted, report.abandoned) == (
        1,
        {"stubborn": 1},
        ("stubborn",),
    )
    before = bus.statistics()
    outcomes = await receipt.outcomes()
    gate.set()
    await wait_all_tasks_blocked()
    assert bus.statistics() == before
    assert await receipt.outcomes() == outcomes
    assert [outcome.status for outcome in outcomes] == ["cancelled"]
    async with bus:  # what was abandoned takes no place from those who come later
        await bus.publish("a", gate)
    assert (await bus.aclose()).handled == 1


async def test_a_handler_that_finishes_in_its_last_second_is_handled() -> None:
    """Cancelled, it may still return something; it stays named among the interrupted."""
    clock = FakeClock()
    bus = EventBus(clock=clock)

    async def tidy(event: Event[Any]) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await turns(3)
        return "tidied"

    bus.subscribe(tidy, "a", name="tidy")
    receipt = await bus.publish("a")
    await turns(3)
    closing = asyncio.create_task(bus.aclose(grace=1))
    await turns(1)
    clock.advance(1)
    report = await closed(closing, clock)
    assert (report.handled, report.interrupted, report.abandoned) == (1, {"tidy": 1}, ())
    assert [outcome.result for outcome in await receipt.outcomes()] == ["tidied"]


async def test_a_thread_is_given_up_when_the_grace_is_over() -> None:
    """Its delivery ends cancelled at once and by name; the thread itself returns when it can."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    started, returned, go = asyncio.Event(), asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def worker(event: Event[Any]) -> None:
        loop.call_soon_threadsafe(started.set)
        assert go.wait(10)
        loop.call_soon_threadsafe(returned.set)

    bus.subscribe(worker, "a", name="worker", thread=True)
    await bus.publish("a")
    await within(started.wait())
    closing = asyncio.create_task(bus.aclose(grace=1))
    await turns(1)
    clock.advance(1)
    try:
        report = await closed(closing, clock)
        assert (report.cancelled, report.interrupted) == (1, {"worker": 1})
        assert accounts_for_all(report)
    finally:
        go.set()
    await within(returned.wait())
    await wait_all_tasks_blocked()
    assert bus.statistics().handled == 0


async def test_a_cancelled_close_cancels_what_is_left_and_closes_all_the_same() -> None:
    """Interleaving 9: the cancellation is raised once the close is through, with its report."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    gate = asyncio.Event()
    bus.subscribe(hang, "a", name="hangs")
    bus.subscribe(refuse_to_end, "b", name="stubborn")
    await bus.publish("a")
    await bus.publish("a")
    await bus.publish("b", gate)
    await turns(3)
    closing = asyncio.create_task(bus.aclose(grace=1000))
    await turns(2)
    closing.cancel()
    await turns(3)
    closing.cancel()  # once more does not stop it
    await turns(3)
    assert not closing.done()
    clock.advance(1)
    with pytest.raises(asyncio.CancelledError):
        await closed(closing, clock)
    assert closing.cancelled()
    report = await bus.aclose()
    assert report.interrupted == {"hangs": 1, "stubborn": 1}
    assert (report.cancelled, report.unstarted, report.abandoned) == (
        3,
        {"hangs": 1},
        ("stubborn",),
    )
    gate.set()
    await wait_all_tasks_blocked()


async def test_a_close_in_a_cancelled_scope_closes() -> None:
    """anyio cancels again and again; the close is seen through all the same."""
    bus = EventBus()
    bus.subscribe(hang, "a", name="hangs")
    with anyio.CancelScope() as scope:
        async with asyncio.timeout(5), bus:
            await bus.publish("a")
            await turns(3)
            scope.cancel()
    assert scope.cancelled_caught
    report = await bus.aclose()
    assert (report.cancelled, report.interrupted) == (1, {"hangs": 1})


async def test_a_timeout_around_a_close_is_that_timeout() -> None:
    """A cancelled close leaves no request to cancel behind, so asyncio.timeout knows its own."""
    bus = EventBus()
    bus.subscribe(hang, "a")
    await bus.publish("a")
    await turns(3)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await bus.aclose()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
    assert (await bus.aclose()).cancelled == 1


async def test_a_second_close_waits_for_the_first() -> None:
    """Interleaving 9: both get the same report, also when the first one's caller is cancelled."""
    for cancel in (False, True):
        clock = FakeClock()
        bus = EventBus(clock=clock)
        bus.subscribe(hang, "a")
        await bus.publish("a")
        await turns(3)
        first = asyncio.create_task(bus.aclose(grace=5))
        await turns(1)
        second = asyncio.create_task(bus.aclose(grace=0))
        await turns(3)
        assert not second.done()  # its own grace counts for nothing
        if cancel:
            first.cancel()
        else:
            clock.advance(5)
        report = await closed(second, clock)
        assert report.cancelled == 1
        await within(asyncio.wait([first]))
        assert first.cancelled() if cancel else first.result() is report
        assert await bus.aclose() is report


async def test_a_close_that_is_cancelled_in_the_turn_in_which_it_ends_is_cancelled() -> None:
    """The bus is closed and the report is there; the caller gets its cancellation."""
    bus = EventBus()
    gate = asyncio.Event()
    closing: list[asyncio.Task[CloseReport]] = []

    async def handler(event: Event[Any]) -> None:
        await gate.wait()
        asyncio.get_running_loop().call_soon(closing[0].cancel)

    bus.subscribe(handler, "a")
    await bus.publish("a")
    await turns(3)
    closing.append(asyncio.create_task(bus.aclose()))
    await turns(1)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await within(closing[0])
    report = await bus.aclose()
    assert (report.handled, report.interrupted) == (1, {})


async def test_a_handler_cannot_close_its_own_bus() -> None:
    """It gets WouldDeadlock, and nothing is closed; what it left behind may close the bus."""
    bus = EventBus()
    left: list[asyncio.Task[CloseReport]] = []

    async def handler(event: Event[Any]) -> None:
        with pytest.raises(WouldDeadlock):
            await bus.aclose()
        await bus.publish("b")
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: left.append(asyncio.create_task(bus.aclose())))

    bus.subscribe(handler, "a")
    await bus.publish_and_wait("a", check=True)
    await turns(2)
    assert (await within(left[0])).handled == 1


async def test_readers_take_what_is_left_and_then_the_iteration_ends() -> None:
    """The drain does not wait for readers; the next report counts what they took since."""
    bus = EventBus()
    seen: list[str] = []
    async with bus.stream("a") as events:
        async with asyncio.timeout(5), bus:
            await bus.publish("a", "one")
            await bus.publish("a", "two")
        report = await bus.aclose()
        assert (report.accepted, report.unread) == (2, 2)
        assert accounts_for_all(report)
        async for event in events:
            seen.append(event.data)
            if len(seen) == 1:
                async with bus:
                    pass
                report = await bus.aclose()
                assert (report.accepted, report.handled, report.unread) == (2, 1, 1)
    assert seen == ["one", "two"]
    async with bus:
        pass
    report = await bus.aclose()
    assert (report.accepted, report.handled, report.unread) == (1, 1, 0)


async def test_a_reader_and_a_wait_for_that_wait_are_told() -> None:
    """When the bus has closed, an iteration ends and a ``wait_for`` raises BusClosed."""
    bus = EventBus()

    async def read() -> list[Event[Any]]:
        async with bus.stream("a") as events:
            return [event async for event in events]

    reading = asyncio.create_task(read())
    waiting = asyncio.create_task(bus.wait_for("a"))
    await turns(2)
    report = await within(bus.aclose())
    assert report.accepted == 0
    assert await within(reading) == []
    with pytest.raises(BusClosed):
        await within(waiting)


def test_a_closed_bus_may_be_entered_again_on_any_loop() -> None:
    """Closed it refuses to publish; entered again it works, and reports only what is new."""
    bus = EventBus()
    bus.subscribe(lambda event: None, "a")

    async def use(events: int) -> CloseReport:
        async with asyncio.timeout(5), bus:
            for _ in range(events):
                await bus.publish("a")
        with pytest.raises(BusClosed):
            await bus.publish("a")
        return await bus.aclose()

    assert [asyncio.run(use(events)).handled for events in (1, 2, 3)] == [1, 2, 3]
    assert bus.statistics().handled == 6


async def test_entered_again_in_the_turn_of_the_close() -> None:
    """Who waited for the old close gets its report, not the new one's."""
    bus = EventBus()
    gate = asyncio.Event()

    async def handler(event: Event[Any]) -> None:
        await gate.wait()

    bus.subscribe(handler, "a")
    receipt = await bus.publish("a")
    await turns(3)

    async def enter() -> None:
        await receipt.outcomes()  # woken in the turn in which the close ends, before its caller
        await bus.__aenter__()

    entering = asyncio.create_task(enter())
    await turns(1)
    closing = asyncio.create_task(bus.aclose())
    await turns(2)
    gate.set()
    await within(entering)
    assert (await within(closing)).handled == 1
    await bus.publish("a")
    assert (await within(bus.aclose())).handled == 1


async def test_a_bus_that_waits_for_nothing_closes_without_a_turn() -> None:
    """An idle bus, entered or not, is closed at once; closing it again is the same report."""
    bus = EventBus()
    with pytest.raises(StopIteration) as stopped:
        bus.aclose().send(None)
    report: CloseReport = stopped.value.value
    assert report == CloseReport(accepted=0, handled=0, failed=0, dropped=0, cancelled=0)
    assert await bus.aclose(grace=0) is report
