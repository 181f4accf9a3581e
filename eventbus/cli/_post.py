"""Signs a file of JSON lines and posts it, as the sender of webhooks would.

A few requests are under way at once, each by a worker that takes the next line when it has its
answer; so at most that many lines are in memory, beside one chunk of the file.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import httpx2

from eventbus.cli._feed import read_chunk
from eventbus.cli._lines import BadLine, Line, Splitter, parse_line
from eventbus.errors import EventBusError
from eventbus.testing import SignedRequest, sign

if TYPE_CHECKING:
    from eventbus.cli._feed import Source
    from eventbus.cli._schemes import Sender

__all__ = ["Post", "Url"]

LONGEST_ANSWER: Final = 64 * 1024
"""How much of an answer is read, in bytes: whoever answers may be a stranger."""

LONGEST_WORD: Final = 40
"""How much of the code in an answer is shown, in characters."""


class Url(NamedTuple):
    """Where to post."""

    text: str
    target: str
    """Path and query, which some schemes sign."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ``ValueError`` for what is no URL to post to."""
        try:
            parts = httpx2.URL(text)
            if parts.scheme not in {"http", "https"} or not parts.host:
                raise ValueError("no scheme or no host")
        except (httpx2.InvalidURL, ValueError) as error:
            example = "write for example http://localhost:8000/webhook"
            raise ValueError(f"{text[:80]!r} is no URL: {example}") from error
        return cls(text, parts.raw_path.decode("ascii"))  # the client writes it so, too


@dataclass
class Post:
    """One run: where to, who signs, the file, and what has become of it so far."""

    url: Url
    sender: Sender
    source: Source
    concurrency: int
    timeout: float
    """Seconds from the start of a request to the end of its answer."""
    complain: Callable[[int, str], object] = print
    """Told of each line that was bad or failed: its number, and what is wrong."""
    tick: Callable[[], object] = bool
    """Called after each answer, for a progress bar."""

    bytes_read: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    """How often each answer came: its status, and what it said."""
    answered: int = 0
    failed: int = 0
    """Events that were not answered with 2xx."""
    bad: int = 0
    """Lines that were no events."""

    async def run(self) -> None:
        """Post the whole file. Raises ``OSError`` if it cannot be read further.

        Cancelled, it begins no further request, and gives up those under way.
        """
        try:
            await self._run()
        except ExceptionGroup as failed:  # of workers; what fails in a request is an answer
            raise failed.exceptions[0] from None

    async def _run(self) -> None:
        lines = self._lines()
        turn = asyncio.Lock()
        # Redirects would go where nobody has looked, and a proxy of the environment to anybody.
        async with (
            httpx2.AsyncClient(timeout=None, follow_redirects=False, trust_env=False) as client,
            asyncio.TaskGroup() as workers,
        ):
            for _ in range(self.concurrency):
                workers.create_task(self._work(client, lines, turn))

    async def _work(
        self, client: httpx2.AsyncClient, lines: AsyncIterator[tuple[int, Line]], turn: asyncio.Lock
    ) -> None:
        while True:
            async with turn:
                found = await anext(lines, None)
            if found is None:
                return
            await self._post(client, *found)

    async def _lines(self) -> AsyncIterator[tuple[int, Line]]:
        splitter = Splitter()
        chunk = b"more"
        while chunk:
            chunk = await read_chunk(self.source)
            self.bytes_read += len(chunk)
            for number, text in splitter.feed(chunk) if chunk else splitter.end():
                try:
                    line = parse_line(text)
                except BadLine as error:
                    self.bad += 1
                    self.complain(number, str(error))
                else:
                    if line is not None:
                        yield number, line
            self.tick()

    async def _post(self, client: httpx2.AsyncClient, number: int, line: Line) -> None:
        try:
            signed = self._sign(line)
            async with asyncio.timeout(self.timeout):
                good, said = await self._ask(client, signed)
        except TimeoutError:
            good, said = False, "no answer: TimeoutError"
            self.complain(number, f"no whole answer within {self.timeout:g} s")
        except (httpx2.HTTPError, EventBusError, ValueError, TypeError, RecursionError) as error:
            good, said = False, f"no answer: {type(error).__name__}"
            self.complain(number, f"{type(error).__name__}: {error}")
        else:
            if not good:
                self.complain(number, said)
        self.answered += 1
        self.failed += not good
        self.answers[said] += 1
        self.tick()

    async def _ask(self, client: httpx2.AsyncClient, signed: SignedRequest) -> tuple[bool, str]:
        """Whether the answer was 2xx, and what it said."""
        body = bytearray()
        async with client.stream(
            "POST", self.url.text, content=signed.body, headers=[*signed.headers]
        ) as answer:
            async for piece in answer.aiter_raw():  # a few kilobytes of gzip would be a gigabyte
                body += piece
                if len(body) > LONGEST_ANSWER:
                    body.clear()
                    break
        return answer.is_success, _summary(answer.status_code, body)

    def _sign(self, line: Line) -> SignedRequest:
        scheme, key = self.sender
        given: dict[str, Any] = {"id": line.fields["id"]} if "id" in line.fields else {}
        return sign(
            scheme,
            line.type,
            line.data,
            time=datetime.now(UTC),
            happened=line.fields.get("time"),
            target=self.url.target,
            key=key,
            **given,
        )


def _summary(status: int, body: bytearray) -> str:
    """Status and, if the answer says it in our way, what it was: ``401 unauthorized``."""
    said = ""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        error = content.get("error")
        if isinstance(error, dict):
            said = str(error.get("code", ""))
        elif isinstance(error, str):
            said = error
        else:
            said = next((name for name in ("accepted", "duplicate") if content.get(name)), "")
    word = "".join(each if each.isprintable() else "?" for each in said[:LONGEST_WORD])
    return f"{status} {word}".strip()
