"""The decisions of `_admission` as tables: who gets an event, who must wait, what is too much."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import pytest

from eventbus import CascadeOverflow, Event, EventBus, Receipt, ReentrantCall, _cascade
from eventbus._admission import Verdict, first_full, judge, judge_all
from eventbus.receipt import new_receipt
from tests.helpers import LogLines, pending_nested


def ignore(event: Event[Any]) -> None:
    """A handler that does nothing."""


def raiser(error: BaseException) -> Callable[[Event[Any]], Any]:
    """A predicate that raises."""

    def predicate(event: Event[Any]) -> Any:
        raise error

    return predicate


def receipt_of(bus: EventBus, data: object = None) -> Receipt:
    """A publication that was not accepted yet."""
    return new_receipt(bus, Event("a", data), copy_context(), 0.0)


class NoTruth:
    """Neither true nor false."""

    def __bool__(self) -> bool:
        raise ValueError("no truth")


class NoHash:
    """What `hash` refuses, in its own words."""

    def __hash__(self) -> int:
        raise ValueError("no hash")


BROKEN = LookupError("broken")

JUDGEMENTS: list[tuple[str, dict[str, Any], object]] = [
    # what, options, the key and error of the verdict, or None for no delivery
    ("nothing to ask", {}, (None, None)),
    ("where is true", {"where": lambda e: True}, (None, None)),
    ("where is truthy", {"where": lambda e: [0]}, (None, None)),
    ("where is false", {"where": lambda e: False}, None),
    ("where is falsy", {"where": lambda e: ""}, None),
    ("where looks at the event", {"where": lambda e: e.data == "x"}, (None, None)),
    ("where raises", {"where": raiser(BROKEN)}, (None, BROKEN)),
    ("where has no truth", {"where": lambda e: NoTruth()}, (None, ValueError)),
    ("key", {"key": lambda e: e.data}, ("x", None)),
    ("key is None", {"key": lambda e: None}, (None, None)),
    ("key raises", {"key": raiser(BROKEN)}, (None, BROKEN)),
    ("key has no hash", {"key": lambda e: []}, (None, TypeError)),
    ("key will not be hashed", {"key": lambda e: NoHash()}, (None, ValueError)),
    ("both", {"where": lambda e: 1, "key": lambda e: 7}, (7, None)),
    ("where false, key raises", {"where": lambda e: 0, "key": raiser(BROKEN)}, None),
    (
        "where raises, key too",
        {"where": raiser(BROKEN), "key": raiser(ValueError())},
        (None, BROKEN),
    ),
]


@pytest.mark.parametrize(
    ("options", "expected"), [row[1:] for row in JUDGEMENTS], ids=[row[0] for row in JUDGEMENTS]
)
def test_judge(options: dict[str, Any], expected: tuple[object, Any] | None) -> None:
    """Who gets an event, with which key, or failed with what."""
    bus = EventBus()
    if "key" in options:
        options = {**options, "concurrency": 2}
    sub = bus.subscribe(ignore, "a", **options)
    verdict = judge(bus, receipt_of(bus, "x"), sub)
    if expected is None:
        assert verdict is None
        return
    assert verdict is not None
    key, error = expected
    assert (verdict.subscription, verdict.key) == (sub, key)
    assert verdict.error is error or type(verdict.error) is error


@pytest.mark.parametrize("option", ["where", "key"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(2)])
def test_judge_lets_through_what_ends_programs(option: str, error: BaseException) -> None:
    """`KeyboardInterrupt` and `SystemExit` are nobody's failed delivery; the bus is as before."""
    bus = EventBus()
    options: dict[str, Any] = {option: raiser(error), "concurrency": 2}
    sub = bus.subscribe(ignore, "a", **options)
    with pytest.raises(type(error)):
        judge(bus, receipt_of(bus), sub)
    assert bus._judging is None
    assert not bus._barred


def test_judge_bars_the_bus_only_while_it_asks() -> None:
    """In a predicate the bus knows whom it asks; afterwards it is as it was, closed or not."""
    bus = EventBus()
    seen: list[object] = []

    def look(event: Event[Any]) -> bool:
        seen.append((bus._judging, bus._barred))
        with pytest.raises(ReentrantCall):
            bus.subscribe(ignore)
        return True

    sub = bus.subscribe(ignore, "a", where=look)
    for barred in (False, True):
        bus._barred = barred
        judge(bus, receipt_of(bus), sub)
        assert (bus._judging, bus._barred) == (None, barred)
    assert seen == [(sub, True), (sub, True)]


