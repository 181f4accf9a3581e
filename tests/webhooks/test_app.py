"""The ASGI application: each bad input gets its status and code, whatever the client does."""

from __future__ import annotations

import asyncio
import logging
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventbus import Catalog, Event, EventBus, OptionError, Topic
from eventbus.testing import FakeClock, SignedRequest
from eventbus.webhooks._http import Limits, read_body, target_of
from eventbus.webhooks.app import WebhookApp
from eventbus.webhooks.errors import WebhookError
from eventbus.webhooks.receiver import Receiver
from eventbus.webhooks.replay import MemoryReplayStore
from tests.helpers import turns, within
from tests.webhooks.client import BODY, NOW, SCHEME, Part, Reply, post, request, scope_of
from tests.webhooks.test_receiver import Paid, SlowStore


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW, autojump=0.01)


@pytest.fixture
async def bus(clock: FakeClock) -> AsyncIterator[EventBus]:
    bus = EventBus(
        clock=clock, catalog=Catalog([Topic("invoice.typed", Paid), "invoice.paid"]), strict=True
    )
    async with bus:
        yield bus


@pytest.fixture
def app(bus: EventBus, clock: FakeClock) -> WebhookApp:
    return WebhookApp({"/hook": Receiver(bus, SCHEME)}, clock=clock)


def head(
    signed: SignedRequest, *headers: tuple[bytes, bytes], without: bytes = b""
) -> SignedRequest:
    """The request with more headers, or with one less."""
    kept = [pair for pair in signed.headers if pair[0] != without]
    return signed._replace(headers=[*kept, *headers])


def value(signed: SignedRequest, name: bytes, text: bytes) -> SignedRequest:
    """The request with another value of a header."""
    return head(signed, (name, text), without=name)


def typed(content_type: bytes) -> SignedRequest:
    return value(request(), b"content-type", content_type)


def body(text: bytes) -> SignedRequest:
    return request(text)


GOOD_TYPES = [
    b"application/json",
    b"application/json; charset=utf-8",
    b"Application/JSON;charset=UTF-8",
    b'application/json; charset="utf-8"',
    b"application/cloudevents+json; charset=utf8; x=y",
    b"application/vnd.acme.v1+json",
]

BAD_TYPES = [
    b"text/plain",
    b"text/json",
    b"application/xml",
    b"application/x-www-form-urlencoded",
    b"application/jsonp",
    b"application/json+xml",
    b"application/json; charset=latin-1",
    b"application/json, text/plain",
    b"multipart/form-data; boundary=application/json",
    b"json",
    b"",
    b"\xff\xfe",
]


class Row(NamedTuple):
    """What somebody sends, and what the table of answers says."""

    request: SignedRequest
    status: int
    code: str
    parts: list[Part] | None = None
    headers: dict[str, str] = {}  # noqa: RUF012 - nobody changes it
    counted: str = ""
    """The code in the log and the statistics, where the sender is told less."""


CLOSED = {"connection": "close"}
RETRY = {"retry-after": "5"}
UNAUTHORIZED = "unauthorized"

