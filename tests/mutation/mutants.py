"""The mutants of the core: each change that one of cosmic-ray's operators would make to it.

What is left out is told by `Filter`.
"""

from __future__ import annotations

import ast
import importlib
import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
EDGES = {"__main__", "cli", "demo", "testing"}

Position = tuple[int, int]
"""Line, from 1, and column, from 0."""


@dataclass(frozen=True)
class Mutant:
    """One change of one module."""

    id: str
    module: str
    """Its name in the package: ``_pump``."""
    line: int
    """The first line that differs, from 1."""
    old: list[str]
    """The lines from there on that the change replaces."""
    new: list[str]

    def apply(self, source: str) -> str:
        """The module as the change leaves it."""
        lines = source.split("\n")
        start = self.line - 1
        assert lines[start : start + len(self.old)] == self.old, f"{self.id}: the source is another"
        lines[start : start + len(self.old)] = self.new
        return "\n".join(lines)


def core_modules() -> dict[str, Path]:
    """The modules of the core and their files."""
    files = sorted((ROOT / "eventbus").glob("*.py"))
    return {file.stem: file for file in files if file.stem not in EDGES}


# What is no behaviour, and so not worth a mutant.

DECORATORS_FOR_TYPES = {"overload", "override", "final", "runtime_checkable", "type_check_only"}


class Filter(ast.NodeVisitor):
    """Where a mutant would say nothing: what only type checkers see, and what only people read.

    - annotations, the parts of ``if TYPE_CHECKING`` and of overloads, type aliases, ``cast``
    - f-strings, which are messages here, and messages of assertions
    - ``__repr__``
    - operators that are none: the ``*`` of a signature or a call, the ``|`` between classes
    """

    def __init__(self, source: str) -> None:
        self.spans: list[tuple[Position, Position]] = []
        self.operators: list[tuple[Position, Position]] = []
        """Between the operands of the binary operations that compute something."""
        self.visit(ast.parse(source))

    def leaves_out(self, position: Position, operator: str) -> bool:
        """Whether what stands at a position is not to be mutated by an operator."""
        if operator.startswith("ReplaceBinaryOperator") and not any(
            start <= position < end for start, end in self.operators
        ):
            return True
        return any(start <= position < end for start, end in self.spans)

    def _skip(self, node: ast.AST | None) -> None:
        if node is not None:
            start, end = _span(node)
            self.spans.append((start, end))

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for decorator in node.decorator_list:
            if ast.unparse(decorator).rpartition(".")[2] in DECORATORS_FOR_TYPES:
                line, _ = _span(decorator)[0]
                self.spans.append(((line, 0), (line + 1, 0)))
                if "overload" in ast.unparse(decorator):
                    self._skip(node)
        if node.name == "__repr__":
            self._skip(node)
        self._skip(node.returns)
        self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815  # ast.NodeVisitor looks for it

    def visit_arg(self, node: ast.arg) -> None:
        self._skip(node.annotation)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._skip(node.annotation)
        if "TypeAlias" in ast.unparse(node.annotation):
            self._skip(node)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            self._skip(node)
        self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        self._skip(node.msg)
        self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        self._skip(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = ast.unparse(node.func)
        if name in {"cast", "TypeVar"}:
            self._skip(node)
        elif name in {"isinstance", "issubclass"}:
            self._skip(node.args[1])
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if ast.unparse(node.value).rpartition(".")[2] in {"Callable", "Literal", "Generic"}:
            self._skip(node)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self.operators.append((_span(node.left)[1], _span(node.right)[0]))
        self.generic_visit(node)


def _span(node: Any) -> tuple[Position, Position]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


# The mutants.


def mutants_of(module: str) -> tuple[list[Mutant], Counter[str]]:
    """The mutants of a module, and how many are left out for which reason."""
    # Only who runs this has cosmic-ray: it is no dependency of the project.
    plugins = importlib.import_module("cosmic_ray.plugins")
    source = core_modules()[module].read_text(encoding="utf-8")
    skipped: Counter[str] = Counter()
    found: dict[str, Mutant] = {}
    filter_ = Filter(source)
    for name in plugins.operator_names():
        operator = plugins.get_operator(name)
        if operator.arguments():  # it wants names of variables: not one of those used by default
            continue
        short = name.removeprefix("core/")
        for occurrence, (position, _) in enumerate(_positions(operator(), source)):
            if filter_.leaves_out(position, short):
                skipped["filter"] += 1
                continue
            mutant = _make(module, source, operator(), short, occurrence)
            if mutant is None or not _differs(source, mutant.apply(source)):
                skipped["same code or none"] += 1
            elif "\n".join(mutant.new) + str(mutant.line) in found:
                skipped["twice"] += 1
            else:
                found["\n".join(mutant.new) + str(mutant.line)] = mutant
    return list(found.values()), skipped


def _positions(operator: Any, source: str) -> Iterator[tuple[Position, Position]]:
    trees = importlib.import_module("cosmic_ray.ast")
    for node in trees.ast_nodes(trees.get_ast(source)):
        yield from operator.mutation_positions(node)


def _replace(source: str, span: tuple[Position, Position]) -> str:
    """Do what ExceptionReplacer means to do."""
    (row, start), (_, end) = span
    lines = source.split("\n")
    lines[row - 1] = f"{lines[row - 1][:start]}CosmicRayTestingException{lines[row - 1][end:]}"
    return "\n".join(lines)


def _make(module: str, source: str, operator: Any, name: str, occurrence: int) -> Mutant | None:
    mutating = importlib.import_module("cosmic_ray.mutating")
    try:
        mutated = mutating.mutate_code(source, operator, occurrence)
    except AttributeError:  # ExceptionReplacer knows no dotted names
        mutated = _replace(source, list(_positions(operator, source))[occurrence])
    if mutated is None or mutated == source:
        return None
    old, new = source.split("\n"), mutated.split("\n")
    first = next(i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
    same = 0
    while old[-1 - same] == new[-1 - same] and same < min(len(old), len(new)) - first - 1:
        same += 1
    return Mutant(
        f"{module}:{name}:{occurrence}",
        module,
        first + 1,
        old[first : len(old) - same],
        new[first : len(new) - same],
    )


def _differs(source: str, mutated: str) -> bool:
    """Whether a change is Python that compiles without a warning, and other Python than before."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # "is" with a literal
            compile(mutated, "mutant", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return ast.dump(ast.parse(source)) != ast.dump(ast.parse(mutated))


def write_mutants(file: Path) -> None:
    """Write the mutants of all modules to a file, one JSON object a line."""
    skipped: Counter[str] = Counter()
    with ProcessPoolExecutor(2) as pool, file.open("w", encoding="utf-8") as out:
        for mutants, left_out in pool.map(mutants_of, core_modules()):
            skipped += left_out
            out.writelines(json.dumps(asdict(each)) + "\n" for each in mutants)
    sys.stderr.write(f"left out: {dict(skipped)}\n")


def read_mutants(file: Path) -> list[Mutant]:
    """The mutants in a file."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [Mutant(**json.loads(line)) for line in lines]
