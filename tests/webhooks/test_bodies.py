"""Bodies: what each sender's form says, and which forms are refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from eventbus.webhooks._request import Request
from eventbus.webhooks._strictjson import parse_json
from eventbus.webhooks.bodies import (
    BlockletServerBody,
    BodyReader,
    Envelope,
    EventBusBody,
    GitHubBody,
    PaymentKitBody,
    StandardBody,
    StripeBody,
    dump,
)
from eventbus.webhooks.errors import DuplicateHeader, InvalidEnvelope

WHEN = datetime(2025, 2, 19, 21, 20, 0, 123000, tzinfo=UTC)
NO_REQUEST = Request("POST", "/", (), b"")


def github(event: bytes, *more: tuple[bytes, bytes]) -> Request:
    return Request("POST", "/", ((b"x-github-event", event), *more), b"")


def test_standard_webhooks() -> None:
    """Standard Webhooks: what the specification names, and what many senders add."""
    body = {
        "type": "user.created",
        "timestamp": "2025-02-19T21:20:00.123Z",
        "data": {"id": "user_1"},
    }
    assert StandardBody()(body, NO_REQUEST) == Envelope(
        "user.created", {"id": "user_1"}, id_is_signed=True, time=WHEN
    )
    more = {**body, "id": "evt_1", "source": "users"}
    envelope = StandardBody()(more, NO_REQUEST)
    assert (envelope.id, envelope.source) == ("evt_1", "users")
    assert StandardBody(id_in_body=False)(more, NO_REQUEST).id is None
    for number in (1739999999123, 1739999999.5):
        assert StandardBody()({**body, "timestamp": number}, NO_REQUEST).time is None
    flat = {"type": "user.created", "name": "Ada"}
    assert StandardBody()(flat, NO_REQUEST).data == flat


def test_payment_kits_row() -> None:
    """Payment Kit posts the row of its event table."""
    row = {
        "id": "evt_T2UiJ2VHUxVo3J6BuULkrp15",
        "livemode": True,
        "type": "customer.subscription.renewed",
        "api_version": "2023-09-05",
        "data": {"object": {"id": "sub_x"}, "previous_attributes": {}},
        "object_type": "Subscription",
        "object_id": "sub_x",
        "request": {"id": "", "idempotency_key": ""},
        "pending_webhooks": 99,
        "metadata": {},
        "created_at": "2025-02-19T21:20:00.123Z",
        "updated_at": "2025-02-19T21:20:01.000Z",
    }
    assert PaymentKitBody()(row, NO_REQUEST) == Envelope(
        "customer.subscription.renewed",
        row["data"],
        id="evt_T2UiJ2VHUxVo3J6BuULkrp15",
        id_is_signed=True,
        time=WHEN,
        source="payment-kit",
        subject="sub_x",
        attributes={
            "api_version": "2023-09-05",
            "livemode": True,
            "object_type": "Subscription",
        },
    )


@pytest.mark.parametrize("reader", [EventBusBody(), PaymentKitBody()])
def test_the_envelope_of_the_event_bus(reader: BodyReader) -> None:
    """Blocklet's EventBus passes on an envelope; components send it, too."""
    body = {
        "id": "evt_1",
        "time": "2025-02-19T21:20:00.123Z",
        "type": "customer.subscription.renewed",
        "source": "z2qaCNvKMv5GjouKdcDWexv6WqtHbpNPQDnAk",
        "spec_version": "1.0.0",
        "object_type": "Subscription",
        "object_id": "",
        "data": {"type": "application/json", "object": {"id": "sub_x"}},
    }
    assert reader(body, NO_REQUEST) == Envelope(
        "customer.subscription.renewed",
        body["data"],
        id="evt_1",
        id_is_signed=True,
        time=WHEN,
        source="z2qaCNvKMv5GjouKdcDWexv6WqtHbpNPQDnAk",
        attributes={"object_type": "Subscription", "spec_version": "1.0.0"},
    )


