"""Receivers: what each request becomes, whatever fails, and wherever it is cancelled."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, field_validator

from eventbus import Catalog, Event, EventBus, Hook, OptionError, Topic
from eventbus.testing import FakeClock
from eventbus.webhooks import GitHub, StandardWebhooks
from eventbus.webhooks._request import read_request
from eventbus.webhooks._sqlite_replay import SqliteReplayStore
from eventbus.webhooks.errors import NoMatchingSignature, ReplayStoreFull
from eventbus.webhooks.receiver import Receiver
from eventbus.webhooks.replay import LEASE, Claim, MemoryReplayStore, ReplayStore
from tests.helpers import LogLines, turns, within
from tests.webhooks.client import BODY, NOW, SCHEME, SECRET, request


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop turns until something has happened.

    With a pause, as a loop that never waits can keep a store's thread from the interpreter's lock.
    """
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - it is looked at, not told
            await asyncio.sleep(0.001)  # real clock: too short for the fake one to jump


class SlowStore:
    """A store whose every call takes some turns of the loop. It fails where it is told to."""

    def __init__(self, fails: str = "", hangs: str = "") -> None:
        self.store = MemoryReplayStore()
        self.fails = fails
        self.hangs = hangs
        self.renewed = 0

    async def _wait(self, step: str) -> None:
        await turns(2)
        if step in self.fails.split():
            raise ConnectionError(f"no {step}")
        if step in self.hangs.split():
            await asyncio.Event().wait()

    async def claim(self, key: bytes, remember: float, now: float) -> Claim | None:
        await self._wait("claim")
        claim = await self.store.claim(key, remember, now)
        await turns(1)
        return claim

    async def renew(self, claim: Claim, now: float) -> bool:
        await self._wait("renew")
        self.renewed += 1
        return await self.store.renew(claim, now)

    async def done(self, claim: Claim) -> None:
        await self._wait("done")
        await self.store.done(claim)

    async def release(self, claim: Claim) -> None:
        await self._wait("release")
        await self.store.release(claim)


@pytest.fixture
def clock(request: pytest.FixtureRequest) -> FakeClock:
    """Time that jumps when nothing goes on; a disk may need a moment to answer."""
    return FakeClock(NOW, autojump=0.5 if "sqlite" in request.node.name else 0.01)


@pytest.fixture
def lines() -> LogLines:
    return LogLines()


@pytest.fixture
async def bus(clock: FakeClock, lines: LogLines) -> AsyncIterator[EventBus]:
    bus = EventBus(clock=clock, hooks=[lines])
    async with bus:
        yield bus


@pytest.fixture
def seen(bus: EventBus) -> list[Event]:
    """What a handler gets."""
    seen: list[Event] = []
    bus.subscribe(seen.append, name="seen")
    return seen


Store = Callable[[], ReplayStore]


# With a file they run in a process of their own: in runs of the whole suite a few were seen to wait
# for the store's thread for more than ten seconds.
ON_A_FILE = pytest.param("sqlite", marks=pytest.mark.slow)


