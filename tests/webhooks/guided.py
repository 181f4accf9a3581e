"""A coverage-guided fuzzer: finds requests that reach new code, and keeps a small set of them.

It needs atheris, which is installed by hand::

    python -m pip install atheris
    python -m tests.webhooks.guided 300000

runs that many inputs, beginning with those of corpus/guided.txt, and writes that file anew: the
smallest set of inputs that reaches all that was reached. It fails with the input that broke a rule
of ``fuzzing.check``. With ``--check`` the file stays as it is.
"""

from __future__ import annotations

import base64
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LONGEST = 400  # bytes of an input that is kept
HEAD = "# Inputs of tests/webhooks/fuzzing.py in base64, written by tests/webhooks/guided.py.\n"


def fuzz() -> None:
    """Fuzz in this process, as the arguments of libFuzzer say. It does not return."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["eventbus.webhooks"]):
        from tests.webhooks import fuzzing

    def one(data: bytes) -> None:
        fuzzing.check(data)

    # libFuzzer runs itself again to merge, by its first argument, in a shell.
    itself = f"{sys.executable} -m tests.webhooks.guided"
    atheris.Setup([itself, *sys.argv[1:]], one)
    atheris.Fuzz()


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "tests.webhooks.guided", *arguments], check=True)


def main(runs: int, *, keep: bool) -> None:
    from tests.webhooks import fuzzing

    with tempfile.TemporaryDirectory() as folder:
        found, least = Path(folder, "found"), Path(folder, "least")
        found.mkdir()
        least.mkdir()
        for number, data in enumerate([*fuzzing.seeds(), *fuzzing.read_corpus()]):
            (found / str(number)).write_bytes(data)
        run(f"-runs={runs}", f"-max_len={LONGEST}", f"-artifact_prefix={folder}/", str(found))
        if keep:
            run("-merge=1", str(least), str(found))
            kept = sorted(path.read_bytes() for path in least.iterdir())
            lines = [base64.b64encode(data).decode() + "\n" for data in kept]
            fuzzing.CORPUS.write_text(HEAD + "".join(lines), encoding="ascii")


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        main(int(sys.argv[1]), keep="--check" not in sys.argv)
    else:
        fuzz()
