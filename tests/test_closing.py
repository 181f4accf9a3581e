"""The report of a close: one place for every delivery, and a name for whoever was in the way."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from eventbus import (
    BusClosed,
    CloseReport,
    Event,
    EventBus,
    Hook,
    LogLine,
    OptionError,
    Outcome,
    Retry,
)
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.helpers import LogLines, turns, within


def test_a_report_is_a_value() -> None:
    """Frozen, equal by its fields, and empty where nothing went wrong."""
    report = CloseReport(accepted=1, handled=1, failed=0, dropped=0, cancelled=0)
    assert report == CloseReport(1, 1, 0, 0, 0, 0, 0, {}, {}, ())
    with pytest.raises(AttributeError):
        report.handled = 2  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize("grace", [-1, float("nan"), float("inf"), None, "10", True])
async def test_a_grace_that_is_no_number_of_seconds_is_refused(grace: float) -> None:
    """The bus stays open then."""
    bus = EventBus()
    with pytest.raises(OptionError, match="grace"):
        await bus.aclose(grace=grace)
    await bus.publish("a")
    assert repr(bus).startswith("<EventBus 'eventbus', open")


async def test_the_close_is_in_the_log() -> None:
    """One line with the sums; one more, a warning, if somebody had to be cancelled."""
    lines, clock = LogLines(), FakeClock()
    bus = EventBus(hooks=[lines], clock=clock)
    bus.subscribe(lambda event: None, "a")
    async with bus:
        await bus.publish("a")
    (closed,) = lines.named("bus.closed")
    assert (closed.level, closed.fields["handled"]) == ("info", 1)
    assert not lines.named("bus.interrupted")

    async def hang(event: Event[Any]) -> None:
        await asyncio.Event().wait()

    bus.subscribe(hang, "b", name="hangs")
    await bus.__aenter__()
    await bus.publish("b")
    await bus.publish("b")
    await turns(3)
    closing = asyncio.create_task(bus.aclose(grace=0))
    await turns(1)
    clock.advance(0)
    await within(closing)
    (warning,) = lines.named("bus.interrupted")
    assert warning.level == "warning"
    assert dict(warning.fields) == {
        "bus": "eventbus",
        "interrupted": {"hangs": 1},
        "unstarted": {"hangs": 1},
        "abandoned": [],
    }
    assert len(lines.named("bus.closed")) == 2


async def test_what_happened_before_the_bus_was_entered_is_in_the_report() -> None:
    """A bus works before it is entered, and after a close its next report begins anew."""
    bus = EventBus()
    bus.subscribe(lambda event: None, "a")
    await bus.publish_and_wait("a")
    async with bus:
        await bus.publish("a")
    assert (await bus.aclose()).handled == 2
    async with bus:
        await bus.publish("a")
    assert (await bus.aclose()).handled == 1


async def test_observers_are_told_what_a_close_has_not_begun() -> None:
    """Each delivery that the end of the grace period cancels has an outcome."""
    told: list[tuple[object, str, int]] = []

    class Observer(Hook):
        def delivery_ended(self, event: Event[Any], outcome: Outcome) -> None:
            told.append((event.data, outcome.status, outcome.attempts))

    bus = EventBus(hooks=[Observer()])

    async def wait(_: Event[Any]) -> None:
        await asyncio.Event().wait()

    bus.subscribe(wait)
    for number in range(3):
        await bus.publish("a", number)
    await wait_all_tasks_blocked()
    await within(bus.aclose(grace=0))
    assert sorted(told, key=str) == [(0, "cancelled", 1), (1, "cancelled", 0), (2, "cancelled", 0)]


@pytest.mark.parametrize("again", ["error", "cancelled"])
async def test_nothing_is_tried_again_once_the_grace_period_is_over(again: str) -> None:
    """A handler that answers its cancellation with an error has failed with it, for good."""
    attempts: list[int] = []
    bus = EventBus()

    async def stubborn(_: Event[Any]) -> None:
        attempts.append(1)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if again == "error":
                raise ValueError from None
            raise

    bus.subscribe(stubborn, retry=Retry(initial=0, jitter=0))
    receipt = await bus.publish("a")
    await wait_all_tasks_blocked()
    await within(bus.aclose(grace=0))
    (outcome,) = await receipt.outcomes()
    assert outcome.status == ("failed" if again == "error" else "cancelled")
    assert attempts == [1]


async def test_who_has_left_is_in_the_report() -> None:
    """The deliveries of subscriptions that are gone stay in the sums."""
    bus = EventBus()
    async with bus:
        once = bus.subscribe(lambda event: None, "a", once=True)
        with bus.subscribe(lambda event: None, "a"):
            await bus.publish_and_wait("a")
            await bus.publish("a")
    assert not once.active
    report = await bus.aclose()
    assert (report.accepted, report.handled, report.cancelled) == (3, 2, 1)


async def test_handlers_with_several_places_are_counted_under_one_name() -> None:
    """``interrupted`` and ``unstarted`` count by subscription; ``abandoned`` has a name each."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    gate = asyncio.Event()

    async def stubborn(event: Event[Any]) -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue

    bus.subscribe(stubborn, "a", name="many", concurrency=3)
    for _ in range(5):
        await bus.publish("a")
    await turns(5)
    closing = asyncio.create_task(bus.aclose(grace=1))
    await turns(1)
    clock.advance(1)
    await turns(1)
    clock.advance(1)
    report = await within(closing)
    assert (report.interrupted, report.unstarted) == ({"many": 3}, {"many": 2})
    assert report.abandoned == ("many",) * 3
    assert (report.accepted, report.cancelled) == (5, 5)
    gate.set()
    await turns(3)


