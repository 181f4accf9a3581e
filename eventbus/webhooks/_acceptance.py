"""From a verified event to the bus, once: claim, publish, and done or release.

Between its steps a claim belongs to somebody, and a request can be cancelled at each of them. So
the steps run in a task of their own, which nobody cancels: a request that is cancelled, or no
longer waited for, leaves work that goes on to its end. If the event loop dies first, the claim
holds until its lease has run out.

::

    claim ──► publish ──► done                        ack="accepted"
                 │   └──► wait for handlers ──► done  ack="handled"
                 │                  └──► release      a handler failed
                 └──► release                         the bus did not take it in time
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import anyio

from eventbus.errors import BusClosed, PayloadError, UnknownTopic
from eventbus.receipt import Receipt
from eventbus.webhooks.errors import (
    AckTimeout,
    Backpressure,
    HandlerFailed,
    InvalidEnvelope,
    PayloadInvalid,
    ReceiverFailed,
    ReplayStoreUnavailable,
    ShuttingDown,
    WebhookError,
)
from eventbus.webhooks.replay import LEASE

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.clock import Clock
    from eventbus.event import Event
    from eventbus.receipt import Outcome
    from eventbus.webhooks._ledger import Ledger
    from eventbus.webhooks.replay import Claim, ReplayStore

T = TypeVar("T")

Ack = Literal["accepted", "handled"]

NAMES_SHOWN: Final = 5


class Acceptance:
    """Takes the verified events of one receiver to its bus."""

    def __init__(
        self, bus: EventBus, replay: ReplayStore, ack: Ack, deadline: float, ledger: Ledger
    ) -> None:
        self._bus = bus
        self._replay = replay
        self._ack = ack
        self._deadline = deadline
        self._ledger = ledger
        self.tasks: set[asyncio.Task[Any]] = set()
        """What goes on, whether a request waits for it or not."""

    async def run(
        self, event: Event[Any], key: bytes, remember: float, now: float
    ) -> Event[Any] | None:
        """Publish the event, and return it as the bus has it; None for a duplicate.

        Raises the ``WebhookError`` that says why not; ``HandlerFailed`` and ``AckTimeout`` if it
        is published all the same. Cancelled, what has begun goes on.
        """
        clock = self._bus._clock
        started = clock.monotonic()
        admitted = await asyncio.shield(self._keep(self._admit(event, key, remember, now)))
        if admitted is None:
            return None
        receipt, finishing = admitted
        if finishing is not None:
            left = self._deadline - (clock.monotonic() - started)
            if not await ended_within(clock, finishing, left):
                raise AckTimeout(f"the handlers have not ended within {self._deadline:g} s")
            error = finishing.result()
            if error is not None:
                raise error
        return receipt.event

    async def finish(self) -> None:
        """Wait until nothing goes on any more. Cancelled, it goes on without this."""
        loop = asyncio.get_running_loop()
        while tasks := [task for task in self.tasks if task.get_loop() is loop]:
            await asyncio.wait(tasks)

    def _keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def _admit(
        self, event: Event[Any], key: bytes, remember: float, now: float
    ) -> tuple[Receipt, asyncio.Task[WebhookError | None] | None] | None:
        claim = await self._claim(key, remember, now)
        if claim is None:
            return None
        try:
            receipt = await publish(self._bus, event, self._deadline)
        except Exception as error:
            await self._settle("release", self._replay.release, claim)
            raise explain(error) from error
        if self._ack == "handled":
            return receipt, self._keep(self._finish(claim, receipt))
        await self._settle("done", self._replay.done, claim)
        return receipt, None

    async def _finish(self, claim: Claim, receipt: Receipt) -> WebhookError | None:
        """Wait for the handlers, however long they take, and end the claim."""
        outcomes = await self._outcomes(claim, receipt)
        failed = [each.subscription for each in outcomes if each.status in {"failed", "cancelled"}]
        if not failed:
            await self._settle("done", self._replay.done, claim)
            return None
        await self._settle("release", self._replay.release, claim)
        more = f" and {len(failed) - NAMES_SHOWN} more" if len(failed) > NAMES_SHOWN else ""
        return HandlerFailed(f"failed or cancelled: {', '.join(failed[:NAMES_SHOWN])}{more}")

    async def _outcomes(self, claim: Claim, receipt: Receipt) -> tuple[Outcome, ...]:
        """What became of the deliveries. The claim is renewed until that is known."""
        clock = self._bus._clock
        waiting = asyncio.ensure_future(receipt.outcomes())
        try:
            while not await ended_within(clock, waiting, LEASE / 3):
                await self._settle("renew", lambda mine: self._replay.renew(mine, clock.time()), claim)
            return waiting.result()
        finally:
            waiting.cancel()

    async def _claim(self, key: bytes, remember: float, now: float) -> Claim | None:
        try:
            return await within(
                self._bus._clock, self._deadline, self._replay.claim(key, remember, now)
            )
        except WebhookError:
            raise
        except Exception as error:
            raise ReplayStoreUnavailable(f"claim: {type(error).__name__}") from error

    async def _settle(
        self, step: str, call: Callable[[Claim], Awaitable[object]], claim: Claim
    ) -> None:
        """End or prolong a claim. If the store fails, the lease decides, and the log knows."""
        try:
            await within(self._bus._clock, self._deadline, call(claim))
        except Exception as error:
            self._ledger.tell(
                "webhook.unsettled", "error", "replay_store_unavailable", error, lambda: {"step": step}
            )


async def publish(bus: EventBus, event: Event[Any], seconds: float) -> Receipt:
    """Publish an event as it is; wait for room for so many seconds at most.

    Data is checked against the model of its topic, if the catalogue of the bus has one. Raises
    what ``EventBus.publish`` raises, and ``Backpressure``: then nothing was accepted, nowhere.
    """
    topic = None if bus._catalog is None else bus._catalog.get(event.type)
    given = {
        "_id": event.id,
        "_time": event.time,
        "source": event.source,
        "subject": event.subject,
        "attributes": event.attributes,
    }
    try:
        submitted = bus._submit(
            event.type if topic is None or topic.model is None else topic, event.data, given
        )
    except BaseException:
        bus._resume()
        raise
    if isinstance(submitted, Receipt):
        return submitted
    try:
        return await within(bus._clock, seconds, submitted.wait())
    except TimeoutError:
        if submitted.accepted:  # in the very turn in which the time was over
            return submitted.receipt
        raise Backpressure(f"a queue has been full for {seconds:g} s") from None


def explain(error: Exception) -> WebhookError:
    """What a failed publish means for the sender. No message shows a part of the payload."""
    if isinstance(error, WebhookError):
        return error
    if isinstance(error, BusClosed):
        return ShuttingDown("the bus is closed")
    if isinstance(error, UnknownTopic):
        return InvalidEnvelope("type", "is not in the catalogue of the bus")
    if isinstance(error, PayloadError):
        lines = (f"{'.'.join(map(str, e['loc']))[:100]}: {e['type']}" for e in error.errors[:10])
        return PayloadInvalid(f"{len(error.errors)} errors: {'; '.join(lines)}")
    return ReceiverFailed(f"publishing raised {type(error).__name__}")


async def within(clock: Clock, seconds: float, work: Awaitable[T]) -> T:
    """Await something, for so many seconds of a clock at most.

    Raises ``TimeoutError`` when the time is over; the work was cancelled then.
    """
    with anyio.CancelScope() as scope:
        timer = clock.call_later(max(seconds, 0.0), scope.cancel)
        try:
            return await work
        finally:
            timer.cancel()
    raise TimeoutError(f"not done within {seconds:g} s")


async def ended_within(clock: Clock, task: asyncio.Future[Any], seconds: float) -> bool:
    """Wait for a task, which is left alone, for so many seconds at most. Whether it has ended."""
    if task.done():
        return True
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(_: object = None) -> None:
        if not over.done():
            over.set_result(None)

    timer = clock.call_later(max(seconds, 0.0), wake)
    task.add_done_callback(wake)
    try:
        await over
    finally:
        timer.cancel()
        task.remove_done_callback(wake)
    return task.done()
