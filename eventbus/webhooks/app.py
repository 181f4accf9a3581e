"""The receivers of an application, as an ASGI 3 application: on its own, or mounted in another.

What it adds to receivers: the path, the method, a limit on how many requests are in memory at
once, and an orderly end. Everything that can be wrong with a request has an answer; there is no
500, unless the server's own ``receive`` or ``send`` raises.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final, Literal, Self
from urllib.parse import unquote_to_bytes

from eventbus.clock import Clock, SystemClock
from eventbus.errors import OptionError
from eventbus.instrumentation import LogHook, LogLine
from eventbus.subscription import check_seconds
from eventbus.webhooks._answer import (
    Answer,
    Receive,
    Scope,
    Send,
    answer_of,
    error_body,
    headers_of,
)
from eventbus.webhooks._deadline import ended_within
from eventbus.webhooks._ledger import Ledger, WebhookStatistics
from eventbus.webhooks.errors import Overloaded, ShuttingDown, WebhookError
from eventbus.webhooks.receiver import CLOSE, Receiver, is_http1

__all__ = ["WebhookApp"]


def _plain(status: int, code: str, *headers: tuple[bytes, bytes]) -> Answer:
    body = error_body(code)
    return Answer(status, (*headers_of(body), *headers), body)


NOT_FOUND: Final = _plain(404, "not_found")
NOT_ALLOWED: Final = _plain(405, "method_not_allowed", (b"allow", b"POST"))


class WebhookApp:
    """Serves receivers under paths: ``WebhookApp({"/payment": receiver})``.

    Run it with any ASGI server, or mount it in Starlette, FastAPI, Litestar or Quart; paths are
    those below the mount. At most ``max_in_flight`` requests are taken at once; further ones are
    answered 503 before their bodies are read, so that memory is bounded. ``name`` is for the log.

    A server that speaks the lifespan protocol opens and closes it. Mounted applications are not
    told of that; so enter it where the lifespan of the outer one enters the bus:
    ``async with bus, app: yield``. While it is closed, it answers 503. Leaving waits at most
    ``grace`` seconds for what is in flight.

    Raises ``OptionError`` for values out of range, and for two receivers that would take each
    other's requests for duplicates: the same replay store, and the same name.
    """

    def __init__(
        self,
        receivers: Mapping[str, Receiver],
        *,
        max_in_flight: int = 64,
        grace: float = 10.0,
        name: str = "webhooks",
        clock: Clock | None = None,
    ) -> None:
        if not isinstance(max_in_flight, int) or max_in_flight < 1:
            raise OptionError(f"max_in_flight={max_in_flight!r}: pass a whole number, 1 or more")
        check_seconds("grace", grace)
        self._receivers = dict(receivers)
        _check_receivers(self._receivers)
        self._max_in_flight = max_in_flight
        self._grace = grace
        self.name = name
        """For the log."""
        self._clock: Clock = SystemClock() if clock is None else clock
        self._ledger = Ledger(_write, self._clock.monotonic, {"app": name})
        self._in_flight = 0
        self._closing: list[asyncio.Future[None]] = []
        """What each close waits for."""
        self._closed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan of the server. The entry point of ASGI 3.

        Raises what ``receive`` and ``send`` raise. Cancelled, a request that was read is published
        once or not at all.
        """
        if scope["type"] != "http":
            await self._converse(scope["type"], receive, send)
            return
        self._in_flight += 1
        try:
            receiver = self._receivers.get(_path_of(scope))
            answer = self._refusal(scope, receiver)
            if answer is None and receiver is not None:
                answer = await receiver.serve(scope, receive)
            if answer is not None:
                await answer(scope, receive, send)
        except OSError:  # what servers raise in send() once the client has left
            self._ledger.refuse("client_disconnect", 0, dict)
        finally:
            self._in_flight -= 1
            if not self._in_flight and self._closing:
                self._tell_closing()

    async def __aenter__(self) -> Self:
        """Open it, or open it again. One that was never closed is open."""
        self._closed = False
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> bool:
        """Take no further requests, and wait until those in flight are answered.

        It also waits for handlers that run under a claim. Close the bus after it. Returns whether
        everything ended within ``grace`` seconds. Cancelled, it stays closed.
        """
        self._closed = True
        ending = asyncio.ensure_future(self._end())
        try:
            return await ended_within(self._clock, ending, self._grace)
        finally:
            ending.cancel()

    def statistics(self) -> WebhookStatistics:
        """What the application answered before a receiver had a say, and what is in flight."""
        return self._ledger.statistics(self._in_flight)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<WebhookApp {self.name!r}, {state}: {', '.join(self._receivers)}>"

    async def _converse(self, kind: str, receive: Receive, send: Send) -> None:
        if kind == "lifespan":
            await self._live(receive, send)
        elif kind == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            raise NotImplementedError(f"webhooks come by HTTP, not by {kind!r}")

    async def _live(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] == "lifespan.startup":
            self._closed = False
            await send({"type": "lifespan.startup.complete"})
        await self.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    def _refusal(self, scope: Scope, receiver: Receiver | None) -> Answer | None:
        """What is answered before the receiver has a say; None if it has."""
        if receiver is None:
            return self._refuse(NOT_FOUND, "not_found")
        if scope["method"] != "POST":
            return self._refuse(NOT_ALLOWED, "method_not_allowed")
        if self._closed:
            answer = self._refuse_with(ShuttingDown("the application is closed"))
            return answer.with_headers(CLOSE) if is_http1(scope) else answer
        if self._in_flight > self._max_in_flight:
            return self._refuse_with(Overloaded(f"{self._max_in_flight} requests are in flight"))
        return None

    def _refuse_with(self, error: WebhookError) -> Answer:
        return self._refuse(answer_of(error), error.code)

    def _refuse(self, answer: Answer, code: str) -> Answer:
        self._ledger.refuse(code, answer.status, dict)
        return answer

    def _tell_closing(self) -> None:
        for idle in self._closing:
            if not idle.done():  # else that close was cancelled
                idle.set_result(None)
        self._closing.clear()

    async def _end(self) -> None:
        while self._in_flight:
            idle = asyncio.get_running_loop().create_future()
            self._closing.append(idle)
            await idle
        for receiver in self._receivers.values():
            await receiver.aclose()


