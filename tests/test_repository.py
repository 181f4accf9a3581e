"""What holds for the repository as a whole: its layers, its public names, its tests, its texts."""

from __future__ import annotations

import ast
import graphlib
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
import types
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import eventbus

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "eventbus"

# ---- Layers. A module imports from its own layer or from lower ones, and never in a circle.

LAYERS = (
    # values and rules: they know nobody
    "_identity _names _payload _queues _state clock errors event retry topics",
    # what is known of topics, handlers and one delivery
    "_delivery _generations _handler _index _trie catalog dead_letters instrumentation payment_kit",
    # a subscription, a publication, what a bus keeps, and what can be said of them by looking
    "_cascade _deadlock _fields _introspection _invariants outcome receipt subscription",
    # the steps of a delivery: each does one thing to an engine
    "_admission _apart _binding _closing _drivers _ends _pump _registration _round _threads",
    # what wires them
    "_engine _publishing bus stream",
    # what applications import
    "__init__",
)
EDGES = ("webhooks", "testing", "__main__ cli demo")
"""Above all layers, one above the other: tests have contracts for webhooks, commands use both.
Nothing of a layer imports an edge."""


class Import(NamedTuple):
    """That one module imports another one of the package."""

    importer: str
    imported: str
    line: int
    late: bool
    """In a function: it happens when that is called."""


def module_files() -> dict[str, Path]:
    """The modules of the package, by their names in it: ``bus``, ``testing._clock``."""
    files = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        package = len(parts) > 1 and parts[-1] == "__init__"
        files[".".join(parts[:-1] if package else parts)] = path
    return files


def is_typing_only(node: ast.If) -> bool:
    return ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def find_imports(name: str, tree: ast.AST, modules: set[str], *, late: bool = False) -> set[Import]:
    """The imports of modules of the package below a node, those for type checkers left out."""
    found: set[Import] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for target in imported_names(node):
                if target.split(".")[0] == "eventbus":
                    imported = nearest_module(target.split(".")[1:], modules)
                    found.add(Import(name, imported, node.lineno, late))
        elif isinstance(node, ast.If) and is_typing_only(node):
            orelse = ast.Module(body=node.orelse, type_ignores=[])
            found |= find_imports(name, orelse, modules, late=late)
        else:
            inner_late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            found |= find_imports(name, node, modules, late=inner_late)
    return found


def imported_names(node: ast.Import | ast.ImportFrom) -> list[str]:
    """What an import statement names, as dotted paths."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert not node.level, f"line {node.lineno}: write the import absolute"
    return [f"{node.module}.{alias.name}" for alias in node.names]


def nearest_module(path: list[str], modules: set[str]) -> str:
    """The module that a dotted path inside the package names, or that has what it names."""
    while path and ".".join(path) not in modules:
        path = path[:-1]
    return ".".join(path) or "__init__"


@cache
def all_imports() -> frozenset[Import]:
    files = module_files()
    found: set[Import] = set()
    for name, path in files.items():
        found |= find_imports(name, ast.parse(path.read_text(encoding="utf-8")), set(files))
    return frozenset(found)


def level_of(module: str) -> int:
    """The number of a module's layer; edges are above all layers."""
    top = module.split(".", maxsplit=1)[0]
    for level, layer in enumerate((*LAYERS, *EDGES)):
        if top in layer.split():
            return level
    raise LookupError(f"{module} is in no layer: write it into LAYERS or EDGES in {__file__}")


def may_import(importer: str, imported: str) -> bool:
    return level_of(imported) <= level_of(importer)


def test_every_module_has_a_layer() -> None:
    """The table of layers names each module once, and no module that does not exist."""
    files = module_files()
    for module in files:
        level_of(module)
    named = " ".join((*LAYERS, *EDGES)).split()
    assert len(named) == len(set(named))
    missing = set(" ".join(LAYERS).split()) - set(files)
    assert missing == set()


@pytest.mark.parametrize("late", [False, True], ids=["module-level", "in-functions"])
def test_imports_point_down(late: bool) -> None:
    """No module imports one of a higher layer, neither when loaded nor later in a function."""
    upward = {
        f"{each.importer}, line {each.line}: imports {each.imported}"
        for each in all_imports()
        if each.late is late and not may_import(each.importer, each.imported)
    }
    assert upward == set()


@pytest.mark.parametrize("late", [False, True], ids=["module-level", "all"])
def test_no_import_cycles(late: bool) -> None:
    """No module imports itself over others, not even when imports in functions are counted."""
    graph: dict[str, set[str]] = {}
    for each in all_imports():
        if not each.late or late:
            graph.setdefault(each.importer, set()).add(each.imported)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


