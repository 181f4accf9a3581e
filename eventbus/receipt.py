"""The receipt of a publication: waiting for its deliveries.

A receipt *is* the publication: the one object that every queue of a fan-out holds, so that
publishing to a hundred subscriptions makes no hundred objects. It knows its event, the context
of its publisher until the last delivery has ended, and the deliveries that have ended.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Generator, Mapping
from contextvars import Context, copy_context
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from eventbus import _cascade, _deadlock
from eventbus._delivery import Delivery, Wait
from eventbus._identity import next_serial
from eventbus.event import NOTHING, Event, EventDraft, get_current
from eventbus.outcome import Outcome, check_outcomes, outcomes_of

if TYPE_CHECKING:
    from eventbus._cascade import Cascade
    from eventbus._engine import Engine
    from eventbus.subscription import Subscription

__all__ = ["Receipt"]


_number = attrgetter("owner.number")


@types.coroutine
def one_turn() -> Generator[None]:
    """Give the event loop a turn: the task goes on behind all that is scheduled by now."""
    yield


class Receipt:
    """What ``publish`` returns: lets the publisher wait for the deliveries of its event."""

    __slots__ = (
        "_accepted_at",
        "_bus",
        "_cascade",
        "_context",
        "_ended",
        "_redelivered",
        "_subscriptions",
        "_total",
        "_unread",
        "_waiters",
        "duplicate",
        "event",
    )

    event: Event[Any]
    """The event, as it was accepted."""
    duplicate: bool
    """A durable store has accepted this id before; nothing was delivered again."""

    # Written by the bus. A publication does not go through __init__: see `new_receipt`.
    _bus: Engine
    _context: Context | None
    """The publisher's, for handlers to copy. None once nobody will."""
    _accepted_at: float
    _subscriptions: tuple[Subscription, ...]
    """Whom the event goes to, in order of subscription, streams apart."""
    _total: int
    """How many deliveries there are to wait for."""
    _ended: list[Delivery]
    _unread: int
    """How many streams have not read it."""
    _cascade: Cascade | None
    """What ties it to the publications that caused it, and to those that it has caused."""
    _waiters: list[tuple[asyncio.Future[None], bool]] | None
    """Who waits, each with a future of its own, and whether for the cascade too; None as long as
    nobody has asked for the outcomes and not given up."""
    _redelivered: bool

    @property
    def done(self) -> bool:
        """Whether every delivery of the event has ended."""
        return len(self._ended) == self._total

    @property
    def cascade_done(self) -> bool:
        """Whether also all that handlers published because of the event has ended."""
        ties = self._cascade
        return len(self._ended) == self._total and (ties is None or not ties.children)

    async def outcomes(self, *, cascade: bool = False, check: bool = False) -> tuple[Outcome, ...]:
        """Wait until every delivery of the event has ended, and say how, in order of subscription.

        ``cascade=True`` also waits until all that handlers published because of the event has
        ended, however deep; the outcomes are still those of this event. ``check=True`` raises
        ``HandlerErrors`` if a delivery failed or was cancelled. Streams are not waited for and
        have no outcome.

        Raises ``WouldDeadlock`` in a handler whose own end is needed for what it asks, and
        ``WrongLoop`` on another event loop than the one on which the deliveries run.
        Cancelling it leaves the deliveries, and other waiters, as they are.
        """
        first = self._waiters is None
        if first:
            self._waiters = []
        try:
            if not (self.cascade_done if cascade else self.done):
                bus = self._bus
                if get_current() is None and bus._is_here():
                    bus._returning += 1
                    try:
                        await one_turn()  # enough for handlers that do not wait; needs no future
                    finally:
                        bus._returning -= 1
                while not (self.cascade_done if cascade else self.done):
                    wait = Wait(receipt=self, cascade=cascade)
                    with _deadlock.waiting(wait):
                        await self._wait(wait)
        except BaseException:
            if first and not self._waiters and not self.done:
                self._waiters = None  # it gave up, and nobody else has asked
            raise
        outcomes = self._outcomes()
        if check:
            check_outcomes(self.event, outcomes)
        return outcomes

    async def _wait(self, wait: Wait) -> None:
        """Wait to be woken, or to find that what was pending is lost with its loop."""
        loop = self._bus._bind()
        if wait.cascade:
            self._bus._bury_lost()
        if self.cascade_done if wait.cascade else self.done:
            self._bus._resume()  # what was pending on a closed loop has just been given up
            return
        future = wait.future = loop.create_future()
        entry = (future, wait.cascade)
        waiters = self._waiters
        if waiters is None:  # who asked first has given up meanwhile
            waiters = self._waiters = []
        waiters.append(entry)
        try:
            await future
        finally:
            waiters.remove(entry)

    def _outcomes(self) -> tuple[Outcome, ...]:
        """What has become of the deliveries, all of which have ended, in order of subscription."""
        ended = self._ended
        if len(ended) > 1 and tuple([each.owner for each in ended]) != self._subscriptions:
            ended = sorted(ended, key=_number)
        return outcomes_of(ended, self._accepted_at)

    def __repr__(self) -> str:
        return f"<Receipt of {self.event!r}: {len(self._ended)} of {self._total} ended>"


