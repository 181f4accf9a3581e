"""How attempts and deliveries end. Every end of every delivery is written here, or in the
unrolled copy of `end` in the pump.

An attempt returns, raises, is cancelled or takes too long; what that means for its delivery is
decided by `attempt_failed`: another attempt after a pause, or the end. `end` does the accounts, in
this order: the delivery's own fields, the sums of its subscription, its place, its receipt. Only
then is anybody told, because what listens may call back into the bus.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from eventbus._delivery import Delivery, Status, Work
from eventbus._invariants import DEBUG
from eventbus._queues import KeyedQueue
from eventbus.dead_letters import DeadLetter
from eventbus.errors import HandlerTimeout
from eventbus.outcome import outcomes_of
from eventbus.receipt import finish
from eventbus.subscription import GONE, check_seconds

if TYPE_CHECKING:
    from contextvars import Context

    from eventbus._queues import Lane
    from eventbus.receipt import Receipt
    from eventbus.subscription import Subscription

STUBBORN_SECONDS = 1.0
"""How long a cancelled handler may go on before the log names it."""


def new_delivery(subscription: Subscription, receipt: Receipt, lane: Lane | None) -> Delivery:
    """A delivery that is about to run its first attempt."""
    delivery = Delivery()
    delivery.owner = subscription
    delivery.receipt = receipt
    delivery.event = receipt.event
    delivery.status = delivery.work = None
    if lane is not None:
        delivery.working().lane = lane
    if receipt._redelivered:
        delivery.working().redelivered = True
    return delivery


def may_begin(delivery: Delivery) -> bool:
    """Serve who waits for the place that it has just left in a full queue.

    Hooks run here. They may unsubscribe it, or raise what ends programs: then it ends, unstarted.
    """
    owner = delivery.owner
    gone = True
    try:
        owner.bus._make_room(owner)
        gone = owner._standing == GONE
    finally:
        if gone:
            delivery.attempt = 0
            end(delivery, "cancelled")
    return not gone


# A handler that waits.


def began_to_wait(delivery: Delivery, task: asyncio.Task[Any]) -> None:
    """The handler did not end in its first step: it has a place and a task of its own now."""
    work = delivery.work
    if work is None:
        work = delivery.work = Work()
    work.task = task
    if delivery.status is None:
        delivery.owner._keep(delivery)


def start_timeout(delivery: Delivery) -> None:
    """Begin to count the time of an attempt, from where it started."""
    timeout = delivery.owner._options.timeout
    if timeout is not None:
        bus = delivery.owner.bus
        work = delivery.working()
        began = delivery.started if work.began is None else work.began
        left = began + timeout - bus._monotonic()
        work.timer = bus._clock.call_later(max(left, 0), lambda: _time_out(delivery))


def _time_out(delivery: Delivery) -> None:
    work = delivery.work
    assert work is not None
    work.timer = None
    if work.in_thread:
        work.timed_out = True
        if _pause_before_next(delivery, timeout_error(delivery)) is None:
            _end_as_failed(delivery, timeout_error(delivery))
        _watch(delivery)
    elif work.task is not None and not work.task.done():
        work.timed_out = True
        _cancel(delivery)


def cancel_for_good(delivery: Delivery) -> None:
    """The bus is closing and will not wait for this one any longer."""
    work = delivery.working()
    work.unwanted = True
    if work.in_thread:
        try:
            end(delivery, "cancelled")
        finally:
            _watch(delivery)  # the thread goes on: name it if it does not return
    elif work.resume is not None:
        _end_as_failed(delivery, delivery.error)
    elif delivery in (delivery.owner._due or ()):  # its pause is over, its next attempt not begun
        delivery.owner._due.remove(delivery)  # type: ignore[union-attr]  # it is in there
        _end_as_failed(delivery, delivery.error)
    elif work.task is not None:
        _cancel(delivery)


def _cancel(delivery: Delivery) -> None:
    """Cancel a handler, and name it in the log if that does not end it."""
    work = delivery.working()
    assert work.task is not None
    work.task.cancel()
    _watch(delivery)


def _watch(delivery: Delivery) -> None:
    work = delivery.working()
    bus = delivery.owner.bus

    def still_there() -> None:
        work.timer = None
        bus._log.handler_stubborn(delivery, STUBBORN_SECONDS)

    work.stop_timer()
    work.timer = bus._clock.call_later(STUBBORN_SECONDS, still_there)


# The end of an attempt.


def drop_own_frames(error: BaseException) -> None:
    """Let a traceback begin in the application.

    The bus's own frames say nothing there, and would tie the error to its delivery in a cycle.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        if trace.tb_frame.f_globals.get("__name__") not in _OURS:
            break
        trace = trace.tb_next
    # Called so, because a frozen exception refuses every write that Python can see.
    BaseException.with_traceback(error, trace)


