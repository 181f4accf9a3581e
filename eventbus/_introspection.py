"""What a bus says about itself: who listens to what, and whom a topic would reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eventbus.topics import matches

if TYPE_CHECKING:
    from eventbus._engine import Engine
    from eventbus.subscription import Subscription

__all__ = ["Explanation", "NearMiss", "Reached", "SubscriptionInfo"]

MOST_NEAR_MISSES = 10


@dataclass(frozen=True, slots=True)
class SubscriptionInfo:
    """One subscription, described."""

    name: str
    patterns: tuple[str, ...]
    handler: str
    """``file:line`` of the handler."""
    registered: str
    """``file:line`` of the call that subscribed it."""
    options: dict[str, Any]
    """The options that differ from their defaults."""

    def __str__(self) -> str:
        options = "".join(f" {name}={value!r}" for name, value in self.options.items())
        return f"{self.name} <- {', '.join(self.patterns)}{options} [{self.handler}]"


@dataclass(frozen=True, slots=True)
class Reached:
    """A subscription that an event would reach, and the first of its patterns that matches."""

    subscription: str
    pattern: str
    filtered: bool = False
    """Whether it has a ``where``, which looks at each event and may refuse it."""

    def __str__(self) -> str:
        condition = ", if its where lets it" if self.filtered else ""
        return f"{self.subscription} through {self.pattern}{condition}"


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A subscription that an event would not reach, though one might think so."""

    subscription: str
    pattern: str
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Whom an event on a topic would reach, and who just misses it."""

    topic: str
    known: bool | None
    """Whether the catalogue has the topic; None without a catalogue."""
    suggestion: str
    """What may have been meant, if the catalogue does not have it; else empty."""
    reached: tuple[Reached, ...]
    near_misses: tuple[NearMiss, ...]

    def __str__(self) -> str:
        lines = [
            self.topic
            + ("" if self.known is not False else f" (not in the catalogue){self.suggestion}")
        ]
        lines += [f"  reaches {each}" for each in self.reached]
        if not self.reached:
            lines.append("  reaches nobody")
        lines += [f"  misses {m.subscription}: {m.pattern} {m.why}" for m in self.near_misses]
        return "\n".join(lines)


def describe(bus: Engine) -> list[SubscriptionInfo]:
    """Every subscription, in order of subscription."""
    return [
        SubscriptionInfo(
            each.name,
            each.patterns,
            "" if each._reader is not None else each.location,
            each.registered,
            each.options(),
        )
        for each in bus._index.subscriptions()
    ]


def explain(bus: Engine, topic: str) -> Explanation:
    """Compare a checked topic with every pattern, by the definition rather than by the index."""
    reached: list[Reached] = []
    misses: list[NearMiss] = []
    for subscription in bus._index.subscriptions():
        hit = next((p for p in subscription.patterns if matches(p, topic)), None)
        if hit is not None:
            filtered = subscription._options.where is not None
            reached.append(Reached(subscription.name, hit, filtered))
        elif len(misses) < MOST_NEAR_MISSES:
            misses.extend(_near_misses(subscription, topic))
    catalog = bus._catalog
    known = None if catalog is None else catalog.known(topic)
    suggestion = "" if catalog is None or known else catalog.did_you_mean(topic)
    return Explanation(topic, known, suggestion, tuple(reached), tuple(misses[:MOST_NEAR_MISSES]))


def _near_misses(subscription: Subscription, topic: str) -> list[NearMiss]:
    found = ((pattern, _why_near(pattern, topic)) for pattern in subscription.patterns)
    return [NearMiss(subscription.name, pattern, why) for pattern, why in found if why]


def _why_near(pattern: str, topic: str) -> str:
    """Why a pattern that does not match looks as if it should; empty if it does not look so."""
    wanted, given = pattern.split("."), topic.split(".")
    if wanted[-1] == "**" and matches(".".join(wanted[:-1]) or "*", topic):
        return "needs at least one more token: 'x.**' does not include 'x'"
    if wanted[-1] == "*" and matches(f"{pattern}*", topic):
        return "is one level: '*' is exactly one token, '**' is one or more"
    if matches(pattern.casefold(), topic.casefold()):
        return "differs in upper and lower case"
    if len(wanted) != len(given):
        return ""
    different = [
        (want, have) for want, have in zip(wanted, given, strict=True) if want not in ("*", have)
    ]
    if len(different) == 1 and len(given) > 1:
        want, have = different[0]
        return f"has {want!r} where the topic has {have!r}"
    return ""
