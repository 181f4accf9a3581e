"""Reading events instead of handling them: an async iterator, and waiting for one event.

A stream is a subscription whose queue is its buffer. Accepting an event puts it there, reading it
ends the delivery.

Lagging: a full buffer drops by the stream's ``overflow``, and ``lagged`` counts it. Closing: when
the bus closes, the reader takes what is left, and then the iteration ends. Cancel safety: a
cancelled read has taken nothing.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from eventbus import _binding, _ends, _registration
from eventbus.errors import BusClosed, PayloadError
from eventbus.receipt import wake

if TYPE_CHECKING:
    from eventbus._delivery import Status
    from eventbus._engine import Engine
    from eventbus.event import Event
    from eventbus.receipt import Receipt
    from eventbus.subscription import Subscription, SubscriptionOptions
    from eventbus.topics import Topic

__all__ = ["EventStream"]

T_co = TypeVar("T_co", covariant=True)


class EventStream(Generic[T_co]):
    """What ``bus.stream(…)`` returns: enter it, then iterate.

    Several tasks may read one stream; each event goes to one of them.
    """

    def __init__(
        self,
        bus: Engine,
        patterns: tuple[str | Topic[Any], ...],
        options: SubscriptionOptions,
    ) -> None:
        self._bus = bus
        self._patterns = patterns
        self._options = options
        self._subscription: Subscription | None = None
        self._ended = False
        self._readers: list[asyncio.Future[None]] = []

    @property
    def lagged(self) -> int:
        """How many events overflow has dropped."""
        return 0 if self._subscription is None else self._subscription.dropped

    @property
    def subscription(self) -> Subscription:
        """The subscription behind the stream, once it is entered."""
        if self._subscription is None:
            raise RuntimeError(
                "the stream is not entered: write 'async with bus.stream(...) as events'"
            )
        return self._subscription

    async def __aenter__(self) -> EventStream[T_co]:
        """Subscribe. Raises ``BusClosed``, ``WrongLoop``, and what ``subscribe`` raises."""
        self._enter()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Unsubscribe; what is unread ends *cancelled*, and the iteration ends."""
        self._leave()

    def __aiter__(self) -> EventStream[T_co]:
        return self

    async def __anext__(self) -> Event[T_co]:
        """The next event. Cancelled, it has taken nothing.

        Raises ``WrongLoop`` on another event loop than the one on which the stream was entered.
        """
        while True:
            if not self._ended:
                _binding.bind(self._bus)
            event = self._take()
            if event is not None:
                return event
            if self._ended:
                raise StopAsyncIteration
            await self._wait()

    def _enter(self) -> None:
        if self._subscription is not None:
            raise RuntimeError("a stream is entered once: make another one with bus.stream(...)")
        _binding.bind(self._bus)
        try:
            self._bus._refuse_outsiders()
            self._subscription = _registration.subscribe(
                self._bus, None, self._patterns, self._options, self
            )
        except BaseException:
            self._bus._resume()  # lets go of the loop, if nothing else holds it
            raise
        self._bus._streams[self] = None

    def _leave(self) -> None:
        self._end()
        if self._subscription is not None:
            self._subscription.unsubscribe()

    def _end(self) -> None:
        """There will be no further events. What is unread can still be read."""
        self._ended = True
        self._bus._streams.pop(self, None)
        if self._subscription is not None:
            _registration.leave(self._bus, self._subscription)
            self._bus._find_place(self._subscription)
        self._arrived(everybody=True)
        self._bus._resume()

    def _take(self) -> Event[T_co] | None:
        """The next unread event that fits the topic's model; ends its delivery."""
        subscription = self.subscription
        while subscription._queue:
            receipt = next(iter(subscription._queue))  # it stays pending meanwhile
            event: Event[Any] = receipt.event
            error: Exception | None = None
            try:
                if subscription._payload is not None:
                    what = f"{event!r} for {subscription.name}"
                    data = subscription._payload.validate(event.data, what)
                    event = event if data is event.data else event.with_data(data)
            except Exception as broken:
                error = broken
            if receipt is not next(iter(subscription._queue), None):
                continue  # what checked it has published, and overflow has dropped it
            subscription._queue.popleft()
            self._end_reading(receipt, "handled" if error is None else "failed", error)
            if error is None:
                return event
            if not isinstance(error, PayloadError):
                raise error
        return None

    def _end_reading(
        self, receipt: Receipt, status: Status, error: BaseException | None = None
    ) -> None:
        tell = _ends.end_unstarted(self.subscription, receipt, status, error)
        self._bus._find_place(self.subscription)
        if self.subscription._full:
            self._bus._make_room(self.subscription)
        tell()

    async def _wait(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._readers.append(future)
        try:
            await future
        except BaseException:  # closed, like cancelled
            if future in self._readers:
                self._readers.remove(future)
            else:
                self._arrived()  # it was woken for an event that another reader should have now
            raise

    def _arrived(self, *, everybody: bool = False) -> None:
        """Wake a reader that waits, or all of them."""
        while self._readers:
            future = self._readers.pop(0)
            if not future.done():
                wake(future)
                if not everybody:
                    return

    def __repr__(self) -> str:
        state = "ended" if self._ended else "new" if self._subscription is None else "open"
        unread = 0 if self._subscription is None else self._subscription.pending
        return f"<EventStream {state}: {unread} unread, {self.lagged} lagged>"


async def wait_for(stream: EventStream[T_co], timeout: float | None) -> Event[T_co]:
    """The stream's first event, within so many seconds."""
    bus = stream._bus
    timed_out = False

    def time_out() -> None:
        nonlocal timed_out
        timed_out = True
        stream._end()

    stream._enter()
    timer = None if timeout is None else bus._clock.call_later(timeout, time_out)
    try:
        return await stream.__anext__()
    except StopAsyncIteration:
        if timed_out:
            patterns = ", ".join(stream.subscription.patterns)
            raise TimeoutError(f"no event on {patterns} within {timeout} s") from None
        raise BusClosed(f"{bus.name} closed before the event came") from None
    finally:
        if timer is not None:
            timer.cancel()
        stream._leave()