ROWS = {
    # The application's own.
    "method": Row(
        request()._replace(method="GET"), 405, "method_not_allowed", headers={"allow": "POST"}
    ),
    "options": Row(request()._replace(method="OPTIONS"), 405, "method_not_allowed"),
    "lower-case method": Row(request()._replace(method="post"), 405, "method_not_allowed"),
    "path": Row(request(target="/other"), 404, "not_found"),
    "longer path": Row(request(target="/hook/"), 404, "not_found"),
    # The request's head.
    "gzip": Row(head(request(), (b"content-encoding", b"gzip")), 415, "unsupported_encoding"),
    "identity twice": Row(
        head(request(), (b"content-encoding", b"identity"), (b"content-encoding", b"identity")),
        415,
        "unsupported_encoding",
    ),
    "no content type": Row(head(request(), without=b"content-type"), 415, "unsupported_media_type"),
    "two content types": Row(
        head(request(), (b"content-type", b"application/json")), 415, "unsupported_media_type"
    ),
    **{f"type {kind!r}": Row(typed(kind), 415, "unsupported_media_type") for kind in BAD_TYPES},
    **{
        f"length {text!r}": Row(
            head(request(), (b"content-length", text)), 400, "malformed_request", parts=[]
        )
        for text in (
            b"-1",
            b"+44",
            b"4 4",
            b"0x2c",
            b"",
            b"44.0",
            "\u0664\u0664".encode(),
            b"9" * 20,
        )
    },
    "two lengths": Row(
        head(request(), (b"content-length", b"44"), (b"content-length", b"44")),
        400,
        "malformed_request",
        parts=[],
    ),
    "announced too large": Row(
        head(request(), (b"content-length", b"1048577")), 413, "body_too_large", [], CLOSED
    ),
    # Its body.
    "too large": Row(request(), 413, "body_too_large", [b"x" * 1024 * 1024, b"x"], CLOSED),
    "too large at once": Row(request(), 413, "body_too_large", [b"x" * (1024 * 1024 + 1)], CLOSED),
    "silent": Row(request(), 408, "body_timeout", [lambda: None], CLOSED),
    "silent in the middle": Row(
        request(), 408, "body_timeout", [BODY[:10], lambda: asyncio.Event().wait(), b"x"], CLOSED
    ),
    # Its signature.
    **{
        f"{name.decode()} twice": Row(
            head(request(), (name, dict(request().headers)[name])), 400, "duplicate_header"
        )
        for name in (b"webhook-id", b"webhook-timestamp", b"webhook-signature")
    },
    **{
        f"no {name.decode()}": Row(
            head(request(), without=name), 401, UNAUTHORIZED, counted="missing_header"
        )
        for name in (b"webhook-id", b"webhook-timestamp", b"webhook-signature")
    },
    **{
        f"timestamp {text!r}": Row(
            value(request(), b"webhook-timestamp", text),
            401,
            UNAUTHORIZED,
            counted="malformed_header",
        )
        for text in (b"", b"1_700_000_000", b" 1700000000", b"1.7e9", "\u0661".encode(), b"9" * 13)
    },
    **{
        f"id {text[:9]!r}": Row(
            value(request(), b"webhook-id", text), 401, UNAUTHORIZED, counted="malformed_header"
        )
        for text in (b"", b"a.b", b"a b", "é".encode(), b"x" * 257)
    },
    **{
        f"signature {text[:9]!r}": Row(
            value(request(), b"webhook-signature", text),
            401,
            UNAUTHORIZED,
            counted="malformed_header",
        )
        for text in (b"", b"v1", b"v1,", b"v1,A", "v1,é".encode(), b"v1,AA== " * 17, b"x" * 4097)
    },
    "another version": Row(
        value(request(), b"webhook-signature", b"v9,AAAA"),
        401,
        UNAUTHORIZED,
        counted="no_matching_signature",
    ),
    "forged": Row(
        request()._replace(body=BODY + b" "), 401, UNAUTHORIZED, counted="no_matching_signature"
    ),
    "old": Row(request(time=NOW - 301), 401, UNAUTHORIZED, counted="timestamp_too_old"),
    "new": Row(request(time=NOW + 301), 401, UNAUTHORIZED, counted="timestamp_too_new"),
    # What it says, now that the sender is proven.
    **{
        f"JSON {text[:12]!r}": Row(body(text), 400, "invalid_json")
        for text in (
            b"",
            b"{",
            b"{} x",
            b"\xef\xbb\xbf{}",
            b"\xff",
            b'{"type":"a","type":"b"}',
            b'{"type":"a","data":NaN}',
            b'{"type":"a","data":1e999}',
            b'{"type":"a","data":"\\ud800"}',
            b"[" * 1000 + b"]" * 1000,
            b'{"type":"a","data":' + b"9" * 5000 + b"}",
        )
    },
    **{
        f"envelope {text[:20]!r}": Row(body(text), 422, "invalid_envelope")
        for text in (
            b"[]",
            b"null",
            b"{}",
            b'{"type":5}',
            b'{"type":"*","data":1}',
            b'{"type":"a.*","data":1}',
            b'{"type":"a..b","data":1}',
            b'{"type":"$SYS.a","data":1}',
            b'{"type":"webhook.forged","data":1}',
            b'{"type":"invoice.paid","timestamp":"yesterday","data":1}',
            b'{"type":"invoice.unknown","data":1}',  # the bus is strict
        )
    },
    "payload": Row(
        body(b'{"type":"invoice.typed","data":{"id":"in_1","amount":"much"}}'),
        422,
        "invalid_payload",
    ),
}


