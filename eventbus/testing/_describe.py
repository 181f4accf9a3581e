"""What the kit says when something is not as a test wants it: events, tasks, what is pending.

Here payloads are shown, shortened: a test's own data, in a test's own failure.
"""

from __future__ import annotations

import asyncio
import os
import reprlib
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio

import eventbus
from eventbus._drivers import drive
from eventbus._threads import _carry

if TYPE_CHECKING:
    from eventbus import Event, EventBus
    from eventbus._delivery import Delivery
    from eventbus.receipt import Receipt

MOST_LINES: Final = 40
"""Longer lists are cut, and say how much is missing."""

_OURS: Final = str(Path(eventbus.__file__).parent) + os.sep
_LIBRARIES: Final = (
    _OURS,
    str(Path(anyio.__file__).parent) + os.sep,
    *(str(Path(sysconfig.get_path(each))) + os.sep for each in ("stdlib", "purelib", "platlib")),
)

_shortened = reprlib.Repr()
_shortened.maxstring = 60
_shortened.maxother = 120
_shortened.maxdict = _shortened.maxlist = 6
_long = reprlib.Repr()
_long.maxother = 400


def show_event(event: Event[Any]) -> str:
    """One event on one line, its data shortened."""
    return event.type if event.data is None else f"{event.type}  {show_value(event.data)}"


def show_value(value: object) -> str:
    """Any value on one line, shortened, whatever its ``repr`` does."""
    return " ".join(_shortened.repr(value).splitlines())


def show_error(error: BaseException) -> str:
    """An error on one line, whatever its ``repr`` does."""
    return " ".join(_long.repr(error).splitlines())


def times(count: int) -> str:
    """How often."""
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def number(count: int, noun: str) -> str:
    """How many of what."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def cut(lines: Iterable[str], indent: str = "  ") -> str:
    """Lines below each other, at most `MOST_LINES` of them."""
    lines = list(lines)
    shown = [indent + line for line in lines[:MOST_LINES]]
    if len(lines) > MOST_LINES:
        shown.append(f"{indent}… and {len(lines) - MOST_LINES} more")
    return "\n".join(shown)


def cut_list(words: list[str], most: int = 5) -> str:
    """Words in a row, at most so many."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


# ---- Where code waits


def where_waiting(awaitable: Any) -> str:
    """Where a coroutine waits: ``file:line in function, in Lock.acquire``.

    That is the innermost line of the application's; without one, of whatever is not the bus's.
    """
    stack = list(frames(awaitable))
    for apart in (_LIBRARIES, (_OURS,)):
        places = [
            index
            for index, frame in enumerate(stack)
            if not frame.f_code.co_filename.startswith(apart)
        ]
        if places:
            frame = stack[places[-1]]
            at = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"
            inside = stack[places[-1] + 1 :][:1]
            return at + "".join(f", in {each.f_code.co_qualname}" for each in inside)
    return "outside of Python code that can be seen"


def frames(awaitable: Any) -> Iterator[FrameType]:
    """The frames of a suspended coroutine, the outermost first."""
    while True:
        if isinstance(frame := getattr(awaitable, "cr_frame", None), FrameType):
            awaitable = awaitable.cr_await
        elif isinstance(frame := getattr(awaitable, "gi_frame", None), FrameType):
            awaitable = awaitable.gi_yieldfrom
            if frame.f_code is _DRIVES:  # it passes on what its driver yields, and awaits nothing
                awaitable = frame.f_locals["driver"]
        else:
            return
        yield frame


_DRIVES: Final = drive.__code__
_CARRIES: Final = _carry.__code__


def show_task(task: asyncio.Task[Any]) -> str:
    """One task on one line: its name, what it runs, and where that waits."""
    coroutine = task.get_coro()
    frame = getattr(coroutine, "cr_frame", None)
    if isinstance(frame, FrameType) and frame.f_code is _CARRIES:
        delivery = frame.f_locals["delivery"]
        handler, event = delivery.owner._describe(), show_event(delivery.event)
        return f"{handler} is still at work in its thread, at {event}"
    name = getattr(coroutine, "__qualname__", repr(coroutine))
    return f"{task.get_name()} ({name}) waits at {where_waiting(coroutine)}"


