"""The command line: an edge, which needs the extra ``cli`` (typer and rich).

`_app` has the commands and their exit statuses, `_load` finds ``MODULE:BUS``, `_lines` turns the
bytes of a file into events or complaints, `_feed` publishes them, and `_show` prints.
"""

from eventbus.cli._app import app

__all__ = ["app"]
