"""One of each scheme, with what its senders sign with, and a moment at which everything happens."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventbus.testing import SignedRequest, sign
from eventbus.webhooks import (
    BlockletServer,
    ComponentSignature,
    GitHub,
    HmacSignature,
    StandardWebhooks,
    Stripe,
)
from eventbus.webhooks._request import Request, read_request
from eventbus.webhooks._verification import verify_request

if TYPE_CHECKING:
    from eventbus import Event
    from eventbus.webhooks._scheme import SigningScheme, Verified

NOW = 1_740_000_000
VECTORS = Path(__file__).parent / "vectors"

WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
WHSK = (
    "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
)
WHPK = "whpk_" + base64.b64encode(base64.b64decode(WHSK[5:])[32:]).decode()
STRIPE = "whsec_8cMVTAdGWhFzVZ1LpmGn3QWdkzS0wMmt"
GITHUB = "It's a Secret to Everybody"
SLACK = "8f742231b10e8888abcd99yyyzzz85a5"
BLOCKLET: str = json.loads((VECTORS / "blocklet-server.json").read_text())["secret"]
COMPONENT: dict[str, Any] = json.loads((VECTORS / "component-signature.json").read_text())

slack = HmacSignature(
    SLACK,
    name="slack",
    header="X-Slack-Signature",
    prefix="v0=",
    signed="v0:{timestamp}:{body}",
    timestamp_header="X-Slack-Request-Timestamp",
)
shopify = HmacSignature(
    "hush-this-is-the-secret-of-the-app",
    name="shopify",
    header="X-Shopify-Hmac-Sha256",
    encoding="base64",
)
signed_id = HmacSignature(
    b"\x00\xff" * 16,
    header="X-Signature",
    signed="{id}.{timestamp}.{body}",
    algorithm="sha512",
    timestamp_header="X-Time",
    id_header="X-Id",
)


@dataclass(frozen=True)
class Sample:
    """A scheme, and the key with which a sender of it signs."""

    scheme: SigningScheme
    key: str | None = None
    timed: bool = True

    def sign(self, type: str = "invoice.paid", data: Any = None, **options: Any) -> SignedRequest:
        options.setdefault("time", NOW)
        return sign(self.scheme, type, data, key=self.key, **options)


SAMPLES: dict[str, Sample] = {
    "v1": Sample(StandardWebhooks(WHSEC)),
    "v1a": Sample(StandardWebhooks(WHPK), WHSK),
    "stripe": Sample(Stripe(STRIPE)),
    "github": Sample(GitHub(GITHUB), timed=False),
    "component": Sample(ComponentSignature(COMPONENT["pk"]), COMPONENT["sk"]),
    "blocklet": Sample(BlockletServer(BLOCKLET)),
    "slack": Sample(slack),
    "shopify": Sample(shopify, timed=False),
    "signed-id": Sample(signed_id),
}


def verify(
    scheme: SigningScheme, request: SignedRequest, now: float = NOW, **options: Any
) -> tuple[Event[Any], Verified]:
    """What a receiver of the scheme makes of a request."""
    body = options.get("body", scheme.body)
    topic = options.get("topic", "{type}")
    draft, verified = verify_request(scheme, body, topic, raw(request), now)
    return draft.event(), verified


def raw(request: SignedRequest) -> Request:
    return read_request(*request)


def replaced(request: SignedRequest, name: bytes, value: bytes | None) -> SignedRequest:
    """The request with another value of one header, or without it."""
    headers = [pair for pair in request.headers if pair[0] != name]
    if value is not None:
        headers.append((name, value))
    return request._replace(headers=headers)
