"""Workload 5: whom a topic reaches, among ten to a million patterns, without publishing.

The patterns have four tokens: 60 % literal, 20 % ``r.id.m.*``, 10 % ``r.id.**``, 5 % each
``*.id.m.a`` and ``r.id.*.a``; a topic matches two on average. A *hit* is a topic that was matched
before, a *miss* one that was not, or is forgotten: then ours checks it, walks and remembers.
Matchers that remember nothing pay the same for both.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from itertools import product

from benchmarks import peers
from benchmarks._measure import (
    US,
    Case,
    Contender,
    Figure,
    Goal,
    Round,
    Settings,
    Workload,
    timed,
)
from benchmarks.peers.matchers import MATCHERS, Exact, Match, Matcher, WildPymitter

ROOTS = [f"r{number}" for number in range(50)]
HOT = 500
COLD = 6_000
"""More topics than the caches hold, so that going round them never hits."""


def make_patterns(number: int) -> list[str]:
    """So many distinct patterns, ten to each id."""
    patterns: list[str] = []
    for id_ in range(-(-number // 10)):
        start = f"{ROOTS[id_ % len(ROOTS)]}.d{id_}"
        patterns += [f"{start}.m{m}.{a}" for m in range(3) for a in "ab"]
        patterns += [f"{start}.m0.*", f"{start}.m1.*", f"{start}.**"]
        patterns.append(f"*.d{id_}.m0.a" if id_ % 2 else f"{start}.*.a")
    return patterns[:number]


def make_topics(number: int, patterns: int, seed: int) -> list[str]:
    """So many distinct topics; of those with a known id, each matches two patterns on average."""
    ids = range(max(patterns // 10, number // 8))
    choice = random.Random(seed)
    topics: dict[str, None] = {}
    while len(topics) < number:
        id_ = choice.choice(ids)
        m, a = choice.randrange(4), choice.choice("abcd")
        topics[f"{ROOTS[id_ % len(ROOTS)]}.d{id_}.m{m}.{a}"] = None
    return list(topics)


def sizes(settings: Settings) -> Iterator[Case]:
    """Hits and misses among more and more patterns."""
    for number in (10, 1_000, 10_000, 100_000, 1_000_000):
        if number <= settings.subscriptions:
            patterns = make_patterns(number)
            yield matching_case(
                f"{number:,} patterns",
                number,
                partial(_prepare_size, patterns, settings),
                figures=[Figure("µs hit", 1e6), Figure("µs miss", 1e6)],
                goals=goals_of(number),
            )


def goals_of(number: int) -> list[Goal]:
    """Which goals a number of patterns has."""
    if number == 1_000_000:
        return [
            Goal(against=Exact.name, at_least=4, aim=2.5),
            Goal(at_least=6, aim=4, figure=1),
        ]
    against = Goal(against=WildPymitter.name, at_least=1 / 500, figure=1)
    return [against] if number == 100_000 else []


Prepare = Callable[[type[Matcher], AsyncExitStack], Awaitable[Round]]


def matching_case(
    label: str,
    number: int,
    prepare: Prepare,
    *,
    figures: Sequence[Figure],
    goals: Sequence[Goal] = (),
    without: Sequence[type[Matcher]] = (),
) -> Case:
    """A case of all matchers that can take so many patterns."""
    able = [each for each in MATCHERS if each not in without]
    present = [each for each in able if peers.is_present(each.distribution)]
    return Case(
        label=label,
        figures=figures,
        goals=goals,
        left_out={
            each.name: f"at most {each.largest:,} patterns, or it takes minutes"
            for each in present
            if each.largest < number
        },
        contenders=[
            Contender(
                name=each.name, role=each.role, lacks=each.lacks, prepare=partial(prepare, each)
            )
            for each in present
            if each.largest >= number
        ],
    )


async def _prepare_size(
    patterns: list[str], settings: Settings, kind: type[Matcher], stack: AsyncExitStack
) -> Round:
    matcher = kind()
    for pattern in patterns:
        matcher.add(matcher.spell(pattern))
    hot, cold = (
        [matcher.spell(topic) for topic in make_topics(number, len(patterns), seed=number)]
        for number in (settings.pick(HOT, 20), settings.pick(COLD, 50))
    )
    hit = timed(_asking(matcher.hit, hot), len(hot), settings)
    miss = timed(_asking_on(matcher.match, cold), 1, settings)
    for topic in hot:
        matcher.match(topic)

    async def both() -> tuple[float, float]:
        (missed,) = await miss()
        for topic in hot:
            matcher.match(topic)
        (found,) = await hit()
        return found, missed

    return both


def _asking(match: Match, topics: list[str]) -> Callable[[int], Awaitable[None]]:
    async def work(times: int) -> None:
        for _ in range(times):
            for topic in topics:
                match(topic)

    return work


def _asking_on(match: Match, topics: list[str]) -> Callable[[int], Awaitable[None]]:
    """One topic a time, going on where the last round ended."""
    position = 0

    async def work(times: int) -> None:
        nonlocal position
        while times:
            some = topics[position : position + times]
            for topic in some:
                match(topic)
            times -= len(some)
            position = (position + len(some)) % len(topics)

    return work


def adversarial(settings: Settings) -> Iterator[Case]:
    """Sets of patterns made to be slow to match, each asked for a topic that is not remembered."""
    depth = settings.pick(10, 3)
    stars = [list(mask) for mask in product((True, False), repeat=depth)]
    tokens = [f"t{number}" for number in range(depth)]
    masks = [".".join("*" if s else t for s, t in zip(m, tokens, strict=True)) for m in stars]
    deep = [f"{mask}.{end}" for mask in masks for end in ("p", "q", "*.r", "*.s")]
    roots = range(settings.pick(5_000, 20))
    for label, patterns, topic in (
        (f"{len(masks):,} masks, all match", masks, ".".join(tokens)),
        (f"{len(deep):,} dead ends, none matches", deep, ".".join([*tokens, "x", "y"])),
        (
            f"{2 * len(roots):,} of r.** and r.s.**, two match",
            [f"r{number}{end}" for number in roots for end in (".**", ".s.**")],
            "r7.s.x.y",
        ),
    ):
        yield matching_case(
            label,
            len(patterns),
            partial(_prepare_walk, patterns, topic, settings),
            figures=[US],
            without=(WildPymitter, Exact),
        )


async def _prepare_walk(
    patterns: list[str],
    topic: str,
    settings: Settings,
    kind: type[Matcher],
    stack: AsyncExitStack,
) -> Round:
    matcher = kind()
    for pattern in patterns:
        matcher.add(matcher.spell(pattern))
    return timed(_asking(matcher.walk, [matcher.spell(topic)]), 1, settings)


def churn(settings: Settings) -> Iterator[Case]:
    """A pattern comes, a topic is matched, and the pattern goes, among 100,000 others."""
    number = min(settings.subscriptions, 100_000)
    patterns = make_patterns(number)
    for label, pattern in (
        ("a literal pattern", "other.d1.m1.x"),
        ("a wildcard of another root", "other.d1.*.x"),
        ("a wildcard of the same root", "r1.*.m1.x"),
        ("a wildcard as root", "*.d1.m1.x"),
    ):
        yield matching_case(
            f"churn of {label}, {number:,} others",
            number,
            partial(_prepare_churn, patterns, pattern, settings),
            figures=[Figure("µs cycle", 1e6)],
            without=(WildPymitter, Exact),
        )


async def _prepare_churn(
    patterns: list[str],
    pattern: str,
    settings: Settings,
    kind: type[Matcher],
    stack: AsyncExitStack,
) -> Round:
    matcher = kind()
    for each in patterns:
        matcher.add(matcher.spell(each))
    ids = range(1, min(len(patterns) // 10, 5_000), len(ROOTS))
    topics = [matcher.spell(f"r1.d{id_}.m1.a") for id_ in ids]
    spelled = matcher.spell(pattern)

    async def work(times: int) -> None:
        for _ in range(times):
            for topic in topics:
                added = matcher.add(spelled)
                matcher.match(topic)
                matcher.remove(spelled, added)

    return timed(work, len(topics), settings)


def matching(settings: Settings) -> Iterator[Case]:
    """All of it."""
    yield from sizes(settings)
    yield from adversarial(settings)
    yield from churn(settings)


WORKLOAD = Workload(
    name="matching", title="matching a topic: hit, miss, adversarial sets, churn", cases=matching
)
