"""How far the time in a signature may be from now, and how long a replay could pass."""

from __future__ import annotations

import re
from typing import Final

from eventbus.errors import OptionError
from eventbus.webhooks.errors import TimestampTooNew, TimestampTooOld

MOST: Final = 3600
"""The widest tolerance, in seconds."""

is_timestamp: Final = re.compile(rb"[0-9]{1,12}").fullmatch
"""Whether a value is UNIX seconds as all schemes write them. ``int`` and ``float`` take much else:
signs, spaces, underscores, exponents, the digits of other scripts."""


def check_seconds(name: str, value: float) -> float:
    """An option in seconds, from 1 to 3,600. Raises ``OptionError`` for anything else."""
    if not isinstance(value, int | float) or not 1 <= value <= MOST:
        raise OptionError(f"{name}={value!r}: pass seconds from 1 to {MOST}")
    return value


def check_time(signed: float, now: float, tolerance: float) -> float:
    """Seconds for which a request signed then will still pass; both times in UNIX seconds.

    Raises ``TimestampTooOld`` or ``TimestampTooNew``.
    """
    age = now - signed
    if age > tolerance:
        raise TimestampTooOld(f"signed {age:.0f} s ago; {tolerance:g} s are allowed", age)
    if age < -tolerance:
        raise TimestampTooNew(f"signed {-age:.0f} s ahead; {tolerance:g} s are allowed", -age)
    return tolerance - age
