"""``replace``: another handler in the place of one, for a block."""

# ruff: noqa: PT012 - what raises is the end of a block, and that needs the block

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any
from unittest.mock import AsyncMock

import pytest
from pydantic import BaseModel

from eventbus import (
    Event,
    EventBus,
    HandlerError,
    HandlerTimeout,
    Hook,
    PayloadError,
    Retry,
    Subscription,
)
from eventbus.testing import fake_time, replace, settle, wait_all_tasks_blocked
from eventbus.testing._replace import _exchanges


class Invoice(BaseModel):
    id: str


class Mail:
    def __init__(self) -> None:
        self.sent: list[Any] = []

    async def send(self, event: Event[Any]) -> None:
        self.sent.append(event.data)

    def __call__(self, event: Event[Any]) -> None:
        self.sent.append(event.data)


async def test_nothing_happens_by_default() -> None:
    """The events are kept, and the delivery is handled; after the block, all is as before."""
    bus, mail = EventBus(), Mail()
    subscription = bus.subscribe(mail.send, "invoice.*")
    async with replace(bus, mail.send) as replaced:
        await bus.publish("invoice.paid", 1)
        await bus.publish("customer.created", 2)
    await bus.publish_and_wait("invoice.paid", 3)
    assert [event.data for event in replaced.events] == [1]
    assert repr(replaced) == "<Replaced: 1 event>"
    assert mail.sent == [3]
    assert subscription.statistics().handled == 2
    assert subscription.handler == mail.send
    assert not _exchanges


@pytest.mark.parametrize("thread", [False, True])
async def test_no_trace_is_left(thread: bool) -> None:
    """A block that ends, raises or cannot begin leaves each part of the subscription as it was."""
    bus = EventBus()

    def ship(_: Event[Any]) -> None: ...

    async def pack(_: Event[Any]) -> None: ...

    subscriptions = [
        bus.subscribe(ship, "a", thread=thread),
        bus.subscribe(pack, "a", name="pack"),
        bus.subscribe(validated, "a"),
    ]

    def parts() -> list[list[Any]]:
        return [[getattr(each, name, None) for name in SLOTS] for each in subscriptions]

    before = parts()
    async with replace(bus, ship, with_=pack), replace(bus, "pack", with_=validated):
        assert parts() != before
        async with replace(bus, ship), replace(bus, validated):
            pass
    assert parts() == before
    with pytest.raises(KeyError):
        async with replace(bus, ship, with_=pack), replace(bus, validated):
            raise KeyError
    with pytest.raises(LookupError):
        async with replace(bus, ship), replace(bus, "nobody"):
            pass
    assert parts() == before
    assert not _exchanges


SLOTS = [name for name in Subscription.__slots__ if name not in ("__weakref__", "_name")]
"""Without the text of its name, which is made when somebody first reads it."""


def validated(event: Event[Invoice]) -> None: ...


def as_it_is(function: Any) -> Any:
    return function


@pytest.mark.parametrize("wrap", [as_it_is, functools.partial], ids=["function", "partial"])
@pytest.mark.parametrize("kind", ["async", "def", "awaitable"])
@pytest.mark.parametrize("original", ["async", "def", "thread"])
async def test_what_the_replacement_returns_and_raises_is_the_handlers(
    original: str, kind: str, wrap: Callable[[Any], Any]
) -> None:
    """In every combination of kinds; only a thread cannot await."""
    bus = EventBus()
    threads: list[int] = []

    async def waits(_: Event[Any]) -> None:
        raise AssertionError

    def quick(_: Event[Any]) -> None:
        raise AssertionError

    async def async_fake(event: Event[Any]) -> str:
        threads.append(threading.get_ident())
        await asyncio.sleep(0)
        if event.data:
            raise ValueError(event.data)
        return "done"

    def fake(event: Event[Any]) -> str:
        threads.append(threading.get_ident())
        if event.data:
            raise ValueError(event.data)
        return "done"

    fakes: dict[str, Any] = {"async": async_fake, "def": fake, "awaitable": lambda e: async_fake(e)}
    handler: Any = waits if original == "async" else quick
    bus.subscribe(handler, thread=original == "thread")
    async with replace(bus, handler, with_=wrap(fakes[kind])) as replaced:
        (good,) = await bus.publish_and_wait("a")
        (bad,) = await bus.publish_and_wait("a", "broken")
    assert [event.data for event in replaced.events] == [None, "broken"]
    if (original, kind) == ("thread", "awaitable"):
        assert "make it async def, without thread" in str(good.error)
        return
    assert (good.status, good.result) == ("handled", "done")
    assert (bad.status, repr(bad.error)) == ("failed", "ValueError('broken')")
    in_thread = (original, kind) == ("thread", "def")
    assert all((ident != threading.get_ident()) is in_thread for ident in threads)


