"""JavaScript's JSON text: what the sender's ``JSON.stringify`` made must come out here."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus.webhooks._jsjson import canonical_text, js_text, plain_text
from eventbus.webhooks._strictjson import parse_json


def text_of(body: bytes) -> str:
    return js_text(parse_json(body), body).decode()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        # What JavaScript itself prints for JSON.stringify(JSON.parse(number)).
        ("0", "0"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("1.0", "1"),
        ("1e0", "1"),
        ("1E+2", "100"),
        ("1.50", "1.5"),
        ("0.1", "0.1"),
        ("1e-6", "0.000001"),
        ("1e-7", "1e-7"),
        ("1.5e-7", "1.5e-7"),
        ("0.00001234", "0.00001234"),
        ("1e16", "10000000000000000"),
        ("123456789012345680000", "123456789012345680000"),
        ("1e20", "100000000000000000000"),
        ("1e21", "1e+21"),
        ("1.5e300", "1.5e+300"),
        ("-1e21", "-1e+21"),
        ("5e-324", "5e-324"),
        ("1e-999", "0"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ("9007199254740991", "9007199254740991"),
        ("9007199254740992", "9007199254740992"),
        ("9007199254740993", "9007199254740992"),
        ("-9007199254740993", "-9007199254740992"),
        ("12345678901234567890", "12345678901234567000"),
        ("1234567890123456789012", "1.2345678901234568e+21"),
        ("333333333.33333329", "333333333.3333333"),
        ("4.50", "4.5"),
        ("2e-3", "0.002"),
        ("295147905179352830000", "295147905179352830000"),
        ("0.1e1", "1"),
        ("999999999999999900000", "999999999999999900000"),
    ],
)
def test_numbers(number: str, text: str) -> None:
    """A number is written as JavaScript writes the double that it reads."""
    assert text_of(number.encode()) == text
    assert text_of(b"[%b]" % number.encode()) == f"[{text}]"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'"\\u00e9\\u2028\\u2029\\/\\u007f"', '"\u00e9\u2028\u2029/\x7f"'),
        (b'"\\u0000\\u001f\\b\\f\\n\\r\\t\\"\\\\"', '"\\u0000\\u001f\\b\\f\\n\\r\\t\\"\\\\"'),
        (b'"<>&\'"', '"<>&\'"'),
        (b'"\\ud83d\\ude00"', '"\U0001f600"'),
        (b'{"9":1,"10":2,"1":3}', '{"1":3,"10":2,"9":1}'),
        (b'{"b":1,"a":{"d":1,"c":2},"B":3}', '{"B":3,"a":{"c":2,"d":1},"b":1}'),
        # As UTF-16, the emoji (d83d de00) sorts before ffee; as code points, after it.
        ('{"\uffee":1,"\U0001f600":2}'.encode(), '{"\U0001f600":2,"\uffee":1}'),
        (b'{"\\uffee":1,"\\ud83d\\ude00":2}', '{"\U0001f600":2,"\uffee":1}'),
        (b" [ true , false , null , { } , [ ] ] ", "[true,false,null,{},[]]"),
        (b'{"__proto__":1,"":2}', '{"":2,"__proto__":1}'),
        (b'["1.0","1e5",-0.0]', '["1.0","1e5",0]'),
    ],
    ids=repr,
)
def test_texts_and_keys(body: bytes, text: str) -> None:
    """Strings are escaped no more than JavaScript does; keys are sorted by UTF-16 code units."""
    assert text_of(body) == text


def test_numbers_in_strings_stay() -> None:
    """What looks like a number in a string is left alone, wherever quotes and backslashes stand."""
    body = rb'["\"1.0","\\",1.0,"\\\",1.0,","1e21",1e21,"9007199254740993",9007199254740993]'
    assert text_of(body) == (
        r'["\"1.0","\\",1,"\\\",1.0,","1e21",1e+21,"9007199254740993",9007199254740992]'
    )


def test_integers_beyond_every_double() -> None:
    """JavaScript reads infinity, and nobody has signed that."""
    with pytest.raises(ValueError, match="double"):
        text_of(b"9" * 309)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(values, st.booleans())
def test_the_fast_way_writes_the_same(value: Any, escaped: bool) -> None:
    """Where nothing is special, the compiled encoder writes what rfc8785 writes."""
    body = json.dumps(value, ensure_ascii=escaped).encode()
    assert js_text(value, body) == canonical_text(value)


@given(st.binary(min_size=8, max_size=8))
def test_numbers_stay_what_they_are(bits: bytes) -> None:
    """Any double, written and read again, is the same double."""
    (number,) = struct.unpack("<d", bits)
    if number - number == 0:  # neither infinite nor none
        assert float(canonical_text(number)) == number


@given(values)
def test_the_text_is_json(value: Any) -> None:
    """What is written reads as the same value, whatever the way."""
    assert json.loads(plain_text(value)) == value
    assert json.loads(canonical_text(value)) == value
