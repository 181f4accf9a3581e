"""What a sender is told: a status, a few headers, and a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from eventbus.event import Event
    from eventbus.webhooks.errors import WebhookError

__all__ = ["Answer", "Message", "Receive", "Scope", "Send"]

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

Headers = tuple[tuple[bytes, bytes], ...]

ACCEPTED_BODY: Final = b'{"accepted":true}'
DUPLICATE_BODY: Final = b'{"duplicate":true}'


class Answer(NamedTuple):
    """The answer to one request. It is an ASGI application that sends itself."""

    status: int
    """The HTTP status."""
    headers: Headers
    """Names in lower case."""
    body: bytes
    """JSON, at most 200 bytes, that tells nothing of what was wrong with a signature."""
    event: Event[Any] | None = None
    """The event, as the bus has accepted it; None if it was not published for this request."""
    error: WebhookError | None = None
    """Why it was refused, for those who received it; not for the sender."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. Raises what ``send`` raises."""
        await send(
            {"type": "http.response.start", "status": self.status, "headers": list(self.headers)}
        )
        await send({"type": "http.response.body", "body": self.body})

    def with_headers(self, *headers: tuple[bytes, bytes]) -> Answer:
        """The same with more headers."""
        return self._replace(headers=(*self.headers, *headers))


def answer_of(error: WebhookError, event: Event[Any] | None = None) -> Answer:
    """The answer to a request that was refused."""
    body = error.answer if error.answer is not None else error_body(error.public)
    headers = headers_of(body)
    if error.retry_after is not None:
        headers += ((b"retry-after", b"%d" % error.retry_after),)
    return Answer(error.status, headers, body, event, error)


def error_body(code: str) -> bytes:
    """The usual form of a refusal."""
    return json.dumps({"error": {"code": code}}, separators=(",", ":")).encode()


def headers_of(body: bytes) -> Headers:
    """The headers that every answer has."""
    return ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)))


ACCEPTED_HEADERS: Final = headers_of(ACCEPTED_BODY)
DUPLICATE: Final = Answer(200, headers_of(DUPLICATE_BODY), DUPLICATE_BODY)
