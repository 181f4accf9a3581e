"""``python -m tests.mutation.run``: see README.md beside this file."""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tests.mutation.mutants import Mutant, core_modules, read_mutants, write_mutants
from tests.mutation.suite import Choice, Coverage, Result, map_coverage, run_mutants


def sample(mutants: list[Mutant], size: int, seed: int) -> list[Mutant]:
    """A part of the mutants, by module in proportion; a larger part contains a smaller one."""
    chosen: list[Mutant] = []
    for module in core_modules():
        own = [each for each in mutants if each.module == module]
        random.Random(f"{seed} {module}").shuffle(own)
        chosen += own[: math.ceil(len(own) * size / len(mutants))]
    random.Random(seed).shuffle(chosen)
    return chosen


def read_results(folder: Path, start: int = 0) -> list[Result]:
    """What was told of mutants so far, from one line on."""
    file = folder / "results.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [Result(**json.loads(line)) for line in lines[start:]]


def run(folder: Path, mutants: list[Mutant], options: argparse.Namespace) -> None:
    """Let mutants meet their tests, in several processes, and append what becomes of them."""
    results = read_results(folder)
    status = {each.id: each.status for each in results}  # a later result replaces an earlier one
    wanted = {"survived", "uncovered"} if options.again else {None}
    mutants = [each for each in mutants if status.get(each.id) in wanted]
    choice = Choice(Coverage.read(folder / "coverage.json"), options.budget)

    def tell(result: Result) -> None:
        with (folder / "results.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps(asdict(result)) + "\n")

    def told() -> set[str]:
        return {each.id for each in read_results(folder, len(results))}

    workers = []
    for number in range(options.processes):
        pid = os.fork()
        if pid == 0:
            run_mutants(mutants[number :: options.processes], choice, tell, told)
            os._exit(0)
        workers.append(pid)
    for pid in workers:
        os.waitpid(pid, 0)


def report(folder: Path, mutants: list[Mutant]) -> None:
    """Show the figures of each module, and write the survivors to a file."""
    results = {each.id: each for each in read_results(folder)}
    met = [each for each in mutants if each.id in results]
    total: Counter[str] = Counter()
    head = "| module | mutants | met | killed | timeout | survived | uncovered | killed % |"
    rows = [head, "|---|" + "---:|" * 7]
    for module in core_modules():
        own = [each for each in met if each.module == module]
        counts = Counter(results[each.id].status for each in own)
        total += counts
        if own:
            rows.append(_row(module, sum(m.module == module for m in mutants), counts))
    rows.append(_row("in all", len(mutants), total))
    sys.stdout.write("\n".join(rows) + "\n")
    with (folder / "survivors.txt").open("w", encoding="utf-8") as out:
        for each in sorted(met, key=lambda m: (m.module, m.line)):
            if results[each.id].status in {"survived", "uncovered"}:
                out.write(f"{each.id} line {each.line} ({results[each.id].tests} tests)\n")
                out.writelines(f"  - {line}\n" for line in each.old)
                out.writelines(f"  + {line}\n" for line in each.new)


def _row(name: str, mutants: int, counts: Counter[str]) -> str:
    words = ("killed", "timeout", "survived", "uncovered")
    met = sum(counts.values())
    killed = counts["killed"] + counts["timeout"]
    cells = [name, mutants, met, *(counts[word] for word in words), f"{100 * killed / met:.1f}"]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Do one of the steps."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation.run")
    parser.add_argument("step", choices=["mutants", "coverage", "run", "report"])
    parser.add_argument("folder", type=Path, help="where the results of the steps are kept")
    parser.add_argument("--sample", type=int, default=0, help="how many mutants (default: all)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--budget", type=float, default=20, help="seconds of tests for a mutant")
    parser.add_argument("--again", action="store_true", help="only what has survived so far")
    parser.add_argument("--only", default="", help="only mutants whose ids begin so")
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    if options.step == "mutants":
        return write_mutants(folder / "mutants.jsonl")
    if options.step == "coverage":
        return map_coverage(folder / "coverage.json")
    mutants = read_mutants(folder / "mutants.jsonl")
    if options.step == "report":
        return report(folder, mutants)
    chosen = sample(mutants, options.sample or len(mutants), options.seed)
    return run(folder, [each for each in chosen if each.id.startswith(options.only)], options)


if __name__ == "__main__":
    main()
