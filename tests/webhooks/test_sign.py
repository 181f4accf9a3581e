"""``eventbus.testing.sign``: requests without their senders."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from eventbus.errors import OptionError
from eventbus.testing import SignedRequest, sign
from tests.webhooks.samples import NOW, SAMPLES, verify


def test_a_request_is_what_a_receiver_takes() -> None:
    """Method, target, headers and body come in the order of a receiver's arguments."""
    request = sign(SAMPLES["v1"].scheme, "invoice.paid", {"id": "in_1"}, id="msg_1", time=NOW)
    assert request._fields == ("method", "target", "headers", "body")
    assert (request.method, request.target) == ("POST", "/")
    assert [name for name, _ in request.headers] == [
        b"content-type",
        b"webhook-id",
        b"webhook-timestamp",
        b"webhook-signature",
    ]
    assert json.loads(request.body) == {
        "id": "msg_1",
        "type": "invoice.paid",
        "timestamp": "2025-02-19T21:20:00.000Z",
        "data": {"id": "in_1"},
    }


@pytest.mark.parametrize("time", [NOW, float(NOW), datetime.fromtimestamp(NOW, UTC)])
def test_time_in_any_form(time: Any) -> None:
    """A moment is a datetime, or UNIX seconds."""
    request = sign(SAMPLES["stripe"].scheme, "a", time=time)
    verify(SAMPLES["stripe"].scheme, request, NOW + 300)


@pytest.mark.parametrize("name", ["v1", "stripe", "component"])
def test_when_it_happened(name: str) -> None:
    """A message that is signed now may tell of something that happened long ago."""
    long_ago = datetime(2020, 2, 2, tzinfo=UTC)
    sample = SAMPLES[name]
    assert verify(sample.scheme, sample.sign(happened=long_ago))[0].time == long_ago


def test_by_default_it_is_now_and_new() -> None:
    """Without a time it is signed now; without an id, each request is a new message."""
    scheme = SAMPLES["v1"].scheme
    first, second = (sign(scheme, "a") for _ in range(2))
    now = datetime.now(UTC).timestamp()
    keys = {verify(scheme, request, now)[1].key for request in (first, second)}
    assert len(keys) == 2


def test_a_body_and_headers_of_ones_own() -> None:
    """A given body is signed as it is; given headers are sent along."""
    scheme = SAMPLES["github"].scheme
    body = b'{"ref":"r","before":"b","after":"a","commits":[]}'
    request = sign(scheme, "push", body=body, headers=[(b"user-agent", b"GitHub-Hookshot/1")])
    assert request.body == body
    assert (b"user-agent", b"GitHub-Hookshot/1") in request.headers
    assert verify(scheme, request)[0].type == "push"


def test_any_signer_will_do() -> None:
    """Whatever has ``sign`` is asked, with all that it may need."""

    class Signer:
        def sign(
            self, type: str, data: Any, **asked: Any
        ) -> tuple[list[tuple[bytes, bytes]], bytes]:
            assert (type, data) == ("a", 1)
            assert asked.pop("id") == "m"
            assert asked.pop("time") == datetime.fromtimestamp(NOW, UTC)
            assert asked.pop("happened") is None
            assert asked == {"method": "PUT", "target": "/x", "body": None, "key": "k"}
            return [(b"x-proof", b"1")], b"{}"

    request = sign(Signer(), "a", 1, id="m", time=NOW, method="PUT", target="/x", key="k")
    assert request == SignedRequest(
        "PUT", "/x", [(b"content-type", b"application/json"), (b"x-proof", b"1")], b"{}"
    )


@pytest.mark.parametrize("name", ["v1a", "component"])
def test_nothing_to_sign_with(name: str) -> None:
    """A scheme of public keys says which key it needs."""
    with pytest.raises(OptionError, match="pass"):
        sign(SAMPLES[name].scheme, "a")
    with pytest.raises(OptionError):
        sign(SAMPLES[name].scheme, "a", key="no key")
