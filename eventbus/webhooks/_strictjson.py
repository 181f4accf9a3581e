"""JSON that has one meaning, or none."""

from __future__ import annotations

from typing import Any

import jiter

from eventbus.webhooks.errors import InvalidJson


def parse_json(body: bytes) -> Any:
    """Parse a body. Raises ``InvalidJson``."""
    try:
        return jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError:
        raise InvalidJson("syntax", 0) from None
