"""The command line: what it reads, what it says, and its exit status."""

from __future__ import annotations

import asyncio
import importlib
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
from rich.console import Console
from typer.testing import CliRunner

from eventbus import EventBus
from eventbus.cli import _feed, _lines, _show, app
from eventbus.cli._feed import Feed
from eventbus.cli._lines import BadLine, Splitter, parse_line
from eventbus.payment_kit import PAYMENT_KIT
from eventbus.testing import FakeClock, wait_all_tasks_blocked

SHOP = """
    from eventbus import Event, EventBus
    bus = EventBus(name="shop")
    seen = []
    @bus.on("invoice.*")
    def ship(event):
        seen.append(event)
        if event.data == "bad":
            raise ValueError("no such invoice")
    @bus.on("invoice.paid")
    async def mail(event):
        await bus.publish("mail.sent")
"""

ENDS = ("accepted", "handled", "failed", "dropped", "cancelled", "pending")

Write = Callable[..., str]

NUMBERS = itertools.count()


@dataclass
class Result:
    """What a command did."""

    status: int
    out: str
    err: str


def invoke(*arguments: str, stdin: bytes = b"") -> Result:
    """Run a command in this process."""
    # Old versions of click mix standard error into standard output unless they are told.
    options = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
    result = cast("Any", CliRunner)(**options).invoke(app, arguments, input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Result(result.exit_code, result.stdout, result.stderr)


def run_python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, without the core's debug mode."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env=environment(),
        **options,
    )


