"""What several test modules share. Only what two of them need is here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from eventbus import EventBus, Hook, LogLine, Receipt, Subscription

T = TypeVar("T")


def pending_nested(root: Receipt) -> int:
    """What the root of a cascade is charged for."""
    return 0 if root._cascade is None else root._cascade.pending


def balances(*owners: EventBus | Subscription) -> bool:
    """Whether P6 holds right now: everything accepted has one end, or is pending."""
    for owner in owners:
        s = owner.statistics()
        if s.accepted != s.handled + s.failed + s.dropped + s.cancelled + s.pending:
            return False
    return True


async def turns(count: int) -> None:
    """Give the event loop so many turns."""
    for _ in range(count):
        await asyncio.sleep(0)


async def within(awaitable: Awaitable[T], seconds: float = 5) -> T:
    """Await something that only a bug could make wait for ever."""
    async with asyncio.timeout(seconds):
        return await awaitable


class LogLines(Hook):
    """Keeps what a bus has to tell: ``EventBus(hooks=[lines])``."""

    def __init__(self) -> None:
        self.lines: list[LogLine] = []

    def log(self, line: LogLine) -> None:
        self.lines.append(line)

    def named(self, name: str) -> list[LogLine]:
        """The lines with this name, in order."""
        return [line for line in self.lines if line.name == name]
