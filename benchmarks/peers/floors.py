"""The least that the same work can cost: loops written by hand, with a dict of handlers by topic.

They isolate nothing, keep no order between events, bound nothing and account for nothing. No
library can be below the serial ones, and none that runs handlers side by side below the others.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from benchmarks._handlers import Handler, Kind
from benchmarks.peers._adapter import TOPIC, Adapter, Sending

Handlers = dict[str, list[Handler]]


class _Floor(Adapter):
    role: ClassVar = "floor"

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.handlers: Handlers = {}

    def subscribe(self, topic: str, handler: Handler) -> Handler:
        self.handlers.setdefault(topic, []).append(handler)
        return handler

    def unsubscribe(self, topic: str, subscribed: Handler) -> None:
        handlers = self.handlers[topic]
        handlers.remove(subscribed)
        if not handlers:
            del self.handlers[topic]


class Serial(_Floor, Sending):
    """Await, or call, one handler after the other."""

    name = "floor: in series"
    lacks = "serial"

    async def send(self, value: float) -> None:
        for handler in self.handlers[TOPIC]:
            await handler(value)

    async def publish_each(self, events: int) -> None:
        """Two loops without a call between them."""
        if self.kind == "def":
            for number in range(events):
                for handler in self.handlers[TOPIC]:
                    handler(number)
            return
        for number in range(events):
            for handler in self.handlers[TOPIC]:
                await handler(number)


class Tasks(_Floor, Sending):
    """A task for each handler, awaited one after the other: ``create_task`` and ``await``."""

    name = "floor: create_task"
    lacks = "first error only"

    async def send(self, value: float) -> None:
        create_task = asyncio.get_running_loop().create_task
        for task in [create_task(handler(value)) for handler in self.handlers[TOPIC]]:
            await task

    async def publish_each(self, events: int) -> None:
        create_task = asyncio.get_running_loop().create_task
        for number in range(events):
            for task in [create_task(handler(number)) for handler in self.handlers[TOPIC]]:
                await task


class Gather(_Floor, Sending):
    """``asyncio.gather`` over the handlers of each event."""

    name = "floor: gather"
    lacks = "first error only"

    async def send(self, value: float) -> None:
        await asyncio.gather(*[handler(value) for handler in self.handlers[TOPIC]])

    async def publish_each(self, events: int) -> None:
        for number in range(events):
            await asyncio.gather(*[handler(number) for handler in self.handlers[TOPIC]])


class TaskGroup(_Floor):
    """``asyncio.TaskGroup``: one for all that is under way at the same time."""

    name = "floor: TaskGroup"
    lacks = "an error cancels the rest"

    async def publish_all(self, events: int) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(events):
                for handler in self.handlers[TOPIC]:
                    group.create_task(handler(number))

    async def publish_each(self, events: int) -> None:
        for _ in range(events):
            await self.publish_all(1)
