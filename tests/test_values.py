"""What the bus hands out are values, and what it does by default is what it says."""

from __future__ import annotations

import inspect
from typing import Any

import anyio
import pytest

from eventbus import (
    CloseReport,
    DeadLetter,
    Event,
    EventBus,
    LogLine,
    OptionError,
    Outcome,
    Statistics,
    SubscriptionStatistics,
    Topic,
)
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.helpers import within

EVENT: Event[Any] = Event("a", None)
VALUES = (
    CloseReport(0, 0, 0, 0, 0),
    DeadLetter(EVENT, "one", ValueError(), 1, 0.0),
    LogLine("bus.closed", "info"),
    Outcome("one", "handled", None, None, 1, 0.0, 0.0),
    Statistics(0, 0, 0, 0, 0, 0, 0, 0),
    SubscriptionStatistics(0, 0, 0, 0, 0, 0),
)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_is_handed_out_cannot_be_changed(value: Any) -> None:
    """Neither its fields nor others: who keeps one may rely on it."""
    for name in (*value.__match_args__, "other"):
        # A TypeError is what dataclasses with slots raise for what is no field of theirs.
        with pytest.raises((AttributeError, TypeError)):
            setattr(value, name, None)
    assert not hasattr(value, "__dict__")


@pytest.mark.parametrize(
    ("call", "option", "default"),
    [
        (EventBus.stream, "capacity", 1024),
        (EventBus.stream, "overflow", "drop_oldest"),
        (EventBus.aclose, "grace", 10.0),
        (EventBus, "dead_letters", 1000),
        (EventBus, "cascade_limit", 10_000),
        (EventBus, "cascade_depth", 1_000),
        (EventBus, "threads", 40),
    ],
)
def test_defaults_are_those_of_the_readme(call: Any, option: str, default: object) -> None:
    """To the last place: somebody has counted on them."""
    assert inspect.signature(call).parameters[option].default == default


@pytest.mark.parametrize("option", ["cascade_limit", "cascade_depth", "threads"])
def test_a_bus_that_could_do_nothing_is_refused(option: str) -> None:
    """One is the least of each; only of dead letters may there be none."""
    options: dict[str, Any] = {option: 0}
    with pytest.raises(OptionError, match=f"{option}=0"):
        EventBus(**options)
    options[option] = 1
    EventBus(**options)
    EventBus(dead_letters=0)


def test_topics_are_equal_by_name_and_model_alone() -> None:
    """Whichever of two names comes first in the alphabet."""
    one, other = Topic("a", int), Topic("b", int)
    assert one != other
    assert other != one
    assert one == Topic("a", int, description="the same")
    assert one != Topic("a", str)


async def test_times_are_differences_whatever_the_clock_shows() -> None:
    """``queued`` and ``ran`` are seconds, of a clock that has just begun as of any other."""
    clock = FakeClock(start=1.0)
    bus = EventBus(clock=clock)

    @bus.on("a")
    async def handle(event: Event[Any]) -> None:
        await anyio.Event().wait()

    subscription = bus.subscriptions[0]
    first = await bus.publish("a")
    second = await bus.publish("a")
    await wait_all_tasks_blocked()
    clock.advance(6.5)
    for task in [d.work.task for d in subscription._running_deliveries() if d.work]:
        assert task is not None
        task.cancel()
    subscription.unsubscribe()  # before the second begins
    (outcome,) = await within(first.outcomes())
    assert (outcome.status, outcome.queued, outcome.ran) == ("cancelled", 0.0, 6.5)
    (outcome,) = await within(second.outcomes())
    assert (outcome.status, outcome.queued, outcome.ran) == ("cancelled", 6.5, 0.0)


class LateClock(FakeClock):
    """A wall clock that is far behind the seconds since the start, as after it was set."""

    def time(self) -> float:
        return self.monotonic() - 5000


async def test_events_are_dated_by_the_wall_clock() -> None:
    """However that differs from the clock by which the bus waits."""
    bus = EventBus(clock=LateClock(start=6000.0))
    receipt = await bus.publish("a")
    assert receipt.event.time.timestamp() == 1000.0


async def test_a_closed_bus_that_was_entered_again_can_be_closed_again() -> None:
    """The report is the new one, and not the last."""
    bus = EventBus()
    bus.subscribe(lambda event: None)
    async with bus:
        await bus.publish("a")
    async with bus:
        await bus.publish("a")
        await bus.publish("a")
        report = await bus.aclose()
    assert (report.handled, await bus.aclose()) == (2, report)