class TestTable:
    @pytest.mark.parametrize("name", ROWS)
    async def test_a_bad_request(self, bus: EventBus, app: WebhookApp, name: str) -> None:
        """It gets the status, code and headers of the table; nothing of it reaches the bus."""
        row = ROWS[name]
        reply = await post(app, row.request, row.parts)
        assert (reply.status, reply.json) == (row.status, {"error": {"code": row.code}})
        assert len(reply.body) <= 200
        assert row.headers.items() <= reply.headers.items()
        assert ("connection" in reply.headers) == (row.headers is CLOSED)
        assert bus.statistics().events == 0
        receiver = app._receivers["/hook"]
        counted = {**app.statistics().refused, **receiver.statistics().refused}
        assert counted == {row.counted or row.code: 1}

    @pytest.mark.parametrize("kind", GOOD_TYPES)
    async def test_media_types(self, app: WebhookApp, kind: bytes) -> None:
        """JSON in UTF-8 is taken, however it is written."""
        assert (await post(app, typed(kind))).status == 200

    async def test_identity(self, app: WebhookApp) -> None:
        """No encoding may also be said in words."""
        signed = head(request(), (b"content-encoding", b" Identity"), (b"content-length", b"44"))
        assert (await post(app, signed)).status == 200

    async def test_a_duplicate(self, app: WebhookApp, bus: EventBus) -> None:
        """200, and it says so; the bus has it once."""
        replies = [await post(app, request()) for _ in range(2)]
        assert [reply.json for reply in replies] == [{"accepted": True}, {"duplicate": True}]
        assert [reply.status for reply in replies] == [200, 200]
        assert bus.statistics().events == 1

    async def test_later(self, bus: EventBus, clock: FakeClock) -> None:
        """In progress is 409; failed, too slow and unavailable are 503, all with Retry-After."""
        gate = asyncio.Event()

        @bus.on("invoice.paid")
        async def handler(event: Event) -> None:
            if event.id == "msg_slow":
                await gate.wait()
            raise ConnectionError

        receivers = {
            "/hook": Receiver(bus, SCHEME, ack="handled"),
            "/down": Receiver(bus, SCHEME, replay=SlowStore(fails="claim")),
            "/full": Receiver(bus, SCHEME, replay=MemoryReplayStore(1)),
        }
        app = WebhookApp(receivers, clock=clock)

        async def ask(id: str, target: str = "/hook") -> tuple[int, str, str]:
            reply = await post(app, request(id=id, target=target))
            return reply.status, reply.code, reply.headers["retry-after"]

        assert await ask("msg_1") == (503, "unavailable", "5")
        assert await ask("msg_slow") == (503, "unavailable", "60")
        assert await ask("msg_slow") == (409, "in_progress", "5")
        assert await ask("msg_1", "/down") == (503, "unavailable", "5")
        await post(app, request(target="/full"))
        assert await ask("msg_2", "/full") == (503, "unavailable", "5")
        counted = [receiver.statistics().refused for receiver in receivers.values()]
        assert counted == [
            {"handler_failed": 1, "ack_timeout": 1, "in_progress": 1},
            {"replay_store_unavailable": 1},
            {"replay_store_full": 1},
        ]
        gate.set()
        await within(app.aclose())


