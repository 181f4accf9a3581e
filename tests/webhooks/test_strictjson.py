"""Strict JSON: one meaning or none, in linear time, and in agreement with other strict readers."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from eventbus.webhooks._strictjson import _explain, check_limits, parse_json
from eventbus.webhooks.errors import InvalidJson

REFUSED = [
    ("empty", b"", 0),
    ("empty", b" \t\r\n", 0),
    ("byte_order", b"\xef\xbb\xbf{}", 0),
    ("encoding", b'{"a":"\xff"}', 6),
    ("encoding", b'"\xed\xa0\x80"', 1),  # half of a surrogate pair, as UTF-8 would have it
    ("encoding", b'"\xc0\x80"', 1),
    ("encoding", b'"\xf4\x90\x80\x80"', 1),
    ("encoding", "{}".encode("utf-16"), 0),
    ("duplicate_key", b'{"a":1,"a":2}', 11),
    ("duplicate_key", b'{"a":1,"\\u0061":2}', 16),
    ("duplicate_key", b'[{"b":{"\\/":1,"/":2}}]', 18),
    ("surrogate", b'"\\ud800"', 7),
    ("surrogate", b'"\\ud800x"', 7),
    ("surrogate", b'"\\udc00"', 6),
    ("surrogate", b'{"\\ud83d\\ud83d":1}', 13),
    ("not_a_number", b"NaN", 0),
    ("not_a_number", b"[1,-Infinity]", 3),
    ("not_a_number", b'{"a":Infinity}', 5),
    ("number", b"1e999", 0),
    ("number", b'{"a":[-1E+309]}', 0),
    ("number", b"[1.5e0309]", 0),
    ("number", b"9" * 310, 0),
    ("number", b"9" * 309 + b".5", 0),
    ("number", b"9" * 250 + b"e99", 0),
    ("number", b"0." + b"1" * 310, 0),
    ("number", b'["1e100",' + b"9" * 250 + b"e99]", 0),
    ("number", b'["1e100",1E+400]', 0),
    ("number", b'{"a":1.5e+0400}', 0),
    ("number", b"[1, 1e400]", 0),
    ("number", b"-1e400", 0),
    ("number", b"[-" + b"9" * 120 + b"e+190]", 0),
    ("number", b"9" * 5000, 4301),
    ("depth", b"[" * 65 + b"]" * 65, 0),
    ("depth", b'[{"a":' * 33 + b"1" + b"}]" * 33, 0),
    ("depth", b"[" * 100_000, 201),
    ("trailing_data", b"{}{}", 2),
    ("trailing_data", b"1 2", 2),
    ("trailing_data", b"[]\x00", 2),
    ("syntax", b"[1,]", 3),
    ("syntax", b'{"a":1,}', 7),
    ("syntax", b"{'a':1}", 1),
    ("syntax", b"01", 1),
    ("syntax", b"+1", 0),
    ("syntax", b".5", 0),
    ("syntax", b"1.", 1),
    ("syntax", b"-", 0),
    ("syntax", b'"a\nb"', 3),
    ("syntax", b'"\\x41"', 2),
    ("syntax", b'"\\u12"', 5),
    ("syntax", b"\n\n[\n x]", 5),
    ("syntax", b"/**/1", 0),
    ("syntax", b"{", 0),
    ("syntax", b'"', 0),
    ("syntax", b"\x00", 0),
    ("syntax", b"undefined", 0),
    ("syntax", b"True", 0),
]


@pytest.mark.parametrize(
    ("reason", "body", "offset"), REFUSED, ids=lambda value: repr(value)[:30].replace("/", "")
)
def test_what_is_refused(reason: str, body: bytes, offset: int) -> None:
    """Whatever two readers may take differently is refused, with the rule and the place."""
    with pytest.raises(InvalidJson) as raised:
        parse_json(body)
    assert raised.value.reason == reason
    assert raised.value.offset == pytest.approx(offset, abs=2)  # the parser's own count may move


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b" {} \n", {}),
        (b"null", None),
        (b'"\\ud83d\\ude00\\u0000"', "\U0001f600\x00"),
        (b"[" * 64 + b"]" * 64, None),
        (b"[[1],[2]]" + b" " * 100, [[1], [2]]),
        (b'"' + b"[" * 100 + b'"', "[" * 100),
        (b"9" * 309, int("9" * 309)),
        (b"-0", 0),
        (b"[1e308,1e-999,0e999,1.0e+1]", [1e308, 0.0, 0.0, 10.0]),
        (b'["1e999","%b"]' % (b"9" * 400), ["1e999", "9" * 400]),
        (b'{"a":1,"b":{"a":1}}', {"a": 1, "b": {"a": 1}}),
        (b'["\\"1e999\\\\",1e1]', ['"1e999\\', 10.0]),
        (b"12345678901234567890", 12345678901234567890),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_taken(body: bytes, value: Any) -> None:
    """Good JSON is taken as it is, whatever strange its strings contain."""
    parsed = parse_json(body)
    if value is not None:
        assert parsed == value


def test_a_message_that_nobody_knows() -> None:
    """A parser that says something new, without a place, has met an error of syntax."""
    error = _explain(b"[1", "something new")
    assert (error.reason, error.offset) == ("syntax", 0)


def test_no_message_shows_the_body() -> None:
    """A refusal says which rule and where, and repeats nothing of the body."""
    with pytest.raises(InvalidJson) as raised:
        parse_json(b'{"customer-42":1,"customer-42":2}')
    assert str(raised.value).startswith("duplicate_key at byte ")
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


# ---- Agreement with other readers


class Strict:
    """The standard library's reader, told to be strict: the specification of ours."""

    def read(self, body: bytes) -> Any:
        if body.startswith(b"\xef\xbb\xbf"):
            raise ValueError("byte order mark")
        value = json.loads(
            body.decode(),
            object_pairs_hook=self.pairs,
            parse_constant=self.read_constant,
            parse_float=self.read_float,
            parse_int=self.read_int,
        )
        self.check(value, 1)
        return value

    def pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("duplicate")
        return made

    def read_constant(self, text: str) -> Any:
        raise ValueError(text)

    def read_float(self, text: str) -> float:
        number = float(text)
        if math.isinf(number) or any(len(run) > 309 for run in text.split(".")):
            raise ValueError("number")
        return number

    def read_int(self, text: str) -> int:
        if len(text.lstrip("-")) > 309:
            raise ValueError("number")
        return int(text)

    def check(self, value: Any, depth: int) -> None:
        if isinstance(value, str):
            value.encode()  # refuses halves of surrogate pairs
        elif isinstance(value, dict | list):
            if depth > 64:
                raise ValueError("depth")
            for each in value:
                self.check(each, depth + 1)
            if isinstance(value, dict):
                for each in value.values():
                    self.check(each, depth + 1)


