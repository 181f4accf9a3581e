"""A receiver: one endpoint's scheme, body, replay store and bus, and what each request becomes."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Final

from eventbus.bus import EventBus
from eventbus.errors import OptionError
from eventbus.webhooks._acceptance import Acceptance, Ack
from eventbus.webhooks._answer import (
    ACCEPTED_BODY,
    ACCEPTED_HEADERS,
    DUPLICATE,
    Answer,
    Message,
    Receive,
    Scope,
    answer_of,
)
from eventbus.webhooks._http import (
    DEFAULT_BODY,
    LARGEST_BODY,
    Limits,
    check_head,
    read_body,
    target_of,
)
from eventbus.webhooks._ledger import Ledger, WebhookStatistics
from eventbus.webhooks._request import Request, read_request
from eventbus.webhooks._verification import check_template, verify_request
from eventbus.webhooks.errors import (
    AckTimeout,
    BodyTimeout,
    BodyTooLarge,
    ClientDisconnect,
    HandlerFailed,
    ReceiverFailed,
    TimestampTooNew,
    TimestampTooOld,
    VerificationError,
    WebhookError,
)
from eventbus.webhooks.replay import MemoryReplayStore, ReplayStore

if TYPE_CHECKING:
    from eventbus.event import Event
    from eventbus.webhooks._scheme import Scheme
    from eventbus.webhooks._verification import Topic
    from eventbus.webhooks.bodies import BodyReader

__all__ = ["Receiver"]

CLOSE: Final = (b"connection", b"close")

CLOCKS_DIFFER: Final = 5.0
"""For how many seconds more than its signature is good a request is remembered: its last moment
counts, and the clocks of processes that share a store may differ a little."""


class Receiver:
    """Turns the verified requests of one endpoint into events on a bus.

    - ``scheme`` says who may send: `StandardWebhooks`, `Stripe`, … ``body`` reads what they say;
      by default the way that senders of that scheme write.
    - ``topic``: where events are published: a text in which ``{type}`` is the sender's type, such
      as ``"stripe.{type}"``, or a function of the envelope.
    - ``replay``: what was received before, by default in a `MemoryReplayStore` of its own.
    - ``ack``: with ``"accepted"`` a request is answered 200 as soon as the bus has accepted its
      event. What an in-memory bus has accepted is lost if the process dies before the handlers
      have run, and the sender, who was told that all is well, does not send it again. With
      ``"handled"`` it is answered 200 when every handler has returned, and 503 if one failed: the
      sender's retry then runs them all again. What a subscription drops by its own ``overflow`` is
      no failure.
    - ``deadline``: for how many seconds a request is kept waiting: for room on the bus (15 at most)
      and, with ``ack="handled"``, for handlers. Those that take longer go on; until they end, the
      sender's retries are told that the event is in progress.
    - ``name``: for the log, and part of what the replay store keys on, so that two receivers may
      share a store. By default the name of the scheme.
    - ``max_body``: in bytes, at most 25 MiB; by default 1 MiB, or what the scheme's senders need.
    - ``read_timeout`` and ``idle_timeout``: how many seconds a body may take, in all and from one
      piece to the next.

    Data is checked against the model that the catalogue of the bus has for the topic, if any.
    Time comes from the clock of the bus.

    Raises ``OptionError`` for values out of range.
    """

    def __init__(
        self,
        bus: EventBus,
        scheme: Scheme,
        *,
        body: BodyReader | None = None,
        topic: Topic = "{type}",
        replay: ReplayStore | None = None,
        ack: Ack = "accepted",
        deadline: float = 3.0,
        name: str | None = None,
        max_body: int | None = None,
        read_timeout: float = 10.0,
        idle_timeout: float = 5.0,
    ) -> None:
        if not isinstance(bus, EventBus):
            raise OptionError(f"bus={bus!r}: pass an EventBus")
        if ack not in {"accepted", "handled"}:
            raise OptionError(f"ack={ack!r}: pass 'accepted' or 'handled'")
        if name is not None and not (isinstance(name, str) and name):
            raise OptionError(f"name={name!r}: pass a string that is not empty")
        if max_body is None:
            max_body = getattr(scheme, "max_body", DEFAULT_BODY)
        if not isinstance(max_body, int) or not 1 <= max_body <= LARGEST_BODY:
            raise OptionError(f"max_body={max_body!r}: pass bytes, 1 to {LARGEST_BODY:,}")
        for option, seconds in (
            ("deadline", deadline),
            ("read_timeout", read_timeout),
            ("idle_timeout", idle_timeout),
        ):
            if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
                raise OptionError(f"{option}={seconds!r}: pass a number of seconds above 0")
        self._bus = bus
        self._scheme = scheme
        self._reader = scheme.body if body is None else body
        self._topic = check_template(topic)
        self.name = scheme.name if name is None else name
        """For the log, and for the keys in the replay store."""
        self.replay: ReplayStore = MemoryReplayStore() if replay is None else replay
        """What was received before."""
        self._limits = Limits(max_body, read_timeout, idle_timeout)
        self._ledger = Ledger(
            bus._log.write,
            self._monotonic,
            {"receiver": self.name, "scheme": scheme.name},
        )
        self._acceptance = Acceptance(bus, self.replay, ack, deadline, self._ledger)
        self._key = hashlib.sha256(self.name.encode("utf-8", "surrogatepass") + b"\0")

    def verify(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        now: float | None = None,
    ) -> Event[Any]:
        """The event that a request stands for. Nothing is stored, published or counted.

        ``target`` is path and query, ``headers`` the raw pairs and ``body`` the raw bytes, all as
        the sender wrote them; ``now`` is UNIX time in seconds, by default that of the bus's clock.

        Raises a ``WebhookError`` that says what is wrong, whatever the bytes; and ``TypeError``
        for what is no raw request, such as a body that was parsed before.
        """
        request = read_request(method, target, headers, body)
        now = self._bus._clock.time() if now is None else now
        return verify_request(self._scheme, self._reader, self._topic, request, now)[0].event()

    async def accept(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        now: float | None = None,
    ) -> Answer:
        """Verify a request, publish its event unless that was done before, and say what to answer.

        The arguments are those of ``verify``, and so is the ``TypeError``; everything else that
        goes wrong is an answer, whose ``error`` says what. Cancelled, the event is published once
        or not at all: what has begun goes on without the caller, and if the event loop ends before
        it does, the claim in the replay store lasts until its lease has run out.
        """
        return await self._answer(read_request(method, target, headers, body), now)

    async def respond(self, request: Any) -> Any:
        """The answer to a request of Starlette or FastAPI, as a response to return from a route.

        ``request`` is Starlette's, or anything with its ``scope`` and ``stream()``. The body, read
        before or not, must be the raw one: declare no body parameter in the route. What was not
        read yet is subject to the limits. A client that has left gets an answer that nobody reads.
        """
        answer = await self.serve(request.scope, _receiving(request.stream()))
        if answer is None:
            answer = answer_of(ClientDisconnect("the sender left"))
        starlette = sys.modules.get("starlette.responses")
        if starlette is None:
            return answer
        # FastAPI turns into JSON whatever is no Response of Starlette's.
        response = starlette.Response(answer.body, answer.status)
        response.raw_headers = list(answer.headers)
        return response

    async def serve(self, scope: Scope, receive: Receive) -> Answer | None:
        """The answer to a request in terms of ASGI; None if the sender has left.

        Raises nothing but what ``receive`` raises. Cancelled as ``accept`` is.
        """
        headers = tuple(scope["headers"])  # an iterable, and no more, says ASGI
        try:
            check_head(headers, self._limits.size)
            body = await read_body(receive, self._limits, self._bus._clock)
        except ClientDisconnect as error:
            self._refused(error)
            return None
        except WebhookError as error:
            answer = self._refused(error)
            unread = isinstance(error, BodyTooLarge | BodyTimeout)
            return answer.with_headers(CLOSE) if unread and is_http1(scope) else answer
        request = Request(scope["method"], target_of(scope), headers, body)
        return await self._answer(request, None)

    @property
    def max_body(self) -> int:
        """How long a body may be, in bytes."""
        return self._limits.size

    async def aclose(self) -> None:
        """Wait until no claim of this receiver is open any more. Close the bus afterwards.

        Cancelled, it changes nothing.
        """
        await self._acceptance.finish()

    def statistics(self) -> WebhookStatistics:
        """What became of the requests, counted by the codes of the errors."""
        return self._ledger.statistics(len(self._acceptance.tasks))

    def __repr__(self) -> str:
        return f"<Receiver {self.name!r}: {self._scheme!r} to {self._bus.name!r}>"

    async def _answer(self, request: Request, now: float | None) -> Answer:
        now = self._bus._clock.time() if now is None else now
        draft = None
        try:
            draft, verified = verify_request(self._scheme, self._reader, self._topic, request, now)
            key = self._key.copy()
            key.update(verified.key)
            remember = verified.remember + CLOCKS_DIFFER
            accepted = await self._acceptance.run(draft, key.digest(), remember, now)
        except WebhookError as error:
            published = isinstance(error, HandlerFailed | AckTimeout)
            return self._refused(error, request, draft.event() if draft and published else None)
        except Exception as cause:  # a scheme of the user's own
            unforeseen = ReceiverFailed(f"verifying raised {type(cause).__name__}")
            unforeseen.__cause__ = cause
            return self._refused(unforeseen, request)
        if accepted is None:
            self._ledger.duplicates += 1
            return DUPLICATE
        self._ledger.accepted += 1
        return Answer(200, ACCEPTED_HEADERS, ACCEPTED_BODY, accepted)

    def _monotonic(self) -> float:
        return self._bus._clock.monotonic()  # which a test may exchange

    def _refused(
        self, error: WebhookError, request: Request | None = None, event: Event[Any] | None = None
    ) -> Answer:
        """Count and tell it, and say what to answer."""

        def fields() -> dict[str, Any]:
            found: dict[str, Any] = {"detail": str(error)}
            if event is not None:
                found["event_id"] = event.id
            if isinstance(error, TimestampTooOld | TimestampTooNew):
                found["skew"] = error.skew
            if isinstance(error, VerificationError) and request is not None:
                # Tells whether two senders' bodies were the same one, and nothing of what it says.
                found["body_sha256"] = hashlib.sha256(request.body).hexdigest()[:12]
            return found

        if isinstance(error, ReceiverFailed):
            self._ledger.tell(
                "webhook.failed",
                "error",
                error.code,
                error.__cause__,
                lambda: {"detail": str(error)},
            )
        self._ledger.refuse(error.code, error.status, fields)
        return answer_of(error, event)


def is_http1(scope: Scope) -> bool:
    """Whether the connection is one request's at a time, so that it can be closed after it."""
    return str(scope.get("http_version", "1.1")).startswith("1")


def _receiving(stream: AsyncIterator[bytes]) -> Receive:
    """A stream of pieces, as ASGI receives them."""
    pieces = aiter(stream)

    async def receive() -> Message:
        try:
            piece = await anext(pieces, None)
        except Exception:  # Starlette's ClientDisconnect, which is not to be imported here
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    return receive
