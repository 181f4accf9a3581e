"""The system's clock: the one place that asks the operating system for the time."""

from __future__ import annotations

import asyncio
import time

import pytest

from eventbus import Clock, EventBus, SystemClock
from eventbus.testing import FakeClock
from tests.helpers import within


def test_the_system_clock_tells_the_operating_systems_time() -> None:
    """Both of its clocks are the operating system's."""
    clock = SystemClock()
    before = time.time(), time.monotonic()
    assert before[0] <= clock.time() <= time.time()
    assert before[1] <= clock.monotonic() <= time.monotonic()


@pytest.mark.parametrize("clock", [SystemClock(), FakeClock()])
def test_both_clocks_are_clocks(clock: Clock) -> None:
    """Both satisfy the protocol that buses ask for."""
    assert isinstance(clock, Clock)


def test_half_a_clock_is_no_clock() -> None:
    """The protocol asks for all three methods."""
    assert not isinstance(time, Clock)


async def test_the_system_clock_makes_calls_later_in_order() -> None:
    """Calls come when they are due, not within ``call_later``, and not when cancelled."""
    clock = SystemClock()
    calls: list[str] = []
    done = asyncio.Event()

    def second() -> None:
        calls.append("second")
        done.set()

    clock.call_later(0.01, second)
    clock.call_later(0, lambda: calls.append("first"))
    cancelled = clock.call_later(0, lambda: calls.append("cancelled"))
    cancelled.cancel()
    cancelled.cancel()
    assert calls == []
    await within(done.wait())
    assert calls == ["first", "second"]


def test_the_system_clock_needs_a_loop_for_calls() -> None:
    """Without a running loop there is nobody to make the call."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        SystemClock().call_later(0, lambda: None)


def test_the_system_clock_says_what_it_is() -> None:
    """Its repr is how it is made."""
    assert repr(SystemClock()) == "SystemClock()"


async def test_events_are_dated_by_the_clock_of_their_bus() -> None:
    """An event's time is the clock's wall time at the moment of acceptance."""
    clock = FakeClock(start=1_000_000_000)
    bus = EventBus(clock=clock)
    clock.advance(1.5)
    receipt = await bus.publish("a")
    assert receipt.event.time.timestamp() == 1_000_000_001.5
