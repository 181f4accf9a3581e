"""The commands ``eventbus webhook listen`` and ``eventbus webhook send``."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from eventbus.cli import _show
from eventbus.cli._common import FAILED, INTERRUPTED, Target, load, opened, refuse

if TYPE_CHECKING:
    from socket import socket

    from eventbus.bus import EventBus
    from eventbus.cli._post import Post
    from eventbus.webhooks import SqliteReplayStore, WebhookApp, WebhookStatistics

__all__ = ["webhook"]

SECRET: Final = "EVENTBUS_WEBHOOK_SECRET"
"""The environment variable that keeps secrets out of the list of processes."""

webhook = typer.Typer(
    name="webhook",
    help="Receive webhooks into a bus, or send some.",
    short_help="Receive webhooks into a bus, or send some.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


Scheme = Literal["standard", "stripe", "github", "component", "blocklet-server"]
Ack = Literal["accepted", "handled"]

SchemeOption = Annotated[
    Scheme, typer.Option("--scheme", help="How requests are signed.", show_default=False)
]


@webhook.command(short_help="Receive webhooks into a bus.")
def listen(  # noqa: PLR0917 - typer makes options of them
    target: Target,
    scheme: SchemeOption,
    secret: Annotated[
        list[str] | None,
        typer.Option(
            "--secret",
            help="May be given several times. For component: a public key, 0x….",
            show_default=f"those in {SECRET}",
        ),
    ] = None,
    path: Annotated[str, typer.Option("--path", help="Where the receiver is.")] = "/webhook",
    topic: Annotated[str, typer.Option("--topic", help="Where events are published.")] = "{type}",
    ack: Annotated[Ack, typer.Option("--ack", help="When to answer 200.")] = "accepted",
    replay: Annotated[
        str | None,
        typer.Option("--replay", metavar="FILE", help="Remember what came, over restarts."),
    ] = None,
    host: Annotated[str, typer.Option("--host")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")
    ] = 8000,
) -> None:
    """Receive webhooks into a bus until Ctrl-C; then drain it, and print the statistics.

    Give secrets in the environment variable EVENTBUS_WEBHOOK_SECRET, separated by spaces, rather
    than as options, which everybody on the machine can read in the list of processes.

    The exit status is 0; 1 if a delivery failed; 2 for wrong usage.
    """
    from eventbus.cli._schemes import receiving
    from eventbus.cli._serve import listen_on
    from eventbus.webhooks import Receiver, WebhookApp

    bus = load(target)
    try:
        found = receiving(scheme, _secrets(secret))
        store = None if replay is None else _opened_store(replay)
        receiver = Receiver(bus, found, topic=topic, ack=ack, replay=store)
        app = WebhookApp({path: receiver})
        listener = listen_on(host, port)
    except ValueError as error:  # an OptionError, which shows no secret
        refuse(str(error))
    except OSError as error:
        refuse(f"cannot listen on {host}:{port}: {error.strerror or error}")
    with listener, nullcontext() if store is None else store:
        name = f"[{host}]" if ":" in host else host
        where = f"http://{name}:{listener.getsockname()[1]}{path}"
        typer.echo(f"{bus.name} gets what is posted to {where}; Ctrl-C ends it", err=True)
        asyncio.run(_listen(bus, app, listener))
    _show_received(bus, receiver.statistics())
    raise typer.Exit(FAILED if bus.statistics().failed else 0)


@webhook.command(short_help="Sign and post a file of events.")
def send(  # noqa: PLR0917 - typer makes options of them
    url: Annotated[str, typer.Argument(metavar="URL", help="http:// or https://, with a path.")],
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="A file of JSON lines; - is standard input.")
    ],
    scheme: SchemeOption,
    secret: Annotated[
        str | None,
        typer.Option(
            "--secret",
            help="For component: the app's secret key, 0x….",
            show_default=f"the first in {SECRET}",
        ),
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, max=100, help="How many requests at once.")
    ] = 4,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds to wait for an answer.")
    ] = 30.0,
) -> None:
    """Sign a file of events as a webhook's sender does, post them, and sum up the answers.

    The lines are those of "eventbus run": "type" and "data", and optionally "id" and "time"; what
    else a line may have is not sent. They are signed now. Redirects are not followed, and nothing
    is sent twice. With a concurrency of more than 1, events may arrive in another order.

    Give the secret in the environment variable EVENTBUS_WEBHOOK_SECRET rather than as an option,
    which everybody on the machine can read in the list of processes.

    The exit status is 0 if each event was answered with 2xx; 1 if not, or if a line was bad; 2 for
    wrong usage; 130 after Ctrl-C.
    """
    from eventbus.cli._post import Post, Url
    from eventbus.cli._schemes import sending

    try:
        target, sender = Url.parse(url), sending(scheme, _secrets(secret)[0])
    except ValueError as error:
        refuse(str(error))
    with opened(source) as (file, size):
        post = Post(target, sender, file, concurrency, timeout)
        raise typer.Exit(_send(post, source, size))


def _secrets(given: str | list[str] | None) -> list[str]:
    """The secrets of the command line, else those of the environment. Refuses none."""
    secrets = [given] if isinstance(given, str) else given or os.environ.get(SECRET, "").split()
    if not secrets:
        refuse(f"no secret: set {SECRET}, or pass --secret")
    return secrets


def _opened_store(path: str) -> SqliteReplayStore:
    """A store whose file can be used. Refuses another now, rather than each request later."""
    from eventbus.webhooks import SqliteReplayStore
    from eventbus.webhooks.replay import Claim

    store = SqliteReplayStore(path)
    try:
        asyncio.run(store.renew(Claim(b"", 0), 0.0))  # nobody's: it changes nothing
    except sqlite3.Error as error:
        store.close()
        refuse(f"cannot use {path!r}: {error}")
    return store


async def _listen(bus: EventBus, app: WebhookApp, listener: socket) -> None:
    from eventbus.cli._serve import serve

    async with bus:
        await serve(app, listener)


def _show_received(bus: EventBus, statistics: WebhookStatistics) -> None:
    console = _show.make_console()
    console.print(f"\n{statistics.accepted:,} accepted, {statistics.duplicates:,} duplicates")
    for code, count in statistics.refused.items():
        console.print(f"{count:,} refused: {code}")
    console.print()
    console.print(_show.accounts(bus))


def _send(post: Post, name: str, size: int | None) -> int:
    """Post the file and print what came of it. Returns the exit status."""
    console = _show.make_console(stderr=True)
    progress = _show.make_progress(console)
    started = time.monotonic()
    problem, interrupted = "", False
    with nullcontext() if progress.disable else progress:
        bar = progress.add_task(name, total=size, events=0)
        post.complain = lambda number, text: console.print(
            f"line {number}: {text}", style="red", soft_wrap=True
        )
        post.tick = lambda: progress.update(bar, completed=post.bytes_read, events=post.answered)
        try:
            asyncio.run(post.run())
        except KeyboardInterrupt:
            interrupted = True
        except OSError as error:
            problem = f"cannot read {name}: {error}"
    _show.show_answers(_show.make_console(), post.answers, time.monotonic() - started)
    if problem:
        typer.echo(f"eventbus: {problem}", err=True)
    if interrupted:
        typer.echo("eventbus: interrupted; some events may not have been answered", err=True)
        return INTERRUPTED
    return FAILED if problem or post.bad or post.failed else 0
