"""Deliveries that failed for good, kept with their errors: a bounded ring, the oldest go first."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventbus.event import Event

__all__ = ["DeadLetter", "DeadLetters"]


@dataclass(frozen=True, slots=True, eq=False)
class DeadLetter:
    """One delivery that failed for good."""

    event: Event[Any]
    """The event, as it was published."""
    subscription: str
    """The name of the subscription."""
    error: BaseException
    """What the last attempt raised, with its traceback."""
    attempts: int
    """How often the handler was run; 0 if a predicate raised."""
    timestamp: float
    """When it failed: UNIX time in seconds."""
    _number: int = field(default=-1, repr=False)
    """Which subscription it was, whatever is called by its name now."""
    _bus: int = field(default=-1, repr=False)
    """And on which bus: each counts its own."""

    @property
    def time(self) -> datetime:
        """When it failed, in UTC."""
        return datetime.fromtimestamp(self.timestamp, UTC)

    def __repr__(self) -> str:
        return f"<DeadLetter of {self.event!r} from {self.subscription!r}: {self.error!r}>"


class DeadLetters:
    """The dead letters of one bus, oldest first. Iterate over it, index it, take its length.

    Hand a letter to ``bus.redeliver``, or ``discard`` it once it has been dealt with.
    """

    def __init__(self, maximum: int) -> None:
        self._letters: deque[DeadLetter] = deque(maxlen=maximum)
        self.lost = 0
        """How many letters had to go because the ring was full."""

    @property
    def maximum(self) -> int:
        """How many letters the ring keeps."""
        return self._letters.maxlen or 0

    def discard(self, letter: DeadLetter) -> None:
        """Forget a letter. Nothing happens if it is not here (any more)."""
        with contextlib.suppress(ValueError):
            self._letters.remove(letter)

    def clear(self) -> None:
        """Forget all letters; ``lost`` does not count them."""
        self._letters.clear()

    def _add(self, letter: DeadLetter) -> None:
        if len(self._letters) == self.maximum:
            self.lost += 1
        self._letters.append(letter)

    def __len__(self) -> int:
        return len(self._letters)

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(tuple(self._letters))

    def __contains__(self, letter: object) -> bool:
        return letter in self._letters

    def __getitem__(self, index: int) -> DeadLetter:
        return self._letters[index]

    def __repr__(self) -> str:
        return f"<DeadLetters: {len(self)} of at most {self.maximum}, {self.lost} lost>"
