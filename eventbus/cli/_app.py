"""The commands. Exit status: 0, or 1 if something failed, 2 for wrong usage, 130 after Ctrl-C."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventbus.cli import _show
from eventbus.cli._common import FAILED, INTERRUPTED, Target, load, opened, refuse
from eventbus.cli._feed import Feed
from eventbus.cli._webhook import webhook
from eventbus.errors import BusClosed, PatternError, TopicError
from eventbus.payment_kit import PAYMENT_KIT

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.cli._feed import Source

__all__ = ["app"]

app = typer.Typer(
    name="eventbus",
    help="An event bus inside one asyncio application: look at a bus, feed it, see a demo.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(webhook)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.callback(invoke_without_command=True)
def prepare(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name that the encoding lacks is no failure
    if version:
        from eventbus import __version__

        typer.echo(f"eventbus {__version__}")
        raise typer.Exit


@app.command(short_help="Watch a small shop at work: a few seconds.")
def demo() -> None:
    """Watch a small shop handle Payment Kit's events: the life of a subscription, in seconds."""
    from eventbus.demo.story import tell

    asyncio.run(tell(_show.make_console()))


@app.command(short_help="Publish a file of events into a bus.")
def run(
    target: Target,
    source: Annotated[
        str,
        typer.Option("--from", metavar="FILE", help="A file of JSON lines; - is standard input."),
    ],
    stop_on_error: Annotated[
        bool, typer.Option("--stop-on-error", help="Read no further after a bad line.")
    ] = False,
) -> None:
    """Publish a file of events into a bus, wait until all is handled, and print the statistics.

    Each line is a JSON object with "type" and "data", and optionally "id", "source", "time" (ISO
    8601 with a time zone), "subject" and "attributes". A bad line is reported with its number on
    standard error, and the rest goes on.

    The exit status is 0; 1 if a delivery failed or a line was bad (dropped and cancelled deliveries
    are counted, and are no failures); 2 for wrong usage; 130 after Ctrl-C, which gives running
    handlers two seconds.
    """
    bus = load(target)
    with opened(source) as (file, size):
        raise typer.Exit(_run(bus, source, file, size, stop_on_error=stop_on_error))


@app.command(short_help="Say who listens to what on a bus.")
def describe(target: Target, json: AsJson = False) -> None:
    """Say who listens to what on a bus, written and registered where, with what options."""
    bus = load(target)
    infos = bus.describe()
    if json:
        typer.echo(_show.as_json([_shallow(info) for info in infos]))
    else:
        _show.show_subscriptions(_show.make_console(), bus, infos)


@app.command(short_help="Say whom a topic reaches on a bus.")
def explain(
    target: Target,
    topic: Annotated[str, typer.Argument(help="A topic, for example invoice.paid.")],
    json: AsJson = False,
) -> None:
    """Say whom an event on a topic would reach, through which pattern, and who just misses it."""
    bus = load(target)
    try:
        explanation = bus.explain(topic)
    except TopicError as error:
        refuse(str(error))
    if json:
        typer.echo(_show.as_json(dataclasses.asdict(explanation)))
    else:
        _show.show_explanation(_show.make_console(), explanation)


@app.command(short_help="List Payment Kit's topics.")
def catalog(
    pattern: Annotated[
        str,
        typer.Argument(metavar="[NAME-PATTERN]", help="For example customer.subscription.*"),
    ] = "**",
    json: AsJson = False,
) -> None:
    """List Payment Kit's topics. The exit status is 1 if the pattern matches none."""
    try:
        topics = PAYMENT_KIT.matching(pattern)
    except PatternError as error:
        refuse(str(error))
    if json:
        found = [{"name": topic.name, "description": topic.description} for topic in topics]
        typer.echo(_show.as_json(found))
    elif topics:
        _show.show_catalog(_show.make_console(), topics)
    if not topics:
        hint = PAYMENT_KIT.did_you_mean(pattern)
        typer.echo(f"eventbus: no topic of Payment Kit matches {pattern!r}.{hint}", err=True)
        raise typer.Exit(FAILED)


def _run(bus: EventBus, name: str, file: Source, size: int | None, *, stop_on_error: bool) -> int:
    """Feed the file through the bus and print what came of it. Returns the exit status."""
    console = _show.make_console(stderr=True)
    problem = ""
    started = time.monotonic()
    progress = _show.make_progress(console)
    # Older versions of rich end even a disabled bar with an empty line: off a terminal, no begin.
    with nullcontext() if progress.disable else progress:
        bar = progress.add_task(name, total=size, events=0)

        def complain(number: int, text: str) -> None:
            console.print(f"line {number}: {text}", style="red", soft_wrap=True)

        def tick(feed: Feed) -> None:
            progress.update(bar, completed=feed.bytes_read, events=feed.published)

        feed = Feed(bus, file, complain, tick, stop_on_error)
        try:
            asyncio.run(feed.run())
        except KeyboardInterrupt:
            feed.interrupted = True
        except SystemExit as error:
            problem = f"a handler raised SystemExit({error.code!r})"
            feed.interrupted = False  # by that, and not by Ctrl-C
        except BusClosed:
            problem = "the application closed its bus: the rest was not published"
        except OSError as error:
            problem = f"cannot read {name}: {error}"
    _show_end(bus, feed, name, time.monotonic() - started)
    if problem:
        typer.echo(f"eventbus: {problem}", err=True)
    if feed.interrupted:
        typer.echo("eventbus: interrupted; the rest of the input was not published", err=True)
        return INTERRUPTED
    return FAILED if problem or feed.bad or bus.statistics().failed else 0


def _show_end(bus: EventBus, feed: Feed, name: str, seconds: float) -> None:
    totals = bus.statistics()
    where = "standard input" if name == "-" else name
    speed = f"{feed.published / seconds:,.0f} a second" if seconds else "at once"
    nested = totals.events - feed.published
    console = _show.make_console()
    console.print(
        f"{feed.published:,} events from {where} in {seconds:.2f} s ({speed}), "
        f"{feed.bad:,} bad lines.\n{nested:,} more were published by handlers. "
        f"{totals.unhandled:,} reached nobody.",
        soft_wrap=True,
    )
    console.print()
    console.print(_show.accounts(bus))


def _shallow(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, as they are: ``asdict`` would copy what the options hold."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
