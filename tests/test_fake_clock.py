"""``FakeClock``: time that passes only in ``advance``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from eventbus import Event, EventBus, HandlerTimeout, Retry
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.helpers import within


def test_it_stands_still_until_it_is_moved() -> None:
    """Both clocks begin at ``start`` and move by what ``advance`` is given."""
    clock = FakeClock(start=100)
    assert (clock.time(), clock.monotonic()) == (100, 100)
    assert (clock.time(), clock.monotonic()) == (100, 100)
    clock.advance(2.5)
    clock.advance(0)
    assert (clock.time(), clock.monotonic()) == (102.5, 102.5)
    assert repr(clock) == "<FakeClock at 102.5>"


def test_time_does_not_go_back() -> None:
    """``advance`` refuses a negative time and changes nothing."""
    clock = FakeClock(start=100)
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)
    assert clock.monotonic() == 100


def noted(clock: FakeClock, calls: list[tuple[str, float]], name: str) -> Callable[[], None]:
    return lambda: calls.append((name, clock.monotonic()))


def test_calls_come_in_order_each_at_its_own_moment() -> None:
    """Due calls run inside ``advance``, by time and then by age, at the time they asked for."""
    clock = FakeClock(start=0)
    calls: list[tuple[str, float]] = []
    clock.call_later(3, noted(clock, calls, "c"))
    clock.call_later(1, noted(clock, calls, "a"))
    clock.call_later(1, noted(clock, calls, "b"))
    clock.call_later(10.5, noted(clock, calls, "not yet"))
    assert calls == []
    clock.advance(0.999)
    assert calls == []
    clock.advance(9.5)
    assert calls == [("a", 1), ("b", 1), ("c", 3)]
    assert clock.monotonic() == 10.499


def test_a_call_that_is_due_at_once_waits_for_the_next_advance() -> None:
    """No call is made within ``call_later``, however small or negative its delay."""
    clock = FakeClock(start=0)
    calls: list[tuple[str, float]] = []
    clock.call_later(0, noted(clock, calls, "zero"))
    clock.call_later(-5, noted(clock, calls, "negative"))
    assert calls == []
    clock.advance(0)
    assert calls == [("zero", 0), ("negative", 0)]


def test_a_call_may_set_another_for_the_same_advance() -> None:
    """What a call sets for a moment that the same ``advance`` reaches is called in it."""
    clock = FakeClock(start=0)
    calls: list[tuple[str, float]] = []

    def again() -> None:
        calls.append(("again", clock.monotonic()))
        clock.call_later(2, again)

    clock.call_later(2, again)
    clock.advance(6)
    assert calls == [("again", 2), ("again", 4), ("again", 6)]
    assert clock.next_timer == 2


def test_cancelled_calls_are_not_made() -> None:
    """Cancelling is idempotent, and harmless after the call and within another one."""
    clock = FakeClock(start=0)
    calls: list[tuple[str, float]] = []
    first = clock.call_later(1, noted(clock, calls, "first"))
    second = clock.call_later(2, noted(clock, calls, "second"))
    third = clock.call_later(2, noted(clock, calls, "third"))
    clock.call_later(1, third.cancel)
    second.cancel()
    second.cancel()
    clock.advance(5)
    first.cancel()
    assert calls == [("first", 1)]


def test_the_next_timer_is_told_in_seconds() -> None:
    """``next_timer`` passes over cancelled calls; without any it is None."""
    clock = FakeClock(start=50)
    assert FakeClock().next_timer is None
    soon = clock.call_later(3, lambda: None)
    clock.call_later(7, lambda: None)
    assert clock.next_timer == 3
    soon.cancel()
    assert clock.next_timer == 7
    clock.advance(5)
    assert clock.next_timer == 2
    clock.advance(2)
    assert clock.next_timer is None


def test_a_call_that_raises_leaves_the_clock_usable() -> None:
    """The error leaves ``advance`` at that moment; the next ``advance`` goes on from there."""
    clock = FakeClock(start=0)
    calls: list[tuple[str, float]] = []

    def fail() -> None:
        raise ZeroDivisionError

    clock.call_later(1, fail)
    clock.call_later(2, noted(clock, calls, "second"))
    with pytest.raises(ZeroDivisionError):
        clock.advance(5)
    assert clock.monotonic() == 1
    clock.advance(1)
    assert calls == [("second", 2)]


def test_an_advance_within_a_call_is_not_undone() -> None:
    """A call that itself advances the clock moves it; time never goes back."""
    clock = FakeClock(start=0)
    seen: list[float] = []
    clock.call_later(1, lambda: clock.advance(10))
    clock.call_later(2, lambda: seen.append(clock.monotonic()))
    clock.advance(3)
    assert seen == [2]
    assert clock.monotonic() == 11


async def test_a_bus_waits_by_it() -> None:
    """Time-outs and pauses before retries pass when the test says so, and not before."""
    clock = FakeClock()
    attempts: list[float] = []
    start = clock.monotonic()

    async def hang(_: Event[Any]) -> None:
        attempts.append(clock.monotonic() - start)
        await anyio.sleep_forever()

    bus = EventBus(clock=clock)
    bus.subscribe(hang, timeout=30, retry=Retry(attempts=2, initial=50, jitter=0))
    receipt = await bus.publish("a")
    await wait_all_tasks_blocked()
    assert clock.next_timer == 30
    clock.advance(30)
    await wait_all_tasks_blocked()
    assert clock.next_timer == 50
    clock.advance(50)
    await wait_all_tasks_blocked()
    clock.advance(30)
    (outcome,) = await within(receipt.outcomes())
    assert attempts == [0, 80]
    assert isinstance(outcome.error, HandlerTimeout)
    assert (outcome.attempts, outcome.ran) == (2, 110)
    assert clock.next_timer is None
