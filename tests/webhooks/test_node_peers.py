"""JavaScript's implementations as signers and verifiers: the vendors' own, and the original SDK.

They need Node.js, and the packages of tests/webhooks/node installed into the directory that the
environment variable EVENTBUS_NODE_PEERS names::

    mkdir peers && cp tests/webhooks/node/package.json peers && npm install --prefix peers
    EVENTBUS_NODE_PEERS=peers python -m pytest -m slow tests/webhooks/test_node_peers.py

One process answers all cases of a peer.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from eventbus.testing import SignedRequest, sign
from eventbus.webhooks import ComponentSignature, GitHub, StandardWebhooks, Stripe
from eventbus.webhooks._jsjson import js_text
from eventbus.webhooks._query import QueryError, parse_query
from eventbus.webhooks._request import read_request
from eventbus.webhooks._strictjson import parse_json
from eventbus.webhooks.errors import InvalidJson, VerificationError
from tests.webhooks.samples import COMPONENT, GITHUB, STRIPE, WHSEC

FOLDER = os.environ.get("EVENTBUS_NODE_PEERS")
NODE = shutil.which("node")
CASES = 500

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        FOLDER is None, reason="EVENTBUS_NODE_PEERS names no directory with the npm packages"
    ),
]


def ask(peer: str, cases: list[Any]) -> list[Any]:
    """The answers of a peer to all these cases."""
    assert NODE is not None, "node is not installed"
    script = Path(__file__).parent / "node" / "peers.cjs"
    done = subprocess.run(
        [NODE, str(script), peer],
        cwd=FOLDER,
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[Any] = json.loads(done.stdout)
    assert len(answers) == len(cases)
    return answers


def body_of(chance: random.Random) -> str:
    """A random JSON text: its numbers, escapes and white space spelled in many ways."""
    return json_of(chance, 3)


def json_of(chance: random.Random, depth: int) -> str:
    kind = chance.randrange(8 if depth else 5)
    if kind < 2:
        return string_of(chance)
    if kind < 4:
        return number_of(chance)
    if kind == 4:
        return chance.choice(["null", "true", "false", "{}", "[]"])
    space = chance.choice(["", " ", "\n\t"])
    inner = [json_of(chance, depth - 1) for _ in range(chance.randrange(5))]
    if kind == 5:
        return "[" + ("," + space).join(inner) + "]"
    names = {json.loads(name): name for name in (string_of(chance) for _ in inner)}
    pairs = (f"{name}{space}:{each}" for name, each in zip(names.values(), inner, strict=False))
    return "{" + ",".join(pairs) + space + "}"


def string_of(chance: random.Random) -> str:
    alphabet = 'aZ09_ "\\/\b\f\n\r\t\x00\x1f\x7f\u00e9\u2028\u4e2d\uffee\ue000\U0001f600'
    text = "".join(chance.choices(alphabet, k=chance.randrange(12)))
    return json.dumps(text, ensure_ascii=chance.random() < 0.5)


def number_of(chance: random.Random) -> str:
    kind = chance.randrange(5)
    if kind == 0:
        return str(chance.randrange(-(10**6), 10**6))
    if kind == 1:
        return str(chance.randrange(-(10**25), 10**25))
    if kind == 2:
        return f"{chance.choice(['', '-'])}{chance.randrange(1000)}.{chance.randrange(1000):03}"
    if kind == 3:
        return f"{chance.uniform(-10, 10)!r}{chance.choice('eE')}{chance.randrange(-300, 300):+}"
    (number,) = struct.unpack("<d", chance.randbytes(8))
    return repr(number) if abs(number) < float("inf") else "-0.0"


def refuses(scheme: Any, request: SignedRequest, now: float) -> bool:
    try:
        scheme.verify(read_request(*request), now)
    except VerificationError:
        return True
    return False


def test_standardwebhooks() -> None:
    """npm's ``standardwebhooks`` signs and verifies what is verified and signed here."""
    scheme, now, cases, requests = StandardWebhooks(WHSEC), int(time.time()), [], []
    for number in range(CASES):
        chance = random.Random(number)
        moment, body = now + chance.randrange(-200, 200), body_of(chance)
        request = sign(scheme, "x", id=f"msg_{number}", time=moment, body=body.encode())
        headers = {name.decode(): value.decode() for name, value in request.headers}
        case = {"secret": WHSEC, "id": f"msg_{number}", "time": moment, "body": body}
        cases.append({**case, "headers": headers})
        requests.append(request)
    for request, answer in zip(requests, ask("standardwebhooks", cases), strict=True):
        assert answer["good"] == {"ok": True}
        assert answer["signature"].encode() == dict(request.headers)[b"webhook-signature"]
        scheme.verify(read_request(*request), now)
        assert refuses(scheme, request._replace(body=request.body + b" "), now)


