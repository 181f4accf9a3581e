"""Unique names for subscriptions, without a list of them all.

A hundred thousand subscriptions of one function are called ``ship``, ``ship#2``, ``ship#3`` and so
on. Only a counter is kept per base name; the text is made when somebody reads it.
"""

from __future__ import annotations

from eventbus.errors import NameTaken


class Names:
    """The names in use on one bus."""

    def __init__(self) -> None:
        self._explicit: set[str] = set()
        self._given: dict[str, list[int]] = {}
        """Base name → how many are in use, the highest suffix since there were none, and whether
        the one without a suffix has left."""

    def take(self, explicit: str | None, base: str) -> tuple[str, int]:
        """A name as base and suffix; suffix 1 is not written.

        Raises ``NameTaken`` for an explicit name that is in use.
        """
        if explicit is not None:
            if explicit in self._explicit or self._is_given(explicit):
                raise NameTaken(
                    f"name={explicit!r} is taken by another subscription: "
                    "unsubscribe that one first, or choose another name"
                )
            self._explicit.add(explicit)
            return explicit, 1
        given = self._given.setdefault(base, [0, 0, 0])
        given[0] += 1
        given[1] += 1
        while _text(base, given[1]) in self._explicit:
            given[1] += 1
        return base, given[1]

    def give_back(self, base: str, suffix: int) -> None:
        """The subscription with this name has left."""
        if suffix == 1 and base in self._explicit:
            self._explicit.remove(base)
            if base in self._given:
                self._given[base][2] = 1  # who came meanwhile got a suffix
            return
        given = self._given[base]
        given[0] -= 1
        given[2] |= suffix == 1
        if not given[0]:
            del self._given[base]

    def _is_given(self, name: str) -> bool:
        base, mark, suffix = name.rpartition("#")
        if mark and suffix.isdecimal() and base in self._given:
            return 1 < int(suffix) <= self._given[base][1]
        return name in self._given and not self._given[name][2]


def _text(base: str, suffix: int) -> str:
    return base if suffix == 1 else f"{base}#{suffix}"
