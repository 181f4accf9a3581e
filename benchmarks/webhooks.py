"""What a webhook costs: ``python -m benchmarks.webhooks``.

Requests that are signed as Standard Webhooks says go through an ASGI application in this process,
with no network: ours, and beside it a minimal route of Starlette's that calls ``standardwebhooks``,
once doing nothing else and once publishing on a bus what it got. Both buses have one handler. Ours
also refuses duplicates, reads JSON strictly, checks the head of the request, bounds body, time and
load, and takes id, time and source of the event from the sender.

Then: which share of ours is verification alone; and what processor time somebody without a secret
can cost with one request of the largest size that is read, beside one SHA-256 of its body.

All are measured in turn in each round, so that what else the machine does hits each alike; shown
are medians over the rounds. The garbage collector is off while it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import json
import logging
import platform
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError
from starlette.applications import Starlette
from starlette.requests import Request  # noqa: TC002 - Starlette reads no annotations
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from eventbus import Event, EventBus, __version__
from eventbus.testing import SignedRequest, sign
from eventbus.webhooks import GitHub, Receiver, StandardWebhooks, WebhookApp

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SCHEME = StandardWebhooks(SECRET)
INVOICE = {
    "id": "in_1",
    "customer_id": "cus_7",
    "status": "paid",
    "amount_paid": "990",
    "lines": [{"price": f"price_{number}", "quantity": number} for number in range(5)],
}

App = Callable[[Any, Any, Any], Awaitable[None]]


def new_bus() -> EventBus:
    """A bus with one handler."""
    bus = EventBus()

    @bus.on("**")
    async def do_nothing(event: Event[Any]) -> None: ...

    return bus


def ours() -> tuple[App, Receiver]:
    """A receiver on a bus with one handler."""
    receiver = Receiver(new_bus(), SCHEME)
    return WebhookApp({"/hook": receiver}), receiver


def theirs(bus: EventBus | None = None) -> App:
    """The least that a route can do: verify, parse, perhaps publish, and answer."""
    webhook = Webhook(SECRET)

    async def hook(request: Request) -> Response:
        body = await request.body()
        try:
            payload = webhook.verify(body, dict(request.headers))
        except WebhookVerificationError:
            return JSONResponse({"error": "unauthorized"}, 401)
        if bus is not None:
            await bus.publish(payload["type"], payload["data"])
        return JSONResponse({"accepted": True})

    return Starlette(routes=[Route("/hook", hook, methods=["POST"])])


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


async def post_all(app: App, requests: list[SignedRequest]) -> float:
    """Seconds per request."""
    scopes = [scope_of(request) for request in requests]
    before = time.perf_counter()
    for scope, request in zip(scopes, requests, strict=True):
        assert await post(app, scope, request.body) == 200
    return (time.perf_counter() - before) / len(requests)


def verify_all(receiver: Receiver, requests: list[SignedRequest]) -> float:
    """Seconds per request, of verification and parsing alone."""
    headers = [scope_of(request)["headers"] for request in requests]
    before = time.perf_counter()
    for head, request in zip(headers, requests, strict=True):
        receiver.verify("POST", request.target, head, request.body)
    return (time.perf_counter() - before) / len(requests)


def new_requests(count: int) -> list[SignedRequest]:
    """So many good requests, each with an id of its own."""
    return [sign(SCHEME, "invoice.paid", INVOICE, target="/hook") for _ in range(count)]


def measure_speed(count: int, rounds: int) -> None:
    """Print requests per second of both, and the share of verification in ours."""
    found: dict[str, list[float]] = {name: [] for name in ("ours", "bare", "bus", "verify")}
    for _ in range(rounds):
        requests = new_requests(count)
        app, receiver = ours()
        gc.collect()
        found["ours"].append(asyncio.run(post_all(app, requests)))
        found["bare"].append(asyncio.run(post_all(theirs(), requests)))
        found["bus"].append(asyncio.run(post_all(theirs(new_bus()), requests)))
        found["verify"].append(verify_all(receiver, requests))
    middle = {name: statistics.median(values) for name, values in found.items()}
    print(f"{'application':<48}{'requests/s':>12}{'us/request':>12}{'ours is':>9}")
    for name, title in (
        ("ours", "WebhookApp"),
        ("bare", "Starlette, standardwebhooks"),
        ("bus", "Starlette, standardwebhooks, publishing on a bus"),
    ):
        ratios = (other / mine for other, mine in zip(found[name], found["ours"], strict=True))
        print(
            f"{title:<48}{1 / middle[name]:>12,.0f}{middle[name] * 1e6:>12.1f}"
            f"{statistics.median(ratios):>8.2f}x"
        )
    share = middle["verify"] / middle["ours"]
    print(f"verification and parsing: {middle['verify'] * 1e6:.1f} us, {share:.0%} of ours\n")


def measure_hostile(rounds: int) -> None:
    """Print what the largest request that nobody has signed costs, beside a SHA-256 of it."""
    logging.getLogger("eventbus").disabled = True
    print(f"{'one request that nobody has signed':<44}{'ms':>8}{'of SHA-256':>12}")
    for title, scheme in (
        ("Standard Webhooks, 1 MiB", SCHEME),
        ("Standard Webhooks, 1 MiB, ten secrets", StandardWebhooks([SECRET, *MORE])),
        ("GitHub, 25 MiB", GitHub("a secret of more than sixteen bytes")),
    ):
        receiver = Receiver(EventBus(), scheme)
        app = WebhookApp({"/hook": receiver})
        body = json.dumps({"data": "x" * (receiver.max_body - 13)}).encode()
        forged = sign(scheme, "invoice.paid", target="/hook")._replace(body=body)
        costs, digests = [], []
        for _ in range(rounds):
            costs.append(cpu(partial(asyncio.run, refused(app, forged))))
            digests.append(cpu(partial(hashlib.sha256, body)))
        cost, digest = statistics.median(costs), statistics.median(digests)
        print(f"{title:<44}{cost * 1e3:>8.2f}{cost / digest:>11.2f}x")


MORE = [f"whsec_{'A' * 31}{letter}" for letter in "BCDEFGHIJ"]


async def refused(app: App, request: SignedRequest) -> None:
    """Send a request that is refused when its signature has been looked at."""
    assert await post(app, scope_of(request), request.body) == 401


def cpu(work: Callable[[], object]) -> float:
    """Seconds of processor time."""
    before = time.process_time()
    work()
    return time.process_time() - before


def main() -> None:
    """Measure and print, with the machine it was measured on."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.webhooks", description=__doc__)
    parser.add_argument("--requests", type=int, default=2_000, help="per measurement")
    parser.add_argument("--rounds", type=int, default=9, help="the median of so many is shown")
    arguments = parser.parse_args()
    print(
        f"eventbus {__version__}, {platform.python_implementation()} {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {datetime.now(UTC):%Y-%m-%d}\n"
    )
    gc.disable()
    measure_speed(arguments.requests, arguments.rounds)
    measure_hostile(arguments.rounds)


if __name__ == "__main__":
    main()
