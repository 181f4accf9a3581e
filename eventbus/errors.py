"""Every error of the library: whose fault it is, and what cures it.

::

    EventBusError
    ├── TopicError (ValueError)          the caller's: no topic; says where and why
    ├── PatternError (ValueError)        the caller's: no pattern; says where and why
    ├── HandlerError (TypeError)         the caller's: it cannot handle an event
    ├── OptionError (ValueError)         the caller's: a value, or two that exclude each other
    ├── UnknownTopic (LookupError)       the caller's: a strict bus does not know it
    ├── UnmatchedPattern (LookupError)   the caller's: a strict bus knows no match
    ├── NameTaken (ValueError)           the caller's: another subscription has it
    ├── NotSubscribed (LookupError)      the caller's: the dead letter's own has left
    ├── PayloadError (ValueError)        the data's: it does not fit; ``errors`` says where
    ├── WouldBlock (anyio.WouldBlock)    the load's: a queue is full and the caller would not wait
    ├── CascadeOverflow (RuntimeError)   the handlers': one root has caused too much
    ├── WouldDeadlock (RuntimeError)     the handler's: it waits for its own end, in a chain
    ├── HandlerTimeout (TimeoutError)    the handler's: one attempt took longer than ``timeout``
    ├── DeliveryCancelled                nobody's: stands for a delivery in ``HandlerErrors``
    ├── ReentrantCall (RuntimeError)     the predicate's: a ``where`` or ``key`` that publishes
    ├── BusClosed (RuntimeError)         the moment's: the bus is closing or closed; enter it again
    ├── NoRunningLoop (RuntimeError)     the caller's: an asynchronous bus, and no loop runs here
    └── WrongLoop (RuntimeError)         the caller's: the bus is busy on another loop or thread

    HandlerErrors (ExceptionGroup)       what the deliveries of one event raised, on request
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventbus.outcome import Outcome

__all__ = [
    "BusClosed",
    "CascadeOverflow",
    "DeliveryCancelled",
    "EventBusError",
    "HandlerError",
    "HandlerErrors",
    "HandlerTimeout",
    "NameTaken",
    "NoRunningLoop",
    "NotSubscribed",
    "OptionError",
    "PatternError",
    "PayloadError",
    "ReentrantCall",
    "TopicError",
    "UnknownTopic",
    "UnmatchedPattern",
    "WouldBlock",
    "WouldDeadlock",
    "WrongLoop",
]


class EventBusError(Exception):
    """The root of all errors that this library raises by itself."""


class TopicError(EventBusError, ValueError):
    """A string that is no topic. The message names the position and the cure."""


class PatternError(EventBusError, ValueError):
    """A string that is no pattern. The message names the position and the cure."""


class HandlerError(EventBusError, TypeError):
    """A handler that cannot be called with one event. The message names the cure."""


class OptionError(EventBusError, ValueError):
    """An option whose value is out of range, or that excludes another one."""


class UnknownTopic(EventBusError, LookupError):
    """A strict bus was asked to publish a topic that its catalogue does not know."""


class UnmatchedPattern(EventBusError, LookupError):
    """A strict bus was asked for a pattern that no topic of its catalogue can match."""


class NameTaken(EventBusError, ValueError):
    """An explicit ``name`` that another subscription of the bus already has."""


class NotSubscribed(EventBusError, LookupError):
    """A dead letter cannot be redelivered: its subscription has left the bus."""


class PayloadError(EventBusError, ValueError):
    """Data that does not fit the model of a topic or of a handler."""

    def __init__(self, message: str, errors: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.errors = list(errors)
        """One dict per field, as pydantic's ``ValidationError.errors()`` gives them, without
        the input: an error may be logged, and a payload may not."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.errors)


class WouldBlock(EventBusError, anyio.WouldBlock):
    """``publish_nowait`` met a full queue. Nothing was accepted, nowhere."""


class CascadeOverflow(EventBusError, RuntimeError):
    """A root has too many nested deliveries pending, or a chain of events is too long.

    Raised in the handler that publishes; its event was not accepted. Usually two handlers
    publish to each other without end.
    """


class WouldDeadlock(EventBusError, RuntimeError):
    """A handler was about to wait for something that only its own end can bring."""


class HandlerTimeout(EventBusError, TimeoutError):
    """One attempt of a handler took longer than the ``timeout`` of its subscription."""


class DeliveryCancelled(EventBusError):
    """Stands for a cancelled delivery among the errors of a ``HandlerErrors``."""


class ReentrantCall(EventBusError, RuntimeError):
    """A ``where`` or ``key`` tried to publish, subscribe or unsubscribe. It may only look."""


class BusClosed(EventBusError, RuntimeError):
    """The bus is closing or closed; ``async with bus`` opens it again."""


class NoRunningLoop(EventBusError, RuntimeError):
    """The call needs a running event loop and there is none in this thread."""


class WrongLoop(EventBusError, RuntimeError):
    """The bus is busy on another event loop, or the call came from the wrong thread."""


class HandlerErrors(ExceptionGroup[Exception]):
    """What failed while one event was handled: an error for each failed or cancelled delivery.

    A cancelled delivery stands in it as a ``DeliveryCancelled``. What is no ``Exception`` (a
    ``SystemExit``, say), which an ``ExceptionGroup`` cannot hold, is the ``__cause__`` of an
    ``EventBusError`` in its place.
    """

    outcomes: tuple[Outcome, ...] = ()
    """All outcomes of the event, in order of subscription, the good ones too."""

    def derive(self, errors: Sequence[Exception], /) -> HandlerErrors:  # type: ignore[override]  # typeshed's derive promises any exception type, this group holds only Exception
        """A group of the same kind for ``except*`` and ``split``, with the same outcomes."""
        group = HandlerErrors(self.message, errors)
        group.outcomes = self.outcomes
        return group
