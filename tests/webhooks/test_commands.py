"""``eventbus webhook listen`` and ``eventbus webhook send``."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from eventbus import EventBus
from eventbus.cli._schemes import SCHEMES, receiving, sending
from eventbus.testing import sign
from eventbus.webhooks import Receiver
from tests.test_cli import INTERRUPTIBLE, Write, environment, invoke, statistics
from tests.test_cli import write as write  # noqa: PLC0414 - a fixture
from tests.webhooks.client import SCHEME, SECRET

APP = """
    from eventbus import EventBus
    bus = EventBus(name="shop")
    @bus.on("**")
    def ship(event):
        if event.data == "bad":
            raise ValueError("no such invoice")
"""

PAID = {"type": "invoice.paid", "data": {"id": "in_1"}}

SECRETS = {
    "standard": (SECRET, SECRET),
    "stripe": ("whsec_8cMVTAdGWhFzVZ1LpmGn3QWdkzS0wMmt",) * 2,
    "github": ("It is a secret that nobody else knows",) * 2,
    "component": (
        "0x" + bytes(range(32)).hex(),
        "0x03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8",
    ),
    "blocklet-server": ("0123456789abcdef" * 4,) * 2,
}
"""For each scheme, what the sender has, and what the receiver needs."""

STANDARD_ED25519 = (
    "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==",
    "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
)


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user has in the environment."""
    monkeypatch.setenv("EVENTBUS_WEBHOOK_SECRET", SECRET)


class Endpoint(ThreadingHTTPServer):
    """Somebody who gets webhooks, and answers as told."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, list[tuple[bytes, bytes]], bytes]] = []
        self.answers: list[tuple[int, bytes]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook?x=1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that hung up: it would stand among what the command says."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = [(k.lower().encode(), v.encode()) for k, v in self.headers.items()]
        self.server.requests.append((self.path, headers, body))
        answers = self.server.answers
        status, text = answers.pop(0) if answers else (200, b'{"accepted":true}')
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.send_header("location", "/elsewhere")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        thread = threading.Thread(target=endpoint.serve_forever, args=(0.01,))
        thread.start()
        yield endpoint
        endpoint.shutdown()
        thread.join()


@contextmanager
def dribbling(head: bytes, piece: bytes) -> Iterator[str]:
    """The URL of a server that answers one request for as long as somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as connection, suppress(OSError):
                connection.recv(65_536)
                connection.sendall(head)
                while True:
                    connection.sendall(piece)
                    time.sleep(0.01)  # real clock: a server in a thread of its own

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join()


Lines = Callable[..., str]


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    """Write a file of events."""

    def write(*found: dict[str, Any] | bytes) -> str:
        raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in found]
        path = tmp_path / "events.jsonl"
        path.write_bytes(b"\n".join(raw) + b"\n")
        return str(path)

    return write


def answers_in(out: str) -> dict[str, int]:
    """The table that ``send`` prints."""
    rows = re.findall(r"^(\S.*?) {2,}(\d+)$", out[out.index("answer") :], re.MULTILINE)
    return {said: int(count) for said, count in rows}


class TestSchemes:
    @pytest.mark.parametrize("name", SCHEMES)
    def test_sender_and_receiver(self, name: str) -> None:
        """What ``send`` signs, ``listen`` takes, whatever the scheme."""
        private, public = SECRETS[name]
        scheme, key = sending(name, private)
        receiver = Receiver(EventBus(), receiving(name, [public]))
        event = receiver.verify(*sign(scheme, "invoice.paid", {"object": {}}, key=key))
        assert event.type == "invoice.paid"

    def test_standard_with_key_pairs(self) -> None:
        """Standard Webhooks have public keys, too; and components' keys come with their halves."""
        scheme, key = sending("standard", STANDARD_ED25519[0])
        receiver = Receiver(EventBus(), receiving("standard", [STANDARD_ED25519[1]]))
        receiver.verify(*sign(scheme, "invoice.paid", key=key))
        private, public = SECRETS["component"]
        scheme, key = sending("component", private + public.removeprefix("0x"))
        receiver = Receiver(EventBus(), receiving("component", [public]))
        receiver.verify(*sign(scheme, "invoice.paid", {"object": {}}, key=key))


