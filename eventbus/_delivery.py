"""A delivery: one event on its way to one subscription, from its start to its end.

A delivery is made when its handler starts, or when it ends without having run. Its ``status`` is
None while it runs, retries included, and that is the one definition of "inside a handler": what
a handler publishes is nested exactly as long as that. It holds its receipt only while it runs; an
ended delivery that some task still remembers must not keep a whole cascade in memory.

Thousands of them are in memory at once, and most end in the step in which they began, handled. So
a delivery has room for that, and for the rest a `Work`, made when it is needed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventbus._queues import Lane
    from eventbus.clock import Timer
    from eventbus.event import Event
    from eventbus.receipt import Receipt
    from eventbus.subscription import Subscription

Status = Literal["handled", "failed", "dropped", "cancelled"]
"""The four ends of a delivery."""


class Delivery:
    """One event on its way to one subscription."""

    __slots__ = ("ended", "event", "owner", "receipt", "result", "started", "status", "work")

    owner: Subscription
    event: Event[Any]
    receipt: Receipt
    """The publication it belongs to; let go of at the end."""
    status: Status | None
    started: float
    """When its first attempt began, by the bus's clock; when it ended, if it never ran."""
    ended: float
    result: Any
    """What the handler has returned; not set before."""
    work: Work | None
    """What a delivery needs that does not simply begin and return."""

    @property
    def subscription(self) -> str:
        """The subscription's name."""
        return self.owner.name

    @property
    def attempt(self) -> int:
        """Counts from 1; 0 if its handler never ran."""
        return 1 if self.work is None else self.work.attempt

    @attempt.setter
    def attempt(self, attempt: int) -> None:
        self.working().attempt = attempt

    @property
    def redelivered(self) -> bool:
        """Whether its event was delivered to this subscription before."""
        return self.work is not None and self.work.redelivered

    @property
    def error(self) -> BaseException | None:
        """What the last attempt has raised."""
        return None if self.work is None else self.work.error

    @error.setter
    def error(self, error: BaseException | None) -> None:
        if error is not None or self.work is not None:
            self.working().error = error

    @property
    def lane(self) -> Lane | None:
        """The place among its key's deliveries; None without a key."""
        return None if self.work is None else self.work.lane

    def working(self) -> Work:
        """Its ``work``, made when it is first needed."""
        if self.work is None:
            self.work = Work()
        return self.work

    def __repr__(self) -> str:
        return f"<Delivery of {self.event!r} to {self.owner.name!r}: {self.status or 'running'}>"


class Work:
    """What a delivery needs once its handler waits, has raised, is retried, or runs in a thread.

    Most need little of it: what is not written costs nothing, because the class has the defaults.
    """

    attempt = 1
    redelivered = False
    error: BaseException | None = None
    lane: Lane | None = None
    began: float | None = None
    """When the attempt that runs began; None: when the delivery did."""
    task: asyncio.Task[Any] | None = None
    """Runs the handler; None during the pause before a retry."""
    timer: Timer | None = None
    """The next of: time-out, warning that a handler does not end, end of a pause."""
    resume: Callable[[], None] | None = None
    """Set during the pause before a retry."""
    unfit = False
    """The data did not fit the handler, which did not run: no retry can mend that."""
    timed_out = False
    """The bus has cancelled the attempt because it took too long."""
    unwanted = False
    """The bus has cancelled the delivery because it is closing."""
    awaits_thread = False
    """It is to run in a thread, and has none yet."""
    in_thread = False
    """The place is in the hands of a thread, and free only when that returns."""
    waits: tuple[Wait, ...] = ()
    """What the handler waits for right now, as far as the bus can see."""

    def stop_timer(self) -> None:
        """Cancel the timer, if one is set."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Wait:
    """One thing that a handler waits for: the ends of an event's deliveries, or of all of a bus."""

    __slots__ = ("bus", "cascade", "future", "receipt")

    def __init__(
        self, *, receipt: Receipt | None = None, cascade: bool = False, bus: Any = None
    ) -> None:
        self.receipt = receipt
        self.cascade = cascade
        self.bus = bus
        self.future: asyncio.Future[None] | None = None
        """What the waiting code awaits; set for waits that can still turn out to be deadlocks."""
