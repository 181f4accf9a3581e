"""Hooks, and the log: which lines there are, what stands in them, and where they go."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import io
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from traceback import TracebackException
from typing import Any, NamedTuple

import pytest
import structlog
from pydantic import BaseModel

import eventbus.instrumentation
from eventbus import (
    Event,
    EventBus,
    Hook,
    LogHook,
    LogLine,
    OptionError,
    Outcome,
    PayloadError,
    Retry,
    Topic,
)
from eventbus.testing import FakeClock, wait_all_tasks_blocked
from tests.helpers import balances, turns, within

SECRET = "4242-4242-4242-4242"


class Recorder(Hook):
    """Keeps every line."""

    def __init__(self) -> None:
        self.lines: list[LogLine] = []

    def log(self, line: LogLine) -> None:
        self.lines.append(line)

    def named(self, name: str) -> list[LogLine]:
        return [line for line in self.lines if line.name == name]


class Row(NamedTuple):
    """A row of the table in the docstring of instrumentation.py."""

    level: str
    fields: frozenset[str]
    traceback: bool


def documented_lines() -> dict[str, Row]:
    """The table in the docstring, by name."""
    rows = {}
    for line in (eventbus.instrumentation.__doc__ or "").splitlines():
        found = re.match(r"``([a-z.]+)`` +(\w+) +(.*)", line)
        if found:
            fields, _, traceback = found[3].partition(";")
            names = frozenset(name.strip() for name in fields.split(","))
            rows[found[1]] = Row(found[2], names, traceback.strip() == "traceback")
    return rows


def emitted_names() -> set[str]:
    """The names that stand in the code, as arguments of what writes lines."""
    names = set()
    for path in Path(eventbus.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("write", "_about", "warn_once"):
                texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                names |= {t for t in texts if isinstance(t, str) and re.fullmatch(r"\w+\.\w+", t)}
    return names


class Story:
    """A bus that is made to write every line there is, with secrets in every payload."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.clock = FakeClock()
        self.bus = EventBus(
            name="shop",
            clock=self.clock,
            catalog=["known.topic", "known.other"],
            hooks=[self.recorder, Broken()],
        )
        self.data = {"card": SECRET}
        self.over = asyncio.Event()

    async def tell(self) -> None:
        bus = self.bus
        bus.subscribe(self.waits, "unknown.pattern", capacity=1)
        bus.subscribe(self.fails, "known.topic", retry=Retry(attempts=2, initial=1, jitter=0))
        leaves = bus.subscribe(self.waits, "known.other")
        async with bus:
            await bus.publish("known.topic", self.data)
            await bus.publish("known.other", self.data)
            await bus.publish("known.other", self.data)
            await self.pass_time(1)
            leaves.unsubscribe()
            await bus.publish("unknown.topic", self.data)
            await bus.publish("unknown.pattern", self.data)
            await turns(2)
            await bus.publish("unknown.pattern", self.data)
            waiting = asyncio.create_task(bus.publish("unknown.pattern", self.data))
            await self.pass_time(5)
            closing = asyncio.create_task(bus.aclose(grace=1))
            for _ in range(4):
                await self.pass_time(1)
            await asyncio.gather(closing, waiting, return_exceptions=True)
        self.over.set()
        await wait_all_tasks_blocked()

    async def pass_time(self, seconds: float) -> None:
        await wait_all_tasks_blocked()
        self.clock.advance(seconds)
        await wait_all_tasks_blocked()

    async def fails(self, event: Event[Any]) -> None:
        raise ValueError("the card was declined")

    async def waits(self, event: Event[Any]) -> None:
        while not self.over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.over.wait()


class Broken(Hook):
    """A hook that always fails."""

    def accepted(self, event: Event[Any], deliveries: int) -> None:
        raise LookupError("a broken hook")


def lose_a_loop(recorder: Recorder) -> None:
    """Let a loop end while a bus is busy on it, and use the bus on another."""
    bus = EventBus(hooks=[recorder])
    bus.subscribe(lambda event: None, "a")
    loop = asyncio.new_event_loop()

    async def publish() -> None:
        bus.publish_nowait("a", {"card": SECRET})
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    loop.run_until_complete(publish())
    loop.close()
    with asyncio.Runner() as runner:
        runner.run(bus.publish("b"))


