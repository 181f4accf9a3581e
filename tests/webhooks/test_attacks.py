"""Attacks that other libraries let pass, and the lists of what they accept or choke on.

Each attack is shown to succeed against the peer that it was made for, and to fail here. The lists
are compared as they are: a peer that mends something makes a test fail, and its entry goes.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gidgethub
import gidgethub.sansio
import pytest
import standardwebhooks
import stripe
from slack_sdk.signature import SignatureVerifier
from starlette.datastructures import Headers

from eventbus.testing import SignedRequest, sign
from eventbus.webhooks import GitHub, StandardWebhooks, Stripe
from eventbus.webhooks._request import read_request
from eventbus.webhooks._strictjson import parse_json
from eventbus.webhooks.errors import DuplicateHeader, MalformedHeader, WebhookError
from tests.webhooks.samples import GITHUB, SLACK, STRIPE, WHSEC, slack
from tests.webhooks.standing import standing_at

if TYPE_CHECKING:
    from eventbus.webhooks._scheme import Scheme

NOW = int(time.time())
clock = standing_at(NOW)
BODY = b'{"type":"a","data":1}'

standard = StandardWebhooks(WHSEC)
peer = standardwebhooks.Webhook(WHSEC)


def ours(scheme: Scheme, request: SignedRequest) -> object:
    """What becomes of a request here: its parsed body, or a ``WebhookError``."""
    scheme.verify(read_request(*request), NOW)
    return parse_json(request.body)


def as_peers_see(request: SignedRequest) -> dict[str, str]:
    """The headers as frameworks hand them out: of two equal names, the last one counts."""
    return dict(Headers(raw=request.headers).items())


def standard_request(name: str = "msg_1", body: bytes = BODY, **changes: bytes) -> SignedRequest:
    """A good request, with these of its headers changed."""
    request = sign(standard, "x", id=name, time=NOW, body=body)
    headers = dict(request.headers)
    headers |= {f"webhook-{part}".encode(): value for part, value in changes.items()}
    return request._replace(headers=list(headers.items()))


def signature(request: SignedRequest) -> bytes:
    return dict(request.headers)[b"webhook-signature"]


# ---- The attacks


def test_a_second_id_beside_the_real_one() -> None:
    """One captured request, sent again with a second ``webhook-id``, is a new message there.

    The library is given a mapping that keeps the last id, the signed one; the application reads the
    first one to see whether it knows the message. So a replay passes as often as one likes.
    """
    captured = standard_request()
    replay = captured._replace(headers=[(b"webhook-id", b"msg_new"), *captured.headers])
    peer.verify(replay.body, as_peers_see(replay))
    assert Headers(raw=replay.headers)["webhook-id"] == "msg_new"
    with pytest.raises(DuplicateHeader):
        ours(standard, replay)


def test_a_dot_in_the_id() -> None:
    """One signature is good for two messages there: a part of the body becomes one of the id."""
    captured = sign(standard, "x", id="msg_1", time=NOW, body=b"%d.5" % NOW)
    other = standard_request(f"msg_1.{NOW}", b"5", signature=signature(captured))
    peer.verify(captured.body, as_peers_see(captured), json_parse=False)
    peer.verify(other.body, as_peers_see(other), json_parse=False)
    with pytest.raises(MalformedHeader):
        ours(standard, other)


def test_junk_in_the_base64() -> None:
    """One signature has any number of spellings there; who keys on its text sees new ones."""
    good = signature(standard_request())
    spelled = standard_request(signature=good[:10] + b"!*" + good[10:])
    peer.verify(spelled.body, as_peers_see(spelled))
    with pytest.raises(MalformedHeader):
        ours(standard, spelled)


@pytest.mark.parametrize("odd", [f"{NOW}.9", f" {NOW} ", f"{str(NOW)[0]}_{str(NOW)[1:]}"])
def test_odd_digits_in_the_timestamp(odd: str) -> None:
    """One moment has any number of spellings there."""
    spelled = standard_request(timestamp=odd.encode())
    peer.verify(spelled.body, as_peers_see(spelled))
    with pytest.raises(MalformedHeader):
        ours(standard, spelled)


# ---- What the peers accept or choke on

EXPECTED = (
    WebhookError,
    gidgethub.ValidationFailure,
    gidgethub.BadRequest,
    standardwebhooks.WebhookVerificationError,
    stripe.SignatureVerificationError,
)
"""How a verifier may say no."""


def outcome(call: Callable[..., object], *args: Any, **named: Any) -> str:
    try:
        return "refuses" if call(*args, **named) is False else "accepts"
    except Exception as error:  # what it is decides
        return "refuses" if isinstance(error, EXPECTED) else type(error).__name__


def respell(change: Callable[[bytes], bytes]) -> SignedRequest:
    return standard_request(signature=change(signature(standard_request())))


STANDARD: dict[str, tuple[SignedRequest, str]] = {
    # what is sent: the request, and what the reference implementation makes of it
    "a signature without a comma": (standard_request(signature=b"v1"), "ValueError"),
    "a signature with two commas": (standard_request(signature=b"v1,a,b"), "ValueError"),
    "a signature of one letter": (standard_request(signature=b"v1,A"), "Error"),
    "a signature not in ASCII": (standard_request(signature=b"v1,\xe9"), "ValueError"),
    "a leading space": (respell(lambda good: b" " + good), "ValueError"),
    "a trailing space": (respell(lambda good: good + b" "), "accepts"),
    "a double space": (respell(lambda good: good + b"  " + good), "accepts"),
    "junk in the base64": (respell(lambda good: b"v1,!*" + good[3:]), "accepts"),
    "a second signature of junk": (respell(lambda good: good + b" v1,!"), "accepts"),
    "a body not in UTF-8": (standard_request(body=b"\xff"), "UnicodeDecodeError"),
    "a time with a fraction": (standard_request(timestamp=b"%d.9" % NOW), "accepts"),
    "a time with spaces": (standard_request(timestamp=b" %d " % NOW), "accepts"),
    "a time with a sign": (standard_request(timestamp=b"+%d" % NOW), "accepts"),
    "a time with zeros": (standard_request(timestamp=b"%013d" % NOW), "accepts"),
    "a time with an exponent": (standard_request(timestamp=b"%d0e-1" % NOW), "accepts"),
    "a dot in the id": (standard_request("msg.1"), "accepts"),
    "a space in the id": (standard_request("msg 1"), "accepts"),
    "a body that is no JSON": (standard_request(body=b"no"), "JSONDecodeError"),
    "a duplicate key": (standard_request(body=b'{"a":1,"a":2}'), "accepts"),
    "NaN": (standard_request(body=b'{"a":NaN}'), "accepts"),
    "an infinite number": (standard_request(body=b'{"a":1e999}'), "accepts"),
    "half a surrogate pair": (standard_request(body=b'{"a":"\\ud800"}'), "accepts"),
    "5,000 digits": (standard_request(body=b"9" * 5000), "ValueError"),
    "100,000 brackets": (standard_request(body=b"[" * 100_000), "RecursionError"),
}


@pytest.mark.parametrize(("request_", "theirs"), STANDARD.values(), ids=STANDARD)
def test_where_standardwebhooks_differs(request_: SignedRequest, theirs: str) -> None:
    """What is refused here, the reference implementation accepts, or it raises something else."""
    assert outcome(ours, standard, request_) == "refuses"
    headers = {name.decode(): value.decode("latin-1") for name, value in request_.headers}
    assert outcome(peer.verify, request_.body, headers) == theirs


def stripe_header(moment: object = NOW, body: bytes = BODY) -> str:
    mac = hmac.new(STRIPE.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={mac}"


STRIPES: dict[str, tuple[str, bytes, str]] = {
    # what is sent: the header, the body, and what Stripe's library makes of it
    "a time far ahead": (stripe_header(NOW + 10**6), BODY, "accepts"),
    "a signature not in ASCII": (stripe_header()[:-1] + "é", BODY, "TypeError"),
    "two times": (stripe_header() + ",t=1", BODY, "accepts"),
    "a field of junk": (stripe_header() + ",x", BODY, "accepts"),
    "a hundred signatures": (stripe_header() + ",v1=0" * 100, BODY, "accepts"),
    "a list": (stripe_header(body=b"[]"), b"[]", "AttributeError"),
    "a duplicate key": (stripe_header(body=b'{"a":1,"a":2}'), b'{"a":1,"a":2}', "accepts"),
    "a body not in UTF-8": (stripe_header(body=b"\xff"), b"\xff", "UnicodeDecodeError"),
}


@pytest.mark.parametrize(("header", "body", "theirs"), STRIPES.values(), ids=STRIPES)
def test_where_stripe_differs(header: str, body: bytes, theirs: str) -> None:
    """What is refused here, Stripe's library accepts, or it raises something else."""
    scheme = Stripe(STRIPE)
    request = SignedRequest("POST", "/", [(b"stripe-signature", header.encode())], body)

    def event() -> object:
        scheme.verify(read_request(*request), NOW)
        return scheme.body(parse_json(body), read_request(*request))

    assert outcome(event) == "refuses"
    assert outcome(stripe.Webhook.construct_event, body, header, STRIPE) == theirs


