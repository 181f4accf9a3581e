"""What "now" and "wait" mean. The one place that asks the operating system for the time.

A bus reads its clock when an event is accepted and when a handler begins and ends, and sets its
timers (time-outs, retries, grace periods, warnings) through it. A test that gives the bus a
clock of its own, such as ``eventbus.testing.FakeClock``, therefore never has to wait.
"""

from __future__ import annotations

import asyncio
import time as _time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

__all__ = ["Clock", "SystemClock", "Timer"]


class Timer(Protocol):
    """A call that a clock will make, unless it is cancelled before."""

    def cancel(self) -> None:
        """Do not make the call. Idempotent, and harmless once the call was made."""


@runtime_checkable
class Clock(Protocol):
    """Tells the time and makes calls later.

    ``monotonic`` never goes back, and only differences of it mean something. ``time`` may jump,
    as computers' clocks do when they are set. A bus keeps the bound method ``monotonic``.
    """

    def time(self) -> float:
        """The wall clock: seconds since 1970-01-01T00:00:00Z."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed moment."""
        ...

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Call ``callback()`` on the running event loop, ``delay`` seconds from now.

        Called only while an event loop runs in this thread. The callback is never called
        before ``call_later`` has returned.
        """
        ...


class SystemClock:
    """The operating system's clocks, and the running event loop's timers."""

    __slots__ = ()

    # Builtins are not bound to the instance: calling them costs no Python frame.
    time = staticmethod(_time.time)
    monotonic = staticmethod(_time.monotonic)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Call ``callback()`` on the running event loop, ``delay`` seconds from now."""
        return asyncio.get_running_loop().call_later(delay, callback)

    def __repr__(self) -> str:
        return "SystemClock()"
