"""The benchmarks: taking turns, statistics, the table, and that nobody is left out in silence."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from benchmarks import __main__ as command
from benchmarks import peers
from benchmarks._measure import QUICK, US, Case, Contender, Entry, Goal, Settings, measure, timed
from benchmarks._table import Row, format_case, format_summary, judge_goal, number, rows_of
from benchmarks.peers.matchers import Matcher
from benchmarks.workloads import WORKLOADS
from benchmarks.workloads.matching import make_patterns, make_topics
from eventbus import matches

if TYPE_CHECKING:
    from benchmarks._handlers import Handler, Kind

ROOT = Path(__file__).parent.parent


def contender(name: str, values: list[float], turns: list[str] | None = None) -> Contender:
    """One whose rounds give these values, and that notes its turns. Beyond the last it raises."""
    given = iter(values)

    async def run() -> tuple[float]:
        if turns is not None:
            turns.append(name)
        return (next(given),)

    async def prepare(stack: AsyncExitStack) -> Any:
        return run

    return Contender(
        name=name, role="ours" if name == "ours" else "peer", prepare=prepare, lacks="no order"
    )


def case(*contenders: Contender, goals: tuple[Goal, ...] = (), **options: Any) -> Case:
    return Case(label="a case", contenders=contenders, figures=[US], goals=goals, **options)


def entry(name: str, *samples: float) -> Entry:
    return Entry(contender(name, []), [(sample,) for sample in samples])


def row(**given: Any) -> Row:
    """A row of the table as it comes from one peer in one case, but for what is given."""
    whole = case(
        contender("ours", []), contender("peer", []), goals=(Goal(at_least=1, against="peer"),)
    )
    made = list(rows_of("work", whole, [entry("ours", 1.0), entry("peer", 2.0)], judge=True))[1]
    return Row(**{**{name: getattr(made, name) for name in Row.__slots__}, **given})


# ---- Measuring


async def test_contenders_take_turns_there_and_back_after_a_warm_up() -> None:
    """Each has one turn in each round, and the last of a round is the first of the next."""
    turns: list[str] = []
    values = [0.0, 1.0, 2.0, 3.0]
    entries = await measure(
        case(contender("a", values, turns), contender("b", values, turns)), Settings(rounds=3)
    )
    assert turns == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert [each.samples for each in entries] == [[(1.0,), (2.0,), (3.0,)]] * 2


async def test_a_contender_that_raises_is_out_and_says_why() -> None:
    """The others go on, and its error stands in the table."""
    whole = case(contender("ours", [1.0] * 4), contender("peer", [1.0, 2.0]))
    ours, peer = await measure(whole, Settings(rounds=3))
    assert (len(ours.samples), ours.error) == (3, None)
    assert peer.error is not None
    rows = list(rows_of("work", whole, [ours, peer], judge=True))
    assert rows[1].failed
    assert rows[1].note.startswith("FAILED: ")
    assert command.exit_status(rows, [], require_peers=False) == 1
    assert command.exit_status(rows[:1], [], require_peers=True) == 0


@pytest.mark.parametrize("collecting", [False, True])
async def test_the_garbage_collector_is_off_while_it_measures(collecting: bool) -> None:
    """Unless the case wants it on; afterwards it is on."""
    seen: list[bool] = []

    async def run() -> tuple[float]:
        seen.append(gc.isenabled())
        return (1.0,)

    async def prepare(stack: AsyncExitStack) -> Any:
        return run

    ours = Contender(name="ours", role="ours", prepare=prepare)
    await measure(case(ours, collecting=collecting), QUICK)
    assert set(seen) == {collecting}
    assert gc.isenabled()


async def test_a_slow_contender_runs_fewer_rounds() -> None:
    """Three are enough for one that has used up its time."""
    slow = contender("slow", [1.0] * 99)
    (entry_,) = await measure(case(slow), Settings(rounds=9, patience=-1.0))
    assert len(entry_.samples) == 3


async def test_a_timed_round_is_per_unit_and_long_enough() -> None:
    """The warm-up finds how often the work fits in a round; a quick run does it once."""
    asked: list[int] = []

    async def work(times: int) -> None:
        asked.append(times)

    def clock() -> float:
        return float(sum(asked))  # each time takes a second

    run = timed(work, 10, Settings(seconds=100.0), clock)
    assert [await run(), await run()] == [(0.1,), (0.1,)]
    assert asked == [1, 4, 16, 64, 100]
    quick = timed(work, 10, QUICK, clock)
    assert [await quick(), await quick()] == [(0.1,), (0.1,)]
    assert asked[5:] == [1, 1]


def test_medians_and_spreads() -> None:
    """The median of the rounds, and the distance of the quartiles over it; none of two rounds."""
    each = entry("ours", 4.0, 1.0, 2.0, 3.0, 5.0)
    assert (each.median(0), each.spread(0)) == (3.0, 2 / 3)
    assert entry("ours", 1.0, 2.0).spread(0) is None


# ---- The table


@pytest.mark.parametrize(
    ("aim", "value", "verdict"),
    [(0.2, 0.2, "aim"), (0.2, 0.3, "ok"), (0.2, 0.4, "MISSED"), (None, 0.1, "ok")],
)
def test_verdicts(aim: float | None, value: float, verdict: str) -> None:
    """A limit that is reached exactly is reached; without an aim there is nothing above ok."""
    assert judge_goal(Goal(at_least=0.3, aim=aim), value) == verdict


def test_rows_compare_ours_with_each() -> None:
    """A ratio beside each contender, goals beside whom they name, absentees with their reason."""
    goals = (Goal(against="peer", at_least=0.6, aim=0.5), Goal(at_least=2.0))
    whole = case(
        contender("ours", []), contender("peer", []), goals=goals, left_out={"third": "too slow"}
    )
    entries = [entry("ours", 1e-6), entry("peer", 2e-6)]
    ours, peer, third = rows_of("work", whole, entries, judge=True)
    assert (ours.median, ours.ratio, ours.at_least, ours.verdict) == (1.0, None, 2.0, "ok")
    assert (peer.median, peer.ratio, peer.aim, peer.verdict) == (2.0, 0.5, 0.5, "aim")
    assert (third.median, third.note, third.failed) == (None, "left out: too slow", False)
    unjudged = list(rows_of("work", whole, entries, judge=False))
    assert {each.verdict for each in unjudged} == {None}


def test_what_a_contender_cannot_do_has_no_figure() -> None:
    """A round that gives NaN is shown as a dash, and compared with nobody."""
    whole = case(contender("ours", []), contender("peer", []))
    rows = list(
        rows_of("work", whole, [entry("ours", 1.0), entry("peer", float("nan"))], judge=True)
    )
    assert (rows[1].median, rows[1].ratio) == (None, None)
    assert json.loads(json.dumps([each.median for each in rows])) == [1e6, None]


def test_the_table_shows_everything() -> None:
    """Who, how long, the ratio, the limits, the verdict, and where a peer does less."""
    text = format_case([row(median=12.34, spread=0.071, ratio=0.5, aim=0.25)])
    assert text.splitlines()[0] == "work: a case"
    assert text.split("\n")[1].split() == (
        ["peer", "12.3", "µs", "7%", "0.5", "1", "0.25", "ok", "no", "order"]
    )


def test_the_summary_has_the_goals_and_of_many_alike_the_worst() -> None:
    """Rows without a goal are not in it; a goal that five cases share is one line."""
    rows = [row(ratio=ratio / 100, case=f"case {ratio}") for ratio in (1, 2, 5, 4, 3)]
    one, other = row(contender="other", case="alone"), row(verdict=None)
    lines = format_summary([*rows, one, other]).splitlines()[1:]
    assert [line.split("  ")[0] for line in lines] == [
        "work: case 5 (worst of 5)",
        "work: alone",
    ]


def test_the_summary_tells_the_larger_spread_of_the_two() -> None:
    """A ratio is as uncertain as the more uncertain one; rows of another figure do not count."""
    ours = row(contender="eventbus", role="ours", spread=0.31, ratio=None, verdict=None)
    noise = row(contender="eventbus", role="ours", spread=0.9, unit="MiB", verdict=None)
    (line,) = format_summary([ours, row(spread=0.02), noise]).splitlines()[1:]
    assert line.split()[-4:] == ["ours/it", "31%", "1", "ok"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0.0, "0"),
        (1234.5, "1,234"),
        (12.34, "12.3"),
        (1.234, "1.23"),
        (0.01234, "0.0123"),
    ],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    """More would mean nothing."""
    assert number(value) == text


# ---- Who takes part


def test_absent_peers_are_told() -> None:
    """By name and with the cure; with --require-peers the exit status tells it too."""
    told = command.absence(["pyee", "bubus"])
    assert "pyee, bubus" in told
    assert "pip install" in told
    assert command.absence([]) == ""
    assert command.exit_status([], ["pyee"], require_peers=True) == 1
    assert command.exit_status([], ["pyee"], require_peers=False) == 0


def test_each_peer_is_either_there_or_absent() -> None:
    """Whatever is installed where this runs; what was never heard of is not."""
    there = {name for name, version in peers.versions().items() if version}
    assert there.isdisjoint(peers.absent())
    assert there | set(peers.absent()) == set(peers.versions())
    assert {peer.distribution for peer in peers.installed()} <= there
    assert not peers.is_present("no-such-distribution")


def test_the_extra_brings_the_peers() -> None:
    """pyproject.toml names each of them, so that a full run can be had with one command."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extra = re.search(r"^bench = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert extra is not None
    names = set(re.findall(r'"([a-z-]+)>=', extra[1]))
    assert names == {*peers.versions(), "uvloop"}


