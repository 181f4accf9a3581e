"""What became of requests: counted always, and told to the log as often as a log can bear.

Anybody can send bad requests, as fast as a network is; so at most `LINES` lines of one kind are
written in `WINDOW` seconds. The next line of that kind says how many were left out. The counts
leave out nothing.

=======================  =======  ==========================================================
log event                level    fields besides ``bus``
=======================  =======  ==========================================================
``webhook.refused``      warning  receiver, scheme, code, status, left_out; some: detail, event_id,
                                  skew, body_sha256
``webhook.failed``       error    receiver, scheme, code, detail, left_out; traceback
``webhook.unsettled``    error    receiver, scheme, code, step, left_out; traceback
=======================  =======  ==========================================================

``webhook.failed`` has the traceback of an error that nobody foresaw, ``webhook.unsettled`` that of
a replay store that could not end or prolong a claim. What an application answers before it knows
the receiver has ``app`` in the place of ``bus``, ``receiver`` and ``scheme``. ``skew`` is seconds;
``body_sha256`` the first 12 digits, to tell whether two bodies are the same. No line has a secret,
a signature or a payload.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

__all__ = ["Ledger", "WebhookStatistics"]

LINES: Final = 5
WINDOW: Final = 10.0

Write = Callable[..., None]
"""``write(name, level, error, **fields)``, as a bus's log has it."""


@dataclass(frozen=True, slots=True)
class WebhookStatistics:
    """Counts since the start."""

    accepted: int
    """Requests that became an event on the bus."""
    duplicates: int
    """Requests whose event had been published before."""
    refused: Mapping[str, int]
    """All others, by the code of their error."""
    in_flight: int
    """Requests that are not answered yet, or whose handlers still run under a claim."""


@dataclass(slots=True)
class _Kind:
    """The lines of one kind."""

    since: float
    """When its window began."""
    written: int = 0
    left_out: int = 0


@dataclass(slots=True)
class Ledger:
    """The counts of one receiver or application, and its lines in the log."""

    write: Write
    now: Callable[[], float]
    """Monotonic time, in seconds."""
    names: Mapping[str, Any]
    """The fields that each line has."""
    accepted: int = 0
    duplicates: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    _kinds: dict[tuple[str, str], _Kind] = field(default_factory=dict)

    def refuse(self, code: str, status: int, fields: Callable[[], Mapping[str, Any]]) -> None:
        """Count a refusal and tell it. ``fields`` makes more fields, if the line is written."""
        self.refused[code] += 1
        self.tell("webhook.refused", "warning", code, None, lambda: {"status": status, **fields()})

    def tell(
        self,
        name: str,
        level: Literal["warning", "error"],
        code: str,
        error: BaseException | None,
        fields: Callable[[], Mapping[str, Any]],
    ) -> None:
        """Write a line, or count it as left out."""
        kind = self._kinds.setdefault((name, code), _Kind(self.now()))
        if self.now() - kind.since >= WINDOW:
            kind.since, kind.written = self.now(), 0
        if kind.written >= LINES:
            kind.left_out += 1
            return
        kind.written += 1
        left_out, kind.left_out = kind.left_out, 0
        self.write(name, level, error, **self.names, code=code, **fields(), left_out=left_out)

    def statistics(self, in_flight: int) -> WebhookStatistics:
        """The counts, as of now."""
        return WebhookStatistics(self.accepted, self.duplicates, dict(self.refused), in_flight)
