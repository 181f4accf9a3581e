"""Each scheme: known answers, round trips, and what exactly is refused as what."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from eventbus.testing import SignedRequest, sign
from eventbus.webhooks import (
    BlockletServer,
    ComponentSignature,
    GitHub,
    HmacSignature,
    StandardWebhooks,
    Stripe,
)
from eventbus.webhooks._request import read_request
from eventbus.webhooks._scheme import UNPARSED, message_key
from eventbus.webhooks.errors import (
    DuplicateHeader,
    MalformedHeader,
    MissingHeader,
    NoMatchingSignature,
    TimestampTooNew,
    TimestampTooOld,
    VerificationError,
    WebhookError,
)
from tests.webhooks.samples import (
    BLOCKLET,
    COMPONENT,
    GITHUB,
    NOW,
    SAMPLES,
    STRIPE,
    VECTORS,
    WHPK,
    WHSEC,
    WHSK,
    Sample,
    raw,
    replaced,
    verify,
)

MESSAGE = "msg_p5jXN8AQM9LWM0D4loKWxJek"
MOMENT = 1614265330
BODY = b'{"test": 2432232314}'
V1 = b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
V1A = (
    b"v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
)

every_scheme = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)


def standard(signature: bytes, prefix: str = "webhook", **changes: bytes) -> SignedRequest:
    """The example of the Standard Webhooks specification, with this signature."""
    parts = {"id": MESSAGE.encode(), "timestamp": b"%d" % MOMENT, "signature": signature, **changes}
    headers = [(f"{prefix}-{name}".encode(), value) for name, value in parts.items()]
    return SignedRequest("POST", "/", headers, BODY)


# ---- Known answers


@pytest.mark.parametrize(("secret", "signature"), [(WHSEC, V1), (WHPK, V1A)], ids=["v1", "v1a"])
def test_standard_webhooks_own_examples(secret: str, signature: bytes) -> None:
    """The specification's example signatures are good, and ``sign`` makes the very same."""
    scheme = StandardWebhooks(secret)
    verified = scheme.verify(raw(standard(signature)), MOMENT)
    assert (verified.id, verified.time, verified.content) == (MESSAGE, MOMENT, UNPARSED)
    key = WHSK if secret == WHPK else None
    made = sign(scheme, "x", id=MESSAGE, time=MOMENT, body=BODY, key=key)
    assert dict(made.headers)[b"webhook-signature"] == signature


@pytest.mark.parametrize("case", COMPONENT["cases"], ids=lambda case: case["name"])
def test_component_signatures_of_the_original_sdk(case: dict[str, Any]) -> None:
    """What the JavaScript SDK has signed is good here, and ``sign`` makes the very same."""
    target = case["url"].removeprefix("https://example.com")
    if case["params"]:
        target += "?livemode=false&page=1"
    scheme = ComponentSignature(COMPONENT["pk"])
    made = sign(
        scheme,
        "x",
        method=case["method"],
        target=target,
        body=json.dumps(case["data"]).encode(),
        time=case["iat"],
        key=COMPONENT["sk"],
    )
    assert dict(made.headers)[b"x-component-sig"] == case["sig"].encode()
    verified = scheme.verify(raw(made), case["exp"] + 0.9)
    assert verified.content == case["data"]
    assert verified.remember == pytest.approx(0.1)


def test_blocklet_servers_own_signature() -> None:
    """What Blocklet Server has signed is good here, and ``sign`` makes the very same."""
    vector = json.loads((VECTORS / "blocklet-server.json").read_text(encoding="utf-8"))
    scheme = BlockletServer(BLOCKLET)
    body = vector["raw"].encode()
    made = sign(scheme, "x", body=body, time=vector["timestamp"])
    assert dict(made.headers)[b"x-webhook-signature"] == vector["header"].encode()
    event, _ = verify(scheme, made)
    assert (event.type, event.subject) == ("customer.subscription.renewed", "sub_x")