@pytest.fixture
def story(caplog: pytest.LogCaptureFixture) -> Story:
    caplog.set_level(logging.INFO, logger="eventbus")
    story = Story()
    with asyncio.Runner() as runner:
        runner.run(within(story.tell()))
    lose_a_loop(story.recorder)
    return story


def test_the_table_names_exactly_what_the_code_writes() -> None:
    """The docstring of instrumentation.py is the list of log events, no more and no less."""
    assert set(documented_lines()) == emitted_names()


def test_every_line_of_the_table_is_written_as_it_says(story: Story) -> None:
    """Level, fields and traceback of each; all of them were provoked, and none besides."""
    rows = documented_lines()
    written = {line.name for line in story.recorder.lines}
    assert written == set(rows)
    for line in story.recorder.lines:
        row = rows[line.name]
        assert line.level == row.level, line.name
        assert set(line.fields) == row.fields | {"bus"}, line.name
        assert (line.error is not None) == row.traceback, line.name


def test_no_line_shows_a_payload(story: Story, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the fields nor what reaches the logger, tracebacks included."""
    assert len(story.recorder.lines) >= 11
    for line in story.recorder.lines:
        assert SECRET not in repr(line)
    records = caplog.get_records("setup")
    assert len(records) == len(story.recorder.lines)
    assert SECRET not in "\n".join(map(logging.Formatter().format, records))


class Card(BaseModel):
    """What the data of a card must be."""

    card: int


async def charge(event: Event[Card]) -> None:
    """Never runs: the data does not fit."""


async def read(bus: EventBus) -> None:
    """Read past an event that the data does not fit."""
    async with bus.stream(Topic("a", Card)) as events:
        await bus.publish("a", {"card": SECRET})
        await bus.publish("a", {"card": 1})
        assert (await within(anext(events))).data == Card(card=1)


async def handle(bus: EventBus) -> None:
    """Publish to a handler whose model the data does not fit."""
    bus.subscribe(charge, "a")
    await bus.publish_and_wait("a", {"card": SECRET})


@pytest.mark.parametrize("fail", [handle, read])
async def test_what_does_not_fit_is_not_shown(fail: Callable[[EventBus], Awaitable[None]]) -> None:
    """Neither in the traceback of the line, nor by a logger that shows the variables of frames."""
    recorder = Recorder()
    await fail(EventBus(hooks=[recorder]))
    (line,) = recorder.named("delivery.failed")
    assert isinstance(line.error, PayloadError)
    shown = "".join(TracebackException.from_exception(line.error, capture_locals=True).format())
    assert "card: Input should be a valid integer" in shown
    assert SECRET not in shown


def test_lines_name_what_they_are_about(story: Story) -> None:
    """Values of the fields, where they can be known beforehand."""
    (failed,) = story.recorder.named("delivery.failed")
    assert failed.fields["subscription"] == "Story.fails"
    assert failed.fields["topic"] == "known.topic"
    assert failed.fields["attempts"] == 2
    assert "test_instrumentation.py" in failed.fields["handler"]
    assert isinstance(failed.error, ValueError)
    (waiting,) = story.recorder.named("publish.waiting")
    assert waiting.fields["subscriptions"] == ["Story.waits"]
    assert (waiting.fields["seconds"], waiting.fields["publishers"]) == (5, 1)
    (retrying,) = story.recorder.named("delivery.retrying")
    assert (retrying.fields["attempt"], retrying.fields["pause"]) == (1, 1)
    assert retrying.fields["raised"] == "ValueError"
    assert {line.fields["bus"] for line in story.recorder.lines} == {"shop", "eventbus"}


# Where lines go.


async def fail_once(bus: EventBus) -> None:
    """One failed delivery."""

    async def fails(event: Event[Any]) -> None:
        raise ValueError("no")

    bus.subscribe(fails, "a", name="shop.ship")
    await bus.publish_and_wait("a", SECRET, id="evt_1")


async def test_without_structlog_lines_go_to_the_standard_logger(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Logger ``eventbus``: the name, ``key=value``, the traceback, and the fields as extra."""
    assert not structlog.is_configured()
    await fail_once(EventBus())
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("eventbus", "ERROR")
    message = record.getMessage()
    assert message.startswith("delivery.failed bus='eventbus' subscription='shop.ship' handler=")
    assert "topic='a' event_id='evt_1' attempts=1" in message
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)
    fields: dict[str, Any] = record.__dict__["eventbus"]
    assert fields["subscription"] == "shop.ship"
    assert capsys.readouterr().out == ""


