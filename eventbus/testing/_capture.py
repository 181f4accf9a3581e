"""A recorder of what is published, and assertions that say what was published instead.

Here, as in the rest of the kit, whatever fails a test hides its frames from pytest's traceback
(``__tracebackhide__``), so that the last line shown is the test's own.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from eventbus._handler import describe_callable
from eventbus.testing._block import Block
from eventbus.testing._describe import cut, cut_list, number, show_error, show_event, times
from eventbus.testing._record import Failure, record_of
from eventbus.testing._replace import is_handler_of, not_found
from eventbus.testing._settle import SETTLE_SECONDS
from eventbus.topics import Topic, check_pattern, matches

if TYPE_CHECKING:
    from eventbus import Event, EventBus, Subscription
    from eventbus._delivery import Delivery
    from eventbus.receipt import Receipt

Pattern: TypeAlias = str | Topic[Any]
Where: TypeAlias = Callable[["Event[Any]"], object]

MOST_ELSEWHERE = 20
"""How many topics are remembered to which a capture does not listen."""


class Captured(Block):
    """What was published while a `capture` ran, and what became of it.

    Assertions look at what has happened so far: inside the block, ``await settle(bus)`` first.
    Events that the bus accepted in the block count; of one that was redelivered there, only
    `assert_handled_by` knows.
    """

    def __init__(self, bus: EventBus, patterns: tuple[str, ...], timeout: float | None) -> None:
        super().__init__(bus, timeout)
        self._patterns = patterns
        self._receipts: list[Receipt] = []
        self._redelivered: list[Receipt] = []
        self._elsewhere: dict[str, None] = {}
        """Topics of other events."""
        self._asserted: set[Receipt] = set()
        """Those that an assertion has named."""

    # As a viewer of the bus.

    def accepted(self, receipt: Receipt, deliveries: int) -> None:
        """Write down what matches."""
        topic = receipt.event.type
        if any(matches(pattern, topic) for pattern in self._patterns):
            (self._redelivered if receipt._redelivered else self._receipts).append(receipt)
        elif len(self._elsewhere) < MOST_ELSEWHERE:
            self._elsewhere[topic] = None

    def failed(self, failure: Failure) -> None:
        """The publication knows it itself."""

    # As a block.

    def _begin(self) -> None:
        record_of(self._bus).add(self)

    def _end(self, error: BaseException | None) -> None:
        record_of(self._bus).remove(self)

    # What was captured.

    @property
    def events(self) -> list[Event[Any]]:
        """The events, in the order in which the bus accepted them."""
        return [receipt.event for receipt in self._receipts]

    def assert_published(
        self, topic: Pattern, *, times: int | None = None, where: Where | None = None
    ) -> list[Event[Any]]:
        """Assert that matching events were published, and return them, in order.

        ``topic`` may be a pattern; ``**`` is all that was captured. ``times`` is how often; by
        default at least once. ``where`` has to be true of an event for it to count.

        Raises ``AssertionError`` that lists what was published instead, nearest first;
        ``ValueError`` for topics that this capture does not listen to; and what ``where`` raises.
        """
        __tracebackhide__ = True
        found = self._find(topic, where)
        if not (found if times is None else len(found) == times):
            raise AssertionError(
                f"{_name_all(topic, where)} was {_times(len(found))} published, "
                f"wanted {_wanted(times)}.\n{self._instead(str(topic), where)}"
            )
        return self._name(found)

    def assert_not_published(self, topic: Pattern = "**", *, where: Where | None = None) -> None:
        """Assert that no matching event was published; by default, no event that was captured.

        Raises ``AssertionError`` that lists them, and what `assert_published` raises.
        """
        __tracebackhide__ = True
        found = self._find(topic, where)
        if found:
            raise AssertionError(
                f"{_name_all(topic, where)} was {_times(len(found))} published, wanted never:\n"
                + cut(show_event(receipt.event) for receipt in found)
            )

    def assert_nothing_else(self) -> None:
        """Assert that each captured event was named by an assertion before this one.

        Raises ``AssertionError`` that lists the others.
        """
        __tracebackhide__ = True
        others = [receipt for receipt in self._receipts if receipt not in self._asserted]
        if others:
            raise AssertionError(
                f"nothing else was to be published, and {number(len(others), 'event')} "
                + ("was:\n" if len(others) == 1 else "were:\n")
                + cut(show_event(receipt.event) for receipt in others)
            )

    def assert_order(self, topics: Iterable[Pattern]) -> list[Event[Any]]:
        """Assert that events were published in this order, others between them or not.

        Returns them. Raises ``AssertionError`` that shows how far the order went, and what
        `assert_published` raises.
        """
        __tracebackhide__ = True
        if isinstance(topics, str | Topic):
            raise TypeError(f"{topics!s} is one topic: pass a list of them")
        wanted = [self._check(topic) for topic in topics]
        found: list[Receipt] = []
        rest = iter(self._receipts)
        for pattern in wanted:
            receipt = next((each for each in rest if matches(pattern, each.event.type)), None)
            if receipt is None:
                after = f" after {', '.join(wanted[: len(found)])}" if found else ""
                raise AssertionError(f"{pattern} was not published{after}.\n{self._so_far(found)}")
            found.append(receipt)
        return self._name(found)

    def assert_handled_by(
        self,
        handler: Callable[[Event[Any]], object] | str,
        topic: Pattern | None = None,
        *,
        times: int | None = None,
    ) -> list[Event[Any]]:
        """Assert that a handler has handled captured events, and return them.

        ``handler`` is the function (also while `replace` has put another in its place), or the
        name of its subscription. ``topic``, a pattern, counts only those events; ``times`` is how
        many there must be, by default at least one. An event counts once for each subscription of
        the function. What failed, was dropped or has not ended is not handled.

        Raises ``AssertionError`` that says what became of the deliveries instead, and what
        `assert_published` raises.
        """
        __tracebackhide__ = True
        pattern = None if topic is None else self._check(topic)
        found: list[Receipt] = []
        mine: list[str] = []
        others: list[str] = []
        for receipt in [*self._receipts, *self._redelivered]:
            if pattern is not None and not matches(pattern, receipt.event.type):
                continue
            ended = {delivery.owner: delivery for delivery in receipt._ended}
            for subscription in receipt._subscriptions:
                delivery = ended.get(subscription)
                is_mine = is_handler_of(handler, subscription)
                if is_mine and delivery is not None and delivery.status == "handled":
                    found.append(receipt)
                (mine if is_mine else others).append(_end_of(receipt, subscription, delivery))
        if not (found if times is None else len(found) == times):
            on = "" if topic is None else f" on {topic}"
            told = f"{_describe(handler)} has {_times(len(found))} handled an event{on}, "
            told += f"wanted {_wanted(times)}.\n"
            if not mine and not any(
                is_handler_of(handler, each) for each in self._bus.subscriptions
            ):
                told += f"{not_found(self._bus, handler)}\n"
            if mine or others:
                raise AssertionError(f"{told}Deliveries:\n{cut(mine + others)}")
            raise AssertionError(told + self._instead(str(topic or "**"), None))
        return self._name(found)

    # Looking.

    def _check(self, topic: Pattern) -> str:
        __tracebackhide__ = True
        pattern = topic.name if isinstance(topic, Topic) else check_pattern(topic)
        if pattern != "**" and not any(covers(mine, pattern) for mine in self._patterns):
            raise ValueError(
                f"this capture listens to {', '.join(map(repr, self._patterns))}, "
                f"and so cannot tell what was published on {pattern!r}"
            )
        return pattern

    def _find(self, topic: Pattern, where: Where | None) -> list[Receipt]:
        __tracebackhide__ = True
        pattern = self._check(topic)
        return [
            receipt
            for receipt in self._receipts
            if matches(pattern, receipt.event.type) and (where is None or where(receipt.event))
        ]

    def _name(self, found: list[Receipt]) -> list[Event[Any]]:
        """An assertion has named these."""
        self._asserted.update(found)
        return [receipt.event for receipt in found]

    # Telling.

    def _instead(self, wanted: str, where: Where | None) -> str:
        """What was published, nearest first."""

        def distance(receipt: Receipt) -> float:
            return -difflib.SequenceMatcher(None, wanted, receipt.event.type).ratio()

        lines = []
        for receipt in sorted(self._receipts, key=distance):
            refused = (
                where is not None
                and matches(wanted, receipt.event.type)
                and not where(receipt.event)
            )
            verdict = f"   ({_describe(where)} is false)" if refused else ""
            lines.append(show_event(receipt.event) + verdict)
        return f"Published, nearest first:\n{cut(lines)}" if lines else self._nothing()

    def _so_far(self, found: list[Receipt]) -> str:
        """What was published, in order."""
        lines = [
            show_event(each.event) + ("   <-- found" if each in found else "")
            for each in self._receipts
        ]
        return f"Published, in this order:\n{cut(lines)}" if lines else self._nothing()

    def _nothing(self) -> str:
        nothing = f"Nothing was published on {', '.join(self._patterns)}"
        elsewhere = cut_list(list(self._elsewhere), most=MOST_ELSEWHERE)
        return f"{nothing}, but on {elsewhere}." if elsewhere else f"{nothing}."

    def __repr__(self) -> str:
        return f"<Captured {number(len(self._receipts), 'event')} on {', '.join(self._patterns)}>"


def capture(bus: EventBus, *patterns: Pattern, timeout: float | None = SETTLE_SECONDS) -> Captured:
    """Write down what is published on a bus while a block runs; without patterns, everything.

    ``async with`` settles the bus at the end of the block, for at most ``timeout`` seconds, so
    that assertions after it see everything. A plain ``with``, for tests that are no coroutines,
    does not. The bus works as without it.

    >>> import asyncio
    >>> from eventbus import EventBus
    >>> bus = EventBus()
    >>> async def main():
    ...     async with capture(bus, "invoice.*") as captured:
    ...         await bus.publish("invoice.paid", {"id": "in_1"})
    ...     captured.assert_published("invoice.paid", times=1)
    ...     captured.assert_nothing_else()
    >>> asyncio.run(main())

    Raises ``PatternError``, ``TypeError`` for what is no bus, and ``RuntimeError`` for a second
    block.
    """
    names = tuple(p.name if isinstance(p, Topic) else check_pattern(p) for p in patterns)
    return Captured(bus, names or ("**",), timeout)


def covers(wide: str, narrow: str) -> bool:
    """Whether a pattern matches every topic that another one matches."""
    return matches(wide, narrow) and (not narrow.endswith("**") or wide.endswith("**"))


def _end_of(receipt: Receipt, subscription: Subscription, delivery: Delivery | None) -> str:
    """One delivery on one line."""
    status = "pending" if delivery is None else str(delivery.status)
    error = None if delivery is None else delivery.error
    why = "" if error is None else f": {show_error(error)}"
    return f"{subscription._describe()} {status}{why}  {show_event(receipt.event)}"


_times = times
"""Under a name that no parameter hides."""


def _wanted(count: int | None) -> str:
    return "at least once" if count is None else _times(count)


def _name_all(topic: Pattern, where: Where | None) -> str:
    return f"{topic!s}" if where is None else f"{topic!s} where {_describe(where)}"


def _describe(what: object) -> str:
    return what if isinstance(what, str) else describe_callable(what)
