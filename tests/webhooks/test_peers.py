"""Other people's implementations, as signers and as verifiers, in both directions.

What they sign must be good here, what is signed here must be good there, and what was changed on
the way must be good nowhere: 500 random messages for each.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import gidgethub.sansio
import pytest
import standardwebhooks
import stripe
from slack_sdk.signature import Clock, SignatureVerifier

from eventbus.testing import SignedRequest, sign
from eventbus.webhooks import GitHub, StandardWebhooks, Stripe
from eventbus.webhooks._request import read_request
from eventbus.webhooks.errors import VerificationError
from tests.webhooks.samples import GITHUB, SLACK, STRIPE, WHSEC, slack
from tests.webhooks.standing import standing_at

CASES = 500
NOW = int(time.time())
clock = standing_at(NOW)

standard = StandardWebhooks(WHSEC, svix_headers=True)


def messages(seed: int) -> Iterator[tuple[random.Random, str, int, bytes]]:
    """Random ids, times within the tolerance, and JSON bodies with all sorts of characters."""
    for number in range(CASES):
        chance = random.Random(seed * CASES + number)
        alphabet = 'abc "\\\u00e9\u4e2d\U0001f600\u2028\x7f/'
        text = "".join(chance.choices(alphabet, k=chance.randrange(200)))
        body = json.dumps({"type": "a.b", "data": text}, ensure_ascii=chance.random() < 0.5)
        letters = chance.choices("abcXYZ019_-", k=chance.randrange(1, 40))
        yield chance, "".join(letters), NOW + chance.randrange(-200, 200), body.encode()


def tampered(chance: random.Random, body: bytes) -> bytes:
    """The body with one bit of one ASCII letter changed, so that it stays UTF-8."""
    places = [at for at, byte in enumerate(body) if 97 <= byte <= 121]
    at = chance.choice(places)
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


def refuses(scheme: Any, request: SignedRequest) -> bool:
    try:
        scheme.verify(read_request(*request), NOW)
    except VerificationError:
        return True
    return False


def raises(error: type[Exception], call: Callable[..., object], *args: Any, **named: Any) -> bool:
    try:
        call(*args, **named)
    except error:
        return True
    return False


def texts(request: SignedRequest, prefix: str = "webhook") -> dict[str, str]:
    """The headers as the peers want them."""
    return {
        name.decode().replace("webhook-", f"{prefix}-"): value.decode()
        for name, value in request.headers
    }


def test_standardwebhooks() -> None:
    """The reference implementation of Standard Webhooks and this one agree."""
    peer = standardwebhooks.Webhook(WHSEC)
    bad = standardwebhooks.WebhookVerificationError
    for chance, name, moment, body in messages(1):
        at = datetime.fromtimestamp(moment, UTC)
        theirs = peer.sign(msg_id=name, timestamp=at, data=body.decode())
        request = sign(standard, "x", id=name, time=moment, body=body)
        assert dict(request.headers)[b"webhook-signature"] == theirs.encode()
        assert standard.verify(read_request(*request), NOW).id == name
        peer.verify(body, texts(request), json_parse=False)
        changed = request._replace(body=tampered(chance, body))
        assert refuses(standard, changed)
        assert raises(bad, peer.verify, changed.body, texts(changed), json_parse=False)


def test_svix() -> None:
    """Svix's library and this one agree, under its own names of the headers."""
    svix = pytest.importorskip(
        "svix.webhooks", exc_type=ImportError, reason="svix needs a newer pydantic than it says"
    )
    peer = svix.Webhook(WHSEC)
    for chance, name, moment, body in messages(2):
        at = datetime.fromtimestamp(moment, UTC)
        theirs = peer.sign(msg_id=name, timestamp=at, data=body.decode())
        headers = [
            (b"svix-id", name.encode()),
            (b"svix-timestamp", b"%d" % moment),
            (b"svix-signature", theirs.encode()),
        ]
        request = SignedRequest("POST", "/", headers, body)
        assert standard.verify(read_request(*request), NOW).id == name
        ours = sign(standard, "x", id=name, time=moment, body=body)
        peer.verify(body, texts(ours, "svix"))
        changed = tampered(chance, body)
        assert refuses(standard, request._replace(body=changed))
        bad = svix.WebhookVerificationError
        assert raises(bad, peer.verify, changed, texts(ours, "svix"))


def test_stripe() -> None:
    """Stripe's library and this one agree."""
    peer = stripe.WebhookSignature
    scheme = Stripe(STRIPE)
    for chance, _, moment, body in messages(3):
        theirs = peer.generate_signature_header(body.decode(), STRIPE, moment)
        ours = sign(scheme, "x", time=moment, body=body)
        request = SignedRequest("POST", "/", [(b"stripe-signature", theirs.encode())], body)
        assert scheme.verify(read_request(*request), NOW).time == moment
        header = dict(ours.headers)[b"stripe-signature"].decode()
        assert peer.verify_header(body.decode(), header, STRIPE, 300)
        changed = tampered(chance, body)
        assert refuses(scheme, ours._replace(body=changed))
        bad = stripe.SignatureVerificationError
        assert raises(bad, peer.verify_header, changed.decode(), header, STRIPE, 300)


def test_slack_sdk() -> None:
    """Slack's library and the scheme that the documentation shows for Slack agree."""

    class At(Clock):
        def now(self) -> float:
            return NOW

    peer = SignatureVerifier(SLACK, At())
    for chance, _, moment, body in messages(4):
        theirs = peer.generate_signature(timestamp=str(moment), body=body)
        assert theirs is not None
        headers = [
            (b"x-slack-request-timestamp", b"%d" % moment),
            (b"x-slack-signature", theirs.encode()),
        ]
        request = SignedRequest("POST", "/", headers, body)
        assert slack.verify(read_request(*request), NOW).time == moment
        ours = dict(sign(slack, "x", time=moment, body=body).headers)
        assert peer.is_valid(body, str(moment), ours[b"x-slack-signature"].decode())
        changed = tampered(chance, body)
        assert refuses(slack, request._replace(body=changed))
        assert not peer.is_valid(changed, str(moment), theirs)


def test_gidgethub() -> None:
    """gidgethub verifies what is signed here, and refuses what is refused here."""
    bad = gidgethub.ValidationFailure
    scheme = GitHub(GITHUB)
    for chance, _, moment, body in messages(5):
        ours = sign(scheme, "push", time=moment, body=body)
        header = dict(ours.headers)[b"x-hub-signature-256"].decode()
        scheme.verify(read_request(*ours), NOW)
        gidgethub.sansio.validate_event(body, signature=header, secret=GITHUB)
        changed = tampered(chance, body)
        assert refuses(scheme, ours._replace(body=changed))
        check = gidgethub.sansio.validate_event
        assert raises(bad, check, changed, signature=header, secret=GITHUB)