class Hasty(peers.Adapter):
    """Returns before its handlers have ended."""

    name: ClassVar = "hasty"

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.handlers: list[Handler] = []

    def subscribe(self, topic: str, handler: Handler) -> None:
        self.handlers.append(handler)

    async def publish_all(self, events: int) -> None:
        return

    async def publish_each(self, events: int) -> None:
        return


async def test_an_adapter_that_does_less_work_is_caught() -> None:
    """Every handler must have run for every event when publishing returns."""
    with pytest.raises(AssertionError, match="hasty: 0 calls of 6"):
        await peers.prove(Hasty("async"), "publish_all", 2)


@pytest.mark.filterwarnings("ignore")  # what peers warn of is theirs
@pytest.mark.parametrize("way", ["publish_all", "publish_each", "publish_at_once"])
@pytest.mark.parametrize("adapter", [peers.Ours, *peers.FLOORS, *peers.installed()])
async def test_adapters_do_the_whole_work(adapter: type[peers.Adapter], way: str) -> None:
    """Ours, the floors, and what peers are installed."""
    whole = adapter("async")
    try:
        await peers.prove(whole, way, 3)
    finally:
        await whole.aclose()


# ---- The workloads


def test_the_readme_names_the_workloads() -> None:
    """Its table has a row for each, in the order in which they run."""
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    section = text.split("## The workloads")[1].split("\n## ")[0]
    assert re.findall(r"^\| `([\w-]+)`", section, re.MULTILINE) == list(WORKLOADS)