def test_githubs_own_example() -> None:
    """The example of GitHub's documentation is good."""
    headers = [
        (
            b"X-Hub-Signature-256",
            b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
        )
    ]
    request = read_request("POST", "/", headers, b"Hello, World!")
    assert GitHub(GITHUB).verify(request, NOW).remember == 3600


def test_slacks_own_example() -> None:
    """The example of Slack's documentation is good."""
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&"
        b"channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&"
        b"command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands"
        b"%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&"
        b"trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    example = HmacSignature(
        "8f742231b10e8888abcd99yyyzzz85a5",
        header="X-Slack-Signature",
        prefix="v0=",
        signed="v0:{timestamp}:{body}",
        timestamp_header="X-Slack-Request-Timestamp",
    )
    headers = [
        (b"X-Slack-Request-Timestamp", b"1531420618"),
        (
            b"X-Slack-Signature",
            b"v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
        ),
    ]
    assert example.verify(read_request("POST", "/", headers, body), 1531420618).time == 1531420618


# ---- Round trips, and changes


@every_scheme
def test_what_is_signed_verifies(sample: Sample) -> None:
    """What ``sign`` makes, a receiver accepts, with the type, data and time that were given."""
    request = sample.sign("issues.opened", {"object": {"id": "x"}}, id="evt_1", target="/a?b[c]=1")
    event, verified = verify(sample.scheme, request)
    assert event.type == "issues.opened"
    assert event.data["object"] == {"id": "x"}
    assert event.id == "evt_1" or not verified.id  # where the id is sent, and is signed
    assert event.time.timestamp() == NOW or not sample.timed
    assert len(verified.key) == 32


@every_scheme
def test_what_was_signed_cannot_be_changed(sample: Sample) -> None:
    """Another body, or another bit of the signature, and nothing fits."""
    request = sample.sign("issues.opened", {"object": {"id": "x"}})
    longer = request._replace(body=request.body.replace(b'"x"', b'"y"'))
    with pytest.raises(NoMatchingSignature):
        verify(sample.scheme, longer)
    for name, value in request.headers:
        if name.endswith((b"sig", b"signature", b"sha256")):
            changed = value[:-8] + (b"0" if value[-8:-7] != b"0" else b"1") + value[-7:]
            with pytest.raises(VerificationError):
                verify(sample.scheme, replaced(request, name, changed))


@every_scheme
def test_another_key_does_not_fit(sample: Sample) -> None:
    """What somebody else has signed is refused."""
    other = {
        "standard-webhooks": "whsec_" + "A" * 32,
        "component-signature": "0x" + "11" * 32,
    }.get(sample.scheme.name, "whsec_somebody-elses-secret")
    request = sign(sample.scheme, "issues.opened", {}, time=NOW, key=other)
    with pytest.raises(NoMatchingSignature):
        verify(sample.scheme, request)


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("v1", StandardWebhooks([WHPK, "whsec_" + "A" * 32, WHSEC])),
        ("v1a", StandardWebhooks([WHSEC, "whpk_" + "A" * 43 + "=", WHPK])),
        ("stripe", Stripe(["whsec_old-secret-of-the-endpoint", STRIPE])),
        ("github", GitHub(["the old secret of the hook", GITHUB])),
        ("component", ComponentSignature(["0x" + "00" * 32, COMPONENT["pk"]])),
        ("blocklet", BlockletServer(["0" * 64, BLOCKLET])),
        (
            "shopify",
            HmacSignature(
                ["an old secret of the app", "hush-this-is-the-secret-of-the-app"],
                header="X-Shopify-Hmac-Sha256",
                encoding="base64",
            ),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_secret_is_tried(name: str, scheme: Any) -> None:
    """While a sender changes its secret, the old and the new one are good."""
    event, _ = verify(scheme, SAMPLES[name].sign("issues.opened"))
    assert event.type == "issues.opened"


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("v1", StandardWebhooks([WHSEC, "whsec_" + "A" * 32])),
        ("stripe", Stripe([STRIPE, "whsec_new-secret-of-the-endpoint"])),
        ("github", GitHub([GITHUB, "the new secret of the hook"])),
        ("blocklet", BlockletServer([BLOCKLET, "0" * 64])),
        (
            "shopify",
            HmacSignature(
                ["hush-this-is-the-secret-of-the-app", "the new secret of the app"],
                header="X-Shopify-Hmac-Sha256",
                encoding="base64",
            ),
        ),
    ],
    ids=["v1", "stripe", "github", "blocklet", "shopify"],
)
def test_no_secret_spoils_another(name: str, scheme: Any) -> None:
    """That the last secret or signature does not fit takes nothing from one that does."""
    request = SAMPLES[name].sign("issues.opened")
    verify(scheme, request)
    if name in ("v1", "stripe"):
        header, value = request.headers[-1]
        more = b" v1," + b"A" * 43 + b"=" if name == "v1" else b",v1=" + HEX
        verify(scheme, replaced(request, header, value + more))


