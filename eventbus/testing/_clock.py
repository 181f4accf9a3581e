"""A clock that stands still until a test moves it, or until nothing else moves."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import heapq
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Final

from eventbus._state import every_bus
from eventbus.testing._blocked import QUIET_TURNS, blocked, is_for_thread
from eventbus.testing._record import check_bus

if TYPE_CHECKING:
    from eventbus import EventBus
    from eventbus._engine import Engine
    from eventbus.testing._blocked import Waits

AUTOJUMP_SECONDS: Final = 0.01
"""What `fake_time` and the fixture ``fake_clock`` wait before a jump. Real time, so that a file or
a socket of this machine can answer."""

THREAD_SECONDS: Final = 1.0
"""How long time stands still for whoever waits for a thread: real time too."""

LOOK_SECONDS: Final = 0.001
"""How often, in real time, it is looked whether everything still waits."""


class _FakeTimer:
    """A call to be made on the event loop that ran when it was set; without one, anywhere."""

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback: Callable[[], object] | None = callback
        self.loop = _running_loop()
        self._context = copy_context()  # as a loop's own timers have it

    def cancel(self) -> None:
        self.callback = None

    @property
    def is_dead(self) -> bool:
        """Whether the call will never be made: it is cancelled, or its loop is closed."""
        return self.callback is None or (self.loop is not None and self.loop.is_closed())

    @property
    def is_elsewhere(self) -> bool:
        """Whether its loop runs in another thread."""
        return self.loop is not None and self.loop.is_running() and self.loop is not _running_loop()

    def call(self) -> None:
        """Make the call, and return when it is made."""
        if not self.is_elsewhere:
            if not self.is_dead:
                self._context.run(self._call)
            return
        assert self.loop is not None
        called: concurrent.futures.Future[None] = concurrent.futures.Future()
        with contextlib.suppress(RuntimeError):  # the loop was closed just now
            self.loop.call_soon_threadsafe(self._call_for, called, context=self._context)
        if _running_loop() is not None:
            return  # two loops must not wait for each other
        while concurrent.futures.wait([called], timeout=LOOK_SECONDS).not_done:
            if not self.loop.is_running():
                break
        if called.done():
            called.result()

    def _call(self) -> None:
        callback, self.callback = self.callback, None
        if callback is not None:
            callback()

    def _call_for(self, called: concurrent.futures.Future[None]) -> None:
        try:
            self._call()
        except BaseException as error:
            called.set_exception(error)
        else:
            called.set_result(None)


class FakeClock:
    """Time for ``EventBus(clock=…)`` that passes in ``advance``, or in jumps.

    Both of its clocks begin at ``start``, in seconds; as a wall clock that is a moment in UNIX
    time. By default only ``advance`` moves them. With ``autojump=0.01``, time also jumps to the
    next timer once every task of the event loop has waited for 0.01 s of real time without
    anything happening: then a test awaits an outcome, and an hour of retries takes milliseconds.
    A handler that waits for the real world (a socket, ``asyncio.sleep``) longer than that is taken
    to wait for ever; one that works in a thread (``thread=True``, ``asyncio.to_thread``, anyio's)
    gets a second. A task that polls more often than that keeps time standing still.

    Buses on several event loops, in several threads, may share one: each call is made on the loop
    on which it was set, and time jumps to it when that loop waits.

    >>> clock = FakeClock(start=1_000_000_000)
    >>> timer = clock.call_later(3600, lambda: print("an hour later"))
    >>> clock.advance(3599)
    >>> clock.advance(1)
    an hour later

    Raises ``ValueError`` for an ``autojump`` that is no number of seconds, 0 or more.
    """

    def __init__(self, start: float = 1_700_000_000.0, *, autojump: float | None = None) -> None:
        if autojump is not None and not (math.isfinite(autojump) and autojump >= 0):
            raise ValueError(f"autojump={autojump!r}: pass seconds of real time, 0 or more")
        self._now = start
        self._timers: list[tuple[float, int, _FakeTimer]] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        """Of the three above: a test may move the clock of a bus in another thread."""
        self._autojump = autojump
        self._lookouts: dict[asyncio.AbstractEventLoop, _Lookout] = {}

    def time(self) -> float:
        """The wall clock, in seconds since 1970-01-01T00:00:00Z."""
        return self._now

    def monotonic(self) -> float:
        """The same number: here the wall clock never jumps."""
        return self._now

    def call_later(self, delay: float, callback: Callable[[], object]) -> _FakeTimer:
        """Call ``callback()`` in the jump or ``advance`` that gets ``delay`` seconds further.

        It is called on the event loop that runs now, if one does.
        """
        with self._lock:
            timer = _FakeTimer(self._now + max(delay, 0), callback)
            heapq.heappush(self._timers, (timer.when, next(self._numbers), timer))
        if self._autojump is not None and timer.loop is not None:
            self._look_out(timer.loop, self._autojump)
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass, and make the calls that fall due, in order, each at its own moment.

        What those calls set in motion (a handler that is cancelled, a retry) runs when the event
        loop next has a turn: follow with ``await wait_all_tasks_blocked()``. For a loop that runs
        in another thread it returns once the calls are made there, unless a loop runs here too.

        Raises ``ValueError`` if time would go back, and what a call raises: time has then come to
        that call, and ``advance`` can go on from there.
        """
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"seconds={seconds!r}: pass 0 or more; time does not go back")
        self._advance_to(self._now + seconds)

    def jump(self) -> bool:
        """Let time pass until the next call is due, and make it. False if none is set."""
        timer = self._next()
        if timer is None:
            return False
        self._advance_to(timer.when)
        return True

    @property
    def next_timer(self) -> float | None:
        """Seconds until the next call is due; None if none is set."""
        timer = self._next()
        return None if timer is None else max(timer.when - self._now, 0.0)

    @property
    def jumps(self) -> bool:
        """Whether time jumps by itself."""
        return self._autojump is not None

    def _advance_to(self, end: float) -> None:
        while True:
            with self._lock:
                if not self._timers or self._timers[0][0] > end:
                    self._now = max(self._now, end)  # a call may itself have advanced further
                    return
                when, _, timer = heapq.heappop(self._timers)
                self._now = max(self._now, when)
            timer.call()

    def _next(self) -> _FakeTimer | None:
        with self._lock:
            while self._timers and self._timers[0][2].is_dead:
                heapq.heappop(self._timers)
            return self._timers[0][2] if self._timers else None

    def _look_out(self, loop: asyncio.AbstractEventLoop, patience: float) -> None:
        if loop not in self._lookouts:
            for closed in [each for each in self._lookouts if each.is_closed()]:
                del self._lookouts[closed]
            lookout = self._lookouts[loop] = _Lookout(self, loop, patience)
            loop.call_soon(lookout.look, context=Context())

    def __repr__(self) -> str:
        return f"<FakeClock at {self._now}>"


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class _Lookout:
    """Looks on one event loop, as long as a timer is set, whether it is time for a jump."""

    def __init__(self, clock: FakeClock, loop: asyncio.AbstractEventLoop, patience: float) -> None:
        self.clock = clock
        self.loop = loop
        self._patience = patience
        self._waits: Waits | None = None
        """What the tasks waited for at the last look."""
        self._turns = 0
        """For how many looks that has been the same."""
        self._since = loop.time()
        """Since when."""

    def look(self) -> None:
        """Jump if everything has waited for long enough, and look again later."""
        timer = self.clock._next()
        if timer is None:
            del self.clock._lookouts[self.loop]
            return
        waits = blocked(self.loop)
        if waits is None or waits != self._waits:
            self._waits, self._turns, self._since = waits, 0, self.loop.time()
        else:
            self._turns += 1
        if self._turns < QUIET_TURNS:
            self.loop.call_soon(self.look)
        elif timer.is_elsewhere or not self._has_waited_enough():
            self.loop.call_later(LOOK_SECONDS, self.look)
        else:
            self._waits = None
            self.loop.call_soon(self.look)
            self.clock.jump()

    def _has_waited_enough(self) -> bool:
        waited = self.loop.time() - self._since
        return waited >= self._patience and waited >= self._needed()

    def _needed(self) -> float:
        """For how many seconds everything must have waited."""
        buses: list[Engine] = [
            bus for bus in every_bus() if bus._clock is self.clock and bus._loop is self.loop
        ]
        if any(bus._pumps for bus in buses):
            return math.inf  # it rests for a moment after a cancellation, and then goes on
        if any(map(_in_threads, buses)) or is_for_thread(self._waits or frozenset()):
            return max(self._patience, THREAD_SECONDS)
        return self._patience


