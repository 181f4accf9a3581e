"""P2: each failure is in exactly one outcome, one dead letter and one error line of the log."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from eventbus import (
    Event,
    EventBus,
    HandlerErrors,
    HandlerTimeout,
    Hook,
    LogLine,
    PayloadError,
    Retry,
)
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.helpers import LogLines, within


class Boom(Exception):
    """What the handlers under test raise."""


def make_bus(**options: Any) -> tuple[EventBus, LogLines]:
    lines = LogLines()
    return EventBus(hooks=[lines], **options), lines


async def assert_one_failure(bus: EventBus, lines: LogLines, error: type[BaseException]) -> Any:
    """Publish, and find one failure of that type in each of the three places."""
    receipt = await bus.publish("a", 1)
    (outcome,) = await within(receipt.outcomes())
    assert outcome.status == "failed"
    assert isinstance(outcome.error, error)
    (letter,) = bus.dead_letters
    assert letter.error is outcome.error
    assert letter.attempts == outcome.attempts
    (line,) = lines.named("delivery.failed")
    assert (line.level, line.error) == ("error", outcome.error)
    assert bus.statistics().failed == 1
    return outcome


async def raises_async(event: Event[Any]) -> None:
    raise Boom


async def raises_after_waiting(event: Event[Any]) -> None:
    await asyncio.sleep(0)
    raise Boom


def raises(event: Event[Any]) -> None:
    raise Boom


def raises_in_awaitable(event: Event[Any]) -> Any:
    return raises_after_waiting(event)


async def raises_in_task_group(event: Event[Any]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(raises_async(event))


async def raises_when_cancelled(event: Event[Any]) -> None:
    try:
        asyncio.current_task().cancel()  # type: ignore[union-attr]  # a handler has a task
        await asyncio.get_running_loop().create_future()
    finally:
        raise Boom


@pytest.mark.parametrize(
    "handler",
    [raises_async, raises_after_waiting, raises, raises_in_awaitable, raises_when_cancelled],
    ids=lambda each: each.__name__,
)
async def test_what_a_handler_raises_is_in_three_places_once(handler: Callable[..., Any]) -> None:
    """One outcome, one dead letter, one error line, all with the same exception."""
    bus, lines = make_bus()
    bus.subscribe(handler)
    outcome = await assert_one_failure(bus, lines, Boom)
    assert outcome.attempts == 1


async def test_what_a_thread_raises_is_in_three_places_once() -> None:
    """A handler with ``thread=True`` fails like any other."""
    bus, lines = make_bus()
    bus.subscribe(raises, thread=True)
    outcome = await assert_one_failure(bus, lines, Boom)
    assert outcome.error.__traceback__ is not None


async def test_an_exception_group_is_one_failure() -> None:
    """What a task group raises stays whole."""
    bus, lines = make_bus()
    bus.subscribe(raises_in_task_group)
    await assert_one_failure(bus, lines, ExceptionGroup)


@pytest.mark.parametrize("handler", [raises_async, raises_after_waiting, raises])
async def test_the_line_has_the_handlers_traceback(
    handler: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The log shows where the handler raised, at error level, in one record."""
    bus = EventBus()
    bus.subscribe(handler)
    with caplog.at_level(logging.INFO, logger="eventbus"):
        await bus.publish_and_wait("a")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    frames = traceback.extract_tb(record.exc_info[2])
    assert frames[-1].name == handler.__name__
    assert "Boom" in caplog.text


async def test_a_failure_after_retries_is_one_failure() -> None:
    """Attempts that failed on the way leave warnings, not errors."""
    clock = FakeClock()
    bus, lines = make_bus(clock=clock)
    errors: list[Boom] = []

    @bus.on(retry=Retry(attempts=3, jitter=0))
    async def handler(event: Event[Any]) -> None:
        errors.append(Boom())
        raise errors[-1]

    receipt = await bus.publish("a")
    await wait_all_tasks_blocked()
    clock.advance(0.1)
    await wait_all_tasks_blocked()
    clock.advance(0.2)
    (outcome,) = await within(receipt.outcomes())
    assert (outcome.attempts, outcome.error) == (3, errors[2])
    assert [letter.error for letter in bus.dead_letters] == [errors[2]]
    assert [line.error for line in lines.named("delivery.failed")] == [errors[2]]
    assert [line.level for line in lines.named("delivery.retrying")] == ["warning"] * 2


