"""Feeds a file of JSON lines through a bus.

The file is read in chunks, each by a thread that lives only for that chunk, so that handlers go on
while standard input is silent. Back-pressure is ``publish``'s: nothing is read while it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from eventbus.cli._lines import BadLine, Splitter, parse_line
from eventbus.errors import BusClosed

if TYPE_CHECKING:
    from eventbus.bus import EventBus

__all__ = ["Feed", "Source"]

CHUNK: Final = 128 * 1024
"""How many bytes are read at once, at most."""

HURRY: Final = 2.0
"""How many seconds handlers have to end after Ctrl-C."""


class Source(Protocol):
    """Where the bytes come from."""

    def read(self, size: int, /) -> bytes | None:
        """At most so many bytes, as soon as there are any; none at the end."""


@dataclass(slots=True)
class Feed:
    """One run: the bus, the file, and what has become of it so far."""

    bus: EventBus
    source: Source
    complain: Callable[[int, str], None]
    """Told of each bad line: its number, and what is wrong."""
    tick: Callable[[Feed], None]
    """Called after each chunk, for a progress bar."""
    stop_on_error: bool = False

    bytes_read: int = 0
    published: int = 0
    """Lines that the bus has accepted as events."""
    bad: int = 0
    """Lines that were no events."""
    interrupted: bool = False
    """Ctrl-C ended it."""

    async def run(self) -> None:
        """Publish the whole file, wait until everything is handled, and close the bus.

        Raises ``OSError`` if the file cannot be read further and ``BusClosed`` if the application
        closes its bus; what was accepted is drained all the same. Cancelled, it reads no further,
        gives the handlers 2 seconds, and returns. Cancelled again, it gives up waiting.
        """
        grace = 10.0
        async with self.bus:
            try:
                await self._publish_all()
                await self.bus.settle()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
                self.interrupted = True
                grace = HURRY
            finally:
                await self.bus.aclose(grace=grace)

    async def _publish_all(self) -> None:
        splitter = Splitter()
        while True:
            chunk = await read_chunk(self.source)
            self.bytes_read += len(chunk)
            for number, line in splitter.feed(chunk) if chunk else splitter.end():
                if not await self._publish(number, line) and self.stop_on_error:
                    return
            self.tick(self)
            if not chunk:
                return

    async def _publish(self, number: int, line: bytes | None) -> bool:
        """Publish a line. False if it was bad."""
        try:
            event = parse_line(line)
            if event is None:
                return True
            catalog = self.bus._catalog
            topic = None if catalog is None else catalog.get(event.type)
            # A topic with a model checks the data here, as it does when the application publishes.
            model = topic is not None and topic.model is not None
            await self.bus.publish(topic if model else event.type, event.data, **event.fields)  # type: ignore[arg-type]  # not None if it has a model
        except BusClosed:
            raise
        except BadLine as error:
            problem = str(error)
        except Exception as error:  # publish has accepted nothing if it raises
            problem = f"{type(error).__name__}: {error}"
        else:
            self.published += 1
            return True
        self.bad += 1
        self.complain(number, problem)
        return False


async def read_chunk(source: Source) -> bytes:
    """Read once, in a thread. Cancelled, the thread is left to its read, and keeps nobody waiting.

    The thread is a daemon: one that hangs on a terminal must not keep the process from ending.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bytes] = loop.create_future()

    def settle(chunk: bytes | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        elif chunk is None:
            future.set_exception(BlockingIOError("the input is in non-blocking mode"))
        else:
            future.set_result(chunk)

    def work() -> None:
        chunk, error = None, None
        try:
            chunk = source.read(CHUNK)
        except Exception as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(settle, chunk, error)

    threading.Thread(target=work, name="eventbus read", daemon=True).start()
    return await future
