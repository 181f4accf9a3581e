"""How subscriptions come and go."""

from __future__ import annotations

from collections.abc import Callable
from sys import _getframe
from types import CodeType
from typing import TYPE_CHECKING, Any, Final

from eventbus import _admission, _ends
from eventbus._handler import Handler, describe_callable, inspect_handler
from eventbus._payload import Payload
from eventbus.errors import OptionError, ReentrantCall, UnmatchedPattern
from eventbus.subscription import (
    DEFAULTS,
    GONE,
    LEAVING,
    LISTENING,
    Options,
    Subscription,
    SubscriptionOptions,
)
from eventbus.topics import Topic, check_pattern

if TYPE_CHECKING:
    from eventbus._delivery import Status
    from eventbus._engine import Engine
    from eventbus.receipt import Receipt
    from eventbus.stream import EventStream

MOST_WARNINGS: Final = 1000
"""About how many different names a bus warns that the catalogue does not have them."""

MOST_SITES: Final = 1000
"""How many places in the source a bus remembers, for subscriptions to share."""

_READING: Final = Handler(lambda event: None, is_async=False, payload=None)
"""Stands for the handler of a stream, which has none."""


def subscribe(
    bus: Engine,
    handler: object,
    patterns: tuple[str | Topic[Any], ...],
    options: SubscriptionOptions,
    reader: EventStream[Any] | None = None,
) -> Subscription:
    """Check all that can be known now, and add the subscription to the index."""
    refuse_in_predicate(bus, "subscribe")
    names = check_patterns(patterns)
    looked_at = _READING if reader is not None else inspect_handler(handler)
    chosen = check_options(options)
    if chosen.thread and looked_at.is_async:
        raise OptionError(
            "thread=True is for def handlers, and this one is async def: leave thread out"
        )
    if looked_at.payload is None:
        looked_at = looked_at._replace(payload=_common_payload(patterns))
    base = describe_callable(handler) if reader is None else "stream"
    for pattern in names:
        _check_known(bus, pattern, chosen.name or base)
    name = bus._names.take(chosen.name, base)
    subscription = Subscription(
        bus, bus._numbers, names, looked_at, chosen, name, _site(bus), reader
    )
    bus._numbers += 1
    bus._index.add(subscription, names)
    return subscription


def unsubscribe(bus: Engine, subscription: Subscription) -> None:
    """Take a subscription off the bus, with all that it has not begun."""
    refuse_in_predicate(bus, "unsubscribe")
    if subscription._standing == GONE:
        return
    bus._deal_out()
    leave(bus, subscription)
    subscription._standing = GONE
    tell = cancel_queued(subscription)
    if subscription._reader is not None:
        subscription._reader._end()
    for delivery in list(subscription._running_deliveries()):
        work = delivery.work
        if work is not None and (work.resume is not None or delivery in (subscription._due or ())):
            tell.append(_ends.end_quietly(delivery, "failed"))
        elif work is not None and work.awaits_thread:
            delivery.attempt -= 1
            task = work.task
            status: Status = "cancelled" if delivery.error is None else "failed"
            tell.append(_ends.end_quietly(delivery, status))
            assert task is not None
            task.cancel()
    if subscription._due:
        subscription._due.clear()
    _admission.serve_line(bus, subscription)
    assert not subscription._line
    bus._find_place(subscription)
    bus._resume()
    _ends.tell_all(tell)


def leave(bus: Engine, subscription: Subscription) -> None:
    """Out of the index: no new events, but what it has it handles."""
    if subscription._standing == LISTENING:
        subscription._standing = LEAVING
        bus._left[subscription] = None
        bus._index.remove(subscription, subscription.patterns)
        bus._names.give_back(subscription._base_name, subscription._suffix)
        retire(bus, subscription)


def retire(bus: Engine, subscription: Subscription) -> None:
    """Keep the sums of a subscription that has left, once nothing of it is pending any more."""
    if subscription in bus._left and not subscription.pending:
        retired = {
            name: count + getattr(subscription, name) for name, count in bus._retired.items()
        }
        bus._retired = retired  # no other thread runs between these two
        del bus._left[subscription]


def cancel_queued(subscription: Subscription) -> list[Callable[[], None]]:
    """End as cancelled what is queued. Returns what tells of it."""
    receipts: list[Receipt] = list(subscription._queue or ())
    while subscription._queue:
        subscription._queue.popleft()
    subscription.bus._clear_full(subscription)
    tell = [_ends.end_unstarted(subscription, receipt, "cancelled") for receipt in receipts]
    subscription.bus._find_place(subscription)
    return tell


def refuse_in_predicate(bus: Engine, verb: str) -> None:
    """Raise ``ReentrantCall`` if a predicate is being asked right now."""
    if bus._judging is not None:
        raise ReentrantCall(
            f"a 'where' or 'key' of {bus._judging.name} tried to {verb}: "
            "predicates only look at the event"
        )


# What is checked.


def check_patterns(patterns: tuple[str | Topic[Any], ...]) -> tuple[str, ...]:
    """The patterns as strings, each once; ``**`` for none."""
    names = [p.name if isinstance(p, Topic) else check_pattern(p) for p in patterns]
    return tuple(dict.fromkeys(names)) or _EVERYTHING


_EVERYTHING: Final = ("**",)


def check_options(options: SubscriptionOptions) -> Options:
    """The options, checked, with their defaults."""
    if not options:
        return DEFAULTS
    known = SubscriptionOptions.__annotations__
    for name in options:
        if name not in known:
            raise TypeError(f"unknown option {name!r}; the options are {', '.join(sorted(known))}")
    chosen = Options(**options)
    return DEFAULTS if chosen == DEFAULTS else chosen


def _check_known(bus: Engine, pattern: str, subscription: str) -> None:
    catalog = bus._catalog
    if catalog is None or catalog.can_match(pattern):
        return
    suggestion = catalog.did_you_mean(pattern)
    if bus._strict:
        raise UnmatchedPattern(
            f"no topic of the catalogue matches the pattern {pattern!r}.{suggestion}"
        )
    warn_once(
        bus,
        "pattern.unmatched",
        pattern,
        pattern=pattern,
        subscription=subscription,
        suggestion=suggestion.strip(),
    )


def warn_once(bus: Engine, log_name: str, name: str, **fields: Any) -> None:
    """One warning per name, for a bounded number of names."""
    if name not in bus._warned and len(bus._warned) < MOST_WARNINGS:
        bus._warned.add(name)
        bus._log.write(log_name, "warning", **fields)


def _common_payload(patterns: tuple[str | Topic[Any], ...]) -> Payload | None:
    """What handlers of typed topics get if they do not say it themselves: the topics' one model."""
    topics = [pattern for pattern in patterns if isinstance(pattern, Topic)]
    models = {id(topic.model): topic.model for topic in topics}
    if len(models) != 1 or len(topics) != len(patterns):
        return None
    return Payload.of(next(iter(models.values())))


_OURS: Final = (__name__, "eventbus.bus", "eventbus.stream")


def _site(bus: Engine) -> tuple[CodeType, int]:
    """Where the application called: its code object and the line.

    Most subscriptions of a large bus come from a few lines: those share one pair.
    """
    frame = _getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") in _OURS:
        frame = frame.f_back
    site = frame.f_code, frame.f_lineno
    if len(bus._sites) >= MOST_SITES:  # source is not as large, but code may be made at run time
        bus._sites.clear()
    return bus._sites.setdefault(site, site)
