"""What can be wrong with a request: whose fault it is, what it is answered, what is counted.

::

    WebhookError (EventBusError)         status  told to the sender   counted and logged as
    ├── RequestError                             the request never reached verification
    │   ├── MalformedRequest             400     malformed_request    malformed_request
    │   ├── DuplicateHeader              400     duplicate_header     duplicate_header
    │   ├── BodyTimeout                  408     body_timeout         body_timeout
    │   ├── BodyTooLarge                 413     body_too_large       body_too_large
    │   ├── UnsupportedEncoding          415     unsupported_encoding unsupported_encoding
    │   ├── UnsupportedMediaType         415     unsupported_media_type  (the same)
    │   └── ClientDisconnect             none    -                    client_disconnect
    ├── VerificationError                        not proven to come from the sender
    │   ├── MissingHeader                401     unauthorized         missing_header
    │   ├── MalformedHeader              401     unauthorized         malformed_header
    │   ├── NoMatchingSignature          401     unauthorized         no_matching_signature
    │   ├── TimestampTooOld              401     unauthorized         timestamp_too_old
    │   └── TimestampTooNew              401     unauthorized         timestamp_too_new
    ├── ContentError                             authentic, and not to be understood
    │   ├── InvalidJson                  400     invalid_json         invalid_json
    │   ├── InvalidEnvelope              422     invalid_envelope     invalid_envelope
    │   └── PayloadInvalid               422     invalid_payload      invalid_payload
    └── NotNow                                   try again later
        ├── InProgress                   409     in_progress          in_progress
        ├── Backpressure                 503     unavailable          backpressure
        ├── HandlerFailed                503     unavailable          handler_failed
        ├── AckTimeout                   503     unavailable          ack_timeout
        ├── ReceiverFailed               503     unavailable          receiver_failed
        ├── ReplayStoreUnavailable       503     unavailable          replay_store_unavailable
        ├── ReplayStoreFull              503     unavailable          replay_store_full
        ├── Overloaded                   503     unavailable          overloaded
        └── ShuttingDown                 503     unavailable          shutting_down

Failures of authentication share one public answer, so that they help nobody to guess; what was
wrong is in the log alone. No message carries a secret, a signature or a part of the payload.
"""

from __future__ import annotations

from typing import Any, ClassVar

from eventbus.errors import EventBusError

__all__ = [
    "AckTimeout",
    "Backpressure",
    "BodyTimeout",
    "BodyTooLarge",
    "ClientDisconnect",
    "ContentError",
    "DuplicateHeader",
    "HandlerFailed",
    "InProgress",
    "InvalidEnvelope",
    "InvalidJson",
    "MalformedHeader",
    "MalformedRequest",
    "MissingHeader",
    "NoMatchingSignature",
    "NotNow",
    "Overloaded",
    "PayloadInvalid",
    "ReceiverFailed",
    "ReplayStoreFull",
    "ReplayStoreUnavailable",
    "RequestError",
    "ShuttingDown",
    "TimestampTooNew",
    "TimestampTooOld",
    "UnsupportedEncoding",
    "UnsupportedMediaType",
    "VerificationError",
    "WebhookError",
]


class WebhookError(EventBusError):
    """A request that became no event, or not yet.

    The message is for the log of whoever receives it; the sender is told ``public`` alone.
    """

    status: int = 400
    """The HTTP status that answers it."""
    public: ClassVar[str] = "bad_request"
    """What the sender is told."""
    code: ClassVar[str] = "bad_request"
    """What it is counted and logged as."""
    retry_after: int | None = None
    """Seconds after which the sender should try again, where it should."""
    answer: bytes | None = None
    """The whole body of the answer, where the scheme has one of its own; else None, and
    ``public`` is told in the usual form."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, vars(self))


def _restore(cls: type[WebhookError], args: tuple[Any, ...], state: dict[str, Any]) -> WebhookError:
    error = cls.__new__(cls, *args)  # pickling keeps what __init__ made of its arguments
    error.args = args
    vars(error).update(state)
    return error


class RequestError(WebhookError):
    """The sender's: the request was no request that could be verified."""


