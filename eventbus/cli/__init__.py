"""The command line: an edge, which needs the extra ``cli`` (typer, rich, uvicorn, httpx2).

`_app` and `_webhook` have the commands and their exit statuses, `_load` finds ``MODULE:BUS``,
`_lines` turns the bytes of a file into events or complaints, `_feed` publishes them, `_post` signs
and posts them, `_serve` runs a server, and `_show` prints.
"""

from eventbus.cli._app import app

__all__ = ["app"]
