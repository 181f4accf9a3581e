"""The working parts of a bus: its line of ready subscriptions, its pumps, its places.

`EventBus` adds to this what applications call. The modules beside it (`_registration`,
`_admission`, `_pump`, `_ends`, `_binding`, `_closing`) each do one thing to an engine.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from threading import get_ident
from typing import TYPE_CHECKING, Final

from eventbus import _admission, _binding, _cascade, _registration
from eventbus._fields import Fields
from eventbus._invariants import DEBUG, check
from eventbus._pump import PumpTask
from eventbus._state import COUNTS, State, every_bus
from eventbus.errors import BusClosed
from eventbus.receipt import Receipt, wake
from eventbus.subscription import HELD, IDLE, LISTENING, READY, SATURATED, Subscription

if TYPE_CHECKING:
    from eventbus._closing import CloseReport
    from eventbus._delivery import Delivery

MOST_PUMPS: Final = 32
"""Pumps that are scheduled at once; handlers that wait are not counted."""
REST_SECONDS: Final = 0.01
"""The pause after a cancellation from outside, in case the loop is being closed."""
REST_TURNS: Final = 20
"""How many turns of the loop follow it: one that was held up for so long may not have had any."""

_ENGAGED: Final = (State.ENTERED, State.CLOSING)
_TAKEN: Final = (READY, HELD)


async def _canary(sung: list[bool]) -> AsyncGenerator[None]:
    """Something for ``loop.shutdown_asyncgens()`` to close: the one public sign of a loop's end."""
    try:
        yield
    finally:
        sung.append(True)


def _step(generator: AsyncGenerator[None]) -> None:
    """Run an async generator that does not wait to its next ``yield``, or to its end."""
    with contextlib.suppress(StopIteration, StopAsyncIteration):
        generator.asend(None).send(None)


