"""The text that JavaScript's ``JSON.stringify`` makes of a value, its keys sorted.

A component signature covers not the bytes of a body but the text that the sender's JavaScript made
of what it had parsed; to verify it, the same text must come out here. RFC 8785 describes that text,
and the package rfc8785 writes it, in pure Python. Bodies in which nothing is special are written by
the compiled encoder of the standard library, which is several times as fast and gives the same.

========================  =========================  =============================================
special                   JavaScript                 here
========================  =========================  =============================================
a fraction, an exponent   ``1.0`` is ``1``, ``1e21`` rfc8785
                          is ``1e+21``
an integer beyond 2**53   rounded to a double        made a float, then rfc8785, which refuses it
                                                     as it is
keys                      sorted as UTF-16           rfc8785, if any character needs two units
half a surrogate pair     stays an escape            does not occur: ``parse_json`` refuses it
========================  =========================  =============================================
"""

from __future__ import annotations

import json
import re
from typing import Any

from eventbus.webhooks._strictjson import without_strings

_SAFE = 2**53
_special_numbers = re.compile(rb"[0-9][.eE]|[0-9]{16}").search
_two_units = re.compile(rb"[\xf0-\xf4]|\\u[dD][89abAB]").search


def js_text(value: Any, source: bytes) -> bytes:
    """The text, in UTF-8, of a value that ``parse_json`` made of ``source``.

    Raises ``ValueError`` for a number that is infinite as a double.
    """
    if _two_units(source) or _special_numbers(without_strings(source)):
        return canonical_text(value)
    return plain_text(value)


def plain_text(value: Any) -> bytes:
    """The text of a value in which nothing is special, as in the table above."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode()


def canonical_text(value: Any) -> bytes:
    """The text of any value that JSON can say. Raises ``ValueError`` as ``js_text`` does."""
    import rfc8785

    return rfc8785.dumps(_as_doubles(value))


def _as_doubles(value: Any) -> Any:
    """The value with each integer that JavaScript would round as a float."""
    if type(value) is int and not -_SAFE < value < _SAFE:
        try:
            return float(value)
        except OverflowError:
            raise ValueError("an integer beyond every double") from None
    if isinstance(value, dict):
        return {key: _as_doubles(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_as_doubles(each) for each in value]
    return value
