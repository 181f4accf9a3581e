"""Every example in README.md and in the package's docstrings runs.

README.md: each ``python`` block runs as a program of its own, with ``await`` allowed at the top
level. A block after the comment ``<!-- continues -->`` goes on with the names of the block before
it. Blocks that begin with the name of a file, such as ``# test_billing.py``, are that file; they
are one project, whose tests run. Commands and code of other languages are not run; there is no way
to exempt a ``python`` block.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import doctest
import importlib
import inspect
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import NamedTuple

import pytest

README = Path(__file__).parent.parent / "README.md"
PACKAGE = Path(__file__).parent.parent / "eventbus"
LEAST_BLOCKS = 15
NOT_RUN = {"bash", "console", "js", "json", "jsonl", "text", "toml"}
FILE_NAME = re.compile(r"# (\w+\.py)\n")
FENCE = re.compile(r"^( *)(`{3,}|~{3,})(.*)$")


class Block(NamedTuple):
    """A fenced block of a Markdown text."""

    line: int
    """Where its first line of code stands, counted from 1."""
    language: str
    continues: bool
    code: str

    @property
    def file(self) -> str | None:
        """The name of the file that this block is, if it says so."""
        name = FILE_NAME.match(self.code)
        return name and name[1]


def parse_blocks(text: str) -> list[Block]:
    """The fenced blocks of a Markdown text, in order."""
    blocks: list[Block] = []
    lines = iter(enumerate(text.splitlines(), start=1))
    comment = ""
    for number, line in lines:
        if not (opening := FENCE.match(line)):
            comment = line.strip() or comment
            continue
        indent, fence, info = opening.groups()
        code: list[str] = []
        for _, inner in lines:
            if inner.strip() == fence:
                break
            code.append(inner.removeprefix(indent))
        else:
            raise ValueError(f"the block that begins in line {number} does not end")
        blocks.append(
            Block(number + 1, info.strip(), comment == "<!-- continues -->", "\n".join(code))
        )
        comment = ""
    return blocks


def chain(blocks: list[Block]) -> list[list[Block]]:
    """The ``python`` blocks, those together that share their names."""
    chains: list[list[Block]] = []
    for block in blocks:
        if block.language == "python" and not block.file:
            if block.continues:
                chains[-1].append(block)
            else:
                chains.append([block])
    return chains


def run(block: Block, namespace: dict[str, object], path: str) -> None:
    """Run a block; with a top-level ``await``, in an event loop of its own."""
    namespace.setdefault("__builtins__", builtins)  # exec() does that; a function does not
    source = "\n" * (block.line - 1) + block.code  # so that tracebacks name the right line
    code = compile(source, path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(types.FunctionType(code, namespace)())
    else:
        exec(code, namespace)  # noqa: S102 - the README is ours


def run_chain(blocks: list[Block], path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run blocks that share their names, in a module that the import system knows.

    Models and annotations of the examples are looked up there.
    """
    module = types.ModuleType("readme_example")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks:
        run(block, vars(module), path)


BLOCKS = parse_blocks(README.read_text(encoding="utf-8")) if README.exists() else []


@pytest.mark.parametrize(
    "blocks", [pytest.param(blocks, id=f"line-{blocks[0].line}") for blocks in chain(BLOCKS)]
)
def test_readme(blocks: list[Block], monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of the README runs as it stands."""
    run_chain(blocks, str(README), monkeypatch)


def test_readme_project(tmp_path: Path) -> None:
    """The application that the README tests has tests that pass, warnings being errors."""
    files = {block.file: block.code for block in BLOCKS if block.file}
    for name, code in files.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    assert sum(name.startswith("test_") for name in files) == 2
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
        "filterwarnings = error\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    tests = sum(code.count("def test_") for code in files.values())
    assert f"{tests} passed" in ran.stdout


@pytest.mark.skipif(not README.exists(), reason="there is no README.md")
def test_readme_has_its_examples_and_no_unknown_blocks() -> None:
    """The README shows a good number of examples, and each block says what language it is."""
    assert sum(block.language == "python" for block in BLOCKS) >= LEAST_BLOCKS
    unknown = [block for block in BLOCKS if block.language not in {"python", *NOT_RUN}]
    assert unknown == []


def modules_with_examples() -> list[str]:
    """The modules of the package that have examples in their docstrings, by name."""
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if re.search(r"^\s*>>> ", path.read_text(encoding="utf-8"), re.MULTILINE):
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            names.append(".".join(parts).removesuffix(".__init__"))
    return names


@pytest.mark.parametrize("name", modules_with_examples())
def test_docstrings(name: str) -> None:
    """The examples in the docstrings of a module give what they show."""
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for example in doctest.DocTestFinder().find(importlib.import_module(name)):
        runner.run(example, out=said.append)
    assert "".join(said) == ""
    assert runner.summarize(verbose=False).attempted > 0


def test_the_runner_shares_names_only_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are independent, unless the comment joins one to the block before it."""
    text = """
```python
import asyncio
x = 1
```

<!-- continues -->
```python
await asyncio.sleep(0)
assert x == 1
```

```python
assert "x" not in globals()
```
"""
    chains = chain(parse_blocks(text))
    assert [[block.line for block in blocks] for blocks in chains] == [[3, 9], [14]]
    for blocks in chains:
        run_chain(blocks, "text", monkeypatch)


def test_the_runner_fails_with_the_line_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """An example that fails fails its test, and the traceback names the line in the text."""
    (blocks,) = chain(parse_blocks("\n```python\nx = 1\nawait broken()\n```\n"))
    with pytest.raises(NameError) as caught:
        run_chain(blocks, "text", monkeypatch)
    assert caught.traceback[-1].lineno == 3  # counted from 0: line 4
