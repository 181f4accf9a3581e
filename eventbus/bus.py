"""The event bus: wires topics, queues, pumps and receipts together.

The way of an event: `EventBus.publish` → `_submit` (which loop, which topic, who is publishing) →
the index (whom it reaches) → room in every queue (`_admission`, when that takes more than a look)
→ appended to each queue → a pump is made sure of → `_pump` steps the handlers → `_ends` does the
accounts → the receipt wakes who waits.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar, Unpack, overload

from eventbus import _admission, _binding, _deadlock, _introspection, _registration
from eventbus._closing import CloseReport, Closing
from eventbus._delivery import Wait
from eventbus._engine import Engine
from eventbus._handler import describe_callable
from eventbus._state import State
from eventbus.catalog import Catalog
from eventbus.clock import Clock, SystemClock
from eventbus.errors import (
    BusClosed,
    HandlerError,
    NotSubscribed,
    OptionError,
    UnknownTopic,
    WouldBlock,
    WrongLoop,
)
from eventbus.event import Event, EventFields, current, given_slots, new_event
from eventbus.instrumentation import Hook, LogHook
from eventbus.receipt import Outcome, Receipt, make_nested, new_receipt
from eventbus.stream import EventStream, wait_for
from eventbus.subscription import (
    READY,
    Overflow,
    Subscription,
    SubscriptionOptions,
    check_seconds,
)
from eventbus.topics import Topic, check_topic

if TYPE_CHECKING:
    from eventbus._index import Route
    from eventbus._introspection import Explanation, SubscriptionInfo
    from eventbus.dead_letters import DeadLetter

__all__ = ["EventBus", "Statistics"]

T = TypeVar("T")
R = TypeVar("R")
H = TypeVar("H", bound=Callable[[Event[Any]], object])

TURN_EVERY: Final = 256
"""How many events are accepted before a publisher must give the loop a turn."""


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


class EventBus(Engine):
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
    - ``store``: for durable subscriptions.
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

    # ---- Publishing

    @overload
    async def publish(
        self,
        topic: Topic[T],
        data: T,
        **fields: Unpack[EventFields],
    ) -> Receipt: ...
    @overload
    async def publish(
        self,
        topic: str,
        data: Any = None,
        **fields: Unpack[EventFields],
    ) -> Receipt: ...
    async def publish(
        self,
        topic: str | Topic[Any],
        data: Any = None,
        **fields: Unpack[EventFields],
    ) -> Receipt:
        """Announce a fact. Returns once it is accepted: queued, or dropped by policy, everywhere.

        No handler runs in this call. Outside of handlers it waits while a queue with
        ``overflow="block"`` is full; inside one it never waits. The keyword arguments are those of
        `EventFields`: ``id``, ``source``, ``time``, ``subject``, ``attributes``.

        Raises ``TopicError``, ``UnknownTopic`` on a strict bus, ``PayloadError`` for a `Topic` that
        the data does not fit, ``BusClosed``, ``WrongLoop``, ``NoRunningLoop``, and in a handler
        ``CascadeOverflow``. If it raises, nothing was accepted. Cancelled, the event is accepted
        everywhere or nowhere.
        """
        if self._unturned >= TURN_EVERY:
            self._unturned = 0
            await asyncio.sleep(0)
        given = given_slots(**fields) if fields else None
        try:
            submitted = self._submit(topic, data, given)
        except BaseException:
            self._resume()  # lets go of the loop, if nothing else holds it
            raise
        if type(submitted) is Receipt:
            return submitted
        assert isinstance(submitted, _admission.Ticket)
        return await submitted.wait()

    @overload
    def publish_nowait(
        self, topic: Topic[T], data: T, **fields: Unpack[EventFields]
    ) -> Receipt: ...
    @overload
    def publish_nowait(
        self, topic: str, data: Any = None, **fields: Unpack[EventFields]
    ) -> Receipt: ...
    def publish_nowait(
        self,
        topic: str | Topic[Any],
        data: Any = None,
        **fields: Unpack[EventFields],
    ) -> Receipt:
        """As ``publish``, but raises ``WouldBlock`` where that would wait: nothing was accepted."""
        given = given_slots(**fields) if fields else None
        try:
            submitted = self._submit(topic, data, given, wait=False)
        except BaseException:
            self._resume()
            raise
        assert isinstance(submitted, Receipt)
        return submitted

    @overload
    async def publish_and_wait(
        self,
        topic: Topic[T],
        data: T,
        *,
        cascade: bool = False,
        check: bool = False,
        **fields: Unpack[EventFields],
    ) -> tuple[Outcome, ...]: ...
    @overload
    async def publish_and_wait(
        self,
        topic: str,
        data: Any = None,
        *,
        cascade: bool = False,
        check: bool = False,
        **fields: Unpack[EventFields],
    ) -> tuple[Outcome, ...]: ...
    async def publish_and_wait(
        self,
        topic: str | Topic[Any],
        data: Any = None,
        *,
        cascade: bool = False,
        check: bool = False,
        **fields: Unpack[EventFields],
    ) -> tuple[Outcome, ...]:
        """``publish`` and then ``Receipt.outcomes(cascade=…, check=…)``.

        In a handler whose own end is needed for the outcomes, it raises ``WouldDeadlock``; the
        event is accepted all the same, and only the wait is refused.
        Cancelled while it waits for the outcomes, the deliveries go on.
        """
        receipt = await self.publish(topic, data, **fields)
        return await receipt.outcomes(cascade=cascade, check=check)

    @overload
    def publish_from_thread(
        self, topic: Topic[T], data: T, **fields: Unpack[EventFields]
    ) -> Receipt: ...
    @overload
    def publish_from_thread(
        self, topic: str, data: Any = None, **fields: Unpack[EventFields]
    ) -> Receipt: ...
    def publish_from_thread(
        self,
        topic: str | Topic[Any],
        data: Any = None,
        **fields: Unpack[EventFields],
    ) -> Receipt:
        """As ``publish``, from any other thread, while ``async with bus`` runs.

        Returns once the event is accepted; waits for room like any outsider. In a handler with
        ``thread=True`` it counts as inside, and never waits for room.

        Raises what ``publish`` raises, ``WrongLoop`` in the thread of the bus's own loop, and
        ``BusClosed`` while the bus is not entered. If a ``KeyboardInterrupt`` ends the wait, the
        event may be accepted or not.
        """
        loop = _binding.check_other_thread(self)
        given = given_slots(**fields) if fields else None
        future: concurrent.futures.Future[Receipt] = concurrent.futures.Future()
        try:
            loop.call_soon_threadsafe(
                self._submit_for_thread, future, topic, data, given, context=copy_context()
            )
        except RuntimeError:
            raise BusClosed(f"the event loop of {self.name} is closed") from None
        while True:
            try:
                return future.result(timeout=1.0)
            except concurrent.futures.TimeoutError:
                if future.done():  # just now, or a validator raised a TimeoutError of its own
                    return future.result()
                if loop.is_closed():
                    raise BusClosed(f"the event loop of {self.name} was closed") from None

    def _submit_for_thread(
        self,
        future: concurrent.futures.Future[Receipt],
        topic: str | Topic[Any],
        data: Any,
        given: Mapping[str, Any] | None,
    ) -> None:
        try:
            submitted = self._submit(topic, data, given)
        except BaseException as error:
            self._resume()
            future.set_exception(error)
            return
        if isinstance(submitted, Receipt):
            future.set_result(submitted)
        else:
            submitted.accept = future.set_result
            submitted.fail = future.set_exception

    def _submit(  # noqa: C901 - unrolled, see below
        self,
        topic: str | Topic[Any],
        data: Any,
        given: Mapping[str, Any] | None,
        *,
        wait: bool = True,
    ) -> Receipt | _admission.Ticket:
        """Accept an event, or say why not, or let it wait for room. Contains no await."""
        if not (self._pumps and self._thread == get_ident() and self._loop.is_running()):  # type: ignore[union-attr]  # pumps have a loop
            _binding.bind(self)
        if type(topic) is str:
            name: str = topic
        else:
            name, data = _resolve(topic, data)
        route = self._index.match(name) or self._find_route(name)
        delivery = current.get()
        inside = None if delivery is None else self._inside(delivery)
        if self._barred:
            self._refuse(inside)
        now = self._clock.monotonic()
        cause = None if delivery is None else delivery.event
        event = new_event(name, data, self._source, now + self._wall, cause, given)
        receipt = new_receipt(self, event, copy_context(), now)

        subscriptions = route.subscriptions
        if not route.plain or self._accept_observers or (self._full and _any_full(subscriptions)):
            return self._submit_carefully(receipt, subscriptions, inside, wait)

        # Everybody has room and nobody must be asked. This is `_admission.commit`, unrolled.
        total = len(subscriptions)
        if inside is not None:
            _admission.check_cascade(self, inside.receipt, total)
        receipt._subscriptions = subscriptions
        receipt._total = total
        if inside is not None:
            make_nested(receipt, inside.receipt, total)
        self._events += 1
        self._unturned += 1
        if not total:
            self._unhandled += 1
            receipt._context = None
            self._resume()
            return receipt
        self._open += 1
        ready = self._ready
        for subscription in subscriptions:
            subscription.accepted += 1
            queue = subscription._queue
            if queue is None:
                queue = subscription._new_queue()
            queue.append(receipt)  # type: ignore[call-arg]  # plain: no key
            if not subscription._place:
                subscription._place = READY
                ready.append(subscription)
            if len(queue) >= subscription.capacity:
                self._mark_full(subscription)
        if inside is not None:
            _deadlock.waiting.grew(receipt)
        if not self._pumps:
            self._start_pump()
        return receipt

    def _submit_carefully(
        self,
        receipt: Receipt,
        subscriptions: tuple[Subscription, ...],
        inside: Any,
        wait: bool,
        only: Subscription | None = None,
    ) -> Receipt | _admission.Ticket:
        verdicts = _admission.judge_all(self, receipt, subscriptions)
        if self._loop is None:
            _binding.bind(self)  # a predicate may have let go of the loop
        if inside is not None:
            _admission.check_cascade(self, inside.receipt, len(verdicts))
        else:
            blocking = _admission.first_full(verdicts)
            if blocking is not None:
                if not wait:
                    raise WouldBlock(
                        f"the queue of {blocking.name} is full ({blocking.capacity} events)"
                    )
                ticket = _admission.Ticket(self, receipt, verdicts)
                ticket.only = only
                self._tickets[ticket.number] = ticket
                _admission.enter_line(ticket, blocking)
                _admission.watch(self)
                return ticket
        _admission.commit(self, receipt, verdicts, inside)
        return receipt

    def _inside(self, delivery: Any) -> Any:
        """The delivery, if what its handler publishes here is nested.

        Not after its end, and not from a bus on another loop: what belongs to its cascade is
        counted without locks, and that loop may run in another thread.
        """
        here = delivery.status is None and delivery.owner.bus._loop is self._loop
        return delivery if here else None

    def _find_route(self, topic: str) -> Route[Subscription]:
        """The route of a topic that was not met of late: it is checked here, and only here."""
        topic = check_topic(topic)
        if self._catalog is not None and not self._catalog.known(topic):
            suggestion = self._catalog.did_you_mean(topic)
            if self._strict:
                raise UnknownTopic(f"the catalogue has no topic {topic!r}.{suggestion}")
            _registration.warn_once(
                self, "topic.unknown", topic, topic=topic, suggestion=suggestion.strip()
            )
            _binding.bind(self)  # what listens to the log may have let go of the loop
        return self._index.route(topic)

    def _owner_of(self, letter: DeadLetter) -> Subscription | None:
        """Its subscription; or, if that was subscribed anew, the one of its name."""
        for subscription in self.subscriptions:
            if subscription.number == letter._number:
                return subscription
        for subscription in self.subscriptions:
            if subscription.name == letter.subscription and subscription._options.name is not None:
                return subscription
        return None

    async def redeliver(self, letter: DeadLetter) -> Receipt:
        """Deliver a dead letter again, to its own subscription only. The letter leaves the ring.

        It waits for room like any outsider, but never in a handler. The new delivery starts with
        attempt 1 and ``redelivered`` true, and its event is the same.

        Raises ``NotSubscribed`` if the subscription has left; the letter stays where it is then,
        and also if this is cancelled before the event is accepted.
        """
        _binding.bind(self)
        delivery = current.get()
        inside = None if delivery is None else self._inside(delivery)
        if self._barred:
            self._refuse(inside)
        subscription = self._owner_of(letter)
        if subscription is None:
            self._resume()
            raise NotSubscribed(
                f"{letter.subscription} is not subscribed any more: {letter!r} stays"
            )
        now = self._clock.monotonic()
        receipt = new_receipt(self, letter.event, copy_context(), now)
        receipt._redelivered = True
        submitted = self._submit_carefully(receipt, (subscription,), inside, True, subscription)
        if isinstance(submitted, _admission.Ticket):
            ticket = submitted
            try:
                submitted = await ticket.wait()
            finally:
                if ticket.accepted:  # perhaps in the very turn in which this was cancelled
                    self.dead_letters.discard(letter)
            return submitted
        self.dead_letters.discard(letter)
        return submitted

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
        """The accounts, as of now."""
        totals = self._totals()
        return Statistics(
            **totals, pending=self._pending(), events=self._events, unhandled=self._unhandled
        )

    def describe(self) -> list[SubscriptionInfo]:
        """Who listens to what, written where, registered where, with what options."""
        return _introspection.describe(self)

    def explain(self, topic: str | Topic[Any]) -> Explanation:
        """Whom an event on this topic would reach, through which pattern, and the near misses.

        Raises ``TopicError``. ``where`` is not asked, for lack of an event.
        """
        return _introspection.explain(
            self, check_topic(str(topic) if isinstance(topic, Topic) else topic)
        )

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


def _resolve(topic: object, data: Any) -> tuple[str, Any]:
    if isinstance(topic, Topic):
        return topic.name, topic.validate(data)
    return check_topic(topic), data


def _any_full(subscriptions: tuple[Subscription, ...]) -> bool:
    return any(subscription._full for subscription in subscriptions)