@pytest.mark.parametrize(
    "source",
    [
        "import eventbus.bus",
        "from eventbus.bus import EventBus",
        "from eventbus import bus",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import eventbus.bus",
        "def f():\n    from eventbus import bus",
        "class C:\n    import eventbus.bus",
    ],
)
def test_imports_are_found_however_written(source: str) -> None:
    """The rules above see each way to import a module."""
    found = find_imports("retry", ast.parse(source), {"bus", "retry", "__init__"})
    assert [(each.imported, each.late) for each in found] == [("bus", source.startswith("def"))]
    assert not may_import("retry", "bus")


def test_imports_for_type_checkers_do_not_count() -> None:
    """What stands below ``if TYPE_CHECKING`` is no import at run time."""
    source = "if TYPE_CHECKING:\n    from eventbus.bus import EventBus"
    assert find_imports("retry", ast.parse(source), {"bus"}) == set()


def test_import_loads_only_what_it_needs() -> None:
    """``import eventbus`` loads no edge, no slow library and nothing of the command line."""
    unwanted = [
        "difflib",
        "eventbus._introspection",
        "eventbus.cli",
        "eventbus.demo",
        "eventbus.testing",
        "eventbus.webhooks",
        "pydantic",
        "rich",
        "structlog",
        "typer",
    ]
    script = (
        "import sys; before = set(sys.modules); import eventbus; "
        f"print(sorted((set(sys.modules) - before) & set({unwanted})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    """Also those that are loaded when they are asked for; what is not there raises as usual."""
    for name in eventbus.__all__:
        assert getattr(eventbus, name) is not None
        assert name in dir(eventbus)
    with pytest.raises(AttributeError, match="module 'eventbus' has no attribute 'Explanations'"):
        eventbus.Explanations  # type: ignore[attr-defined]  # noqa: B018 - it raises


def test_the_pytest_plugin_imports_nothing_of_the_package() -> None:
    """It is loaded in each run of pytest; the package is loaded by tests that ask for a fixture."""
    source = (ROOT / "pytest_eventbus.py").read_text(encoding="utf-8")
    imports = find_imports("pytest_eventbus", ast.parse(source), set(module_files()))
    assert imports
    assert [each for each in imports if not each.late] == []


# ---- Public names


def public_modules() -> list[str]:
    """The modules whose names say that they are public, the package first.

    Of the command line, the commands are public, and no name in its modules.
    """
    commands = EDGES[-1].split()
    names = [
        name
        for name in module_files()
        if not any(part[0] == "_" for part in name.split("."))
        and name.split(".", 1)[0] not in commands
    ]
    return ["eventbus", *(f"eventbus.{name}" for name in names)]


def bound_names(module: types.ModuleType) -> set[str]:
    """The public names that a module has, and that are no modules."""
    return {
        name
        for name in dir(module)
        if not name.startswith("_")
        and not isinstance(getattr(module, name), types.ModuleType)
        and name not in {"annotations", "TYPE_CHECKING"}
    }


def ruff_order(name: str) -> tuple[int, str]:
    """Ruff's order of names: CONSTANTS, then Classes, then the rest."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_all_of_the_package_is_exact() -> None:
    """``eventbus.__all__`` is sorted, and lists each public name that the package binds."""
    assert eventbus.__all__ == sorted(set(eventbus.__all__), key=ruff_order)
    assert set(eventbus.__all__) == bound_names(eventbus)


@pytest.mark.parametrize("name", public_modules())
def test_all_of_a_module_exists(name: str) -> None:
    """Each public module says what it offers, and has what it says."""
    module = importlib.import_module(name)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert len(module.__all__) == len(set(module.__all__))


@cache
def documented_assignments() -> frozenset[str]:
    """The names that the package's modules assign with a string below, as documentation."""
    return frozenset(
        ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0])
        for path in module_files().values()
        for node, after in pairwise(ast.parse(path.read_text(encoding="utf-8")).body)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and isinstance(after.value.value, str)
    )


def has_docstring(value: Any) -> bool:
    """Whether a class or function has one of its own. What a dataclass generates is none."""
    docstring = vars(value)["__doc__"] if inspect.isclass(value) else value.__doc__
    return bool(docstring) and not docstring.startswith(f"{value.__name__}(")


