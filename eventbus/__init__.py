"""An event bus that lives inside one asyncio application.

Code announces facts, other code reacts, and neither knows the other::

    bus = EventBus()

    @bus.on("invoice.*")
    async def ship(event: Event) -> None: ...

    await bus.publish("invoice.paid", {"id": "in_1"})

Beside it: `eventbus.payment_kit` (Payment Kit's topics), `eventbus.webhooks` (HTTP requests that
are verified and become events), `eventbus.testing` (the test kit; its pytest fixtures are there by
themselves), and the command ``eventbus``. Each is loaded only when it is imported.

The way of an event through the files: `_publishing` (publish) → `topics` and `_index` (whom it
reaches) → `_admission` (room everywhere) → `subscription` (queued) → `_pump` (the handler runs) →
`_ends` (how it ended) → `receipt` (who waits is told).
"""

from typing import TYPE_CHECKING

from eventbus._closing import CloseReport
from eventbus.bus import EventBus, Statistics
from eventbus.catalog import Catalog
from eventbus.clock import Clock, SystemClock, Timer
from eventbus.dead_letters import DeadLetter, DeadLetters
from eventbus.errors import (
    BusClosed,
    CascadeOverflow,
    DeliveryCancelled,
    EventBusError,
    HandlerError,
    HandlerErrors,
    HandlerTimeout,
    NameTaken,
    NoRunningLoop,
    NotSubscribed,
    OptionError,
    PatternError,
    PayloadError,
    ReentrantCall,
    TopicError,
    UnknownTopic,
    UnmatchedPattern,
    WouldBlock,
    WouldDeadlock,
    WrongLoop,
)
from eventbus.event import Event, EventFields, RunningDelivery
from eventbus.instrumentation import Hook, LogHook, LogLine
from eventbus.outcome import Outcome
from eventbus.receipt import Receipt
from eventbus.retry import Retry
from eventbus.stream import EventStream
from eventbus.subscription import (
    Overflow,
    Subscription,
    SubscriptionOptions,
    SubscriptionStatistics,
)
from eventbus.topics import Topic, matches

__version__ = "0.1.0"

__all__ = [
    "BusClosed",
    "CascadeOverflow",
    "Catalog",
    "Clock",
    "CloseReport",
    "DeadLetter",
    "DeadLetters",
    "DeliveryCancelled",
    "Event",
    "EventBus",
    "EventBusError",
    "EventFields",
    "EventStream",
    "Explanation",
    "HandlerError",
    "HandlerErrors",
    "HandlerTimeout",
    "Hook",
    "LogHook",
    "LogLine",
    "NameTaken",
    "NearMiss",
    "NoRunningLoop",
    "NotSubscribed",
    "OptionError",
    "Outcome",
    "Overflow",
    "PatternError",
    "PayloadError",
    "Reached",
    "Receipt",
    "ReentrantCall",
    "Retry",
    "RunningDelivery",
    "Statistics",
    "Subscription",
    "SubscriptionInfo",
    "SubscriptionOptions",
    "SubscriptionStatistics",
    "SystemClock",
    "Timer",
    "Topic",
    "TopicError",
    "UnknownTopic",
    "UnmatchedPattern",
    "WouldBlock",
    "WouldDeadlock",
    "WrongLoop",
    "matches",
]

if TYPE_CHECKING:
    from eventbus._introspection import Explanation, NearMiss, Reached, SubscriptionInfo
else:
    _OF_INTROSPECTION = ("Explanation", "NearMiss", "Reached", "SubscriptionInfo")

    def __getattr__(name: str) -> object:
        """Load when it is asked for what few programs need: a tenth of the import's time."""
        if name in _OF_INTROSPECTION:
            from eventbus import _introspection

            return getattr(_introspection, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *_OF_INTROSPECTION})