# ---- Replays


def test_keys_of_other_messages_differ() -> None:
    """Neither another scheme nor another division of the same bytes gives the same key."""
    parts = [
        ("a", b"b", b"c"),
        ("ab", b"", b"c"),
        ("a", b"bc", b""),
        ("a", b"", b"bc"),
        ("", b"ab", b"c"),
    ]
    assert len({message_key(*each) for each in parts}) == len(parts)


@every_scheme
def test_a_replay_has_the_same_key(sample: Sample) -> None:
    """The same request has the same key; another message has another one."""
    request = sample.sign("issues.opened", {"n": 1}, id="evt_1")
    first = verify(sample.scheme, request)[1].key
    assert verify(sample.scheme, request, NOW + 1)[1].key == first
    other = sample.sign("issues.opened", {"n": 2}, id="evt_2")
    assert verify(sample.scheme, other)[1].key != first


@pytest.mark.parametrize("name", ["v1", "v1a", "stripe", "component", "blocklet", "signed-id"])
def test_a_senders_retry_has_the_same_key(name: str) -> None:
    """A message that is signed anew for another attempt is still the same message."""
    sample = SAMPLES[name]
    body = sample.sign("issues.opened", {"n": 1}, id="evt_1").body
    keys = {
        verify(sample.scheme, sample.sign("x", id="evt_1", body=body, time=NOW + late), NOW)[1].key
        for late in (0, 10, 70)
    }
    assert len(keys) == 1


@every_scheme
def test_how_long_a_replay_would_pass(sample: Sample) -> None:
    """``remember`` is true: until then a replay verifies, and after it no more."""
    request = sample.sign("issues.opened")
    remember = verify(sample.scheme, request, NOW + 7)[1].remember
    verify(sample.scheme, request, NOW + 7 + remember - 0.01)
    if sample.timed:
        with pytest.raises(TimestampTooOld) as raised:
            verify(sample.scheme, request, NOW + 7 + remember + 0.01)
        assert raised.value.skew > 0
    else:
        assert remember == 3600


@every_scheme
def test_a_request_from_the_future(sample: Sample) -> None:
    """A time up to 300 s ahead is good, and no later one."""
    request = sample.sign("issues.opened")
    verify(sample.scheme, request, NOW - 300)
    if sample.timed:
        with pytest.raises(TimestampTooNew) as raised:
            verify(sample.scheme, request, NOW - 300.5)
        assert raised.value.skew == 300.5


def test_a_signature_is_looked_at_before_the_time() -> None:
    """Whoever cannot sign does not learn whether only the time is wrong."""
    request = SAMPLES["v1"].sign("a")
    with pytest.raises(NoMatchingSignature):
        verify(StandardWebhooks("whsec_" + "A" * 32), request, NOW + 1000)


# ---- What is refused as what


@dataclass(frozen=True)
class Refusal:
    sample: str
    header: bytes
    value: bytes | None
    error: type[WebhookError]