async def test_a_time_out_is_a_failure() -> None:
    """A handler that takes too long fails with ``HandlerTimeout``, in three places."""
    clock = FakeClock()
    bus, lines = make_bus(clock=clock)

    @bus.on(timeout=5)
    async def hangs(event: Event[Any]) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(assert_one_failure(bus, lines, HandlerTimeout))
    await wait_all_tasks_blocked()
    clock.advance(5)
    outcome = await within(task)
    assert isinstance(outcome.error, TimeoutError)
    assert outcome.ran == 5


async def test_a_retry_policy_that_raises_hides_nothing() -> None:
    """The handler's error stays the failure; what the policy raised is a note on it."""

    class Broken(Retry):
        def delay(self, attempt: int, error: BaseException, *, random: Callable[[], float]) -> Any:
            raise ZeroDivisionError("policy")

    bus, lines = make_bus()
    bus.subscribe(raises, retry=Broken())
    outcome = await assert_one_failure(bus, lines, Boom)
    assert "ZeroDivisionError('policy')" in outcome.error.__notes__[0]


async def test_a_retry_policy_that_gives_up_leaves_no_note() -> None:
    """None is an answer, and says nothing about the error."""

    class Never(Retry):
        def delay(self, attempt: int, error: BaseException, *, random: Callable[[], float]) -> Any:
            return None

    bus, lines = make_bus()
    bus.subscribe(raises, retry=Never())
    outcome = await assert_one_failure(bus, lines, Boom)
    assert not hasattr(outcome.error, "__notes__")


@pytest.mark.parametrize("pause", ["soon", -1.0, float("nan"), float("inf"), True])
async def test_a_retry_policy_that_answers_nonsense_hides_nothing(pause: Any) -> None:
    """A pause that is no number of seconds ends the delivery with the handler's error."""

    class Broken(Retry):
        def delay(self, attempt: int, error: BaseException, *, random: Callable[[], float]) -> Any:
            return pause

    bus, lines = make_bus()
    bus.subscribe(raises, retry=Broken())
    outcome = await assert_one_failure(bus, lines, Boom)
    assert "pause=" in outcome.error.__notes__[0]


def bad_predicate(event: Event[Any]) -> Any:
    raise Boom


async def test_what_where_raises_fails_its_own_delivery_alone() -> None:
    """The publisher gets its receipt, the others their event, and the handler is not run."""
    bus, lines = make_bus()
    ran: list[str] = []
    bus.subscribe(lambda event: ran.append("before"))
    bus.subscribe(lambda event: ran.append("never"), where=bad_predicate)
    bus.subscribe(lambda event: ran.append("after"))
    before, failed, after = await within(bus.publish_and_wait("a"))
    assert ran == ["before", "after"]
    assert [before.status, failed.status, after.status] == ["handled", "failed", "handled"]
    assert failed.attempts == 0
    assert [letter.error for letter in bus.dead_letters] == [failed.error]
    assert [line.error for line in lines.named("delivery.failed")] == [failed.error]


@pytest.mark.parametrize(
    ("key", "error"), [(bad_predicate, Boom), (lambda event: [], TypeError)], ids=["raises", "list"]
)
async def test_what_key_raises_fails_its_own_delivery_alone(
    key: Callable[[Event[Any]], Any], error: type[Exception]
) -> None:
    """That includes a key that cannot be hashed."""
    bus, lines = make_bus()
    ran: list[str] = []

    @bus.on(concurrency=2, key=key)
    async def never(event: Event[Any]) -> None:
        ran.append("never")

    outcome = await assert_one_failure(bus, lines, error)
    assert outcome.attempts == 0
    assert ran == []
    if error is TypeError:
        assert re.match(r"the key of .*never can be no key: .*'list'", str(outcome.error))


