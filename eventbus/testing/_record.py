"""What happens on a bus while somebody looks: the one place where the kit listens to it.

A record hangs on a bus as long as it has viewers (captures, expectations, the checks at the end of
a test), and changes nothing about how the bus works: no subscription, no hook, the fast path stays
on. Each viewer is told of every publication and of every delivery that failed for good.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from eventbus import DeadLetter, Event, EventBus, Subscription
    from eventbus.receipt import Receipt

MOST_RECENT: Final = 10_000
"""How many publications are kept to tell what caused a failure."""


class Failure:
    """One delivery that failed for good."""

    __slots__ = ("expected", "handler", "letter", "owner", "receipt")

    def __init__(self, letter: DeadLetter, owner: Subscription, receipt: Receipt) -> None:
        self.letter = letter
        """Its dead letter, whether or not the bus still keeps that."""
        self.owner = owner
        """Whose delivery it was."""
        self.receipt = receipt
        """The publication, or redelivery, to which it belonged."""
        self.handler = owner._describe()
        """What ran, and the file and line where it is written."""
        self.expected = False
        """A test has said that it provokes this one."""

    @property
    def event(self) -> Event[Any]:
        """The event, as it was published."""
        return self.letter.event

    @property
    def error(self) -> BaseException:
        """What the last attempt raised."""
        return self.letter.error

    @property
    def is_looked_at(self) -> bool:
        """Whether somebody has asked for outcomes among which it is. Those of streams are not."""
        return self.receipt._waiters is not None and self.owner._reader is None


class Viewer(Protocol):
    """Somebody who looks at a bus."""

    def accepted(self, receipt: Receipt, deliveries: int) -> None:
        """An event was accepted, or redelivered, for so many subscriptions."""

    def failed(self, failure: Failure) -> None:
        """A delivery has failed for good."""


class Record:
    """What viewers of one bus share."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = weakref.ref(bus)
        self._viewers: tuple[Viewer, ...] = ()
        self.recent: deque[Receipt] = deque(maxlen=MOST_RECENT)
        """The last publications and redeliveries, oldest first."""

    def _accepted(self, receipt: Receipt, deliveries: int) -> None:
        self.recent.append(receipt)
        for viewer in self._viewers:
            viewer.accepted(receipt, deliveries)

    def _failed(self, letter: DeadLetter, owner: Subscription, receipt: Receipt) -> None:
        failure = Failure(letter, owner, receipt)
        for viewer in reversed(self._viewers):  # the innermost block has the first word
            viewer.failed(failure)

    def add(self, viewer: Viewer) -> None:
        """Somebody looks from now on."""
        bus = self._bus()
        assert bus is not None
        if not self._viewers:
            bus._witnesses = (*bus._witnesses, self._accepted)
            bus._failure_witnesses = (*bus._failure_witnesses, self._failed)
        self._viewers = (*self._viewers, viewer)

    def remove(self, viewer: Viewer) -> None:
        """Somebody has seen enough. Idempotent."""
        if viewer not in self._viewers:
            return
        self._viewers = tuple(each for each in self._viewers if each is not viewer)
        if not self._viewers:
            bus = self._bus()
            assert bus is not None  # viewers hold it
            bus._witnesses = tuple(each for each in bus._witnesses if each != self._accepted)
            bus._failure_witnesses = tuple(
                each for each in bus._failure_witnesses if each != self._failed
            )
            self.recent.clear()


_records: weakref.WeakKeyDictionary[EventBus, Record] = weakref.WeakKeyDictionary()


def record_of(bus: EventBus) -> Record:
    """The record of a bus, made when somebody first looks.

    Raises ``TypeError`` for what is no bus.
    """
    check_bus(bus)
    if bus not in _records:
        _records[bus] = Record(bus)
    return _records[bus]


def check_bus(bus: object) -> None:
    """Raise ``TypeError`` for what is no bus."""
    from eventbus import EventBus

    if not isinstance(bus, EventBus):
        raise TypeError(f"{bus!r} is no EventBus: pass the bus of the application first")
