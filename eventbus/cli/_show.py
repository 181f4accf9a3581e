"""Prints what the commands found: for people, coloured on a terminal only, or as JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from eventbus._handler import describe_callable, locate_callable

if TYPE_CHECKING:
    from eventbus._introspection import Explanation, SubscriptionInfo
    from eventbus.bus import EventBus
    from eventbus.topics import Topic

__all__ = [
    "accounts",
    "as_json",
    "make_console",
    "make_progress",
    "show_answers",
    "show_catalog",
    "show_explanation",
    "show_subscriptions",
]

ENDS = ("accepted", "handled", "failed", "dropped", "cancelled", "pending")


def make_console(*, stderr: bool = False) -> Console:
    """A console that colours on terminals, and elsewhere neither colours nor breaks lines."""
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 10_000
    return console


def make_progress(console: Console) -> Progress:
    """The bar of ``run``: bytes if the size is known, events, time. Invisible off a terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TextColumn("{task.fields[events]:,} events"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        # What handlers print on a terminal goes above the bar; what is piped elsewhere stays there.
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=sys.stderr.isatty(),
    )


def as_json(value: object) -> str:
    """JSON for programs: ASCII alone, so that any terminal's encoding takes it."""
    return json.dumps(value, indent=2, default=_plain)


def _plain(value: object) -> str:
    if callable(value):
        return f"{describe_callable(value)} ({_near(locate_callable(value))})"
    return repr(value)


def accounts(bus: EventBus) -> Table:
    """How the deliveries ended, by subscription and in all."""
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    table.add_column("deliveries to", overflow="fold")
    for name in ENDS:
        table.add_column(name, justify="right")
    totals = _values(bus.statistics())
    left = totals
    for each in bus.subscriptions:
        values = _values(each.statistics())
        table.add_row(Text(each.name), *_cells(values))
        left = [rest - value for rest, value in zip(left, values, strict=True)]
    if any(left):
        table.add_row(Text("(those that have left)"), *_cells(left))
    table.add_row(Text("in all"), *_cells(totals), style="bold")
    return table


def _values(statistics: Any) -> list[int]:
    return [getattr(statistics, name) for name in ENDS]


def _cells(values: list[int]) -> list[Text]:
    styles = {"failed": "red", "dropped": "yellow", "cancelled": "yellow", "handled": "green"}
    return [
        Text(f"{value:,}", style=styles.get(name, "") if value else "dim")
        for name, value in zip(ENDS, values, strict=True)
    ]


def show_answers(console: Console, answers: Mapping[str, int], seconds: float) -> None:
    """How often each answer came."""
    total = sum(answers.values())
    speed = f"{total / seconds:,.0f} a second" if seconds else "at once"
    console.print(f"{total:,} events posted in {seconds:.2f} s ({speed}).", soft_wrap=True)
    if not answers:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    table.add_column("answer", overflow="fold")
    table.add_column("events", justify="right")
    for said, count in sorted(answers.items()):
        table.add_row(Text(said, style="green" if said.startswith("2") else "red"), f"{count:,}")
    console.print()
    console.print(table)


def show_subscriptions(console: Console, bus: EventBus, infos: Iterable[SubscriptionInfo]) -> None:
    """A paragraph for each subscription."""
    infos = list(infos)
    console.print(Text.assemble((bus.name, "bold"), f": {len(infos)} subscriptions"))
    for info in infos:
        console.print()
        console.print(Text(info.name, style="bold cyan"))
        _show_field(console, "listens to", ", ".join(info.patterns))
        if info.options:
            options = (f"{name}={_option(value)}" for name, value in info.options.items())
            _show_field(console, "options", ", ".join(options))
        _show_field(console, "handler", _near(info.handler) or "(a stream)")
        if not info.registered.startswith("<"):  # code without a file
            _show_field(console, "registered", _near(info.registered))


def _show_field(console: Console, name: str, value: str) -> None:
    console.print(Text.assemble((f"  {name:<12}", "dim"), value), soft_wrap=True)


def _option(value: object) -> str:
    return _plain(value) if callable(value) else repr(value)


def _near(location: str) -> str:
    """The location, from the current directory if it lies below."""
    here = os.path.join(os.getcwd(), "")
    return location.removeprefix(here)


def show_explanation(console: Console, explanation: Explanation) -> None:
    """Whom a topic reaches, through which pattern, and who just misses it."""
    known = explanation.known is not False
    note = "" if known else f" (not in the catalogue){explanation.suggestion}"
    console.print(Text.assemble((explanation.topic, "bold"), (note, "yellow")), soft_wrap=True)
    for reached in explanation.reached:
        who = (reached.subscription, "bold cyan")
        way = str(reached).removeprefix(reached.subscription)
        line = Text.assemble("  ", ("reaches", "green"), " ", who, way)
        console.print(line, soft_wrap=True)
    if not explanation.reached:
        console.print(Text("  reaches nobody", style="yellow"))
    for miss in explanation.near_misses:
        who = (miss.subscription, "bold")
        line = Text.assemble("  ", ("misses", "yellow"), " ", who, f": {miss.pattern} {miss.why}")
        console.print(line, soft_wrap=True)


def show_catalog(console: Console, topics: list[Topic[Any]]) -> None:
    """A line for each topic: its name and its description."""
    width = max(len(topic.name) for topic in topics)
    for topic in topics:
        name = f"{topic.name:<{width}}"
        console.print(Text.assemble((name, "cyan"), "  ", topic.description), soft_wrap=True)
