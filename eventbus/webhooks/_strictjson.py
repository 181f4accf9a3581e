"""JSON that has one meaning, or none.

Two readers of one text may disagree: of two equal names one takes the first, the other the last;
``1e999`` is infinity here and an error there; some take ``NaN``, a lone half of a surrogate pair,
or text after the end. A check made on one reading and work done on another is a hole. So a body
is parsed once, by these rules (RFC 8259 and RFC 7493, I-JSON), and handlers get what was parsed:

=================  =======================================================================
reason             what is refused
=================  =======================================================================
``empty``          nothing, or white space alone
``byte_order``     a byte order mark before the text
``encoding``       bytes that are no UTF-8
``duplicate_key``  two equal names in one object, however they are escaped
``surrogate``      half of a surrogate pair, as an escape
``not_a_number``   ``NaN``, ``Infinity``
``number``         a number of more than 309 digits, or beyond what a double can hold
``depth``          more than 64 arrays and objects in each other
``trailing_data``  anything after the value
``syntax``         whatever else is no JSON
=================  =======================================================================

jiter parses; it takes deep and long things in linear time and without recursion of Python's. What
it allows and these rules do not is looked for in the text without its strings, also by compiled
code: what a request costs before its sender is known is bounded by its size.
"""

from __future__ import annotations

import re
from array import array
from itertools import accumulate
from math import inf
from typing import Any, Final

from eventbus.webhooks.errors import InvalidJson

try:
    from jiter import from_json
except ImportError as error:
    raise ImportError("webhooks need more packages: pip install 'eventbus[webhooks]'") from error

MAX_DEPTH: Final = 64
"""How many arrays and objects may stand in each other."""
MAX_DIGITS: Final = 309
"""How many digits a number may have in a row: as many as the largest double."""

_BOM = b"\xef\xbb\xbf"
_strings = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
# What may be infinite as a double. Numbers too small for one are 0, in every reader. Looking back,
# it is tried once for a number and not once for each of its digits.
_find_large = re.compile(
    rb"(?<![0-9.])(?:[0-9]+(?:\.[0-9]+)?[eE]\+?[0-9]+|[0-9]{%d}\.[0-9]+)" % MAX_DIGITS
)
_shape = bytes.maketrans(b"123456789E[", b"000000000e{")
_LONG = b"0" * 100
_TOO_LONG = b"0" * (MAX_DIGITS + 1)
# In a shape. In a string it may stand behind such a character, too; then more is done than needed.
_large_exponent = re.compile(rb"[-:,{\s]0[0.]*e000").search
_rises_and_falls = bytes.maketrans(b"[]{}", b"\x01\xff\x01\xff")
_no_brackets = bytes(set(range(256)) - set(b"[]{}"))
_place = re.compile(r" at line (\d+) column (\d+)$").search

_REASONS: Final = (
    ("duplicate key", "duplicate_key"),
    ("recursion limit", "depth"),
    ("trailing characters", "trailing_data"),
    ("out of range", "number"),
    ("hex escape", "surrogate"),
)
"""What the parser says, and which of the rules that is."""


def parse_json(body: bytes) -> Any:
    """The value of a body. Raises ``InvalidJson``, and nothing else, in time linear to its size."""
    try:
        value = from_json(body, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys")
    except ValueError as error:
        raise _explain(body, str(error)) from None
    check_limits(body)
    return value


def without_strings(body: bytes) -> bytes:
    """Well-formed JSON without its strings: what is left are numbers, brackets and words."""
    return _strings.sub(b"", body)


def check_limits(body: bytes) -> None:
    """Refuse too deep and too large things in a well-formed body. Raises ``InvalidJson``."""
    shape = body.translate(_shape, b"+")  # of all digits and brackets, one of each
    deep = shape.count(b"{") > MAX_DEPTH
    if not (deep or _LONG in shape or _has_large_exponent(shape)):
        return  # as most bodies do, in a fraction of the time that the rest takes
    bare = without_strings(body)
    if deep and _depth(bare) > MAX_DEPTH:
        raise InvalidJson("depth", 0)
    if _TOO_LONG in bare.translate(_shape):
        raise InvalidJson("number", 0)
    if max(map(float, _find_large.findall(bare)), default=0.0) == inf:
        raise InvalidJson("number", 0)


def _has_large_exponent(shape: bytes) -> bool:
    """Whether there may be a number of fewer than 100 digits that is beyond what a double holds.

    That takes an exponent of three digits or more. Ids are full of shorter ones: ``3e4``.
    """
    if b"0e000" in shape:
        return shape.startswith(b"0") or _large_exponent(shape) is not None
    return False


def _depth(bare: bytes) -> int:
    """How many brackets stand in each other: the highest sum of 1 for [ and {, -1 for ] and }."""
    steps = array("b", bare.translate(_rises_and_falls, _no_brackets))
    return max(accumulate(steps), default=0)


def _explain(body: bytes, said: str) -> InvalidJson:
    """Which rule a body breaks that the parser did not take, and where."""
    if not body.strip(b" \t\r\n"):
        return InvalidJson("empty", 0)
    if body.startswith(_BOM):
        return InvalidJson("byte_order", 0)
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return InvalidJson("encoding", error.start)
    offset = _offset(body, said)
    for words, reason in _REASONS:
        if words in said:
            return InvalidJson(reason, offset)
    if body[offset:].lstrip(b"-").startswith((b"NaN", b"Infinity")):
        return InvalidJson("not_a_number", offset)
    return InvalidJson("syntax", offset)


def _offset(body: bytes, said: str) -> int:
    """About where the parser stopped, from the line and column that it names."""
    place = _place(said)
    if place is None:
        return 0
    line, column = int(place[1]), int(place[2])
    rest = body.split(b"\n", line - 1)[-1]
    return len(body) - len(rest) + max(column - 1, 0)