class TestBody:
    async def test_any_pieces(self, app: WebhookApp, bus: EventBus) -> None:
        """A body in pieces of any size, empty ones included, is the same body."""
        for number, size in enumerate((1, 2, 7, 43, 44)):
            pieces: list[Part] = [BODY[at : at + size] for at in range(0, len(BODY), size)]
            for at in range(len(pieces) + 1):
                pieces_with_gap = [*pieces[:at], b"", *pieces[at:]]
                signed = request(id=f"msg_{number}_{at}")
                assert (await post(app, signed, pieces_with_gap)).json == {"accepted": True}

    async def test_no_piece_says_more(self, app: WebhookApp) -> None:
        """Servers may leave out what has its default: an empty body, and no more of it."""

        async def receive() -> dict[str, Any]:
            return {"type": "http.request"}

        reply = Reply()

        async def send(message: Any) -> None:
            reply.messages.append(message)

        await app(scope_of(request()), receive, send)
        assert reply.code == "unauthorized"

    async def test_dribbling(self, app: WebhookApp, clock: FakeClock) -> None:
        """A piece every 4 seconds is never silent for 5, and is cut off after 10 in all."""
        started = clock.monotonic()
        parts: list[Part] = []
        for byte in BODY:
            parts += [bytes([byte]), lambda: sleep(clock, 4)]
        reply = await post(app, request(), [*parts, b""])
        assert reply.code == "body_timeout"
        assert clock.monotonic() - started == pytest.approx(10)

    async def test_silence(self, app: WebhookApp, clock: FakeClock) -> None:
        """5 seconds without a piece are too long; empty pieces are none."""
        started = clock.monotonic()
        parts: list[Part] = [BODY[:5], lambda: sleep(clock, 4), b"", lambda: sleep(clock, 4), b"x"]
        reply = await post(app, request(), parts)
        assert reply.code == "body_timeout"
        assert clock.monotonic() - started == pytest.approx(5)

    async def test_slow_but_in_time(self, app: WebhookApp, clock: FakeClock) -> None:
        """Within both limits, a slow sender is a sender like any other."""
        parts: list[Part] = [
            BODY[:5],
            lambda: sleep(clock, 4.9),
            BODY[5:20],
            lambda: sleep(clock, 4.9),
            BODY[20:],
        ]
        assert (await post(app, request(), parts)).status == 200

    async def test_headers_that_are_read_once(self, bus: EventBus) -> None:
        """ASGI promises an iterable of headers, and no list."""
        signed = request()

        async def receive() -> Any:
            return {"type": "http.request", "body": signed.body}

        scope = scope_of(signed, headers=iter(signed.headers))
        answer = await Receiver(bus, SCHEME).serve(scope, receive)
        assert answer is not None
        assert answer.status == 200

    async def test_crumbs(self, clock: FakeClock) -> None:
        """A body that comes in crumbs takes no more memory than one that comes at once."""
        crumbs = 100_000

        async def receive() -> Any:
            nonlocal crumbs
            crumbs -= 1
            if crumbs % 100 == 0:
                await asyncio.sleep(0)
            return {"type": "http.request", "body": b"%02d" % (crumbs % 90), "more_body": crumbs}

        tracemalloc.start()
        try:
            body = await read_body(receive, Limits(), clock)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(body) == 200_000
        assert peak < 1_500_000

    async def test_pieces_without_a_turn(self, app: WebhookApp, clock: FakeClock) -> None:
        """Empty pieces that come without end, and without the loop having a turn, end too."""
        parts: list[Part] = [b"", lambda: clock.advance(0.1)]
        reply = await post(app, request(), parts * 500)
        assert reply.code == "body_timeout"

    @pytest.mark.parametrize("at", range(4))
    async def test_the_client_leaves(self, app: WebhookApp, bus: EventBus, at: int) -> None:
        """Gone before its body is complete, a client gets no answer, and nothing is published."""
        pieces: list[Part] = [BODY[:10], BODY[10:20], b"", None]
        reply = await post(app, request(), [*pieces[:at], None])
        assert reply.messages == []
        assert bus.statistics().events == 0
        assert app._receivers["/hook"].statistics().refused == {"client_disconnect": 1}
        assert app.statistics().in_flight == 0

    @pytest.mark.parametrize("messages", [0, 1])
    async def test_the_client_does_not_wait_for_the_answer(
        self, app: WebhookApp, bus: EventBus, messages: int
    ) -> None:
        """The event is accepted; that nobody heard of it is counted, and is no error."""
        sent: list[Any] = []

        async def send(message: Any) -> None:
            if len(sent) == messages:
                raise OSError("the connection is closed")
            sent.append(message)

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": BODY, "more_body": False}

        await app(scope_of(request()), receive, send)
        assert bus.statistics().events == 1
        assert app.statistics().refused == {"client_disconnect": 1}
        assert (await post(app, request())).json == {"duplicate": True}

    @pytest.mark.parametrize("step", range(6))
    async def test_cancelled_while_reading(self, app: WebhookApp, bus: EventBus, step: int) -> None:
        """A request that is cancelled before its body is complete leaves nothing."""
        pieces: list[Part] = [
            BODY[:10],
            lambda: turns(2),
            BODY[10:20],
            lambda: asyncio.Event().wait(),
        ]
        posting = asyncio.ensure_future(post(app, request(), [*pieces, b""]))
        await turns(step)
        posting.cancel()
        await asyncio.wait([posting])
        assert posting.cancelled()
        assert app.statistics().in_flight == 0
        assert (await post(app, request())).json == {"accepted": True}

    async def test_a_larger_limit(self, bus: EventBus, clock: FakeClock) -> None:
        """A receiver may take up to 25 MiB, or less than usual."""
        for size in (100, 3 * 1024 * 1024):
            app = WebhookApp({"/hook": Receiver(bus, SCHEME, max_body=size)}, clock=clock)
            largest = b'{"type":"invoice.paid","data":"' + b"x" * (size - 33) + b'"}'
            assert (await post(app, request(largest, id=f"msg_{size}"))).status == 200
            assert (await post(app, request(largest + b" ", id="msg"))).code == "body_too_large"

    async def test_what_receive_raises(self) -> None:
        """An error of the server is the server's."""

        async def receive() -> Any:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await read_body(receive, Limits(), FakeClock())


