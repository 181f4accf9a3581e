"""What runs in the context of a handler, and what it says when it stops.

A *driver* is a generator that runs handlers with ``yield from``, where the interpreter returns
their results without an exception. It yields a signal when a handler has ended, and passes on
whatever a handler yields that waits.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeAlias

from eventbus import _ends
from eventbus.errors import PayloadError
from eventbus.event import set_current
from eventbus.subscription import GONE

if TYPE_CHECKING:
    from eventbus._delivery import Delivery
    from eventbus.event import Event

Driver = Generator[Any, Any, Any]
Waiting: TypeAlias = "tuple[Delivery, Context, Driver, Any]"
"""A handler that waits: its delivery, its context, its driver, and what that has yielded."""
P = ParamSpec("P")


class Signal:
    """What a driver yields when it does not pass on what a handler waits for."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


DONE: Final = Signal("DONE")
FAILED: Final = Signal("FAILED")


def event_for(delivery: Delivery) -> Event[Any]:
    """The event as the handler's annotation asks for it.

    Raises ``PayloadError`` if the data does not fit. If a validator, or a hook before it, has
    unsubscribed the handler, it must not run: raises what its last attempt did, or
    ``CancelledError``.
    """
    event, owner = delivery.event, delivery.owner
    if owner._payload is not None:
        try:
            data = owner._payload.validate(event.data, lambda: f"{event!r} for {owner.name}")
        except BaseException as error:
            if isinstance(error, PayloadError):
                delivery.working().unfit = True
            del delivery  # the frames of the error know this one
            raise
        if data is not event.data:
            event = event.with_data(data)
    if owner._standing == GONE:
        delivery.attempt -= 1
        raise delivery.error or asyncio.CancelledError("unsubscribed")
    return event


def _awaiting(function: Callable[P, Driver]) -> Callable[P, Driver]:
    """Let ``yield from`` in a generator function go into coroutines."""
    return types.coroutine(function)  # type: ignore[return-value]  # pyright: ignore[reportReturnType] - it is the generator function itself


@_awaiting
def plain_driver(delivery: Delivery) -> Driver:
    """Runs the handlers of direct subscriptions, one delivery after the other."""
    while True:
        set_current(delivery)
        owner, event = delivery.owner, delivery.event
        handler = owner.handler  # a call of `owner.handler(…)` would look for a method first
        try:
            # It may have left since it was taken: by a finalizer of what the last handler has held.
            if owner._payload is not None or owner._standing:
                event = event_for(delivery)
            if owner._is_async:
                delivery.result = yield from handler(event)
            else:
                result = handler(event)
                if result is not None and hasattr(type(result), "__await__"):
                    result = yield from result.__await__()
                delivery.result = result
            signal = DONE
        except BaseException as error:
            if _ends.is_destroyed(error):
                raise
            delivery.error = error
            signal = FAILED
            del delivery, event  # the frames of the error know this one
        delivery = yield signal


@_awaiting
def careful_driver(delivery: Delivery) -> Driver:
    """Runs one attempt of any handler, with its payload validated and its observers told."""
    set_current(delivery)
    subscription, signal = delivery.owner, DONE
    observers, observe = subscription.bus._observers, subscription.bus._observe
    try:
        for observer in observers:
            observe(observer.attempt_started, delivery.event, delivery)
        event = event_for(delivery)
        delivery.error = None
        handler = subscription.handler
        result = handler(event)
        if subscription._is_async:
            result = yield from result
        elif hasattr(type(result), "__await__"):
            result = yield from result.__await__()
        delivery.result = result
    except BaseException as error:
        if _ends.is_destroyed(error):
            raise
        delivery.error = error
        signal = FAILED
    try:
        for observer in observers:
            observe(observer.attempt_ended, delivery.event, delivery, delivery.error)
    except BaseException as error:  # only what ends programs comes out of a hook
        delivery.error = error
        signal = FAILED
    del delivery
    yield signal


@types.coroutine
def drive(context: Context, driver: Driver, signal: Any) -> Driver:
    """Drive a handler that waits to its end, in its own context. Gives the last signal."""
    run, send = context.run, driver.send
    while signal.__class__ is not Signal:
        try:
            value = yield signal
        except GeneratorExit as destroyed:
            run(driver.throw, destroyed)
            raise
        except BaseException as thrown:
            signal = run(driver.throw, thrown)
        else:
            signal = run(send, value)
    del context, driver, run, send  # the traceback of an error knows this frame
    return signal
