"""Failures that a test provokes on purpose, and how a failure is told."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from eventbus._handler import describe_callable
from eventbus.testing._block import Block
from eventbus.testing._describe import cut, show_error, show_pending, show_tree, times
from eventbus.testing._record import Failure, record_of
from eventbus.testing._replace import is_handler_of
from eventbus.testing._settle import SETTLE_SECONDS
from eventbus.topics import Topic, check_pattern, matches

if TYPE_CHECKING:
    from eventbus import Event, EventBus
    from eventbus.receipt import Receipt
    from eventbus.testing._capture import Pattern

Errors = tuple[type[BaseException], ...]


class ExpectedFailure(Block):
    """The failures that an `expect_failure` has caught so far."""

    def __init__(
        self,
        bus: EventBus,
        *,
        kinds: Errors,
        match: str | None,
        handler: Callable[[Event[Any]], object] | str | None,
        topic: str | None,
        times: int | None,
        timeout: float | None,
    ) -> None:
        super().__init__(bus, timeout)
        self._kinds = kinds
        self._match = None if match is None else re.compile(match)
        self._handler = handler
        self._topic = topic
        self._times = times
        self._caught: list[Failure] = []
        self._others: list[Failure] = []

    @property
    def errors(self) -> list[BaseException]:
        """What the handlers raised at last, one for each failed delivery, in order."""
        return [failure.error for failure in self._caught]

    @property
    def error(self) -> BaseException:
        """The first of them. Raises ``LookupError`` if there is none yet."""
        if not self._caught:
            raise LookupError(f"{self._wanted()} has not come (yet): settle the bus first")
        return self._caught[0].error

    # As a viewer of the bus.

    def accepted(self, receipt: Receipt, deliveries: int) -> None:
        """Nothing has failed by that."""

    def failed(self, failure: Failure) -> None:
        """Take the failure if it is one of those expected, and if nobody else expects it."""
        if not failure.expected and self._fits(failure):
            failure.expected = True
            self._caught.append(failure)
        else:
            self._others.append(failure)

    def _fits(self, failure: Failure) -> bool:
        return (
            isinstance(failure.error, self._kinds)
            and (self._match is None or bool(self._match.search(_text(failure.error))))
            and (self._topic is None or matches(self._topic, failure.event.type))
            and (self._handler is None or is_handler_of(self._handler, failure.owner))
        )

    # As a block.

    def _begin(self) -> None:
        record_of(self._bus).add(self)

    def _end(self, error: BaseException | None) -> None:
        __tracebackhide__ = True
        record_of(self._bus).remove(self)
        count = len(self._caught)
        if error is None and (not count if self._times is None else count != self._times):
            raise AssertionError(self._complaint())

    def _complaint(self) -> str:
        wanted = "at least once" if self._times is None else times(self._times)
        complaint = f"expected {self._wanted()} {wanted}; it came {times(len(self._caught))}"
        if self._others:
            complaint += ".\nOther failures:\n" + cut(map(summarize, self._others))
        pending = show_pending(self._bus)
        if pending:
            complaint += ".\nStill pending (settle the bus first, or write 'async with'):\n" + cut(
                pending
            )
        return complaint

    def _wanted(self) -> str:
        """Which failures: ``ConnectionError matching 'timed out' of ship on order.*``."""
        wanted = " or ".join(each.__name__ for each in self._kinds)
        wanted += "" if self._match is None else f" matching {self._match.pattern!r}"
        if self._handler is not None:
            name = self._handler
            wanted += f" of {name if isinstance(name, str) else describe_callable(name)}"
        return wanted + ("" if self._topic is None else f" on {self._topic}")

    def __repr__(self) -> str:
        return f"<ExpectedFailure: {self._wanted()} came {times(len(self._caught))}>"


def expect_failure(
    bus: EventBus,
    kind: type[BaseException] | Errors = Exception,
    *,
    match: str | None = None,
    handler: Callable[[Event[Any]], object] | str | None = None,
    topic: Pattern | None = None,
    times: int | None = None,
    timeout: float | None = SETTLE_SECONDS,
) -> ExpectedFailure:
    """Say that deliveries fail for good while a block runs, and that this is what a test wants.

    A failure counts if its error is a ``kind``, if ``match`` (a regular expression) is found in
    its text, if it happened in ``handler`` (the function, or the name of its subscription), and if
    its event was published on ``topic``, which may be a pattern. There must be ``times`` of them;
    by default at least one. ``async with`` settles the bus at the end of the block, for at most
    ``timeout`` seconds; a plain ``with`` does not. Of blocks within each other, the inner one has
    the first word.

    >>> import asyncio
    >>> from eventbus import EventBus
    >>> bus = EventBus()
    >>> @bus.on("invoice.paid")
    ... def ship(event):
    ...     raise ValueError("no address")
    >>> async def main():
    ...     async with expect_failure(bus, ValueError, match="address", handler=ship) as failure:
    ...         await bus.publish("invoice.paid")
    ...     print(failure.error)
    >>> asyncio.run(main())
    no address

    Raises ``AssertionError`` at the end of the block if they did not come, listing the failures
    that did and what is pending; ``RuntimeError`` for a second block; and ``PatternError``,
    ``TypeError`` and ``re.error`` for arguments that cannot be meant.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not kinds or not all(
        isinstance(each, type) and issubclass(each, BaseException) for each in kinds
    ):
        raise TypeError(f"{kind!r}: pass an exception class, for example ConnectionError")
    return ExpectedFailure(
        bus,
        kinds=kinds,
        match=match,
        handler=handler,
        topic=topic.name if isinstance(topic, Topic) else topic and check_pattern(topic),
        times=times,
        timeout=timeout,
    )


def _text(error: BaseException) -> str:
    """What an error says; empty if it cannot even do that."""
    try:
        return str(error)
    except Exception:
        return ""


def summarize(failure: Failure) -> str:
    """A failure on one line."""
    return f"{failure.handler}, handling {failure.event.type}: {show_error(failure.error)}"


def tell(failure: Failure, recent: Iterable[Receipt]) -> str:
    """A failure as a test's message shows it: the event, the handler, the error, what caused it.

    ``recent`` is what has been published of late.
    """
    event, attempts = failure.event, failure.letter.attempts
    how_often = "" if attempts == 1 else f" ({attempts} attempts)"
    trace = "".join(traceback.format_exception(failure.error))
    tree = show_tree(recent, failure.receipt)
    return (
        f"{failure.handler} failed handling {event.type} {event.id}{how_often}:\n{_indent(trace)}\n"
        f"  The event, what caused it, and what it caused:\n{_indent(tree)}"
    )


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
