"""Workload 12: what a webhook costs, from the ASGI application's call to its answer.

Requests that are signed as Standard Webhooks says go through applications in this process, with no
network; what counts is processor time. A route of Starlette's that calls ``standardwebhooks`` is
the least that anybody can do: once it verifies, parses and answers, and once it also publishes on a
bus. Each bus has one handler, whose run counts. Ours also refuses duplicates, reads JSON strictly,
checks the head of the request, bounds body, time and load, and takes id, time and source of the
event from the sender.

What part of that is verification and parsing is a case of its own; so are requests of the largest
size that nobody has signed, beside one SHA-256 of the same body.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from benchmarks import peers
from benchmarks._measure import MS, US, Case, Contender, Goal, Round, Settings, Workload, timed
from eventbus import Event, EventBus
from eventbus.testing import SignedRequest, sign
from eventbus.webhooks import GitHub, Receiver, StandardWebhooks, WebhookApp

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD_SECRETS = [f"whsec_{'A' * 31}{letter}" for letter in "BCDEFGHIJ"]
SCHEME = StandardWebhooks(SECRET)
INVOICE = {
    "id": "in_1",
    "customer_id": "cus_7",
    "status": "paid",
    "amount_paid": "990",
    "lines": [{"price": f"price_{number}", "quantity": number} for number in range(5)],
}

ROUTE = "standardwebhooks"
"""The route that verifies and does nothing else."""

App = Callable[[Any, Any, Any], Awaitable[None]]


def webhooks(settings: Settings) -> Iterator[Case]:
    """Requests that are accepted, what verifying them takes, and requests that are refused."""
    yield accepting(settings)
    yield verifying(settings)
    for label, scheme, limit in (
        ("1 MiB, unsigned", SCHEME, 3),
        ("1 MiB, unsigned, ten secrets", StandardWebhooks([SECRET, *OLD_SECRETS]), 15),
        ("25 MiB for GitHub, unsigned", GitHub("a secret of more than sixteen bytes"), 3),
    ):
        yield refusing(label, scheme, limit, settings)


def accepting(settings: Settings) -> Case:
    """Beside the routes, if their libraries are installed."""
    contenders = [Contender(name="eventbus", role="ours", prepare=partial(_prepare_ours, settings))]
    if all(map(peers.is_present, peers.VERIFYING)):
        contenders += [
            Contender(
                name=ROUTE,
                role="peer",
                lacks="verifies and parses, in a route of Starlette's",
                prepare=partial(_prepare_route, False, settings),
            ),
            Contender(
                name="and publishing",
                role="peer",
                lacks="the same route, and a bus",
                prepare=partial(_prepare_route, True, settings),
            ),
        ]
    return Case(
        label="a request, accepted",
        figures=[US],
        goals=[Goal(against=ROUTE, at_least=1.0)] if len(contenders) > 1 else [],
        contenders=contenders,
    )


def verifying(settings: Settings) -> Case:
    """The ratio beside a part is one over its share."""
    return Case(
        label="what parts of it take",
        figures=[US],
        contenders=[
            Contender(name="eventbus", role="ours", prepare=partial(_prepare_ours, settings)),
            Contender(
                name="floor: verify",
                role="floor",
                lacks="Receiver.verify: signature, JSON, event",
                prepare=partial(_prepare_verifying, settings),
            ),
            Contender(
                name="floor: signature",
                role="floor",
                lacks="HMAC with SHA-256 alone",
                prepare=partial(_prepare_signature, settings),
            ),
        ],
    )


def refusing(label: str, scheme: Any, limit: float, settings: Settings) -> Case:
    """What a request of the largest size costs, from somebody who has no secret."""
    return Case(
        label=label,
        figures=[MS],
        goals=[Goal(against="floor: SHA-256", at_least=limit)],
        contenders=[
            Contender(
                name="eventbus", role="ours", prepare=partial(_prepare_forged, scheme, settings)
            ),
            Contender(
                name="floor: SHA-256",
                role="floor",
                lacks="of the body",
                prepare=partial(_prepare_digest, scheme, settings),
            ),
        ],
    )


def new_bus() -> EventBus:
    """A bus with one handler."""
    bus = EventBus()

    @bus.on("**")
    async def do_nothing(event: Event[Any]) -> None: ...

    return bus


def new_route(bus: EventBus | None) -> App:
    """The least that a route can do: verify, parse, perhaps publish, and answer."""
    starlette = peers.load("starlette.applications").Starlette
    route = peers.load("starlette.routing").Route
    response = peers.load("starlette.responses").JSONResponse
    library = peers.load("standardwebhooks")
    webhook = library.Webhook(SECRET)

    async def hook(request: Any) -> Any:
        body = await request.body()
        try:
            payload = webhook.verify(body, dict(request.headers))
        except library.WebhookVerificationError:
            return response({"error": "unauthorized"}, 401)
        if bus is not None:
            await bus.publish(payload["type"], payload["data"])
        return response({"accepted": True})

    app: App = starlette(routes=[route("/hook", hook, methods=["POST"])])
    return app


def new_request() -> SignedRequest:
    """A good request, with an id of its own."""
    return sign(SCHEME, "invoice.paid", INVOICE, target="/hook")


def scope_of(request: SignedRequest) -> dict[str, Any]:
    """The request as a server describes it, with what clients usually send along."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": "POST",
        "path": request.target,
        "raw_path": request.target.encode(),
        "query_string": b"",
        "root_path": "",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 50000),
        "headers": [
            (b"host", b"localhost"),
            (b"accept", b"*/*"),
            (b"user-agent", b"sender/1.0"),
            (b"content-length", b"%d" % len(request.body)),
            *request.headers,
        ],
    }


