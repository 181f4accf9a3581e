"""The event bus: what applications call.

The way of an event: `publish` → `_publishing` (which loop, which topic, who is publishing) → the
index (whom it reaches) → room in every queue (`_admission`, when that takes more than a look)
→ appended to each queue, or handed round if nothing else is pending (`_round`) → a pump is made
sure of → `_pump` steps the handlers, in `_drivers` → `_ends` does the accounts → the receipt wakes
who waits.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, Unpack, overload

from eventbus import _binding, _deadlock, _registration
from eventbus._closing import CloseReport, Closing
from eventbus._delivery import Wait
from eventbus._handler import describe_callable
from eventbus._publishing import Publishing
from eventbus._state import State, instances
from eventbus.catalog import Catalog
from eventbus.clock import Clock, SystemClock
from eventbus.errors import (
    BusClosed,
    HandlerError,
    OptionError,
    WrongLoop,
)
from eventbus.event import Event
from eventbus.instrumentation import Hook, LogHook
from eventbus.stream import EventStream, wait_for
from eventbus.subscription import (
    Overflow,
    Subscription,
    SubscriptionOptions,
    check_seconds,
)
from eventbus.topics import Topic, check_topic

if TYPE_CHECKING:
    from eventbus._introspection import Explanation, SubscriptionInfo

__all__ = ["EventBus", "Statistics"]

T = TypeVar("T")
R = TypeVar("R")
H = TypeVar("H", bound=Callable[[Event[Any]], object])


@dataclass(frozen=True, slots=True)
class Statistics:
    """The accounts of a bus, since it was made, over all subscriptions it has ever had.

    ``accepted == handled + failed + dropped + cancelled + pending``, at every moment.
    """

    accepted: int
    """Deliveries: one for each event and each subscription it reached."""
    handled: int
    failed: int
    dropped: int
    cancelled: int
    pending: int
    """Deliveries that are queued, running, or waiting for a retry."""
    events: int
    """Events accepted."""
    unhandled: int
    """Events that reached no subscription."""


class _TypedDecorator(Protocol[T]):
    def __call__(self, handler: Callable[[Event[T]], R], /) -> Callable[[Event[T]], R]: ...


class _Decorator(Protocol):
    def __call__(self, handler: H, /) -> H: ...


class EventBus(Publishing):
    """An event bus that lives inside one asyncio application.

    It needs no event loop to be made or subscribed to, and can be a module-level global. Leaving
    ``async with bus`` drains it. One bus is used on one event loop at a time, in its thread; from
    other threads only ``publish_from_thread`` may be called.

    >>> import asyncio
    >>> bus = EventBus()
    >>> @bus.on("invoice.*")
    ... async def ship(event: Event) -> str:
    ...     return f"shipping {event.data}"
    >>> async def main():
    ...     async with bus:
    ...         outcomes = await bus.publish_and_wait("invoice.paid", "in_1")
    ...         print(outcomes[0].status, "|", outcomes[0].result)
    >>> asyncio.run(main())
    handled | shipping in_1

    - ``name``: for log lines. ``source``: the ``source`` of its events; by default the name.
    - ``catalog``: the topics that the application knows. With ``strict=True``, publishing any
      other, or subscribing a pattern that none of them matches, raises; else the log has a warning.
    - ``store``: for durable subscriptions, of a later version; leave it out.
    - ``clock``: what everything that waits or dates asks; by default the operating system's.
    - ``hooks``: who is told what happens, beside the log.
    - ``dead_letters``: how many failed deliveries are kept.
    - ``cascade_limit``: nested deliveries that one root may have pending; ``cascade_depth``: how
      long a chain of events may get.
    - ``threads``: how many ``thread=True`` handlers run at once.

    Raises ``OptionError`` for values out of range.
    """

    def __init__(
        self,
        *,
        name: str = "eventbus",
        source: str | None = None,
        catalog: Catalog | Iterable[Topic[Any] | str] | None = None,
        strict: bool = False,
        store: Any = None,
        clock: Clock | None = None,
        hooks: Iterable[Hook] = (),
        dead_letters: int = 1000,
        cascade_limit: int = 10_000,
        cascade_depth: int = 1_000,
        threads: int = 40,
    ) -> None:
        for option, value in (("name", name), ("source", source)):
            if not (isinstance(value, str) and value) and not (
                option == "source" and source is None
            ):
                raise OptionError(f"{option}={value!r}: pass a string that is not empty")
        for option, number, least in (
            ("dead_letters", dead_letters, 0),
            ("cascade_limit", cascade_limit, 1),
            ("cascade_depth", cascade_depth, 1),
            ("threads", threads, 1),
        ):
            if not isinstance(number, int) or isinstance(number, bool) or number < least:
                raise OptionError(f"{option}={number!r}: pass a whole number of at least {least}")
        if strict and catalog is None:
            raise OptionError("strict=True needs a catalog: pass catalog=PAYMENT_KIT, for example")
        if store is not None:
            raise OptionError("store: this version has no durable subscriptions yet; leave it out")
        hooks = (LogHook(), *_check_hooks(hooks))
        if clock is not None and not isinstance(clock, Clock):
            raise OptionError(f"clock={clock!r}: pass a Clock, for example SystemClock()")
        if catalog is not None and not isinstance(catalog, Catalog):
            if isinstance(catalog, str | Topic):
                raise OptionError(f"catalog={catalog!r}: pass a Catalog, or a list of topics")
            catalog = Catalog(catalog)
        super().__init__(
            name=name,
            source=name if source is None else source,
            catalog=catalog,
            strict=strict,
            clock=SystemClock() if clock is None else clock,
            hooks=hooks,
            dead_letters=dead_letters,
            cascade_limit=cascade_limit,
            cascade_depth=cascade_depth,
            threads=threads,
        )
        instances.add(self)

    # ---- Subscribing

    @overload
    def subscribe(
        self,
        handler: Callable[[Event[T]], object],
        *patterns: Topic[T],
        **options: Unpack[SubscriptionOptions],
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        handler: Callable[[Event[Any]], object],
        *patterns: str | Topic[Any],
        **options: Unpack[SubscriptionOptions],
    ) -> Subscription: ...
    def subscribe(
        self,
        handler: Callable[[Event[Any]], object],
        *patterns: str | Topic[Any],
        **options: Unpack[SubscriptionOptions],
    ) -> Subscription:
        """Let a handler react to the events of some patterns, from now on; without any, to all.

        The handler is ``async def`` or ``def``, a function, a bound method or any other callable,
        and takes one argument, the event. Annotated ``Event[Model]``, it gets ``data`` validated
        into that model. An event that several of the patterns match is delivered once. The
        options are those of `SubscriptionOptions`.

        Raises ``PatternError``, ``HandlerError`` (or ``TypeError`` for what is no callable),
        ``OptionError``, ``NameTaken``, and ``UnmatchedPattern`` on a strict bus. Nothing is
        subscribed then.
        """
        return _registration.subscribe(self, handler, patterns, options)

    @overload
    def on(  # type: ignore[overload-overlap]  # a Topic decorates more strictly than a string
        self, topic: Topic[T], /, *topics: Topic[T], **options: Unpack[SubscriptionOptions]
    ) -> _TypedDecorator[T]: ...
    @overload
    def on(
        self, *patterns: str | Topic[Any], **options: Unpack[SubscriptionOptions]
    ) -> _Decorator: ...
    def on(
        self, *patterns: Any, **options: Unpack[SubscriptionOptions]
    ) -> _Decorator | _TypedDecorator[Any]:
        """The same as a decorator, which returns the function unchanged."""
        if len(patterns) == 1 and callable(patterns[0]) and not isinstance(patterns[0], str):
            name = describe_callable(patterns[0])
            raise HandlerError(
                f"@bus.on needs parentheses: write '@bus.on(\"some.topic\")' above {name}, "
                "or '@bus.on()' for every event"
            )

        def subscribe(handler: H) -> H:
            _registration.subscribe(self, handler, patterns, options)
            return handler

        return subscribe

    # ---- Reading instead of handling

    @overload
    def stream(
        self,
        *patterns: Topic[T],
        name: str | None = None,
        where: Callable[[Event[Any]], object] | None = None,
        capacity: int = 1024,
        overflow: Overflow = "drop_oldest",
    ) -> EventStream[T]: ...
    @overload
    def stream(
        self,
        *patterns: str | Topic[Any],
        name: str | None = None,
        where: Callable[[Event[Any]], object] | None = None,
        capacity: int = 1024,
        overflow: Overflow = "drop_oldest",
    ) -> EventStream[Any]: ...
    def stream(
        self,
        *patterns: str | Topic[Any],
        name: str | None = None,
        where: Callable[[Event[Any]], object] | None = None,
        capacity: int = 1024,
        overflow: Overflow = "drop_oldest",
    ) -> EventStream[Any]:
        """Events to iterate over: ``async with bus.stream("invoice.*") as events``.

        It is subscribed while the block runs. At most ``capacity`` unread events are kept; what
        ``overflow`` drops is counted in ``events.lagged``. Nothing waits for a reader: not
        ``settle()``, not receipts, not the drain.

        Raises what ``subscribe`` raises, here and not at the block.
        """
        options: SubscriptionOptions = {
            "name": name,
            "where": where,
            "capacity": capacity,
            "overflow": overflow,
        }
        _registration.check_options(options)
        _registration.check_patterns(patterns)
        return EventStream(self, patterns, options)

    @overload
    async def wait_for(
        self,
        *patterns: Topic[T],
        where: Callable[[Event[Any]], object] | None = None,
        timeout: float | None = None,
    ) -> Event[T]: ...
    @overload
    async def wait_for(
        self,
        *patterns: str | Topic[Any],
        where: Callable[[Event[Any]], object] | None = None,
        timeout: float | None = None,
    ) -> Event[Any]: ...
    async def wait_for(
        self,
        *patterns: str | Topic[Any],
        where: Callable[[Event[Any]], object] | None = None,
        timeout: float | None = None,
    ) -> Event[Any]:
        """Wait for the next event that matches a pattern, and for which ``where`` is true.

        It listens from its first step: start it before you cause the event. ``timeout`` is in
        seconds; by default it waits for any time.

        Raises ``TimeoutError`` when the time is over, and ``BusClosed`` when the bus closes. A
        ``where`` that raises does not end the wait: that is a failed delivery, in the log and
        among the dead letters. Cancelling it leaves nothing behind.
        """
        check_seconds("timeout", timeout, optional=True)
        options: SubscriptionOptions = {
            "name": None,
            "where": where,
            # One event is enough, unless data may turn out not to fit when it is read.
            "capacity": 1024 if any(isinstance(each, Topic) for each in patterns) else 1,
            "overflow": "drop_newest",
        }
        return await wait_for(EventStream(self, patterns, options), timeout)

    # ---- Waiting, opening and closing

    async def settle(self) -> None:
        """Wait until nothing that was accepted is pending any more, cascades included.

        Raises ``WouldDeadlock`` in a handler of this bus, and ``WrongLoop`` if the bus is busy on
        another loop. Cancelling it changes nothing.
        """
        loop = _binding.bind(self)
        with _deadlock.waiting(Wait(bus=self)):
            if self._is_drained():
                self._resume()
                return
            future = loop.create_future()
            self._settlers.append(future)
            try:
                await future
            finally:
                if future in self._settlers:
                    self._settlers.remove(future)
                    self._resume()

    async def __aenter__(self) -> Self:
        """Open the bus, or open it again after a close.

        Raises ``WrongLoop`` if it is busy on another loop, and ``BusClosed`` while it closes.
        """
        _binding.bind(self)
        if self._state is State.ENTERED:
            raise WrongLoop(
                f"{self.name} is entered already: enter it once, where the application starts"
            )
        if self._state is State.CLOSING:
            raise BusClosed(f"{self.name} is closing: enter it again once it is closed")
        self._state = State.ENTERED
        self._barred = False
        self._last_report = None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self, *, grace: float = 10.0) -> CloseReport:
        """Drain and close: what was accepted is handled, and the report accounts for all of it.

        From the call on, outsiders get ``BusClosed``; handlers may still publish. What has not
        ended after ``grace`` seconds is cancelled and named in the report; what has not ended one
        second after that is counted as cancelled and abandoned. On a closed bus it returns the
        last report; while another call closes the bus, it waits for that one.

        Raises ``WouldDeadlock`` in a handler of this bus, ``WrongLoop`` if the bus is busy on
        another loop, and ``OptionError`` for a grace period that is no number of seconds.
        Cancelled, it cancels what is left, closes all the same, within about a second, and raises;
        a call that waits for another one leaves that as it is.
        """
        check_seconds("grace", grace)
        if self._state is State.CLOSED and self._last_report is not None:
            return self._last_report
        _binding.bind(self)
        with _deadlock.waiting(Wait(bus=self)):
            closing = self._closing
            first = closing is None
            if closing is None:
                closing = self._closing = Closing(self, grace)
                self._state = State.CLOSING
                self._barred = True
                closing.begin()
            return await closing.wait(hurry=first)

    # ---- Looking at it

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """The subscriptions that get new events, in order of subscription."""
        return self._index.subscriptions()

    def statistics(self) -> Statistics:
        """The accounts, as of now. In another thread as ``Subscription.statistics`` says."""
        totals = self._totals()
        return Statistics(
            **totals, pending=self._pending(), events=self._events, unhandled=self._unhandled
        )

    def describe(self) -> list[SubscriptionInfo]:
        """Who listens to what, written where, registered where, with what options."""
        from eventbus._introspection import describe

        return describe(self)

    def explain(self, topic: str | Topic[Any]) -> Explanation:
        """Whom an event on this topic would reach, through which pattern, and the near misses.

        Raises ``TopicError``. A ``where`` is not asked, for lack of an event; the subscriptions
        that have one are marked.
        """
        from eventbus._introspection import explain

        return explain(self, check_topic(str(topic) if isinstance(topic, Topic) else topic))

    def __repr__(self) -> str:
        return (
            f"<EventBus {self.name!r}, {self._state.value}: "
            f"{len(self.subscriptions)} subscriptions, {self._pending()} pending>"
        )


def _check_hooks(hooks: Iterable[Hook]) -> tuple[Hook, ...]:
    if not isinstance(hooks, Iterable):
        raise OptionError(f"hooks={hooks!r}: pass a list of hooks")
    hooks = tuple(hooks)
    for hook in hooks:
        if not isinstance(hook, Hook):
            raise OptionError(f"hooks: {hook!r} is no Hook: subclass eventbus.Hook")
        for name in ("accepted", "attempt_started", "attempt_ended", "delivery_ended", "log"):
            if inspect.iscoroutinefunction(getattr(hook, name)):
                raise OptionError(f"hooks: {hook!r} has an async {name}(): make it a def")
    return hooks