def test_judge_does_not_ask_where_again_for_a_redelivery() -> None:
    """`where` has let the event pass before; the key is needed anew."""
    bus = EventBus()
    sub = bus.subscribe(ignore, where=raiser(BROKEN), key=lambda e: e.data, concurrency=2)
    receipt = receipt_of(bus, "x")
    receipt._redelivered = True
    assert judge(bus, receipt, sub) == Verdict(sub, "x", None)


def test_judge_all_keeps_the_order_and_leaves_out_who_does_not_want_it() -> None:
    """The verdicts are in order of subscription."""
    bus = EventBus()
    subs = [
        bus.subscribe(ignore, "a", where=lambda event, wanted=wanted: wanted)  # type: ignore[misc]  # bound late otherwise
        for wanted in (True, False, True)
    ]
    verdicts = judge_all(bus, receipt_of(bus), subs)
    assert [verdict.subscription for verdict in verdicts] == [subs[0], subs[2]]


WAITS: list[tuple[str, list[tuple[bool, str, bool]], int | None]] = [
    # what, (full, overflow, its predicate has raised) of each subscription, which one is in the way
    ("nobody", [], None),
    ("room everywhere", [(False, "block", False)] * 3, None),
    ("one is full", [(False, "block", False), (True, "block", False)], 1),
    ("the first of two", [(True, "block", False), (True, "block", False)], 0),
    ("drop_oldest never is", [(True, "drop_oldest", False)], None),
    ("drop_newest never is", [(True, "drop_newest", False)], None),
    ("behind one that drops", [(True, "drop_oldest", False), (True, "block", False)], 1),
    ("a failed delivery needs no room", [(True, "block", True)], None),
    ("behind a failed one", [(True, "block", True), (True, "block", False)], 1),
]


@pytest.mark.parametrize(
    ("rows", "expected"), [row[1:] for row in WAITS], ids=[row[0] for row in WAITS]
)
def test_first_full(rows: list[tuple[bool, Any, bool]], expected: int | None) -> None:
    """Which queue makes the publisher wait."""
    bus = EventBus()
    verdicts: list[Verdict] = []
    for full, overflow, failed in rows:
        sub = bus.subscribe(ignore, overflow=overflow)
        sub._full = full
        verdicts.append(Verdict(sub, None, BROKEN if failed else None))
    assert first_full(iter(verdicts)) is (
        None if expected is None else verdicts[expected].subscription
    )


CASCADES: list[tuple[int, int, int, int, str | None]] = [
    # nested deliveries pending, new ones, depth of the parent, deliveries of siblings, what is said
    (0, 1, 0, 0, None),
    (0, 5, 0, 0, None),
    (0, 6, 0, 0, "cascade_limit=5"),
    (4, 1, 1, 0, None),
    (4, 2, 1, 0, "cascade_limit=5"),
    (5, 0, 1, 0, None),
    (5, 1, 1, 0, "cascade_limit=5"),
    (0, 0, 2, 0, None),
    (0, 0, 3, 0, "cascade_depth=3"),
    (0, 1, 4, 0, "cascade_depth=3"),
    (1, 1, 2, 3, None),
    (1, 2, 2, 3, "cascade_limit=5"),
]


@pytest.mark.parametrize(("pending", "new", "depth", "siblings", "said"), CASCADES)
def test_check_cascade(pending: int, new: int, depth: int, siblings: int, said: str | None) -> None:
    """What one root may cause: so much at once, and chains so long."""
    bus = EventBus(cascade_limit=5, cascade_depth=3)
    root = parent = receipt_of(bus)
    for generation in range(depth):
        child = receipt_of(bus)
        _cascade.nest(child, parent, pending if generation == 0 else 0)
        parent = child
    if depth == 0:
        _cascade.nest(receipt_of(bus), root, pending)
    _cascade.nest(receipt_of(bus), parent, siblings)
    assert pending_nested(root) == pending + siblings
    if said is None:
        _cascade.check(bus, parent, new)
        return
    with pytest.raises(CascadeOverflow, match=said):
        _cascade.check(bus, parent, new)
    assert pending_nested(root) == pending + siblings


async def test_commit_writes_everything_before_anybody_is_told() -> None:
    """What the log hears of drops and failed predicates, it hears when all is queued."""
    seen: list[list[int]] = []

    class Looks(LogLines):
        def log(self, line: Any) -> None:
            seen.append([each.statistics().accepted for each in bus.subscriptions])

    bus = EventBus(hooks=[Looks()])
    bus.subscribe(ignore, "a", where=raiser(BROKEN))
    bus.subscribe(ignore, "a", overflow="drop_oldest", capacity=1)
    bus.subscribe(ignore, "a")
    bus.publish_nowait("a")
    bus.publish_nowait("a")
    assert seen == [[1, 1, 1], [2, 2, 2]]
    await bus.settle()
