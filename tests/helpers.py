"""What several test modules share. Only what two of them need is here."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def reading_in_a_thread(read: Callable[[], T]) -> Iterator[list[T]]:
    """A thread that reads without pause, and gets its turn as often as can be; what it has read."""
    over = threading.Event()
    seen: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            while not over.is_set():
                seen.append(read())
        except BaseException as error:
            raised.append(error)

    reader = threading.Thread(target=run)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    reader.start()
    try:
        yield seen
    finally:
        over.set()
        reader.join()
        sys.setswitchinterval(interval)
    assert raised == []


class LogLines(Hook):
    """Keeps what a bus has to tell: ``EventBus(hooks=[lines])``."""

    def __init__(self) -> None:
        self.lines: list[LogLine] = []

    def log(self, line: LogLine) -> None:
        self.lines.append(line)

    def named(self, name: str) -> list[LogLine]:
        """The lines with this name, in order."""
        return [line for line in self.lines if line.name == name]
