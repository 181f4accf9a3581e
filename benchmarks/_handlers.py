"""The handlers that every contender runs: the same work for all, each a function of its own.

A function of its own, because several peers call one that is registered twice only once. Django
passes everything by keyword, so each kind has a twin that takes keywords and is no dearer than
Django asks for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

Handler = Callable[..., Any]
Kind = Literal["async", "def", "turn", "sleep"]
"""``async``, ``def``: does nothing. ``turn``: waits one turn of the loop. ``sleep``: waits."""

PAUSE = 0.01
"""Seconds for which a ``sleep`` handler waits."""


def make_handler(kind: Kind) -> Handler:
    """A new handler that is called with the event alone."""

    async def do_nothing(event: Any) -> None:
        pass

    def do_nothing_at_once(event: Any) -> None:
        pass

    async def turn(event: Any) -> None:
        await asyncio.sleep(0)

    async def sleep(event: Any) -> None:
        await asyncio.sleep(PAUSE)

    return {"async": do_nothing, "def": do_nothing_at_once, "turn": turn, "sleep": sleep}[kind]


def make_keyword_handler(kind: Kind) -> Handler:
    """The same, called with keywords alone."""

    async def do_nothing(**event: Any) -> None:
        pass

    def do_nothing_at_once(**event: Any) -> None:
        pass

    async def turn(**event: Any) -> None:
        await asyncio.sleep(0)

    async def sleep(**event: Any) -> None:
        await asyncio.sleep(PAUSE)

    return {"async": do_nothing, "def": do_nothing_at_once, "turn": turn, "sleep": sleep}[kind]


def make_counter(kind: Kind, calls: list[object]) -> Handler:
    """A handler, called either way, that notes each call once its work is done."""
    if kind == "def":
        return lambda *event, **named: calls.append(None)

    async def count(*event: Any, **named: Any) -> None:
        await asyncio.sleep(0)
        calls.append(None)

    return count