async def test_a_percent_sign_in_a_name_is_no_format(caplog: pytest.LogCaptureFixture) -> None:
    """What the application calls things is text, not a template."""
    bus = EventBus(name="100 %s %d")
    await fail_once(bus)
    assert "100 %s %d" in caplog.text


@pytest.fixture
def structlog_output() -> Iterator[list[Any]]:
    """structlog, configured as an application would, into a list."""
    lines: list[Any] = []

    def keep(logger: object, method: str, line: Any) -> Any:
        lines.append({"level": method, **line})
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.contextvars.merge_contextvars, keep])
    yield lines
    structlog.reset_defaults()


async def test_with_structlog_configured_lines_go_there(
    structlog_output: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """As key and value, and nothing to the standard logger."""
    await fail_once(EventBus())
    (line,) = structlog_output
    assert (line["event"], line["level"]) == ("delivery.failed", "error")
    assert (line["subscription"], line["topic"], line["attempts"]) == ("shop.ship", "a", 1)
    assert isinstance(line["exc_info"], ValueError)
    assert SECRET not in repr(line)
    assert caplog.records == []


async def test_structlog_configured_later_is_used_from_then_on(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """The bus may be a global, made before the application has set its logging up."""
    bus = EventBus()
    lines = request.getfixturevalue("structlog_output")
    await fail_once(bus)
    assert [line["event"] for line in lines] == ["delivery.failed"]
    assert caplog.records == []


async def test_nothing_is_ever_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """structlog that nobody has configured would print; the bus does not let it."""
    logger = logging.getLogger("eventbus")
    handler = logging.StreamHandler(io.StringIO())
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        await fail_once(EventBus())
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
    assert "delivery.failed" in handler.stream.getvalue()
    assert capsys.readouterr() == ("", "")


# Hooks.


class Witness(Hook):
    """Writes down all that it is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def accepted(self, event: Event[Any], deliveries: int) -> None:
        self.told.append(("accepted", event.type, deliveries))

    def attempt_started(self, event: Event[Any], delivery: Any) -> None:
        self.told.append(("started", delivery.subscription, delivery.attempt))

    def attempt_ended(self, event: Event[Any], delivery: Any, error: BaseException | None) -> None:
        self.told.append(("ended", delivery.subscription, type(error).__name__))

    def delivery_ended(self, event: Event[Any], outcome: Outcome) -> None:
        self.told.append(("delivery", outcome.subscription, outcome.status, outcome.attempts))


async def test_hooks_are_told_in_order_what_happens() -> None:
    """An acceptance, each attempt's start and end, and each delivery's end, exactly once."""
    witness = Witness()
    bus = EventBus(hooks=[witness])

    async def waits(event: Event[Any]) -> None:
        await turns(2)

    async def fails(event: Event[Any]) -> None:
        raise ValueError("no")

    bus.subscribe(fails, "a", name="fails", retry=Retry(attempts=2, initial=0, jitter=0))
    bus.subscribe(waits, "a", name="waits")
    await within(bus.publish_and_wait("a"))
    await within(bus.publish_and_wait("nobody"))
    assert witness.told[0] == ("accepted", "a", 2)
    assert witness.told[-1] == ("accepted", "nobody", 0)
    about = {name: [t for t in witness.told if t[1] == name] for name in ("fails", "waits")}
    assert about["fails"] == [
        ("started", "fails", 1),
        ("ended", "fails", "ValueError"),
        ("started", "fails", 2),
        ("ended", "fails", "ValueError"),
        ("delivery", "fails", "failed", 2),
    ]
    assert about["waits"] == [
        ("started", "waits", 1),
        ("ended", "waits", "NoneType"),
        ("delivery", "waits", "handled", 1),
    ]


async def test_hooks_are_told_of_deliveries_whose_handler_never_ran() -> None:
    """Dropped, cancelled by unsubscribing, failed in a predicate: each once, with 0 attempts."""
    witness = Witness()
    bus = EventBus(hooks=[witness])
    nothing = lambda event: None  # noqa: E731 - it has no better name
    bus.subscribe(nothing, "a", name="dropped", capacity=1, overflow="drop_newest")
    leaves = bus.subscribe(nothing, "a", name="cancelled")
    bus.subscribe(nothing, "a", name="failed", where=lambda event: 1 / 0)
    bus.publish_nowait("a")
    bus.publish_nowait("a")
    leaves.unsubscribe()
    await within(bus.settle())
    unstarted = [told[1:] for told in witness.told if told[0] == "delivery" and not told[-1]]
    assert sorted(unstarted) == [
        ("cancelled", "cancelled", 0),
        ("cancelled", "cancelled", 0),
        ("dropped", "dropped", 0),
        ("failed", "failed", 0),
        ("failed", "failed", 0),
    ]


@pytest.mark.parametrize(
    "method", ["accepted", "attempt_started", "attempt_ended", "delivery_ended"]
)
async def test_a_hook_that_raises_is_named_in_the_log_and_nothing_else_happens(
    method: str,
) -> None:
    """Handlers run, accounts balance, the other hooks are told, and the line has the traceback."""

    def broken(self: Hook, *args: Any) -> None:
        raise LookupError("a broken hook")

    recorder, witness = Recorder(), Witness()
    culprit = type("Culprit", (Hook,), {method: broken})()
    bus = EventBus(hooks=[culprit, recorder, witness])
    bus.subscribe(lambda event: 1, "a")
    (outcome,) = await within(bus.publish_and_wait("a"))
    assert (outcome.status, outcome.result) == ("handled", 1)
    (line,) = recorder.lines
    assert (line.name, line.level, type(line.error)) == ("hook.failed", "error", LookupError)
    assert "Culprit" in line.fields["hook"]
    assert [told[0] for told in witness.told] == ["accepted", "started", "ended", "delivery"]
    assert balances(bus)


async def test_a_log_hook_that_raises_stops_neither_the_bus_nor_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its failure goes to the standard logger, whatever else is configured."""

    class Deaf(Hook):
        def log(self, line: LogLine) -> None:
            raise LookupError("a broken log hook")

    recorder = Recorder()
    bus = EventBus(hooks=[Deaf(), recorder])
    await fail_once(bus)
    assert [line.name for line in recorder.lines] == ["delivery.failed"]
    assert sum("failed to log delivery.failed" in r.getMessage() for r in caplog.records) == 1
    assert SECRET not in caplog.text


async def test_what_a_hook_sets_in_the_context_the_handler_sees() -> None:
    """``attempt_started`` and ``attempt_ended`` run in the handler's own context."""
    import contextvars

    span: contextvars.ContextVar[str] = contextvars.ContextVar("span", default="none")
    seen: list[str] = []

    class Tracer(Hook):
        def attempt_started(self, event: Event[Any], delivery: Any) -> None:
            assert event.delivery is not None
            span.set(f"{delivery.subscription} {delivery.attempt}")

        def attempt_ended(
            self, event: Event[Any], delivery: Any, error: BaseException | None
        ) -> None:
            seen.append(f"ended {span.get()}")

    bus = EventBus(hooks=[Tracer()])

    async def handler(event: Event[Any]) -> None:
        await turns(1)
        seen.append(span.get())

    bus.subscribe(handler, "a", name="one")
    await within(bus.publish_and_wait("a", check=True))
    assert seen == ["one 1", "ended one 1"]
    assert span.get() == "none"


def test_only_hooks_are_taken() -> None:
    """Something else, the class instead of an instance for example, is refused at once."""
    for wrong in (LogHook, object(), print):
        with pytest.raises(OptionError, match="Hook"):
            EventBus(hooks=[wrong])  # type: ignore[list-item]  # the mistake under test


def test_a_hook_that_overrides_nothing_costs_nothing() -> None:
    """The bus looks once which methods are overridden."""
    bus = EventBus(hooks=[Hook(), Recorder()])
    assert bus._observers == ()
    assert bus._witnesses == ()
    assert bus.subscribe(lambda event: None, "a")._direct


async def test_lines_once_per_name_for_topics_and_patterns_nobody_knows() -> None:
    """A thousand publishes on one unknown topic are one warning, with a suggestion."""
    recorder = Recorder()
    bus = EventBus(catalog=["invoice.paid"], hooks=[recorder])
    for _ in range(3):
        await bus.publish("invoice.payed")
        bus.subscribe(lambda event: None, "invoce.*").unsubscribe()
    (topic,) = recorder.named("topic.unknown")
    (pattern,) = recorder.named("pattern.unmatched")
    assert topic.fields["topic"] == "invoice.payed"
    assert "invoice.paid" in topic.fields["suggestion"]
    assert pattern.fields["pattern"] == "invoce.*"
