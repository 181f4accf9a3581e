"""Handing an event round: what is published while nothing else is pending need not be queued.

Queues keep what a subscription cannot take yet. If nothing is pending on a bus, all can take an
event at once, and so it is in no queue: it is the bus's *round*, and the pump gives it to one
subscription after the other. To publish to many and wait costs a sixth less so.

A round is there only from that publish to the end of the batch that follows. Whatever looks at
queues or changes them meanwhile, another publish above all, calls ``bus._deal_out()`` first, and
then everything is as if the event had been queued at once. Here that is when a handler waits or
raises, or the batch is full; a subscription that needs more than a plain step gets it queued.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from eventbus import _ends
from eventbus._delivery import Delivery
from eventbus._drivers import DONE, FAILED, Waiting, plain_driver
from eventbus.receipt import finish
from eventbus.subscription import HELD, IDLE

if TYPE_CHECKING:
    from eventbus._pump import PumpTask
    from eventbus.receipt import Receipt


def hand_round(task: PumpTask, receipt: Receipt, left: int) -> tuple[Waiting | None, int]:  # noqa: PLR0915 - unrolled
    """Give the bus's round to whoever takes it at once, in at most ``left`` steps.

    Gives the handler that waits, if one does, and how many steps are left. It is the inlined path
    of `_pump.run_batch` for one event and many subscriptions instead of the other way round.
    """
    bus = task.bus
    takers = bus._takers  # none is left if a signal handler has read the accounts just now
    event, base, ended, total = receipt.event, receipt._context, receipt._ended, receipt._total
    assert base is not None  # it has pending deliveries
    monotonic = bus._monotonic
    now = monotonic()
    step: Callable[[Delivery], Any] | None = None
    subscription = None
    try:
        for subscription in takers:
            if subscription._active is not None or not subscription._direct:
                bus._queue_up(subscription, receipt)
                continue
            subscription._place = HELD
            subscription.accepted += 1
            left -= 1
            delivery = Delivery()
            delivery.owner = subscription
            delivery.receipt = receipt
            delivery.event = event
            delivery.status = delivery.work = None
            delivery.started = now
            bus._stepping = delivery
            context = base.copy()
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
                    ended.append(delivery)
                    if len(ended) == total:
                        bus._open -= 1
                        receipt._context = None
                        if receipt._waiters or receipt._cascade is not None:
                            finish(receipt)
            elif signal is FAILED:
                _ends.leave_the_loop(_ends.attempt_failed(delivery))
                del delivery, receipt, event, context, base, ended  # an error knows this frame
                driver = step = None  # type: ignore[assignment]
                return None, left if monotonic() <= task.deadline else 0
            else:
                _ends.began_to_wait(delivery, task)
                return (delivery, context, driver, signal), left  # type: ignore[possibly-undefined]  # only a driver gives other signals
            subscription._place = IDLE
            if subscription._queue or subscription._active is not None or subscription._standing:
                bus._find_place(subscription)
            if not left or now > task.deadline:
                left = 0
                break
        return None, left
    finally:
        if subscription is not None and subscription._place == HELD:
            subscription._place = IDLE
            bus._find_place(subscription)
        bus._deal_out()
