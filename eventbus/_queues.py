"""The queue of a subscription with ``key``: in order within a key, in parallel across keys.

The events of one key stand in a *lane*. At most one event of a lane is in the hands of a handler;
the lanes that have something to give and are not busy stand in a line of their own. A plain
subscription uses a ``collections.deque`` instead, which needs no words.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventbus.receipt import Receipt


class Lane:
    """The waiting events of one key, and whether one of them is being handled."""

    __slots__ = ("busy", "entries", "key", "stuck")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.entries: deque[Receipt] = deque()
        self.busy = False
        self.stuck = False
        """It could not be forgotten, for its key cannot be compared, and serves on if it can be."""


class KeyedQueue:
    """Events by key. Every operation takes constant time, whatever the number of keys."""

    __slots__ = ("_lanes", "_order", "_ready")

    def __init__(self) -> None:
        self._lanes: dict[Hashable, Lane] = {}
        self._order: OrderedDict[Receipt, Lane] = OrderedDict()
        """All that is queued, oldest first. An OrderedDict drops its oldest in constant time."""
        self._ready: OrderedDict[Lane, None] = OrderedDict()
        """Lanes that have an event to give and are not busy, in the order in which they got so."""

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Receipt]:
        """All that is queued, oldest first."""
        return iter(self._order)

    @property
    def ready(self) -> bool:
        """Whether `take` has something to give."""
        return bool(self._ready)

    def lane_of(self, receipt: Receipt) -> Lane | None:
        """The lane in which an event stands; None if it is not queued."""
        return self._order.get(receipt)

    def append(self, receipt: Receipt, key: Hashable) -> None:
        """Queue an event behind the others of its key."""
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key)
        lane.entries.append(receipt)
        self._order[receipt] = lane
        if not lane.busy:
            self._ready[lane] = None

    def take(self) -> tuple[Receipt, Lane]:
        """The first event of the lane that has been ready longest. The lane is busy from now on."""
        lane, _ = self._ready.popitem(last=False)
        lane.busy = True
        receipt = lane.entries.popleft()
        del self._order[receipt]
        return receipt, lane

    def release(self, lane: Lane) -> None:
        """The handler is through with what it took from this lane."""
        lane.busy = False
        if lane.entries:
            self._ready[lane] = None
        else:
            self._forget(lane)

    def release_all(self) -> None:
        """Nobody has anything of any lane in hands any more."""
        for lane in [lane for lane in self._lanes.values() if lane.busy]:
            self.release(lane)

    def popleft(self) -> Receipt:
        """Remove the oldest event that no handler has, for ``drop_oldest`` and for the end."""
        receipt, lane = self._order.popitem(last=False)
        lane.entries.popleft()
        if not lane.entries and not lane.busy:
            self._ready.pop(lane, None)
            self._forget(lane)
        return receipt

    def check(self) -> None:
        """Assert that the three views agree. For debug mode."""
        lanes = list(self._lanes.values())
        assert len(self._order) == sum(len(lane.entries) for lane in lanes), "lanes lost count"
        for lane in lanes:
            assert lane.busy or lane.entries or lane.stuck, "an empty lane was kept"
            assert (lane in self._ready) == (bool(lane.entries) and not lane.busy), "a lane is lost"

    def _forget(self, lane: Lane) -> None:
        try:
            if self._lanes.get(lane.key) is lane:
                del self._lanes[lane.key]
        except Exception:  # the application's own `__eq__`, which another key of its hash was asked
            lane.stuck = True
