"""Tasks of their own for handlers that will likely wait.

A handler that is found to wait when a pump steps it keeps the pump's task, and pays for that at
every later step, because the context of that task is not its own. Most handlers that have waited
once wait each time. So where a subscription's handler has waited, a pump with other things to do
steps nothing: it makes a task in the context of each handler to come, and goes on.

Such a task is a pump that serves one event. It has the place of a pump until it begins, and the
event stays in the queue until then, so that nothing needs to be undone if it never does. When it
begins it looks again: it takes the event only if that is the next one still and its subscription
has a place for it. What is left is any pump's to take.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from eventbus import _ends
from eventbus._drivers import event_for
from eventbus.event import set_current
from eventbus.subscription import IDLE

if TYPE_CHECKING:
    from collections import deque

    from eventbus._delivery import Delivery
    from eventbus.receipt import Receipt
    from eventbus.subscription import Subscription


BEGIN_SECONDS: Final = 0.005
"""How long first steps may hold up the loop; a task that comes later leaves its event to a pump."""


def start_apart(subscription: Subscription, most: int, *, alone: bool) -> int:
    """Make tasks for what a direct subscription in the hands of a pump can start.

    Returns how many. It makes none if the handler takes more than a plain ``await``, or if the pump
    is left alone with one event, and has nothing better to do than to step its handler. If any,
    they hold the subscription until the last of them lets go of it.
    """
    if not subscription._is_async or subscription._due:
        return 0
    if subscription._options.timeout is not None:  # counts from the first wait on
        return 0
    queue: deque[Receipt] = subscription._queue or ()  # type: ignore[assignment]  # direct: no key
    starts = subscription.concurrency - subscription._running
    if starts > 1:
        starts = min(starts, len(queue), most)
    if starts < 1 or not queue or (alone and starts == 1):
        return 0
    bus = subscription.bus
    bus._pumps += starts
    bus._apart_until = None
    task = None
    for receipt in islice(queue, starts):
        task = HandlerTask(subscription, receipt)
    assert task is not None
    task.last = True
    return starts


class HandlerTask(asyncio.Task[None]):
    """Runs one handler, in its own context."""

    __slots__ = ("begun", "last", "loop", "receipt", "subscription")

    def __init__(self, subscription: Subscription, receipt: Receipt) -> None:
        self.subscription = subscription
        self.loop = subscription.bus._loop
        self.receipt: Receipt = receipt
        """What it was made for; let go of when it begins."""
        self.last = False
        """It is the last of those that hold the subscription."""
        self.begun = False
        _new_task(
            self,
            _run(self),
            loop=self.loop,
            name="eventbus-handler",
            context=receipt._context.copy(),  # type: ignore[union-attr]  # it is queued
        )

    def cancel(self, msg: Any | None = None) -> bool:
        """As of any task. Cancelled before it begins, it gives back what it holds."""
        if not self.begun and not self.done():
            self.begun = True
            if self.subscription.bus._loop is self.loop:
                _let_go(self, rest=True)
        return super().cancel(msg)


_new_task: Final = asyncio.Task.__init__  # called without ``super()``: there are many of these


def _begin(task: HandlerTask) -> Delivery | None:
    """Take the event, if it is still there to be taken."""
    task.begun = True
    subscription, receipt = task.subscription, task.receipt
    bus = subscription.bus
    del task.receipt
    if bus._loop is not task.loop:  # pragma: no cover - in a child that was forked
        return None  # what it was to take is the parent's
    monotonic = bus._monotonic
    now = monotonic()
    if bus._apart_until is None:
        bus._apart_until = now + BEGIN_SECONDS
    delivery = None
    queue: deque[Receipt] = subscription._queue or ()  # type: ignore[assignment]  # direct: no key
    if (
        queue
        and queue[0] is receipt
        and subscription._running < subscription.concurrency
        and now <= bus._apart_until
    ):
        queue.popleft()
        delivery = _ends.new_delivery(subscription, receipt, None)
        delivery.started = now
        _ends.began_to_wait(delivery, task)
    rest = True  # unless a hook raises what ends programs
    try:
        # This is the handler's context: hooks belong neither in it nor inside its publisher.
        if delivery and subscription._full and not Context().run(_ends.may_begin, delivery):
            delivery = None
        rest = False
    finally:
        _let_go(task, rest=rest)
    return delivery


def _let_go(task: HandlerTask, *, rest: bool) -> None:
    """Give back the place of a pump, and with the last of the tasks the subscription."""
    subscription = task.subscription
    bus = subscription.bus
    if task.last:
        subscription._place = IDLE
        bus._find_place(subscription)
    bus._pumps -= 1
    bus._unturned = 0
    if not bus._pumps:
        bus._resume(rest=rest)


async def _run(task: HandlerTask) -> None:
    delivery = _begin(task)
    if delivery is None:
        return
    owner, work = delivery.owner, delivery.work
    assert work is not None  # it has a task
    bus = owner.bus
    bus._stepping = delivery
    set_current(delivery)
    handler, event = owner.handler, delivery.event
    del task  # frames of errors know this one, and would keep what it knows
    failed = False
    try:
        if owner._payload is not None:
            event = event_for(delivery)
        delivery.result = await handler(event)
    except BaseException as error:
        if _ends.is_destroyed(error):  # the task is, with its loop or without
            _ends.destroyed(delivery)
            raise
        delivery.error = error
        failed = True
    at_once = bus._stepping is delivery  # nothing else of this bus was stepped since it began
    if at_once:
        bus._stepping = None
    # As in `_begin`: what is told of the end belongs neither in the handler nor in its context.
    if failed:
        bus._pump_context.run(_ends.failed_in_its_task, delivery)
    else:
        if bus._closing is None:
            _ends.end(delivery, "handled")  # of which nobody is told
        else:
            bus._pump_context.run(_ends.end, delivery, "handled")
        work.task = None  # its context knows the delivery: that would be a cycle
    if at_once and not owner._active:
        owner._active = None  # it has hardly waited: let pumps step the next
    del delivery, work  # the frames of an error know this one, on CPython 3.12