def test_stripe() -> None:
    """npm's ``stripe`` signs and verifies what is verified and signed here."""
    scheme, now, cases, requests = Stripe(STRIPE), int(time.time()), [], []
    for number in range(CASES):
        chance = random.Random(number)
        moment, body = now + chance.randrange(-200, 200), body_of(chance)
        request = sign(scheme, "x", time=moment, body=body.encode())
        header = dict(request.headers)[b"stripe-signature"].decode()
        cases.append({"secret": STRIPE, "time": moment, "body": body, "header": header})
        requests.append(request)
    for request, answer in zip(requests, ask("stripe", cases), strict=True):
        assert answer["good"] == {"ok": True}
        theirs = [(b"stripe-signature", answer["header"].encode())]
        scheme.verify(read_request(*request._replace(headers=theirs)), now)
        assert refuses(scheme, request._replace(body=request.body + b" "), now)


def test_octokit() -> None:
    """GitHub's own ``@octokit/webhooks-methods`` signs and verifies what is verified here."""
    scheme, cases, requests = GitHub(GITHUB), [], []
    for number in range(CASES):
        body = body_of(random.Random(number))
        request = sign(scheme, "push", body=body.encode())
        signature = dict(request.headers)[b"x-hub-signature-256"].decode()
        cases.append({"secret": GITHUB, "body": body, "signature": signature})
        requests.append(request)
    for request, answer in zip(requests, ask("octokit", cases), strict=True):
        assert answer["good"] is True
        assert answer["signature"].encode() == dict(request.headers)[b"x-hub-signature-256"]
        assert refuses(scheme, request._replace(body=request.body + b" "), 0)


def target_of(chance: random.Random) -> str:
    """A random path and query, as senders write them."""
    path = "/" + "/".join(quote(string_of(chance)[1:-1]) for _ in range(chance.randrange(4)))
    path = path.replace("//", "/x/")
    pairs = []
    for number in range(chance.randrange(5)):
        name = quote(chance.choice(["a", "page", "é", "x y", "\U0001f600", "\uffee"]))
        suffix = chance.choice(["", "[b]", "[b][c]", "[0]", "[]"])
        pairs.append(f"{name}{number}{suffix}={quote(string_of(chance)[1:-1])}")
    return path + ("?" + "&".join(pairs) if pairs else "")


def test_blocklet_sdk() -> None:
    """The original SDK signs what is verified here, and its middleware takes what is signed here.

    It is asked to verify each request as it is and with another method, so that half of them are
    refused by it, and by us.
    """
    scheme, now, cases, requests = ComponentSignature(COMPONENT["pk"]), int(time.time()), [], []
    for number in range(CASES):
        chance = random.Random(number)
        body, target = f'{{"data":{body_of(chance)}}}', target_of(chance)
        request = sign(
            scheme,
            "x",
            method="PUT",
            target=target,
            time=now - 5,
            body=body.encode(),
            key=COMPONENT["sk"],
        )
        headers = {name.decode(): value.decode() for name, value in request.headers}
        for method in ("PUT", "POST"):
            case = {"secretKey": COMPONENT["sk"], "method": method, "target": target, "body": body}
            cases.append({**case, "headers": headers})
            requests.append(request._replace(method=method))
    for request, answer in zip(requests, ask("blocklet", cases), strict=True):
        good = request.method == "PUT"
        expected: dict[str, Any] = {"status": 200, "body": None}
        if not good:
            expected = {"status": 401, "body": {"error": "verify sig failed"}}
        assert answer["answer"] == expected, request
        assert refuses(scheme, request, now) is not good, request
        theirs = [
            (b"x-component-sig", answer["sig"].encode()),
            (b"x-component-sig-iat", b"%d" % answer["iat"]),
            (b"x-component-sig-exp", b"%d" % answer["exp"]),
        ]
        signed = read_request(*request._replace(headers=theirs))
        assert scheme.verify(signed, answer["iat"]).content == parse_json(request.body)


def test_sorted_json() -> None:
    """The sorted JSON of random bodies is the original's, byte for byte."""
    bodies = [body_of(random.Random(number)) for number in range(20 * CASES)]
    compared = 0
    for body, answer in zip(bodies, ask("json", bodies), strict=True):
        try:
            value = parse_json(body.encode())
        except InvalidJson:
            continue  # a number that is infinite
        assert js_text(value, body.encode()).decode() == answer["ok"]
        compared += 1
    assert compared > 15 * CASES


def test_queries() -> None:
    """Whatever query is read here, ``qs`` reads in the same way."""
    chance = random.Random(1)
    parts = ["a", "b", "[", "]", "=", "&", "+", "%20", "%5B", "%5D", "%ff", "0", "1", "[]", "[b]"]
    queries = ["".join(chance.choices(parts, k=chance.randrange(14))) for _ in range(40 * CASES)]
    read = 0
    for query, theirs in zip(queries, ask("qs", queries), strict=True):
        try:
            ours = parse_query(query)
        except QueryError:
            continue
        assert ours == theirs, query
        read += 1
    assert read > 4 * CASES
