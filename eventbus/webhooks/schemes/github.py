"""GitHub."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from functools import partial
from hmac import compare_digest
from typing import TYPE_CHECKING, Any, Final
from uuid import NAMESPACE_URL, uuid5

from eventbus.webhooks._scheme import AN_HOUR, Headers, Verified, message_key, require_header
from eventbus.webhooks._secrets import read_opaque_secret, read_secrets
from eventbus.webhooks.bodies import GitHubBody
from eventbus.webhooks.errors import MalformedHeader, NoMatchingSignature

if TYPE_CHECKING:
    from eventbus.webhooks._request import Request
    from eventbus.webhooks.bodies import BodyReader

__all__ = ["GitHub"]

_HEADER: Final = b"x-hub-signature-256"
_is_signature = re.compile(rb"sha256=([0-9a-f]{64})").fullmatch


class GitHub:
    """Verifies what GitHub signs in ``X-Hub-Signature-256``: the body, and nothing else.

    So no header is proven, neither the event's name nor the delivery's id, and a request never
    gets too old. What is a duplicate is decided by the body's bytes, which a replay store keeps for
    an hour at least; what GitHub is told to redeliver is, within that time, taken for what it is,
    the same message again. How far the event's name is believed: see `GitHubBody`. The older
    signature with SHA-1 is not looked at.

    ``secrets`` are one to ten texts. ``allow_weak_secret`` allows fewer than 16 bytes.

    Raises ``OptionError`` for secrets that are none, or of another kind.
    """

    name = "github"
    max_body = 25 * 2**20
    """What GitHub sends at most, in bytes."""

    def __init__(
        self, secrets: str | bytes | Iterable[str | bytes], *, allow_weak_secret: bool = False
    ) -> None:
        self._keys = read_secrets(secrets, partial(read_opaque_secret, weak=allow_weak_secret))

    @property
    def body(self) -> BodyReader:
        """See ``Scheme.body``."""
        return _format

    def verify(self, request: Request, now: float) -> Verified:
        """See ``Scheme.verify``."""
        signature = _is_signature(require_header(request, _HEADER))
        if signature is None:
            raise MalformedHeader("not sha256= and 64 hexadecimal digits in lower case")
        good = False
        for key in self._keys:
            good |= compare_digest(key.digest(request.body).hex().encode(), signature[1])
        if not good:
            raise NoMatchingSignature("the signature does not fit")
        key_of_body = message_key(self.name, b"body", request.body)
        return Verified(key=key_of_body, id=None, time=None, remember=AN_HOUR)

    def sign(
        self,
        type: str,
        data: Any,
        *,
        id: str,
        time: datetime,
        happened: datetime | None = None,
        method: str = "POST",
        target: str = "/",
        body: bytes | None = None,
        key: str | bytes | None = None,
    ) -> tuple[Headers, bytes]:
        """See ``SigningScheme.sign``. The type is ``event`` or ``event.action``."""
        if body is None:
            body = _format.write(type, data, id=id, time=happened or time)
        signer = self._keys[0] if key is None else read_opaque_secret(key, weak=True)
        return [
            (b"x-github-event", type.split(".", maxsplit=1)[0].encode()),
            (b"x-github-delivery", str(uuid5(NAMESPACE_URL, id)).encode()),
            (_HEADER, b"sha256=" + signer.digest(body).hex().encode()),
        ], body

    def __repr__(self) -> str:
        return f"<GitHub, secrets: {len(self._keys)}>"


_format = GitHubBody()