def find_undocumented(name: str, value: Any) -> list[str]:
    """Which of a name and, for a class, its public members have no docstring.

    A member may have it from the base class or protocol that it fulfils; a topic carries its own.
    """
    if isinstance(value, eventbus.Topic):
        return [] if value.description else [name]
    if not inspect.isclass(value) and not inspect.isroutine(value):
        return [] if name in documented_assignments() else [name]
    missing = [] if has_docstring(value) else [name]
    if inspect.isclass(value):
        missing += [
            f"{name}.{member}"
            for member, what in vars(value).items()
            if (inspect.isroutine(what) or isinstance(what, property))
            and not member.startswith("_")
            and not inspect.getdoc(getattr(value, member))
        ]
    return missing


@pytest.mark.parametrize("name", public_modules())
def test_every_public_name_is_documented(name: str) -> None:
    """Each public name has a docstring, and so have the public members of each public class."""
    module = importlib.import_module(name)
    assert module.__doc__
    missing = [
        each
        for public in module.__all__
        for each in find_undocumented(public, getattr(module, public))
    ]
    assert missing == []


# ---- The project's files


def tracked_files() -> list[Path]:
    """The files of the repository: what git tracks or would; without git, what is here."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return sorted(p for folder in (PACKAGE, ROOT / "tests") for p in folder.rglob("*.py"))
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return sorted(path for path in paths if path.is_file())


FOREIGN = re.compile(
    # A letter in brackets keeps this file from finding itself.
    r"(?<![\w.])/(?:[w]ork|[r]oot|[h]ome/\w+|[t]mp/\w+)/|[p]ypi\.org|[r]egistry\.npmjs"
)


def test_no_file_names_a_machine() -> None:
    """No file has a path of somebody's machine, or the host of a package registry, in it."""
    found = [
        f"{path.relative_to(ROOT)}, line {number}: {line.strip()}"
        for path in tracked_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if FOREIGN.search(line)
    ]
    assert found == []


def test_the_version_is_one() -> None:
    """The package, its metadata and the changelog agree on the version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert eventbus.__version__ == project["version"]
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_package_shows_its_readme() -> None:
    """What is built from this repository carries the README, and says that it is typed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["readme"] == "README.md"
    assert (ROOT / project["readme"]).is_file()
    assert (PACKAGE / "py.typed").is_file()


# ---- The tests themselves

SLEEPERS = {"time", "asyncio", "anyio"}
EXCUSE = re.compile(r"# real clock: \S+")

TEST_FILES = [
    pytest.param(path, id=str(path.relative_to(ROOT)))
    for path in tracked_files()
    if path.is_relative_to(ROOT / "tests") and path.suffix == ".py"
]


def find_tests(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]


VIRTUAL_TIME = re.compile(r"^# virtual time: \w", re.MULTILINE)


def real_sleeps(source: str) -> list[int]:
    """The lines that sleep on the real clock for a time other than 0, and give no reason."""
    if VIRTUAL_TIME.search(source):
        return []
    tree = ast.parse(source)
    sleepers = {f"{module}.sleep" for module in SLEEPERS}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in SLEEPERS:
            sleepers |= {a.asname or a.name for a in node.names if a.name == "sleep"}
    lines = source.splitlines()
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in sleepers
        and [ast.unparse(argument) for argument in node.args[:1]] != ["0"]
        and not EXCUSE.search(lines[node.lineno - 1])
    ]


@pytest.mark.parametrize("path", TEST_FILES)
def test_every_test_says_what_it_shows(path: Path) -> None:
    """Each test function has a docstring: the sentence that it proves."""
    tests = find_tests(ast.parse(path.read_text(encoding="utf-8")))
    assert [test.name for test in tests if not ast.get_docstring(test)] == []


@pytest.mark.parametrize("path", TEST_FILES)
def test_no_test_sleeps_on_the_real_clock(path: Path) -> None:
    """Tests order things by events and by simulated time; an exception states its reason.

    It is a comment on the line of the sleep: ``# real clock:`` and the reason. A file whose sleeps
    are all on a simulated loop says so at its head: ``# virtual time:`` and why.
    """
    assert real_sleeps(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("await asyncio.sleep(0.1)", [1]),
        ("from time import sleep as nap\nnap(1)", [2]),
        ("anyio.sleep(pause)", [1]),
        ("await asyncio.sleep(0)", []),
        ("clock.sleep(5)", []),
        ("time.sleep(0.2)  # real clock: the operating system must notice", []),
        ("time.sleep(0.2)  # real clock:", [1]),
    ],
)
def test_sleeps_are_found(source: str, found: list[int]) -> None:
    """The rule above sees sleeps however they are written, and nothing else."""
    assert real_sleeps(source) == found