_OURS = ("eventbus._drivers", "eventbus._apart", "eventbus._threads", "eventbus._admission")


def attempt_failed(delivery: Delivery, *, task: asyncio.Task[Any] | None = None) -> BaseException:
    """The handler raised: pause and try again, or end the delivery. Returns what it raised.

    ``task`` is its own, if it had one.
    """
    error = delivery.error
    assert error is not None
    drop_own_frames(error)
    if delivery.status is not None:
        return error  # given up before: it changes nothing any more
    work = delivery.working()  # it has the error
    work.stop_timer()
    work.task = None
    if isinstance(error, asyncio.CancelledError):
        requested = task is not None and task.cancelling() > 0
        if not work.timed_out or (task is not None and task.uncancel() > 0):
            delivery.error = None
            end(delivery, "cancelled", rest=requested and not work.unwanted)
            return error
        delivery.error = timeout_error(delivery)
        delivery.error.__cause__ = error
    pause = _pause_before_next(delivery, delivery.error or error)
    if pause is None:
        _end_as_failed(delivery, delivery.error)
    else:
        _pause(delivery, pause)
    return error


def failed_in_its_task(delivery: Delivery) -> None:
    """A handler in a task of its own has raised, or was cancelled."""
    task = delivery.working().task
    error = attempt_failed(delivery, task=task)
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error
    leave_the_loop(error)


