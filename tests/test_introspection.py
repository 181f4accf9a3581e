"""``describe`` and ``explain``: who listens to what, and whom a topic would reach."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from eventbus import Event, EventBus, Topic, TopicError, _registration


def ship(_: Event[Any]) -> None:
    """A handler with a place in this file."""


def test_describe_says_what_where_and_how() -> None:
    """Patterns, the handler's source, the caller's line, and the options that were given."""
    bus = EventBus()
    bus.subscribe(ship, "a.*", "b", concurrency=3)
    (info,) = bus.describe()
    line = ship.__code__.co_firstlineno
    assert info.handler == f"{__file__}:{line}"
    assert info.registered.startswith(f"{__file__}:")
    assert info.registered != info.handler
    assert info.options == {"concurrency": 3}
    assert str(info) == f"ship <- a.*, b concurrency=3 [{__file__}:{line}]"


def test_describe_leaves_out_what_is_as_ever() -> None:
    """An option that was given its default value is none that tells anything."""
    bus = EventBus()
    overflow: Any = str(b"block", "ascii")  # equal, and not the same object
    bus.subscribe(ship, capacity=int("1024"), overflow=overflow)
    (info,) = bus.describe()
    assert info.options == {}


def test_what_is_told_is_a_value() -> None:
    """Nobody can change what another reads."""
    bus = EventBus()
    bus.subscribe(ship, "a")
    bus.subscribe(ship, "a.*")
    explanation = bus.explain("a.b.c")
    values: list[Any] = [*bus.describe(), explanation, *explanation.near_misses]
    values += bus.explain("a").reached
    for value in values:
        for field in dataclasses.fields(value):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(value, field.name, "another")


async def test_describe_shows_streams_without_a_handler(bus: EventBus) -> None:
    """A stream has a reader, and no source to show."""
    async with bus.stream("a"):
        (info,) = bus.describe()
    assert (info.name, info.patterns, info.handler) == ("stream", ("a",), "")


def test_explain_names_who_is_reached_through_which_pattern() -> None:
    """The first pattern that matches counts."""
    bus = EventBus()
    bus.subscribe(ship, "x", "invoice.*", "**")
    bus.subscribe(ship, "other")
    explanation = bus.explain(Topic("invoice.paid"))
    assert [(one.subscription, one.pattern) for one in explanation.reached] == [
        ("ship", "invoice.*")
    ]
    assert explanation.near_misses == ()
    assert explanation.known is None
    assert str(explanation) == "invoice.paid\n  reaches ship through invoice.*"


def test_explain_marks_who_may_refuse_the_event() -> None:
    """A ``where`` is not asked, and may be why nobody gets an event."""
    bus = EventBus()
    bus.subscribe(ship, "a", where=lambda event: False)
    explanation = bus.explain("a")
    assert [one.filtered for one in explanation.reached] == [True]
    assert str(explanation) == "a\n  reaches ship through a, if its where lets it"


@pytest.mark.parametrize(
    ("pattern", "topic", "why"),
    [
        ("a.b.**", "a.b", "needs at least one more token"),
        ("**", "a", None),
        ("a.*", "a.b.c", "is one level"),
        ("Invoice.paid", "invoice.paid", "differs in upper and lower case"),
        ("invoice.paid", "invoice.void", "has 'paid' where the topic has 'void'"),
        ("a.*.c", "a.b.d", "has 'c' where the topic has 'd'"),
        ("a.b", "c.d", ""),
        ("a.b.c", "a.b", ""),
        ("a", "b", ""),
    ],
)
def test_explain_says_why_a_pattern_just_misses(pattern: str, topic: str, why: str | None) -> None:
    """What one mistakes most easily is named; what is plainly different is not."""
    bus = EventBus()
    bus.subscribe(ship, pattern)
    explanation = bus.explain(topic)
    if why is None:
        assert explanation.reached
    elif not why:
        assert (explanation.reached, explanation.near_misses) == ((), ())
        assert str(explanation) == f"{topic}\n  reaches nobody"
    else:
        (miss,) = explanation.near_misses
        assert (miss.subscription, miss.pattern) == ("ship", pattern)
        assert miss.why.startswith(why)
        assert str(explanation) == f"{topic}\n  reaches nobody\n  misses ship: {pattern} {miss.why}"


def test_explain_names_ten_near_misses_at_most() -> None:
    """A hundred subscriptions that miss would hide what one looks for."""
    bus = EventBus()
    for _ in range(12):
        bus.subscribe(ship, "invoice.paid")
    assert len(bus.explain("invoice.void").near_misses) == 10


def test_explain_says_what_the_catalogue_knows() -> None:
    """With a catalogue, a topic that it does not have is named, with what may be meant."""
    bus = EventBus(catalog=["invoice.paid"])
    assert bus.explain("invoice.paid").known is True
    explanation = bus.explain("invoice.payd")
    assert explanation.known is False
    assert "invoice.paid" in explanation.suggestion
    first, _ = str(explanation).split("\n", 1)
    assert first == f"invoice.payd (not in the catalogue){explanation.suggestion}"


def test_explain_wants_a_topic() -> None:
    """A pattern is none."""
    with pytest.raises(TopicError):
        EventBus().explain("invoice.*")


def test_subscriptions_from_one_line_share_what_is_known_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hundred thousand of them must not keep as many notes; nor may a bus keep any number."""
    monkeypatch.setattr(_registration, "MOST_SITES", 2)
    bus = EventBus()
    for _ in range(2):
        bus.subscribe(ship, "a")
    bus.subscribe(ship, "b")
    bus.subscribe(ship, "c")
    first, second, third, fourth = bus.subscriptions
    assert first._site is second._site
    assert len({each._site for each in (second, third, fourth)}) == 3
    assert len(bus._sites) <= 2
    assert [each.registered for each in (first, second)] == [first.registered] * 2
