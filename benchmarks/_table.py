"""Results as rows, and rows as a table or as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from benchmarks._measure import Case, Entry, Goal

Verdict = Literal["aim", "ok", "MISSED"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One contender in one figure of one case. What JSON has is what the table shows."""

    workload: str
    case: str
    contender: str
    role: str
    unit: str
    median: float | None
    """In ``unit``; None if it failed or did not take part."""
    spread: float | None
    """The distance between the quartiles over the median."""
    rounds: int
    ratio: float | None
    """Ours over this one: below 1 we are quicker, or smaller."""
    at_least: float | None
    aim: float | None
    verdict: Verdict | None
    note: str
    """Where it does less, or why there is no figure."""
    failed: bool


def rows_of(workload: str, case: Case, entries: Sequence[Entry], *, judge: bool) -> Iterator[Row]:
    """The rows of a case, figure by figure; ``judge`` says whether its figures mean anything."""
    ours = entries[0]
    for number, figure in enumerate(case.figures):
        for entry in entries:
            contender = entry.contender
            goal = _goal_of(case, entry, number, first=entry is ours)
            measured = bool(entry.samples) and entry.error is None
            ratio = _ratio(ours, entry, number) if measured else None
            value = entry.median(number) * figure.scale if measured else None
            if value is not None and math.isnan(value):  # it cannot do that
                value = ratio = None
            judged = ratio if goal and goal.against else value
            yield Row(
                workload=workload,
                case=case.label,
                contender=contender.name,
                role=contender.role,
                unit=figure.unit,
                median=value,
                spread=entry.spread(number) if measured else None,
                rounds=len(entry.samples),
                ratio=ratio,
                at_least=goal.at_least if goal else None,
                aim=goal.aim if goal else None,
                verdict=judge_goal(goal, judged) if goal and judge and judged is not None else None,
                note=contender.lacks if entry.error is None else f"FAILED: {entry.error}",
                failed=entry.error is not None,
            )
        for name, reason in case.left_out.items():
            yield _absentee(workload, case, name, figure.unit, reason)


def judge_goal(goal: Goal, value: float) -> Verdict:
    """Where a ratio, or a figure, stands."""
    if goal.aim is not None and value <= goal.aim:
        return "aim"
    return "ok" if value <= goal.at_least else "MISSED"


def _goal_of(case: Case, entry: Entry, figure: int, *, first: bool) -> Goal | None:
    """The goal that stands beside a contender: those that name nobody stand beside ours."""
    for goal in case.goals:
        beside = first if goal.against is None else goal.against == entry.contender.name
        if goal.figure == figure and beside:
            return goal
    return None


def _ratio(ours: Entry, entry: Entry, figure: int) -> float | None:
    if entry is ours or not ours.samples or ours.error is not None:
        return None
    theirs = entry.median(figure)
    return ours.median(figure) / theirs if theirs else None


def _absentee(workload: str, case: Case, name: str, unit: str, reason: str) -> Row:
    return Row(
        workload=workload,
        case=case.label,
        contender=name,
        role="peer",
        unit=unit,
        median=None,
        spread=None,
        rounds=0,
        ratio=None,
        at_least=None,
        aim=None,
        verdict=None,
        note=f"left out: {reason}",
        failed=False,
    )


HEAD = (
    f"  {'':<22}{'median':>12} {'':<9}{'spread':>7}{'ours/it':>9}{'at least':>9}{'aim':>7}  verdict"
)


def format_case(rows: Sequence[Row]) -> str:
    """A case as lines of text: a line for each contender, figure by figure."""
    return "\n".join([f"{rows[0].workload}: {rows[0].case}", *map(format_row, rows)])


def format_row(row: Row) -> str:
    """One line; at its end, where the contender does less."""
    unit = "" if row.median is None else row.unit
    line = (
        f"  {row.contender:<22}{number(row.median) or '-':>12} {unit:<9}{percent(row.spread):>7}"
        f"{number(row.ratio):>9}{number(row.at_least):>9}{number(row.aim):>7}"
        f"  {row.verdict or '':<8}"
    )
    return f"{line}{row.note}".rstrip()


def format_summary(rows: Sequence[Row]) -> str:
    """Where it must stand: the rows that have a goal. Of one goal in many cases, the worst."""
    head = f"{'Where it must stand':<66}{'against':<20}{'is':>9} {'':<9}{'spread':>6}"
    lines = [f"{head}{'at least':>9}{'aim':>6}  verdict"]
    for row, cases in _worst(rows):
        where = f"{row.workload}: {row.case}" + (f" (worst of {cases})" if cases > 1 else "")
        judged = row.median if row.ratio is None else row.ratio
        lines.append(
            f"{where:<66}{'' if row.ratio is None else row.contender:<20}{number(judged):>9} "
            f"{'ours/it' if row.ratio is not None else row.unit:<9}"
            f"{percent(_spread(rows, row)):>6}"
            f"{number(row.at_least):>9}{number(row.aim):>6}  {row.verdict}"
        )
    return "\n".join(lines)


def _spread(rows: Sequence[Row], judged: Row) -> float | None:
    """The larger one of ours and of whom it is compared with."""
    figure = (judged.workload, judged.case, judged.unit)
    spreads = [
        row.spread
        for row in rows
        if (row is judged or row.role == "ours") and (row.workload, row.case, row.unit) == figure
    ]
    return max((each for each in spreads if each is not None), default=None)


def _worst(rows: Sequence[Row]) -> list[tuple[Row, int]]:
    """The judged rows; those with a goal that stands in more than four cases become one."""
    same: dict[object, list[Row]] = {}
    for row in rows:
        if row.verdict is not None:
            same.setdefault((row.contender, row.at_least, row.aim, row.unit), []).append(row)
    told: list[tuple[Row, int]] = []
    for group in same.values():
        if len(group) > 4:
            told.append((max(group, key=lambda row: row.ratio or 0.0), len(group)))
        else:
            told += [(row, 1) for row in group]
    return sorted(told, key=lambda each: rows.index(each[0]))


def percent(value: float | None) -> str:
    """A share as a percentage."""
    return "" if value is None else f"{value:.0%}"


def number(value: float | None) -> str:
    """As many digits as mean something: 12,345, 123, 12.3, 1.23, 0.0123."""
    if value is None:
        return ""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
