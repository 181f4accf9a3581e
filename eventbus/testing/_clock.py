"""A clock that stands still until a test moves it."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class _FakeTimer:
    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FakeClock:
    """Time for ``EventBus(clock=…)`` that passes only in ``advance``.

    Both clocks begin at ``start``, in seconds; as a wall clock that is a moment in UNIX time.

    >>> clock = FakeClock(start=1_000_000_000)
    >>> timer = clock.call_later(3600, lambda: print("an hour later"))
    >>> clock.advance(3599)
    >>> clock.advance(1)
    an hour later
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = start
        self._timers: list[tuple[float, int, _FakeTimer]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        """The wall clock, in seconds since 1970-01-01T00:00:00Z."""
        return self._now

    def monotonic(self) -> float:
        """The same number: here the wall clock never jumps."""
        return self._now

    def call_later(self, delay: float, callback: Callable[[], object]) -> _FakeTimer:
        """Call ``callback()`` inside the ``advance`` that reaches now plus ``delay`` seconds."""
        timer = _FakeTimer(self._now + max(delay, 0), callback)
        heapq.heappush(self._timers, (timer.when, next(self._numbers), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass, and make the calls that fall due, in order, each at its own moment.

        What those calls set in motion (a handler that is cancelled, a retry) runs when the event
        loop next has a turn: follow with ``await anyio.wait_all_tasks_blocked()``.
        """
        if seconds < 0:
            raise ValueError(f"seconds={seconds!r}: time does not go back")
        end = self._now + seconds
        while self._timers and self._timers[0][0] <= end:
            when, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, when)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
        self._now = max(self._now, end)  # a call may itself have advanced further

    @property
    def next_timer(self) -> float | None:
        """Seconds until the next call is due; None if none is set."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return None if not self._timers else max(self._timers[0][0] - self._now, 0.0)

    def __repr__(self) -> str:
        return f"<FakeClock at {self._now}>"