def _check_receivers(receivers: Mapping[str, Receiver]) -> None:
    keys: dict[tuple[int, str], str] = {}
    for path, receiver in receivers.items():
        if not isinstance(path, str) or not path.startswith("/"):
            raise OptionError(f"{path!r}: begin each path with '/'")
        if not isinstance(receiver, Receiver):
            raise OptionError(f"{path}: {receiver!r} is no Receiver")
        other = keys.setdefault((id(receiver.replay), receiver.name), path)
        if other != path and receivers[other] is not receiver:
            raise OptionError(
                f"{other} and {path} share a replay store and the name {receiver.name!r}, so one "
                "would take what the other has received for a duplicate: pass name='…' to one"
            )


def _path_of(scope: Scope) -> str:
    """The path below the mount. Servers and frameworks leave that prefix in, or do not."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and (root := root.rstrip("/")) and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    if path.endswith("/") and not _ends_with_slash(scope):
        path = path[:-1]  # Litestar has put it there
    return path or "/"


def _ends_with_slash(scope: Scope) -> bool:
    """Whether the client wrote a slash at the end, for all that the server tells."""
    raw: bytes | None = scope.get("raw_path")
    return raw is None or unquote_to_bytes(raw.partition(b"?")[0]).endswith(b"/")


def _write(
    name: str, level: Literal["warning", "error"], error: BaseException | None, **fields: Any
) -> None:
    try:
        LogHook().log(LogLine(name, level, fields, error))
    except Exception:  # a processor of the application's structlog
        logging.getLogger("eventbus").exception("failed to log %s", name)
