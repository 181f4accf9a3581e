"""Query strings as ``qs`` reads them, and those that are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus.webhooks._query import QueryError, parse_query


@pytest.mark.parametrize(
    ("query", "value"),
    [
        # What qs 6.17 itself reads.
        ("", {}),
        ("a", {"a": ""}),
        ("a=", {"a": ""}),
        ("&a=1&&", {"a": "1"}),
        ("=1", {}),
        ("a=b=c", {"a": "b=c"}),
        ("a=1&b=2", {"a": "1", "b": "2"}),
        ("a=x%20y+z", {"a": "x y z"}),
        ("a=%E4%B8%AD", {"a": "中"}),
        ("a=%ff", {"a": "%ff"}),
        ("a=%e4+", {"a": "%e4 "}),
        ("a=%zz%20", {"a": "%zz%20"}),
        ("a%20b=1", {"a b": "1"}),
        ("a=1&a=2", {"a": ["1", "2"]}),
        ("a[]=1", {"a": ["1"]}),
        ("a[]=1&a[]=2", {"a": ["1", "2"]}),
        ("a%5B%5D=1&a%5b%5d=2", {"a": ["1", "2"]}),
        ("a[0]=x&a[1]=y", {"a": ["x", "y"]}),
        ("a[1]=y&a[0]=x", {"a": ["x", "y"]}),
        ("a[5]=x", {"a": ["x"]}),
        ("a[0]=x&a[0]=y", {"a": [["x", "y"]]}),
        ("a[b]=1&a[c]=2", {"a": {"b": "1", "c": "2"}}),
        ("a[b][c][d][e][f]=1", {"a": {"b": {"c": {"d": {"e": {"f": "1"}}}}}}),
        ("a[b][]=1&a[b][]=2", {"a": {"b": ["1", "2"]}}),
        ("a[0][b]=1&a[1][b]=2", {"a": [{"b": "1"}, {"b": "2"}]}),
        ("a[01]=1", {"a": {"01": "1"}}),
        ("a[-1]=1", {"a": {"-1": "1"}}),
        ("0=a&1=b", {"0": "a", "1": "b"}),
        ("a[b]", {"a": {"b": ""}}),
        ("a[b=c]=1", {"a": {"b=c": "1"}}),
        ("a=%5Bx%5D", {"a": "[x]"}),
        ("a?=/", {"a?": "/"}),
    ],
)
def test_what_is_read(query: str, value: dict[str, Any]) -> None:
    """Names with brackets are objects and lists; the texts in them are decoded."""
    assert parse_query(query) == value


@pytest.mark.parametrize(
    "query",
    [
        "[a]=1",
        "[]=1",
        "a[b=1",
        "a]=1",
        "a[b]c=1",
        "a[[b]]=1",
        "a=b]=c",
        "a[][b]=1",
        "a[b][c][d][e][f][g]=1",
        "a=1&a[b]=2",
        "a[b]=2&a=1",
        "a=1&a[]=2",
        "a[]=1&a[0]=2",
        "a[0]=1&a[]=2",
        "a[b]=1&a[]=2",
        "a[]=1&a[b]=2",
        "a[b]=1&a[0]=2",
        "a[b]=1&a[b][c]=2",
        "a[]=1&a[][]=2",
        "a[20]=1",
        "a[99]=1",
        "__proto__=1",
        "a[__proto__]=1",
        "a[constructor][prototype]=1",
        "toString=1",
        "&".join(["a=1"] * 21),
        "&".join(f"a{n}=1" for n in range(101)),
    ],
)
def test_what_is_refused(query: str) -> None:
    """What no sender writes, or qs reads in one way today and in another tomorrow, is refused."""
    with pytest.raises(QueryError):
        parse_query(query)


@given(st.text(st.sampled_from("ab[]=&%+05BD?"), max_size=40))
def test_any_text_has_an_outcome(query: str) -> None:
    """A query is read or refused; nothing else happens."""
    try:
        read = parse_query(query)
    except QueryError:
        return
    assert isinstance(read, dict)


def test_time_grows_with_size_alone() -> None:
    """A query of 8 KiB, as long as any may be, is read or refused at once."""
    for query in ("a" + "[b]" * 2700, "[" * 8192, "a[" * 4096, "%5B" * 2730, "&" * 8192):
        with pytest.raises(QueryError):
            parse_query(query)