async def sleep(clock: FakeClock, seconds: float) -> None:
    """Sleep by that clock."""
    over = asyncio.Event()
    clock.call_later(seconds, over.set)
    await over.wait()


class TestPaths:
    @pytest.mark.parametrize(
        ("scope", "found"),
        [
            ({"path": "/hook"}, True),
            ({"path": "/api/hook", "root_path": "/api"}, True),  # Starlette, FastAPI
            ({"path": "/hook", "root_path": "/api"}, True),  # what strips the prefix
            ({"path": "/hook", "root_path": "/api/"}, True),
            ({"path": "/hook/", "raw_path": b"/api/hook"}, True),  # Litestar
            ({"path": "/hook/", "raw_path": b"/api/hook?x=1/"}, True),
            ({"path": "/hook/", "raw_path": b"/api/hook/"}, False),
            ({"path": "/hook/", "raw_path": b"/api/hook%2f"}, False),
            ({"path": "/hook/", "raw_path": None}, False),
            ({"path": "/apihook", "root_path": "/api"}, False),
            ({"path": "/api", "root_path": "/api"}, False),
            ({"path": "//hook"}, False),
            ({"path": "/Hook"}, False),
        ],
    )
    async def test_below_a_mount(self, app: WebhookApp, scope: dict[str, Any], found: bool) -> None:
        """Paths are those below the mount, whether the framework leaves its prefix in or not."""
        reply = await post(app, request(), None, **scope)
        assert reply.status == (200 if found else 404)

    async def test_the_root_of_a_mount(self, bus: EventBus, clock: FakeClock) -> None:
        """An application for one receiver has it at '/', and answers with or without the slash."""
        app = WebhookApp({"/": Receiver(bus, SCHEME)}, clock=clock)
        for number, path in enumerate(("/api", "/api/")):
            reply = await post(app, request(id=f"m{number}"), path=path, root_path="/api")
            assert reply.status == 200

    @pytest.mark.parametrize(
        ("scope", "target"),
        [
            ({"path": "/a b", "raw_path": b"/a%20b", "query_string": b"x=%2F"}, "/a%20b?x=%2F"),
            ({"path": "/a", "raw_path": b"/a?x=1", "query_string": b"x=1"}, "/a?x=1"),
            ({"path": "/a é", "raw_path": None, "query_string": b""}, "/a%20%C3%A9"),
            ({"path": "/a"}, "/a"),
        ],
    )
    def test_the_target_as_it_was_written(self, scope: dict[str, Any], target: str) -> None:
        """What is signed is the path that the client wrote, as far as the server tells."""
        assert target_of(scope) == target


class TestLoad:
    async def test_too_many(self, bus: EventBus, clock: FakeClock) -> None:
        """Beyond the limit a request is answered 503 before its body is read."""
        app = WebhookApp({"/hook": Receiver(bus, SCHEME)}, max_in_flight=3, clock=clock)
        go_on = asyncio.Event()
        parts: list[Part] = [BODY[:9], go_on.wait, BODY[9:]]
        posting = [
            asyncio.ensure_future(post(app, request(id=f"msg_{number}"), parts))
            for number in range(3)
        ]
        await turns(5)
        assert app.statistics().in_flight == 3
        reply = await post(app, request(), [AssertionError("nobody reads")])
        assert (reply.status, reply.code) == (503, "unavailable")
        assert reply.headers["retry-after"] == "1"
        assert app.statistics().refused == {"overloaded": 1}
        go_on.set()
        assert {reply.status for reply in await asyncio.gather(*posting)} == {200}
        assert (await post(app, request())).status == 200

    async def test_a_thousand_replays(self, bus: EventBus, clock: FakeClock) -> None:
        """Of 1,000 copies at once one is published, whatever the others are told."""
        app = WebhookApp({"/hook": Receiver(bus, SCHEME)}, max_in_flight=1000, clock=clock)
        replies = await asyncio.gather(*(post(app, request()) for _ in range(1000)))
        assert [reply.json for reply in replies].count({"accepted": True}) == 1
        assert bus.statistics().events == 1