def test_blocklet_server() -> None:
    """Blocklet Server adds the event's name and the sender to its data, and no id."""
    body = {
        "type": "application/json",
        "object": {"id": "sub_x"},
        "$eventName": "customer.subscription.renewed",
        "$sender": {"did": "z1", "name": "App"},
    }
    assert BlockletServerBody()(body, NO_REQUEST) == Envelope(
        "customer.subscription.renewed",
        {"type": "application/json", "object": {"id": "sub_x"}},
        source="z1",
        subject="sub_x",
        attributes={"sender": {"did": "z1", "name": "App"}},
    )
    assert BlockletServerBody()({"$eventName": "a.b"}, NO_REQUEST) == Envelope("a.b", {})


def test_stripe() -> None:
    """Stripe's event has its time in UNIX seconds; its thin events as ISO 8601."""
    body = {
        "id": "evt_1",
        "object": "event",
        "api_version": "2025-03-31.basil",
        "created": 1740000000,
        "data": {"object": {"id": "in_1"}},
        "livemode": False,
        "type": "invoice.paid",
    }
    envelope = StripeBody()(body, NO_REQUEST)
    assert (envelope.type, envelope.id, envelope.subject) == ("invoice.paid", "evt_1", "in_1")
    assert envelope.time == datetime(2025, 2, 19, 21, 20, tzinfo=UTC)
    assert (envelope.source, envelope.data) == ("stripe", {"object": {"id": "in_1"}})
    assert envelope.attributes == {"api_version": "2025-03-31.basil", "livemode": False}
    thin = {"id": "e", "type": "v1.a", "created": "2025-02-19T21:20:00.123Z", "account": "acct_1"}
    envelope = StripeBody()(thin, NO_REQUEST)
    assert (envelope.time, envelope.source, envelope.data) == (WHEN, "acct_1", None)


def test_github() -> None:
    """GitHub's header names the event; the body says what happened, and where."""
    body = {"action": "opened", "issue": {}, "repository": {"full_name": "a/b"}}
    request = github(b"issues", (b"x-github-delivery", b"72d3162e-cc78"))
    assert GitHubBody()(body, request) == Envelope(
        "issues.opened", body, source="a/b", attributes={"delivery": "72d3162e-cc78"}
    )
    push = {"ref": "r", "before": "", "after": "", "commits": [], "organization": {"login": "o"}}
    envelope = GitHubBody()(push, github(b"push"))
    assert (envelope.type, envelope.source, envelope.id) == ("push", "o", None)
    nameless: dict[str, Any] = {"repository": {"full_name": None}, "organization": 5}
    assert GitHubBody()(nameless, github(b"unheard_of")).source is None


@pytest.mark.parametrize(
    ("event", "body"),
    [
        ("push", {"ref": "r", "before": "", "after": ""}),
        ("issues", {"action": "opened", "issue": {}, "comment": {}}),
        ("issue_comment", {"action": "created", "issue": {}}),
        ("pull_request", {"action": "x", "pull_request": {}, "number": 1, "review": {}}),
        ("ping", {"action": "deleted", "repository": {}}),
    ],
)
def test_githubs_events_cannot_be_relabelled(event: str, body: dict[str, Any]) -> None:
    """A body that is of another event than the unsigned header says is refused."""
    with pytest.raises(InvalidEnvelope) as raised:
        GitHubBody()(body, github(event.encode()))
    assert raised.value.field == "x-github-event"


def test_githubs_events_exclude_each_other() -> None:
    """What an event's body must have, with an action, is no body of another event of the table.

    Where it is, the other event tells more: a comment on an issue comes with the issue.
    """
    clashes = set()
    for event in GitHubBody.SIGNS:
        body = parse_json(GitHubBody().write(f"{event}.x", {}, id="", time=WHEN))
        for other in GitHubBody.SIGNS:
            try:
                GitHubBody()(body, github(other.encode()))
            except InvalidEnvelope:
                continue
            clashes.add((event, other))
    assert clashes == {(event, event) for event in GitHubBody.SIGNS}