def test_the_readme_has_the_figures_of_one_run() -> None:
    """What it shows is the end of the whole output beside it."""
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    shown = text.split("## The last figures")[1].split("```text\n")[1].split("```")[0]
    whole = (ROOT / "benchmarks" / "FIGURES.txt").read_text(encoding="utf-8")
    assert shown.startswith("Where it must stand")
    assert whole.endswith(shown)


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_has_cases_with_ours_first(name: str) -> None:
    """Names are unique in a case, and each goal names a contender or nobody."""
    known = {
        "eventbus",
        *peers.versions(),
        *(floor.name for floor in peers.FLOORS),
        "floor: dict hit",
        "floor: SHA-256",
    }
    for each in WORKLOADS[name].cases(QUICK):
        names = [contender.name for contender in each.contenders]
        assert (names[0], each.contenders[0].role) == ("eventbus", "ours")
        assert len(names) == len(set(names))
        assert {goal.against for goal in each.goals} - {None} <= known
        assert all(goal.figure < len(each.figures) for goal in each.goals)


def test_the_patterns_match_twice_on_average() -> None:
    """The set that matching is measured with is what its description says."""
    patterns, topics = make_patterns(200), make_topics(100, 200, seed=1)
    assert len(set(patterns)) == len(patterns)
    found = [[each for each in patterns if matches(each, topic)] for topic in topics]
    assert 1.5 <= sum(map(len, found)) / len(topics) <= 2.5
    matcher = Matcher()
    for pattern in patterns:
        matcher.add(pattern)
    walked: list[Any] = [matcher.walk(topic) for topic in topics]
    assert [len(each) for each in walked] == [len(each) for each in found]


def test_the_command_runs_and_speaks_to_machines() -> None:
    """A quick run of two workloads, as JSON: all rows, no verdicts, and the disclaimer."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--json", "--only=burst", "--only=typed"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    answer = json.loads(done.stdout)
    assert {each["workload"] for each in answer["rows"]} == {"burst", "typed"}
    assert {each["verdict"] for each in answer["rows"]} == {None}
    assert answer["environment"]["absent"] == peers.absent()
    assert "MEAN NOTHING" in done.stderr