class TestSend:
    def test_a_file(self, endpoint: Endpoint, lines: Lines) -> None:
        """Each line is posted once, signed now, with its own id and the time it happened."""
        timed = {**PAID, "id": "evt_9", "time": "2025-01-31T12:00:00Z"}
        result = invoke("webhook", "send", endpoint.url, lines(PAID, timed), "--scheme", "standard")
        assert (result.status, result.err) == (0, "")
        assert answers_in(result.out) == {"200 accepted": 2}
        receiver = Receiver(EventBus(), SCHEME)
        found = {}
        for path, headers, body in endpoint.requests:
            event = receiver.verify("POST", path, headers, body)
            found[event.id] = event
            assert (path, event.type, event.data) == ("/hook?x=1", "invoice.paid", {"id": "in_1"})
        assert len(found) == 2
        assert found["evt_9"].time.isoformat() == "2025-01-31T12:00:00+00:00"

    def test_answers(self, endpoint: Endpoint, lines: Lines) -> None:
        """Each answer is counted by its status and code; any but 2xx is named and is a failure."""
        endpoint.answers = [
            (200, b'{"duplicate":true}'),
            (401, b'{"error":{"code":"unauthorized"}}'),
            (401, b'{"error":"verify sig failed"}'),
            (302, b""),
            (500, b"<html>"),
            (204, b""),
            (200, b"[]"),
        ]
        result = invoke(
            *("webhook", "send", endpoint.url, lines(*[PAID] * 8)),
            *("--scheme", "standard", "--concurrency", "1"),
        )
        assert result.status == 1
        assert answers_in(result.out) == {
            "200": 1,
            "200 accepted": 1,
            "200 duplicate": 1,
            "204": 1,
            "302": 1,
            "401 unauthorized": 1,
            "401 verify sig failed": 1,
            "500": 1,
        }
        assert result.err.splitlines() == [
            "line 2: 401 unauthorized",
            "line 3: 401 verify sig failed",
            "line 4: 302",
            "line 5: 500",
        ]
        assert {path for path, _, _ in endpoint.requests} == {"/hook?x=1"}  # no redirect

    def test_bad_lines(self, endpoint: Endpoint, lines: Lines) -> None:
        """A bad line is named, the rest goes on, and the status tells."""
        result = invoke(
            "webhook", "send", endpoint.url, lines(b"{", b"", PAID), "--scheme", "standard"
        )
        assert (result.status, len(endpoint.requests)) == (1, 1)
        assert result.err.startswith("line 1: not JSON")

    def test_what_cannot_be_signed(self, endpoint: Endpoint, lines: Lines) -> None:
        """A line that the scheme has no signature for is named, and the rest goes on."""
        deep = b'{"type":"invoice.paid","data":%b1%b}' % (b"[" * 70, b"]" * 70)
        secret = SECRETS["component"][0]
        result = invoke(
            *("webhook", "send", endpoint.url, lines(deep, PAID)),
            *("--scheme", "component", "--secret", secret),
        )
        assert (result.status, len(endpoint.requests)) == (1, 1)
        assert result.err.startswith("line 1: NoMatchingSignature: ")

    @pytest.mark.skipif(sys.platform != "linux", reason="there is such a file on Linux")
    def test_a_file_that_cannot_be_read(self, endpoint: Endpoint) -> None:
        """A file whose reading fails is a failure in one line, and the answers are summed up."""
        result = invoke("webhook", "send", endpoint.url, "/proc/self/mem", "--scheme", "standard")
        assert (result.status, result.out[:16]) == (1, "0 events posted ")
        assert result.err.startswith("eventbus: cannot read /proc/self/mem: ")

    def test_nobody_answers(self, lines: Lines) -> None:
        """A server that is not there is a failure of each event."""
        with Endpoint() as endpoint:
            url = endpoint.url
        result = invoke("webhook", "send", url, lines(PAID), "--scheme", "standard")
        assert result.status == 1
        assert answers_in(result.out) == {"no answer: ConnectError": 1}

    def test_an_answer_without_end(self, lines: Lines) -> None:
        """An answer that never ends is given up at the time-out, and is not kept in memory."""
        with dribbling(b"HTTP/1.1 200 OK\r\n\r\n", b"x") as url:
            result = invoke(
                *("webhook", "send", url, lines(PAID), "--scheme", "standard", "--timeout", "0.5")
            )
        assert (result.status, answers_in(result.out)) == (1, {"no answer: TimeoutError": 1})
        assert result.err.splitlines() == ["line 1: no whole answer within 0.5 s"]

    def test_a_long_answer(self, endpoint: Endpoint, lines: Lines) -> None:
        """Of a long answer, the status counts: what it says is too long to be a code."""
        endpoint.answers = [
            (200, b'{"accepted":true,"more":"' + b"x" * 1_000_000 + b'"}'),
            (200, b"[" * 50_000),
        ]
        result = invoke(
            *("webhook", "send", endpoint.url, lines(PAID, PAID)),
            *("--scheme", "standard", "--concurrency", "1"),
        )
        assert (result.status, answers_in(result.out)) == (0, {"200": 2})

    def test_an_answer_that_cannot_be_printed(self, endpoint: Endpoint, lines: Lines) -> None:
        """What a stranger answers does nothing to the terminal."""
        endpoint.answers = [(400, b'{"error":"\\u001b[2J\\nno"}')]
        result = invoke("webhook", "send", endpoint.url, lines(PAID), "--scheme", "standard")
        assert result.err.splitlines() == ["line 1: 400 ?[2J?no"]

    def test_an_empty_file(self, endpoint: Endpoint, lines: Lines) -> None:
        """Nothing to send is no failure."""
        result = invoke("webhook", "send", endpoint.url, lines(), "--scheme", "standard")
        assert (result.status, result.out[:16]) == (0, "0 events posted ")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["ftp://localhost/", "-", "--scheme", "standard"], "is no URL"),
            (["localhost:8000", "-", "--scheme", "standard"], "is no URL"),
            (["http://localhost:x/", "-", "--scheme", "standard"], "is no URL"),
            (["http://[::1", "-", "--scheme", "standard"], "is no URL"),
            (["http://a/\x7f", "-", "--scheme", "standard"], "is no URL"),
            (["http://" + "a" * 70_000, "-", "--scheme", "standard"], "is no URL"),
            (["http://localhost/", "missing.jsonl", "--scheme", "standard"], "cannot open"),
            (["http://localhost/", "-", "--scheme", "component"], "non-hexadecimal"),
            (["http://localhost/", "-", "--scheme", "morse"], "morse"),
            (["http://localhost/", "-"], "--scheme"),
        ],
    )
    def test_usage(self, options: list[str], message: str) -> None:
        """Wrong usage is 2, and shows no secret."""
        result = invoke("webhook", "send", *options)
        assert result.status == 2
        assert message in result.err
        assert SECRET[6:] not in result.err

    def test_no_secret(self, monkeypatch: pytest.MonkeyPatch, lines: Lines) -> None:
        """Without a secret it says where to put it."""
        monkeypatch.delenv("EVENTBUS_WEBHOOK_SECRET")
        for arguments in (("send", "http://localhost/", lines(PAID)), ("listen", "sys:path")):
            result = invoke("webhook", *arguments, "--scheme", "standard")
            assert result.status == 2


