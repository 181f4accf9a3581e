"""Mounted below a path of Starlette, FastAPI, Litestar and Quart, which all tell of it otherwise.

Starlette, FastAPI and Hypercorn's dispatcher, which is how Quart mounts, leave the prefix in the
path and name it as ``root_path``; Litestar takes it away, does not name it, and ends each path with
a slash. The path as the client wrote it, which some signatures cover, is in none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from hypercorn.middleware import DispatcherMiddleware
from litestar import Litestar, asgi
from quart import Quart
from starlette.applications import Starlette
from starlette.routing import Mount

from eventbus import EventBus
from eventbus.testing import SignedRequest, sign
from eventbus.webhooks import ComponentSignature, Receiver, WebhookApp
from tests.webhooks.client import BODY, SCHEME, App, Reply, post

SECRET_KEY = "0x" + bytes(range(32)).hex()
COMPONENT = ComponentSignature(
    public_keys=["0x03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"]
)


def in_starlette(hooks: Any) -> Any:
    return Starlette(routes=[Mount("/api", hooks)])


def in_fastapi(hooks: Any) -> Any:
    app = FastAPI()
    app.mount("/api", hooks)
    return app


def in_litestar(hooks: Any) -> Any:
    mount = asgi("/api", is_mount=True, copy_scope=True)(hooks)
    return Litestar([mount], logging_config=None)  # that of the process is left alone


def in_quart(hooks: Any) -> Any:
    return DispatcherMiddleware({"/api": hooks, "/site": Quart(__name__)})


@pytest.fixture
def bus() -> EventBus:
    return EventBus()


@pytest.fixture(params=[in_starlette, in_fastapi, in_litestar, in_quart])
def app(request: pytest.FixtureRequest, bus: EventBus) -> App:
    """An application of a framework, with two receivers below /api."""
    mount: Callable[[Any], App] = request.param
    receivers = {"/hook": Receiver(bus, SCHEME), "/call/v1": Receiver(bus, COMPONENT)}
    return mount(WebhookApp(receivers))


def signed(target: str, **more: Any) -> SignedRequest:
    """A request that is signed now."""
    return sign(SCHEME, "invoice.paid", id="msg_1", target=target, body=BODY, **more)


async def send(app: App, request: SignedRequest) -> Reply:
    """As a server calls an application: with a client, a scheme and a state."""
    return await post(
        app, request, None, scheme="http", client=("::1", 1), server=("::1", 80), state={}
    )


async def test_an_event_is_accepted_once(app: App, bus: EventBus) -> None:
    """Below the mount is the receiver's path, with or without a query."""
    for target, answer in (("/api/hook", "accepted"), ("/api/hook?x=1", "duplicate")):
        reply = await send(app, signed(target))
        assert (reply.status, reply.json) == (200, {answer: True})
    assert bus.statistics().events == 1


@pytest.mark.parametrize(
    "target", ["/api/else", "/api/hook/more", "/api/hook/", "/api/hoo", "/api/"]
)
async def test_nobody_is_there(app: App, bus: EventBus, target: str) -> None:
    """Another path below the mount gets the answer of ours, and does not reach the bus."""
    reply = await send(app, signed(target))
    assert (reply.status, reply.code) == (404, "not_found")
    assert bus.statistics().events == 0


@pytest.mark.parametrize("target", ["/hook", "/apihook", "/else/hook"])
async def test_beside_the_mount(app: App, bus: EventBus, target: str) -> None:
    """A path that is not below the mount is no receiver's, whoever answers it."""
    assert (await send(app, signed(target))).status == 404
    assert bus.statistics().events == 0


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_other_methods(app: App, method: str) -> None:
    """The answer is ours and names the method that there is."""
    reply = await send(app, signed("/api/hook")._replace(method=method))
    assert (reply.status, reply.code) == (405, "method_not_allowed")
    assert reply.headers["allow"] == "POST"


async def test_the_path_that_is_signed(app: App) -> None:
    """A scheme that signs the path gets it as the client wrote it, mount and query included."""
    request = sign(
        COMPONENT,
        "invoice.paid",
        {"object": {"id": "in_1"}},
        target="/api/call/v1?livemode=true",
        key=SECRET_KEY,
    )
    assert (await send(app, request)).json == {"accepted": True}
    for target in ("/api/call/v1?livemode=false", "/api//call/v1?livemode=true"):
        reply = await send(app, request._replace(target=target))
        assert reply.status in {401, 404}


async def test_a_body_that_is_forged(app: App, bus: EventBus) -> None:
    """What a framework does before changes nothing of the answer."""
    reply = await send(app, signed("/api/hook")._replace(body=BODY + b" "))
    assert (reply.status, reply.code) == (401, "unauthorized")
    assert bus.statistics().events == 0
