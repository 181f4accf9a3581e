"""Runs what is queued: a task is made only for a handler that really waits.

A *pump* is a task that takes the ready subscriptions in turn and steps the coroutine of each
handler once, in a copy of its publisher's context. A handler that ends in that one step has cost
no task and no turn of the loop. One that waits keeps the task in which it began to its end (so
that ``asyncio.current_task()`` never changes under it, and time-outs, task groups and cancel
scopes inside it work); up to two new pumps take over the other subscriptions. A pump never waits
itself: after `BATCH_STEPS` steps or `BATCH_SECONDS` it ends, and another one follows. An event that
is handed round comes first (`_round`). Handlers that are known to wait are started apart, in tasks
that need no driver (`_apart`).

One exception saves tasks: while a publisher waits for the end of this very turn of the loop, and
will likely publish again, a pump that is through stays for one turn more as the bus's *spare*. It
owns nothing then, no place and no loop, so whoever cancels or destroys it destroys nothing else.
Taken instead of a new pump, it is in the same state as one that has not begun.

Two things about asyncio decide the rest. A task that is cancelled before its first step never
runs its body, and ``asyncio.run`` cancels all tasks at its end: so a pump's place is given back by
`PumpTask.cancel` itself. And a loop that is cancelling its tasks must not be given new handlers
to run: after a cancellation from outside, the bus rests `REST_SECONDS` before it goes on, and a
loop that is being closed never comes to that.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from eventbus import _ends, _threads
from eventbus._apart import start_apart
from eventbus._delivery import Delivery
from eventbus._drivers import DONE, FAILED, Waiting, careful_driver, drive, plain_driver
from eventbus._queues import KeyedQueue
from eventbus._round import hand_round
from eventbus.receipt import finish, one_turn
from eventbus.subscription import HELD, IDLE

if TYPE_CHECKING:
    from collections import deque

    from eventbus._engine import Engine
    from eventbus.receipt import Receipt
    from eventbus.subscription import Subscription

BATCH_STEPS: Final = 256
BATCH_SECONDS: Final = 0.005

FAST = True
"""Whether `run_batch` may use its inlined path. Off, every delivery takes the careful one; the two
must behave alike, and the tests run with both."""


class PumpTask(asyncio.Task[None]):
    """A task that runs a pump, and from then on the one handler in it that waited."""

    __slots__ = ("begun", "bus", "deadline")

    def __init__(self, bus: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self.bus = bus
        self.begun = False
        self.deadline = math.inf
        """When its batch is over, by the bus's clock; at once if somebody has asked to cancel it,
        because then no further handler may begin here."""
        _new_task(self, _pump(self), loop=loop, name="eventbus-pump", context=bus._pump_context)

    def cancel(self, msg: Any | None = None) -> bool:
        """As of any task. Cancelled before its batch begins, the pump gives back its place."""
        if self.bus._spare is self:
            self.bus._drop_spare()
        if not self.begun and not self.done():
            self.begun = True
            if self.bus._loop is self.get_loop():
                self.bus._pump_ended(rest=True)
        self.deadline = -math.inf
        return super().cancel(msg)


_new_task: Final = asyncio.Task.__init__
"""Called without ``super()``: a task is made for each handler that waits."""


async def _pump(task: PumpTask) -> None:
    """One batch, and then the rest of the handler that waited, if one did."""
    bus = task.bus
    waiting = _begin_batch(task)
    while bus._spare is task or not task.begun:
        try:
            await one_turn()
        finally:
            if bus._spare is task:
                bus._drop_spare()
        if not task.begun:  # somebody needs a pump again
            waiting = _begin_batch(task)
    if waiting is None:
        return
    delivery, context, driver, signal = waiting
    if delivery.owner._options.timeout is not None:
        _ends.start_timeout(delivery)
    del waiting, task, bus  # frames of errors know this one, and would keep what it knows
    try:
        signal = await drive(context, driver, signal)
    except GeneratorExit:  # the task is destroyed, with its loop or without
        _ends.destroyed(delivery)
        raise
    if signal is DONE:
        _ends.end(delivery, "handled")
    else:
        _ends.failed_in_its_task(delivery)


def _begin_batch(task: PumpTask) -> Waiting | None:
    """Run a batch, and give back the place of its pump."""
    task.begun = True
    bus = task.bus
    waiting = None
    rest = True  # unless the batch ends as batches do, a KeyboardInterrupt is on its way out
    try:
        waiting = run_batch(task)
        rest = False
    finally:
        # Not in a child that the handler has forked.
        if bus._loop is task.get_loop():  # pragma: no branch - coverage cannot see that child
            bus._stepping = None
            if bus._returning and waiting is None and not rest and task.deadline > -math.inf:
                bus._spare = task  # nobody has asked to cancel it, not even to take that back
            bus._pump_ended(rest=rest, spread=waiting is not None)
    return waiting


def run_batch(task: PumpTask) -> Waiting | None:  # noqa: C901, PLR0912, PLR0915 - unrolled, see below
    """Step through ready subscriptions until the batch is full or a handler waits."""
    bus = task.bus
    ready = bus._ready
    monotonic = bus._monotonic
    now = monotonic()
    task.deadline = now + BATCH_SECONDS
    left = BATCH_STEPS
    step: Callable[[Delivery], Any] | None = None
    receipt: Receipt | None = bus._round
    if receipt is not None:
        if not FAST:
            bus._deal_out()
        else:
            waiting, left = hand_round(task, receipt, left)
            if waiting is not None:
                return waiting
            now = monotonic()
    while ready and left:
        subscription = ready.popleft()
        subscription._place = HELD
        direct = subscription._direct and FAST
        if subscription._active is not None and direct:
            starts = start_apart(subscription, left, alone=not ready)
            if starts:
                left -= starts
                continue
            direct = not subscription._due and subscription._running < subscription.concurrency
        try:
            if not direct:
                while left and subscription._has_work():
                    left -= 1
                    waiting = _step_carefully(task, subscription)
                    if waiting is not None:
                        return waiting
                    now = monotonic()
                    if now > task.deadline:
                        left = 0
                continue

            # The inlined path, for subscriptions that need nothing before the handler but their
            # data and nothing after it. It is `_step_carefully` and `_ends.end`, unrolled: without
            # it, a delivery takes two and a half times as long.
            queue: deque[Receipt] = subscription._queue  # type: ignore[assignment]  # direct: no key
            while queue and left:
                left -= 1
                receipt = queue.popleft()
                delivery = Delivery()
                delivery.owner = subscription
                delivery.receipt = receipt
                delivery.event = receipt.event
                delivery.status = delivery.work = None
                delivery.started = now
                if receipt._redelivered:
                    delivery.working().redelivered = True
                bus._stepping = delivery
                if subscription._full and not _ends.may_begin(delivery):
                    break
                context = receipt._context.copy()  # type: ignore[union-attr]  # it has pending deliveries
                if step is None:
                    driver = plain_driver(delivery)
                    step = driver.send
                    signal = context.run(next, driver)
                else:
                    signal = context.run(step, delivery)
                now = monotonic()
                if signal is DONE:
                    if delivery.status is None:
                        delivery.status = "handled"
                        delivery.ended = now
                        delivery.receipt = None  # type: ignore[assignment]  # it has ended
                        subscription.handled += 1
                        ended = receipt._ended
                        ended.append(delivery)
                        if len(ended) == receipt._total:
                            bus._open -= 1
                            receipt._context = None
                            if receipt._waiters or receipt._cascade is not None:
                                finish(receipt)
                elif signal is FAILED:
                    _ends.leave_the_loop(_ends.attempt_failed(delivery))
                    now = monotonic()
                    del delivery, receipt, context  # the frames of the error know this one
                    if subscription._running >= subscription.concurrency:
                        break  # it pauses before its next attempt, and keeps its place
                else:
                    _ends.began_to_wait(delivery, task)
                    return delivery, context, driver, signal  # type: ignore[possibly-undefined]  # only a driver gives other signals
                if now > task.deadline:
                    left = 0
        finally:
            subscription._place = IDLE
            if subscription._queue or subscription._active is not None or subscription._standing:
                bus._find_place(subscription)  # else idle is right: it listens, and has nothing
    # The frames of an error may know this one, on CPython 3.12, and would keep what it knows.
    receipt = delivery = context = ended = driver = step = None  # type: ignore[assignment]
    return None


def _step_carefully(task: PumpTask, subscription: Subscription) -> Waiting | None:
    """Start the next attempt of a subscription that has one to start."""
    bus = task.bus
    monotonic = bus._monotonic
    if subscription._due:
        delivery = bus._stepping = subscription._due.popleft()
        delivery.attempt += 1
        delivery.working().began = monotonic()
    else:
        delivery = bus._stepping = _take(subscription)
        delivery.started = monotonic()
        if subscription._full and not _ends.may_begin(delivery):
            return None
    assert delivery.receipt._context is not None
    context = delivery.receipt._context.copy()
    if subscription._options.thread:
        _threads.start(delivery, context)
        return None
    driver = careful_driver(delivery)
    signal = context.run(next, driver)
    if signal is DONE:
        _ends.end(delivery, "handled")
    elif signal is FAILED:
        _ends.leave_the_loop(_ends.attempt_failed(delivery))
    else:
        _ends.began_to_wait(delivery, task)
        return delivery, context, driver, signal
    return None


def _take(subscription: Subscription) -> Delivery:
    """Take the next event off the queue, as a delivery."""
    queue = subscription._queue
    if isinstance(queue, KeyedQueue):
        receipt, lane = queue.take()
        return _ends.new_delivery(subscription, receipt, lane)
    assert queue
    return _ends.new_delivery(subscription, queue.popleft(), None)
