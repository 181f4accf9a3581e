"""Query strings as the JavaScript package qs reads them, as far as senders write them.

A component signature covers the parsed query. ``qs`` gives brackets in names a meaning::

    a=1          {"a": "1"}              a[b][c]=1    {"a": {"b": {"c": "1"}}}
    a=1&a=2      {"a": ["1", "2"]}       a[]=1&a[]=2  {"a": ["1", "2"]}
    a            {"a": ""}               a[1]=2&a[0]=1  {"a": ["1", "2"]}

It also has an answer, not the same in each version, to names that no sender writes: unbalanced
brackets, one name as text and object, more than five levels, indices from 20, names that every
JavaScript object has. Those are refused here: whatever is accepted was signed as it is read.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote

MAX_PARAMETERS: Final = 100
"""How many parameters a query may have."""
MAX_LEVELS: Final = 5
MAX_ELEMENTS: Final = 20

_split_name = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)").fullmatch
_is_index = re.compile(r"0|[1-9][0-9]?").fullmatch
_bad_escape = re.compile(r"%(?![0-9A-Fa-f]{2})").search

_INHERITED: Final = frozenset(
    {
        "__defineGetter__",
        "__defineSetter__",
        "__lookupGetter__",
        "__lookupSetter__",
        "__proto__",
        "constructor",
        "hasOwnProperty",
        "isPrototypeOf",
        "propertyIsEnumerable",
        "toLocaleString",
        "toString",
        "valueOf",
    }
)


class QueryError(ValueError):
    """A query that is not read here."""


def parse_query(query: str) -> dict[str, Any]:
    """What the query says: texts, lists and dicts. Raises ``QueryError``."""
    parts = query.split("&")
    if len(parts) > MAX_PARAMETERS:
        raise QueryError("too many parameters")
    values: dict[str, list[str]] = {}
    for part in parts:
        name, value = _split(part)
        if name:
            values.setdefault(name, []).append(value)
    root: dict[str, Any] = {}
    for name, texts in values.items():
        _place(root, _path(name), texts)
    return {name: _finish(node) for name, node in root.items()}


def _split(part: str) -> tuple[str, str]:
    part = re.sub("%5[bB]", "[", part)
    part = re.sub("%5[dD]", "]", part)
    bracket = part.find("]=")
    at = part.find("=") if bracket == -1 else bracket + 1
    if at == -1:
        return _decode(part), ""
    return _decode(part[:at]), _decode(part[at + 1 :])


def _decode(text: str) -> str:
    """Undo ``+`` and ``%``; a text with a bad escape stays as it is, as in JavaScript."""
    text = text.replace("+", " ")
    if _bad_escape(text):
        return text
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text


def _path(name: str) -> list[str]:
    """The parts of a name: ``a[b][]`` is ``["a", "b", ""]``."""
    match = _split_name(name)
    if match is None:
        raise QueryError("brackets")
    path = [match[1], *match[2][1:-1].split("][")] if match[2] else [match[1]]
    if len(path) - 1 > MAX_LEVELS:
        raise QueryError("too many levels")
    if "" in path[:-1] or not _INHERITED.isdisjoint(path):
        raise QueryError("a name that JavaScript reads in its own way")
    return path


def _place(node: dict[str, Any], path: list[str], texts: list[str]) -> None:
    """Put the values of one name where its path leads. A dict stands for arrays as well."""
    if len(texts) > MAX_ELEMENTS:
        raise QueryError("too many values of one name")
    for part in path[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise QueryError("a name that is text and object")
    last = path[-1]
    if last in node or ("" in node and last) or (last == "" and node):
        raise QueryError("a name that is text and object, or list and object")
    node[last] = texts[0] if len(texts) == 1 and last else texts


def _finish(node: Any) -> Any:
    """Make arrays of the dicts that have indices as keys."""
    if not isinstance(node, dict):
        return node
    if "" in node:
        return node[""]
    indices = [key for key in node if _is_index(key)]
    if not indices:
        return {key: _finish(each) for key, each in node.items()}
    if len(indices) < len(node) or max(map(int, indices)) >= MAX_ELEMENTS:
        raise QueryError("a list with names, or with too large an index")
    return [_finish(node[key]) for key in sorted(indices, key=int)]