def outcome(read: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        return repr(read(body))
    except ValueError:  # UnicodeError is one, InvalidJson is not
        return "refused"
    except (InvalidJson, RecursionError):
        return "refused"


numbers = st.one_of(
    st.integers(),
    st.floats(allow_nan=False),
    st.sampled_from(
        [
            "1e999",
            "1E-400",
            "-0.0",
            "9" * 309,
            "9" * 310,
            "9" * 250 + "e99",
            "1e308",
            "1.8e308",
            "NaN",
        ]
    ),
).map(str)
texts = st.lists(
    st.sampled_from(
        ["a", '"', "\\", "\\ud800", "\\udc00", "\\u0061", "[", "{", ",", "1e999", "é", "\n"]
    )
).map("".join)
fragments = st.recursive(
    numbers | texts.map(lambda text: f'"{text}"') | st.sampled_from(["null", "true", "", " "]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda each: f"[{','.join(each)}]"),
        st.lists(st.tuples(texts, inner), max_size=4).map(
            lambda each: "{" + ",".join(f'"{key}":{value}' for key, value in each) + "}"
        ),
        st.tuples(inner, st.integers(60, 66)).map(lambda t: "[" * t[1] + t[0] + "]" * t[1]),
    ),
    max_leaves=8,
)


@given(fragments)
def test_agrees_with_the_standard_library_told_to_be_strict(text: str) -> None:
    """The same texts are refused, and the others have the same value, -0 apart."""
    body = text.encode("utf-8", "surrogatepass")
    theirs = outcome(Strict().read, body)
    assert outcome(parse_json, body) == theirs


@given(st.binary(max_size=64))
def test_any_bytes_have_an_outcome(body: bytes) -> None:
    """Bytes are a value or an ``InvalidJson`` whose place lies in them."""
    try:
        parse_json(body)
    except InvalidJson as error:
        assert 0 <= error.offset <= len(body)  # noqa: PT017 - or there is a value


@pytest.mark.parametrize(
    ("body", "theirs"),
    [
        (b'{"a":1,"a":2}', "{'a': 2}"),
        (b"1e999", "inf"),
        (b"9" * 310, "9" * 310),
        (b"[" * 65 + b"]" * 65, "[" * 65 + "]" * 65),
    ],
    ids=["duplicate", "infinite", "long", "deep"],
)
def test_what_pydantics_reader_takes(body: bytes, theirs: str) -> None:
    """The list of what pydantic's strict reader takes, and this one refuses: it may get shorter."""
    assert repr(from_json(body, allow_inf_nan=False)) == theirs
    assert outcome(parse_json, body) == "refused"


# ---- Time

SIZE = 256 * 1024
HEAVY = {
    "zeros": b"[" + b",".join([b"0"] * (SIZE // 2)) + b"]",
    "floats": b"[" + b",".join([b"1e7"] * (SIZE // 4)) + b"]",
    "long numbers": b"[" + b",".join([b"9" * 309] * (SIZE // 310)) + b",1e1]",
    "digits in a string": b'["' + b"9" * SIZE + b'",1e1]',
    "quotes": b'["' + b'\\"' * (SIZE // 2) + b'",1e1]',
    "open strings": b'"' * SIZE,
    "deep": b"[" * SIZE,
    "many deep": b"[" + b",".join([b"[" * 62 + b"]" * 62] * (SIZE // 125)) + b"]",
    "too deep": b"[" + b",".join([b"[" * 150 + b"]" * 150] * (SIZE // 301)) + b"]",
    "keys": b"{" + b",".join(b'"%d":0' % i for i in range(SIZE // 10)) + b"}",
    "lines": b"\n" * SIZE,
    "an error far down": b"[" + b"\n" * SIZE + b"x",
}


@pytest.mark.parametrize("body", HEAVY.values(), ids=HEAVY)
def test_time_grows_with_size_alone(body: bytes) -> None:
    """256 KiB of the worst shapes take a fraction of a second, an eighth of them an eighth.

    The bound is for a busy machine; anything quadratic misses it by far.
    """
    started = time.process_time()
    outcome(parse_json, body)
    assert time.process_time() - started < 1.0


def test_limits_alone() -> None:
    """What another parser has taken can be checked by itself."""
    check_limits(b'{"a":[1,2.5,"1e999"]}')
    with pytest.raises(InvalidJson):
        check_limits(b"[1e999]")
