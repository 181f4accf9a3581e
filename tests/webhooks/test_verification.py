"""From a verified request to an event: topics, what an event keeps, and what is refused."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from typing import Any

import pytest

from eventbus.errors import OptionError
from eventbus.webhooks import errors
from eventbus.webhooks._request import read_request
from eventbus.webhooks._verification import check_template
from eventbus.webhooks.bodies import Envelope, PaymentKitBody, dump
from eventbus.webhooks.errors import (
    InvalidEnvelope,
    InvalidJson,
    NoMatchingSignature,
    TimestampTooOld,
    WebhookError,
)
from tests.webhooks.samples import NOW, SAMPLES, VECTORS, verify

V1 = SAMPLES["v1"]


def event_of(envelope: Any, topic: Any = "{type}", sample: str = "v1") -> Any:
    """The event of a request whose reader says this."""
    request = SAMPLES[sample].sign("push", id="msg_1")
    return verify(SAMPLES[sample].scheme, request, body=lambda *_: envelope, topic=topic)[0]


def test_an_event_keeps_what_its_sender_says() -> None:
    """Type, id, time, source, subject and attributes are the sender's."""
    when = datetime(2025, 1, 1, tzinfo=UTC)
    event = event_of(
        Envelope("a.b", {"x": 1}, "evt_1", time=when, source="s", subject="o", attributes={"k": 1})
    )
    assert (event.type, event.data, event.id, event.time) == ("a.b", {"x": 1}, "evt_1", when)
    assert (event.source, event.subject, dict(event.attributes)) == ("s", "o", {"k": 1})
    assert (event.cause, event.root) == (None, "evt_1")


def test_what_a_sender_does_not_say() -> None:
    """The id is the signed one, the time that of the signature, the source the scheme."""
    event = event_of(Envelope("a.b", None))
    assert (event.id, event.source, event.subject) == ("msg_1", "standard-webhooks", None)
    assert event.time == datetime.fromtimestamp(NOW, UTC)
    assert dict(event.attributes) == {}


def test_what_no_sender_of_a_kind_says() -> None:
    """Without any id, the event's is made of what is signed; without any time, it is now."""
    event = event_of(Envelope("a.b", None), sample="github")
    assert event.id.startswith("whk_")
    assert event.id == event_of(Envelope("a.b", None), sample="github").id
    assert event.time == datetime.fromtimestamp(NOW, UTC)


def test_the_id_of_the_header_is_the_messages() -> None:
    """An ``id`` in the body of Standard Webhooks may be of anything; the signed header's counts."""
    request = V1.sign(id="msg_1", body=b'{"type":"user.created","id":"user_1"}')
    event, _ = verify(V1.scheme, request)
    assert (event.id, event.data["id"]) == ("msg_1", "user_1")


def test_a_payment_kit_event_end_to_end() -> None:
    """What Payment Kit has sent becomes the event that its own event bus would have published."""
    import json

    vectors = json.loads((VECTORS / "component-signature.json").read_text(encoding="utf-8"))
    case = vectors["cases"][0]
    headers = [
        (b"X-Component-Sig", case["sig"].encode()),
        (b"X-Component-Sig-Iat", b"1740000000"),
        (b"X-Component-Sig-Exp", b"1740000300"),
    ]
    from eventbus.webhooks._verification import verify_request

    scheme = SAMPLES["component"].scheme
    body = json.dumps(case["data"]).encode()
    request = read_request("POST", "/api/payment/callback", headers, body)
    draft, _ = verify_request(scheme, scheme.body, "{type}", request, 1740000299)
    event = draft.event()
    assert (event.type, event.id) == (
        "customer.subscription.renewed",
        "evt_T2UiJ2VHUxVo3J6BuULkrp15",
    )
    assert event.data == {"object": {"amount": "1.88", "id": "sub_x"}}


# ---- Topics


@pytest.mark.parametrize(
    ("topic", "type_", "expected"),
    [
        ("{type}", "invoice.paid", "invoice.paid"),
        ("stripe.{type}", "invoice.paid", "stripe.invoice.paid"),
        ("{type}.in", "invoice.paid", "invoice.paid.in"),
        ("everything", "invoice.paid", "everything"),
        ("{type}", "{type}", "{type}"),
        ("x.{type}", "{0.__class__}", "x.{0.__class__}"),
        (lambda envelope: f"own.{envelope.data}", "invoice.paid", "own.None"),
        ("stripe.{type}", "webhook.delivery", "stripe.webhook.delivery"),
    ],
)
def test_topics(topic: Any, type_: str, expected: str) -> None:
    """The type is placed into the template as it is; a function may make any topic."""
    event = event_of(Envelope(type_, None), topic)
    assert event.type == expected
    assert event.attributes.get("type", event.type) == type_


