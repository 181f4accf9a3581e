"""Serves an ASGI application on uvicorn, in this process, and stops it in an orderly way."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import uvicorn

__all__ = ["listen_on", "serve", "serving"]

GRACE: Final = 10
"""For how many seconds a server that stops waits for its connections."""


class Server(uvicorn.Server):
    """A server that stops at a signal and leaves it at that.

    uvicorn's own sends the signal to the process again when it has stopped, which would keep the
    command from draining the bus and telling what became of the events.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at Ctrl-C and at SIGTERM."""
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen_on(host: str, port: int) -> socket.socket:
    """A socket to serve on; port 0 is any free one. Raises ``OSError``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


async def serve(app: Any, listener: socket.socket, **options: Any) -> None:
    """Serve until a signal comes."""
    await _server(Server, app, **options).serve(sockets=[listener])


@asynccontextmanager
async def serving(app: Any, listener: socket.socket, **options: Any) -> AsyncIterator[None]:
    """Serve while the block runs. Signals are left to whoever else wants them."""
    server = _server(Quiet, app, **options)
    running = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await running


class Quiet(uvicorn.Server):
    """A server that listens to no signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


def _server(kind: type[uvicorn.Server], app: Any, **options: Any) -> uvicorn.Server:
    config = uvicorn.Config(app, ws="none", timeout_graceful_shutdown=GRACE, **options)
    return kind(config)
