"""Closing a bus: drain, then cancel, then give up, each by its time.

Made of callbacks, so that a cancelled ``aclose`` leaves no task behind: `drained` is called by the
bus when nothing is pending any more, the others by the clock::

    begin ──> drained ───────────────────────────────> finish
      └─ grace is over ──> expire ──> drained ───────> finish
                             └─ a second later ──> abandon ──> finish
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from eventbus import _admission, _ends, _registration
from eventbus._state import COUNTS
from eventbus.receipt import wake

if TYPE_CHECKING:
    from eventbus._delivery import Delivery
    from eventbus._engine import Engine
    from eventbus.clock import Timer
    from eventbus.subscription import Subscription

__all__ = ["CloseReport"]

LAST_SECOND = 1.0
"""How long cancelled handlers have to end, in seconds."""


@dataclass(frozen=True, slots=True)
class CloseReport:
    """What became of the deliveries since the bus was made, or last closed.

    ``accepted == handled + failed + dropped + cancelled + unread + stored``.
    """

    accepted: int
    handled: int
    failed: int
    dropped: int
    cancelled: int
    unread: int = 0
    """In streams, for their readers to take after the close. The next report counts them again."""
    stored: int = 0
    """Left in the durable store for the next start."""
    interrupted: Mapping[str, int] = field(default_factory=dict)
    """By subscription: handlers that still ran after the grace period, and were cancelled."""
    unstarted: Mapping[str, int] = field(default_factory=dict)
    """By subscription: deliveries that were still queued then, and were cancelled."""
    abandoned: tuple[str, ...] = ()
    """Subscriptions of handlers that did not end within a second of being cancelled."""


class Closing:
    """One close, from its begin to its report."""

    def __init__(self, bus: Engine, grace: float) -> None:
        self.bus = bus
        self.grace = grace
        self.report: CloseReport | None = None
        self.expired = False
        self.waiters: list[asyncio.Future[None]] = []
        self._timer: Timer | None = None
        self._interrupted: Counter[str] = Counter()
        self._unstarted: Counter[str] = Counter()
        self._abandoned: list[str] = []

    def begin(self) -> None:
        """Refuse outsiders, and wait for what is pending."""
        _admission.refuse_all(self.bus)
        if self.bus._is_drained():
            self.finish()
        else:
            self._timer = self.bus._clock.call_later(self.grace, self.expire)

    def drained(self) -> None:
        """Nothing is pending any more."""
        self.finish()

    def expire(self) -> None:
        """The grace period is over, or nobody will wait for it: cancel what is left."""
        if self.expired or self.report is not None:
            return
        self.expired = True
        self._stop_timer()
        everybody = self.bus._all_subscriptions()
        try:  # a hook that ends the program does so once all is cancelled
            _ends.tell_all(
                [partial(self._cancel_queue, each) for each in everybody]
                + [partial(self._interrupt, each) for each in self._running()]
            )
        finally:
            if self.report is None:
                if self.bus._is_drained():
                    self.finish()
                else:
                    self._timer = self.bus._clock.call_later(LAST_SECOND, self.abandon)

    def _cancel_queue(self, subscription: Subscription) -> None:
        if subscription._reader is None and subscription._queue:
            self._unstarted[subscription.name] += len(subscription._queue)
            tell = _registration.cancel_queued(subscription)
            self.bus._resume()
            _ends.tell_all(tell)

    def _interrupt(self, delivery: Delivery) -> None:
        if delivery.status is None:  # else a hook has unsubscribed it just now
            self._interrupted[delivery.subscription] += 1
            _ends.cancel_for_good(delivery)

    def abandon(self) -> None:
        """What has not ended by now is counted as cancelled and changes nothing when it ends."""
        self._timer = None
        running = self._running()
        self._abandoned += [delivery.subscription for delivery in running]
        try:
            _ends.tell_all([partial(_ends.end, each, "cancelled") for each in running])
        finally:
            if self.report is None:
                self.finish()

    def finish(self) -> None:
        """Write the report and wake who waits for it."""
        self._stop_timer()
        before, now = self.bus._totals_at_close, self.bus._totals()
        self.report = CloseReport(
            **{name: now[name] - before[name] for name in COUNTS},
            unread=self.bus._unread_in_streams(),
            interrupted=dict(self._interrupted),
            unstarted=dict(self._unstarted),
            abandoned=tuple(self._abandoned),
        )
        try:
            self.bus._closed(self.report)
        finally:  # a log hook that ends the program leaves nobody waiting
            for waiter in self.waiters:
                wake(waiter)

    async def wait(self, *, hurry: bool) -> CloseReport:
        """Wait for the report.

        Cancelled, it raises at once; with ``hurry`` it first cuts the close short and ends it.
        """
        cancelled: asyncio.CancelledError | None = None
        while self.report is None:
            future = asyncio.get_running_loop().create_future()
            self.waiters.append(future)
            try:
                await future
            except asyncio.CancelledError as error:
                if not hurry:
                    raise
                cancelled = error
                self.expire()
            finally:
                self.waiters.remove(future)
        if cancelled is not None:
            raise cancelled
        return self.report

    def _running(self) -> list[Delivery]:
        return [
            delivery
            for subscription in self.bus._all_subscriptions()
            for delivery in subscription._running_deliveries()
        ]

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