async def post(app: App, scope: dict[str, Any], body: bytes) -> int:
    """Send one request. Returns the status of the answer."""
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    await app(scope, receive, send)
    return status


def _posting(app: App, bus: EventBus | None, settings: Settings) -> Round:
    """A round of new requests, which are signed before the clock runs: that of the processor."""
    requests = settings.pick(500, 10)

    async def run() -> tuple[float]:
        signed = [new_request() for _ in range(requests)]
        posts = [(scope_of(request), request.body) for request in signed]
        before = time.process_time()
        for scope, body in posts:
            assert await post(app, scope, body) == 200
        if bus is not None:
            await bus.settle()
        return ((time.process_time() - before) / requests,)

    return run


async def _prepare_ours(settings: Settings, stack: AsyncExitStack) -> Round:
    bus = new_bus()
    return _posting(WebhookApp({"/hook": Receiver(bus, SCHEME)}), bus, settings)


async def _prepare_route(publishing: bool, settings: Settings, stack: AsyncExitStack) -> Round:
    bus = new_bus() if publishing else None
    return _posting(new_route(bus), bus, settings)


async def _prepare_verifying(settings: Settings, stack: AsyncExitStack) -> Round:
    receiver, request = Receiver(EventBus(), SCHEME), new_request()
    headers = scope_of(request)["headers"]

    async def work(times: int) -> None:
        for _ in range(times):
            receiver.verify("POST", request.target, headers, request.body)

    return timed(work, 1, settings, time.process_time)


async def _prepare_signature(settings: Settings, stack: AsyncExitStack) -> Round:
    key, body = b"k" * 24, new_request().body

    async def work(times: int) -> None:
        for _ in range(times):
            hmac.digest(key, body, "sha256")

    return timed(work, 1, settings, time.process_time)


def forged(scheme: Any) -> SignedRequest:
    """A request of the largest size that is read, whose signature is that of another body."""
    largest = Receiver(EventBus(), scheme).max_body
    body = b'{"data":"' + b"x" * (largest - 11) + b'"}'
    return sign(scheme, "invoice.paid", target="/hook")._replace(body=body)


async def _prepare_forged(scheme: Any, settings: Settings, stack: AsyncExitStack) -> Round:
    app = WebhookApp({"/hook": Receiver(EventBus(), scheme)})
    request = forged(scheme)

    async def work(times: int) -> None:
        for _ in range(times):
            assert await post(app, scope_of(request), request.body) == 401

    return timed(work, 1, settings, time.process_time)


async def _prepare_digest(scheme: Any, settings: Settings, stack: AsyncExitStack) -> Round:
    body = forged(scheme).body

    async def work(times: int) -> None:
        for _ in range(times):
            hashlib.sha256(body).digest()

    return timed(work, 1, settings, time.process_time)


WORKLOAD = Workload(
    name="webhooks",
    title="webhooks, per request, against a route that verifies and does nothing else",
    cases=webhooks,
)