async def test_a_close_that_nobody_waits_for_any_more_leaves_no_waiters() -> None:
    """However often its caller is cancelled, nothing piles up while the last second passes."""
    clock = FakeClock()
    bus = EventBus(clock=clock)
    gate = asyncio.Event()

    async def stubborn(event: Event[Any]) -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue

    bus.subscribe(stubborn, "a")
    await bus.publish("a")
    await turns(2)
    closing = asyncio.create_task(bus.aclose())
    for _ in range(20):
        await turns(2)
        closing.cancel()
    await turns(2)
    assert bus._closing is not None
    assert len(bus._closing.waiters) == 1
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await within(closing)


def _make_handler(bus: EventBus, random: Random, go: threading.Event) -> Callable[..., object]:
    async def handler(event: Event[Any]) -> None:
        for _ in range(random.choice((0, 0, 1, 3))):
            await asyncio.sleep(0)
        if event.data and random.random() < 0.7:
            try:
                await bus.publish(random.choice("ab"), event.data - 1)
            except BusClosed:
                return
        end = random.choice(("return", "return", "raise", "hang", "stubborn"))
        if end == "raise":
            raise ValueError(end)
        while end in ("hang", "stubborn") and not go.is_set():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if end == "hang":
                    raise
                if random.random() < 0.3:
                    return

    return handler


async def close_at_random(seed: int) -> CloseReport:
    """Publish, close somewhere in the middle, and let time pass in random steps."""
    random = Random(seed)
    clock = FakeClock()
    bus = EventBus(clock=clock)
    go = threading.Event()
    for _ in range(random.randint(1, 4)):
        concurrency = random.choice((1, 1, 2))
        bus.subscribe(
            _make_handler(bus, random, go),
            *random.choice((("a",), ("b",), ("a", "b"))),
            concurrency=concurrency,
            key=(lambda event: event.data) if concurrency > 1 and random.random() < 0.5 else None,
            capacity=random.choice((1, 2, 100)),
            overflow=random.choice(("block", "drop_oldest", "drop_newest")),
            retry=random.choice((None, Retry(initial=2, jitter=0))),
            timeout=random.choice((None, 3)),
        )
    stream = bus.stream("a", capacity=2)
    if random.random() < 0.5:
        await stream.__aenter__()
    publishing = [
        asyncio.create_task(bus.publish(random.choice("ab"), random.randint(0, 3)))
        for _ in range(random.randint(1, 8))
    ]
    await turns(random.randint(0, 6))
    closing = [asyncio.create_task(bus.aclose(grace=random.randint(0, 6))) for _ in range(2)]
    while not all(task.done() for task in closing):
        await turns(random.randint(1, 4))
        if random.random() < 0.1:
            random.choice(closing).cancel()
        clock.advance(random.choice((0, 0.5, 1, 2)))
    report = await bus.aclose()
    await asyncio.wait(publishing)
    accepted_events = sum(not task.cancelled() and not task.exception() for task in publishing)
    assert bus.statistics().events >= accepted_events
    assert bus.statistics().pending == report.unread
    before = bus.statistics()
    go.set()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await turns(5)
    assert bus.statistics() == before, f"seed {seed}: something changed after the close"
    return report