def leave_the_loop(error: BaseException) -> None:
    """Let the two exceptions that end programs go where asyncio lets them go."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        with contextlib.suppress(RuntimeError):  # in a child that the handler has forked
            task = asyncio.current_task()
            if task is not None:
                task.add_done_callback(asyncio.Task.exception)  # asyncio need not log it once more
        raise error


def is_destroyed(error: BaseException) -> bool:
    """Whether what runs a handler is being collected.

    Then no handler has raised this: it began in the frame that caught it.
    """
    trace = error.__traceback__
    return isinstance(error, GeneratorExit) and (trace is None or trace.tb_next is None)


def destroyed(delivery: Delivery) -> None:
    """The task of a handler was destroyed, usually because its loop was closed."""
    if delivery.status is None:
        delivery.error = None
        end(delivery, "cancelled", rest=True)


def timeout_error(delivery: Delivery) -> HandlerTimeout:
    owner = delivery.owner
    return HandlerTimeout(
        f"{owner.name} took longer than timeout={owner._options.timeout} s "
        f"(attempt {delivery.attempt})"
    )


def _end_as_failed(delivery: Delivery, error: BaseException | None) -> None:
    delivery.error = error
    rest = isinstance(error, KeyboardInterrupt | SystemExit)
    end(delivery, "failed", rest=rest)


# Another attempt.


def _pause_before_next(delivery: Delivery, error: BaseException) -> float | None:
    """Seconds until the next attempt; None if there is none.

    If the policy raises what ends programs, the delivery ends here, and that goes on.
    """
    owner = delivery.owner
    retry = owner._options.retry
    work = delivery.work
    unwanted = work is not None and (work.unwanted or work.unfit)
    if retry is None or owner._standing == GONE or unwanted or not isinstance(error, Exception):
        return None
    try:
        pause = retry.delay(delivery.attempt, error, random=owner.bus._random)
        check_seconds("pause", pause, optional=True)
    except BaseException as broken:  # the policy may be the application's own
        with contextlib.suppress(Exception):  # a frozen exception takes no note
            error.add_note(f"its Retry raised {broken!r}, so there was no other attempt")
        if isinstance(broken, KeyboardInterrupt | SystemExit):
            _end_as_failed(delivery, error)
            leave_the_loop(broken)
        return None
    return pause


def _pause(delivery: Delivery, seconds: float) -> None:
    """Keep the place, and come back for the next attempt."""
    owner = delivery.owner
    bus = owner.bus
    work = delivery.working()
    work.timed_out = False
    owner._keep(delivery)

    def resume() -> None:
        work.timer = work.resume = None
        if owner._due is None:
            owner._due = deque()
        owner._due.append(delivery)
        bus._find_place(owner)
        bus._start_pump()

    work.resume = resume
    work.timer = bus._clock.call_later(seconds, resume)
    bus._log.delivery_retrying(delivery, seconds)


# The end of a delivery.


def end(delivery: Delivery, status: Status, *, rest: bool = False) -> None:
    """End a delivery, once. ``rest`` lets the loop breathe before other handlers start."""
    if delivery.status is None:
        bus = delivery.owner.bus
        receipt = delivery.receipt
        _account(delivery, status)
        if DEBUG or not bus._pumps:  # else there is nothing to resume, but something to check
            bus._resume(rest=rest)
        if status != "handled" or bus._observers:
            _tell(delivery, receipt)


def _account(delivery: Delivery, status: Status) -> None:
    owner = delivery.owner
    bus = owner.bus
    receipt = delivery.receipt
    monotonic = bus._monotonic
    delivery.status = status
    delivery.ended = monotonic()
    delivery.receipt = None  # type: ignore[assignment]  # it has ended
    if status == "handled":
        owner.handled += 1
    else:
        _count(owner, status)
    work = delivery.work
    if work is not None and work.timer is not None:
        work.stop_timer()
    if work is None or not work.in_thread:
        give_back_place(delivery)
    else:
        assert owner._active is not None
        del owner._active[delivery]  # not pending any more; its place goes with the thread
        bus._stuck_threads += 1
        bus._find_place(owner)
    ended = receipt._ended
    ended.append(delivery)
    if len(ended) == receipt._total:
        bus._open -= 1
        finish(receipt)


def end_quietly(delivery: Delivery, status: Status) -> Callable[[], None]:
    """End a delivery; the caller resumes the bus and calls what is returned when it is through."""
    receipt = delivery.receipt
    context = receipt._context
    _account(delivery, status)
    return partial(_tell, delivery, receipt, context)


def end_unstarted(
    subscription: Subscription,
    receipt: Receipt,
    status: Status,
    error: BaseException | None = None,
) -> Callable[[], None]:
    """End a delivery whose handler never ran: dropped, cancelled, or failed in a predicate.

    It only writes the accounts: the caller is in the middle of a larger step. At the end of that it
    resumes the bus, and then calls what is returned, which tells of it.
    """
    bus = subscription.bus
    if subscription._reader is not None:  # no receipt waits for readers
        _count(subscription, status)
        bus._unread(receipt)
        if error is None:
            return _nothing
        return partial(_remember, subscription, receipt, error, 0)
    delivery = new_delivery(subscription, receipt, None)
    delivery.attempt = 0
    delivery.started = bus._monotonic()
    delivery.error = error
    delivery.status = status
    delivery.ended = delivery.started
    delivery.receipt = None  # type: ignore[assignment]  # it has ended
    context = receipt._context
    _count(subscription, status)
    receipt._ended.append(delivery)
    if receipt.done:
        bus._open -= 1
        finish(receipt)
    return partial(_tell, delivery, receipt, context)


def tell_all(calls: Iterable[Callable[[], None]]) -> None:
    """Tell of several ends. A hook that ends the program does so once all are told."""
    ending: list[BaseException] = []
    for call in calls:
        try:
            call()
        except BaseException as error:
            ending.append(error)
    if ending:
        raise ending.pop(0)


def _nothing() -> None:
    """There is nothing to tell."""


def give_back_place(delivery: Delivery) -> None:
    """The handler has really ended: its lane and its place are free for the next."""
    owner = delivery.owner
    work = delivery.work
    if work is not None and work.lane is not None and isinstance(owner._queue, KeyedQueue):
        lane, work.lane = work.lane, None
        owner._queue.release(lane)
    active = owner._active
    # In there, every value is None.
    was_active = active is not None and active.pop(delivery, delivery) is None
    if was_active or (work is not None and work.in_thread):
        owner._running -= 1
    owner.bus._find_place(owner)


def _count(subscription: Subscription, status: Status) -> None:
    setattr(subscription, status, getattr(subscription, status) + 1)


def _tell(delivery: Delivery, receipt: Receipt, _: Context | None = None) -> None:
    """The log, the dead letters and the observers, once the accounts are right.

    Whoever calls later hands in the publisher's context too, for it to live until then: what dies
    with it may call the bus, which must not be in the middle of a step.
    """
    bus = delivery.owner.bus
    if delivery.status == "failed":
        assert delivery.error is not None
        _remember(delivery.owner, receipt, delivery.error, delivery.attempt)
    elif delivery.status == "cancelled" and delivery.attempt and not bus._burying:
        bus._log.delivery_cancelled(delivery)
    if bus._observers:
        (outcome,) = outcomes_of((delivery,), receipt._accepted_at)
        for observer in bus._observers:
            bus._observe(observer.delivery_ended, delivery.event, outcome)


def _remember(owner: Subscription, receipt: Receipt, error: BaseException, attempts: int) -> None:
    bus, event = owner.bus, receipt.event
    letter = DeadLetter(
        event, owner.name, error, attempts, bus._clock.time(), owner.number, bus._serial
    )
    bus.dead_letters._add(letter)
    bus._log.delivery_failed(owner, event, error, attempts)
    for witness in bus._failure_witnesses:
        witness(letter, owner, receipt)
