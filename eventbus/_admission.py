"""Accepting an event, when that takes more than appending it to queues.

The way of an event in: ask the predicates (`judge`), see whether every queue that makes publishers
wait has room (`first_full`), and then either `commit` it everywhere in one step, or let its
publisher wait with a `Ticket`. Nothing here awaits, and nothing of the application runs between the
first and the last write of `commit`: so an event is queued everywhere or nowhere.

A ticket stands in the line of one full queue, in order of arrival. Whoever takes an event from
that queue calls `serve_line`: the oldest ticket that now fits everywhere is accepted, there and
then; one that meets another full queue moves to that one's line, and waits as long as it stays
full. No ticket in a line ever fits, so a publication that fits overtakes nobody it could have
followed.
"""

from __future__ import annotations

import asyncio
import itertools
from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from eventbus import _cascade, _deadlock, _ends
from eventbus._queues import KeyedQueue
from eventbus.errors import BusClosed, NotSubscribed
from eventbus.event import date
from eventbus.subscription import LISTENING

if TYPE_CHECKING:
    from contextvars import Context

    from eventbus._delivery import Delivery
    from eventbus._engine import Engine
    from eventbus.dead_letters import DeadLetter
    from eventbus.receipt import Receipt
    from eventbus.subscription import Subscription


class Verdict(NamedTuple):
    """A subscription that gets the event, with its key, or with what its predicates raised."""

    subscription: Subscription
    key: Hashable = None
    error: BaseException | None = None


def judge(bus: Engine, receipt: Receipt, subscription: Subscription) -> Verdict | None:
    """Ask ``where`` and then ``key``; None if ``where`` does not want the event.

    What they raise fails this one delivery, except for the exceptions that end programs: those
    leave at once, with nothing accepted.
    """
    options = subscription._options
    if options.where is None and options.key is None:
        return Verdict(subscription)
    barred, bus._barred = bus._barred, True
    bus._judging = subscription
    try:
        redelivery = receipt._redelivered  # `where` has let it pass before
        if options.where is not None and not redelivery and not options.where(receipt.event):
            return None
        if options.key is None:
            return Verdict(subscription)
        return Verdict(subscription, _hashable(options.key(receipt.event), subscription))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        _ends.drop_own_frames(error)
        return Verdict(subscription, None, error)
    finally:
        bus._judging = None
        bus._barred = barred


def _hashable(key: Hashable, subscription: Subscription) -> Hashable:
    try:
        hash(key)
    except TypeError as error:
        raise TypeError(f"the key of {subscription.name} can be no key: {error}") from None
    return key


def judge_all(
    bus: Engine, receipt: Receipt, subscriptions: Iterable[Subscription]
) -> list[Verdict]:
    """The verdicts of those that get the event, in order of subscription."""
    verdicts = (judge(bus, receipt, subscription) for subscription in subscriptions)
    return [verdict for verdict in verdicts if verdict is not None]


def first_full(verdicts: Iterable[Verdict]) -> Subscription | None:
    """The first queue without room whose publishers wait for it."""
    for subscription, _, error in verdicts:
        if subscription._full and error is None and subscription.overflow == "block":
            return subscription
    return None


def commit(
    bus: Engine,
    receipt: Receipt,
    verdicts: list[Verdict],
    inside: Delivery | None,
    context: Context | None = None,
) -> None:
    """Accept an event everywhere. Runs nothing of the application until all is written.

    ``context`` is the publisher's, where it is not the current one.
    """
    handlers = tuple(
        verdict.subscription for verdict in verdicts if not verdict.subscription._reader
    )
    receipt._subscriptions = handlers
    receipt._total = len(handlers)
    receipt._unread = len(verdicts) - len(handlers)
    if inside is not None:
        _cascade.nest(receipt, inside.receipt, len(verdicts))
    if not receipt._redelivered:
        bus._events += 1
    bus._unturned += 1
    if not verdicts:
        bus._unhandled += 1
        receipt._context = None
    if handlers:
        bus._open += 1
    tell: list[Callable[[], None]] = []
    for verdict in verdicts:
        verdict.subscription.accepted += 1
    for subscription, key, error in verdicts:
        if error is not None:
            tell.append(_ends.end_unstarted(subscription, receipt, "failed", error))
        else:
            _enqueue(bus, subscription, receipt, key, tell)
        if subscription._options.once:
            bus._leave(subscription)
    if inside is not None:
        _deadlock.waiting.grew(receipt)
    bus._resume()
    _ends.tell_all(tell)
    for witness in bus._witnesses:
        if context is None:
            witness(receipt, len(verdicts))
        else:
            context.run(witness, receipt, len(verdicts))