@pytest.mark.parametrize(
    "type_",
    [
        "*",
        "**",
        "a.*",
        "a.**",
        ">",
        "",
        ".",
        "a.",
        "a b",
        "a\n",
        "$bus.closed",
        "a" * 256,
        ".".join("a" * 33),
        "webhook.endpoint.disabled",
        "webhook",
        "\ud800",
        None,
        5,
        b"a",
        ["a"],
    ],
)
def test_a_senders_type_is_a_topic(type_: Any) -> None:
    """Wildcards, reserved names and what is no topic never reach the bus."""
    with pytest.raises(InvalidEnvelope):
        event_of(Envelope(type_, None))


@pytest.mark.parametrize("made", ["a.*", "", None, 5, "$x", "webhook.x"])
def test_a_topic_function_makes_topics(made: Any) -> None:
    """What a user's function returns is checked as the sender's type is."""
    with pytest.raises(InvalidEnvelope):
        event_of(Envelope("a", None), lambda _: made)


def test_a_prefix_can_make_it_too_long() -> None:
    """The topic is checked once more when it is whole."""
    with pytest.raises(InvalidEnvelope):
        event_of(Envelope("a" * 250, None), "stripe.{type}")


@pytest.mark.parametrize("topic", ["", "a.*", "a b", "webhook.{type}", None, 5, "{type}."])
def test_templates_are_checked_when_made(topic: Any) -> None:
    """A template that makes no topics, or reserved ones, is an error of the receiver's options."""
    with pytest.raises(OptionError, match="topic="):
        check_template(topic)


def test_good_templates() -> None:
    """A template that makes topics is taken as it is; a function cannot be checked beforehand."""
    assert check_template("stripe.{type}") == "stripe.{type}"

    def topic(_: Envelope) -> str:
        return "a"

    assert check_template(topic) is topic


# ---- The user's functions


def broken(*_: object) -> Any:
    raise KeyError("customer")


def test_a_readers_error_is_the_bodys() -> None:
    """Whatever a user's reader raises, the body is refused; the error is the cause."""
    with pytest.raises(InvalidEnvelope) as raised:
        verify(V1.scheme, V1.sign(), body=broken)
    assert isinstance(raised.value.__cause__, KeyError)
    assert "customer" not in str(raised.value)


def test_a_topic_functions_error_is_the_bodys() -> None:
    """Whatever a user's topic function raises, the body is refused; the error is the cause."""
    with pytest.raises(InvalidEnvelope) as raised:
        event_of(Envelope("a", None), broken)
    assert isinstance(raised.value.__cause__, KeyError)


@pytest.mark.parametrize(
    "returned",
    [
        None,
        ("a", {}),
        Envelope("a", None, id=5),  # type: ignore[arg-type]
        Envelope("a", None, id=""),
        Envelope("a", None, id="x" * 257),
        Envelope("a", None, id="a\nb"),
        Envelope("a", None, id="\ud800", id_is_signed=True),
        Envelope("a", None, source="\x1b[31m"),
        Envelope("a", None, subject=b"x"),  # type: ignore[arg-type]
        Envelope("a", None, time=datetime(2025, 1, 1)),  # noqa: DTZ001
        Envelope("a", None, time="now"),  # type: ignore[arg-type]
        Envelope("a", None, attributes=5),  # type: ignore[arg-type]
    ],
)
def test_what_a_reader_returns_is_checked(returned: Any) -> None:
    """A reader that returns what is no envelope, or one that is no event, is an invalid body."""
    with pytest.raises(InvalidEnvelope):
        event_of(returned)


def test_an_unsigned_id_decides_nothing() -> None:
    """A reader's id becomes the event's; what is a duplicate it decides only if it is signed."""
    shopify = SAMPLES["shopify"]

    def keys(*, signed: bool) -> set[bytes]:
        request = shopify.sign("a", body=b"{}")
        return {
            verify(
                shopify.scheme,
                request,
                body=lambda *_, each=each: Envelope("a", None, each, id_is_signed=signed),
            )[1].key
            for each in ("1", "2")
        }

    assert len(keys(signed=False)) == 1
    assert len(keys(signed=True)) == 2


def test_a_signed_header_decides_before_the_body() -> None:
    """Where the scheme signs an id, that one says what is a duplicate, whatever a reader finds."""
    keys = {
        verify(V1.scheme, V1.sign(id="msg_1"), body=lambda *_, each=each: each)[1].key
        for each in (Envelope("a", None, "1", id_is_signed=True), Envelope("a", None))
    }
    assert len(keys) == 1


# ---- Order, and what errors say


