"""Where a bus is in its life, and what is counted there."""

from __future__ import annotations

import enum
import itertools
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from eventbus._engine import Engine

COUNTS: Final = ("accepted", "handled", "failed", "dropped", "cancelled")
"""The sums that every subscription keeps. What has not ended is in none but the first."""

instances: weakref.WeakSet[Engine] = weakref.WeakSet()
"""Every bus of this process."""

serials = itertools.count()


def every_bus() -> list[Engine]:
    """The buses of this process. Another thread may be making one at this moment."""
    while True:
        try:
            return list(instances)
        except RuntimeError:
            continue


class State(enum.Enum):
    """Where a bus is in its life: open, entered, closing, closed, and entered again."""

    OPEN = "open"
    ENTERED = "entered"
    CLOSING = "closing"
    CLOSED = "closed"