def _enqueue(
    bus: Engine,
    subscription: Subscription,
    receipt: Receipt,
    key: Hashable,
    tell: list[Callable[[], None]],
) -> None:
    queue = subscription._queue
    if queue is None:
        queue = subscription._new_queue()
    if subscription._full and subscription.overflow == "drop_newest":
        tell.append(_ends.end_unstarted(subscription, receipt, "dropped"))
        return
    if isinstance(queue, KeyedQueue):
        try:
            queue.append(receipt, key)
        except Exception as error:  # the application's own `__eq__`, which two keys had to ask
            tell.append(_ends.end_unstarted(subscription, receipt, "failed", error))
            return
    else:
        queue.append(receipt)
    if subscription._full and subscription.overflow == "drop_oldest":
        tell.append(_ends.end_unstarted(subscription, queue.popleft(), "dropped"))
    if len(queue) >= subscription.capacity:
        bus._mark_full(subscription)
    if subscription._reader is not None:
        subscription._reader._arrived()
    else:
        bus._find_place(subscription)


_numbers = itertools.count()


class Ticket:
    """A publication that waits for room, in the line of one full queue."""

    __slots__ = (
        "_bus",
        "_verdicts",
        "accept",
        "accepted",
        "blocked_by",
        "fail",
        "letter",
        "number",
        "receipt",
        "since",
        "warned",
    )

    def __init__(self, bus: Engine, receipt: Receipt, verdicts: list[Verdict]) -> None:
        self._bus = bus
        self._verdicts: dict[Subscription, Verdict | None] = {
            verdict.subscription: verdict for verdict in verdicts
        }
        self.receipt = receipt
        self.number = next(_numbers)
        self.since = bus._monotonic()
        self.warned = False
        self.accepted = False
        self.blocked_by: Subscription | None = None
        self.letter: DeadLetter | None = None
        """What is delivered again, to the one subscription that there is a verdict of."""
        self.accept: Callable[[Receipt], object] = _ignore
        self.fail: Callable[[BaseException], object] = _ignore

    async def wait(self) -> Receipt:
        """Wait until the event is accepted.

        Cancelled in the turn in which it was accepted, it stays accepted; before, nothing is left.
        """
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.accept = lambda receipt: _resolve(future, receipt)
        self.fail = lambda error: _reject(future, error)
        try:
            return await future
        finally:
            self.withdraw()

    def withdraw(self) -> None:
        """Stop waiting, if it still does."""
        if self.blocked_by is not None:
            _leave_line(self)
            _forget(self)
            self._bus._resume()

    def verdicts(self) -> list[Verdict]:
        """The verdicts of those who listen now; whom the event has not met before is asked now.

        Raises ``NotSubscribed`` if a letter's subscription has left.
        """
        bus, receipt = self._bus, self.receipt
        if self.letter is not None:
            listening = tuple(self._verdicts)
            if listening[0]._standing != LISTENING:
                raise NotSubscribed(
                    f"{listening[0].name} has left the bus while {receipt.event!r} waited"
                )
        else:
            topic = receipt.event.type
            listening = (bus._index.match(topic) or bus._index.route(topic)).subscriptions
        strangers = [each for each in listening if each not in self._verdicts]
        if strangers:
            context: Context = receipt._context.copy()  # type: ignore[union-attr]  # it has pending deliveries
            for stranger in strangers:
                self._verdicts[stranger] = context.run(judge, bus, receipt, stranger)
        found = [self._verdicts[each] for each in listening]
        return [verdict for verdict in found if verdict is not None]


def _ignore(_: object) -> None:
    """Nobody waits any more."""


def _resolve(future: asyncio.Future[Receipt], receipt: Receipt) -> None:
    if not future.done() and not future.get_loop().is_closed():
        future.set_result(receipt)


