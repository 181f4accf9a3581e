"""What must hold whenever the bus has put down what it was doing. Checked in debug mode only.

Set the environment variable ``EVENTBUS_DEBUG=1`` before the first bus is made. The checks look at
everything, so they make a busy bus slow; the library's own tests run with them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from eventbus._queues import KeyedQueue
from eventbus._state import COUNTS
from eventbus.subscription import GONE, HELD, LISTENING, READY, SATURATED

if TYPE_CHECKING:
    from eventbus._engine import Engine
    from eventbus.subscription import Subscription

DEBUG: Final = os.environ.get("EVENTBUS_DEBUG", "") not in ("", "0")

MOST_CHECKED: Final = 200
"""On a bus with more subscriptions, a check would take too long: only the sums are looked at."""


def check(bus: Engine) -> None:
    """Assert the invariants of a bus between two steps."""
    assert bus._round is None or bus._pumps, "an event goes round and nobody will take it"
    subscriptions = bus._all_subscriptions()
    assert bus._pumps >= 0, "a pump gave back its place twice"
    assert bus._open >= 0, "a publication was finished twice"
    assert not bus._ready or bus._pumps, "subscriptions are ready and nobody will take them"
    assert bus._full == sum(each._full for each in subscriptions), "full queues are miscounted"
    if len(subscriptions) > MOST_CHECKED:
        return
    ready = list(bus._ready)
    for subscription in subscriptions:
        _check_place(subscription, ready.count(subscription))
        _check_line(subscription)
        _check_accounts(subscription)
    handlers = [each for each in subscriptions if each._reader is None]
    if not bus._open:
        assert not any(each.pending for each in handlers), "pending, and no publication open"


def _check_place(subscription: Subscription, times_ready: int) -> None:
    place = subscription._place
    assert times_ready == (place == READY), f"{subscription!r} is {times_ready} times in line"
    assert subscription._running >= len(subscription._active or ())
    if subscription._active is None:  # which a pump takes for an answer to both
        assert not subscription._running, "places are taken by nobody"
        assert not subscription._due, "nobody pauses, and somebody's pause is over"
    assert subscription._occupied <= subscription.concurrency, "more run than may"
    if subscription._reader is not None or place in (READY, HELD):
        return
    assert not subscription._has_work(), f"{subscription!r} has work and waits for nobody"
    assert (place == SATURATED) == (subscription._running >= subscription.concurrency)


def _check_line(subscription: Subscription) -> None:
    line = subscription._line or []
    if line and subscription._standing != GONE:  # else they are being served, one after the other
        assert subscription._full, "publishers wait for a queue that has room"
    queued = len(subscription._queue or ())
    assert subscription._full == (queued >= subscription.capacity), "full is not what it says"
    assert [ticket.number for ticket in line] == sorted(ticket.number for ticket in line)
    assert all(ticket.blocked_by is subscription for ticket in line)


def _check_accounts(subscription: Subscription) -> None:
    ends = sum(getattr(subscription, name) for name in COUNTS[1:])
    assert subscription.accepted == ends + subscription.pending, f"{subscription!r} lost count"
    if isinstance(subscription._queue, KeyedQueue):
        subscription._queue.check()
    if subscription._standing != LISTENING:
        assert subscription in subscription.bus._left or not subscription.pending