def test_the_signature_comes_first() -> None:
    """Nothing of a body is looked at before its sender is known."""
    request = V1.sign(body=b"not JSON")
    with pytest.raises(InvalidJson):
        verify(V1.scheme, request)
    with pytest.raises(NoMatchingSignature):
        verify(V1.scheme, request._replace(body=b"not JSON either"))


def test_the_components_body_is_parsed_once() -> None:
    """What the component signature was made of is what handlers get."""
    seen = []

    def reader(content: Any, request: Any) -> Envelope:
        seen.append(content)
        return PaymentKitBody()(content, request)

    sample = SAMPLES["component"]
    event, verified = verify(sample.scheme, sample.sign("a.b", {"x": 1}), body=reader)
    assert seen[0] is verified.content
    assert event.data is verified.content["data"]


@pytest.mark.parametrize(
    ("headers", "body", "complaint"),
    [
        ([], "text", "raw bytes"),
        ([], {"a": 1}, "raw bytes"),
        ([], None, "raw bytes"),
        ({"webhook-id": "x"}, b"", "pairs of bytes"),
        ([("webhook-id", "x")], b"", "pairs of bytes"),
        ([(b"webhook-id",)], b"", "pairs of bytes"),
    ],
)
def test_only_raw_requests(headers: Any, body: Any, complaint: str) -> None:
    """A body that somebody has parsed, or headers as a mapping, are the caller's mistake."""
    with pytest.raises(TypeError, match=complaint):
        read_request("POST", "/", headers, body)


def test_method_and_target_are_text() -> None:
    """Bytes of a method or target are the caller's mistake."""
    for method, target in ((b"POST", "/"), ("POST", b"/")):
        with pytest.raises(TypeError, match="are str"):
            read_request(method, target, [], b"")  # type: ignore[arg-type]


def test_requests_are_kept_as_they_came() -> None:
    """Names are lowered, order and repeats kept, and any buffer becomes bytes."""
    request = read_request("PUT", "/x", [[b"A", b"1"], (b"a", b"2")], bytearray(b"x"))  # type: ignore[list-item,arg-type]
    assert request.headers == ((b"a", b"1"), (b"a", b"2"))
    assert request.body == b"x"
    with pytest.raises(errors.DuplicateHeader, match="a came 2 times"):
        request.header(b"a")
    empty = read_request("PUT", "/x", [(b"a", b""), (b"a", b"x")], b"")
    with pytest.raises(errors.DuplicateHeader):
        empty.header(b"a")
    assert empty.header(b"b") is None


CLASSES = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, WebhookError)
]


def example(cls: type[WebhookError]) -> WebhookError:
    if cls is InvalidJson:
        return InvalidJson("syntax", 5)
    if cls is InvalidEnvelope:
        return InvalidEnvelope("type", "is missing")
    if cls is TimestampTooOld:
        return TimestampTooOld("too old", 400.0)
    return cls("what is wrong")


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_has_an_answer_and_pickles(cls: type[WebhookError]) -> None:
    """Each error has a status that is no 500, a public word and a code, and survives pickling."""
    error = example(cls)
    error.answer = b"{}"
    assert error.status in {400, 401, 408, 409, 413, 415, 422, 503}
    assert error.public.replace("_", "").isalpha()
    assert error.code.replace("_", "").isalpha()
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - of our own making
    assert (type(copy), str(copy), vars(copy)) == (cls, str(error), vars(error))


def test_the_tree_in_the_docstring_is_true() -> None:
    """The table at the head of the module names each error with its status, answer and code."""
    assert errors.__doc__
    rows = [line.split() for line in errors.__doc__.splitlines() if "──" in line]
    for row in rows:
        name, *rest = row[row.index(next(part for part in row if part.endswith("──"))) + 1 :]
        cls = getattr(errors, name)
        if not rest or not (rest[0].isdigit() or rest[0] == "none"):
            continue  # a group
        if name == "ClientDisconnect":
            assert cls.code == rest[-1]
            continue
        code = cls.public if rest[2].startswith("(") else rest[2]
        assert (str(cls.status), cls.public, cls.code) == (rest[0], rest[1], code)


def test_failed_authentication_has_one_answer() -> None:
    """All that can be wrong with a signature is answered alike."""
    kinds = [each for each in CLASSES if issubclass(each, errors.VerificationError)]
    assert {(each.status, each.public) for each in kinds} == {(401, "unauthorized")}


def test_bodies_that_are_signed_and_no_event() -> None:
    """An authentic body that is JSON and no event is refused by the field that is wrong."""
    with pytest.raises(InvalidEnvelope) as raised:
        verify(V1.scheme, V1.sign(body=dump({"type": 5})))
    assert raised.value.field == "type"
