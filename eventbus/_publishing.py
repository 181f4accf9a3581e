"""Publishing: every way in, up to the moment at which the event is queued everywhere.

`Publishing._submit` is the one that all of them call. It decides who publishes on which loop and
whom the topic reaches, and accepts the event if that takes nothing but appending it to queues;
what takes more (predicates, full queues, streams) goes through `_admission`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Mapping
from contextvars import copy_context
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, TypeVar, Unpack, overload

from eventbus import _admission, _binding, _cascade, _deadlock, _registration
from eventbus._engine import Engine
from eventbus.errors import BusClosed, NotSubscribed, UnknownTopic, WouldBlock
from eventbus.event import EventFields, get_current, given_slots
from eventbus.receipt import Receipt, new_publication, new_receipt
from eventbus.subscription import READY, Subscription
from eventbus.topics import Topic, check_topic

if TYPE_CHECKING:
    from eventbus._index import Route
    from eventbus.dead_letters import DeadLetter
    from eventbus.outcome import Outcome

T = TypeVar("T")

TURN_EVERY: Final = 256
"""How many events are accepted before a publisher must give the loop a turn."""

LOOK_SECONDS: Final = 1.0
"""How often a thread that waits for room looks whether the bus's loop still lives."""


class Publishing(Engine):
    """An engine that accepts events."""

    __slots__ = ()

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
        topic: str | Topic[None],
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
        self, topic: str | Topic[None], data: Any = None, **fields: Unpack[EventFields]
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
        topic: str | Topic[None],
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
        self, topic: str | Topic[None], data: Any = None, **fields: Unpack[EventFields]
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
                return future.result(timeout=LOOK_SECONDS)
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

    def _submit(  # noqa: C901, PLR0912, PLR0915 - unrolled, see below
        self,
        topic: str | Topic[Any],
        data: Any,
        given: Mapping[str, Any] | None,
        *,
        wait: bool = True,
    ) -> Receipt | _admission.Ticket:
        """Accept an event, or say why not, or let it wait for room. Contains no await."""
        if not (
            (self._pumps or self._spare) and self._thread == get_ident() and self._loop.is_running()  # type: ignore[union-attr]  # pumps have a loop
        ):
            _binding.bind(self)
        if type(topic) is str:
            name: str = topic
        else:
            name, data = self._resolve(topic, data)
        remembered = self._index.remembered
        route = remembered(name) or self._find_route(name)
        delivery = get_current()
        inside = None if delivery is None else self._inside(delivery)
        if self._barred:
            self._refuse(inside)
        monotonic = self._monotonic
        cause = None if delivery is None else delivery.event
        subscriptions = route.subscriptions
        receipt = new_publication(self, name, data, monotonic(), cause, given, subscriptions)
        if self._round is not None:
            self._deal_out()
        if self._loop is None:
            _binding.bind(self)  # a finalizer has published meanwhile, and so let go of the loop

        if not route.plain or (self._full and _any_full(subscriptions)):
            return self._submit_carefully(receipt, subscriptions, inside, wait)

        # Everybody has room and nobody must be asked. This is `_admission.commit`, unrolled.
        total = len(subscriptions)
        if inside is not None:
            _cascade.check(self, inside.receipt, total)
            _cascade.nest(receipt, inside.receipt, total)
        self._events += 1
        self._unturned += 1
        if not total:
            self._unhandled += 1
            receipt._context = None
            self._resume()
            for witness in self._witnesses:
                witness(receipt, 0)
            return receipt
        self._open += 1
        ready = self._ready
        if total > 1 and self._open == 1 and subscriptions[0]._active is None:
            # Nothing else is pending, and the first handler does not wait: a pump hands it round.
            self._takers = iter(subscriptions)  # before it: a signal handler may read in between
            self._round = receipt
        else:
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
        if not self._pumps and (self._round is not None or ready):
            self._pumps = 1
            self._new_pump(self._loop)  # type: ignore[arg-type]  # it is bound by now
        for witness in self._witnesses:
            witness(receipt, total)
        return receipt

    def _submit_carefully(
        self,
        receipt: Receipt,
        subscriptions: tuple[Subscription, ...],
        inside: Any,
        wait: bool,
        letter: DeadLetter | None = None,
    ) -> Receipt | _admission.Ticket:
        verdicts = _admission.judge_all(self, receipt, subscriptions)
        if self._loop is None:
            _binding.bind(self)  # a predicate may have let go of the loop
        if inside is not None:
            _cascade.check(self, inside.receipt, len(verdicts))
        else:
            blocking = _admission.first_full(verdicts)
            if blocking is not None:
                if not wait:
                    raise WouldBlock(
                        f"the queue of {blocking.name} is full ({blocking.capacity} events)"
                    )
                ticket = _admission.Ticket(self, receipt, verdicts)
                ticket.letter = letter
                self._tickets[ticket.number] = ticket
                _admission.enter_line(ticket, blocking)
                _admission.watch(self)
                return ticket
        if letter is not None:
            self.dead_letters.discard(letter)  # before it may fail again, in the same step even
        _admission.commit(self, receipt, verdicts, inside)
        return receipt

    def _inside(self, delivery: Any) -> Any:
        """The delivery, if what its handler publishes here is nested.

        Not after its end, and not from a bus on another loop: what belongs to its cascade is
        counted without locks, and that loop may run in another thread.
        """
        here = delivery.status is None and delivery.owner.bus._loop is self._loop
        return delivery if here else None

    def _resolve(self, topic: object, data: Any) -> tuple[str, Any]:
        if not isinstance(topic, Topic):
            return check_topic(topic), data
        data = topic.validate(data)
        if self._loop is None:
            _binding.bind(self)  # a validator has published, and so let go of the loop
        return topic.name, data

    def _find_route(self, topic: str) -> Route[Subscription]:
        """The route of a topic that was not used of late; a new one is checked, only here."""
        route = self._index.recall(topic)
        if route is not None:
            return route
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
        for subscription in self._index.subscriptions():
            mine = (self._serial, subscription.number, subscription.name)
            if mine == (letter._bus, letter._number, letter.subscription):
                return subscription
        for subscription in self._index.subscriptions():
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
        try:
            submitted = self._submit_again(letter)
        except BaseException:
            self._resume()
            raise
        if isinstance(submitted, Receipt):
            return submitted
        return await submitted.wait()

    def _submit_again(self, letter: DeadLetter) -> Receipt | _admission.Ticket:
        delivery = get_current()
        inside = None if delivery is None else self._inside(delivery)
        if self._barred:
            self._refuse(inside)
        subscription = self._owner_of(letter)
        if subscription is None:
            raise NotSubscribed(
                f"{letter.subscription} is not subscribed any more: {letter!r} stays"
            )
        self._deal_out()
        receipt = new_receipt(self, letter.event, copy_context(), self._monotonic())
        receipt._redelivered = True
        return self._submit_carefully(receipt, (subscription,), inside, True, letter)


def _any_full(subscriptions: tuple[Subscription, ...]) -> bool:
    return any(subscription._full for subscription in subscriptions)
