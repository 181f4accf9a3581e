"""`KeyedQueue` against a plain model of it, with its own check after each step."""

from __future__ import annotations

from collections.abc import Hashable
from contextvars import copy_context

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from eventbus import Event, EventBus, Receipt
from eventbus._queues import KeyedQueue, Lane
from eventbus.receipt import new_receipt

BUS = EventBus()


def receipt() -> Receipt:
    """Something to queue."""
    return new_receipt(BUS, Event("a"), copy_context(), 0.0)


class Model(RuleBasedStateMachine):
    """One list in order of arrival, the busy keys, and the order in which keys got ready."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = KeyedQueue()
        self.entries: list[tuple[Receipt, Hashable]] = []
        self.busy: dict[Hashable, Lane] = {}
        self.line: list[Hashable] = []

    def make_ready(self, key: Hashable) -> None:
        if key not in self.line and key not in self.busy and self.first(key) is not None:
            self.line.append(key)

    def first(self, key: Hashable) -> Receipt | None:
        return next((entry for entry, its in self.entries if its == key), None)

    @rule(key=st.integers(0, 4))
    def append(self, key: int) -> None:
        entry = receipt()
        self.queue.append(entry, key)
        self.entries.append((entry, key))
        self.make_ready(key)

    @precondition(lambda self: self.line)
    @rule()
    def take(self) -> None:
        entry, lane = self.queue.take()
        key = self.line.pop(0)
        assert lane.key == key
        assert entry is self.first(key)
        self.entries.remove((entry, key))
        self.busy[key] = lane

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(list(self.busy)))
        self.queue.release(self.busy.pop(key))
        self.make_ready(key)

    @precondition(lambda self: self.entries)
    @rule()
    def popleft(self) -> None:
        entry, key = self.entries.pop(0)
        assert self.queue.popleft() is entry
        if key in self.line and self.first(key) is None:
            self.line.remove(key)

    @invariant()
    def agrees(self) -> None:
        self.queue.check()
        assert len(self.queue) == len(self.entries)
        assert bool(self.queue) == bool(self.entries)
        assert list(self.queue) == [entry for entry, _ in self.entries]
        assert self.queue.ready == bool(self.line)
        for entry, key in self.entries:
            lane = self.queue.lane_of(entry)
            assert lane is not None
            assert lane.key == key
            assert lane.busy == (key in self.busy)
        # Nothing is kept of keys that are through: memory is bound by what is queued and running.
        assert set(self.queue._lanes) == {key for _, key in self.entries} | set(self.busy)


TestKeyedQueue = Model.TestCase
TestKeyedQueue.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_an_event_that_is_not_queued_has_no_lane() -> None:
    """Taken or never seen: no lane."""
    queue, entry = KeyedQueue(), receipt()
    assert queue.lane_of(entry) is None
    queue.append(entry, "k")
    queue.take()
    assert queue.lane_of(entry) is None


def test_a_busy_lane_outlives_its_events() -> None:
    """An event that comes while its key's last one runs waits in the same lane."""
    queue = KeyedQueue()
    queue.append(receipt(), "k")
    _, lane = queue.take()
    queue.append(receipt(), "k")
    assert not queue.ready
    queue.popleft()
    queue.append(later := receipt(), "k")
    queue.release(lane)
    assert queue.take() == (later, lane)


class Incomparable:
    """A key that collides with its likes and cannot be compared with them."""

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        raise ValueError("cannot be compared")


def test_a_key_that_cannot_be_compared_changes_nothing() -> None:
    """`append` raises what the key's `__eq__` raises, before it has written anything."""
    queue = KeyedQueue()
    queue.append(first := receipt(), Incomparable())
    with pytest.raises(ValueError, match="compared"):
        queue.append(receipt(), Incomparable())
    queue.check()
    assert list(queue) == [first]


@pytest.mark.parametrize("break_it", ["order", "empty lane", "ready"])
def test_check_finds_what_is_broken(break_it: str) -> None:
    """The check itself can fail: each of its three assertions."""
    queue = KeyedQueue()
    queue.append(receipt(), "k")
    if break_it == "order":
        queue._order.clear()
    elif break_it == "ready":
        queue._ready.clear()
    else:
        queue._lanes["other"] = Lane("other")
    with pytest.raises(AssertionError, match=r"lost count|was kept|is lost"):
        queue.check()
