"""When a failed attempt is tried again: a pure policy, without a clock and without state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from eventbus.errors import OptionError

__all__ = ["Retry"]


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, and after which pauses, a handler that raised is run again.

    The pause after attempt *n* is ``initial * factor ** (n - 1)`` seconds, at most ``maximum``,
    lengthened (never shortened) by a random part of up to ``jitter`` of itself, so that many
    failed deliveries do not come back in the same moment.

    >>> Retry(attempts=3).delay(1, ValueError(), random=lambda: 0.0)
    0.1
    >>> Retry(attempts=3).delay(3, ValueError(), random=lambda: 0.0) is None
    True

    Raises ``OptionError`` for values out of range and for an ``on`` that is not made of
    exception classes.
    """

    attempts: int = 3
    """How many attempts in all, the first included; at least 1."""
    initial: float = 0.1
    """The pause after the first attempt, in seconds."""
    factor: float = 2
    """What each pause is multiplied by for the next; at least 1."""
    maximum: float = 60
    """The longest pause, in seconds, before jitter."""
    jitter: float = 0.2
    """The largest random lengthening, as a share of the pause: 0.2 is up to 20 % longer."""
    on: tuple[type[BaseException], ...] = (Exception,)
    """Errors worth another attempt. What is no ``Exception`` never is."""

    def __post_init__(self) -> None:
        if (
            not isinstance(self.attempts, int)
            or isinstance(self.attempts, bool)
            or self.attempts < 1
        ):
            raise OptionError(f"attempts={self.attempts!r}: pass a whole number of at least 1")
        for name, least in (("initial", 0), ("factor", 1), ("maximum", 0), ("jitter", 0)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not math.isfinite(value) or value < least:
                raise OptionError(f"{name}={value!r}: pass a finite number of at least {least}")
        classes = self.on if isinstance(self.on, tuple) else (self.on,)
        if not all(isinstance(cls, type) and issubclass(cls, BaseException) for cls in classes):
            raise OptionError(f"on={self.on!r}: pass exception classes, for example on=(OSError,)")
        object.__setattr__(self, "on", classes)

    def delay(
        self, attempt: int, error: BaseException, *, random: Callable[[], float]
    ) -> float | None:
        """The pause before the next attempt in seconds, or None to give up.

        ``attempt`` is the number of the one that failed, counted from 1; ``random`` returns a
        number from 0 up to 1.
        """
        if attempt >= self.attempts or not isinstance(error, Exception):
            return None
        if not isinstance(error, self.on):
            return None
        try:
            pause = min(self.initial * float(self.factor) ** (attempt - 1), self.maximum)
        except OverflowError:
            pause = self.maximum if self.initial else 0.0
        return pause * (1 + self.jitter * random())
