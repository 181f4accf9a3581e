"""The options of a bus, what is checked of them, and how a bus shows itself."""

from __future__ import annotations

from typing import Any

import pytest

from eventbus import Event, EventBus, Hook, OptionError, Topic, TopicError
from eventbus._drivers import DONE
from tests.helpers import within


class AsyncHook(Hook):
    async def log(self, line: object) -> None:  # type: ignore[override]  # that is the mistake
        """Never awaited by anybody."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "name=''"),
        ({"name": None}, "name=None"),
        ({"source": ""}, "source=''"),
        ({"source": 1}, "source=1"),
        ({"dead_letters": -1}, "dead_letters=-1"),
        ({"cascade_limit": 0}, "cascade_limit=0"),
        ({"cascade_depth": True}, "cascade_depth=True"),
        ({"threads": 1.5}, "threads=1.5"),
        ({"strict": True}, "needs a catalog"),
        ({"catalog": "invoice.paid"}, "catalog='invoice.paid': pass a Catalog, or a list"),
        ({"store": object()}, "no durable subscriptions"),
        ({"clock": object()}, "pass a Clock"),
        ({"hooks": 1}, "pass a list of hooks"),
        ({"hooks": [object()]}, "is no Hook"),
        ({"hooks": [AsyncHook()]}, "has an async log()"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    """What cannot work is refused where the bus is made, with the value that was given."""
    with pytest.raises(OptionError) as raised:
        EventBus(**options)
    assert message in str(raised.value)


def test_a_hook_alone_is_no_list_of_hooks() -> None:
    """``hooks=`` wants an iterable, and says so."""
    with pytest.raises(OptionError, match="pass a list of hooks"):
        EventBus(hooks=Hook())  # type: ignore[arg-type]  # that is the mistake


def test_a_bus_shows_its_name_state_and_load() -> None:
    """Its repr is what one wants to see in a debugger."""
    bus = EventBus(name="shop")
    bus.subscribe(print, "a")
    assert repr(bus) == "<EventBus 'shop', open: 1 subscriptions, 0 pending>"


async def test_a_subscription_shows_its_name_patterns_and_load(bus: EventBus) -> None:
    """Also whether it has left."""
    sub = bus.subscribe(lambda _: None, "a", "b.*", name="ship")
    bus.publish_nowait("a")
    assert repr(sub) == "<Subscription 'ship' to 'a', 'b.*': 1 pending>"
    sub.unsubscribe()
    assert repr(sub) == "<Subscription 'ship' to 'a', 'b.*': 0 pending, left>"


async def test_a_delivery_shows_its_event_subscription_and_state() -> None:
    """Hooks see it, and may print it."""
    shown: list[str] = []
    kept: list[Any] = []

    class Show(Hook):
        def attempt_started(self, event: Event[Any], delivery: Any) -> None:
            kept.append(delivery)
            shown.append(repr(delivery))

    async with EventBus(hooks=[Show()]) as bus:
        bus.subscribe(lambda _: None, name="ship")
        receipt = await bus.publish("a")
        await within(receipt.outcomes())
    assert shown == [f"<Delivery of {receipt.event!r} to 'ship': running>"]
    assert repr(kept[0]) == f"<Delivery of {receipt.event!r} to 'ship': handled>"
    assert repr(DONE) == "DONE"


@pytest.mark.parametrize("topic", [1, None, b"a", ["a"]])
async def test_a_topic_that_is_no_string_is_refused(bus: EventBus, topic: Any) -> None:
    """A topic is a string or a Topic; whatever else is no topic at all."""
    with pytest.raises((TypeError, TopicError)):
        await bus.publish(topic)
    assert bus.statistics().events == 0


async def test_a_string_of_a_class_of_ones_own_is_a_topic(bus: EventBus) -> None:
    """Publishing to a member of a string enum, for example."""

    class Name(str):
        __slots__ = ()

    seen: list[str] = []
    bus.subscribe(lambda event: seen.append(event.type), "a.b")
    await within(bus.publish_and_wait(Name("a.b"), check=True))
    await within(bus.publish_and_wait(Topic("a.b"), 1, check=True))
    assert seen == ["a.b", "a.b"]