@pytest.fixture(params=["memory", ON_A_FILE, "slow"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReplayStore]:
    if request.param == "sqlite":
        with SqliteReplayStore(tmp_path / "replay.db") as sqlite:
            yield sqlite
    else:
        yield MemoryReplayStore() if request.param == "memory" else SlowStore()


class TestVerify:
    def test_the_event(self, bus: EventBus) -> None:
        """A good request is an event, and nothing is stored, counted or published."""
        receiver = Receiver(bus, SCHEME)
        for _ in range(2):
            event = receiver.verify(*request(), now=NOW)
            assert (event.id, event.type, event.data) == ("msg_1", "invoice.paid", {"id": "in_1"})
        assert receiver.statistics().accepted == 0
        assert bus.statistics().events == 0

    def test_time_comes_from_the_clock_of_the_bus(self, bus: EventBus, clock: FakeClock) -> None:
        """Without ``now``, the bus knows what time it is."""
        receiver = Receiver(bus, SCHEME)
        receiver.verify(*request(time=clock.time() + 299))

    def test_a_bad_signature(self, bus: EventBus) -> None:
        """What is wrong is an error of its own type, and is not counted."""
        receiver = Receiver(bus, SCHEME)
        method, target, headers, _ = request()
        with pytest.raises(NoMatchingSignature):
            receiver.verify(method, target, headers, b"{}", NOW)
        assert receiver.statistics().refused == {}

    def test_a_parsed_body(self, bus: EventBus) -> None:
        """A body that a framework has parsed is a mistake of the caller's, and named so."""
        receiver = Receiver(bus, SCHEME)
        with pytest.raises(TypeError, match="raw bytes"):
            receiver.verify("POST", "/", [], json.loads(BODY))


class TestAccept:
    async def test_accepted(self, bus: EventBus, seen: list[Event]) -> None:
        """A good request is answered 200 once the bus has accepted its event, as the sender
        described it."""
        answer = await Receiver(bus, SCHEME, topic="billing.{type}").accept(*request())
        assert (answer.status, answer.body, answer.error) == (200, b'{"accepted":true}', None)
        assert dict(answer.headers) == {
            b"content-type": b"application/json",
            b"content-length": b"17",
        }
        await bus.settle()
        (event,) = seen
        assert answer.event is event
        assert (event.id, event.type, event.source) == (
            "msg_1",
            "billing.invoice.paid",
            "standard-webhooks",
        )
        assert event.time.timestamp() == NOW

    async def test_a_duplicate(self, bus: EventBus, seen: list[Event], store: ReplayStore) -> None:
        """The same message, and the same message signed again later, are published once."""
        receiver = Receiver(bus, SCHEME, replay=store)
        await receiver.accept(*request())
        for later in (0, 200):
            answer = await receiver.accept(*request(time=NOW + later), now=NOW + later)
            assert (answer.status, answer.body) == (200, b'{"duplicate":true}')
            assert answer.event is None
        await bus.settle()
        assert len(seen) == 1
        assert receiver.statistics().duplicates == 2

    async def test_a_thousand_replays(
        self, bus: EventBus, seen: list[Event], store: ReplayStore
    ) -> None:
        """Of 1,000 concurrent copies of a request one is published."""
        receiver = Receiver(bus, SCHEME, replay=store)
        answers = await asyncio.gather(*(receiver.accept(*request()) for _ in range(1000)))
        assert sum(answer.event is not None for answer in answers) == 1
        assert {answer.status for answer in answers} <= {200, 409}
        await bus.settle()
        assert len(seen) == 1

    async def test_two_receivers_share_a_store(
        self, bus: EventBus, seen: list[Event], store: ReplayStore
    ) -> None:
        """Receivers of different names do not take each other's requests for duplicates."""
        for name in ("live", "test"):
            receiver = Receiver(bus, SCHEME, replay=store, name=name)
            assert (await receiver.accept(*request())).event is not None
        await bus.settle()
        assert len(seen) == 2

    async def test_the_loop_has_its_turns(
        self, bus: EventBus, seen: list[Event], clock: FakeClock
    ) -> None:
        """Many requests, one right after the other, do not keep the handlers from running."""
        receiver = Receiver(bus, SCHEME)
        for number in range(600):  # a queue holds more
            assert (await receiver.accept(*request(id=f"msg_{number}"))).status == 200
        assert len(seen) > 200
        assert clock.monotonic() == NOW  # nothing has waited for its time to be over

    async def test_a_bad_request(self, bus: EventBus) -> None:
        """A refusal says to the sender that it is one, and to us why."""
        method, target, headers, _ = request()
        answer = await Receiver(bus, SCHEME).accept(method, target, headers, b"{}")
        assert (answer.status, answer.body) == (401, b'{"error":{"code":"unauthorized"}}')
        assert isinstance(answer.error, NoMatchingSignature)


class Paid(BaseModel):
    id: str
    amount: int

    @field_validator("id")
    @classmethod
    def known(cls, value: str) -> str:
        if value == "in_broken":
            raise LookupError("the validator itself is broken")
        return value


PAID = Topic("invoice.paid", Paid)


class Prices(BaseModel):
    of: dict[str, int]


class TestTypedTopics:
    @pytest.fixture
    async def bus(self, clock: FakeClock, lines: LogLines) -> AsyncIterator[EventBus]:
        bus = EventBus(clock=clock, catalog=Catalog([PAID]), strict=True, hooks=[lines])
        async with bus:
            yield bus

    async def test_data_arrives_validated(self, bus: EventBus, seen: list[Event]) -> None:
        """Data is checked against the model of its topic before it is accepted."""
        body = b'{"type":"invoice.paid","data":{"id":"in_1","amount":"900"}}'
        assert (await Receiver(bus, SCHEME).accept(*request(body))).status == 200
        await bus.settle()
        assert seen[0].data == Paid(id="in_1", amount=900)

    async def test_data_that_does_not_fit(
        self, bus: EventBus, store: ReplayStore, lines: LogLines
    ) -> None:
        """It is answered 422, not published, and shown neither to the sender nor in the log."""
        receiver = Receiver(bus, SCHEME, replay=store)
        body = b'{"type":"invoice.paid","data":{"id":"in_1","amount":"4242-4242"}}'
        for _ in range(2):  # the claim is released, so the second is no duplicate
            answer = await receiver.accept(*request(body))
            assert (answer.status, answer.body) == (422, b'{"error":{"code":"invalid_payload"}}')
        (line, _) = lines.named("webhook.refused")
        assert line.fields["detail"] == "1 errors: amount: int_parsing"
        assert "4242" not in repr(line)
        assert bus.statistics().events == 0

    async def test_names_from_the_payload(self, clock: FakeClock) -> None:
        """The keys of an object may be anybody's secrets: only what looks like a field is told."""
        bus = EventBus(catalog=Catalog([Topic("prices.changed", Prices)]), clock=clock)
        body = b'{"type":"prices.changed","data":{"of":{"bob@a.b\\nforged":"x","b":"y","41":""}}}'
        async with bus:
            answer = await Receiver(bus, SCHEME).accept(*request(body))
        assert (
            str(answer.error) == "3 errors: of.?: int_parsing; of.b: int_parsing; of.?: int_parsing"
        )

    async def test_an_unknown_topic(self, bus: EventBus, store: ReplayStore) -> None:
        """A strict bus takes no topic that its catalogue does not know: 422."""
        receiver = Receiver(bus, SCHEME, replay=store)
        for _ in range(2):
            answer = await receiver.accept(*request(b'{"type":"invoice.lost","data":1}'))
            assert (answer.status, answer.body) == (422, b'{"error":{"code":"invalid_envelope"}}')

    async def test_a_validator_that_fails(
        self, bus: EventBus, store: ReplayStore, lines: LogLines
    ) -> None:
        """An error of the application's own is no 500: 503, and its traceback is in the log."""
        receiver = Receiver(bus, SCHEME, replay=store)
        body = b'{"type":"invoice.paid","data":{"id":"in_broken","amount":1}}'
        for _ in range(2):
            answer = await receiver.accept(*request(body))
            assert (answer.status, answer.body) == (503, b'{"error":{"code":"unavailable"}}')
        line = lines.named("webhook.failed")[0]
        assert isinstance(line.error, LookupError)
        assert receiver.statistics().refused == {"receiver_failed": 2}


class TestBackpressure:
    @pytest.fixture
    def gate(self, bus: EventBus) -> asyncio.Event:
        """Handlers wait for it, so that the queue is full after one event more."""
        gate = asyncio.Event()

        @bus.on("**", capacity=1, name="slow")
        async def slow(event: Event) -> None:
            await gate.wait()

        return gate

    async def test_a_full_bus(
        self, bus: EventBus, gate: asyncio.Event, store: ReplayStore, clock: FakeClock
    ) -> None:
        """A request waits for room until the deadline; then it is 503, and the retry works."""
        receiver = Receiver(bus, SCHEME, replay=store, deadline=3)
        for number in range(2):  # one runs, one is queued
            assert (await receiver.accept(*request(id=f"msg_{number}"))).status == 200
            await turns(5)
        started = clock.monotonic()
        answer = await receiver.accept(*request(id="msg_2"))
        assert clock.monotonic() - started == pytest.approx(3)
        assert (answer.status, dict(answer.headers)[b"retry-after"]) == (503, b"5")
        assert receiver.statistics().refused == {"backpressure": 1}

        gate.set()
        assert (await receiver.accept(*request(id="msg_2"))).event is not None
        await bus.settle()
        assert bus.statistics().handled == 3

    async def test_a_deadline_longer_than_a_lease(
        self, bus: EventBus, gate: asyncio.Event, clock: FakeClock
    ) -> None:
        """No request waits for room so long that a replay of it could claim its place."""
        receiver = Receiver(bus, SCHEME, deadline=200)
        for number in range(2):
            assert (await receiver.accept(*request(id=f"msg_{number}"))).status == 200
            await turns(5)
        waiting = asyncio.ensure_future(receiver.accept(*request(id="msg_2")))
        await turns(5)
        replayed = 0
        while not waiting.done():
            assert (await receiver.accept(*request(id="msg_2"))).status == 409
            replayed += 1
            clock.advance(5)
            await turns(10)
        assert waiting.result().status == 503
        assert replayed < LEASE / 5

    async def test_room_in_time(
        self, bus: EventBus, gate: asyncio.Event, store: ReplayStore, clock: FakeClock
    ) -> None:
        """A request that gets its room before the deadline is accepted."""
        receiver = Receiver(bus, SCHEME, replay=store)
        for number in range(2):
            await receiver.accept(*request(id=f"msg_{number}"))
            await turns(5)
        clock.call_later(2, gate.set)
        assert (await receiver.accept(*request(id="msg_2"))).status == 200
        assert (await receiver.accept(*request(id="msg_2"))).body == b'{"duplicate":true}'

    async def test_room_before_anybody_waits(
        self, bus: EventBus, store: ReplayStore, clock: FakeClock
    ) -> None:
        """A place that is free in the very next turn is taken in that turn."""

        @bus.on("**", capacity=1)
        async def quick(event: Event) -> None: ...

        receiver = Receiver(bus, SCHEME, replay=store)
        for number in range(5):
            bus.publish_nowait("invoice.created")
            assert (await receiver.accept(*request(id=f"msg_{number}"))).status == 200
            await bus.settle()
        assert clock.monotonic() == NOW

    @pytest.mark.parametrize("late", [False, True])
    async def test_room_in_the_very_last_turn(
        self, bus: EventBus, gate: asyncio.Event, store: ReplayStore, clock: FakeClock, late: bool
    ) -> None:
        """If the bus accepts in the turn in which the time is over, it has accepted."""
        receiver = Receiver(bus, SCHEME, replay=store)
        for number in range(2):
            await receiver.accept(*request(id=f"msg_{number}"))
            await turns(5)
        accepting = asyncio.ensure_future(receiver.accept(*request(id="msg_2")))
        await until(lambda: bool(bus._tickets))
        gate.set()
        if late:
            clock.advance(3)
        bus.subscriptions[0].unsubscribe()  # nobody is in the way any more
        if not late:
            clock.advance(3)
        assert (await accepting).status == 200
        assert (await receiver.accept(*request(id="msg_2"))).body == b'{"duplicate":true}'

    async def test_a_bus_that_closes_in_the_very_last_turn(
        self, bus: EventBus, gate: asyncio.Event, store: ReplayStore, clock: FakeClock
    ) -> None:
        """A bus that refuses in the turn in which the time is over has refused."""
        receiver = Receiver(bus, SCHEME, replay=store)
        for number in range(2):
            await receiver.accept(*request(id=f"msg_{number}"))
            await turns(5)
        accepting = asyncio.ensure_future(receiver.accept(*request(id="msg_2")))
        await until(lambda: bool(bus._tickets))
        closing = asyncio.ensure_future(bus.aclose())  # it begins before the other wakes
        clock.advance(3)
        assert (await accepting).status == 503
        gate.set()
        await closing

    async def test_a_closed_bus(self, bus: EventBus, store: ReplayStore) -> None:
        """While the bus is closed it is 503; the retry works when it is open again."""
        receiver = Receiver(bus, SCHEME, replay=store)
        await bus.aclose()
        answer = await receiver.accept(*request())
        assert (answer.status, answer.body) == (503, b'{"error":{"code":"unavailable"}}')
        assert receiver.statistics().refused == {"shutting_down": 1}
        async with bus:
            assert (await receiver.accept(*request())).event is not None

    async def test_a_bus_that_closes_meanwhile(
        self, bus: EventBus, gate: asyncio.Event, store: ReplayStore
    ) -> None:
        """A request that waits for room when the bus closes is 503, and its claim is released."""
        receiver = Receiver(bus, SCHEME, replay=store)
        for number in range(2):
            await receiver.accept(*request(id=f"msg_{number}"))
            await turns(5)
        accepting = asyncio.ensure_future(receiver.accept(*request(id="msg_2")))
        await until(lambda: bool(bus._tickets))
        closing = asyncio.ensure_future(bus.aclose())
        assert (await accepting).status == 503
        gate.set()
        await closing
        async with bus:
            assert (await receiver.accept(*request(id="msg_2"))).event is not None


class TestHandled:
    async def test_every_handler_has_returned(self, bus: EventBus, store: ReplayStore) -> None:
        """200 comes after the last handler, not before."""
        ended = []

        @bus.on("invoice.paid")
        async def slow(event: Event) -> None:
            await turns(50)
            ended.append(event.id)

        receiver = Receiver(bus, SCHEME, replay=store, ack="handled")
        answer = await receiver.accept(*request())
        assert (answer.status, ended) == (200, ["msg_1"])
        assert (await receiver.accept(*request())).body == b'{"duplicate":true}'

    async def test_waiting_for_itself(self, bus: EventBus, store: ReplayStore) -> None:
        """A handler that accepts what it must handle itself is told so, and no claim stays."""
        answers = []
        receiver = Receiver(bus, SCHEME, replay=store, ack="handled")

        @bus.on("invoice.paid", concurrency=1)
        async def again(event: Event) -> None:
            if event.id == "msg_1":
                answers.append(await receiver.accept(*request(id="msg_2")))

        assert (await receiver.accept(*request(id="msg_1"))).status == 200
        await bus.settle()
        assert answers[0].status == 503
        assert "WouldDeadlock" in str(answers[0].error)
        assert (await receiver.accept(*request(id="msg_2"))).status == 200

    async def test_nobody_listens(self, bus: EventBus, store: ReplayStore) -> None:
        """An event that reaches nobody is handled."""
        receiver = Receiver(bus, SCHEME, replay=store, ack="handled")
        assert (await receiver.accept(*request())).status == 200

    async def test_a_handler_fails(
        self, bus: EventBus, store: ReplayStore, lines: LogLines
    ) -> None:
        """503 with Retry-After: the sender's retry runs the handlers again, and may succeed."""
        attempts = []

        @bus.on("invoice.paid", name="charge")
        async def charge(event: Event) -> None:
            attempts.append(event.id)
            if len(attempts) < 3:
                raise ConnectionError("the bank is asleep")

        receiver = Receiver(bus, SCHEME, replay=store, ack="handled")
        for _ in range(2):
            answer = await receiver.accept(*request())
            assert (answer.status, dict(answer.headers)[b"retry-after"]) == (503, b"5")
            assert answer.event is not None
        assert (await receiver.accept(*request())).status == 200
        assert len(attempts) == 3
        line = lines.named("webhook.refused")[0]
        assert line.fields["code"] == "handler_failed"
        assert line.fields["detail"] == "failed or cancelled: charge"
        assert line.fields["event_id"] == "msg_1"

    async def test_many_handlers_fail(self, bus: EventBus) -> None:
        """The log names a few of them, and how many more there were."""

        def fail(event: Event) -> None:
            raise LookupError

        for number in range(7):
            bus.subscribe(fail, name=f"f{number}")
        answer = await Receiver(bus, SCHEME, ack="handled").accept(*request())
        assert str(answer.error) == "failed or cancelled: f0, f1, f2, f3, f4 and 2 more"

    async def test_a_slow_handler_goes_on(
        self, bus: EventBus, store: ReplayStore, clock: FakeClock
    ) -> None:
        """After the deadline it is 503; retries are told 409 until the handler ends, however long
        that takes, and then that they are duplicates."""
        gate = asyncio.Event()

        @bus.on("invoice.paid")
        async def slow(event: Event) -> None:
            await gate.wait()

        receiver = Receiver(bus, SCHEME, replay=store, ack="handled", deadline=3)
        answer = await receiver.accept(*request())
        assert (answer.status, dict(answer.headers)[b"retry-after"]) == (503, b"60")
        assert answer.event is not None
        for _ in range(5):  # the claim is renewed: far longer than a lease
            for _ in range(4):
                clock.advance(LEASE / 4)
                await turns(10)
                await asyncio.to_thread(lambda: None)
                await turns(10)
            now = clock.time()
            answer = await receiver.accept(*request(time=now))
            assert (answer.status, dict(answer.headers)[b"retry-after"]) == (409, b"5")
        assert receiver.statistics().in_flight == 1
        gate.set()
        await within(receiver.aclose())
        now = clock.time()
        assert (await receiver.accept(*request(time=now))).body == b'{"duplicate":true}'
        assert bus.statistics().handled == 1

    async def test_a_slow_handler_fails_in_the_end(self, bus: EventBus, store: ReplayStore) -> None:
        """A handler that fails after the deadline releases the claim: the retry runs it again."""
        gate = asyncio.Event()
        attempts = []

        @bus.on("invoice.paid")
        async def slow(event: Event) -> None:
            attempts.append(event.id)
            await gate.wait()
            if len(attempts) == 1:
                raise ConnectionError("down")

        receiver = Receiver(bus, SCHEME, replay=store, ack="handled")
        assert (await receiver.accept(*request())).status == 503
        gate.set()
        await within(receiver.aclose())
        assert (await receiver.accept(*request())).status == 200
        assert len(attempts) == 2

    async def test_a_bus_that_closes_under_handlers(
        self, bus: EventBus, store: ReplayStore
    ) -> None:
        """Handlers that a closing bus cancels were not done: 503, and the retry runs them."""

        @bus.on("invoice.paid")
        async def hang(event: Event) -> None:
            await asyncio.Event().wait()

        receiver = Receiver(bus, SCHEME, replay=store, ack="handled", deadline=30)
        accepting = asyncio.ensure_future(receiver.accept(*request()))
        await until(lambda: bus.statistics().pending > 0)
        await bus.aclose(grace=1)
        assert (await accepting).status == 503
        assert receiver.statistics().refused == {"handler_failed": 1}


class TestStores:
    async def test_a_store_that_cannot_claim(
        self, bus: EventBus, seen: list[Event], lines: LogLines
    ) -> None:
        """What was received before is not known: 503, and nothing is published."""
        receiver = Receiver(bus, SCHEME, replay=SlowStore(fails="claim"))
        answer = await receiver.accept(*request())
        assert (answer.status, answer.body) == (503, b'{"error":{"code":"unavailable"}}')
        await bus.settle()
        assert seen == []
        assert receiver.statistics().refused == {"replay_store_unavailable": 1}
        assert lines.named("webhook.refused")[0].fields["detail"] == "claim: ConnectionError"

    async def test_a_store_that_hangs(self, bus: EventBus, clock: FakeClock) -> None:
        """A store gets as long as the deadline says."""
        receiver = Receiver(bus, SCHEME, replay=SlowStore(hangs="claim"), deadline=2)
        started = clock.monotonic()
        assert (await receiver.accept(*request())).status == 503
        assert clock.monotonic() - started == pytest.approx(2)

    @pytest.mark.parametrize("store", [SlowStore(fails="done"), SlowStore(hangs="done")])
    async def test_a_store_that_forgets_the_end(
        self, bus: EventBus, store: SlowStore, lines: LogLines, seen: list[Event]
    ) -> None:
        """The event is published, and that is what the sender is told; the log knows the rest."""
        receiver = Receiver(bus, SCHEME, replay=store)
        assert (await receiver.accept(*request())).status == 200
        (line,) = lines.named("webhook.unsettled")
        assert (line.fields["step"], line.level) == ("done", "error")
        assert line.error is not None
        # Until its lease is over, the claim keeps replays out.
        assert (await receiver.accept(*request())).status == 409

    @pytest.mark.parametrize("ack", ["accepted", "handled"])
    async def test_a_store_that_comes_back(self, bus: EventBus, clock: FakeClock, ack: Ack) -> None:
        """What was published is remembered once the store can: no replay waits for the lease."""
        store = SlowStore(fails="done")
        receiver = Receiver(bus, SCHEME, replay=store, ack=ack)
        assert (await receiver.accept(*request())).status == 200
        store.fails = ""
        await within(receiver.aclose())
        clock.advance(LEASE)
        assert (await receiver.accept(*request())).body == b'{"duplicate":true}'
        assert receiver.statistics().in_flight == 0

    async def test_a_store_that_stays_away(self, bus: EventBus, lines: LogLines) -> None:
        """It is asked four times; then the lease decides."""
        receiver = Receiver(bus, SCHEME, replay=SlowStore(fails="done"))
        assert (await receiver.accept(*request())).status == 200
        await within(receiver.aclose())
        assert len(lines.named("webhook.unsettled")) == 4

    async def test_a_store_that_cannot_release(self, bus: EventBus, lines: LogLines) -> None:
        """The refusal is the same; the sender's retry waits until the lease is over."""
        receiver = Receiver(bus, SCHEME, replay=SlowStore(fails="release"))
        await bus.aclose()
        assert (await receiver.accept(*request())).status == 503
        assert lines.named("webhook.unsettled")[0].fields["step"] == "release"

    async def test_a_store_that_cannot_renew(
        self, bus: EventBus, lines: LogLines, clock: FakeClock
    ) -> None:
        """The handler goes on, and the log says that its claim may be taken over."""
        gate = asyncio.Event()

        @bus.on("invoice.paid")
        async def slow(event: Event) -> None:
            await gate.wait()

        receiver = Receiver(bus, SCHEME, replay=SlowStore(fails="renew"), ack="handled")
        assert (await receiver.accept(*request())).status == 503
        clock.advance(LEASE / 2)
        await turns(20)
        assert lines.named("webhook.unsettled")[0].fields["step"] == "renew"
        gate.set()
        await within(receiver.aclose())

    async def test_a_full_store(self, bus: EventBus, seen: list[Event]) -> None:
        """503: a store makes no room by forgetting what could be replayed."""
        receiver = Receiver(bus, SCHEME, replay=MemoryReplayStore(1))
        assert (await receiver.accept(*request(id="msg_1"))).status == 200
        answer = await receiver.accept(*request(id="msg_2"))
        assert answer.status == 503
        assert isinstance(answer.error, ReplayStoreFull)
        assert (await receiver.accept(*request(id="msg_1"))).body == b'{"duplicate":true}'

    async def test_time_frees_a_full_store(self, bus: EventBus) -> None:
        """Once no replay of the first would verify any more, its place is free."""
        receiver = Receiver(bus, SCHEME, replay=MemoryReplayStore(1))
        assert (await receiver.accept(*request(id="msg_1"), now=NOW)).status == 200
        later = NOW + 306
        answer = await receiver.accept(*request(id="msg_2", time=later), now=later)
        assert answer.status == 200
        # Its time-stamp keeps the first one out now.
        assert (await receiver.accept(*request(id="msg_1"), now=later)).status == 401

    async def test_the_last_moment_of_a_signature(self, bus: EventBus, seen: list[Event]) -> None:
        """A full store forgets nothing in the second in which its replay still verifies.

        Nor in the few seconds by which the clocks of two processes may differ.
        """
        for number, apart in enumerate((0, 2)):
            receiver = Receiver(bus, SCHEME, replay=MemoryReplayStore(2), name=f"r{number}")
            for each in "ab":
                assert (await receiver.accept(*request(id=f"{each}{number}"), now=NOW)).event
            last = NOW + 300
            other = request(id=f"c{number}", time=last)
            assert (await receiver.accept(*other, now=last + apart)).status == 503
            replay = await receiver.accept(*request(id=f"a{number}"), now=last)
            assert replay.body == b'{"duplicate":true}'


Ack = Literal["accepted", "handled"]


class TestCancellation:
    @pytest.mark.parametrize("ack", ["accepted", "handled"])
    @pytest.mark.parametrize("full", [False, True], ids=["room", "full"])
    @pytest.mark.parametrize("step", range(12))
    async def test_at_every_await(
        self, bus: EventBus, store: ReplayStore, ack: Ack, full: bool, step: int
    ) -> None:
        """Cancelled wherever it waits, a request is published once, by itself or by its retry."""
        seen = []
        gate = asyncio.Event()

        @bus.on("invoice.paid", capacity=1)
        async def pay(event: Event) -> None:
            await gate.wait()
            seen.append(event.id)

        if full:
            for number in range(2):
                await bus.publish("invoice.paid", id=f"other_{number}")
                await turns(5)
        receiver = Receiver(bus, SCHEME, replay=store, ack=ack)
        accepting = asyncio.ensure_future(receiver.accept(*request()))
        await turns(step)
        accepting.cancel()
        await asyncio.wait([accepting])
        gate.set()
        await within(receiver.aclose())
        retry = await receiver.accept(*request())
        assert retry.status == 200
        await bus.settle()
        assert seen.count("msg_1") == 1
        assert receiver.statistics().in_flight == 0

    def test_a_loop_that_dies(self, tmp_path: Path) -> None:
        """If the whole event loop goes, the claim lasts as long as its lease, and no longer."""
        clock = FakeClock(NOW)
        bus = EventBus(clock=clock)
        store = SlowStore(hangs="done")
        receiver = Receiver(bus, SCHEME, replay=store)

        async def die() -> None:
            accepting = asyncio.ensure_future(receiver.accept(*request()))
            await until(lambda: bus.statistics().events > 0)
            await turns(5)
            assert not accepting.done()

        async def retry(now: float) -> int:
            return (await receiver.accept(*request(time=now), now=now)).status

        asyncio.run(die())
        store.hangs = ""
        assert asyncio.run(retry(NOW + LEASE - 1)) == 409
        assert asyncio.run(retry(NOW + LEASE)) == 200
        assert receiver.statistics().in_flight == 0


class Ugly:
    """A scheme of somebody who has forgotten an error."""

    name = "ugly"
    body = SCHEME.body

    def verify(self, request: Any, now: float) -> Any:
        raise ZeroDivisionError


class TestNever500:
    async def test_a_scheme_that_raises(self, bus: EventBus, lines: LogLines) -> None:
        """What a user's own scheme raises is 503, and its traceback is in the log."""
        answer = await Receiver(bus, Ugly()).accept(*request())
        assert answer.status == 503
        assert isinstance(lines.named("webhook.failed")[0].error, ZeroDivisionError)

    async def test_hooks_and_predicates_that_raise(self, clock: FakeClock) -> None:
        """What hooks and predicates raise is the bus's business: the request is accepted."""

        class Bad(Hook):
            def accepted(self, event: Event[Any], deliveries: int) -> None:
                raise ZeroDivisionError

            def log(self, line: Any) -> None:
                raise ZeroDivisionError

        bus = EventBus(clock=clock, hooks=[Bad()])
        bus.subscribe(print, where=lambda event: 1 / 0)
        async with bus:
            receiver = Receiver(bus, SCHEME)
            assert (await receiver.accept(*request())).status == 200
            assert (await receiver.accept(*request(time=0))).status == 401


class TestLog:
    async def test_a_refusal(self, bus: EventBus, lines: LogLines) -> None:
        """A line says who refused what and why, and shows no secret, signature or payload."""
        receiver = Receiver(bus, SCHEME, name="payments")
        method, target, headers, body = request()
        changed = body.replace(b"in_1", b"in_2")
        await receiver.accept(method, target, headers, changed)
        (line,) = lines.lines
        assert (line.name, line.level, line.error) == ("webhook.refused", "warning", None)
        assert line.fields == {
            "bus": "eventbus",
            "receiver": "payments",
            "scheme": "standard-webhooks",
            "code": "no_matching_signature",
            "status": 401,
            "detail": "no signature fits",
            "body_sha256": sha256(changed).hexdigest()[:12],
            "left_out": 0,
        }

    async def test_no_secrets(self, bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
        """Whatever is wrong: neither logs nor answers nor reprs show secrets or signatures."""
        receiver = Receiver(bus, SCHEME)
        signed = request()
        signature = dict(signed.headers)[b"webhook-signature"].decode()
        said = [repr(receiver)]
        for index in range(len(signed.headers)):
            headers = [pair for n, pair in enumerate(signed.headers) if n != index]
            said.append(repr(await receiver.accept("POST", "/", headers, signed.body)))
            twice = [*signed.headers, signed.headers[index]]
            said.append(repr(await receiver.accept("POST", "/", twice, signed.body)))
        said.append(caplog.text)
        said.append(repr(read_request(*signed)))  # which tracebacks with local variables show
        for secret in (SECRET.removeprefix("whsec_"), signature.removeprefix("v1,"), "in_1"):
            assert not any(secret in text for text in said)

    async def test_a_flood(self, bus: EventBus, lines: LogLines, clock: FakeClock) -> None:
        """Of one kind, five lines are written in ten seconds; the next says what was left out."""
        receiver = Receiver(bus, SCHEME)
        for _ in range(1000):
            await receiver.accept("POST", "/", [], b"")
        await receiver.accept(*request(time=NOW - 301))  # another kind has lines of its own
        clock.advance(10)
        await receiver.accept("POST", "/", [], b"")
        found = [(line.fields["code"], line.fields["left_out"]) for line in lines.lines]
        assert found == [("missing_header", 0)] * 5 + [
            ("timestamp_too_old", 0),
            ("missing_header", 995),
        ]
        assert lines.lines[5].fields["skew"] == pytest.approx(301)
        assert receiver.statistics().refused == {"missing_header": 1001, "timestamp_too_old": 1}

    async def test_standard_logging(self, bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
        """Lines go where those of the bus go: to the logger ``eventbus``."""
        with caplog.at_level(logging.WARNING, "eventbus"):
            await Receiver(bus, SCHEME).accept("POST", "/", [], b"")
        (record,) = caplog.records
        assert record.getMessage().startswith("webhook.refused bus='eventbus' receiver=")


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"ack": "later"}, "ack"),
            ({"name": ""}, "name"),
            ({"name": 5}, "name"),
            ({"deadline": 0}, "deadline"),
            ({"deadline": "3"}, "deadline"),
            ({"read_timeout": float("inf")}, "read_timeout"),
            ({"idle_timeout": -1}, "idle_timeout"),
            ({"max_body": 0}, "max_body"),
            ({"max_body": 25 * 1024 * 1024 + 1}, "max_body"),
            ({"max_body": 1.5}, "max_body"),
            ({"topic": "a..b"}, "topic"),
        ],
    )
    def test_out_of_range(self, options: dict[str, Any], message: str) -> None:
        """A mistake is told where it is made."""
        with pytest.raises(OptionError, match=message):
            Receiver(EventBus(), SCHEME, **options)

    def test_no_bus(self) -> None:
        """The first argument is the bus."""
        with pytest.raises(OptionError, match="EventBus"):
            Receiver(StandardWebhooks(SECRET), SCHEME)  # type: ignore[arg-type]

    def test_the_limit_of_a_body(self) -> None:
        """A body may have 1 MiB, or what the scheme's senders need, or what the user says."""
        bus = EventBus()
        github = GitHub("a secret of more than sixteen bytes")
        assert Receiver(bus, SCHEME).max_body == 1024 * 1024
        assert Receiver(bus, github).max_body == 25 * 1024 * 1024
        assert Receiver(bus, github, max_body=1000).max_body == 1000

    def test_a_store_of_its_own(self) -> None:
        """By default each receiver remembers for itself."""
        bus = EventBus()
        assert Receiver(bus, SCHEME).replay is not Receiver(bus, SCHEME).replay

    def test_repr(self) -> None:
        """It says whose requests it takes, and to which bus."""
        assert repr(Receiver(EventBus(name="shop"), Ugly(), name="payments")).startswith(
            "<Receiver 'payments': <tests.webhooks"
        )
