"""Run the suite against mutants: collect it once, then fork a process for each mutant.

In that process the functions that the mutant changes get its code, and the tests that run the
changed line go one by one, the quickest first, until one fails. A mutant of what runs when a module
is loaded (a default, a decorator, a constant) cannot come that late: it gets a pytest of its own,
forked before the package is imported.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NoReturn

import hypothesis
import pytest

from tests.mutation.mutants import ROOT, Mutant, core_modules

MEMORY = 3 * 2**30
"""Bytes that a process with a mutant may map."""
SLIP = 1000
"""Bytes in which a process writes down the name of the test that it runs."""
OPTIONS = (
    *("-q", "--capture=no", "-p", "no:cacheprovider"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # hypothesis is loaded before pytest
)

CO_OPTIMIZED = 1
"""The flag of the code of functions, which that of classes and modules has not."""


@dataclass
class Coverage:
    """Which tests run which lines, and how long each takes."""

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[int, list[str]]] = field(default_factory=dict)
    """By module and line: the tests. A line that runs at import has the test ``""`` too."""

    @classmethod
    def read(cls, file: Path) -> Coverage:
        """What `write` has written."""
        raw = json.loads(file.read_text(encoding="utf-8"))
        names = list(raw["seconds"])
        lines = {
            module: {int(line): [names[i] if i >= 0 else "" for i in tests] for line, tests in each}
            for module, each in raw["lines"].items()
        }
        return cls(raw["seconds"], lines)

    def write(self, file: Path) -> None:
        """Write it to a file."""
        index = {name: i for i, name in enumerate(self.seconds)} | {"": -1}
        lines = {
            module: [(line, [index[t] for t in tests if t in index]) for line, tests in own.items()]
            for module, own in self.lines.items()
        }
        file.write_text(json.dumps({"seconds": self.seconds, "lines": lines}), encoding="utf-8")


def set_up() -> None:
    """What the suite wants to find when it is loaded, here and in each process with a mutant."""
    os.environ["EVENTBUS_DEBUG"] = "1"
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile(
        "mutation", derandomize=True, database=None, deadline=None, phases=phases
    )
    hypothesis.settings.load_profile("mutation")


# Coverage: which test runs which line.


class _Mapper:
    """A plugin that tells the coverage tool which test runs."""

    def __init__(self, tool: Any, found: Coverage) -> None:
        self.tool = tool
        self.found = found
        self.failed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.tool.switch_context(item.nodeid)
        start = time.perf_counter()
        answer = yield
        self.found.seconds[item.nodeid] = time.perf_counter() - start
        return answer

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or report.skipped:
            self.failed.add(report.nodeid)


def map_coverage(file: Path) -> None:
    """Run the suite once, and then each test alone, and write what they cover."""
    set_up()
    tool = importlib.import_module("coverage").Coverage(
        data_file=None, config_file=False, source=[str(ROOT / "eventbus")]
    )
    found = Coverage()
    mapper = _Mapper(tool, found)
    tool.start()
    pytest.main([*OPTIONS], plugins=[mapper])
    tool.stop()
    data = tool.get_data()
    for module, path in core_modules().items():
        contexts = data.contexts_by_lineno(str(path))
        found.lines[module] = {
            line: [test for test in tests if test not in mapper.failed]
            for line, tests in sorted(contexts.items())
        }
    pytest.main([*OPTIONS], plugins=[_Alone(found.seconds, mapper.failed)])
    for test in mapper.failed:
        sys.stderr.write(f"left out, because it fails, is skipped, or needs another: {test}\n")
        found.seconds.pop(test, None)
    found.write(file)


# What a mutant changes in memory.


def _nested(code: CodeType) -> list[CodeType]:
    return [each for each in code.co_consts if isinstance(each, CodeType)]


def _own_parts(code: CodeType) -> tuple[object, ...]:
    consts = tuple(repr(each) for each in code.co_consts if not isinstance(each, CodeType))
    return code.co_code, consts, code.co_names, code.co_varnames, code.co_exceptiontable


def changed_functions(old: CodeType, new: CodeType) -> list[tuple[CodeType, CodeType]] | None:
    """The functions in the code of a module that a change has changed; None if not only those."""
    if _own_parts(old) != _own_parts(new) or len(_nested(old)) != len(_nested(new)):
        return None
    found: list[tuple[CodeType, CodeType]] = []
    for before, after in zip(_nested(old), _nested(new), strict=True):
        if before.co_flags & CO_OPTIMIZED:
            if before != after:
                found.append((before, after))
        elif (inner := changed_functions(before, after)) is None:
            return None
        else:
            found += inner
    return found


@cache
def _compiled(module: str) -> tuple[str, CodeType]:
    path = core_modules()[module]
    source = path.read_text(encoding="utf-8")
    return source, compile(source, str(path), "exec", dont_inherit=True)


def _mutated(mutant: Mutant) -> CodeType:
    source, _ = _compiled(mutant.module)
    path = core_modules()[mutant.module]
    return compile(mutant.apply(source), str(path), "exec", dont_inherit=True)


def swaps(mutant: Mutant, covered: dict[int, list[str]]) -> list[tuple[CodeType, CodeType]]:
    """The functions that have only to get other code; empty if the module must be loaded anew."""
    functions = changed_functions(_compiled(mutant.module)[1], _mutated(mutant)) or []
    for before, after in functions:
        lines = {line for _, _, line in before.co_lines() if line} - {before.co_firstlineno}
        if before.co_freevars != after.co_freevars or any("" in covered.get(n, ()) for n in lines):
            return []
    return functions


class _Finder:
    """Loads one module of the package as a mutant has it."""

    def __init__(self, mutant: Mutant) -> None:
        self.name = "eventbus" + ("" if mutant.module == "__init__" else f".{mutant.module}")
        self.path = str(core_modules()[mutant.module])
        self.code = _mutated(mutant)

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        loader = SourceFileLoader(name, self.path)
        loader.get_code = lambda fullname: self.code  # type: ignore[method-assign]  # this one only
        return importlib.util.spec_from_file_location(name, self.path, loader=loader)


# The choice of tests.


class Choice:
    """Which tests a mutant meets, in which order."""

    def __init__(self, coverage: Coverage, budget: float) -> None:
        self.coverage = coverage
        self.budget = budget
        self.killers: dict[str, dict[str, None]] = {}
        """By module: the tests that have killed a mutant of it, the latest last."""

    def tests(self, mutant: Mutant) -> list[str]:
        """Those that run the line, first the ones that killed its like, then the quickest."""
        covered = self.coverage.lines[mutant.module]
        last = mutant.line + max(1, len(mutant.old))
        found = {test for n in range(mutant.line, last) for test in covered.get(n, ())}
        if "" in found or not found:  # it runs at import, or not at all as far as one can see
            found |= {test for tests in covered.values() for test in tests}
        found.discard("")
        killers = {test: -i for i, test in enumerate(self.killers.get(mutant.module, ()))}
        seconds = self.coverage.seconds
        ordered = sorted(found, key=lambda t: (t not in killers, killers.get(t, 0), seconds[t]))
        spent, chosen = 0.0, []
        for test in ordered:
            spent += seconds[test]
            if spent < self.budget:
                chosen.append(test)
        return chosen

    def killed(self, mutant: Mutant, test: str) -> None:
        """Note which test has killed a mutant."""
        killers = self.killers.setdefault(mutant.module, {})
        killers.pop(test, None)
        killers[test] = None


# A process for each mutant.


@dataclass
class Result:
    """What became of a mutant."""

    id: str
    status: str
    """``killed``, ``timeout``, ``survived`` or ``uncovered``."""
    by: str
    """The test that killed it."""
    tests: int
    """How many tests it would have met."""
    seconds: float


def fork(mutant: Mutant, choice: Choice, run: Callable[[list[str], int], object]) -> Result:
    """Let ``run`` meet a mutant in a process of its own; it notes its tests on a slip."""
    tests = choice.tests(mutant)
    start = time.monotonic()
    if not tests:
        return Result(mutant.id, "uncovered", "", 0, 0)
    status, by = _in_process(partial(run, tests))
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        word, by = "survived", ""
    elif os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
        word = "timeout"
    else:
        word = "killed"
    if by:
        choice.killed(mutant, by)
    return Result(mutant.id, word, by, len(tests), round(time.monotonic() - start, 2))


def _in_process(run: Callable[[int], object]) -> tuple[int, str]:
    """How a process that runs this ended, and what it had written on its slip."""
    with tempfile.TemporaryFile(buffering=0) as slip:
        pid = os.fork()
        if pid == 0:
            _become_victim(lambda: run(slip.fileno()))
        _, status = os.waitpid(pid, 0)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # what the tests have left
        return status, os.pread(slip.fileno(), SLIP, 0).decode(errors="replace").strip()


def _become_victim(run: Callable[[], object]) -> NoReturn:
    """The life of a process with a mutant: quiet, bounded, and over with an exit status."""
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(silence, stream)
        signal.setitimer(signal.ITIMER_REAL, 60)  # to load it, if that is still to do
        run()
    except BaseException:
        os._exit(1)
    os._exit(0)


class _Runner:
    """A plugin that runs chosen tests in order, and leaves the process when one has failed."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds

    def run(self, items: dict[str, pytest.Item], tests: Sequence[str], slip: int) -> None:
        chosen = [items[test] for test in tests if test in items]
        for item, following in zip(chosen, [*chosen[1:], None], strict=True):
            os.pwrite(slip, item.nodeid.encode()[:SLIP].ljust(SLIP), 0)
            signal.setitimer(signal.ITIMER_REAL, 2 + 10 * self.seconds[item.nodeid])
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        signal.setitimer(signal.ITIMER_REAL, 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os._exit(1)


class _Alone(_Runner):
    """A plugin that finds the tests that fail without those before them: they would kill all."""

    def __init__(self, seconds: dict[str, float], failed: set[str]) -> None:
        super().__init__(seconds)
        self.failed = failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items if item.nodeid in self.seconds}
        for test in items:
            status, _ = _in_process(partial(self.run, items, [test]))
            if status:
                self.failed.add(test)
        return True