@pytest.mark.parametrize("header", [b"", b"a b", b"\xff", b"a" * 101, b"issues.opened", b"*"])
def test_githubs_header_is_a_name(header: bytes) -> None:
    """The event's name is letters, digits, ``_`` and ``-``; whatever else is refused."""
    with pytest.raises(InvalidEnvelope):
        GitHubBody()({}, github(header))
    with pytest.raises(InvalidEnvelope):
        GitHubBody()({}, NO_REQUEST)
    with pytest.raises(DuplicateHeader):
        GitHubBody()({}, github(b"push", (b"x-github-event", b"issues")))


READERS: dict[str, BodyReader] = {
    "standard": StandardBody(),
    "payment kit": PaymentKitBody(),
    "event bus": EventBusBody(),
    "blocklet server": BlockletServerBody(),
    "stripe": StripeBody(),
}


@pytest.mark.parametrize("reader", [*READERS.values(), GitHubBody()])
@pytest.mark.parametrize("content", [None, 1, "text", [], [{}], True])
def test_only_objects_are_events(reader: BodyReader, content: Any) -> None:
    """Whatever is no object is no event."""
    with pytest.raises(InvalidEnvelope) as raised:
        reader(content, github(b"push"))
    assert raised.value.field == "body"


@pytest.mark.parametrize(
    ("reader", "body", "field"),
    [
        ("standard", {}, "type"),
        ("standard", {"type": 5}, "type"),
        ("standard", {"type": ""}, "type"),
        ("standard", {"type": "a", "id": 5}, "id"),
        ("standard", {"type": "a", "timestamp": True}, "timestamp"),
        ("standard", {"type": "a", "timestamp": []}, "timestamp"),
        ("standard", {"type": "a", "timestamp": "yesterday"}, "timestamp"),
        ("standard", {"type": "a", "timestamp": "2025-02-19T21:20:00"}, "timestamp"),
        ("standard", {"type": "a", "timestamp": "0001-01-01T00:00:00+23:00"}, "timestamp"),
        ("payment kit", {"type": "a"}, "id"),
        ("payment kit", {"type": "a", "id": "e", "created_at": "x"}, "created_at"),
        ("event bus", {"type": "a", "id": None}, "id"),
        ("event bus", {"type": "a", "id": "e", "time": 5}, "time"),
        ("event bus", {"type": "a", "id": "e", "source": 5}, "source"),
        ("blocklet server", {"type": "a"}, "$eventName"),
        ("stripe", {"type": "a"}, "id"),
        ("stripe", {"id": "e"}, "type"),
        ("stripe", {"id": "e", "type": "a", "created": 1.5}, "created"),
        ("stripe", {"id": "e", "type": "a", "created": True}, "created"),
        ("stripe", {"id": "e", "type": "a", "created": 10**20}, "created"),
        ("stripe", {"id": "e", "type": "a", "created": 10**12}, "created"),
    ],
)
def test_a_bad_field_is_named(reader: str, body: dict[str, Any], field: str) -> None:
    """A field that is missing or of another kind is refused by its name."""
    with pytest.raises(InvalidEnvelope) as raised:
        READERS[reader](body, NO_REQUEST)
    assert raised.value.field == field
    assert str(raised.value).startswith(f"{field}: ")


@pytest.mark.parametrize("data", [{"object": {"id": "x"}}, {"a": 1}, 5, None])
@pytest.mark.parametrize("name", READERS)
def test_what_is_written_can_be_read(name: str, data: Any) -> None:
    """Each form can be written for tests, and reads as what was written."""
    reader: Any = READERS[name]
    envelope = reader(parse_json(reader.write("a.b", data, id="e", time=WHEN)), NO_REQUEST)
    assert envelope.type == "a.b"
    assert envelope.id in ("e", None)
    assert envelope.time in (WHEN, WHEN.replace(microsecond=0), None)
    assert data == envelope.data or data in envelope.data.values() or set(data) <= {*envelope.data}


def test_only_json_is_written() -> None:
    """Numbers that JSON does not have are refused, and text stays as it is."""
    assert dump({"a": "é", "b": [1, 2.5]}) == '{"a":"é","b":[1,2.5]}'.encode()
    with pytest.raises(ValueError, match="JSON"):
        dump(float("nan"))
