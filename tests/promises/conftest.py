"""Each promise is tested twice: with the pump's fast path, and with the careful path alone."""

from __future__ import annotations

import os

import pytest

import eventbus._pump

PATHS = ["careful"] if os.environ.get("EVENTBUS_TEST_VARIANT") == "careful" else ["fast", "careful"]


@pytest.fixture(autouse=True, params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which path the pump takes in this test: ``"fast"`` or ``"careful"``."""
    name: str = request.param
    monkeypatch.setattr(eventbus._pump, "FAST", name == "fast")
    return name
