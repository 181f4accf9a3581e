"""Runs ``def`` handlers in worker threads, anyio's, at most ``threads`` at once per bus.

A thread cannot be cancelled. A delivery that is timed out or cancelled ends at once all the same;
its place, its key and its thread are given back only when the thread returns, so that order and
``concurrency`` hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from eventbus import _ends
from eventbus._drivers import event_for
from eventbus.event import current

if TYPE_CHECKING:
    from eventbus._delivery import Delivery


def start(delivery: Delivery, context: Context) -> None:
    """Begin an attempt. The delivery keeps its place until the thread has returned."""
    bus = delivery.owner.bus
    assert bus._loop is not None
    work = delivery.working()
    work.awaits_thread = True
    delivery.owner._keep(delivery)
    work.task = asyncio.Task(
        _carry(delivery, context),
        loop=bus._loop,
        name="eventbus-thread",
        context=bus._pump_context,
    )
    work.task.add_done_callback(partial(_ended, delivery))


def _ended(delivery: Delivery, task: asyncio.Task[None]) -> None:
    """See to a task that was cancelled before its first step: its body never runs."""
    if delivery.status is None and delivery.working().task is task and task.cancelled():
        delivery.attempt -= 1
        _ends.end(delivery, "cancelled", rest=True)


run_in_thread = to_thread.run_sync
"""What brings a function to a thread. A simulation, which has none, puts its own in this place."""


class ThreadLimit:
    """How many handlers of a bus may be in threads, on one event loop."""

    def __init__(self, threads: int) -> None:
        self.places = anyio.CapacityLimiter(threads)
        self.workers = anyio.CapacityLimiter(math.inf)
        """anyio counts its workers too, by default for the whole loop; `places` has counted."""


async def _carry(delivery: Delivery, context: Context) -> None:
    """Wait for a thread and for what it returns."""
    bus = delivery.owner.bus
    work = delivery.working()
    limit = bus._thread_limit
    if limit is None:
        limit = bus._thread_limit = ThreadLimit(bus._threads)
    token: list[None] = [None]
    try:
        await limit.places.acquire_on_behalf_of(delivery)
        if _is_over(delivery):  # its subscription left while this waited for a thread
            limit.places.release_on_behalf_of(delivery)
            return
        work.awaits_thread = False
        work.in_thread = True
        work.began = bus._monotonic()
        if delivery.attempt == 1:
            delivery.started = work.began
        _ends.start_timeout(delivery)
        loop = asyncio.get_running_loop()
        error = await run_in_thread(
            _run, delivery, context, loop, limit, token, limiter=limit.workers
        )
    except (asyncio.CancelledError, Exception) as stopped:
        if _takes(token):  # no thread has begun, and now none will
            if work.in_thread:
                _returned(delivery, limit)
            if delivery.status is None and isinstance(stopped, asyncio.CancelledError):
                delivery.attempt -= 1
        delivery.error = stopped
        work.timed_out = False
        _ends.attempt_failed(delivery, task=work.task)
        if isinstance(stopped, asyncio.CancelledError):
            raise
        return
    if _is_over(delivery):
        return  # it ended while the thread ran; `_returned` has given back its place
    if work.timed_out:
        error = _ends.timeout_error(delivery)
    if error is None:
        delivery.error = None
        _ends.end(delivery, "handled")
    else:
        delivery.error = error
        _ends.leave_the_loop(_ends.attempt_failed(delivery))


def _is_over(delivery: Delivery) -> bool:
    return delivery.status is not None


def _takes(token: list[None]) -> bool:
    """Whoever takes the token, a thread or a cancellation, says whether the handler runs."""
    try:
        token.pop()  # one step of the interpreter: safe from any thread
    except IndexError:
        return False
    return True


def _run(
    delivery: Delivery,
    context: Context,
    loop: asyncio.AbstractEventLoop,
    limit: ThreadLimit,
    token: list[None],
) -> BaseException | None:
    """In the thread: the error of the attempt."""
    if not _takes(token):
        return None
    try:
        if delivery.status is not None or delivery.working().timed_out:
            return None  # too late to begin
        return context.run(_attempt, delivery)
    finally:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(_returned, delivery, limit)
        del delivery, context  # the frames of an error know this one


def _attempt(delivery: Delivery) -> BaseException | None:
    current.set(delivery)
    owner = delivery.owner
    error: BaseException | None = None
    try:
        for observer in owner.bus._observers:
            owner.bus._observe(observer.attempt_started, delivery.event, delivery)
        event = event_for(delivery)
        delivery.error = None
        delivery.result = _plain_result(owner.handler(event))
    except BaseException as raised:
        error = raised
    try:
        for observer in owner.bus._observers:
            owner.bus._observe(observer.attempt_ended, delivery.event, delivery, error)
    except BaseException as exit_:  # only what ends programs comes out of a hook
        error = exit_
    try:
        return error
    finally:
        del delivery, error  # its frames know this one


def _plain_result(result: Any) -> Any:
    """Refuse what only an event loop could finish."""
    if hasattr(type(result), "__await__"):
        if hasattr(result, "close"):
            result.close()
        raise TypeError(
            "a handler with thread=True returned an awaitable: make it async def, without thread"
        )
    return result


def _returned(delivery: Delivery, limit: ThreadLimit) -> None:
    """On the loop, when the thread is through, whatever has become of its delivery."""
    limit.places.release_on_behalf_of(delivery)
    work = delivery.working()
    if delivery.status is None:
        work.in_thread = False
        work.stop_timer()  # the attempt is over: its time-out must not cancel `_carry` now
        return  # `_carry` goes on with it
    work.stop_timer()
    bus = delivery.owner.bus
    if bus._thread_limit is limit:  # else the bus was on another loop since, and has forgotten it
        bus._stuck_threads -= 1
        _ends.give_back_place(delivery)
        work.in_thread = False
        bus._resume()
