"""Waiting until a bus is through, for a bounded time, and saying what is in the way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from eventbus.testing._clock import FakeClock
from eventbus.testing._describe import cut, show_pending
from eventbus.testing._loop import SimulationLoop
from eventbus.testing._record import check_bus

if TYPE_CHECKING:
    from eventbus import EventBus

SETTLE_SECONDS: Final = 5.0
"""How long `settle` waits by default."""


async def settle(bus: EventBus, *, timeout: float | None = SETTLE_SECONDS) -> None:
    """``bus.settle()``, for at most ``timeout`` seconds of real time; with None, for any time.

    In a simulation, where waiting for ever is found out at once, it waits for any time.

    Raises ``AssertionError`` when the time is over, naming what is pending and where it waits;
    ``TypeError`` for what is no bus; and what ``bus.settle()`` raises. Cancelling it changes
    nothing.
    """
    __tracebackhide__ = True
    check_bus(bus)
    if isinstance(asyncio.get_running_loop(), SimulationLoop):
        timeout = None
    try:
        async with asyncio.timeout(timeout):
            await bus.settle()
    except TimeoutError:
        assert timeout is not None
        raise AssertionError(unsettled(bus, timeout)) from None


def unsettled(bus: EventBus, timeout: float) -> str:
    """What to say of a bus that has not settled in time."""
    pending = show_pending(bus)
    if not pending:
        return f"{bus!r} did not settle within {timeout:g} s: something publishes all the time"
    return f"{bus!r} did not settle within {timeout:g} s:\n{cut(pending)}{_hint(bus._clock)}"


def _hint(clock: object) -> str:
    if not isinstance(clock, FakeClock) or clock.next_timer is None:
        return ""
    if clock.jumps:
        cure = "and has not jumped there, because something else goes on all the time"
    else:
        cure = "advance it, or let it jump with FakeClock(autojump=0.01)"
    return f"\nIts FakeClock has a timer in {clock.next_timer:g} s: {cure}"