GOOD_SLACK = dict(sign(slack, "x", time=NOW, body=BODY).headers)[b"x-slack-signature"].decode()
UNDERSCORED = f"{str(NOW)[0]}_{str(NOW)[1:]}"
SLACKS = {
    "a time of letters": ("abc", GOOD_SLACK, "ValueError"),
    "a time with a fraction": (f"{NOW}.5", GOOD_SLACK, "ValueError"),
    "a signature not in ASCII": (str(NOW), "v0=é", "TypeError"),
    "a time with underscores, so signed": (UNDERSCORED, "", "accepts"),
    "a time with spaces, so signed": (f" {NOW} ", "", "accepts"),
}


@pytest.mark.parametrize(("moment", "given", "theirs"), SLACKS.values(), ids=SLACKS)
def test_where_slack_differs(moment: str, given: str, theirs: str) -> None:
    """What is refused here, Slack's library accepts, or it raises something else."""
    verifier = SignatureVerifier(SLACK)
    given = given or verifier.generate_signature(timestamp=moment, body=BODY) or ""
    headers = [
        (b"x-slack-request-timestamp", moment.encode()),
        (b"x-slack-signature", given.encode()),
    ]
    assert outcome(ours, slack, SignedRequest("POST", "/", headers, BODY)) == "refuses"
    assert outcome(verifier.is_valid, BODY, moment, given) == theirs


def test_where_gidgethub_differs() -> None:
    """What is refused here, gidgethub accepts, or it raises something else."""
    scheme = GitHub(GITHUB)
    weak = "sha1=" + hmac.new(GITHUB.encode(), BODY, hashlib.sha1).hexdigest()
    for header, theirs in ((weak, "accepts"), ("sha256=é", "TypeError")):
        headers = [(b"x-hub-signature-256", header.encode())]
        assert outcome(ours, scheme, SignedRequest("POST", "/", headers, BODY)) == "refuses"
        check = gidgethub.sansio.validate_event
        assert outcome(check, BODY, signature=header, secret=GITHUB) == theirs
    twice = sign(scheme, "push", body=b'{"a":1,"a":2}')
    given = {name.decode(): value.decode() for name, value in twice.headers}
    assert outcome(ours, scheme, twice) == "refuses"
    assert outcome(gidgethub.sansio.Event.from_http, given, twice.body, secret=GITHUB) == "accepts"
    given["content-type"] = "application/json; charset=nope"
    crash = outcome(gidgethub.sansio.Event.from_http, given, twice.body, secret=GITHUB)
    assert crash == "LookupError"