GOOD_V1 = V1[3:]
HEX = b"0" * 64

REFUSALS = [
    Refusal("v1", b"webhook-id", None, MissingHeader),
    Refusal("v1", b"webhook-timestamp", None, MissingHeader),
    Refusal("v1", b"webhook-signature", None, MissingHeader),
    *(
        Refusal("v1", b"webhook-id", value, MalformedHeader)
        for value in (b"", b"msg.1", b"msg 1", b"a" * 257, b"msg\xe9", b"msg\n", b"msg\x7f")
    ),
    *(
        Refusal("v1", b"webhook-timestamp", value, MalformedHeader)
        for value in (
            b"",
            b"-1",
            b"+1740000000",
            b" 1740000000",
            b"1740000000.0",
            b"1_740_000_000",
            b"1.74e9",
            b"1740000000abc",
            "١٧٤".encode(),
            b"1740000000\n",
            b"0" * 13,
        )
    ),
    *(
        Refusal("v1", b"webhook-signature", value, MalformedHeader)
        for value in (
            b"",
            b"v1",
            b"v1,",
            b"v1,A",
            b"v1,a,b",
            b"v1,\xc3\xa9",
            b"V1," + GOOD_V1,
            b" " + V1,
            V1 + b" ",
            V1 + b"  " + V1,
            V1[:-1],
            V1 + b"=",
            b"v1,!" + GOOD_V1,
            b"v1,-_" + GOOD_V1[2:],
            b"v1," + GOOD_V1[:-2] + b"F=",  # the letter before the padding has bits to spare
            V1A[:-3] + b"h==",
            b" ".join([V1] * 17),
            b"v9," + b"A" * 4096,
        )
    ),
    *(
        Refusal("v1", b"webhook-signature", value, NoMatchingSignature)
        for value in (V1, V1A, b"v2," + GOOD_V1, b" ".join([V1] * 16))
    ),
    Refusal("v1a", b"webhook-signature", V1A, NoMatchingSignature),
    Refusal("v1a", b"webhook-signature", V1, NoMatchingSignature),
    Refusal("stripe", b"stripe-signature", None, MissingHeader),
    *(
        Refusal("stripe", b"stripe-signature", value, MalformedHeader)
        for value in (
            b"",
            b"v1=" + HEX,
            b"t=1740000000,t=1740000000,v1=" + HEX,
            b"t=1_740_000_000,v1=" + HEX,
            b"t=,v1=" + HEX,
            b"t=1740000000, v1=" + HEX,
            b"t=1740000000,v1=" + HEX[1:],
            b"t=1740000000,v1=" + b"A" * 64,
            b"t=1740000000,v1=\xe9",
            b"t=1740000000,v1=" + HEX + b",",
            b"t=1740000000" + b",v1=" * 5,
            b"t=1740000000" + (b",v1=" + HEX) * 18,
            b"t=1740000000,v9=" + b"a" * 4096,
        )
    ),
    *(
        Refusal("stripe", b"stripe-signature", value, NoMatchingSignature)
        for value in (
            b"t=1740000000",
            b"t=1740000000,v0=" + HEX,
            b"t=1740000000,v1=" + HEX,
            b"t=1740000000" + (b",v1=" + HEX) * 16,
        )
    ),
    Refusal("blocklet", b"x-webhook-signature", None, MissingHeader),
    Refusal("blocklet", b"x-webhook-signature", HEX, MalformedHeader),
    Refusal("github", b"x-hub-signature-256", None, MissingHeader),
    *(
        Refusal("github", b"x-hub-signature-256", value, MalformedHeader)
        for value in (b"", HEX, b"sha1=" + b"0" * 40, b"sha256=" + HEX + b"0", b"sha256=\xe9")
    ),
    Refusal("github", b"x-hub-signature-256", b"sha256=" + HEX, NoMatchingSignature),
    Refusal("slack", b"x-slack-signature", None, MissingHeader),
    Refusal("slack", b"x-slack-request-timestamp", None, MissingHeader),
    Refusal("slack", b"x-slack-request-timestamp", b"17e8", MalformedHeader),
    Refusal("slack", b"x-slack-signature", b"v1=" + HEX, MalformedHeader),
    Refusal("slack", b"x-slack-signature", b"v0=" + HEX, NoMatchingSignature),
    Refusal("shopify", b"x-shopify-hmac-sha256", HEX, MalformedHeader),
    Refusal("shopify", b"x-shopify-hmac-sha256", GOOD_V1, NoMatchingSignature),
    Refusal("signed-id", b"x-id", None, MissingHeader),
    Refusal("signed-id", b"x-id", b"a.b", MalformedHeader),
    Refusal("signed-id", b"x-id", b"evt_2", NoMatchingSignature),
    Refusal("component", b"x-component-sig", None, MissingHeader),
    Refusal("component", b"x-component-sig-iat", None, MissingHeader),
    Refusal("component", b"x-component-sig-exp", None, MissingHeader),
    Refusal("component", b"x-component-sig-iat", b"1740000000.0", MalformedHeader),
    Refusal("component", b"x-component-sig-exp", b"1740003601", MalformedHeader),
    Refusal("component", b"x-component-sig-iat", b"1740000200", NoMatchingSignature),
    Refusal("component", b"x-component-sig-exp", b"1739999999", TimestampTooOld),
    Refusal("component", b"x-component-sig-iat", b"1740000301", TimestampTooNew),
    Refusal("component", b"x-component-sig", b"00" * 64, MalformedHeader),
    Refusal("component", b"x-component-sig", b"0x" + b"0" * 127, MalformedHeader),
    Refusal("component", b"x-component-sig", b"0x" + b"f" * 128, NoMatchingSignature),
    Refusal("component", b"x-path-prefix", b"no/path", MalformedHeader),
]


