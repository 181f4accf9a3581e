"""A subscription: what it listens to, its options, its queue and its statistics.

At any moment it is in exactly one of four places, and `place` says which:

=========  ==========================================================================
IDLE       nothing that could be started is queued (with ``key``: the keys of all that is are busy)
READY      in the bus's line of subscriptions that have something to start
HELD       in the hands of a pump, which starts its deliveries one after the other
SATURATED  as many deliveries run as ``concurrency`` allows; the next end makes it READY or IDLE
=========  ==========================================================================
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, fields
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypedDict

from eventbus._handler import (
    Handler,
    describe_callable,
    is_coroutine_function,
    locate_callable,
)
from eventbus._queues import KeyedQueue, Lane
from eventbus.errors import OptionError
from eventbus.retry import Retry

if TYPE_CHECKING:
    from types import CodeType

    from eventbus._admission import Ticket
    from eventbus._delivery import Delivery
    from eventbus._engine import Engine
    from eventbus._payload import Payload
    from eventbus.event import Event
    from eventbus.receipt import Receipt
    from eventbus.stream import EventStream

__all__ = ["Overflow", "Subscription", "SubscriptionOptions", "SubscriptionStatistics"]

Overflow = Literal["block", "drop_oldest", "drop_newest"]
"""What a full queue does: make the publisher wait, or drop an event and count it."""

IDLE: Final = 0
READY: Final = 1
HELD: Final = 2
SATURATED: Final = 3

LISTENING: Final = 0
"""In the index: gets new events."""
LEAVING: Final = 1
"""Out of the index after its one event (``once``): gets no new events, handles what it has."""
GONE: Final = 2
"""Unsubscribed: starts nothing any more."""


class SubscriptionOptions(TypedDict, total=False):
    """The keyword options of ``subscribe`` and ``on``."""

    name: str | None
    """Unique on the bus. Default: the handler's qualified name, with a suffix if that is taken."""
    where: Callable[[Event[Any]], object] | None
    """Called for each matching event when it is published; false makes no delivery."""
    concurrency: int
    """How many deliveries may run at once. Default 1: one after the other, in order."""
    key: Callable[[Event[Any]], Hashable] | None
    """With ``concurrency`` above 1: events of equal key run one after the other, in order."""
    capacity: int
    """How many events may be queued, beside those that run. Default 1,024."""
    overflow: Overflow
    """What a full queue does. Default ``"block"``: the publisher waits."""
    timeout: float | None
    """Seconds that one attempt may take. Default: any time."""
    retry: Retry | None
    """When a failed attempt is repeated. Default: never."""
    once: bool
    """Leave the bus on accepting the first event. Default False."""
    thread: bool
    """Run the ``def`` handler in a worker thread. Default False."""


