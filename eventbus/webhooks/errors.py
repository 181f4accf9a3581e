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
        ├── ReplayStoreUnavailable       503     unavailable          replay_store_unavailable
        ├── ReplayStoreFull              503     unavailable          replay_store_full
        ├── Overloaded                   503     unavailable          overloaded
        └── ShuttingDown                 503     unavailable          shutting_down

Failures of authentication share one public answer, so that they help nobody to guess; what was
wrong is in the log alone. No message carries a secret, a signature or a part of the payload.
"""

from __future__ import annotations

from typing import ClassVar

from eventbus.errors import EventBusError


class WebhookError(EventBusError):
    """A request that became no event, or not yet."""

    status: ClassVar[int] = 400
    """The HTTP status that answers it."""
    public: ClassVar[str] = "bad_request"
    """What the sender is told."""
    code: ClassVar[str] = "bad_request"
    """What it is counted and logged as."""
    retry_after: ClassVar[int | None] = None
    """Seconds after which the sender should try again, where it should."""
