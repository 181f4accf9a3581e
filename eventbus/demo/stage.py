"""Shows what happens on a bus, as it happens: a hook that prints.

On a terminal, lines scroll by in colour above a table of the subscriptions that counts along.
Elsewhere the same lines are plain text.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from eventbus.instrumentation import Hook, LogLine

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from eventbus.bus import EventBus
    from eventbus.dead_letters import DeadLetter
    from eventbus.event import Event, RunningDelivery
    from eventbus.outcome import Outcome
    from eventbus.testing import SignedRequest

__all__ = ["Stage"]

FRAME: Final = 0.04
"""Seconds from a change until the board shows it."""

PAUSE: Final = 0.3
"""Seconds to look at a new scene, on a terminal."""

WIDTH: Final = 100
"""Nothing is drawn wider than this, in columns. Plain lines are as long as they are."""

SIGNS: Final = {"http": "⇢", "event": "▶", "handled": "✓", "retry": "↻", "failed": "✗", "run": "●"}
PLAIN_SIGNS: Final = {
    "http": "=",
    "event": ">",
    "handled": "+",
    "retry": "~",
    "failed": "!",
    "run": "*",
}
"""For encodings that lack the former."""

STYLES: Final = {
    "http": "blue",
    "event": "bold cyan",
    "handled": "green",
    "retry": "yellow",
    "failed": "bold red",
}


@dataclass(slots=True)
class Seen:
    """What is known of an event of the story, for the tree at the end."""

    event: Event[Any]
    depth: int
    handled: int = 0
    failed: int = 0


class Stage(Hook):
    """Shows one performance of one bus on one console. A context manager."""

    def __init__(self, console: Console, bus: EventBus) -> None:
        self._console = console
        self._bus = bus
        self._seen: dict[str, Seen] = {}
        self._running: dict[str, int] = {}
        self._errors: dict[tuple[str, str], BaseException] = {}
        self._started = time.monotonic()
        self._scenes = 0
        self._signs = SIGNS if console.encoding.lower().startswith("utf") else PLAIN_SIGNS
        # Drawn by hand, after changes: a thread that draws would look while the bus counts.
        self._drawing: asyncio.TimerHandle | None = None
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    # What the story says.

    def scene(self, title: str, text: str) -> None:
        """A new chapter."""
        self._scenes += 1
        heading = f"{self._scenes}. {title}"
        self._print()
        if self._console.is_terminal:
            self._print(Rule(Text(heading, style="bold magenta"), align="left", style="magenta"))
            self._print(Text(text, style="italic"))
        else:
            self._print(Text(f"== {heading} =="))
            self._print(Text(textwrap.fill(text, 80)))

    def request(self, request: SignedRequest) -> None:
        """A request as it comes in. What is different each time is told in words."""
        words = {
            b"x-component-sig": "0x… (Ed25519, over SHA3-256 of body, method, path and times)",
            b"x-component-sig-iat": "… (when it was signed)",
            b"x-component-sig-exp": "… (300 s later)",
        }
        lines = [
            f"{request.method} {request.target} HTTP/1.1",
            *(
                f"{name.decode()}: {words.get(name) or text.decode()}"
                for name, text in request.headers
            ),
            "",
            json.dumps(json.loads(request.body), indent=2),
        ]
        self._box("\n".join(lines), "http", "Payment Kit sends")

    def posted(self, request: SignedRequest, who: str) -> None:
        """A request goes over the network."""
        self._line(0, "http", f"{request.method} {request.target}", who)

    def answered(self, answer: str) -> None:
        """What was answered."""
        status, _, text = answer.partition(" ")
        self._line(1, "handled" if status == "200" else "failed", f"HTTP {status}", text)

    def code(self, handler: Callable[..., Any]) -> None:
        """The source of a handler, if it is there to be read."""
        try:
            source = inspect.getsource(handler)
        except OSError:
            return
        name = handler.__name__
        self._box(textwrap.dedent(source).rstrip(), "python", f"the code of {name}")

    def letter(self, letter: DeadLetter) -> None:
        """A dead letter that is about to be delivered again."""
        self._line(0, "event", letter.event.type, f"again, to {letter.subscription} alone")

    async def pause(self) -> None:
        """Time to look, for those who watch."""
        self._print()
        if self._console.is_terminal:
            await asyncio.sleep(PAUSE)

    def finish(self) -> None:
        """The tree of causes, the accounts, and what to do next."""
        self._live.stop()
        self._heading("What caused what")
        self._print(*self._trees())
        self._heading("The accounts")
        from eventbus.cli._show import accounts

        self._print(accounts(self._bus))
        s = self._bus.statistics()
        self._print()
        self._print(
            Text(
                f"{s.accepted} accepted = {s.handled} handled + {s.failed} failed + {s.dropped} "
                f"dropped + {s.cancelled} cancelled + {s.pending} pending"
            )
        )
        self._print(
            Text(
                f"{s.events} events. Those that failed for good were kept as dead letters and "
                f"delivered again: {len(self._bus.dead_letters)} are left."
            )
        )
        self._heading("Look around")
        for command in (
            "eventbus describe eventbus.demo.shop:bus",
            "eventbus explain eventbus.demo.shop:bus invoice.paid",
            "eventbus catalog 'customer.subscription.*'",
        ):
            self._print(Text(f"  {command}", style="cyan"))

    # What the bus tells.

    def accepted(self, event: Event[Any], deliveries: int) -> None:
        """Announce an event, and where it stands among those that caused it."""
        if event.id in self._seen:
            return  # delivered again: announced already
        cause = None if event.cause is None else self._seen[event.cause]
        seen = Seen(event, 0 if cause is None else cause.depth + 1)
        self._seen[event.id] = seen
        names = ", ".join(each.subscription for each in self._bus.explain(event.type).reached)
        self._line(seen.depth, "event", event.type, f"to {names}")

    def attempt_started(self, event: Event[Any], delivery: RunningDelivery) -> None:
        """Count who runs."""
        name = delivery.subscription
        self._running[name] = self._running.get(name, 0) + 1
        self._draw()

    def attempt_ended(
        self, event: Event[Any], delivery: RunningDelivery, error: BaseException | None
    ) -> None:
        """Count who runs, and keep the error for the line about the retry."""
        self._running[delivery.subscription] -= 1
        if error is not None:
            self._errors[event.id, delivery.subscription] = error
        self._draw()

    def delivery_ended(self, event: Event[Any], outcome: Outcome) -> None:
        """Tell how it ended."""
        seen = self._seen[event.id]
        if outcome.status == "handled":
            seen.handled += 1
            if outcome.result is not None:
                after = f" (attempt {outcome.attempts})" if outcome.attempts > 1 else ""
                text = f"{outcome.result}{after}"
                self._line(seen.depth + 1, "handled", outcome.subscription, text)
        else:
            seen.failed += 1
            what = f"{type(outcome.error).__name__}: {outcome.error}"
            self._line(seen.depth + 1, "failed", outcome.subscription, f"{what}: a dead letter")
        self._draw()

    def log(self, line: LogLine) -> None:
        """Tell of a retry."""
        if line.name != "delivery.retrying":
            return
        event_id, name = line.fields["event_id"], line.fields["subscription"]
        error = self._errors.get((event_id, name))
        what = f"{type(error).__name__}: {error}"
        text = f"{what}, attempt {line.fields['attempt']}; again in {line.fields['pause']:.1f} s"
        self._line(self._seen[event_id].depth + 1, "retry", name, text)

    # How it looks.

    def _line(self, depth: int, sign: str, name: str, text: str) -> None:
        seconds = time.monotonic() - self._started
        is_event = sign in {"event", "http"}
        width = 36 - 2 * depth if is_event else 19
        head = Text.assemble(
            (f"{seconds:5.2f} s  ", "dim"),
            "  " * depth,
            (f"{self._signs[sign]} ", STYLES[sign]),
            (f"{name:<{width}} ", "bold cyan" if is_event else "bold"),
        )
        tail = Text(text, style={"retry": "yellow", "failed": "red", "event": "dim"}.get(sign, ""))
        if not self._console.is_terminal:
            self._print(head + tail)
            return
        # Two columns, so that a long text goes on below where it began.
        row = Table.grid()
        row.add_column(no_wrap=True)
        row.add_column(overflow="fold")
        row.add_row(head, tail)
        self._print(row)

    def _box(self, text: str, language: str, title: str) -> None:
        if self._console.is_terminal:
            syntax = Syntax(text, language, background_color="default", word_wrap=True)
            self._print(Panel(syntax, title=title, title_align="left", border_style="dim"))
        else:
            self._print()
            self._print(Text(f"  {title}:"))
            self._print(Text(textwrap.indent(text, "    | ")))

    def _heading(self, text: str) -> None:
        self._print()
        if self._console.is_terminal:
            self._print(Rule(Text(text, style="bold magenta"), align="left", style="magenta"))
        else:
            self._print(Text(f"== {text} =="))

    def _print(self, *what: RenderableType) -> None:
        if not self._console.is_terminal:
            self._console.print(*what)
            return
        width = min(self._console.width, WIDTH)
        for each in what or ("",):
            self._console.print(each, width=width)

    def _draw(self) -> None:
        """Draw the board a little later, once for all that changes until then."""
        if self._live.is_started and self._drawing is None:
            self._drawing = asyncio.get_running_loop().call_later(FRAME, self._draw_now)

    def _draw_now(self) -> None:
        self._drawing = None
        if self._live.is_started:
            self._live.update(self._board(), refresh=True)

    def _board(self) -> RenderableType:
        """Who does what right now."""
        table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
        table.add_column("subscription")
        for name in ("running", "queued", "handled", "failed"):
            table.add_column(name, justify="right")
        for each in self._bus.subscriptions:
            s = each.statistics()
            running = self._running.get(each.name, 0)
            table.add_row(
                Text(each.name, style="bold" if running or s.pending else ""),
                Text(self._signs["run"] * running, style="cyan"),
                Text(str(max(s.pending - running, 0) or ""), style="yellow"),
                Text(str(s.handled), style="green" if s.handled else "dim"),
                Text(str(s.failed), style="red" if s.failed else "dim"),
            )
        rule = Rule(Text("the bus right now", style="dim"), align="left", style="dim")
        return Group("", rule, Padding(table, (0, 0, 0, 2), expand=False))

    def _trees(self) -> list[Tree]:
        """A tree for each root, of the events that it caused."""
        nodes: dict[str, Tree] = {}
        roots: list[Tree] = []
        for seen in self._seen.values():
            cause = seen.event.cause
            if cause is None:
                node = Tree(self._label(seen), guide_style="dim")
                roots.append(node)
            else:
                node = nodes[cause].add(self._label(seen))
            nodes[seen.event.id] = node
        return roots

    def _label(self, seen: Seen) -> Text:
        label = Text.assemble((seen.event.type, "cyan"), f"  {seen.event.subject or ''}  ")
        label.append(f"{seen.handled} handled", "green")
        if seen.failed:
            label.append(f", {seen.failed} failed at first", "red")
        return label