def environment() -> dict[str, str]:
    """Child processes find the package where this one found it, and write UTF-8."""
    here = str(Path(_feed.__file__).parents[2])
    kept = {name: value for name, value in os.environ.items() if name != "EVENTBUS_DEBUG"}
    return {**kept, "PYTHONPATH": here, "PYTHONIOENCODING": "utf-8"}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module into the current directory, which is empty else. Returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    names: list[str] = []

    def write(source: str = SHOP) -> str:
        names.append(f"app_{next(NUMBERS)}")
        (tmp_path / f"{names[-1]}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        importlib.invalidate_caches()
        return names[-1]

    yield write
    for name in names:
        sys.modules.pop(name, None)


def module(name: str) -> ModuleType:
    return sys.modules[name]


def feed(name: str, *lines: bytes | dict[str, Any], options: tuple[str, ...] = ()) -> Result:
    """Run a module's bus on some lines."""
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    Path("events.jsonl").write_bytes(b"\n".join(raw) + b"\n")
    return invoke("run", f"{name}:bus", "--from", "events.jsonl", *options)


def statistics(out: str) -> dict[str, dict[str, int]]:
    """The table that `run` prints, by subscription."""
    table = out[out.index("deliveries to") :].splitlines()[1:]
    rows = [re.split(r"\s{2,}", line.strip()) for line in table if line.strip()]
    return {
        name: dict(zip(ENDS, (int(cell.replace(",", "")) for cell in cells), strict=True))
        for name, *cells in rows
    }


def assert_adds_up(rows: dict[str, dict[str, int]]) -> None:
    for row in rows.values():
        assert row["accepted"] == sum(row[end] for end in ENDS[1:])
    *subscriptions, total = rows.values()
    assert total == {end: sum(row[end] for row in subscriptions) for end in ENDS}


PAID = {"type": "invoice.paid", "data": {"id": "in_1"}}


class TestRun:
    def test_statistics(self, write: Write) -> None:
        """Every event of the file is handled, nested ones too, and the statistics add up."""
        result = feed(write(), *[PAID] * 3000)
        rows = statistics(result.out)
        assert (result.status, result.err) == (0, "")
        assert rows["ship"]["handled"] == rows["mail"]["handled"] == 3000
        assert rows["in all"]["accepted"] == 6000
        assert_adds_up(rows)
        assert "3,000 events from events.jsonl" in result.out
        assert "3,000 more were published by handlers" in result.out
        assert "3,000 reached nobody" in result.out

    def test_fields(self, write: Write) -> None:
        """All that a line says of an event reaches the handlers."""
        line = {
            "type": "invoice.paid",
            "data": [1, {"a": None}, 10**30],
            "id": "evt_1",
            "source": "payment-kit",
            "time": "2025-01-31T12:00:00.5+01:00",
            "subject": "in_1",
            "attributes": {"livemode": True},
        }
        name = write()
        assert feed(name, line).status == 0
        (event,) = module(name).seen
        assert (event.type, event.data) == ("invoice.paid", [1, {"a": None}, 10**30])
        assert (event.id, event.source, event.subject) == ("evt_1", "payment-kit", "in_1")
        assert event.time.isoformat() == "2025-01-31T11:00:00.500000+00:00"
        assert event.attributes == {"livemode": True}

    def test_null_fields(self, write: Write) -> None:
        """Fields that are null count as left out, and so does missing data."""
        name = write()
        nulls = dict.fromkeys(["data", "id", "source", "time", "subject", "attributes"])
        assert feed(name, {"type": "invoice.paid", **nulls}, {"type": "invoice.paid"}).status == 0
        assert [event.data for event in module(name).seen] == [None, None]
        assert {event.source for event in module(name).seen} == {"shop"}

    def test_layout_of_lines(self, write: Write) -> None:
        """A byte order mark, CRLF, blank lines and a missing last line feed are no errors."""
        name = write()
        text = b'\xef\xbb\xbf{"type":"invoice.a"}\r\n\n  \r\n{"type":"invoice.b"}'
        result = invoke("run", f"{name}:bus", "--from", "-", stdin=text)
        assert (result.status, result.err) == (0, "")
        assert [event.type for event in module(name).seen] == ["invoice.a", "invoice.b"]
        assert "from standard input" in result.out

    def test_rest_goes_on(self, write: Write) -> None:
        """A bad line is reported with its number, the rest goes on, and the status is 1."""
        name = write()
        result = feed(name, PAID, b"no JSON", b"", b"[]", PAID)
        assert result.status == 1
        assert result.err.splitlines() == [
            "line 2: not JSON: Expecting value (character 0)",
            "line 4: a JSON object is expected, not an array",
        ]
        assert len(module(name).seen) == 2
        assert "2 bad lines" in result.out

    def test_stop_on_error(self, write: Write) -> None:
        """--stop-on-error reads no further, and what was accepted is handled."""
        name = write()
        result = feed(name, PAID, b"no JSON", PAID, options=("--stop-on-error",))
        assert result.status == 1
        assert statistics(result.out)["ship"]["handled"] == 1

    def test_failed_delivery(self, write: Write) -> None:
        """A delivery that fails makes the status 1, without a complaint about a line."""
        result = feed(write(), PAID, {"type": "invoice.paid", "data": "bad"})
        assert result.status == 1
        assert statistics(result.out)["ship"]["failed"] == 1
        assert "line" not in result.err
        assert_adds_up(statistics(result.out))

    def test_dropped_delivery(self, write: Write) -> None:
        """Dropped deliveries are the application's own policy: counted, and no failure."""
        source = """
            from eventbus import EventBus
            bus = EventBus()
            @bus.on("**", capacity=1, overflow="drop_newest")
            def slow(event): pass
        """
        result = feed(write(source), *[PAID] * 10)
        assert result.status == 0
        assert statistics(result.out)["slow"]["dropped"] > 0
        assert_adds_up(statistics(result.out))

    def test_back_pressure(self, write: Write) -> None:
        """However slow the handler, no more is accepted than its queue holds."""
        source = """
            import asyncio
            from eventbus import EventBus
            bus = EventBus()
            most = 0
            @bus.on("**", capacity=2)
            async def slow(event):
                global most
                await asyncio.sleep(0)
                most = max(most, bus.statistics().pending)
        """
        name = write(source)
        assert feed(name, *[PAID] * 500).status == 0
        assert module(name).most == 3  # the one that runs, and two in the queue

    def test_catalogue_with_models(self, write: Write) -> None:
        """Data is validated into the catalogue's model; what does not fit is a bad line."""
        source = """
            from eventbus import EventBus, Topic
            from pydantic import BaseModel
            class Invoice(BaseModel):
                amount: int
            bus = EventBus(catalog=[Topic("invoice.paid", Invoice), "mail.sent"], strict=True)
            seen = []
            bus.subscribe(lambda event: seen.append(event.data), name="see")
        """
        name = write(source)
        result = feed(
            name,
            {"type": "invoice.paid", "data": {"amount": "7"}},
            {"type": "invoice.paid", "data": {"amount": "secret"}},
            {"type": "invoice.piad"},
            {"type": "mail.sent", "data": 1},
        )
        assert result.status == 1
        assert module(name).seen == [module(name).Invoice(amount=7), 1]
        first, second = result.err.splitlines()
        assert first.startswith("line 2: PayloadError: ")
        assert "amount" in first
        assert "secret" not in first
        assert second.startswith("line 3: UnknownTopic: ")
        assert "Did you mean 'invoice.paid'?" in second

    def test_application_closes_its_bus(self, write: Write) -> None:
        """A bus that the application closes gets no more; that is said, and the status is 1."""
        source = """
            import asyncio
            from contextvars import Context
            from eventbus import EventBus
            bus = EventBus()
            tasks = []
            @bus.on("**", capacity=1)
            async def stop(event):
                if not tasks:
                    loop = asyncio.get_running_loop()
                    tasks.append(loop.create_task(bus.aclose(), context=Context()))
                await asyncio.sleep(0)
        """
        result = feed(write(source), *[PAID] * 50)
        assert result.status == 1
        assert "the application closed its bus" in result.err
        assert_adds_up(statistics(result.out))

    def test_handler_exits(self, write: Write) -> None:
        """A handler that raises SystemExit ends the run, with statistics and status 1."""
        source = """
            from eventbus import EventBus
            bus = EventBus()
            @bus.on("**")
            def leave(event):
                raise SystemExit(0)
        """
        arguments = ["run", f"{write(source)}:bus", "--from", "-"]
        result = run_python("-m", "eventbus", *arguments, input=json.dumps(PAID))
        assert result.returncode == 1
        assert "eventbus: a handler raised SystemExit(0)\n" in result.stderr
        assert "interrupted" not in result.stderr
        assert statistics(result.stdout)["leave"]["failed"] == 1

    def test_subscription_that_left(self, write: Write) -> None:
        """The total also counts what subscriptions got that have left the bus."""
        source = """
            from eventbus import EventBus
            bus = EventBus()
            bus.subscribe(lambda event: None, once=True)
        """
        rows = statistics(feed(write(source), PAID, PAID).out)
        assert rows["(those that have left)"]["handled"] == 1
        assert_adds_up(rows)

    def test_no_colour_and_no_bar(self, write: Write) -> None:
        """Off a terminal nothing is coloured and there is no progress bar."""
        result = feed(write(), PAID, b"?")
        assert "\x1b" not in result.out + result.err
        assert result.err.count("\n") == 1

    def test_long_names(self, write: Write) -> None:
        """Off a terminal no line is broken or cut, however long a name is."""
        long = "n" * 200
        source = f"""
            from eventbus import EventBus
            bus = EventBus()
            bus.subscribe(lambda event: None, name="{long}")
        """
        assert statistics(feed(write(source), PAID).out)[long]["handled"] == 1

    @pytest.mark.slow
    def test_hundred_thousand(self, write: Write) -> None:
        """100,000 events go through in a process of its own, and the statistics add up."""
        name = write()
        with Path("events.jsonl").open("w", encoding="utf-8") as file:
            for number in range(100_000):
                event = {"type": "invoice.paid", "data": {"number": number}, "id": f"evt_{number}"}
                file.write(json.dumps(event) + "\n")
        result = run_python("-m", "eventbus", "run", f"{name}:bus", "--from", "events.jsonl")
        assert (result.returncode, result.stderr) == (0, "")
        rows = statistics(result.stdout)
        assert rows["ship"]["handled"] == rows["mail"]["handled"] == 100_000
        assert_adds_up(rows)


BAD = [
    (b"\xff", "not UTF-8 at byte 0"),
    (b"{", "not JSON"),
    (b"7", "a JSON object is expected, not a number"),
    (b"null", "a JSON object is expected, not null"),
    (b'"invoice.paid"', "a JSON object is expected, not a string"),
    (b'{"type": "a"} {"type": "b"}', "not JSON: Extra data"),
    (b"{}", "no 'type'"),
    (b'{"type": null}', "'type' is a string, not null"),
    (b'{"type": true}', "'type' is a string, not a boolean"),
    (b'{"type": ""}', "the topic is empty"),
    (b'{"type": "a..b"}', "empty token at position 1"),
    (b'{"type": "a.*"}', "wildcards are not allowed in a published topic"),
    (b'{"type": "a", "dta": 1}', "unknown field 'dta': did you mean 'data'?"),
    (b'{"type": "a", "livemode": true, "x": 1}', "unknown field 'livemode' and 1 more: put it"),
    (b'{"type": "a", "id": 7}', "'id' is a string, not a number"),
    (b'{"type": "a", "subject": ""}', "'subject' is a string, not an empty one"),
    (b'{"type": "a", "source": {}}', "'source' is a string, not an object"),
    (b'{"type": "a", "attributes": []}', "'attributes' is an object, not an array"),
    (b'{"type": "a", "time": 5}', "'time' is a string, not a number"),
    (b'{"type": "a", "time": "today"}', "'time' 'today' is no ISO 8601 time"),
    (b'{"type": "a", "time": "2025-01-31T12:00:00"}', "'time' has no time zone"),
    (b'{"type": "a", "time": "0001-01-01T00:00:00+09:00"}', "is no time in UTC"),
    (b'{"type": "a", "type": "b"}', "the key 'type' comes twice"),
    (b'{"type": "a", "data": {"x": 1, "y": 2, "x": 1}}', "the key 'x' comes twice"),
    (b'{"type": "a", "data": NaN}', "NaN is no JSON"),
    (b'{"type": "a", "data": [-Infinity]}', "-Infinity is no JSON"),
    (b'{"type": "a", "data": 1e999}', "the number 1e999 is too large"),
    (b'{"type": "a", "data": ' + b"9" * 5000 + b"}", "not readable: Exceeds the limit"),
    (b'{"type": "a", "data": ' + b"[" * 100_000 + b"}", "nested too deeply"),
    (b'{"type": "\\ud800"}', "a surrogate"),
    (None, "longer than 16,777,216 bytes"),
]


class TestLines:
    @pytest.mark.parametrize(("line", "why"), BAD, ids=[why for _, why in BAD])
    def test_bad_line(self, line: bytes | None, why: str) -> None:
        """What would be lost or guessed at is refused, and the message says why."""
        with pytest.raises(BadLine, match=re.escape(why)):
            parse_line(line)

    @pytest.mark.parametrize("size", range(1, 12))
    def test_splitter(self, size: int) -> None:
        """However the bytes come in, the lines and their numbers are the same."""
        text = b"one\n\n\xc3\xa9two\r\nthree\n\nlast"
        splitter = Splitter()
        chunks = [text[start : start + size] for start in range(0, len(text), size)]
        found = [line for chunk in chunks for line in splitter.feed(chunk)]
        found += splitter.end()
        assert found == list(enumerate(text.split(b"\n"), 1))

    @pytest.mark.parametrize("size", range(1, 12))
    def test_long_line(self, size: int) -> None:
        """A line that is too long is passed over, is not kept, and the next one is read."""
        text = b"12345\n" + b"x" * 40 + b"\n123456\nend"
        splitter = Splitter(longest=5)
        found: list[tuple[int, bytes | None]] = []
        for start in range(0, len(text), size):
            found += splitter.feed(text[start : start + size])
            assert sum(map(len, splitter._parts)) <= 5
        found += splitter.end()
        assert found == [(1, b"12345"), (2, None), (3, None), (4, b"end")]

    def test_large_integers(self) -> None:
        """Integers that Python reads are exact, beyond any machine's word."""
        line = parse_line(b'{"type": "a", "data": [18446744073709551617, -0.5]}')
        assert line == _lines.Line("a", [18446744073709551617, -0.5], {})


class Pieces:
    """A source of some chunks, and then whatever the last one is: an error, or a wait."""

    def __init__(self, *chunks: bytes, then: BaseException | threading.Event | None = None) -> None:
        self.chunks = list(chunks)
        self.then = then
        self.sizes: list[int] = []

    def read(self, size: int) -> bytes | None:
        self.sizes.append(size)
        if self.chunks:
            return self.chunks.pop(0)
        if isinstance(self.then, BaseException):
            raise self.then
        if self.then is not None:
            self.then.wait()
        return b""


def make_feed(bus: EventBus, source: _feed.Source) -> Feed:
    return Feed(bus, source, lambda number, text: None, lambda feed: None)


class TestFeed:
    async def test_reads_in_chunks(self) -> None:
        """A chunk is read when the one before is accepted: never the file as a whole."""
        bus = EventBus()
        source = Pieces(*[b'{"type": "a.b"}\n' * 10] * 20)
        read_when: list[int] = []
        bus.subscribe(lambda event: read_when.append(len(source.sizes)), capacity=1)
        await make_feed(bus, source).run()
        assert set(source.sizes) == {_feed.CHUNK}
        assert len(read_when) == 200
        assert read_when[8] == 1  # nine of ten are through before the second chunk is asked for

    async def test_reading_fails(self) -> None:
        """If the file cannot be read further, what was accepted is handled all the same."""
        bus = EventBus()
        feed = make_feed(bus, Pieces(b'{"type": "a.b"}\n', then=OSError("disk is gone")))
        bus.subscribe(lambda event: None)
        with pytest.raises(OSError, match="disk is gone"):
            await feed.run()
        assert bus.statistics().handled == feed.published == 1

    async def test_non_blocking_input(self) -> None:
        """Input in non-blocking mode is an error, not the end of the file."""

        class Empty:
            def read(self, size: int) -> None:
                return None

        with pytest.raises(BlockingIOError):
            await make_feed(EventBus(), Empty()).run()

    async def test_interrupted_while_input_is_silent(self) -> None:
        """Cancelled while it waits for input, it drains and returns without waiting for that."""
        bus, silence = EventBus(), threading.Event()
        handled = asyncio.get_running_loop().create_future()
        bus.subscribe(handled.set_result)
        feed = make_feed(bus, Pieces(b'{"type": "a.b"}\n', then=silence))
        task = asyncio.create_task(feed.run())
        await handled
        task.cancel()
        await task
        silence.set()
        assert feed.interrupted
        assert (feed.published, bus.statistics().handled) == (1, 1)

    async def test_waits_for_slow_handlers(self) -> None:
        """At the end of the file it waits for handlers, longer than a close would."""
        clock = FakeClock()
        bus = EventBus(clock=clock)
        loop = asyncio.get_running_loop()
        started, go_on = loop.create_future(), loop.create_future()

        @bus.on("**")
        async def slow(event: object) -> None:
            started.set_result(None)
            await go_on

        ended = loop.create_future()
        feed = Feed(
            bus,
            Pieces(b'{"type": "a.b"}'),
            lambda number, text: None,
            lambda feed: ended.set_result(None) if feed.published and not ended.done() else None,
        )
        task = asyncio.create_task(feed.run())
        await started
        await ended
        await wait_all_tasks_blocked()
        clock.advance(60)
        await wait_all_tasks_blocked()
        go_on.set_result(None)
        await task
        assert bus.statistics().handled == 1

    async def test_interrupted_while_a_handler_hangs(self) -> None:
        """Cancelled, it gives a handler two seconds, and counts it as cancelled then."""
        clock = FakeClock()
        bus = EventBus(clock=clock)
        started = asyncio.get_running_loop().create_future()

        @bus.on("**")
        async def hang(event: object) -> None:
            started.set_result(None)
            await asyncio.Event().wait()

        feed = make_feed(bus, Pieces(b'{"type": "a.b"}\n'))
        task = asyncio.create_task(feed.run())
        await started
        task.cancel()
        await wait_all_tasks_blocked()
        clock.advance(1.9)
        await wait_all_tasks_blocked()
        assert not task.done()
        clock.advance(0.2)
        await task
        assert feed.interrupted
        assert bus.statistics().cancelled == 1


class TestUsage:
    @pytest.mark.parametrize(
        ("target", "why"),
        [
            ("{0}", "is not MODULE:BUS"),
            ("no_such_module:bus", "no module named 'no_such_module'"),
            ("{0}.sub:bus", "no module named"),
            ("{0}:buss", "did you mean {0}:bus?"),
            ("{0}:seen", "is no EventBus but list: did you mean {0}:bus?"),
        ],
    )
    def test_no_such_bus(self, write: Write, target: str, why: str) -> None:
        """A bus that cannot be found is wrong usage, and the message says what there is."""
        name = write()
        result = invoke("describe", target.format(name))
        assert (result.status, result.out) == (2, "")
        assert why.format(name) in result.err

    @pytest.mark.parametrize(
        ("source", "why"),
        [("1 / 0", "ZeroDivisionError"), ("import no_such_thing", "No module named 'no_such_th")],
    )
    def test_module_with_an_error(self, write: Write, source: str, why: str) -> None:
        """A module that cannot be imported is wrong usage, with its traceback."""
        name = write(source)
        result = invoke("run", f"{name}:bus", "--from", "-")
        assert result.status == 2
        assert f"{name}.py" in result.err
        assert f"module '{name}' cannot be imported" in result.err
        assert why in result.err

    def test_module_without_a_bus(self, write: Write) -> None:
        """The message says that there is no bus at all."""
        name = write("bus = None")
        result = invoke("describe", f"{name}:bus")
        assert f"is no EventBus but NoneType: there is no EventBus in {name}" in result.err

    @pytest.mark.parametrize("file", ["missing.jsonl", "."])
    def test_no_such_file(self, write: Write, file: str) -> None:
        """A file that cannot be opened is wrong usage, and nothing is published."""
        result = invoke("run", f"{write()}:bus", "--from", file)
        assert (result.status, result.out) == (2, "")
        assert f"cannot open {file!r}" in result.err

    @pytest.mark.parametrize("arguments", [("run", "x:bus"), ("nonsense",), ("run", "--no-such")])
    def test_wrong_arguments(self, arguments: tuple[str, ...]) -> None:
        """Missing and unknown arguments are wrong usage."""
        assert invoke(*arguments).status == 2

    def test_bus_inside_an_object(self, write: Write) -> None:
        """The bus may be an attribute of an attribute."""
        source = """
            from eventbus import EventBus
            class Application:
                bus = EventBus(name="inner")
        """
        assert invoke("describe", f"{write(source)}:Application.bus").out == (
            "inner: 0 subscriptions\n"
        )

    def test_bus_that_nothing_listens_to(self, write: Write) -> None:
        """A bus that was named without the module of its handlers is told, and how to name it."""
        name = write("from eventbus import EventBus\nbus = EventBus()\n")
        result = invoke("describe", f"{name}:bus")
        assert result.status == 0
        assert result.err == (
            f"eventbus: nothing that {name}:bus imports subscribes to it: "
            "name one that imports the handlers, too\n"
        )
        assert invoke("describe", f"{write()}:bus").err == ""

    def test_version(self) -> None:
        """--version prints the version."""
        assert (
            invoke("--version").out
            == f"eventbus {importlib.import_module('eventbus').__version__}\n"
        )


class TestLooking:
    def test_describe(self, write: Write) -> None:
        """describe names each subscription, its patterns, and where it is written."""
        name = write()
        out = invoke("describe", f"{name}:bus").out
        assert "shop: 2 subscriptions" in out
        assert re.search(rf"ship\n  listens to +invoice\.\*\n  handler +{name}\.py:5\n", out)

    def test_describe_as_json(self, write: Write) -> None:
        """describe --json is JSON, whatever objects the options hold."""
        source = """
            from eventbus import EventBus, Retry
            bus = EventBus()
            def key(event): ...
            @bus.on("a.*", "b", concurrency=2, key=key, retry=Retry(attempts=2), timeout=1.5)
            def ship(event): ...
        """
        name = write(source)
        (info,) = json.loads(invoke("describe", f"{name}:bus", "--json").out)
        assert info["name"] == "ship"
        assert info["patterns"] == ["a.*", "b"]
        assert info["handler"].endswith(f"{name}.py:5")
        assert (info["options"]["concurrency"], info["options"]["timeout"]) == (2, 1.5)
        assert info["options"]["key"] == f"key ({name}.py:4)"
        assert info["options"]["retry"].startswith("Retry(attempts=2")

    def test_explain(self, write: Write) -> None:
        """explain says whom a topic reaches, and who just misses it."""
        out = invoke("explain", f"{write()}:bus", "invoice.voided").out
        assert out.splitlines() == [
            "invoice.voided",
            "  reaches ship through invoice.*",
            "  misses mail: invoice.paid has 'paid' where the topic has 'voided'",
        ]

    def test_explain_nobody(self, write: Write) -> None:
        """A topic that reaches nobody is said to, and is no error."""
        result = invoke("explain", f"{write()}:bus", "user.card.added")
        assert (result.status, result.out) == (0, "user.card.added\n  reaches nobody\n")

    def test_explain_as_json(self, write: Write) -> None:
        """explain --json has the fields of an Explanation."""
        found = json.loads(invoke("explain", f"{write()}:bus", "invoice.paid", "--json").out)
        assert [each["subscription"] for each in found["reached"]] == ["ship", "mail"]
        assert (found["topic"], found["known"], found["near_misses"]) == ("invoice.paid", None, [])

    def test_explain_bad_topic(self, write: Write) -> None:
        """A bad topic is wrong usage."""
        result = invoke("explain", f"{write()}:bus", "invoice.*")
        assert result.status == 2
        assert "wildcards are not allowed" in result.err

    def test_catalog(self) -> None:
        """catalog lists every topic of Payment Kit with its description."""
        lines = invoke("catalog").out.splitlines()
        assert [re.split(r"\s{2,}", line) for line in lines] == [
            [topic.name, topic.description] for topic in PAYMENT_KIT
        ]

    def test_catalog_by_pattern(self) -> None:
        """catalog takes a pattern, and --json."""
        assert json.loads(invoke("catalog", "invoice.p*", "--json").out or "null") is None
        found = json.loads(invoke("catalog", "refund.*", "--json").out)
        assert [each["name"] for each in found] == ["refund.succeeded", "refund.canceled"]

    def test_catalog_without_match(self) -> None:
        """A pattern that matches nothing gives status 1 and a suggestion; a bad one gives 2."""
        result = invoke("catalog", "subscription.created")
        assert (result.status, result.out) == (1, "")
        assert "Did you mean 'customer.subscription.created'?" in result.err
        assert invoke("catalog", "**.paid").status == 2

    def test_progress_bar(self) -> None:
        """There is a progress bar on a terminal, and only there."""
        terminal = Console(file=io.StringIO(), force_terminal=True)
        assert not _show.make_progress(terminal).disable
        assert _show.make_progress(Console(file=io.StringIO(), force_terminal=False)).disable


class TestProcess:
    def test_module_in_the_current_directory(self, write: Write) -> None:
        """python -m eventbus finds modules where it is started, and reads standard input."""
        name = write()
        result = run_python("-m", "eventbus", "run", f"{name}:bus", "--from", "-", input="{}\n")
        assert (result.returncode, result.stderr) == (
            1,
            "line 1: no 'type': each event needs its topic\n",
        )

    def test_safe_path(self, write: Write) -> None:
        """In Python's safe-path mode the current directory is not importable."""
        result = run_python("-P", "-m", "eventbus", "describe", f"{write()}:bus")
        assert result.returncode == 2
        assert "no module named" in result.stderr

    @pytest.mark.parametrize("missing", ["typer", "rich", "uvicorn", "httpx2", "cryptography"])
    def test_without_the_extra(self, missing: str) -> None:
        """Without a package of the extra, the command names the extra, and exits with 2."""
        result = run_python("-c", START.format(missing), "demo")
        assert (result.returncode, result.stdout) == (2, "")
        assert "pip install 'eventbus[cli]'" in result.stderr
        assert "Traceback" not in result.stderr

    def test_another_missing_module(self) -> None:
        """Any other module that is missing is not taken for the extra."""
        result = run_python("-c", START.format("eventbus.cli._feed"))
        assert result.returncode == 1
        assert "eventbus[cli]" not in result.stderr

    @pytest.mark.posix
    def test_interrupt(self, write: Write) -> None:
        """Ctrl-C ends a run that waits for input: statistics, a word, and status 130."""
        name = write("""
            from eventbus import EventBus
            bus = EventBus()
            @bus.on("**")
            def tell(event):
                print("handled", flush=True)
        """)
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTIBLE, "run", f"{name}:bus", "--from", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdin.write(b'{"type": "invoice.paid"}\n')
            process.stdin.flush()
            assert process.stdout.readline() == b"handled\n"
            process.send_signal(signal.SIGINT)
            out, err = process.stdout.read().decode(), process.stderr.read().decode()
            assert process.wait() == 130
        assert statistics(out)["tell"]["handled"] == 1
        assert err == "eventbus: interrupted; the rest of the input was not published\n"


# What a shell runs in the background ignores Ctrl-C, and so does all that is run from there.
INTERRUPTIBLE = """
import signal
from eventbus.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""

START = """
import sys
sys.modules["{}"] = None
from eventbus.__main__ import main
main()
"""
