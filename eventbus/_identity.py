"""Identities of events: cheap to give, unique across threads, forks and processes.

An event gets a serial number; its id is text made from that number when somebody first asks. The
text must stay the same for the life of the event, also in a child process that inherited the
event by ``fork``, and the child's new events must not get the ids of the parent's. So the
numbers are never reset, and a fork begins a new *era*: numbers from here on have another prefix.
"""

from __future__ import annotations

import itertools
import os
from bisect import bisect_right

_count = itertools.count(1)

next_serial = _count.__next__
"""The next serial number. One step of a C iterator: safe from any thread."""

_first_serials = [0]
_prefixes = [os.urandom(10).hex()]


def identity(serial: int) -> str:
    """The id that belongs to a serial number: ``evt_``, 80 random bits and the number, in hex."""
    era = bisect_right(_first_serials, serial) - 1
    return f"evt_{_prefixes[era]}{serial:08x}"


def _begin_era() -> None:
    _prefixes.append(os.urandom(10).hex())
    _first_serials.append(next_serial())


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows cannot fork
    os.register_at_fork(after_in_child=_begin_era)
