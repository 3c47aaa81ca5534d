"""A scorer behind HTTP, against a real server on this machine that fails, stalls, and talks nonsense."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from halo_lightning.cli import main
from halo_lightning.evaluation.judges.http import Retries
from halo_lightning.labelling.endpoint import FAILURES, EndpointScorer
from tests.data.helpers import write_rows

KEY = "sk-very-secret-0123456789"
Capture = pytest.CaptureFixture[str]


class State:
    """What the server does, and what it has seen."""

    def __init__(self, behave: Callable[[Handler, int], None]) -> None:
        self.behave = behave
        self.asked: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.now = self.most = 0


class Handler(BaseHTTPRequestHandler):
    server: Any
    protocol_version = "HTTP/1.1"
    completion = ""

    def do_POST(self) -> None:
        state: State = self.server.state
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert set(request) == {"prompt", "completion"}
        self.completion = request["completion"]
        with state.lock:
            before = state.asked[self.completion]
            state.asked[self.completion] += 1
            state.headers.append(dict(self.headers))
            state.now += 1
            state.most = max(state.most, state.now)
        try:
            state.behave(self, before)
        finally:
            with state.lock:
                state.now -= 1

    def reply(self, status: int, body: Any, **headers: str) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(behave: Callable[[Handler, int], None]) -> Iterator[tuple[str, State]]:
    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass

    server: Any = Quiet(("127.0.0.1", 0), Handler)
    server.state = State(behave)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/score", server.state
    finally:
        server.state.stop.set()
        server.shutdown()
        server.server_close()


def right(handler: Handler) -> None:
    handler.reply(200, {"score": len(handler.completion)})


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCORER_KEY", KEY)
    rows = [{"prompt": f"Question {n}", "completion": "x" * (n + 1)} for n in range(30)]
    write_rows(tmp_path / "in.jsonl", rows)


def label(address: str, *arguments: str, status: int = 0) -> None:
    common = ["--data=in.jsonl", "--out=out.jsonl", "--threshold=10", "--backoff=0.001", "--timeout=5"]
    assert main(["label", f"--scorer={address}", *common, *arguments]) == status


def written(path: str = "out.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_scores_in_the_order_of_the_rows_with_a_limit_of_requests(tmp_path: Path, capsys: Capture) -> None:
    def behave(handler: Handler, before: int) -> None:
        handler.server.state.stop.wait(0.005)
        right(handler)

    with serving(behave) as (address, state):
        label(address, "--workers=3")
    assert [row["score"] for row in written()] == [float(n + 1) for n in range(30)]
    assert [row["label"] for row in written()] == [n >= 9 for n in range(30)]
    assert 1 < state.most <= 3
    assert {headers["Authorization"] for headers in state.headers} == {f"Bearer {KEY}"}
    check_no_key(tmp_path, capsys)


def check_no_key(folder: Path, capsys: Capture) -> None:
    """The key is in no file and in nothing that was printed."""
    captured = capsys.readouterr()
    assert KEY not in captured.out + captured.err
    for path in folder.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def cut_off(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"score"')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def stall(handler: Handler) -> None:
    handler.server.state.stop.wait(20)


TROUBLES: dict[str, Callable[[Handler], None]] = {
    "error": lambda handler: handler.reply(500, {"error": "oops"}),
    "busy": lambda handler: handler.reply(429, {}, Retry_After="0"),
    "no JSON": lambda handler: handler.reply(200, b"<html>"),
    "no score": lambda handler: handler.reply(200, {"scores": 1}),
    "a text": lambda handler: handler.reply(200, {"score": "high"}),
    "not a number": lambda handler: handler.reply(200, b'{"score": NaN}'),
    "null": lambda handler: handler.reply(200, {"score": None}),
    "cut off": cut_off,
    "stalls": stall,
}


@pytest.mark.parametrize("name", TROUBLES)
def test_troubles_that_pass(name: str) -> None:
    def behave(handler: Handler, before: int) -> None:
        (TROUBLES[name] if before == 0 and handler.completion in ("x", "xxx") else right)(handler)

    with serving(behave) as (address, state):
        label(address, "--timeout=0.3" if name == "stalls" else "--timeout=5")
    assert [row["score"] for row in written()] == [float(n + 1) for n in range(30)]
    assert (state.asked["x"], state.asked["xx"]) == (2, 1)


@pytest.mark.parametrize("name", ["error", "no score", "stalls"])
def test_a_row_that_never_gets_a_score(name: str, tmp_path: Path, capsys: Capture) -> None:
    def behave(handler: Handler, before: int) -> None:
        (TROUBLES[name] if handler.completion == "xx" else right)(handler)

    timeout = "--timeout=0.2" if name == "stalls" else "--timeout=5"
    with serving(behave) as (address, state):
        label(address, "--attempts=3", timeout, status=2)
        message = capsys.readouterr().err
        assert "in.jsonl, line 2, key 'completion': the endpoint gave no score: " in message
        assert "after 3 attempts" in message
        kept = len(written("out.scores.jsonl"))
        label(address, "--attempts=3", timeout, "--on_bad_row=skip")
        assert (state.asked["xx"], state.asked["x"]) == (6, 1)
    assert len(written()) == 29
    assert "skipped 1 bad rows" in capsys.readouterr().out
    assert kept > 1
    check_no_key(tmp_path, capsys)


def test_a_server_that_does_not_work_stops_the_command(capsys: Capture) -> None:
    with serving(lambda handler, _: handler.reply(500, b"oops")) as (address, state):
        label(address, "--attempts=2", "--on_bad_row=skip", status=2)
        assert sum(state.asked.values()) <= 2 * (FAILURES + 8)
    assert f"gave no score {FAILURES} times in a row" in capsys.readouterr().err
    label("http://127.0.0.1:9/score", "--attempts=1", "--on_bad_row=skip", status=2)
    assert "no connection" in capsys.readouterr().err


def test_a_key_that_is_refused_and_repeated_by_the_server(tmp_path: Path, capsys: Capture) -> None:
    def forbidden(handler: Handler, before: int) -> None:
        handler.reply(401, {"error": f"bad key {handler.headers['Authorization']}"})

    with serving(forbidden) as (address, state):
        label(address, status=2)
        assert sum(state.asked.values()) <= 8  # it is not tried again and again
    captured = capsys.readouterr()
    assert "status 401 (the key is missing or not accepted) (key in SCORER_KEY: set)" in captured.err
    assert KEY not in captured.err

    def telling(handler: Handler, before: int) -> None:
        handler.reply(400, {"error": f"{handler.headers['Authorization']} sent a bad text"})

    with serving(telling) as (address, _):
        label(address, "--on_bad_row=skip", status=2)
    check_no_key(tmp_path, capsys)


def test_redirects_are_not_followed(tmp_path: Path, capsys: Capture) -> None:
    """Whoever is redirected to would be given the key."""
    with serving(lambda handler, _: right(handler)) as (other, state):
        with serving(lambda handler, _: handler.reply(302, b"", Location=other)) as (address, _):
            label(address, status=2)
        assert not state.asked
    assert "refuses: status 302" in capsys.readouterr().err


def test_interrupted_it_goes_on() -> None:
    def broken_after_ten(handler: Handler, before: int) -> None:
        if len(handler.server.state.asked) > 10:
            handler.reply(403, {})
        else:
            right(handler)

    with serving(broken_after_ten) as (address, state):
        label(address, "--workers=2", status=2)
        kept = written("out.scores.jsonl")
        assert len(kept) == 10
        first = Counter(state.asked)
        state.behave = lambda handler, _: right(handler)
        label(address)
        assert len(written()) == 30
        assert all(state.asked[text] == 1 for text in list(first)[:10])


@pytest.mark.parametrize(
    ("score_key", "body", "score"),
    [
        ("score", {"score": 1.5}, 1.5),
        ("score", 2, 2.0),
        ("result.0.value", {"result": [{"value": -3}]}, -3.0),
        ("result.1.value", {"result": [{"value": -3}]}, None),
        ("score", {"score": True}, None),
        ("score", [1], None),
        ("0.score", [{"score": 4}], 4.0),
    ],
)
def test_where_the_score_is(score_key: str, body: Any, score: float | None) -> None:
    scorer = EndpointScorer("http://localhost/", score_key, "SCORER_KEY", Retries(), 1)
    assert scorer.read(json.dumps(body).encode()) == score


def test_the_key_in_the_address_is_refused(capsys: Capture) -> None:
    label(f"http://127.0.0.1:9/{KEY}", status=2)
    message = capsys.readouterr().err
    assert "the key itself is in the scorer's settings" in message
    assert KEY not in message
