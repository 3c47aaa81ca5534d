"""A chat completion server, or one that scores, on this machine, that misbehaves as it is told to."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWER = '{"helpful": "A", "harmless": "tie", "concise": "B", "overall": "A"}'
KEY = "sk-very-secret-0123456789"

Behaviour = Callable[["Handler", int], None]
"""Answers a request; the number says how often this question was asked before."""


@dataclass
class Server:
    """What the server does, and what it has seen."""

    behave: Behaviour
    url: str = ""
    questions: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    headers: list[dict[str, str]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Any
    protocol_version = "HTTP/1.1"
    question = ""

    def do_POST(self) -> None:
        state: Server = self.server.state
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.question = request["messages"][0]["content"] if "messages" in request else request["completion"]
        with state.lock:
            before = state.questions[self.question]
            state.questions[self.question] += 1
            state.headers.append(dict(self.headers))
            state.requests.append(request)
        state.behave(self, before)

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def say(self, content: Any = ANSWER, **more: Any) -> None:
        """A right answer, with this as its content."""
        choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        body = json.dumps({"choices": [choice], "usage": usage, **more}).encode()
        with self.server.state.lock:
            self.server.state.answered[self.question] += 1
        self.reply(200, body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(behave: Behaviour) -> Iterator[Server]:
    """A server at a free port of this machine."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass

    http = Quiet(("127.0.0.1", 0), Handler)
    http.state = Server(behave)  # type: ignore[attr-defined]
    http.state.url = f"http://127.0.0.1:{http.server_address[1]}/v1"  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield http.state  # type: ignore[attr-defined]
    finally:
        http.state.stop.set()  # type: ignore[attr-defined]
        http.shutdown()
        http.server_close()