@pytest.mark.parametrize(
    "case", REFUSALS, ids=lambda case: f"{case.sample}-{case.header.decode()}-{case.value!r:.40}"
)
def test_each_bad_header_has_its_error(case: Refusal) -> None:
    """A header that is missing, malformed or false is refused as what it is."""
    sample = SAMPLES[case.sample]
    request = replaced(sample.sign("issues.opened", id="evt_1"), case.header, case.value)
    if case.header == b"x-path-prefix":
        request = request._replace(target="/another")  # the prefix is looked at when nothing fits
    with pytest.raises(WebhookError) as raised:
        verify(sample.scheme, request)
    assert type(raised.value) is case.error
    assert raised.value.status == (400 if str(raised.value) == "x-component-sig" else 401)


@every_scheme
def test_a_repeated_header_is_refused(sample: Sample) -> None:
    """A header that the scheme looks at may come once, even with the same value."""
    request = sample.sign("issues.opened", id="evt_1")
    signed = [pair for pair in request.headers if pair[0] != b"content-type"]
    looked_at = [pair for pair in signed if pair[0] != b"x-component-sig-version"]
    for pair in looked_at:
        with pytest.raises(DuplicateHeader):
            verify(sample.scheme, request._replace(headers=[*request.headers, pair]))


# ---- Standard Webhooks


def test_svix_headers_only_if_asked_for() -> None:
    """``svix-*`` counts if it was asked for and nothing of the standard's is there."""
    request = raw(standard(V1, "svix"))
    assert StandardWebhooks(WHSEC, svix_headers=True).verify(request, MOMENT).id == MESSAGE
    with pytest.raises(MissingHeader):
        StandardWebhooks(WHSEC).verify(request, MOMENT)
    both = [*standard(V1, "svix").headers, (b"webhook-id", b"msg_other")]
    with pytest.raises(MissingHeader):
        StandardWebhooks(WHSEC, svix_headers=True).verify(
            read_request("POST", "/", both, BODY), MOMENT
        )


