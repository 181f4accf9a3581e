"""What a bus keeps: every field of an engine, in one place.

They are slots, because a bus has more fields than the interpreter handles well in an instance
dictionary (30, in CPython 3.11), and publishing reads twenty. `EventBus` itself has a dictionary
beside them, for what applications and their tests hang on a bus.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from eventbus._index import Index
from eventbus._names import Names
from eventbus._state import COUNTS, State, serials
from eventbus.dead_letters import DeadLetters
from eventbus.instrumentation import Hook, Log, observers

if TYPE_CHECKING:
    from types import CodeType

    from eventbus._admission import Ticket
    from eventbus._closing import CloseReport, Closing
    from eventbus._delivery import Delivery
    from eventbus._pump import PumpTask
    from eventbus._threads import ThreadLimit
    from eventbus.catalog import Catalog
    from eventbus.clock import Clock, Timer
    from eventbus.dead_letters import DeadLetter
    from eventbus.receipt import Receipt
    from eventbus.stream import EventStream
    from eventbus.subscription import Subscription


def _random() -> float:
    """From 0 to 1, for the jitter of retries; imported when the first one needs it."""
    import random

    return random.random()


def _tell_accepted(log: Log, hook: Hook, receipt: Receipt, deliveries: int) -> None:
    log.call(hook.accepted, receipt.event, deliveries)


class Fields:
    """The state of one bus."""

    __slots__ = (
        "__weakref__",
        "_apart_until",
        "_barred",
        "_burying",
        "_cascade_depth",
        "_cascade_limit",
        "_catalog",
        "_clock",
        "_closing",
        "_events",
        "_failure_witnesses",
        "_full",
        "_index",
        "_judging",
        "_last_loop",
        "_last_report",
        "_left",
        "_log",
        "_loop",
        "_monotonic",
        "_names",
        "_numbers",
        "_observe",
        "_observers",
        "_open",
        "_pump_context",
        "_pumps",
        "_random",
        "_ready",
        "_retired",
        "_returning",
        "_room_timer",
        "_round",
        "_serial",
        "_settlers",
        "_sites",
        "_source",
        "_spare",
        "_state",
        "_stepping",
        "_streams",
        "_strict",
        "_stuck_threads",
        "_takers",
        "_thread",
        "_thread_limit",
        "_threads",
        "_tickets",
        "_totals_at_close",
        "_unhandled",
        "_unturned",
        "_wall",
        "_warned",
        "_witnesses",
        "dead_letters",
        "name",
    )

    def __init__(
        self,
        *,
        name: str,
        source: str,
        catalog: Catalog | None,
        strict: bool,
        clock: Clock,
        hooks: Iterable[Hook],
        dead_letters: int,
        cascade_limit: int,
        cascade_depth: int,
        threads: int,
    ) -> None:
        self.name = name
        self.dead_letters = DeadLetters(dead_letters)
        """Deliveries that failed for good, oldest first."""
        self._source = source
        self._catalog = catalog
        self._strict = strict
        self._set_clock(clock)
        self._random = _random
        self._cascade_limit = cascade_limit
        self._cascade_depth = cascade_depth
        self._threads = threads

        hooks = tuple(hooks)
        self._log = Log(name, hooks)
        self._observe = self._log.call
        self._witnesses: tuple[Callable[[Receipt, int], object], ...] = tuple(
            partial(_tell_accepted, self._log, hook) for hook in observers(hooks, "accepted")
        )
        """Told of each publication and of how many deliveries it has, once it is accepted."""
        self._failure_witnesses: tuple[
            Callable[[DeadLetter, Subscription, Receipt], object], ...
        ] = ()
        """Told of each delivery that failed for good, after the log. They do not raise."""
        self._observers = observers(hooks, "attempt_started", "attempt_ended", "delivery_ended")

        self._index: Index[Subscription] = Index()
        self._names = Names()
        self._numbers = 0
        self._sites: dict[tuple[CodeType, int], tuple[CodeType, int]] = {}
        """Where the application has subscribed: each place once, as `_registration` wants it."""
        self._warned: set[str] = set()
        self._burying = False
        """The loop was lost: one line in the log tells it for all that was pending there."""
        self._left: dict[Subscription, None] = {}
        """Subscriptions out of the index that still have something pending."""
        self._state = State.OPEN
        self._barred = False
        """Somebody may not publish: `_refuse` knows who."""
        self._last_report: CloseReport | None = None
        self._last_loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._returning = 0
        """Publishers that wait for the end of the current turn of the loop, and go on then."""
        self._serial = next(serials)
        """The order in which buses were made."""
        self._start_empty()

    def _set_clock(self, clock: Clock) -> None:
        self._clock = clock
        self._monotonic = clock.monotonic

    def _start_empty(self) -> None:
        """Nothing pending, no loop."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._thread_limit: ThreadLimit | None = None
        self._stuck_threads = 0
        """Threads at work for deliveries that have ended. They still have their places."""
        self._wall = 0.0
        """What to add to the monotonic clock's time to get UNIX time, in seconds."""
        self._pump_context = Context()
        self._ready: deque[Subscription] = deque()
        self._round: Receipt | None = None
        """An event that is handed round: it is in no queue, though it counts as queued, because a
        pump will give it to one subscription after the other, who have nothing else to do. Whatever
        looks at queues, or changes them, lets it be dealt out first."""
        self._takers: Iterator[Subscription] = iter(())
        """Who has not been given it yet."""
        self._pumps = 0
        """Pumps that are scheduled, or that a timer will start after a rest."""
        self._open = 0
        """Publications with deliveries that have not ended."""
        self._full = 0
        """Subscriptions whose queue has reached its capacity."""
        self._unturned = 0
        """Events accepted since the loop last had a turn, as far as the bus knows."""
        self._spare: PumpTask | None = None
        """A pump that is through and lives for one more turn of the loop, because a publisher is
        about to go on and making a task costs more. It has no place until somebody needs it."""
        self._stepping: Delivery | None = None
        """The delivery whose handler a pump is stepping through right now."""
        self._apart_until: float | None = None
        """Until when the handlers that have just got tasks of their own may begin; None until the
        first of them has."""
        self._judging: Subscription | None = None
        """The subscription whose predicate is being asked right now."""
        self._settlers: list[asyncio.Future[None]] = []
        self._events = 0
        self._unhandled = 0
        self._totals_at_close = dict.fromkeys(COUNTS, 0)
        self._retired: dict[str, int] = dict.fromkeys(COUNTS, 0)
        """The sums of subscriptions that have left."""
        self._streams: dict[EventStream[Any], None] = {}
        self._closing: Closing | None = None
        self._tickets: dict[int, Ticket] = {}
        """Publications that wait for room, in order of arrival."""
        self._room_timer: Timer | None = None