async def test_a_key_that_cannot_be_compared_fails_its_own_delivery_alone() -> None:
    """Two keys with one hash, whose ``__eq__`` raises, break neither publish nor the queue."""

    class Key:
        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            raise Boom

    bus, lines = make_bus()
    seen: list[tuple[str, int]] = []
    bus.subscribe(lambda e: seen.append(("key", e.data)), concurrency=2, key=lambda e: Key())
    bus.subscribe(lambda e: seen.append(("plain", e.data)))
    first = bus.publish_nowait("a", 1)
    second = bus.publish_nowait("a", 2)
    assert [each.status for each in await within(first.outcomes())] == ["handled", "handled"]
    assert [each.status for each in await within(second.outcomes())] == ["failed", "handled"]
    assert seen == [("key", 1), ("plain", 1), ("plain", 2)]
    assert len(bus.dead_letters) == len(lines.named("delivery.failed")) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("how", ["def", "async", "waits", "thread"])
def test_an_exit_fails_unretried_and_leaves_the_loop(error: type[BaseException], how: str) -> None:
    """Counted as failed after one attempt, whatever ``retry`` says, and raised out of the loop."""
    bus, lines = make_bus()
    receipts = []

    def plain(event: Event[Any]) -> None:
        raise error

    async def coroutine(event: Event[Any]) -> None:
        if how == "waits":
            await asyncio.sleep(0)
        raise error

    handler: Any = plain if how in ("def", "thread") else coroutine
    bus.subscribe(handler, retry=Retry(on=(BaseException,)), thread=how == "thread")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        receipts.append(await bus.publish("a"))
        await within(receipts[0].outcomes())

    with pytest.raises(error):
        asyncio.run(main())
    (outcome,) = asyncio.run(receipts[0].outcomes())
    assert (outcome.status, outcome.attempts) == ("failed", 1)
    assert isinstance(outcome.error, error)
    assert [letter.error for letter in bus.dead_letters] == [outcome.error]
    assert [line.error for line in lines.named("delivery.failed")] == [outcome.error]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_an_exit_in_a_predicate_leaves_publish(error: type[BaseException]) -> None:
    """``where`` may end the program; nothing has been accepted then."""
    bus, _ = make_bus()
    bus.subscribe(lambda event: None)

    def exits(event: Event[Any]) -> bool:
        raise error

    bus.subscribe(lambda event: None, where=exits)
    with pytest.raises(error):
        await bus.publish("a")
    assert bus.statistics().accepted == bus.statistics().events == 0


async def test_check_raises_every_failure_of_the_event() -> None:
    """``HandlerErrors`` holds one error for each failed and each cancelled delivery."""
    bus, _ = make_bus()
    bus.subscribe(raises)
    bus.subscribe(lambda event: "fine")

    @bus.on()
    async def cancels_itself(event: Event[Any]) -> None:
        raise asyncio.CancelledError

    with pytest.raises(HandlerErrors) as caught:
        await within(bus.publish_and_wait("a", check=True))
    assert [type(each).__name__ for each in caught.value.exceptions] == [
        "Boom",
        "DeliveryCancelled",
    ]
    assert [each.status for each in caught.value.outcomes] == ["failed", "handled", "cancelled"]


async def test_cancellation_is_not_swallowed_by_the_task_of_a_handler() -> None:
    """A handler's task that was cancelled from outside ends as a cancelled task."""
    bus, lines = make_bus()
    tasks: list[asyncio.Task[Any]] = []

    @bus.on(retry=Retry(attempts=5))
    async def waits(event: Event[Any]) -> None:
        tasks.append(asyncio.current_task())  # type: ignore[arg-type]  # a handler has one
        await asyncio.Event().wait()

    receipt = await bus.publish("a")
    await wait_all_tasks_blocked()
    tasks[0].cancel()
    (outcome,) = await within(receipt.outcomes())
    assert (outcome.status, outcome.attempts, outcome.error) == ("cancelled", 1, None)
    await asyncio.wait(tasks)
    assert tasks[0].cancelled()
    assert len(lines.named("delivery.cancelled")) == 1
    assert lines.named("delivery.failed") == []


async def test_a_hook_that_raises_hides_no_failure() -> None:
    """A broken hook is named in the log; the failure is still told to the others."""

    class Broken(LogLines):
        def delivery_ended(self, event: Event[Any], outcome: Any) -> None:
            raise Boom

    broken, lines = Broken(), LogLines()
    bus = EventBus(hooks=[broken, lines])
    bus.subscribe(raises)
    await assert_one_failure(bus, lines, Boom)
    assert len(lines.named("hook.failed")) == 1


async def test_no_line_and_no_letter_for_what_went_well() -> None:
    """Handled deliveries are not in the log."""
    bus, lines = make_bus()
    bus.subscribe(lambda event: "fine")
    await within(bus.publish_and_wait("a"))
    assert (lines.lines, list(bus.dead_letters)) == ([], [])


