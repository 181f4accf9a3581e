"""From a request to an event: the one path, pure, that every way of receiving takes.

::

    signature ──► JSON, strictly, once ──► body reader ──► topic ──► Event

Nothing is read before the signature is good, except where the signature covers the parsed body
(the component signature), which then brings the parsed body along. Nothing but a ``WebhookError``
leaves this module, whatever the bytes, and whatever the user's own functions raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from eventbus.errors import OptionError, TopicError
from eventbus.event import Event, check_time, freeze_attributes
from eventbus.topics import check_topic
from eventbus.webhooks._scheme import UNPARSED, Scheme, Verified, message_key
from eventbus.webhooks._strictjson import parse_json
from eventbus.webhooks.bodies import BodyReader, Envelope
from eventbus.webhooks.errors import InvalidEnvelope, WebhookError

if TYPE_CHECKING:
    from eventbus.webhooks._request import Request

RESERVED = "webhook"
"""Topics whose first token this is tell what became of webhooks; no sender may forge them."""

LONGEST = 256
"""How many characters an id, a source or a subject may have."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Topic = str | Callable[[Envelope], str]
"""How a sender's type becomes a topic: a text with ``{type}`` in it, or a function."""


class Draft(NamedTuple):
    """An event that no bus has accepted yet."""

    topic: str
    data: Any
    given: Mapping[str, Any]
    """What the bus would otherwise fill in: the slots of an `Event`, by their names."""

    def event(self) -> Event[Any]:
        """The event, as the bus would make it."""
        fields = {name.removeprefix("_"): value for name, value in self.given.items()}
        return Event(self.topic, self.data, **fields)


def verify_request(
    scheme: Scheme, reader: BodyReader, topic: Topic, request: Request, now: float
) -> tuple[Draft, Verified]:
    """The event that a request stands for, and what is proven about it.

    ``reader`` and ``topic`` are the receiver's, checked by ``check_template``; ``now`` is UNIX
    time in seconds. Raises a ``WebhookError`` and nothing else.
    """
    verified = scheme.verify(request, now)
    content = verified.content
    if content is UNPARSED:
        content = parse_json(request.body)
    envelope = _read(reader, content, request)
    if verified.id is None and envelope.id is not None and envelope.id_is_signed:
        key = message_key(scheme.name, b"id", envelope.id.encode("utf-8", "surrogatepass"))
        verified = verified._replace(key=key)
    name = _place(topic, envelope)
    return _draft(name, scheme.name, envelope, verified, now), verified


def check_template(topic: Topic) -> Topic:
    """The receiver's ``topic``, as it is. Raises ``OptionError`` for one that makes no topics."""
    if callable(topic):
        return topic
    try:
        made = check_topic(topic.replace("{type}", "type"))
    except (TopicError, AttributeError, TypeError) as error:
        raise OptionError(
            f"topic={topic!r} makes no topics: write one such as 'stripe.{{type}}'"
        ) from error
    if made.split(".")[0] == RESERVED:
        raise OptionError(f"topic={topic!r}: {RESERVED!r} is reserved; begin with another name")
    return topic


def _read(reader: BodyReader, content: Any, request: Request) -> Envelope:
    try:
        envelope = reader(content, request)
    except WebhookError:
        raise
    except Exception as error:
        raise InvalidEnvelope("body", f"its reader raised {type(error).__name__}") from error
    if not isinstance(envelope, Envelope):
        raise InvalidEnvelope("body", f"its reader returned a {type(envelope).__name__}")
    if envelope.id is not None:
        _check_label("id", envelope.id)
    if envelope.source is not None:
        _check_label("source", envelope.source)
    if envelope.subject is not None:
        _check_label("subject", envelope.subject)
    return envelope


def _check_label(field: str, value: object) -> None:
    """What names something goes into logs and keys: a short text that can be printed."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST or not value.isprintable():
        raise InvalidEnvelope(field, f"is not 1 to {LONGEST} printable characters")


def _place(topic: Topic, envelope: Envelope) -> str:
    """The topic of a message. Its type is replaced into the template and never interpreted."""
    _checked("type", envelope.type)
    if topic == "{type}":
        name = envelope.type
    elif isinstance(topic, str):
        name = topic.replace("{type}", envelope.type)
    else:
        try:
            name = topic(envelope)
        except Exception as error:
            raise InvalidEnvelope("topic", f"its maker raised {type(error).__name__}") from error
    if name != envelope.type:
        name = _checked("topic", name)
    if name.split(".", 1)[0] == RESERVED:
        raise InvalidEnvelope("type", f"topics below {RESERVED!r} are reserved")
    return name


def _checked(field: str, text: object) -> str:
    try:
        return check_topic(text)
    except (TopicError, TypeError):
        raise InvalidEnvelope(field, "is no topic") from None


def _draft(name: str, source: str, envelope: Envelope, verified: Verified, now: float) -> Draft:
    try:
        given: dict[str, Any] = {
            "_id": envelope.id or verified.id or f"whk_{verified.key.hex()[:32]}",
            "_time": _moment(envelope, verified, now),
            "source": envelope.source or source,
            "subject": envelope.subject,
        }
        if name != envelope.type:
            given["attributes"] = freeze_attributes({**envelope.attributes, "type": envelope.type})
        elif envelope.attributes:
            given["attributes"] = freeze_attributes(envelope.attributes)
    except (TypeError, ValueError, OverflowError) as error:  # a reader's naive time, say
        raise InvalidEnvelope("body", "its reader returned what is no event") from error
    return Draft(name, envelope.data, given)


def _moment(envelope: Envelope, verified: Verified, now: float) -> datetime:
    """When it happened; else when it was signed; else now. The bus would date a number anew."""
    if envelope.time is not None:
        return check_time(envelope.time)
    return EPOCH + timedelta(seconds=now if verified.time is None else verified.time)
