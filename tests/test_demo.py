"""The demo: what it shows, that it comes out even, and that it looks right anywhere."""

from __future__ import annotations

import asyncio
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import eventbus.demo
from eventbus import Event
from eventbus.cli._show import make_console
from eventbus.demo import shop, story
from eventbus.demo.stage import PLAIN_SIGNS, Stage


def run_demo(**variables: str) -> subprocess.CompletedProcess[str]:
    """The demo in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "eventbus", "demo"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(eventbus.demo.__file__).parents[2]),
            "PYTHONIOENCODING": "utf-8",
            **variables,
        },
    )


def without_times(text: str) -> str:
    return re.sub(r"\d+\.\d\d s|\"time\": \"[^\"]+\"", "?", text)


@pytest.fixture(scope="module")
def plain() -> subprocess.CompletedProcess[str]:
    """What the demo writes when it is not on a terminal."""
    return run_demo()


@pytest.fixture(scope="module")
def text(plain: subprocess.CompletedProcess[str]) -> str:
    return plain.stdout


def test_status(plain: subprocess.CompletedProcess[str]) -> None:
    """It ends well, and its failures, which are part of the show, are not in the log."""
    assert (plain.returncode, plain.stderr) == (0, "")


def test_plain_lines(text: str) -> None:
    """Off a terminal there is no control code."""
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)


def test_life_cycle(text: str) -> None:
    """The whole life of a subscription is told, in order."""
    facts = re.findall(r"▶ (\S+) +to ", text)
    cycle = [
        "created",
        "trial_start",
        "started",
        "trial_end",
        "renewed",
        "upgraded",
        "paused",
        "resumed",
        "deleted",
    ]
    told = [fact.removeprefix("customer.subscription.") for fact in facts]
    assert [fact for fact in told if fact in cycle] == cycle
    assert {"checkout.session.completed", "invoice.paid", "refund.succeeded"} < set(facts)


def test_order_of_nested_events(text: str) -> None:
    """A subscription handles nested events in the order in which they were published."""
    handled = re.findall(r"✓ membership +(\w+):", text)
    assert handled[:3] == ["created", "trial_start", "started"]


def test_retry(text: str) -> None:
    """One handler fails twice, is tried again, and succeeds."""
    lines = [line for line in text.splitlines() if "send_receipt  " in line]
    assert [line.partition("send_receipt")[2].strip() for line in lines[:3]] == [
        "ConnectionError: mail server is busy, attempt 1; again in 0.2 s",
        "ConnectionError: mail server is busy, attempt 2; again in 0.4 s",
        "mailed cus_ada: 9.90 paid (attempt 3)",
    ]


def test_failures(text: str) -> None:
    """One delivery fails for good, one times out; both are redelivered, and handled then."""
    assert re.search(r"✗ update_crm +ConnectionError: CRM is down: a dead letter", text)
    assert re.search(r"✗ tell_partner +HandlerTimeout: .*timeout=0\.4 s", text)
    morning = text[text.index("The morning after") :]
    assert "2 dead letters were kept" in morning
    assert "noted cus_ada: basic to pro" in morning
    assert "the partner knows: paused" in morning


def test_concurrency(text: str) -> None:
    """Three customers' invoices are drawn at once, and each customer's in order."""
    drawn = {
        number: float(seconds)
        for seconds, number in re.findall(r"([\d.]+) s +✓ draw_pdf +drew in_(\d)", text)
    }
    assert list(drawn) == ["1", "2", "3", "4", "5"]
    # One after the other, three would take 0.7 s from the first to the last.
    assert drawn["4"] - drawn["2"] < 0.69
    assert drawn["5"] - drawn["2"] > 0.3


def test_code(text: str) -> None:
    """It shows the code of two of its handlers, and a payload of Payment Kit."""
    assert '    | @bus.on("checkout.session.completed")\n' in text
    assert "    | async def send_receipt(event: Event[Change[Invoice]]) -> str:\n" in text
    assert f'    |   "source": "{shop.PAYMENT_KIT_DID}",\n' in text


def test_requests(text: str) -> None:
    """Events come in as signed requests over HTTP; a replay and a forgery reach nobody."""
    assert "    | POST /api/payment/callback HTTP/1.1\n" in text
    assert text.count("⇢ POST /api/payment/callback           signed by Payment Kit") == 12
    knock = text[text.index("Somebody else at the door") : text.index("The morning after")]
    assert re.findall(r"[✓✗] HTTP (\d+) +(.*)", knock) == [
        ("200", '{"duplicate":true}'),
        ("401", '{"error":"verify sig failed"}'),
    ]
    assert "▶" not in knock


def test_causation(text: str) -> None:
    """It ends with the tree of what caused what."""
    tree = text[text.index("What caused what") :].splitlines()
    assert tree[1:5] == [
        "checkout.session.completed  cs_7  2 handled",
        "├── customer.subscription.created  sub_ada  3 handled",
        "│   └── customer.subscription.started  sub_ada  2 handled",
        "└── customer.subscription.trial_start  sub_ada  2 handled",
    ]


def test_accounts(text: str) -> None:
    """It ends with statistics that add up, and no dead letter is left."""
    found = re.search(r"(\d+) accepted = (\d+) handled \+ (\d+) failed \+ .* \+ 0 pending", text)
    assert found is not None
    accepted, handled, failed = map(int, found.groups())
    assert (accepted, failed) == (handled + failed, 2)
    assert "16 events." in text
    assert "0 are left" in text


@pytest.mark.slow
def test_same_again(text: str) -> None:
    """It tells the same story every time, but for the times."""
    assert without_times(run_demo().stdout) == without_times(text)


def test_terminal() -> None:
    """On a terminal of 80 columns it is coloured, fits, and a table counts along."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, height=40, highlight=False)
    asyncio.run(story.tell(console))
    shown = file.getvalue()
    assert "\x1b[" in shown
    assert "the bus right now" in shown
    assert "the code of send_receipt" in shown
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= 80


async def test_signs_for_narrow_encodings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the encoding lacks the signs, ASCII stands for them."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", newline="\n")
    monkeypatch.setattr(sys, "stdout", file)
    stage = Stage(make_console(), shop.bus)
    stage.accepted(Event("refund.succeeded"), 2)
    file.flush()
    assert f" {PLAIN_SIGNS['event']} refund.succeeded" in raw.getvalue().decode("ascii")


def test_envelope() -> None:
    """The payload that is shown has the fields of Payment Kit's event bus."""
    envelope = story.payment_kit_event(story.SCENES[0].facts[0])
    assert list(envelope) == [
        "id",
        "type",
        "source",
        "spec_version",
        "time",
        "object_type",
        "object_id",
        "data",
    ]
    assert list(envelope["data"]) == ["type", "object", "previous_attributes"]


def test_audience_leaves() -> None:
    """The shop's bus works without anybody who watches."""

    async def main() -> None:
        data = {"object": {"id": "re_1", "customer_id": "cus_x", "amount": "100"}}
        async with shop.bus:
            outcomes = await shop.bus.publish_and_wait("refund.succeeded", data, check=True)
        assert outcomes[1].result == "cus_x gets 1.00 back"

    asyncio.run(main())
