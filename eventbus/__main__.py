"""The command ``eventbus``, and ``python -m eventbus``."""

from __future__ import annotations

import sys

__all__ = ["main"]

EXTRA = (
    *("typer", "rich", "click"),  # versions of typer differ in whether they need the last
    *("uvicorn", "httpx2"),
    *("cryptography", "jiter", "rfc8785"),
)
"""What the extra ``cli`` brings."""


def main() -> None:
    """Run the command line. Without the extra ``cli``, say how to install it and exit with 2."""
    try:
        from eventbus.cli import app

        app(prog_name="eventbus")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        print(
            f"eventbus: the command line needs {error.name}, which is not installed. Install the "
            "extra: pip install 'eventbus[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
