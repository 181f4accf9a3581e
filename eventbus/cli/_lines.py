"""JSON lines: from the bytes of a file to events, or to what is wrong with a line.

A line is UTF-8 and holds one JSON object::

    {"type": "invoice.paid", "data": {…}, "id": "evt_1", "source": "payment-kit",
     "time": "2025-01-31T12:00:00Z", "subject": "in_1", "attributes": {…}}

All but ``type`` may be left out or null. Blank lines are passed over; they count as lines.

What would be lost or guessed at is refused: unknown fields, keys that come twice in an object,
``NaN`` and ``Infinity`` (which are no JSON), floats too large for a double (they would become
infinite), integers of more digits than Python reads (4,300), and times without a time zone.
Integers that fit are exact, however large.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import datetime
from difflib import get_close_matches
from typing import Any, Final, NamedTuple

from eventbus.event import EventFields, check_time
from eventbus.topics import check_topic

__all__ = ["BadLine", "Line", "Splitter", "parse_line"]

LONGEST: Final = 16 * 1024 * 1024
"""The longest line that is read, in bytes. Only so much of a file is in memory at once."""

FIELDS: Final = ("type", "data", "id", "source", "time", "subject", "attributes")
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class BadLine(ValueError):
    """A line that is no event. The message says why, and the cure where there is one."""


class Line(NamedTuple):
    """What a line says."""

    type: str
    data: Any
    fields: EventFields


class Splitter:
    """Cuts chunks of bytes into numbered lines. Holds at most one unfinished line."""

    def __init__(self, longest: int = LONGEST) -> None:
        self.number = 0
        """How many lines there were so far."""
        self._longest = longest
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes | None]]:
        """The lines that the chunk completes, by number. None in place of one that is too long."""
        first, *others = chunk.split(b"\n")
        self._keep(first)
        for part in others:
            yield self._complete()
            self._keep(part)

    def end(self) -> Iterator[tuple[int, bytes | None]]:
        """The last line, if the file does not end with a line feed."""
        if self._size:
            yield self._complete()

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if part and self._size <= self._longest:
            self._parts.append(part)

    def _complete(self) -> tuple[int, bytes | None]:
        line = b"".join(self._parts) if self._size <= self._longest else None
        self._parts.clear()
        self._size = 0
        self.number += 1
        if self.number == 1 and line is not None:
            line = line.removeprefix(BYTE_ORDER_MARK)
        return self.number, line


def parse_line(line: bytes | None) -> Line | None:
    """The event of a line, or None if it is blank. Raises `BadLine`."""
    if line is None:
        raise BadLine(f"longer than {LONGEST:,} bytes")
    if not line.strip():
        return None
    found = _decode(line)
    if not isinstance(found, dict):
        raise BadLine(f"a JSON object is expected, not {_kind(found)}")
    unknown = [name for name in found if name not in FIELDS]
    if unknown:
        raise BadLine(_unknown(unknown))
    if "type" not in found:
        raise BadLine("no 'type': each event needs its topic")
    topic = _text(found, "type")
    assert topic is not None
    try:
        check_topic(topic)
    except ValueError as error:
        raise BadLine(str(error)) from None
    return Line(topic, found.get("data"), _fields(found))


def _decode(line: bytes) -> Any:
    try:
        return _decoder.decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadLine(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise BadLine(f"not JSON: {error.msg} (character {error.pos})") from None
    except RecursionError:
        raise BadLine("nested too deeply") from None
    except BadLine:
        raise
    except ValueError as error:  # an integer of too many digits
        raise BadLine(f"not readable: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]  # add returns None, which goes on
        raise BadLine(f"the key {twice!r} comes twice in one object")
    return found


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise BadLine(f"the number {text[:40]} is too large")
    return value


def _constant(text: str) -> float:
    raise BadLine(f"{text} is no JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)


def _unknown(names: list[str]) -> str:
    near = get_close_matches(names[0], FIELDS, 1)
    cure = f"did you mean {near[0]!r}?" if near else "put it into 'attributes' or 'data'"
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"unknown field {names[0][:80]!r}{more}: {cure}"


def _fields(found: dict[str, Any]) -> EventFields:
    fields: EventFields = {}
    for name in ("id", "source", "subject"):
        text = _text(found, name)
        if text is not None:
            fields[name] = text
    time = _text(found, "time")
    if time is not None:
        fields["time"] = _time(time)
    attributes = found.get("attributes")
    if attributes is not None:
        if not isinstance(attributes, dict):
            raise BadLine(f"'attributes' is an object, not {_kind(attributes)}")
        fields["attributes"] = attributes
    return fields


def _text(found: dict[str, Any], name: str) -> str | None:
    value = found.get(name)
    if isinstance(value, str) and (value or name == "type"):
        return value
    if value is None and name != "type":
        return None
    wrong = "an empty one" if value == "" else _kind(value)
    raise BadLine(f"{name!r} is a string, not {wrong}")


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise BadLine(f"'time' {text[:40]!r} is no ISO 8601 time") from None
    try:
        return check_time(time)
    except ValueError:
        raise BadLine("'time' has no time zone: end it with 'Z' for UTC") from None
    except OverflowError:
        raise BadLine(f"'time' {text[:40]!r} is no time in UTC") from None


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names: dict[type, str] = {dict: "an object", list: "an array", str: "a string"}
    return names.get(type(value), "a number")
