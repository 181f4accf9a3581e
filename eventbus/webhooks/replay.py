"""Which requests have been seen: each becomes one event, however often it is sent or replayed.

A key that was simply written down when its request came in would turn a failed publish into a lost
event: the sender's retry would be taken for a duplicate. So it takes two steps::

                 claim                      done
    (unknown) ----------> claimed -----------------------> done
        ^                  |   |                             |
        |      release     |   | its lease of 60 s ran out:  | forgotten, at the earliest when
        +------------------+   | the next claim takes over   | no replay would verify any more
        |                      +--------> claimed            |
        +----------------------------------------------------+

`MemoryReplayStore` is for one process, `SqliteReplayStore` for several and for restarts. Anything
else that fulfils `ReplayStore` will do; `eventbus.testing.contracts` has the tests for it.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import Final, NamedTuple, NoReturn, Protocol

from eventbus.errors import OptionError
from eventbus.webhooks.errors import InProgress, ReplayStoreFull

__all__ = ["KEEP", "LEASE", "Claim", "MemoryReplayStore", "ReplayStore"]

LEASE: Final = 60.0
"""For how many seconds a claim holds that nobody renews: so long a crash keeps a request out."""

KEEP: Final = 7 * 24 * 3600.0
"""For how many seconds a store remembers if there is room: longer than senders try again."""

_SLACK: Final = 1024
"""How many stale entries the heap may hold beside one for each key."""


class Claim(NamedTuple):
    """That one caller, and nobody else, may turn the request of a key into an event."""

    key: bytes
    token: int
    """Which claim of that key: one that was taken over changes nothing any more."""


class ReplayStore(Protocol):
    """Remembers keys of requests. What follows is the guarantee that receivers build on.

    - Of any number of concurrent ``claim`` calls for one key, in any number of processes that use
      the store, one gets the `Claim`; the others raise ``InProgress`` until that claim is released
      or its lease runs out, and get None once it is done.
    - Once ``done`` has returned, the key is not forgotten for ``remember`` seconds after the last
      ``claim`` that named it, whatever else is stored. Beyond that it may be. A store without
      room for another key raises ``ReplayStoreFull``; it never makes room by forgetting sooner.
    - After ``release`` the key is unknown again.
    - A claim that is neither done nor released, because its process died, holds for its lease of
      60 s from the claim or the last ``renew``. Then the next ``claim`` takes over, and the old
      claim can change nothing any more. What the dead process had published is published twice.
    - Cancelling ``claim`` leaves the key as it was, or claimed until its lease runs out. Cancelling
      ``done``, ``release`` or ``renew`` leaves it as it was or as it would have become.

    Time comes from the caller: ``now`` is UNIX time in seconds. Processes that share a store must
    agree on it to within a few seconds. A clock that is set back prolongs leases by that much.

    Not promised: fairness, and that a key is remembered across a restart. Methods may raise
    anything; a receiver answers 503 then, and publishes nothing.
    """

    async def claim(self, key: bytes, remember: float, now: float) -> Claim | None:
        """Claim a key of 32 bytes; None if it is done. ``remember`` is in seconds from ``now``.

        Raises ``InProgress`` while somebody else has it, and ``ReplayStoreFull``.
        """
        ...

    async def renew(self, claim: Claim, now: float) -> bool:
        """Let the lease run for 60 s from ``now``. False if the claim is over, or taken over."""
        ...

    async def done(self, claim: Claim) -> None:
        """The event is published: whoever comes with this key is a duplicate from now on."""
        ...

    async def release(self, claim: Claim) -> None:
        """No event was published: the next one with this key may try."""
        ...


class _Entry:
    """What the memory store knows of a key."""

    __slots__ = ("forget", "lease", "protected", "token")

    token: int
    lease: float
    """Until when it is claimed, in UNIX seconds; infinity once it is done."""
    protected: float
    """Until when it must not be forgotten."""
    forget: float
    """From when on it counts as unknown."""


class MemoryReplayStore:
    """Remembers in the memory of one process, for one event loop at a time.

    ``capacity`` is how many keys there may be at once, about 400 bytes each. When they are all
    taken, the oldest that no longer needs to be remembered goes; if each still must be, ``claim``
    raises ``ReplayStoreFull``. ``keep`` is how many seconds a key is remembered if there is room.

    A restart forgets everything, and each worker process has a store of its own: a sender's retry
    may then be published twice. `SqliteReplayStore` remembers.

    Raises ``OptionError`` for values out of range.
    """

    def __init__(self, capacity: int = 100_000, *, keep: float = KEEP) -> None:
        if not isinstance(capacity, int) or isinstance(capacity, bool) or capacity < 1:
            raise OptionError(f"capacity={capacity!r}: pass a whole number of at least 1")
        self._capacity = capacity
        self._keep = check_keep(keep)
        self._entries: dict[bytes, _Entry] = {}
        self._tokens = itertools.count(1)
        self._oldest: list[tuple[float, int, bytes]] = []
        """A heap of (protected, token, key). What an entry says now may be later than what stands
        here, and an entry may be gone: looked at only when room is needed."""

    async def claim(self, key: bytes, remember: float, now: float) -> Claim | None:
        """As `ReplayStore` says."""
        return self.claim_nowait(key, remember, now)

    async def renew(self, claim: Claim, now: float) -> bool:
        """As `ReplayStore` says."""
        entry = self._mine(claim)
        if entry is None:
            return False
        entry.lease = now + LEASE
        entry.protected = max(entry.protected, entry.lease)
        entry.forget = max(entry.forget, entry.protected)
        return True

    async def done(self, claim: Claim) -> None:
        """As `ReplayStore` says."""
        self.done_nowait(claim)

    async def release(self, claim: Claim) -> None:
        """As `ReplayStore` says."""
        self.release_nowait(claim)

    def claim_nowait(self, key: bytes, remember: float, now: float) -> Claim | None:
        """``claim`` without a wait, as there is none."""
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= self._capacity:
                self._make_room(now)
            entry = self._entries[key] = _Entry()
            entry.protected = -math.inf
        elif entry.forget > now:
            entry.protected = max(entry.protected, now + remember)
            entry.forget = max(entry.forget, entry.protected)
            if entry.lease == math.inf:
                return None
            if entry.lease > now:
                raise_in_progress()
        entry.token = next(self._tokens)
        entry.lease = now + LEASE
        entry.protected = max(entry.protected, entry.lease, now + remember)
        entry.forget = max(entry.protected, now + self._keep)
        self._note(entry, key)
        return Claim(key, entry.token)

    def done_nowait(self, claim: Claim) -> None:
        """``done`` without a wait."""
        entry = self._mine(claim)
        if entry is not None:
            entry.lease = math.inf

    def release_nowait(self, claim: Claim) -> None:
        """``release`` without a wait."""
        if self._mine(claim) is not None:
            del self._entries[claim.key]

    def __len__(self) -> int:
        """How many keys it holds, those that it would no longer need included."""
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<MemoryReplayStore: {len(self)} of {self._capacity} keys>"

    def _mine(self, claim: Claim) -> _Entry | None:
        entry = self._entries.get(claim.key)
        if entry is None or entry.token != claim.token or entry.lease == math.inf:
            return None
        return entry

    def _note(self, entry: _Entry, key: bytes) -> None:
        heapq.heappush(self._oldest, (entry.protected, entry.token, key))
        if len(self._oldest) > 2 * len(self._entries) + _SLACK:  # most of it is stale
            self._oldest = [(e.protected, e.token, key) for key, e in self._entries.items()]
            heapq.heapify(self._oldest)

    def _make_room(self, now: float) -> None:
        """Forget the oldest key that need not be remembered. Raises ``ReplayStoreFull``."""
        while self._oldest and self._oldest[0][0] <= now:
            _, token, key = heapq.heappop(self._oldest)
            entry = self._entries.get(key)
            if entry is None or entry.token != token:
                continue
            if entry.protected <= now:
                del self._entries[key]
                return
            heapq.heappush(self._oldest, (entry.protected, token, key))
        raise ReplayStoreFull(
            f"all {self._capacity:,} keys of the replay store must still be remembered: "
            "give it more capacity"
        )


def check_keep(keep: float) -> float:
    """A number of seconds of at least a lease. Raises ``OptionError``."""
    if isinstance(keep, bool) or not isinstance(keep, int | float) or not LEASE <= keep < math.inf:
        raise OptionError(f"keep={keep!r}: pass a number of seconds, {LEASE:.0f} or more")
    return float(keep)


def raise_in_progress() -> NoReturn:
    """Somebody else has claimed the key."""
    raise InProgress("another request with this key is being handled")
