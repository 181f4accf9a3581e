"""A sender, and a server's side of ASGI, both without a network, for tests of webhooks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from eventbus.testing import SignedRequest, sign
from eventbus.webhooks import StandardWebhooks

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SCHEME = StandardWebhooks(SECRET)
NOW = 1_700_000_000.0
BODY = b'{"type":"invoice.paid","data":{"id":"in_1"}}'

Part = bytes | Exception | Callable[[], Any] | None
"""A piece of a body; what ``receive`` raises; something to do first; None: the client leaves."""


def request(
    body: bytes | None = BODY,
    *,
    id: str = "msg_1",
    time: float = NOW,
    target: str = "/hook",
    **more: Any,
) -> SignedRequest:
    """A request of a sender that knows the secret."""
    return sign(
        SCHEME, "invoice.paid", {"id": "in_1"}, id=id, time=time, target=target, body=body, **more
    )


@dataclass
class Reply:
    """What a client got."""

    messages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


App = Callable[[Any, Any, Any], Awaitable[None]]


def scope_of(signed: SignedRequest, **more: Any) -> dict[str, Any]:
    """The request, as a server describes it."""
    path, _, query = signed.target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": signed.method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": signed.headers,
        **more,
    }


async def post(
    app: App, signed: SignedRequest, parts: Iterable[Part] | None = None, **scope: Any
) -> Reply:
    """Send a request in pieces; by default in one. The client then waits for its answer."""
    reply = Reply()
    left = list([signed.body] if parts is None else parts)

    async def receive() -> dict[str, Any]:
        while left:
            part = left.pop(0)
            if isinstance(part, Exception):
                raise part
            if part is None:
                return {"type": "http.disconnect"}
            if isinstance(part, bytes):
                return {"type": "http.request", "body": part, "more_body": bool(left)}
            done = part()
            if asyncio.isfuture(done) or asyncio.iscoroutine(done):
                await done
        await asyncio.Event().wait()  # a client that keeps silent
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        reply.messages.append(message)

    await app(scope_of(signed, **scope), receive, send)
    return reply