class MalformedRequest(RequestError):
    """Its framing is wrong: a ``Content-Length`` that is no number, say."""

    public = code = "malformed_request"


class DuplicateHeader(RequestError):
    """A header that decides about the request came twice: whom of the two to believe?"""

    public = code = "duplicate_header"


class BodyTimeout(RequestError):
    """The body did not arrive in time."""

    status = 408
    public = code = "body_timeout"


class BodyTooLarge(RequestError):
    """The body is longer than the receiver takes."""

    status = 413
    public = code = "body_too_large"


class UnsupportedEncoding(RequestError):
    """The body is compressed or otherwise encoded."""

    status = 415
    public = code = "unsupported_encoding"


class UnsupportedMediaType(RequestError):
    """The body does not claim to be JSON in UTF-8."""

    status = 415
    public = code = "unsupported_media_type"


class ClientDisconnect(RequestError):
    """The sender went away before its body was complete. Nobody is left to be answered."""

    public = code = "client_disconnect"


class VerificationError(WebhookError):
    """Not proven to come from the sender. Each kind is answered alike."""

    status = 401
    public = "unauthorized"
    code = "unauthorized"


class MissingHeader(VerificationError):
    """A header that the signature needs is not there."""

    code = "missing_header"


class MalformedHeader(VerificationError):
    """A header that the signature needs is not written as the scheme has it."""

    code = "malformed_header"


class NoMatchingSignature(VerificationError):
    """No signature fits the request under any secret."""

    code = "no_matching_signature"


class _Skewed(VerificationError):
    def __init__(self, message: str, skew: float = 0.0) -> None:
        super().__init__(message)
        self.skew = skew


class TimestampTooOld(_Skewed):
    """The signature is good and was made too long ago. ``skew`` is how long, in seconds."""

    code = "timestamp_too_old"


class TimestampTooNew(_Skewed):
    """The signature is good and its time is still to come. ``skew`` is how far, in seconds."""

    code = "timestamp_too_new"


class ContentError(WebhookError):
    """The sender is proven, and what it says cannot be understood."""


class InvalidJson(ContentError):
    """The body is no JSON, or is JSON that two readers could read differently."""

    public = code = "invalid_json"

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(f"{reason} at byte {offset}")
        self.reason = reason
        """Which rule is broken: see ``eventbus.webhooks._strictjson``."""
        self.offset = offset
        """About where, in bytes from the start of the body."""


class InvalidEnvelope(ContentError):
    """The body is JSON, and no event: a field is missing or is not what it should be."""

    status = 422
    public = code = "invalid_envelope"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        """Which part of the body, or which header, is wrong."""


class PayloadInvalid(ContentError):
    """The event's data does not fit the model of its topic."""

    status = 422
    public = code = "invalid_payload"


class NotNow(WebhookError):
    """Nothing is wrong with the request: the sender should send it again later."""

    status = 503
    public = "unavailable"
    code = "unavailable"
    retry_after = 5


class InProgress(NotNow):
    """The same message is being handled right now."""

    status = 409
    public = code = "in_progress"


class Backpressure(NotNow):
    """The bus is full or closed, or it took too long to accept the event."""

    code = "backpressure"


class HandlerFailed(NotNow):
    """A handler failed, and the receiver promises to answer for its handlers."""

    code = "handler_failed"


class AckTimeout(NotNow):
    """The handlers did not end in time. They go on."""

    code = "ack_timeout"
    retry_after = 60


class ReceiverFailed(NotNow):
    """Code of the application's own raised what nobody foresaw; that is its ``__cause__``.

    A validator of a model, say. It is in the log with its traceback.
    """

    code = "receiver_failed"


class ReplayStoreUnavailable(NotNow):
    """What was received before cannot be looked up, so nothing is received."""

    code = "replay_store_unavailable"


class ReplayStoreFull(NotNow):
    """What was received before cannot be written down without forgetting too early."""

    code = "replay_store_full"


class Overloaded(NotNow):
    """As many requests as the application takes at once are being read."""

    code = "overloaded"
    retry_after = 1


class ShuttingDown(NotNow):
    """The application is about to end."""

    code = "shutting_down"