def test_one_good_signature_among_others() -> None:
    """Signatures of other keys, other versions and unknown versions do not matter."""
    header = b" ".join([b"v7,what-ever", V1A, b"v1," + b"A" * 43 + b"=", V1])
    assert StandardWebhooks(WHSEC).verify(raw(standard(header)), MOMENT).id == MESSAGE


# ---- The component signature


def component(**options: Any) -> SignedRequest:
    return SAMPLES["component"].sign("invoice.paid", {"amount": 1}, **options)


def test_the_answers_of_the_original() -> None:
    """Without a signature 400, else 401, with the bodies that ``verifySig`` answers."""
    scheme = SAMPLES["component"].scheme
    for request, status, answer in (
        (replaced(component(), b"x-component-sig", None), 400, b'{"error":"Bad Request"}'),
        (
            replaced(component(), b"x-component-sig-iat", None),
            401,
            b'{"error":"verify sig failed"}',
        ),
        (component()._replace(body=b"{"), 401, b'{"error":"verify sig failed"}'),
    ):
        with pytest.raises(VerificationError) as raised:
            verify(scheme, request)
        assert (raised.value.status, raised.value.answer) == (status, answer)


@pytest.mark.parametrize(
    ("target", "prefix", "good"),
    [
        ("/app/hook", None, True),
        ("/hook", None, False),
        ("/hook", b"/app", True),
        ("/hook", b"/app/", True),
        ("/app/hook", b"/app", True),
        ("/hook", b"/other", False),
        ("/app/hook/", None, False),
        ("/app/hook?", None, True),
        ("/app/hook?a=1", None, False),
        ("//app/hook", None, False),
        ("http://host/app/hook", None, False),
        ("/app/hook#x", None, False),
        ("/app\\hook", None, False),
        ("/app/hook?a[b]c=1", None, False),
        ("*", None, False),
        ("", None, False),
    ],
)
def test_the_path_is_signed(target: str, prefix: bytes | None, good: bool) -> None:
    """The path counts as it is written, or with what a router says that it has taken off."""
    request = component(target="/app/hook")._replace(target=target)
    if prefix is not None:
        request = replaced(request, b"x-path-prefix", prefix)
    if good:
        verify(SAMPLES["component"].scheme, request)
    else:
        with pytest.raises(NoMatchingSignature):
            verify(SAMPLES["component"].scheme, request)


def test_a_prefix_is_not_put_twice() -> None:
    """A path that begins with what was taken off has nothing taken off, as in the original."""
    request = component(target="/app/app/hook")._replace(target="/app/hook")
    with pytest.raises(NoMatchingSignature):
        verify(SAMPLES["component"].scheme, replaced(request, b"x-path-prefix", b"/app"))


def test_a_target_has_8_kib_at_most() -> None:
    """A target that is longer was signed by nobody."""
    component(target="/" + "a" * 8191)
    with pytest.raises(NoMatchingSignature):
        component(target="/" + "a" * 8192)


def test_no_signature_ends_before_it_begins() -> None:
    """An expiry before the time of signing is malformed."""
    request = replaced(component(time=NOW + 100), b"x-component-sig-exp", b"%d" % (NOW + 99))
    with pytest.raises(MalformedHeader):
        verify(SAMPLES["component"].scheme, request)


def test_a_prefix_before_the_root() -> None:
    """A router that has taken the whole path off leaves the root."""
    request = component(target="/app")._replace(target="/")
    verify(SAMPLES["component"].scheme, replaced(request, b"x-path-prefix", b"/app"))


def test_the_method_is_signed() -> None:
    """Another method, and the signature does not fit; its case does not matter."""
    verify(SAMPLES["component"].scheme, component(method="PUT")._replace(method="put"))
    for method in ("POST", "PÜT", "\ud800"):
        with pytest.raises(NoMatchingSignature):
            verify(SAMPLES["component"].scheme, component(method="PUT")._replace(method=method))