async def test_data_that_does_not_fit_is_one_failure() -> None:
    """A typed handler's ``PayloadError`` goes to the same three places."""
    bus, lines = make_bus()

    @bus.on()
    async def typed(event: Event[dict[str, int]]) -> None:
        raise AssertionError("must not run")

    outcome = await assert_one_failure(bus, lines, PayloadError)
    assert outcome.attempts == 1


async def test_a_hook_that_ends_the_program_hides_no_other_failure() -> None:
    """Two predicates of one event fail; the log of the first one ends the program."""

    class Ends(Hook):
        def log(self, line: LogLine) -> None:
            if line.fields.get("subscription") == "first":
                raise SystemExit(3)

    lines = LogLines()
    bus = EventBus(hooks=[Ends(), lines])
    for name in ("first", "second"):
        bus.subscribe(print, "a", where=bad_predicate, name=name)
    with pytest.raises(SystemExit):
        bus.publish_nowait("a")
    assert bus.statistics().failed == 2
    assert [letter.subscription for letter in bus.dead_letters] == ["first", "second"]
    (line,) = lines.named("delivery.failed")
    assert line.fields["subscription"] == "second"


@dataclass(frozen=True)
class Declined(Exception):
    """An error that refuses every write that Python can see, to ``__traceback__`` and notes too."""

    card: str


def decline(event: Event[Any]) -> None:
    raise Declined("4242")


async def decline_after_waiting(event: Event[Any]) -> None:
    await asyncio.sleep(0)
    raise Declined("4242")


class Broken(Retry):
    """A policy of the application's own that fails itself."""

    def delay(self, attempt: int, error: BaseException, *, random: Callable[[], float]) -> float:
        raise LookupError("no such policy")


@pytest.mark.parametrize(
    ("handler", "options"),
    [
        (decline, {}),
        (decline_after_waiting, {}),
        (decline, {"thread": True}),
        (decline, {"retry": Broken()}),
        (print, {"where": decline}),
        (print, {"key": decline, "concurrency": 2}),
    ],
    ids=["def", "waits", "thread", "retry", "where", "key"],
)
async def test_an_error_that_is_frozen_is_an_error_like_any_other(
    handler: Callable[..., Any], options: dict[str, Any]
) -> None:
    """Its delivery ends, and the next one begins."""
    bus, lines = make_bus()
    bus.subscribe(handler, "a", **options)
    await assert_one_failure(bus, lines, Declined)
    (outcome,) = await within(bus.publish_and_wait("a"))
    assert outcome.status == "failed"


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_a_policy_that_ends_the_program_ends_the_delivery_first(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """It fails with what its handler has raised; only what ends programs goes on, once."""
    bus, lines = make_bus()

    class Ends(Retry):
        def delay(self, attempt: int, _: BaseException, *, random: Callable[[], float]) -> float:
            raise error

    async def publish() -> None:
        await within(bus.publish_and_wait("a"))

    bus.subscribe(raises, "a", retry=Ends())
    if error is asyncio.CancelledError:
        asyncio.run(publish())
    else:
        with pytest.raises(error):
            asyncio.run(publish())
    assert bus.statistics().failed == 1
    (letter,) = bus.dead_letters
    assert isinstance(letter.error, Boom)
    assert len(lines.named("delivery.failed")) == 1
    gc.collect()  # a task whose exception nobody has taken would be told by asyncio now
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def test_a_policy_that_ends_the_program_at_a_time_out_ends_the_delivery_first() -> None:
    """There no task runs, but a timer of the loop."""
    bus, lines = make_bus()
    over = threading.Event()

    class Ends(Retry):
        def delay(self, attempt: int, _: BaseException, *, random: Callable[[], float]) -> float:
            over.set()
            raise SystemExit(3)

    async def publish() -> None:
        await within(bus.publish_and_wait("a"))

    bus.subscribe(lambda event: over.wait(5), "a", thread=True, timeout=0.01, retry=Ends())
    with pytest.raises(SystemExit):
        asyncio.run(publish())
    assert bus.statistics().failed == 1
    (line,) = lines.named("delivery.failed")
    assert isinstance(line.error, HandlerTimeout)
