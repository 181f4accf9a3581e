"""What the fuzzers of webhooks share: from any bytes to a request, and what must become of it.

An input is the number of a sample, and up to seven parts with ``fe`` between them, a byte that
UTF-8 never has: the target, values for the scheme's own headers, the body::

    02 /hook fe t=1740000000,v1=00 fe {"type":"a.b"}

A header whose part is empty, or missing, stays as the sender would send it, so that inputs reach
the code behind the signature too; one that begins with ``ff`` comes twice.

The corpus in corpus/guided.txt is what the coverage-guided fuzzer in guided.py has found.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from eventbus import Event
from eventbus.webhooks._request import Request
from eventbus.webhooks._verification import verify_request
from eventbus.webhooks.errors import WebhookError
from tests.webhooks.samples import NOW, SAMPLES, Sample

if TYPE_CHECKING:
    from eventbus.testing import SignedRequest

CORPUS = Path(__file__).parent / "corpus" / "guided.txt"
STATUSES = {400, 401, 422}


class Target:
    """A sample, and the request that its sender would send."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.base = sample.sign("push", {"ref": "r"}, id="evt_1", target="/hook")
        self.names = [name for name, _ in self.base.headers[1:]]

    def sign(self, target: str, body: bytes) -> SignedRequest:
        """The request with another body, signed, or as it is if nobody would sign that."""
        try:
            return self.sample.sign("push", id="evt_1", target=target, body=body)
        except WebhookError:
            return self.base._replace(target=target, body=body)


TABLE = [Target(sample) for sample in SAMPLES.values()]


def request_of(data: bytes) -> tuple[Target, Request]:
    """The request that an input stands for."""
    target = TABLE[data[0] % len(TABLE)] if data else TABLE[0]
    parts = data[1:].split(b"\xfe", 6)
    path = parts[0].decode("latin-1") or "/hook"
    body = parts[-1]
    given = parts[1:-1]
    whole = len(given) == len(target.names) and all(given)
    signed = target.base if whole else target.sign(path, body)
    headers = list(signed.headers)
    for at, value in enumerate(given[: len(target.names)], start=1):
        if value:
            headers[at] = (headers[at][0], value.removeprefix(b"\xff"))
        if value.startswith(b"\xff"):
            headers.append(headers[at])
    return target, Request("POST", path, tuple(headers), body)


def check(data: bytes) -> str:
    """Verify the request of an input: an event, or a typed error that says nothing secret.

    The answer is the name of the outcome. Whatever else is raised is a bug.
    """
    target, request = request_of(data)
    scheme = target.sample.scheme
    try:
        draft, verified = verify_request(scheme, scheme.body, "{type}", request, NOW)
    except WebhookError as refusal:
        return _checked(refusal, request)
    assert isinstance(draft.event(), Event)
    assert len(verified.key) == 32
    assert 0 <= verified.remember <= 7200
    return "event"


def _checked(refusal: WebhookError, request: Request) -> str:
    text = str(refusal)
    assert refusal.status in STATUSES, text
    assert len(text) < 200, text
    if len(request.body) > 30:
        assert request.body.decode("latin-1") not in text
    return type(refusal).__name__


def read_corpus() -> list[bytes]:
    """The inputs that are kept, each of which reaches code that the others do not."""
    lines = CORPUS.read_text(encoding="ascii").splitlines()
    return [base64.b64decode(line) for line in lines if not line.startswith("#")]


TOKENS = [
    b"\xfe",
    b"\xff",
    b"\x00",
    b"v1,",
    b"v1a,",
    b"t=1740000000,",
    b"v1=",
    b"sha256=",
    b"0x",
    b"1740000000",
    b" ",
    b",",
    b"=",
    b".",
    b"*",
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b"\\u0061",
    b"\\ud800",
    b"1e999",
    b"NaN",
    b"-0.0",
    b"9" * 310,
    b"[" * 70,
    b'"type":',
    b'"id":',
    b'"timestamp":"2025-02-19T21:20:00Z"',
    b'"created":',
    b"$eventName",
    b"?a[b]=1&c[]=%20",
    b"\xef\xbb\xbf",
]


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    """An input near one of these."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(5)
        if kind == 0:
            data[at:at] = chance.choice(TOKENS)
        elif kind == 1:
            data[at : at + chance.randrange(1, 9)] = b""
        elif kind == 2 and data:
            data[at % len(data)] = chance.randrange(256)
        elif kind == 3:
            other = chance.choice(seeds)
            data[at:] = other[chance.randrange(len(other) + 1) :]
        else:
            data[at:at] = chance.randbytes(chance.randrange(1, 5))
    return bytes(data[:4096])


def seeds() -> Iterator[bytes]:
    """For each sample, what its sender would send: signed here, and signed beforehand."""
    for number, target in enumerate(TABLE):
        head = bytes([number]) + b"/hook\xfe"
        yield head + target.base.body
        values = [value for _, value in target.base.headers[1:]]
        yield head + b"\xfe".join([*values, target.base.body])