def new_publication(  # noqa: PLR0917 - every keyword costs time, and each event pays it
    bus: Engine,
    topic: str,
    data: Any,
    now: float,
    cause: Event[Any] | None,
    given: Mapping[str, Any] | None,
    subscriptions: tuple[Subscription, ...],
) -> Receipt:
    """An event as ``publish`` makes it in this context, and the receipt of it.

    ``now`` is the time by the bus's clock. ``given`` holds the slots of the event that the
    publisher filled itself.
    """
    draft = EventDraft()
    draft.type = topic
    draft.data = data
    draft.source = bus._source
    draft.attributes = NOTHING
    draft._id = next_serial()
    draft._time = now + bus._wall
    draft.subject = draft._cause = draft._root = None
    if cause is not None:
        draft._cause = cause._id
        draft._root = cause._id if cause._root is None else cause._root
    if given is not None:
        for name, value in given.items():
            setattr(draft, name, value)
    draft.__class__ = Event  # type: ignore[assignment]  # it has the same slots

    # This is `new_receipt`, unrolled: publishing costs little more than these two objects.
    receipt = Receipt()
    receipt.event = draft  # type: ignore[assignment]  # it has become an Event, in the line above
    receipt._bus = bus
    receipt._context = copy_context()
    receipt._accepted_at = now
    receipt._subscriptions = subscriptions
    receipt._ended = []
    receipt._total = len(subscriptions)
    receipt._unread = 0
    receipt._cascade = receipt._waiters = None
    receipt.duplicate = receipt._redelivered = False
    return receipt


def new_receipt(bus: Engine, event: Event[Any], context: Context, now: float) -> Receipt:
    """A root publication that goes to nobody yet."""
    receipt = Receipt()
    receipt.event = event
    receipt._bus = bus
    receipt._context = context
    receipt._accepted_at = now
    receipt._subscriptions = ()
    receipt._ended = []
    receipt._total = receipt._unread = 0
    receipt._cascade = receipt._waiters = None
    receipt.duplicate = receipt._redelivered = False
    return receipt


def finish(receipt: Receipt) -> None:
    """All deliveries have ended: free what they needed and wake who waits for them."""
    receipt._context = None
    through = receipt.cascade_done
    if receipt._waiters:
        _wake(receipt._waiters, cascade=through)
    if receipt._cascade is not None:
        if not receipt._unread:
            _cascade.give_back_charge(receipt)
        if through:
            for above in _cascade.leave(receipt):
                if above._waiters:
                    _wake(above._waiters, cascade=True)


def _wake(waiters: list[tuple[asyncio.Future[None], bool]], *, cascade: bool) -> None:
    for future, wants_cascade in waiters:
        if cascade or not wants_cascade:
            wake(future)


def wake(future: asyncio.Future[None]) -> None:
    """Let whoever awaits the future go on, unless it gave up, or its loop is closed."""
    if not future.done() and not future.get_loop().is_closed():
        future.set_result(None)
