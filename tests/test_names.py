"""The names of subscriptions: unique on a bus, and free again when nobody has them."""

from __future__ import annotations

from typing import Any

import pytest

from eventbus import Event, EventBus, NameTaken


def ship(_: Event[Any]) -> None:
    """A handler with a name."""


def test_names_are_numbered_from_the_second_on() -> None:
    """One function, subscribed often, has as many names."""
    bus = EventBus()
    assert [bus.subscribe(ship).name for _ in range(3)] == ["ship", "ship#2", "ship#3"]


@pytest.mark.parametrize("name", ["ship", "ship#2", "ship#3"])
def test_an_explicit_name_must_be_free(name: str) -> None:
    """It is refused if another subscription has it, and nothing is subscribed."""
    bus = EventBus()
    for _ in range(3):
        bus.subscribe(ship)
    with pytest.raises(NameTaken, match="choose another name"):
        bus.subscribe(ship, name=name)
    assert len(bus.subscriptions) == 3
    assert bus.subscribe(ship, name="ship#4").name == "ship#4"


def test_an_explicit_name_is_taken_once() -> None:
    """Until who has it leaves."""
    bus = EventBus()
    first = bus.subscribe(ship, name="mine")
    with pytest.raises(NameTaken):
        bus.subscribe(ship, name="mine")
    first.unsubscribe()
    assert bus.subscribe(ship, name="mine").name == "mine"


def test_default_names_pass_over_explicit_ones() -> None:
    """A name that somebody has chosen is not given to anybody else."""
    bus = EventBus()
    bus.subscribe(ship, name="ship")
    bus.subscribe(ship, name="ship#2")
    assert bus.subscribe(ship).name == "ship#3"


def test_a_name_is_free_when_only_those_with_a_number_are_left() -> None:
    """``ship`` has left and ``ship#2`` is there: whoever asks for ``ship`` gets it."""
    bus = EventBus()
    first, second = bus.subscribe(ship), bus.subscribe(ship)
    first.unsubscribe()
    assert bus.subscribe(ship, name="ship").name == "ship"
    with pytest.raises(NameTaken):
        bus.subscribe(ship, name="ship")
    assert second.name == "ship#2"


def test_a_name_with_another_suffix_is_an_ordinary_name() -> None:
    """Only ``name#2`` and up are numbers of the bus."""
    bus = EventBus()
    bus.subscribe(ship)
    names = ["ship#", "ship#x", "ship#0", "ship#1", "other#2"]
    assert [bus.subscribe(ship, name=name).name for name in names] == names


def test_a_name_that_was_given_back_is_free_for_whoever_asks() -> None:
    """Also if the handler of that name was subscribed meanwhile, and got a suffix."""
    bus = EventBus()
    explicit = bus.subscribe(lambda event: None, name="ship")
    assert bus.subscribe(ship).name == "ship#2"
    explicit.unsubscribe()
    again = bus.subscribe(lambda event: None, name="ship")
    assert bus.subscribe(ship).name == "ship#3"
    again.unsubscribe()
    assert bus.subscribe(lambda event: None, name="ship").name == "ship"