@dataclass(frozen=True, slots=True)
class Options:
    """The same, checked, with defaults filled in. One object serves all that give none."""

    name: str | None = None
    where: Callable[[Event[Any]], object] | None = None
    concurrency: int = 1
    key: Callable[[Event[Any]], Hashable] | None = None
    capacity: int = 1024
    overflow: Overflow = "block"
    timeout: float | None = None
    retry: Retry | None = None
    once: bool = False
    thread: bool = False

    def __post_init__(self) -> None:
        if self.name is not None and (not isinstance(self.name, str) or not self.name):
            raise OptionError(f"name={self.name!r}: pass a string that is not empty")
        for name in ("concurrency", "capacity"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise OptionError(f"{name}={value!r}: pass a whole number of at least 1")
        for name in ("where", "key"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise OptionError(f"{name}={value!r}: pass a function that takes the event")
            if is_coroutine_function(value):
                raise OptionError(
                    f"{name}={value!r} is async def, and nobody would await it: make it def"
                )
        if self.overflow not in ("block", "drop_oldest", "drop_newest"):
            raise OptionError(
                f"overflow={self.overflow!r}: pass 'block', 'drop_oldest' or 'drop_newest'"
            )
        check_seconds("timeout", self.timeout, optional=True, zero=False)
        if self.retry is not None and not isinstance(self.retry, Retry):
            raise OptionError(f"retry={self.retry!r}: pass a Retry, for example Retry(attempts=5)")
        for name in ("once", "thread"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name}={getattr(self, name)!r}: pass True or False")
        if self.key is not None and self.concurrency == 1:
            raise OptionError(
                "key has no use with concurrency=1, where all events are handled in order: "
                "pass concurrency=8, for example, or leave key out"
            )


def check_seconds(name: str, value: object, *, optional: bool = False, zero: bool = True) -> None:
    """Refuse what is no usable number of seconds."""
    if value is None and optional:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0 or (value == 0 and not zero):  # type: ignore[arg-type, operator]  # it is a number by then
        least = "0 or more" if zero else "above 0"
        raise OptionError(f"{name}={value!r}: pass a finite number of seconds, {least}")


DEFAULTS: Final = Options()


@dataclass(frozen=True, slots=True)
class SubscriptionStatistics:
    """The accounts of one subscription: how many deliveries it got and how they ended.

    ``accepted == handled + failed + dropped + cancelled + pending``, at every moment.
    """

    accepted: int
    handled: int
    failed: int
    dropped: int
    cancelled: int
    pending: int
    """Queued, running, or waiting for a retry."""


class Subscription:
    """What ``subscribe`` returns: the handle to one handler on one bus.

    As a context manager it unsubscribes when the block ends.
    """

    __slots__ = (
        "__weakref__",
        "_active",
        "_base_name",
        "_direct",
        "_due",
        "_full",
        "_is_async",
        "_line",
        "_name",
        "_options",
        "_payload",
        "_place",
        "_queue",
        "_reader",
        "_running",
        "_site",
        "_standing",
        "_suffix",
        "accepted",
        "bus",
        "cancelled",
        "capacity",
        "concurrency",
        "dropped",
        "failed",
        "handled",
        "handler",
        "number",
        "patterns",
        "plain",
    )

    def __init__(  # noqa: PLR0917 - called in one place
        self,
        bus: Engine,
        number: int,
        patterns: tuple[str, ...],
        handler: Handler,
        options: Options,
        name: tuple[str, int],
        site: tuple[CodeType, int] | None,
        reader: EventStream[Any] | None = None,
    ) -> None:
        self.bus = bus
        self.number = number
        """The order of subscription on the bus."""
        self.patterns = patterns
        self._base_name, self._suffix = name
        self._name: str | None = None
        self._site = site
        self._options = options
        self.handler: Callable[[Event[Any]], Any] = handler.call
        """The callable, as it was given."""
        self._is_async = handler.is_async
        self._payload: Payload | None = handler.payload
        self._reader = reader
        """The stream that reads this queue in the place of a handler."""
        self.capacity = options.capacity
        self.concurrency = options.concurrency

        self.plain = not (options.where or options.key or options.once or reader)
        """Accepting an event takes no call to the application and no change of the index."""
        self._direct = not (options.key or options.thread or bus._observers)
        """Deliveries need nothing before the handler but their data, and nothing after it."""

        self._queue: deque[Receipt] | KeyedQueue | None = None
        """Made at the first event: an empty deque alone is larger than the rest of this object."""
        self._full = False
        """The queue has reached its capacity; the bus keeps count of those."""
        self._place = IDLE
        self._standing = LISTENING
        self._running = 0
        """Deliveries that have a place: their handlers wait, or pause before a retry, or a thread
        has not returned. One that a pump is stepping through right now is counted by the bus."""
        self._active: dict[Delivery, None] | None = None
        """Those, without the ended ones of threads. Made when a handler waits: so None says also
        that the next one is not expected to. None only if no place is taken, and nothing is due."""
        self._due: deque[Delivery] | None = None
        """Those whose pause is over, for the next attempt."""
        self._line: list[Ticket] | None = None

        self.accepted = 0
        self.handled = 0
        self.failed = 0
        self.dropped = 0
        self.cancelled = 0

    # What the application sees.

    @property
    def name(self) -> str:
        """Unique among the bus's subscriptions."""
        name = self._name
        if name is None:
            name = self._base_name if self._suffix == 1 else f"{self._base_name}#{self._suffix}"
            self._name = name
        return name

    @property
    def active(self) -> bool:
        """Whether new events may still come."""
        return self._standing == LISTENING

    def unsubscribe(self) -> None:
        """Leave the bus. Idempotent.

        No new call starts after it has returned; a handler that is running goes on to its end. What
        was queued ends *cancelled*, what waited for a retry ends *failed* with its last error.
        """
        self.bus._unsubscribe(self)

    def statistics(self) -> SubscriptionStatistics:
        """The subscription's accounts, as of now.

        May be read in any thread. Outside the bus's own, which changes them meanwhile, an event
        may be in some of the numbers and not yet in the others.
        """
        pending = self.pending
        return SubscriptionStatistics(
            self.accepted, self.handled, self.failed, self.dropped, self.cancelled, pending
        )

    def options(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        return {
            field.name: getattr(self._options, field.name)
            for field in fields(Options)
            if field.name != "name" and getattr(self._options, field.name) != field.default
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.unsubscribe()

    def __repr__(self) -> str:
        patterns = ", ".join(map(repr, self.patterns))
        state = "" if self.active else ", left"
        return f"<Subscription {self.name!r} to {patterns}: {self.pending} pending{state}>"

    # What the bus uses.

    @property
    def location(self) -> str:
        """``file:line`` of the handler."""
        return locate_callable(self.handler)

    @property
    def registered(self) -> str:
        """``file:line`` of the call that subscribed it."""
        return "" if self._site is None else f"{self._site[0].co_filename}:{self._site[1]}"

    @property
    def overflow(self) -> Overflow:
        """What its full queue does."""
        return self._options.overflow

    @property
    def pending(self) -> int:
        """Deliveries that have not ended: counted from where they are, not from the other sums."""
        self.bus._look()
        stepped = 0 if self._stepped() is None else 1
        return len(self._queue or ()) + len(self._active or ()) + stepped

    @property
    def _occupied(self) -> int:
        """Places taken: `running`, and the delivery that a pump is stepping through."""
        return self._running + (1 if self._stepped() is not None else 0)

    def _stepped(self) -> Delivery | None:
        stepping = self.bus._stepping
        if stepping is None or stepping.owner is not self or stepping.status is not None:
            return None
        active = self._active  # read once: it may be another thread that asks
        return None if active and stepping in active else stepping

    def _running_deliveries(self) -> Iterator[Delivery]:
        """All that have started and not ended, pauses before a retry included."""
        stepped = self._stepped()
        if stepped is not None:
            yield stepped
        yield from self._active or ()

    def _keep(self, delivery: Delivery) -> None:
        """The delivery takes a place: it is more than one step long."""
        active = self._active
        if active is None:
            active = self._active = {}
        if delivery not in active:
            active[delivery] = None
            self._running += 1

    def _lane_of(self, receipt: Receipt) -> Lane | None:
        """The lane in which a queued event stands; None without ``key``."""
        return self._queue.lane_of(receipt) if isinstance(self._queue, KeyedQueue) else None

    def _new_queue(self) -> deque[Receipt] | KeyedQueue:
        """Make the queue, at the first event."""
        queue: deque[Receipt] | KeyedQueue = deque() if self._options.key is None else KeyedQueue()
        if self._queue is None:  # else a finalizer has published meanwhile
            self._queue = queue
        return self._queue

    def _has_work(self) -> bool:
        """Whether a delivery could be started right now."""
        if self._due:
            return True
        queue = self._queue
        if not queue or self._running >= self.concurrency or self._reader is not None:
            return False
        return not isinstance(queue, KeyedQueue) or queue.ready

    def _describe(self) -> str:
        """The name for log lines and tables: what runs, and where it is written."""
        return f"{describe_callable(self.handler)} ({self.location})"
