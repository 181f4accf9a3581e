"""Peers ask the clock themselves; so that a long run of tests ages no signature, it stands."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


def standing_at(now: int) -> Callable[[pytest.MonkeyPatch], None]:
    """A fixture for each test of a module: for its peers it is always now."""

    class Standing(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Self:
            return cls.fromtimestamp(now, tz)

    @pytest.fixture(autouse=True)
    def clock(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("standardwebhooks.webhooks.datetime", Standing)
        monkeypatch.setattr(time, "time", lambda: float(now))
        monkeypatch.setattr("slack_sdk.signature.Clock.now", lambda _: float(now))

    return clock
