"""From a verified event to the bus, once: claim, publish, and done or release.

Between its steps a claim belongs to somebody, and a request can be cancelled wherever it waits. So
whatever waits does so in a task of its own, which nobody cancels: a request that is cancelled, or
no longer waited for, leaves work that goes on to its end. If the event loop dies first, the claim
holds until its lease has run out. A store that fails to end a claim is asked again, three times
within its lease. With a store in memory and room on the bus nothing waits, and
no task is made.

::

    claim ──► publish ──► done                        ack="accepted"
                 │   └──► wait for handlers ──► done  ack="handled"
                 │                  └──► release      a handler failed
                 └──► release                         the bus did not take it in time
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar

from eventbus._publishing import TURN_EVERY
from eventbus.errors import BusClosed, PayloadError, UnknownTopic
from eventbus.receipt import Receipt
from eventbus.webhooks._deadline import ended_within, sleep, within
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
from eventbus.webhooks.replay import LEASE, MemoryReplayStore

if TYPE_CHECKING:
    from eventbus._admission import Ticket
    from eventbus.bus import EventBus
    from eventbus.clock import Clock
    from eventbus.event import Event
    from eventbus.outcome import Outcome
    from eventbus.topics import Topic
    from eventbus.webhooks._ledger import Ledger
    from eventbus.webhooks._verification import Draft
    from eventbus.webhooks.replay import Claim, ReplayStore

T = TypeVar("T")

Ack = Literal["accepted", "handled"]

NAMES_SHOWN: Final = 5

PATIENCE: Final = LEASE / 4
"""How many seconds a step under a claim may wait for room, or for the store: the steps that follow
one another without a renewal must end before the lease does, or a replay would take over."""


AGAIN: Final = (1.0, 5.0, 20.0)
"""After how many seconds each a store that failed to end a claim is asked again. A lease is longer:
else a replay would be published, though its event has been."""


class _Pending(NamedTuple):
    """An event that is on the bus, and whose handlers are to be waited for."""

    receipt: Receipt
    finishing: asyncio.Task[WebhookError | None]
    """Ends the claim when the handlers have ended. Its result is what went wrong."""


Settle = Callable[["Claim"], Awaitable[object]]
"""A method of a store that takes a claim."""

Admission = Coroutine[Any, Any, Receipt | _Pending | None]


class Acceptance:
    """Takes the verified events of one receiver to its bus."""

    def __init__(
        self, bus: EventBus, replay: ReplayStore, ack: Ack, deadline: float, ledger: Ledger
    ) -> None:
        self._bus = bus
        self._replay = replay
        # A subclass may have a method that waits.
        self._in_memory = replay if type(replay) is MemoryReplayStore else None
        self._ack = ack
        self._deadline = deadline
        self._patience = min(deadline, PATIENCE)
        self._ledger = ledger
        self.tasks: set[asyncio.Task[Any]] = set()
        """What goes on, whether a request waits for it or not."""

    async def run(self, draft: Draft, key: bytes, remember: float, now: float) -> Event[Any] | None:
        """Publish the event, and return it as the bus has it; None for a duplicate.

        Raises the ``WebhookError`` that says why not; ``HandlerFailed`` and ``AckTimeout`` if it
        is published all the same. Cancelled, what has begun goes on.
        """
        if self._bus._unturned >= TURN_EVERY:
            await give_turn(self._bus)
        if self._in_memory is not None:
            begun = self._admit_at_once(self._in_memory, draft, key, remember, now)
            if begun is None or isinstance(begun, Receipt):
                return None if begun is None else begun.event
        else:
            begun = self._admit(draft, key, remember, now)
        return await self._wait(begun)

    async def _wait(self, begun: Admission) -> Event[Any] | None:
        """Wait for what has begun, in a task of its own, and perhaps for handlers."""
        clock = self._bus._clock
        started = clock.monotonic()
        admitted = await asyncio.shield(self._keep(begun))
        if not isinstance(admitted, _Pending):
            return None if admitted is None else admitted.event
        left = self._deadline - (clock.monotonic() - started)
        if not await ended_within(clock, admitted.finishing, left):
            raise AckTimeout(f"the handlers have not ended within {self._deadline:g} s")
        error = admitted.finishing.result()
        if error is not None:
            raise error
        return admitted.receipt.event

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

    def _admit_at_once(
        self, store: MemoryReplayStore, draft: Draft, key: bytes, remember: float, now: float
    ) -> Receipt | Admission | None:
        """All of it, where nothing waits; else what is left to be awaited."""
        claim = store.claim_nowait(key, remember, now)
        if claim is None:
            return None
        try:
            submitted = submit(self._bus, draft)
        except Exception as error:
            store.release_nowait(claim)
            raise explain(error) from error
        if self._ack == "handled" or isinstance(submitted, _Line):
            return self._go_on(claim, submitted)
        store.done_nowait(claim)
        return submitted

    async def _admit(
        self, draft: Draft, key: bytes, remember: float, now: float
    ) -> Receipt | _Pending | None:
        claim = await self._claim(key, remember, now)
        if claim is None:
            return None
        try:
            submitted = submit(self._bus, draft)
        except Exception as error:
            await self._end("release", self._replay.release, claim)
            raise explain(error) from error
        return await self._go_on(claim, submitted)

    async def _go_on(self, claim: Claim, submitted: Receipt | _Line) -> Receipt | _Pending | None:
        """Wait for room if need be; then end the claim, or see to its end."""
        try:
            if isinstance(submitted, Receipt):
                receipt = submitted
            else:
                receipt = await submitted.accepted(self._bus._clock, self._patience)
        except Exception as error:
            await self._end("release", self._replay.release, claim)
            raise explain(error) from error
        if self._ack == "handled":
            return _Pending(receipt, self._keep(self._finish(claim, receipt)))
        await self._end("done", self._replay.done, claim)
        return receipt

    async def _finish(self, claim: Claim, receipt: Receipt) -> WebhookError | None:
        """Wait for the handlers, however long they take, and end the claim."""
        try:
            outcomes = await self._outcomes(claim, receipt)
        except Exception as error:  # WouldDeadlock: a handler of the event waits for this
            await self._end("release", self._replay.release, claim)
            failure = explain(error)
            failure.__cause__ = error
            return failure
        failed = [each.subscription for each in outcomes if each.status in {"failed", "cancelled"}]
        if not failed:
            await self._end("done", self._replay.done, claim)
            return None
        await self._end("release", self._replay.release, claim)
        more = f" and {len(failed) - NAMES_SHOWN} more" if len(failed) > NAMES_SHOWN else ""
        return HandlerFailed(f"failed or cancelled: {', '.join(failed[:NAMES_SHOWN])}{more}")

    async def _outcomes(self, claim: Claim, receipt: Receipt) -> tuple[Outcome, ...]:
        """What became of the deliveries. The claim is renewed until that is known."""
        clock = self._bus._clock
        waiting = asyncio.ensure_future(receipt.outcomes())
        try:
            while not await ended_within(clock, waiting, LEASE / 3):
                await self._settle("renew", self._renew, claim)
            return waiting.result()
        finally:
            waiting.cancel()

    async def _renew(self, claim: Claim) -> None:
        await self._replay.renew(claim, self._bus._clock.time())

    async def _claim(self, key: bytes, remember: float, now: float) -> Claim | None:
        try:
            return await within(
                self._bus._clock, self._patience, self._replay.claim(key, remember, now)
            )
        except WebhookError:
            raise
        except Exception as error:
            raise ReplayStoreUnavailable(f"claim: {type(error).__name__}") from error

    async def _end(self, step: str, call: Settle, claim: Claim) -> None:
        """End a claim. If the store fails, it is asked again while the request is answered."""
        if not await self._settle(step, call, claim):
            self._keep(self._end_later(step, call, claim))

    async def _end_later(self, step: str, call: Settle, claim: Claim) -> None:
        for pause in AGAIN:
            await sleep(self._bus._clock, pause)
            if await self._settle(step, call, claim):
                return

    async def _settle(self, step: str, call: Settle, claim: Claim) -> bool:
        """End or prolong a claim. False if the store fails: the log knows."""
        try:
            await within(self._bus._clock, self._patience, call(claim))
        except Exception as error:
            code = ReplayStoreUnavailable.code
            self._ledger.tell("webhook.unsettled", "error", code, error, lambda: {"step": step})
            return False
        return True


async def give_turn(bus: EventBus) -> None:
    """What ``EventBus.publish`` does for the event loop now and then, and ``submit`` does not."""
    bus._unturned = 0
    await asyncio.sleep(0)


def submit(bus: EventBus, draft: Draft) -> Receipt | _Line:
    """Publish an event as it is, or let it wait for room. Does not wait itself.

    Data is checked against the model of its topic, if the catalogue of the bus has one. Raises
    what ``EventBus.publish`` raises: nothing was accepted then.
    """
    topic: str | Topic[Any] = draft.topic
    if bus._catalog is not None:
        known = bus._catalog.get(draft.topic)
        if known is not None and known.model is not None:
            topic = known
    try:
        submitted = bus._submit(topic, draft.data, draft.given)
    except BaseException:
        bus._resume()  # lets go of the loop, if nothing else holds it
        raise
    return submitted if isinstance(submitted, Receipt) else _Line(submitted)


class _Line:
    """An event that waits for room. The bus may accept or refuse it before anybody awaits that."""

    def __init__(self, ticket: Ticket) -> None:
        self._ticket = ticket
        self._future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        ticket.accept = self._accept
        ticket.fail = self._fail

    async def accepted(self, clock: Clock, seconds: float) -> Receipt:
        """Wait for so many seconds at most.

        Raises ``Backpressure`` when they are over, and what the bus raises; then, and if it is
        cancelled before the event is accepted, nothing was accepted, nowhere.
        """
        try:
            return await within(clock, seconds, self._future)
        except TimeoutError:
            if self._ticket.accepted:  # in the very turn in which the time was over
                return self._ticket.receipt
            raise Backpressure(f"a queue has been full for {seconds:g} s") from None
        finally:
            self._ticket.withdraw()

    def _accept(self, receipt: Receipt) -> None:
        if not self._future.done():
            self._future.set_result(receipt)

    def _fail(self, error: BaseException) -> None:
        if not self._future.done():
            self._future.set_exception(error)


def explain(error: Exception) -> WebhookError:
    """What a failed publish means for the sender. No message shows a part of the payload."""
    if isinstance(error, WebhookError):
        return error
    if isinstance(error, BusClosed):
        return ShuttingDown("the bus is closed")
    if isinstance(error, UnknownTopic):
        return InvalidEnvelope("type", "is not in the catalogue of the bus")
    if isinstance(error, PayloadError):
        lines = (f"{_place(e['loc'])}: {e['type']}" for e in error.errors[:10])
        return PayloadInvalid(f"{len(error.errors)} errors: {'; '.join(lines)}")
    return ReceiverFailed(f"publishing raised {type(error).__name__}")


def _place(path: Iterable[int | str]) -> str:
    """Where in the data an error is. A key that looks like no field may be anybody's secret."""
    told = (str(part) if isinstance(part, int) or part.isidentifier() else "?" for part in path)
    return ".".join(told)[:100]