class Listening:
    """``eventbus webhook listen`` in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-c", INTERRUPTIBLE, "webhook", "listen", *arguments]
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--scheme", "standard"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environment(), "EVENTBUS_WEBHOOK_SECRET": f"{SECRET} whsec_{'A' * 32}"},
            text=True,
        )
        assert self.process.stderr is not None
        said = self.process.stderr.readline()
        url = re.search(r"http://\S+(?=;)", said)
        assert url is not None, said
        self.url = url[0]

    def stop(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=30)
        return self.process.returncode, out


class TestListen:
    @pytest.mark.posix
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_it_feeds_the_bus(self, write: Write, lines: Lines, number: int) -> None:
        """What is posted reaches the bus; a signal drains it and prints the accounts."""
        file = str(Path.cwd() / "replay.db")
        listening = Listening(f"{write(APP)}:bus", "--path", "/hook", "--replay", file)
        assert listening.url.endswith("/hook")
        once = {**PAID, "id": "evt_1"}
        command = ("webhook", "send", listening.url, lines(once, once), "--scheme", "standard")
        sent = invoke(*command, "--concurrency", "1")
        assert answers_in(sent.out) == {"200 accepted": 1, "200 duplicate": 1}
        forged = invoke(*command, "--secret", f"whsec_{'B' * 32}")
        assert answers_in(forged.out) == {"401 unauthorized": 2}
        status, out = listening.stop(number)
        assert status == 0
        assert "1 accepted, 1 duplicates\n2 refused: no_matching_signature\n" in out
        assert statistics(out)["ship"]["handled"] == 1
        assert os.path.exists(file)

    @pytest.mark.posix
    def test_a_failed_delivery(self, write: Write, lines: Lines) -> None:
        """A handler that failed shows in the status; with --ack handled the sender knows, too."""
        listening = Listening(f"{write(APP)}:bus", "--ack", "handled", "--topic", "billing.{type}")
        bad = {"type": "invoice.paid", "data": "bad"}
        sent = invoke("webhook", "send", listening.url, lines(bad), "--scheme", "standard")
        assert answers_in(sent.out) == {"503 unavailable": 1}
        status, out = listening.stop(signal.SIGINT)
        assert status == 1
        assert statistics(out)["ship"]["failed"] == 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--path", "hook"], "begin each path"),
            (["--topic", "a..b"], "makes no topics"),
            (["--secret", "whsk_AAAA"], "whsk_"),
            (["--host", "192.0.2.1", "--port", "9"], "cannot listen on"),
            (["--port", "65536"], "--port"),
            (["--port", "-1"], "--port"),
            (["--replay", ""], "pass a file"),
            (["--replay", "/no/such/directory/replay.db"], "cannot use '/no/such/directory"),
        ],
    )
    def test_usage(self, write: Write, options: list[str], message: str) -> None:
        """Wrong usage is 2, with a word about what to write instead."""
        result = invoke("webhook", "listen", f"{write(APP)}:bus", "--scheme", "standard", *options)
        assert result.status == 2
        assert message in result.err
