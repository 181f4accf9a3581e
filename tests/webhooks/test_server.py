"""A real server, uvicorn on loopback, and receivers in applications of Starlette and FastAPI."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import Depends, FastAPI
from fastapi import Request as FastAPIRequest
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response  # noqa: TC002 - FastAPI reads annotations
from starlette.routing import Mount, Route

from eventbus import Event, EventBus
from eventbus.testing import SignedRequest, sign
from eventbus.webhooks import ComponentSignature, Receiver, WebhookApp
from tests.helpers import within
from tests.webhooks.client import BODY, SCHEME
from tests.webhooks.test_receiver import until

SECRET_KEY = "0x" + bytes(range(32)).hex()
PUBLIC_KEY = "0x03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"


def request(id: str = "msg_1", target: str = "/hook", **more: Any) -> SignedRequest:
    """A request that is signed now."""
    return sign(SCHEME, "invoice.paid", id=id, target=target, body=BODY, **more)


class Site:
    """A bus, a receiver and an application on a port of its own."""

    def __init__(self, **options: Any) -> None:
        self.bus = EventBus()
        self.seen: list[Event] = []
        self.bus.subscribe(self.seen.append, name="seen")
        self.receiver = Receiver(self.bus, SCHEME, **options)
        self.app = WebhookApp({"/hook": self.receiver}, max_in_flight=2)
        self.port = 0

    async def send(self, data: bytes, *, eof: bool = False) -> bytes:
        """Send bytes over a connection of their own, and read until the server closes it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            if eof:
                writer.write_eof()
            return await within(reader.read(), 20)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[int]:
    """Run an application on a free port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, ws="none", lifespan="on", **options)
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve([listener]))
    try:
        await until(lambda: server.started or serving.done())
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await within(serving, 20)
        listener.close()


@pytest.fixture(params=["h11", "httptools"])
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    if request.param == "httptools":
        pytest.importorskip("httptools")
    site = Site(read_timeout=0.5, idle_timeout=0.25)
    async with site.bus, serving(site.app, http=request.param) as site.port:
        yield site


def raw(signed: SignedRequest, *lines: bytes, body: bytes | None = None) -> bytes:
    """The request as bytes of HTTP/1.1, whose answer closes the connection."""
    found = [
        b"%s %s HTTP/1.1" % (signed.method.encode(), signed.target.encode()),
        b"host: localhost",
        b"connection: close",
        *(b": ".join(pair) for pair in signed.headers),
        *(lines or [b"content-length: %d" % len(signed.body)]),
    ]
    return b"\r\n".join(found) + b"\r\n\r\n" + (signed.body if body is None else body)


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))


CHUNKED = b"transfer-encoding: chunked"


def status_of(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1])


class TestUvicorn:
    async def test_a_request(self, site: Site) -> None:
        """A signed request over the network is an event on the bus."""
        reply = await site.send(raw(request()))
        assert (status_of(reply), reply.endswith(b'\r\n\r\n{"accepted":true}')) == (200, True)
        await site.bus.settle()
        assert [event.id for event in site.seen] == ["msg_1"]

    async def test_chunks(self, site: Site) -> None:
        """A body without a length, in chunks of any size, is taken."""
        for size in (1, 7, 100):
            pieces = [BODY[at : at + size] for at in range(0, len(BODY), size)]
            reply = await site.send(raw(request(f"m{size}"), CHUNKED, body=chunked(*pieces)))
            assert status_of(reply) == 200

    async def test_too_large(self, site: Site) -> None:
        """A body beyond the limit is 413: announced without being read, in chunks as it comes."""
        announced = await site.send(raw(request(), b"content-length: 2000000", body=b""))
        streamed = await site.send(raw(request(), CHUNKED, body=chunked(*[b"x" * 100_000] * 11)))
        assert [status_of(announced), status_of(streamed)] == [413, 413]
        assert b"connection: close" in announced.lower()

    async def test_too_slow(self, site: Site) -> None:
        """A body that does not come is 408, and the connection is closed."""
        reply = await site.send(raw(request(), body=BODY[:10]))
        assert status_of(reply) == 408
        assert site.receiver.statistics().refused == {"body_timeout": 1}

    async def test_leaving(self, site: Site) -> None:
        """A client that leaves at any point of its body publishes nothing, and harms nobody."""
        for at in (0, 1, len(BODY) - 1):
            _, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(raw(request(), body=BODY[:at]))
            await writer.drain()
            await until(lambda: site.app.statistics().in_flight == 1)
            writer.close()
            await until(lambda: site.app.statistics().in_flight == 0)
        assert site.receiver.statistics().refused == {"client_disconnect": 3}
        assert site.seen == []
        assert status_of(await site.send(raw(request()))) == 200

    async def test_leaving_before_the_answer(self, site: Site) -> None:
        """A client that leaves after its body is heard all the same; its retry is a duplicate."""
        _, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(raw(request()))
        writer.close()
        await until(lambda: len(site.seen) == 1)
        assert (await site.send(raw(request()))).endswith(b'{"duplicate":true}')

    async def test_too_many(self, site: Site) -> None:
        """More requests at once than the limit allows are 503, unread."""
        slow = [asyncio.ensure_future(site.send(raw(request(), body=b"{"))) for _ in range(2)]
        await until(lambda: site.app.statistics().in_flight == 2)
        reply = await site.send(raw(request()))
        assert (status_of(reply), b"retry-after: 1" in reply) == (503, True)
        assert [status_of(each) for each in await asyncio.gather(*slow)] == [408, 408]

    async def test_after_the_end(self, site: Site) -> None:
        """An application that is closed says so, and closes the connection."""
        await site.app.aclose()
        reply = await site.send(raw(request()))
        assert (status_of(reply), b"connection: close" in reply.lower()) == (503, True)

    async def test_wrong_at_all(self, site: Site) -> None:
        """Paths and methods that are not served, on a connection that goes on."""
        for line, status in ((b"GET /hook", 405), (b"POST /else", 404), (b"HEAD /hook", 405)):
            reply = await site.send(
                line + b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            )
            assert status_of(reply) == status

    async def test_odd_bytes(self, site: Site) -> None:
        """Header values may be any bytes that the server lets through."""
        signed = request()
        odd = [(b"webhook-signature", b"v1,\xff\xfe\x80"), *signed.headers[:-1]]
        assert status_of(await site.send(raw(signed._replace(headers=odd)))) in {400, 401}


@asynccontextmanager
async def entered(bus: EventBus, app: WebhookApp) -> AsyncIterator[None]:
    async with bus, app:
        yield


@pytest.fixture
def bus() -> EventBus:
    return EventBus()


@pytest.fixture
def hooks(bus: EventBus) -> WebhookApp:
    component = ComponentSignature(public_keys=[PUBLIC_KEY])
    return WebhookApp({"/hook": Receiver(bus, SCHEME), "/call": Receiver(bus, component)})


def mounted_in_starlette(bus: EventBus, hooks: WebhookApp) -> Any:
    return Starlette(routes=[Mount("/api", hooks)], lifespan=lambda _: entered(bus, hooks))


def mounted_in_fastapi(bus: EventBus, hooks: WebhookApp) -> Any:
    app = FastAPI(lifespan=lambda _: entered(bus, hooks))
    app.mount("/api", hooks)
    return app


@pytest.fixture(params=[mounted_in_starlette, mounted_in_fastapi])
def client(
    request: pytest.FixtureRequest, bus: EventBus, hooks: WebhookApp
) -> Iterator[TestClient]:
    with TestClient(request.param(bus, hooks)) as client:
        yield client


def send(client: TestClient, signed: SignedRequest) -> tuple[int, Any]:
    reply = client.request(
        signed.method, signed.target, headers=signed.headers, content=signed.body
    )
    return reply.status_code, reply.json()


class TestMounted:
    def test_below_a_prefix(self, client: TestClient, bus: EventBus) -> None:
        """Mounted in another application, paths are those below the mount."""
        signed = request(target="/api/hook?x=1")
        assert send(client, signed) == (200, {"accepted": True})
        assert send(client, signed) == (200, {"duplicate": True})
        assert send(client, request(target="/api/else")) == (404, {"error": {"code": "not_found"}})
        assert bus.statistics().events == 1

    def test_the_path_that_is_signed(self, client: TestClient, bus: EventBus) -> None:
        """A scheme that signs the path gets it as the client wrote it, mount and query included."""
        component = ComponentSignature(public_keys=[PUBLIC_KEY])
        signed = sign(
            component,
            "invoice.paid",
            {"object": {"id": "in_1"}},
            target="/api/call?livemode=true",
            key=SECRET_KEY,
        )
        assert send(client, signed) == (200, {"accepted": True})
        other = signed._replace(target="/api/call?livemode=false")
        assert send(client, other) == (401, {"error": "verify sig failed"})

    async def test_on_a_server(self, bus: EventBus, hooks: WebhookApp) -> None:
        """The same over the network, where the lifespan of the outer application closes it."""
        app = mounted_in_starlette(bus, hooks)
        async with serving(app) as port:
            site = Site()
            site.port = port
            assert status_of(await site.send(raw(request(target="/api/hook")))) == 200
        assert hooks._closed


def routed_in_starlette(bus: EventBus, receiver: Receiver) -> Any:
    async def endpoint(request: Request) -> Response:
        response: Response = await receiver.respond(request)
        return response

    return Starlette(routes=[Route("/hook", endpoint, methods=["POST"])])


def routed_in_fastapi(bus: EventBus, receiver: Receiver) -> Any:
    app = FastAPI()

    @app.post("/hook")
    async def endpoint(request: FastAPIRequest) -> Any:
        return await receiver.respond(request)

    return app


def routed_after_a_dependency(bus: EventBus, receiver: Receiver) -> Any:
    """Where somebody has read the body before."""
    app = FastAPI()

    async def log_the_size(request: FastAPIRequest) -> int:
        return len(await request.body())

    @app.post("/hook")
    async def endpoint(request: FastAPIRequest, size: int = Depends(log_the_size)) -> Any:
        return await receiver.respond(request)

    return app


class TestRoutes:
    @pytest.mark.parametrize(
        "make", [routed_in_starlette, routed_in_fastapi, routed_after_a_dependency]
    )
    def test_a_route(self, bus: EventBus, make: Any) -> None:
        """A receiver answers a route of Starlette or FastAPI, with its own status and headers."""
        receiver = Receiver(bus, SCHEME, max_body=1000)
        with TestClient(make(bus, receiver)) as client:
            assert send(client, request()) == (200, {"accepted": True})
            assert send(client, request()) == (200, {"duplicate": True})
            forged = request()._replace(body=BODY + b" ")
            assert send(client, forged) == (401, {"error": {"code": "unauthorized"}})
            large = request()._replace(body=b"x" * 1001)
            assert send(client, large) == (413, {"error": {"code": "body_too_large"}})
        assert bus.statistics().events == 1

    async def test_a_client_that_leaves(self, bus: EventBus) -> None:
        """The route returns a response that nobody reads, and the bus gets nothing."""
        receiver = Receiver(bus, SCHEME)

        async def receive() -> Any:
            return {"type": "http.disconnect"}

        scope = {"type": "http", "method": "POST", "path": "/hook", "headers": request().headers}
        response = await receiver.respond(Request(scope, receive))
        assert response.status_code == 400
        assert receiver.statistics().refused == {"client_disconnect": 1}

    async def test_without_starlette(self, bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where Starlette is not loaded, the answer itself is returned: an ASGI application."""
        monkeypatch.delitem(__import__("sys").modules, "starlette.responses")
        signed = request()

        class Other:
            scope = {"method": "POST", "path": "/hook", "headers": signed.headers}  # noqa: RUF012

            async def stream(self) -> AsyncIterator[bytes]:
                yield signed.body

        answer = await Receiver(bus, SCHEME).respond(Other())
        assert (answer.status, answer.body) == (200, b'{"accepted":true}')