@pytest.mark.parametrize("body", [b"", b"null", b"{}"])
def test_no_body_is_an_empty_object(body: bytes) -> None:
    """No body, ``null`` and an empty object are signed alike, as in the original."""
    request = component(body=b"{}")._replace(body=body)
    assert SAMPLES["component"].scheme.verify(raw(request), NOW).content == {}


@pytest.mark.parametrize(
    "body", [b"{", b'{"a":1,"a":1}', b"9" * 309, b" " * 2**18 + b"{}"], ids=lambda b: b[:9].decode()
)
def test_bodies_that_nobody_has_signed(body: bytes) -> None:
    """What does not parse strictly, or is too long, fails as a bad signature does."""
    with pytest.raises(NoMatchingSignature):
        verify(SAMPLES["component"].scheme, component(body=b"{}")._replace(body=body))


def test_a_lifetime_can_be_limited() -> None:
    """What is good for longer than the receiver allows is refused."""
    strict = ComponentSignature(COMPONENT["pk"], lifetime=60)
    with pytest.raises(MalformedHeader, match="300 s"):
        verify(strict, component())
    verify(strict, sign(strict, "a", time=NOW, key=COMPONENT["sk"]))


LEGACY = ComponentSignature(COMPONENT["pk"], legacy_body_only=True)


def legacy(body: bytes, text: bytes) -> SignedRequest:
    """A request of an old sender, who has signed this text."""
    import hashlib

    from eventbus.webhooks._secrets import SigningKey

    key = SigningKey(bytes.fromhex(COMPONENT["sk"][2:]))
    signature = key.sign(hashlib.sha3_256(text).digest())
    headers = [(b"x-component-sig", b"0x" + signature.hex().encode())]
    return SignedRequest("POST", "/", headers, body)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"b": 1, "a": 2.0}', b'{"a":2,"b":1}'),
        (b"", b"{}"),
        (b"0", b"{}"),
        (b"[]", b"[]"),
        (b"[0]", b"[0]"),
    ],
)
def test_the_legacy_form_only_if_asked_for(body: bytes, text: bytes) -> None:
    """A signature of the body alone is good if the receiver says so, and then without a time."""
    request = raw(legacy(body, text))
    verified = LEGACY.verify(request, NOW)
    assert (verified.time, verified.remember) == (None, 3600)
    with pytest.raises(MissingHeader):
        ComponentSignature(COMPONENT["pk"]).verify(request, NOW)


def test_the_newer_form_is_no_legacy_body() -> None:
    """Nobody can send the text of a signed request as a body, without its time and path."""
    case = COMPONENT["cases"][0]
    headers = [(b"x-component-sig", case["sig"].encode())]
    request = SignedRequest("POST", "/elsewhere", headers, case["canonical"].encode())
    with pytest.raises(NoMatchingSignature):
        verify(LEGACY, request)


def test_the_newer_form_stays_good_beside_the_legacy_one() -> None:
    """A receiver that takes the legacy form checks newer requests as ever."""
    verify(LEGACY, component())
    with pytest.raises(TimestampTooOld):
        verify(LEGACY, component(), NOW + 400)


# ---- What they look like


@every_scheme
def test_reprs_show_no_secret(sample: Sample) -> None:
    """A scheme's ``repr`` names it and counts its keys."""
    shown = repr(sample.scheme)
    assert shown.startswith(f"<{type(sample.scheme).__name__}")
    assert shown.endswith(": 1>")


@pytest.mark.parametrize("scheme", [SAMPLES["v1a"].scheme, SAMPLES["component"].scheme])
def test_public_keys_do_not_sign(scheme: Any) -> None:
    """A scheme that only knows public keys says what it needs to sign."""
    with pytest.raises(ValueError, match=r"private key|secret key"):
        sign(scheme, "a")


def test_bodies_may_be_large() -> None:
    """The schemes whose senders need it say how large a body may be, in bytes."""
    assert GitHub.max_body == 25 * 1024 * 1024
    assert ComponentSignature.max_body == 256 * 1024