class TestClosing:
    async def test_what_is_in_flight_is_answered(self, app: WebhookApp, bus: EventBus) -> None:
        """A close waits for requests that are being read; new ones are 503 and closed."""
        go_on = asyncio.Event()
        posting = asyncio.ensure_future(post(app, request(), [BODY[:9], go_on.wait, BODY[9:]]))
        await turns(5)
        closing = asyncio.ensure_future(app.aclose())
        await turns(5)
        reply = await post(app, request(id="msg_2"))
        assert (reply.status, reply.code) == (503, "unavailable")
        assert reply.headers["connection"] == "close"
        assert not closing.done()
        go_on.set()
        assert (await posting).status == 200
        assert await closing
        assert app.statistics().refused == {"shutting_down": 1}

    async def test_grace(self, bus: EventBus, clock: FakeClock) -> None:
        """It waits ten seconds for them, and says that some are left."""
        gate = asyncio.Event()

        @bus.on("invoice.paid")
        async def slow(event: Event) -> None:
            await gate.wait()

        app = WebhookApp({"/hook": Receiver(bus, SCHEME, ack="handled")}, clock=clock)
        assert (await post(app, request())).status == 503
        started = clock.monotonic()
        assert not await app.aclose()
        assert clock.monotonic() - started == pytest.approx(10)
        gate.set()
        assert await app.aclose()

    async def test_two_closes_at_once(self, app: WebhookApp, clock: FakeClock) -> None:
        """A server and a block may both close it: each returns when all requests are answered."""
        go_on = asyncio.Event()
        posting = asyncio.ensure_future(post(app, request(), [BODY[:9], go_on.wait, BODY[9:]]))
        await turns(5)
        closing = [asyncio.ensure_future(app.aclose()) for _ in range(2)]
        await turns(5)
        go_on.set()
        started = clock.monotonic()
        assert await asyncio.gather(*closing) == [True, True]
        assert clock.monotonic() == started
        assert (await posting).status == 200

    async def test_lifespan(self, app: WebhookApp) -> None:
        """A server opens and closes it; one that was closed may be opened again."""
        for _ in range(2):
            messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
            statuses = []
            sent: list[Any] = []

            async def receive() -> Any:
                if len(messages) == 1:  # noqa: B023
                    statuses.append((await post(app, request())).status)  # noqa: B023
                return messages.pop(0)  # noqa: B023

            async def send(message: Any) -> None:
                sent.append(message)  # noqa: B023

            await app({"type": "lifespan"}, receive, send)
            assert [message["type"] for message in sent] == [
                "lifespan.startup.complete",
                "lifespan.shutdown.complete",
            ]
            assert statuses == [200]
            assert (await post(app, request())).status == 503

    async def test_a_block(self, app: WebhookApp) -> None:
        """Mounted, it is entered by the lifespan of the application that it is mounted in."""
        async with app as entered:
            assert entered is app
            assert (await post(app, request())).status == 200
        assert (await post(app, request())).status == 503
        assert repr(app) == "<WebhookApp 'webhooks', closed: /hook>"

    async def test_a_cancelled_close(self, app: WebhookApp) -> None:
        """A close that is cancelled leaves requests alone, and the application closed."""
        go_on = asyncio.Event()
        posting = asyncio.ensure_future(post(app, request(), [BODY[:9], go_on.wait, BODY[9:]]))
        await turns(5)
        closing = asyncio.ensure_future(app.aclose())
        await turns(5)
        closing.cancel()
        await asyncio.wait([closing])
        go_on.set()
        assert (await posting).status == 200
        assert (await post(app, request())).status == 503

    async def test_http2_has_no_connection_header(self, app: WebhookApp) -> None:
        """Where a connection carries many requests, none of them closes it."""
        reply = await post(app, request(b"x" * 1024 * 1024 * 2), http_version="2")
        assert reply.code == "body_too_large"
        await app.aclose()
        late = await post(app, request(), http_version="2")
        assert late.status == 503
        assert "connection" not in reply.headers | late.headers


