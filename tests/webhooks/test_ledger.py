"""What is told of requests: the table of log events, and what of it is left out."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, NamedTuple

import eventbus.webhooks._ledger
from eventbus import EventBus
from eventbus.testing import FakeClock
from eventbus.webhooks.app import WebhookApp
from eventbus.webhooks.receiver import Receiver
from tests.helpers import LogLines
from tests.webhooks.client import NOW, SCHEME, post, request
from tests.webhooks.test_receiver import SlowStore, Ugly

PACKAGE = Path(eventbus.webhooks._ledger.__file__).parent
README = PACKAGE.parent.parent / "README.md"


class Row(NamedTuple):
    """A row of the table in the docstring of _ledger.py."""

    level: str
    always: set[str]
    sometimes: set[str]
    traceback: bool


def names(text: str) -> set[str]:
    return set(re.findall(r"[a-z_0-9]+", text))


def documented_lines() -> dict[str, Row]:
    doc = re.sub(r"\n {10,}", " ", eventbus.webhooks._ledger.__doc__ or "")
    rows = {}
    for line in doc.splitlines():
        found = re.match(
            r"``(webhook\.[a-z]+)`` +(warning|error) +([^;]+)(?:; some: (.*))?(; traceback)?", line
        )
        if found:
            rows[found[1]] = Row(
                found[2], names(found[3]), names(found[4] or ""), "traceback" in line
            )
    return rows


def test_the_table_names_what_the_code_writes() -> None:
    """The docstring and the README list the log events of webhooks, no more and no less."""
    written = {
        node.value
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"webhook\.[a-z]+", node.value)
    }
    assert written == set(documented_lines())
    text = README.read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(webhook\.[a-z]+)` \|", text, re.MULTILINE))
    assert listed == written


async def test_every_line_is_written_as_the_table_says() -> None:
    """Level, fields and traceback of each; all of them were provoked, and none besides."""
    lines = LogLines()
    bus = EventBus(clock=FakeClock(NOW, autojump=0.01), hooks=[lines])

    @bus.on("**")
    async def fails(event: Any) -> None:
        raise LookupError

    receivers = {
        "/hook": Receiver(bus, SCHEME, ack="handled"),
        "/ugly": Receiver(bus, Ugly(), name="ugly"),
        "/down": Receiver(bus, SCHEME, replay=SlowStore(fails="done")),
    }
    app = WebhookApp(receivers)
    async with bus:
        for target in receivers:
            await post(app, request(target=target))
        await post(app, request(time=NOW - 301))
    rows = documented_lines()
    found = [line for line in lines.lines if line.name.startswith("webhook.")]
    assert {line.name for line in found} == set(rows)
    for line in found:
        row = rows[line.name]
        assert line.level == row.level
        assert row.always | {"bus"} <= set(line.fields) <= row.always | row.sometimes | {"bus"}
        assert (line.error is not None) == row.traceback
    seen = {field for line in found for field in line.fields}
    assert rows["webhook.refused"].sometimes <= seen
