"""Another handler in the place of one, for a block."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock

from eventbus._handler import Handler, _function_of, describe_callable, inspect_handler
from eventbus.testing._block import Block
from eventbus.testing._describe import cut, number, show_pending
from eventbus.testing._settle import SETTLE_SECONDS

if TYPE_CHECKING:
    from eventbus import Event, EventBus, Subscription


class Replaced(Block):
    """What `replace` gives its block: the events that went to the replacement."""

    def __init__(
        self,
        bus: EventBus,
        handler: Callable[[Event[Any]], object] | str,
        with_: Callable[[Event[Any]], object],
        timeout: float | None,
    ) -> None:
        super().__init__(bus, timeout)
        self._handler = handler
        self._looked_at = inspect_handler(with_)
        self._exchanges: list[_Exchange] = []
        self.events: list[Event[Any]] = []
        """In the order in which they came, once for each attempt."""

    def _begin(self) -> None:
        __tracebackhide__ = True
        found = [
            each
            for each in self._bus.subscriptions
            if each._reader is None and is_handler_of(self._handler, each)
        ]
        if not found:
            raise LookupError(not_found(self._bus, self._handler))
        for subscription in found:
            if subscription not in _exchanges:
                _exchanges[subscription] = _Exchange(subscription)
            self._exchanges.append(_exchanges[subscription])
            _exchanges[subscription].add(self)

    def _end(self, error: BaseException | None) -> None:
        __tracebackhide__ = True
        for exchange in self._exchanges:
            exchange.remove(self)
        early = {
            exchange.subscription.name: _not_begun(exchange.subscription)
            for exchange in self._exchanges
        }
        if error is None and any(early.values()):
            names = " and ".join(
                f"{number(count, 'event')} for {name}" for name, count in early.items() if count
            )
            raise RuntimeError(
                f"{names} had not reached the replacement when the block ended, and will go to "
                "the handler itself: settle the bus in the block, or write 'async with replace'"
            )
        if error is None and not self._bus._is_drained():
            raise RuntimeError(
                "something was still pending when the block ended, and what it publishes will go "
                "to the handler itself: settle the bus in the block, or write 'async with "
                f"replace'. Pending:\n{cut(show_pending(self._bus))}"
            )

    def __repr__(self) -> str:
        return f"<Replaced: {number(len(self.events), 'event')}>"


def replace(
    bus: EventBus,
    handler: Callable[[Event[Any]], object] | str,
    with_: Callable[[Event[Any]], object] | None = None,
    *,
    timeout: float | None = SETTLE_SECONDS,
) -> Replaced:
    """Let something else handle the events of one handler while a block runs.

    ``handler`` is the function, wherever the bus has it subscribed, or the name of a subscription.
    ``with_`` is what takes its place, ``async def`` or ``def``; by default nothing happens. What it
    raises and returns is taken as the handler's own. Patterns, options and place in the order
    stay; ``thread=True`` does not hold for an ``async def``. The block's value has the ``events``.

    ``async with`` settles the bus at the end of the block, for at most ``timeout`` seconds; in a
    plain ``with``, do that yourself: what is still pending may bring events for the handler itself.

    >>> import asyncio
    >>> from eventbus import EventBus
    >>> bus = EventBus()
    >>> @bus.on("invoice.paid")
    ... async def send_mail(event):
    ...     raise OSError("no mail server here")
    >>> async def main():
    ...     async with replace(bus, send_mail) as mail:
    ...         await bus.publish("invoice.paid", "in_1")
    ...     print(mail.events[0].data)
    >>> asyncio.run(main())
    in_1

    Raises ``LookupError`` on entering if the bus has no such handler, naming the nearest;
    ``RuntimeError`` on leaving if something was still pending on the bus, and for a second block;
    and ``HandlerError`` for a replacement that cannot be a handler. A handler that runs when the
    block begins or ends is not interrupted.
    """
    return Replaced(bus, handler, _nothing if with_ is None else with_, timeout)


def is_handler_of(handler: object, subscription: Subscription) -> bool:
    """Whether a function or a name means this subscription's handler, or what replaces it now."""
    if isinstance(handler, str):
        return handler == subscription.name
    exchange = _exchanges.get(subscription)
    if exchange is None:
        return bool(handler == subscription.handler)
    return handler in (exchange.handler, *exchange.replacements())


def not_found(bus: EventBus, handler: object) -> str:
    """That a bus has no such handler, and which are nearest."""
    wanted = handler if isinstance(handler, str) else describe_callable(handler)
    names = [each.name for each in bus.subscriptions if each._reader is None]
    if wanted in names and not isinstance(handler, str):
        return (
            f"the handler {wanted} of {bus.name} is another object: wrapped by a decorator, or "
            f"from a module that was loaded twice. Pass its name, {wanted!r}"
        )
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.4) or names[:3]
    if not near:
        return f"{bus.name} has no subscriptions: is the module imported that has {wanted}?"
    return f"{bus.name} has no handler {wanted}: did you mean {' or '.join(near)}?"


def _nothing(event: Event[Any]) -> None:
    """Stands in for a handler by default."""


class _Exchange:
    """A subscription whose handler is replaced, by one block or by several at once."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.handler = subscription.handler
        """Its own, and so are the next three."""
        self._payload = subscription._payload
        self._options = subscription._options
        self._direct = subscription._direct
        self._blocks: list[Replaced] = []

    def replacements(self) -> list[Callable[[Event[Any]], Any]]:
        return [block._looked_at.call for block in self._blocks]

    def add(self, block: Replaced) -> None:
        self._blocks.append(block)
        self._apply()

    def remove(self, block: Replaced) -> None:
        """A block ends, perhaps before one that began later."""
        self._blocks.remove(block)
        self._apply()
        if not self._blocks:
            del _exchanges[self.subscription]

    def _apply(self) -> None:
        """Let the subscription run what the last block wants, or its own handler again."""
        subscription, options, payload = self.subscription, self._options, self._payload
        handler = self.handler
        if self._blocks:
            looked_at = self._blocks[-1]._looked_at
            payload = looked_at.payload or payload
            if options.thread and (looked_at.is_async or isinstance(looked_at.call, AsyncMock)):
                options = dataclasses.replace(options, thread=False)
            handler = _noting(looked_at, self._blocks[-1].events, subscription._is_async)
        subscription.handler = handler
        subscription._payload = payload
        subscription._options = options
        # What replaces a handler goes the long way: it is right for every kind of them.
        subscription._direct = self._direct and not self._blocks


_exchanges: dict[Subscription, _Exchange] = {}
"""The subscriptions whose handlers are replaced right now."""


def _noting(looked_at: Handler, events: list[Event[Any]], is_async: bool) -> Callable[..., Any]:
    """A replacement that writes down what it gets, and is called as the handler itself is."""
    call = looked_at.call

    def note(event: Event[Any]) -> Any:
        events.append(event)
        return call(event)

    async def note_and_wait(event: Event[Any]) -> Any:
        result = note(event)
        return await result if hasattr(type(result), "__await__") else result

    noting = note_and_wait if is_async else note
    noting.__qualname__ = describe_callable(call)
    vars(noting)["__wrapped__"] = _function_of(call)  # where it is written
    return noting


def _not_begun(subscription: Subscription) -> int:
    """How many deliveries, or next attempts, of a subscription have not begun."""
    subscription.bus._deal_out()
    waiting = [
        delivery
        for delivery in subscription._running_deliveries()
        if delivery.work is not None
        and (
            delivery.work.resume
            or delivery.work.awaits_thread
            or delivery in (subscription._due or ())
        )
    ]
    return len(subscription._queue or ()) + len(waiting)