async def test_the_options_stay() -> None:
    """Time-outs, retries and keys are those of the handler that is replaced."""
    bus = EventBus()
    mail = Mail()
    bus.subscribe(
        mail.send,
        timeout=5,
        retry=Retry(attempts=2, initial=60),
        concurrency=2,
        key=lambda event: event.data,
    )

    async def hang(_: Event[Any]) -> None:
        await asyncio.Event().wait()

    with fake_time(bus):
        async with replace(bus, mail.send, hang) as replaced:
            (outcome,) = await bus.publish_and_wait("a")
    assert isinstance(outcome.error, HandlerTimeout)
    assert (outcome.attempts, len(replaced.events)) == (2, 2)


async def test_a_replacement_may_have_another_model() -> None:
    """It gets data validated as it asks, or, if it does not ask, as the handler does."""
    bus = EventBus()

    @bus.on("a")
    async def book(event: Event[Invoice]) -> None:
        """Wants an invoice."""

    async def wants_text(event: Event[str]) -> str:
        return event.data.upper()

    async with replace(bus, book, wants_text):
        (outcome,) = await bus.publish_and_wait("a", "text")
    assert outcome.result == "TEXT"
    async with replace(bus, book) as replaced:
        (outcome,) = await bus.publish_and_wait("a", "text")
        await bus.publish("a", {"id": "in_1"})
    assert isinstance(outcome.error, PayloadError)
    assert [event.data for event in replaced.events] == [Invoice(id="in_1")]


async def test_observers_are_told() -> None:
    """A bus with hooks calls them around the replacement too."""

    class Seen(Hook):
        ended = 0

        def attempt_ended(self, *_: Any) -> None:
            self.ended += 1

    seen, mail = Seen(), Mail()
    bus = EventBus(hooks=[seen])
    bus.subscribe(mail)
    async with replace(bus, mail):
        await bus.publish("a")
    assert (seen.ended, mail.sent) == (1, [])


async def test_every_subscription_of_the_function_or_the_one_of_a_name() -> None:
    """A function means all of its subscriptions, a name means one."""
    bus, mail = EventBus(), Mail()
    bus.subscribe(mail.send, "a")
    bus.subscribe(mail.send, "a", name="second")
    async with replace(bus, mail.send) as both:
        await bus.publish("a")
    async with replace(bus, "second") as one:
        await bus.publish("a", "real")
    assert (len(both.events), len(one.events), mail.sent) == (2, 1, ["real"])


async def test_replacements_of_one_handler_end_in_any_order() -> None:
    """The youngest that has not ended is called; after the last, the handler itself."""
    bus, mail = EventBus(), Mail()
    bus.subscribe(mail.send)
    first, second = replace(bus, mail.send), replace(bus, mail.send)
    for step in (first.__enter__, second.__enter__):
        step()
    await bus.publish_and_wait("a", 1)
    first.__exit__(None, None, None)
    await bus.publish_and_wait("a", 2)
    second.__exit__(None, None, None)
    await bus.publish_and_wait("a", 3)
    assert [event.data for event in first.events] == []
    assert [event.data for event in second.events] == [1, 2]
    assert mail.sent == [3]
    assert not _exchanges


async def test_what_is_still_queued_at_the_end_is_told() -> None:
    """The handler itself would get it, which no test wants."""
    bus, mail = EventBus(), Mail()
    bus.subscribe(mail.send, name="mail")
    with pytest.raises(RuntimeError) as error, replace(bus, mail.send):
        await bus.publish("a")
        await bus.publish("a")
    assert str(error.value) == (
        "2 events for mail had not reached the replacement when the block ended, and will go to "
        "the handler itself: settle the bus in the block, or write 'async with replace'"
    )
    with replace(bus, mail.send) as replaced:
        await settle(bus)
        await bus.publish("a")
        await settle(bus)
    assert len(replaced.events) == 3
    with pytest.raises(ZeroDivisionError), replace(bus, mail.send):
        await bus.publish("a")
        raise ZeroDivisionError
    await settle(bus)


async def test_an_attempt_that_is_still_to_come_is_told() -> None:
    """A pause before a retry, and a wait for a thread, count as queued."""
    bus, gate = EventBus(threads=1), threading.Event()

    def blocked(_: Event[Any]) -> None:
        assert gate.wait(5)

    def fail(_: Event[Any]) -> None:
        raise ValueError

    bus.subscribe(blocked, "a", thread=True)
    in_thread = bus.subscribe(lambda _: None, "b", thread=True, name="in thread")
    retried = bus.subscribe(fail, "b", retry=Retry(initial=3600), name="retried")
    await bus.publish("a")
    await wait_all_tasks_blocked()
    for name in ("in thread", "retried"):
        with (
            pytest.raises(RuntimeError, match=f"^1 event for {name} had not"),
            replace(bus, name, fail),
        ):
            if name == "in thread":
                await bus.publish("b")
            await wait_all_tasks_blocked()
    in_thread.unsubscribe()
    retried.unsubscribe()
    gate.set()
    await bus.settle()