@pytest.mark.parametrize("batch", range(4))
async def test_a_close_at_any_moment_accounts_for_all(batch: int) -> None:
    """Random handlers, random moments, cancelled or not: the sums of the report are right."""
    reports = [
        (seed, await within(close_at_random(seed))) for seed in range(batch * 25, batch * 25 + 25)
    ]
    for seed, report in reports:
        ends = report.handled + report.failed + report.dropped + report.cancelled
        assert report.accepted == ends + report.unread, f"seed {seed}: {report}"
        assert sum(report.interrupted.values()) >= len(report.abandoned), f"seed {seed}: {report}"
        assert sum(report.unstarted.values()) <= report.cancelled, f"seed {seed}: {report}"
    assert any(report.abandoned for _, report in reports)
    assert any(report.unread for _, report in reports)


class EndsOnce(Hook):
    """A hook that ends the program the first time that it hears of something."""

    def __init__(self, what: str) -> None:
        self.what = what

    def delivery_ended(self, event: Event[Any], outcome: Outcome) -> None:
        self.hear(outcome.status)

    def log(self, line: LogLine) -> None:
        self.hear(line.name)

    def hear(self, what: str) -> None:
        if self.what == what:
            self.what = ""
            raise SystemExit(3)


@pytest.mark.parametrize("what", ["cancelled", "bus.closed"])
def test_a_close_is_finished_whatever_a_hook_does(what: str) -> None:
    """It ends the program once, in the middle of the close, which the application finishes."""
    clock, heard = FakeClock(), EndsOnce(what)
    bus, patience = EventBus(hooks=[heard], clock=clock), [True]

    async def stubborn(event: Event[Any]) -> None:
        while patience:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    bus.subscribe(stubborn, "a")
    bus.subscribe(stubborn, "a")

    async def close() -> CloseReport:
        await bus.__aenter__()
        for _ in range(2):
            await bus.publish("a")
        await turns(3)
        return await bus.aclose(grace=2)

    async def pass_time(seconds: float) -> None:
        await wait_all_tasks_blocked()
        clock.advance(seconds)
        await wait_all_tasks_blocked()

    loop = asyncio.new_event_loop()
    try:
        closing = loop.create_task(close())
        ended = False
        for _ in range(4):
            try:
                loop.run_until_complete(pass_time(2))
            except SystemExit:
                ended = True
        assert ended
        loop.run_until_complete(asyncio.wait([closing], timeout=5))
        report = closing.result()
        assert (report.accepted, report.cancelled) == (4, 4)
        assert sum(report.unstarted.values()) == 2
        assert len(report.abandoned) == 2
    finally:
        patience.clear()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(turns(5))
        loop.close()


async def test_what_a_hook_ends_while_the_grace_ends_is_not_interrupted() -> None:
    """Told that one delivery was cut off, it unsubscribes another, which waited for its retry."""
    over, clock = threading.Event(), FakeClock()

    class Leaves(Hook):
        def delivery_ended(self, event: Event[Any], outcome: Outcome) -> None:
            retried.unsubscribe()

    def fails(_: Event[Any]) -> None:
        raise ValueError

    async def waits(_: Event[Any]) -> None:
        await asyncio.Event().wait()

    bus = EventBus(hooks=[Leaves()], clock=clock)
    bus.subscribe(lambda event: over.wait(10), "a", thread=True, name="in a thread")
    retried = bus.subscribe(fails, "a", retry=Retry(initial=60))
    bus.subscribe(waits, "a", name="waits")
    await bus.__aenter__()
    await bus.publish("a")
    await turns(5)
    closing = asyncio.create_task(bus.aclose(grace=1))
    await turns(5)
    clock.advance(1)
    report = await within(closing)
    over.set()
    assert report.interrupted == {"in a thread": 1, "waits": 1}
    assert (report.cancelled, report.failed) == (2, 1)
