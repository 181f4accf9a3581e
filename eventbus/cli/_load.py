"""Finds the bus that ``MODULE:BUS`` names."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from difflib import get_close_matches
from types import ModuleType

from eventbus.bus import EventBus

__all__ = ["BusNotFound", "load_bus"]


class BusNotFound(Exception):
    """There is no such bus. The message says what there is, and the cure."""


def load_bus(target: str) -> EventBus:
    """The bus that ``package.module:attribute`` names; the attribute may have dots.

    The current directory is importable, as it is for ``python -m`` (and not in Python's safe-path
    mode). Raises `BusNotFound`, and whatever of ``SystemExit`` and ``KeyboardInterrupt`` the
    module raises; any other error of the module is in the message, with its traceback.
    """
    module_name, colon, path = target.partition(":")
    if not (colon and module_name and path):
        raise BusNotFound(f"{target!r} is not MODULE:BUS: write for example shop.app:bus")
    module = _import(module_name)
    found: object = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise BusNotFound(
                f"{module_name} has no attribute {path!r}{_instead(module, path)}"
            ) from None
    if not isinstance(found, EventBus):
        raise BusNotFound(
            f"{target} is no EventBus but {type(found).__name__}{_instead(module, path)}"
        )
    return found


def _import(name: str) -> ModuleType:
    if not sys.flags.safe_path:
        here = os.getcwd()
        if here not in sys.path and "" not in sys.path:
            sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing == name or name.startswith(f"{missing}."):
            cure = "start eventbus in the directory that contains it, or install it"
            raise BusNotFound(f"no module named {missing!r}: {cure}") from None
        raise BusNotFound(_failure(name, error)) from error
    except Exception as error:
        raise BusNotFound(_failure(name, error)) from error


def _failure(name: str, error: Exception) -> str:
    text = "".join(traceback.format_exception(error))
    return f"{text}module {name!r} cannot be imported: {type(error).__name__}: {error}"


def _instead(module: ModuleType, path: str) -> str:
    buses = [name for name, value in vars(module).items() if isinstance(value, EventBus)]
    if not buses:
        return f": there is no EventBus in {module.__name__}"
    near = get_close_matches(path, buses, 3, 0) or buses[:3]
    return f": did you mean {' or '.join(f'{module.__name__}:{name}' for name in near)}?"
