"""What a library must be able to do to be compared: the contract of the adapters.

An adapter does the whole work: when one of its three ways to publish returns, every handler of
every event has ended. `prove` checks that before anything is timed. Where a library does less than
the bus on the way there, ``lacks`` says so in a phrase, and the table shows it.
"""

from __future__ import annotations

import asyncio
import importlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from benchmarks._handlers import Handler, Kind, make_counter, make_handler

TOPIC = "invoice.paid"

Role = Literal["ours", "peer", "floor"]


def load(module: str) -> Any:
    """Import a module of a peer. All that is known of its types is that there are some.

    Peers come with the extra ``bench`` alone and half of them are untyped, so this is the one
    place where the type checker is told nothing, instead of a comment at each import.
    """
    return importlib.import_module(module)


class Adapter(ABC):
    """One library, with handlers on `TOPIC`, ready to publish. Made and used on a running loop.

    Subclasses import their library in ``__init__`` and not before, by `load`.
    """

    name: ClassVar[str]
    role: ClassVar[Role] = "peer"
    distribution: ClassVar[str | None] = None
    """What pip calls it; None for what needs nothing."""
    lacks: ClassVar[str] = ""
    """Where it does less than the bus, in a phrase."""
    burst: ClassVar[int] = 1_000
    """How many events it can take between two waits."""
    deliveries: ClassVar[int] = 1_000_000
    """How many deliveries it gets done between two waits before the reader has lost patience."""
    module: ClassVar[str] = ""
    """What an application imports to use it."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def make_handler(self) -> Handler:
        """A new handler of the adapter's kind, in the shape in which the library calls it."""
        return make_handler(self.kind)

    @abstractmethod
    def subscribe(self, topic: str, handler: Handler) -> Any:
        """Add a handler; what is returned is what `unsubscribe` wants."""

    def unsubscribe(self, topic: str, subscribed: Any) -> None:
        """Take it out again. Raises ``NotImplementedError`` if the library cannot."""
        raise NotImplementedError

    @abstractmethod
    async def publish_all(self, events: int) -> None:
        """Publish one event after the other, then wait until all their handlers have ended."""

    @abstractmethod
    async def publish_each(self, events: int) -> None:
        """Publish an event and wait until its handlers have ended, then the next one."""

    async def publish_at_once(self, events: int) -> None:
        """Have all events under way at the same time, and wait for the last."""
        await self.publish_all(events)

    async def publish_one(self, value: float) -> None:
        """Publish an event with this value, and wait for no more than the library makes one wait.

        Raises ``NotImplementedError`` where nothing measures it.
        """
        raise NotImplementedError

    async def aclose(self) -> None:  # noqa: B027  # most have nothing to close
        """Stop what runs in the background."""

    @classmethod
    def events_for(cls, handlers: int, events: int) -> int:
        """How many of so many events it publishes between two waits. Costs are per delivery."""
        return min(events, cls.burst, max(1, cls.deliveries // handlers))

    @classmethod
    def refuses(cls, kind: Kind, events: int) -> str | None:
        """Why it cannot have so many events under way in reasonable time, or None."""
        return None


class Sending(Adapter):
    """A library whose sending *is* the waiting: there is no burst but one send after the other."""

    @abstractmethod
    async def send(self, value: float) -> None:
        """Publish one event and wait for its handlers."""

    async def publish_one(self, value: float) -> None:
        """Which runs the handlers."""
        await self.send(value)

    async def publish_all(self, events: int) -> None:
        """As each of them: nothing is queued."""
        await self.publish_each(events)

    async def publish_at_once(self, events: int) -> None:
        """Let the publishers, which do the work, run side by side."""
        await asyncio.gather(*(self.send(number) for number in range(events)))


async def prove(adapter: Adapter, way: str, handlers: int, events: int = 3) -> None:
    """Raise ``AssertionError`` unless each handler has run for each event when a way returns."""
    calls: list[object] = []
    for _ in range(handlers):
        adapter.subscribe(TOPIC, make_counter(adapter.kind, calls))
    await getattr(adapter, way)(events)
    assert len(calls) == events * handlers, (
        f"{adapter.name}: {len(calls)} calls of {events * handlers} when {way} returned"
    )