class TestProtocol:
    async def test_websockets(self, app: WebhookApp) -> None:
        """A WebSocket is refused."""
        sent = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        await app({"type": "websocket", "path": "/hook"}, receive, send)
        assert sent == [{"type": "websocket.close", "code": 1008}]

    async def test_something_new(self, app: WebhookApp) -> None:
        """What is no kind of scope that it knows is the server's mistake."""
        with pytest.raises(NotImplementedError, match="gopher"):
            await app({"type": "gopher"}, None, None)  # type: ignore[arg-type]


class TestOptions:
    def test_paths_and_receivers(self) -> None:
        """Mistakes are told where they are made."""
        bus = EventBus()
        receiver = Receiver(bus, SCHEME)
        for receivers in ({"hook": receiver}, {"/hook": bus}, {5: receiver}):
            with pytest.raises(OptionError):
                WebhookApp(receivers)  # type: ignore[arg-type]
        for limit in (0, -1, 1.5):
            with pytest.raises(OptionError, match="max_in_flight"):
                WebhookApp({"/hook": receiver}, max_in_flight=limit)  # type: ignore[arg-type]
        for grace in (-1, float("nan"), "10", None):
            with pytest.raises(OptionError, match="grace"):
                WebhookApp({"/hook": receiver}, grace=grace)  # type: ignore[arg-type]

    def test_one_store_for_two(self) -> None:
        """Two receivers of one name and one store would swallow each other's requests."""
        bus, store = EventBus(), MemoryReplayStore()
        first, second = (Receiver(bus, SCHEME, replay=store) for _ in range(2))
        with pytest.raises(OptionError, match="name='…'"):
            WebhookApp({"/live": first, "/test": second})
        WebhookApp({"/live": first, "/alias": first})
        WebhookApp({"/live": first, "/test": Receiver(bus, SCHEME, replay=store, name="test")})


class TestLog:
    async def test_refusals_of_the_application(
        self, app: WebhookApp, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What no receiver saw is logged with the name of the application, and without the path."""
        with caplog.at_level(logging.WARNING, "eventbus"):
            await post(app, request(target="/secret-path"))
        (record,) = caplog.records
        assert record.getMessage() == (
            "webhook.refused app='webhooks' code='not_found' status=404 left_out=0"
        )

    async def test_a_log_that_fails(
        self, app: WebhookApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What the application's own log raises is no 500."""

        def fail(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("eventbus.webhooks.app.LogHook.log", fail)
        assert (await post(app, request(target="/other"))).status == 404
        assert "failed to log webhook.refused" in caplog.text


HEADER = st.tuples(
    st.sampled_from(
        [
            b"content-type",
            b"content-length",
            b"content-encoding",
            b"webhook-id",
            b"webhook-timestamp",
            b"webhook-signature",
        ]
    ),
    st.one_of(st.binary(max_size=40), st.sampled_from([p for _, p in request().headers])),
)


class TestFuzz:
    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(HEADER, max_size=6),
        st.lists(st.one_of(st.binary(max_size=60), st.just(BODY)), min_size=1, max_size=4),
    )
    def test_any_bytes(self, headers: list[tuple[bytes, bytes]], parts: list[bytes]) -> None:
        """Whatever bytes come in headers and body, there is an answer, and it is no 500."""

        async def main() -> Reply:
            bus = EventBus(clock=FakeClock(NOW))
            app = WebhookApp({"/hook": Receiver(bus, SCHEME)}, clock=FakeClock(NOW))
            async with bus:
                return await post(app, request()._replace(headers=headers), parts)

        reply = asyncio.run(main())
        assert reply.status in {200, 400, 401, 413, 415, 422}
        assert set(reply.json) <= {"error", "accepted"}


def test_every_code_has_a_status() -> None:
    """Each error says how it is answered and counted, and no two are counted alike."""

    def all_below(kind: type[WebhookError]) -> list[type[WebhookError]]:
        below = kind.__subclasses__()
        return below + [each for one in below for each in all_below(one)]

    leaves = [kind for kind in all_below(WebhookError) if not kind.__subclasses__()]
    assert {kind.status for kind in leaves} <= {400, 401, 408, 409, 413, 415, 422, 503}
    assert len({kind.code for kind in leaves}) == len(leaves)