def _reject(future: asyncio.Future[Receipt], error: BaseException) -> None:
    if not future.done() and not future.get_loop().is_closed():
        future.set_exception(error)


def enter_line(ticket: Ticket, subscription: Subscription) -> None:
    """Let a publication wait for a queue, behind those who came before it."""
    if subscription._line is None:
        subscription._line = []
    insort(subscription._line, ticket, key=_number)
    ticket.blocked_by = subscription


def _leave_line(ticket: Ticket) -> None:
    subscription, ticket.blocked_by = ticket.blocked_by, None
    if subscription is not None and subscription._line:
        place = bisect_left(subscription._line, ticket.number, key=_number)
        if place < len(subscription._line) and subscription._line[place] is ticket:
            del subscription._line[place]


def _number(ticket: Ticket) -> int:
    return ticket.number


def _forget(ticket: Ticket) -> None:
    """The publication does not wait any more. With the last one, the warning timer goes."""
    bus = ticket._bus
    bus._tickets.pop(ticket.number, None)
    if not bus._tickets and bus._room_timer is not None:
        bus._room_timer.cancel()
        bus._room_timer = None


def serve_line(bus: Engine, subscription: Subscription) -> None:
    """A place is free, or the subscription has left: accept who now fits, oldest first."""
    line = subscription._line
    while line and not (subscription._full and subscription._standing == LISTENING):
        ticket = line.pop(0)
        ticket.blocked_by = None
        _try_again(bus, ticket)


def _try_again(bus: Engine, ticket: Ticket) -> None:
    """Accept a waiting publication, or let it wait for the next queue in its way."""
    receipt = ticket.receipt
    try:
        verdicts = ticket.verdicts()
    except BaseException as error:
        _forget(ticket)
        ticket.fail(error)
        return
    bus._deal_out()
    blocking = first_full(verdicts)
    if blocking is not None:
        enter_line(ticket, blocking)
        return
    _forget(ticket)
    now = bus._monotonic()
    if ticket.letter is None:
        date(receipt.event, bus._clock.time())
    else:  # the event keeps its time
        bus.dead_letters.discard(ticket.letter)
    receipt._accepted_at = now
    ticket.accepted = True
    assert receipt._context is not None
    try:
        commit(bus, receipt, verdicts, None, receipt._context.copy())
    finally:  # a hook that ends the program does not undo it
        ticket.accept(receipt)


def refuse_all(bus: Engine) -> None:
    """The bus closes: nobody who waits for room will get it."""
    for ticket in list(bus._tickets.values()):
        _leave_line(ticket)
        _forget(ticket)
        ticket.fail(BusClosed(f"{bus.name} closed while {ticket.receipt.event!r} waited for room"))


def full_queues(ticket: Ticket) -> list[str]:
    """The names of the queues known to be in the way of a publication, for the warning.

    A subscription that came since is asked when a place is free, and not by a timer.
    """
    found = map(first_full, ([verdict] for verdict in ticket._verdicts.values() if verdict))
    return [each.name for each in found if each is not None and each._standing == LISTENING]


ROOM_WARNING_SECONDS = 5.0
"""How long a publisher waits for room before the log says for whom."""


def watch(bus: Engine) -> None:
    """See to it that the publisher that has waited longest without a warning gets one."""
    if bus._room_timer is None:
        ticket = next((ticket for ticket in bus._tickets.values() if not ticket.warned), None)
        if ticket is not None:
            left = ticket.since + ROOM_WARNING_SECONDS - bus._monotonic()
            bus._room_timer = bus._clock.call_later(max(left, 0), lambda: _warn(bus))


def _warn(bus: Engine) -> None:
    bus._room_timer = None
    now = bus._monotonic()
    for ticket in list(bus._tickets.values()):
        if ticket.since + ROOM_WARNING_SECONDS > now:  # the sum that `watch` made, to the last bit
            break
        if not ticket.warned:
            ticket.warned = True
            bus._log.write(
                "publish.waiting",
                "warning",
                topic=ticket.receipt.event.type,
                event_id=ticket.receipt.event.id,
                seconds=now - ticket.since,
                subscriptions=full_queues(ticket),
                publishers=len(bus._tickets),
            )
    watch(bus)