async def test_a_handler_that_runs_is_not_interrupted() -> None:
    """What began before the block goes on in it, and what began in it goes on after it."""
    bus, gate = EventBus(), asyncio.Event()
    ends: list[str] = []

    async def real(_: Event[Any]) -> None:
        await gate.wait()
        ends.append("real")

    async def fake(_: Event[Any]) -> None:
        await gate.wait()
        ends.append("fake")

    bus.subscribe(real, concurrency=2)
    await bus.publish("a")
    await asyncio.sleep(0)
    refused = pytest.raises(RuntimeError, match="still pending when the block ended")
    with refused, replace(bus, real, fake):
        await bus.publish("a")
        await asyncio.sleep(0)
    gate.set()
    await bus.settle()
    assert sorted(ends) == ["fake", "real"]


async def test_what_may_still_be_published_for_the_handler_is_refused() -> None:
    """A plain block that ends before its cascade would let the real handler have the rest."""
    bus, mails = EventBus(), list[str]()

    @bus.on("a")
    async def pass_on(_: Event[Any]) -> None:
        await bus.publish("b")

    @bus.on("b")
    async def send_mail(event: Event[Any]) -> None:
        mails.append(event.type)

    refused = pytest.raises(RuntimeError, match=r"async with replace(.|\n)*pass_on .* has 1 queued")
    with refused, replace(bus, send_mail):
        await bus.publish("a")
    await bus.settle()
    async with replace(bus, send_mail) as replaced:
        await bus.publish("a")
    assert (mails, [event.type for event in replaced.events]) == (["b"], ["b"])


async def test_an_unknown_handler() -> None:
    """The nearest names are told; streams are no handlers."""
    bus, mail = EventBus(), Mail()
    with pytest.raises(LookupError, match="has no subscriptions: is the module imported that has"):
        replace(bus, mail.send).__enter__()
    bus.subscribe(mail.send, name="send_mail")
    bus.subscribe(mail, name="audit")
    async with bus.stream("a", name="reader"):
        for unknown in ("reader", "xyz"):
            with pytest.raises(
                LookupError, match=r"has no handler .*: did you mean send_mail or au"
            ):
                replace(bus, unknown).__enter__()
        with pytest.raises(LookupError, match=r"did you mean send_mail\?$"):
            replace(bus, "sendmail").__enter__()


def test_a_handler_of_the_same_name_is_another_object() -> None:
    """A decorator has wrapped it, or its module was loaded twice: then its name will do."""
    bus = EventBus()

    @functools.wraps(ignore)
    def wrapped(event: Event[Any]) -> None:
        ignore(event)

    bus.subscribe(wrapped, "a")
    with pytest.raises(LookupError, match=r"is another object: .* Pass its name, 'ignore'"):
        replace(bus, ignore).__enter__()
    with replace(bus, "ignore"):
        pass


async def test_an_async_mock_for_a_thread_handler() -> None:
    """It is awaited on the loop, as an ``async def`` is."""
    bus, mock = EventBus(), AsyncMock()
    bus.subscribe(ignore, "a", thread=True)
    async with replace(bus, ignore, mock):
        await bus.publish_and_wait("a", check=True)
    mock.assert_awaited_once()


def ignore(event: Event[Any]) -> None:
    """A handler that does nothing."""


def test_what_cannot_be_a_handler_is_refused() -> None:
    """At the call, as ``subscribe`` refuses it; and so is what is no bus."""
    bus: Any = EventBus()
    with pytest.raises(HandlerError, match="cannot be called with one event"):
        replace(bus, "x", lambda: None)  # type: ignore[arg-type, misc]  # the point
    with pytest.raises(TypeError, match="is no EventBus"):
        replace("x", bus)  # type: ignore[arg-type]  # the point


async def test_it_is_entered_once() -> None:
    """A second block is refused."""
    bus, mail = EventBus(), Mail()
    bus.subscribe(mail)
    replaced = replace(bus, mail)
    with replaced:
        pass
    with pytest.raises(RuntimeError, match="<Replaced: 0 events> was entered before"):
        replaced.__enter__()


async def test_messages_name_the_replacement() -> None:
    """What fails in its place is found where it is written, whatever kind of callable it is."""
    bus, mail = EventBus(), Mail()
    subscription = bus.subscribe(mail)

    def fake(_: Event[Any]) -> None:
        """Stands for mail."""

    for replacement in (fake, functools.partial(fake), Mail().send):
        with replace(bus, mail, replacement):
            assert __file__ in subscription.location
            assert "Mail" in subscription._describe() or "fake (" in subscription._describe()


def test_a_bus_that_runs_in_another_thread() -> None:
    """The handler is swapped for a bus that an application runs elsewhere."""
    bus, mail = EventBus(), Mail()
    bus.subscribe(mail.send)
    ready, stop = threading.Event(), threading.Event()

    async def application() -> None:
        async with bus:
            ready.set()
            await asyncio.to_thread(stop.wait, 5)

    thread = threading.Thread(target=asyncio.run, args=(application(),))
    with replace(bus, mail.send) as replaced:
        thread.start()
        assert ready.wait(5)
        bus.publish_from_thread("a", 1)
        stop.set()
        thread.join()
    assert (len(replaced.events), mail.sent) == (1, [])