class _Loaded(_Runner):
    """The plugin of a pytest that was loaded with a mutant."""

    def __init__(self, seconds: dict[str, float], tests: Sequence[str], slip: int) -> None:
        super().__init__(seconds)
        self.tests = tests
        self.slip = slip

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.run({item.nodeid: item for item in session.items}, self.tests, self.slip)
        os._exit(1 if session.testsfailed else 0)


class _Forking(_Runner):
    """The plugin of a pytest that forks instead of running its tests."""

    def __init__(
        self, mutants: Iterable[Mutant], choice: Choice, tell: Callable[[Result], None]
    ) -> None:
        super().__init__(choice.coverage.seconds)
        self.mutants = mutants
        self.choice = choice
        self.tell = tell
        self.functions: dict[CodeType, list[FunctionType]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self) -> None:
        """Find the functions of the package, before they are frozen out of sight."""
        for each in gc.get_objects():
            if type(each) is FunctionType and each.__code__.co_filename.startswith(str(ROOT)):
                self.functions.setdefault(each.__code__, []).append(each)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        for mutant in self.mutants:
            pairs = swaps(mutant, self.choice.coverage.lines[mutant.module])

            def run(
                tests: list[str], slip: int, pairs: list[tuple[CodeType, CodeType]] = pairs
            ) -> None:
                for before, after in pairs:
                    for function in self.functions[before]:
                        function.__code__ = after
                self.run(items, tests, slip)

            if all(before in self.functions for before, _ in pairs):
                self.tell(fork(mutant, self.choice, run))
        return True


def run_mutants(
    mutants: list[Mutant],
    choice: Choice,
    tell: Callable[[Result], None],
    told: Callable[[], Iterable[str]],
) -> None:
    """Let each mutant meet its tests, and tell what became of it. ``told`` knows what was told."""
    set_up()
    late = [each for each in mutants if swaps(each, choice.coverage.lines[each.module])]
    pid = os.fork()  # this process stays without the package
    if pid == 0:
        pytest.main([*OPTIONS], plugins=[_Forking(late, choice, tell)])
        os._exit(0)
    os.waitpid(pid, 0)
    known = set(told())
    for mutant in mutants:
        if mutant.id not in known:
            tell(fork(mutant, choice, partial(_load, mutant, choice)))


def _load(mutant: Mutant, choice: Choice, tests: list[str], slip: int) -> None:
    sys.meta_path.insert(0, _Finder(mutant))
    files = sorted({test.partition("::")[0] for test in tests})
    os.pwrite(slip, b"import", 0)
    pytest.main([*OPTIONS, *files], plugins=[_Loaded(choice.coverage.seconds, tests, slip)])
    os._exit(1)  # it did not come to its tests