def _in_threads(bus: Engine) -> bool:
    """Whether a handler of the bus is at work in a thread."""
    return any(
        delivery.work is not None and delivery.work.in_thread
        for subscription in bus._all_subscriptions()
        for delivery in subscription._running_deliveries()
    )


@contextlib.contextmanager
def fake_time(
    *buses: EventBus, start: float = 1_700_000_000.0, autojump: float | None = AUTOJUMP_SECONDS
) -> Iterator[FakeClock]:
    """Give buses that the application owns a `FakeClock` while the block runs.

    Time jumps by itself, unless ``autojump=None``. The buses must be idle at both ends of the
    block: what waits by one clock is never due by another.

    >>> from eventbus import EventBus
    >>> bus = EventBus()
    >>> with fake_time(bus) as clock:
    ...     clock.advance(3600)

    Raises ``TypeError`` for what is no bus, and ``RuntimeError`` if a bus has something pending on
    entering, where nothing is changed then, or on leaving.
    """
    clock = FakeClock(start, autojump=autojump)
    for bus in buses:
        check_bus(bus)
    _check_idle(buses, "before the block")
    before = [bus._clock for bus in buses]
    for bus in buses:
        bus._set_clock(clock)
    try:
        yield clock
        _check_idle(buses, "in the block")
    finally:
        for bus, old in zip(buses, before, strict=True):
            bus._set_clock(old)


def _check_idle(buses: Iterable[EventBus], when: str) -> None:
    for bus in buses:
        if not bus._is_drained() or bus._tickets:
            raise RuntimeError(
                f"{bus!r}: its clock can be changed only when nothing is pending; "
                f"'await settle(bus)' {when}"
            )