class Engine(Fields):
    """The steps that every delivery takes through a bus."""

    __slots__ = ()

    # The line of ready subscriptions, and the pumps that take it.

    def _start_pump(self) -> None:
        """Make sure that somebody takes what is ready."""
        if self._ready and not self._pumps and self._loop is not None:
            if self._loop.is_closed():
                return  # what is ready is lost, and the next use of the bus will see to it
            self._pumps = 1
            self._new_pump(self._loop)

    def _new_pump(self, loop: asyncio.AbstractEventLoop) -> None:
        spare = self._spare
        if spare is not None and spare.get_loop() is loop:
            self._spare = None
            spare.begun = False  # its next step is scheduled, and begins with a look at this
        else:
            PumpTask(self, loop)

    def _drop_spare(self) -> None:
        """Nobody has needed the spare pump."""
        self._spare = None
        if not self._is_busy():
            self._loop = None

    def _pump_ended(self, *, rest: bool = False, spread: bool = False) -> None:
        """A pump gives back its place: it is through, never began, or is a handler's task now.

        ``spread`` starts up to two others: a handler waits, and what is ready should not.
        """
        self._pumps -= 1
        self._unturned = 0
        if spread and self._ready:
            self._spread()
        self._resume(rest=rest)

    def _spread(self) -> None:
        ready, loop = self._ready, self._loop
        assert loop is not None
        wanted = len(ready)
        if wanted == 1:
            wanted = len(ready[0]._queue or ()) + len(ready[0]._due or ())
        most = self._pumps + 2
        while self._pumps < wanted and self._pumps < most and self._pumps < MOST_PUMPS:
            self._pumps += 1
            PumpTask(self, loop)

    def _resume(self, *, rest: bool = False) -> None:
        """Something has ended: go on with what is ready, or notice that nothing is left.

        ``rest`` waits for a moment before it goes on.
        """
        if not self._pumps:
            self._deal_out()  # its pump was cancelled before it began
            if self._ready:
                if rest:
                    self._rest()
                else:
                    self._start_pump()
            elif not self._open:
                self._fell_quiet()
        if DEBUG and self._loop is not None and not self._loop.is_closed():
            check(self)

    def _rest(self) -> None:
        """Go on in a moment. The place of the pump to come is taken from now on."""
        if self._loop is None or self._loop.is_closed():
            return
        self._pumps = 1
        loop = self._loop

        sung: list[bool] = []
        canary = _canary(sung)

        def begin() -> None:
            _step(canary)

        def wake_up(turns: int) -> None:
            if sung or self._loop is not loop:
                return
            if turns:
                loop.call_soon(wake_up, turns - 1)
                return
            _step(canary)
            self._pump_ended()

        # The loop's own timer, whatever the bus's clock: a loop that is being closed does not get
        # to it, unless it waits for its threads first. By then its generators are closed.
        loop.call_soon(begin)
        loop.call_later(REST_SECONDS, wake_up, REST_TURNS)

    def _fell_quiet(self) -> None:
        """No pump, nothing open: wake who waited for that, and let go of the loop."""
        if self._settlers:
            settlers, self._settlers = self._settlers, []
            for settler in settlers:
                wake(settler)
        if self._closing is not None:
            self._closing.drained()
        if self._spare is None and not self._is_busy():
            self._loop = None

    # Publications and places.

    def _unread(self, receipt: Receipt) -> None:
        """A stream is through with an event: read, dropped or left."""
        receipt._unread -= 1
        if not receipt._unread and receipt.done:
            _cascade.give_back_charge(receipt)

    def _find_place(self, subscription: Subscription) -> None:
        """Put a subscription where it belongs, unless a pump or the line has it."""
        if subscription._standing != LISTENING:
            _registration.retire(self, subscription)
        if subscription._place in _TAKEN:
            return
        if (subscription._queue or subscription._due) and subscription._has_work():
            subscription._place = READY
            self._ready.append(subscription)
        elif subscription._running >= subscription.concurrency:
            subscription._place = SATURATED
        else:
            subscription._place = IDLE

    def _queue_up(self, subscription: Subscription, receipt: Receipt) -> None:
        """Put an event that is handed round into a queue after all."""
        subscription.accepted += 1
        queue = subscription._queue
        if queue is None:
            queue = subscription._new_queue()
        queue.append(receipt)  # type: ignore[call-arg]  # plain: no key
        if not subscription._place:
            subscription._place = READY
            self._ready.append(subscription)
        if len(queue) >= subscription.capacity:
            self._mark_full(subscription)

    def _deal_out(self) -> None:
        """Queue what is handed round, for all who have not been given it: the queues are right."""
        receipt = self._round
        if receipt is not None:
            for subscription in self._takers:
                self._queue_up(subscription, receipt)
            self._round = None  # last: a finalizer that publishes on the way goes on from here

    def _look(self) -> None:
        """Deal out for somebody who only reads, in any thread: only the bus's own changes queues.

        For another one, what is left of a round is not accepted yet, and so the accounts balance.
        """
        if self._thread == get_ident():
            self._deal_out()

    def _mark_full(self, subscription: Subscription) -> None:
        """Its queue has reached its capacity."""
        if not subscription._full:
            subscription._full = True
            self._full += 1

    def _make_room(self, subscription: Subscription) -> None:
        """An event was taken from a queue that was full: serve who waits for that."""
        if len(subscription._queue or ()) < subscription.capacity:
            self._clear_full(subscription)
            if subscription._line:
                _admission.serve_line(self, subscription)

    def _clear_full(self, subscription: Subscription) -> None:
        if subscription._full:
            subscription._full = False
            self._full -= 1

    def _is_here(self) -> bool:
        """Whether this code runs on the loop to which the bus is bound. Quicker than binding."""
        loop = self._loop
        return loop is not None and self._thread == get_ident() and loop.is_running()

    # Shortcuts for modules that this one imports, and which so cannot import those below.

    def _bind(self) -> asyncio.AbstractEventLoop:
        return _binding.bind(self)

    def _bury_lost(self) -> None:
        _binding.bury_lost()

    def _leave(self, subscription: Subscription) -> None:
        _registration.leave(self, subscription)

    def _unsubscribe(self, subscription: Subscription) -> None:
        _registration.unsubscribe(self, subscription)

    # Who may publish.

    def _refuse(self, inside: object) -> None:
        _registration.refuse_in_predicate(self, "publish")
        if self._state is State.CLOSED:
            raise BusClosed(f"{self.name} is closed: enter it again with 'async with bus'")
        assert self._closing is not None  # nothing else bars anybody
        if inside is None or self._closing.expired:
            raise BusClosed(f"{self.name} is closing, and accepts nothing new")

    def _refuse_outsiders(self) -> None:
        if self._barred:
            self._refuse(None)

    # Questions.

    def _is_drained(self) -> bool:
        return not self._open and not self._pumps

    def _is_busy(self) -> bool:
        return bool(
            self._open
            or self._pumps
            or self._tickets
            or self._settlers
            or self._streams
            or self._state in _ENGAGED
        )

    def _closed(self, report: CloseReport) -> None:
        """Called by the close, once it is through."""
        self._closing = None
        self._state = State.CLOSED
        self._barred = True
        self._last_report = report
        self._totals_at_close = self._totals()
        self._totals_at_close["accepted"] -= report.unread  # those are in the next report again
        for stream in list(self._streams):
            stream._end()
        self._log.write(
            "bus.closed",
            "info",
            handled=report.handled,
            failed=report.failed,
            dropped=report.dropped,
            cancelled=report.cancelled,
        )
        if report.interrupted or report.unstarted or report.abandoned:
            self._log.write(
                "bus.interrupted",
                "warning",
                interrupted=dict(report.interrupted),
                unstarted=dict(report.unstarted),
                abandoned=list(report.abandoned),
            )
        if not self._is_busy():
            self._spare = None  # whatever has a spare pump has a loop
            self._loop = None

    def _all_subscriptions(self) -> list[Subscription]:
        """Those that get new events, and those that have left and have something pending."""
        self._look()
        # In this order, and each once: in another thread, one may leave meanwhile.
        found = self._index.subscriptions()
        left = list(self._left)
        return list(dict.fromkeys([*found, *left])) if left else list(found)

    def _totals(self) -> dict[str, int]:
        while True:
            retired = self._retired
            everybody = self._all_subscriptions()
            totals = {
                name: retired[name] + sum(getattr(each, name) for each in everybody)
                for name in COUNTS
            }
            # If one was retired meanwhile, another thread may have counted it twice.
            if retired is self._retired:  # pragma: no branch
                return totals

    def _pending(self) -> int:
        return sum(subscription.pending for subscription in self._all_subscriptions())

    def _unread_in_streams(self) -> int:
        return sum(each.pending for each in self._all_subscriptions() if each._reader is not None)

    def _pending_deliveries(self) -> Iterator[tuple[Subscription, Receipt, Delivery | None]]:
        """All that has not ended: queued ones without a delivery, running ones with it."""
        for subscription in self._all_subscriptions():
            if subscription._reader is None:
                for receipt in subscription._queue or ():
                    yield subscription, receipt, None
                for delivery in subscription._running_deliveries():
                    yield subscription, delivery.receipt, delivery

    def _neighbours(self) -> set[Engine]:
        """The buses that are busy on the same loop: a cascade may run through all of them."""
        return {other for other in every_bus() if other._loop is self._loop}
