"""Which event loop a bus belongs to, for as long as it is busy, and what a fork leaves of it.

An idle bus belongs to no loop: it can be a module-level global that one loop after another uses.
The first thing that makes it busy binds it to the running loop, and the last thing that ends sets
it free. If its loop was closed while it was busy, the next use *buries* what was pending there.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING

from eventbus import _admission, _cascade, _ends, _registration
from eventbus._queues import KeyedQueue
from eventbus._state import COUNTS, State, every_bus
from eventbus.errors import BusClosed, NoRunningLoop, WrongLoop
from eventbus.event import current
from eventbus.subscription import IDLE

if TYPE_CHECKING:
    from eventbus._delivery import Delivery
    from eventbus._engine import Engine
    from eventbus.subscription import Subscription


def bind(bus: Engine) -> asyncio.AbstractEventLoop:
    """Make sure that the bus may be used on the running loop, and belongs to it.

    Raises ``NoRunningLoop`` without one, and ``WrongLoop`` if the bus is busy on another.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise NoRunningLoop(
            "no event loop runs in this thread: call it inside asyncio.run(...), "
            "or publish with bus.publish_from_thread(...) while 'async with bus' runs"
        ) from None
    if bus._loop is not loop:
        if bus._loop is not None:
            _let_go(bus)
        last = bus._last_loop
        if last is None or last() is not loop:
            _take_over(bus, loop)
        bus._loop = loop
    bus._thread = get_ident()
    clock = bus._clock
    bus._wall = clock.time() - clock.monotonic()
    return loop


def _let_go(bus: Engine) -> None:
    """See to what the bus has to do on another loop than the running one."""
    if bus._loop is not None and bus._is_busy():
        if not bus._loop.is_closed():
            raise WrongLoop(
                f"{bus.name} is busy on another event loop: publish there, "
                "or from this thread with bus.publish_from_thread(...)"
            )
        _bury(bus)


def _take_over(bus: Engine, loop: asyncio.AbstractEventLoop) -> None:
    """Begin on a loop that is not the one of last time."""
    bus._last_loop = weakref.ref(loop)
    bus._spare = None
    bus._thread_limit = None
    if bus._stuck_threads:
        # Threads that are still at work for another loop cannot tell us when they return.
        bus._stuck_threads = 0
        for subscription in bus._all_subscriptions():
            subscription._running = len(subscription._active or ())
            if not subscription._running and isinstance(subscription._queue, KeyedQueue):
                subscription._queue.release_all()
            bus._find_place(subscription)


def bury_lost() -> None:
    """Bury every bus whose loop is closed: a cascade may have gone through several."""
    for bus in every_bus():
        if bus._loop is not None and bus._loop.is_closed() and bus._is_busy():
            _bury(bus)


def _bury(bus: Engine) -> None:
    """End what was pending on a loop that is closed: it can never go on there."""
    bus._deal_out()
    pending = bus._pending()
    bus._loop = None
    bus._pumps = 0
    bus._spare = None
    bus._stepping = None
    bus._settlers.clear()
    closing, bus._closing = bus._closing, None
    bus._state = State.OPEN if bus._state is State.ENTERED else bus._state
    if closing is not None:
        closing._stop_timer()
        bus._state = State.CLOSED
    bus._barred = bus._state is State.CLOSED
    _admission.refuse_all(bus)
    bus._ready.clear()
    bus._burying = True
    tell: list[Callable[[], None]] = []
    for subscription in bus._all_subscriptions():
        reader = subscription._reader
        if reader is not None:
            reader._end()
            _registration.unsubscribe(bus, subscription)
            continue
        subscription._place = IDLE
        tell.extend(_registration.cancel_queued(subscription))
        running = list(subscription._running_deliveries())
        tell.extend([_ends.end_quietly(delivery, "cancelled") for delivery in running])
        if subscription._due:
            subscription._due.clear()
        subscription._running = 0
        subscription._place = IDLE
    bus._ready.clear()
    try:
        _ends.tell_all(tell)
    finally:
        bus._burying = False
    bus._log.write("loop.lost", "warning", cancelled=pending)


def _reset_in_child() -> None:
    """A forked child starts with empty buses: what was pending is the parent's to handle."""
    running = current.get()
    if running is not None and running.status is None:
        # The fork was made in a handler. What the child publishes there is not nested.
        current.set(None)
    for bus in every_bus():
        _forget_everything(bus)


def _forget_everything(bus: Engine) -> None:
    bus._deal_out()
    for subscription in bus._all_subscriptions():
        _cancel_silently(subscription)
        for name in COUNTS:
            setattr(subscription, name, 0)
        while subscription._queue:  # in place: a pump may hold it, if a handler made the fork
            subscription._queue.popleft()
        subscription._queue = subscription._active = subscription._due = subscription._line = None
        subscription._running = 0
        subscription._place = IDLE
        subscription._full = False
        if subscription._reader is not None:
            subscription._reader._ended = True
            _registration.leave(bus, subscription)
    bus._left.clear()
    bus._ready.clear()
    if bus._state is not State.CLOSED:
        bus._state = State.OPEN
    bus._barred = bus._state is State.CLOSED
    bus._start_empty()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows cannot fork
    os.register_at_fork(after_in_child=_reset_in_child)


def _cancel_silently(subscription: Subscription) -> None:
    """Nobody is told, but who asks a receipt in the child must not wait for ever."""
    for receipt in subscription._queue or ():
        delivery = _ends.new_delivery(subscription, receipt, None)
        delivery.attempt = 0
        delivery.started = receipt._accepted_at
        _cancel_one(delivery)
    for delivery in subscription._running_deliveries():
        _cancel_one(delivery)


def _cancel_one(delivery: Delivery) -> None:
    receipt = delivery.receipt
    delivery.status = "cancelled"
    delivery.ended = delivery.started
    receipt._ended.append(delivery)
    if receipt.cascade_done:
        for _ in _cascade.leave(receipt):  # its ends are written on the way
            pass


def check_other_thread(bus: Engine) -> asyncio.AbstractEventLoop:
    """The loop to hand an event to, for a caller in another thread."""
    loop = bus._loop
    if bus._state is State.CLOSED:
        raise BusClosed(f"{bus.name} is closed: enter it again with 'async with bus'")
    if loop is None or bus._state is State.OPEN:
        raise BusClosed(
            f"{bus.name} is not entered: publish_from_thread works while 'async with bus' runs"
        )
    if bus._thread == get_ident() and not loop.is_closed():
        raise WrongLoop(
            f"this is the thread of {bus.name}'s own event loop, which must not wait for itself: "
            "call 'await bus.publish(...)' or bus.publish_nowait(...)"
        )
    return loop
