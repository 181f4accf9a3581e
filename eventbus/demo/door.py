"""The shop's door to the network: Payment Kit posts signed requests, and others may try.

All of it is real: a server of its own on loopback, on a free port, a client, and keys that are made
for this run.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import httpx2

from eventbus.cli._schemes import sending
from eventbus.cli._serve import listen_on, serving
from eventbus.testing import SignedRequest, sign
from eventbus.webhooks import Receiver, WebhookApp

if TYPE_CHECKING:
    from eventbus.bus import EventBus

__all__ = ["PATH", "Door", "open_door"]

PATH: Final = "/api/payment/callback"
"""Where the shop has told Payment Kit to post."""


class Door:
    """Knocks at the shop's receiver, as Payment Kit does."""

    def __init__(self, bus: EventBus, client: httpx2.AsyncClient) -> None:
        key = f"0x{secrets.token_hex(32)}"
        self._sender = sending("component", key)
        self._client = client
        self.receiver = Receiver(bus, self._sender.scheme)
        """The shop knows the public key alone."""

    def sign(self, envelope: dict[str, Any]) -> SignedRequest:
        """The request by which Payment Kit would send an event."""
        body = json.dumps(envelope, ensure_ascii=False).encode()
        scheme, key = self._sender
        return sign(scheme, envelope["type"], target=PATH, body=body, key=key)

    async def post(self, request: SignedRequest) -> str:
        """Send a request, and say what was answered."""
        headers = [*request.headers]
        reply = await self._client.post(request.target, content=request.body, headers=headers)
        return f"{reply.status_code} {reply.text}"


@asynccontextmanager
async def open_door(bus: EventBus) -> AsyncIterator[Door]:
    """Let requests in while the block runs."""
    with listen_on("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=10) as client:
            door = Door(bus, client)
            app = WebhookApp({PATH: door.receiver})
            async with serving(app, listener, log_config=None, log_level="critical"):
                yield door