# ---- What is pending


def show_pending(bus: EventBus) -> list[str]:
    """What a bus has not finished: handlers that run, and how much is queued for whom."""
    lines = []
    for subscription in bus._all_subscriptions():
        if subscription._reader is not None:
            continue
        lines += [
            f"{subscription._describe()} {_doing(bus, delivery)}"
            for delivery in subscription._running_deliveries()
        ]
        if subscription._queue:
            first = next(iter(subscription._queue)).event
            lines.append(
                f"{subscription._describe()} has {len(subscription._queue)} queued, "
                f"first {show_event(first)}"
            )
    lines += [
        f"a publisher of {show_event(ticket.receipt.event)} waits for room in the queue of "
        f"{'nobody' if ticket.blocked_by is None else ticket.blocked_by.name}"
        for ticket in bus._tickets.values()
    ]
    return lines


def _doing(bus: EventBus, delivery: Delivery) -> str:
    seconds = bus._clock.monotonic() - delivery.started
    about = f"{show_event(delivery.event)}, for {seconds:.3g} s by the bus's clock"
    work = delivery.work
    if work is None:
        return f"is running attempt {delivery.attempt} at {about}"
    if work.awaits_thread:
        return f"waits for a free thread, to handle {about}"
    if work.in_thread:
        return f"runs in a thread, handling {about}"
    if work.resume is not None:
        return f"pauses before attempt {delivery.attempt + 1} at {about}"
    if work.task is None:
        return f"is about to run attempt {delivery.attempt + 1} at {about}"
    return f"handles {about}; it waits at {where_waiting(work.task.get_coro())}"


# ---- Who caused what


def show_tree(receipts: Iterable[Receipt], focus: Receipt) -> str:
    """The cascade that a publication belongs to, one line an event, itself marked.

    Only what was written down is shown; the causes of the first may be older. Of a long one, the
    marked line's own causes are shown first of all.
    """
    lines = _tree(receipts, focus)
    marked = next(index for index, line in enumerate(lines) if line.receipt is focus)
    chain, depth = [marked], lines[marked].depth
    for index in range(marked - 1, -1, -1):
        if lines[index].depth < depth:
            chain.append(index)
            depth = lines[index].depth
    first = dict.fromkeys([*chain[:MOST_LINES], *range(len(lines))])
    shown = sorted(list(first)[:MOST_LINES])
    left_out = f"\n  … and {len(lines) - len(shown)} more" if len(lines) > len(shown) else ""
    return cut(lines[index].text for index in shown) + left_out


class _Line(NamedTuple):
    receipt: Receipt
    depth: int
    text: str


def _tree(receipts: Iterable[Receipt], focus: Receipt) -> list[_Line]:
    root = focus.event.root
    family = [each for each in receipts if root in (each.event.root, each.event.id)]
    if focus not in family:  # it was published before anybody looked, or too long ago
        family.insert(0, focus)
    known = {each.event.id for each in family}
    children: dict[str | None, list[Receipt]] = {}
    for each in family:
        cause = each.event.cause if each.event.cause in known else None
        children.setdefault(cause, []).append(each)
    lines: list[_Line] = []
    shown: set[Receipt] = set()
    for first in [*children.get(None, []), *family]:  # ids may be the application's, and go round
        todo = [(first, 0)]
        while todo:
            each, depth = todo.pop()
            if each not in shown:
                shown.add(each)
                mark = "   <-- here" if each is focus else ""
                again = "  (redelivered)" if each._redelivered else ""
                indent = "   " * min(depth, _MOST_INDENTED)
                text = f"{indent}{show_event(each.event)}{again}{_ends(each)}{mark}"
                lines.append(_Line(each, depth, text))
                nested = children.get(each.event.id, [])
                todo += [(child, depth + 1) for child in reversed(nested)]
    return lines


_MOST_INDENTED: Final = 20


def _ends(receipt: Receipt) -> str:
    """What became of the deliveries of an event."""
    ended = {delivery.owner: str(delivery.status) for delivery in receipt._ended}
    ends = [f"{each.name} {ended.get(each, 'pending')}" for each in receipt._subscriptions]
    return f"  -> {cut_list(ends)}" if ends else ""
