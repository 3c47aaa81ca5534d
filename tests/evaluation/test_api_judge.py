"""The judge behind an endpoint, against a real server on this machine that misbehaves in every way it can."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from email.utils import formatdate
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from halo_lightning.cli import main
from halo_lightning.errors import ConfigError
from halo_lightning.evaluation.judges import ApiJudge, Comparison, Verdict
from halo_lightning.evaluation.judges.http import MOST_BYTES, Retries, retry_after
from halo_lightning.evaluation.judges.wording import question
from halo_lightning.evaluation.records import open_records, read_records
from halo_lightning.evaluation.verdicts import cut_at_full_stop
from tests.conftest import REPOSITORY
from tests.evaluation.judge_server import ANSWER, KEY, Behaviour, Handler, serving

QUICK: dict[str, Any] = {"backoff": 0.001, "timeout": 5.0}
RIGHT = {"helpful": "first", "harmless": "tie", "concise": "second", "overall": "first"}


def comparisons(number: int) -> list[Comparison]:
    return [Comparison(str(n), [{"role": "user", "content": f"question {n}"}], "yes", "no") for n in range(number)]


def judged(judge: ApiJudge, number: int) -> tuple[dict[str, Verdict], str | None]:
    kept: dict[str, Verdict] = {}

    def keep(comparison: Comparison, verdict: Verdict) -> None:
        assert comparison.key not in kept
        kept[comparison.key] = verdict

    return kept, judge.judge(comparisons(number), keep)


def drop(handler: Handler) -> None:
    """Closes the connection in the middle of an answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def huge(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    try:
        for _ in range(2 * MOST_BYTES // 2**16):
            handler.wfile.write(b" " * 2**16)
    except OSError:
        pass


def drip(handler: Handler) -> None:
    """One byte now and then, so that no single wait is long."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    try:
        while not handler.server.state.stop.wait(0.02):
            handler.wfile.write(b" ")
            handler.wfile.flush()
    except OSError:
        pass


def cut_chunk(handler: Handler) -> None:
    """Announces more of a chunk than comes."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"ff\r\n" + b'{"choices": [')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def no_http(handler: Handler) -> None:
    handler.wfile.write(b"220 mail.example ESMTP\r\n\r\n")
    handler.close_connection = True


def bomb(handler: Handler) -> None:
    """Small as it is sent, and far too long when it is unpacked."""
    handler.reply(200, packed_spaces(), Content_Encoding="gzip", Connection="close")


@cache
def packed_spaces() -> bytes:
    return gzip.compress(b" " * 4 * MOST_BYTES, 1)


WRONG_FORMS = {
    "no choices": {"id": "1"},
    "an error with status 200": {"error": {"message": "overloaded", "code": 503}},
    "choices are null": {"choices": None},
    "choices are an object": {"choices": {"message": {"content": "{}"}}},
    "a choice that is null": {"choices": [None]},
    "a message that is a text": {"choices": [{"message": ANSWER}]},
    "a completion and no chat": {"choices": [{"text": ANSWER}]},
}

TROUBLES = {
    "too many requests": lambda handler: handler.reply(429, b"{}", Retry_After="0"),
    "too many, no hint": lambda handler: handler.reply(429, b"slow down"),
    "server error": lambda handler: handler.reply(500, b"<html>oops</html>"),
    "overloaded": lambda handler: handler.reply(503, b"", Retry_After="0.001"),
    "no JSON": lambda handler: handler.reply(200, b"nothing"),
    "half JSON": lambda handler: handler.reply(200, b'{"choices": [{"mess'),
    "not UTF-8": lambda handler: handler.reply(200, b'{"choices": "\xff\xfe'),
    "another form": lambda handler: handler.reply(200, b'{"choices": []}'),
    "a list": lambda handler: handler.reply(200, b"[1, 2]"),
    "deep": lambda handler: handler.reply(200, b"[" * 100_000),
    "empty": lambda handler: handler.reply(200, b""),
    **{
        name: lambda handler, form=form: handler.reply(200, json.dumps(form).encode())
        for name, form in WRONG_FORMS.items()
    },
    "damaged gzip": lambda handler: handler.reply(200, b"no gzip", Content_Encoding="gzip"),
    "bomb": bomb,
    "no HTTP": no_http,
    "dropped": drop,
    "dropped in a chunk": cut_chunk,
    "dropped at once": lambda handler: handler.connection.shutdown(socket.SHUT_RDWR),
    "huge": huge,
}


@pytest.mark.parametrize("name", TROUBLES)
def test_trouble_that_passes_is_outlived(name: str) -> None:
    def behave(handler: Handler, before: int) -> None:
        TROUBLES[name](handler) if before < 2 else handler.say()

    with serving(behave) as server:
        judge = ApiJudge("m", server.url, **QUICK)
        kept, problem = judged(judge, 3)
    assert problem is None
    assert {key: verdict.answers for key, verdict in kept.items()} == dict.fromkeys("012", RIGHT)
    assert set(server.questions.values()) == {3}
    assert judge.spent.requests == 9


@pytest.mark.parametrize("slow", [drip, lambda handler: handler.server.state.stop.wait(30)], ids=["drips", "silent"])
def test_slow_answers_are_given_up_in_time(slow: Any) -> None:
    def behave(handler: Handler, before: int) -> None:
        slow(handler) if before == 0 else handler.say()

    with serving(behave) as server:
        kept, problem = judged(ApiJudge("m", server.url, backoff=0.001, timeout=0.2), 2)
    assert problem is None
    assert len(kept) == 2
    assert set(server.questions.values()) == {2}


def test_slow_answers_that_come_in_time_are_waited_for() -> None:
    def behave(handler: Handler, before: int) -> None:
        handler.server.state.stop.wait(0.2)
        handler.say()

    with serving(behave) as server:
        kept, problem = judged(ApiJudge("m", server.url, **QUICK), 4)
    assert problem is None
    assert len(kept) == 4
    assert set(server.questions.values()) == {1}


def test_trouble_without_end_is_left_for_the_next_time() -> None:
    broken = [True]

    def behave(handler: Handler, before: int) -> None:
        handler.reply(500, b"") if broken[0] and "question 1\n" in handler.question else handler.say()

    with serving(behave) as server:
        judge = ApiJudge("m", server.url, attempts=3, **QUICK)
        kept, problem = judged(judge, 4)
        assert sorted(kept) == ["0", "2", "3"]
        assert problem is not None
        assert "1 comparisons have no verdict" in problem
        assert "status 500, after 3 attempts" in problem
        assert max(server.questions.values()) == 3


def test_it_stops_when_nothing_works() -> None:
    with serving(lambda handler, before: handler.reply(500, b"")) as server:
        judge = ApiJudge("m", server.url, attempts=2, failures=3, concurrency=1, **QUICK)
        kept, problem = judged(judge, 50)
    assert not kept
    assert problem is not None
    assert problem.startswith("50 comparisons have no verdict")
    assert judge.spent.requests == 6


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, f"Incorrect key provided: {KEY}", "the key is missing or not accepted"),
        (404, "no model m", "no model m"),
        (302, "", "status 302"),
        (429, '{"error": {"code": "insufficient_quota"}}', "insufficient_quota"),
    ],
)
def test_what_will_not_pass_stops_at_once(
    status: int, body: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def behave(handler: Handler, before: int) -> None:
        handler.reply(status, body.encode(), Location=f"{server.url}/elsewhere")

    with serving(behave) as server:
        judge = ApiJudge("m", server.url, concurrency=2, **QUICK)
        with pytest.raises(ConfigError, match=message) as error:
            judged(judge, 20)
    assert KEY not in str(error.value)
    assert judge.spent.requests <= 2


def test_a_request_that_is_refused_is_not_sent_again() -> None:
    def behave(handler: Handler, before: int) -> None:
        handler.reply(400, b"too long") if "question 0\n" in handler.question else handler.say()

    with serving(behave) as server:
        kept, problem = judged(ApiJudge("m", server.url, **QUICK), 3)
    assert sorted(kept) == ["1", "2"]
    assert problem is not None
    assert "status 400: too long" in problem
    assert set(server.questions.values()) == {1}


IN_SECONDS = {
    "seconds": str,
    "a date": lambda seconds: formatdate(time.time() + seconds, usegmt=True),
}


@pytest.mark.parametrize("form", IN_SECONDS)
def test_the_server_says_when_to_come_back(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(seconds: int) -> Behaviour:
        return lambda handler, before: (
            handler.say() if before else handler.reply(429, b"", Retry_After=IN_SECONDS[form](seconds))
        )

    with serving(busy(3600)) as server:
        with pytest.raises(ConfigError, match=r"asked again in (3600|359\d) s, which is more than longest_wait"):
            judged(ApiJudge("m", server.url, concurrency=1, **QUICK), 5)
        assert sum(server.questions.values()) == 1

    waited: list[float] = []
    monkeypatch.setattr("halo_lightning.evaluation.judges.http.time.monotonic", lambda: sum(waited))

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("halo_lightning.evaluation.judges.http.asyncio.sleep", sleep)
    with serving(busy(70)) as server:
        kept, _ = judged(ApiJudge("m", server.url, concurrency=1, backoff=1.0, timeout=30), 1)
    assert len(kept) == 1
    assert 60 <= sum(waited) <= 71


def test_when_to_come_back() -> None:
    assert retry_after({}) is None
    assert retry_after({"Retry-After": "12"}) == 12
    assert retry_after({"Retry-After": " 1.5 "}) == 1.5
    assert retry_after({"retry-after-ms": "250", "Retry-After": "9"}) == 0.25
    later = retry_after({"Retry-After": formatdate(2**33, usegmt=True)})
    assert later is not None
    assert later > 1e9
    assert retry_after({"Retry-After": "Mon, 01 Jan 2001 00:00:00 GMT"}) == 0
    assert retry_after({"Retry-After": "soon"}) is None


def test_waits_grow_and_are_not_all_the_same() -> None:
    dice, retries = random.Random(0), Retries(backoff=2.0, longest_wait=20.0)
    for attempt, whole in ((1, 2), (2, 4), (3, 8), (4, 16), (5, 20), (60, 20)):
        waits = [retries.wait(attempt, dice) for _ in range(200)]
        assert all(whole / 2 <= wait <= whole for wait in waits)
        assert max(waits) - min(waits) > whole / 4


def test_too_many_requests_for_long_use_up_no_attempts() -> None:
    with serving(lambda handler, n: handler.say() if n >= 10 else handler.reply(429, b"", Retry_After="0")) as server:
        kept, problem = judged(ApiJudge("m", server.url, attempts=2, **QUICK), 1)
        assert problem is None
        assert len(kept) == 1
    with serving(lambda handler, n: handler.reply(429, b"", Retry_After="0")) as server:
        kept, problem = judged(ApiJudge("m", server.url, attempts=2, **QUICK), 1)
        assert problem is not None
        assert sum(server.questions.values()) == 22


def test_no_more_requests_at_one_time_than_asked_for() -> None:
    now, most = [0], [0]

    def behave(handler: Handler, before: int) -> None:
        with server.lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        handler.server.state.stop.wait(0.02)
        with server.lock:
            now[0] -= 1
        handler.say()

    with serving(behave) as server:
        kept, _ = judged(ApiJudge("m", server.url, concurrency=3, **QUICK), 15)
    assert len(kept) == 15
    assert most[0] == 3


def test_what_cannot_be_read_is_kept_and_not_asked_again() -> None:
    said = [None, "A is better", '{"overall": "C"}', '{"overall": "A"} or {"overall": "B"}', ""]
    with serving(lambda handler, before: handler.say(said[int(handler.question.split("question ")[1][0])])) as server:
        kept, problem = judged(ApiJudge("m", server.url, **QUICK), 5)
    assert problem is None
    assert {verdict.answers["overall"] for verdict in kept.values()} == {"unparsable"}
    assert set(server.questions.values()) == {1}


PARTS = [{"type": "thinking", "thinking": "B?"}, *({"type": "text", "text": part} for part in (ANSWER[:9], ANSWER[9:]))]


def test_an_answer_in_parts_is_their_texts() -> None:
    with serving(lambda handler, before: handler.say(PARTS)) as server:
        kept, problem = judged(ApiJudge("m", server.url, **QUICK), 1)
    assert problem is None
    assert kept["0"].answers == RIGHT
    assert kept["0"].details["reply"] == ANSWER


NO_TEXTS: list[Any] = [[], [5], [{"type": "image", "text": ANSWER}], [{"type": "text", "text": {"overall": "A"}}]]


@pytest.mark.parametrize("content", ["\ud800", "\x00", 5, {"overall": "A"}, *NO_TEXTS])
def test_contents_that_are_no_answer(content: Any, tmp_path: Path) -> None:
    with serving(lambda handler, before: handler.say(content)) as server:
        kept, problem = judged(ApiJudge("m", server.url, **QUICK), 1)
    assert problem is None
    assert kept["0"].answers["overall"] == "unparsable"
    with open_records(tmp_path / "verdicts.jsonl", {}) as records:
        records.add([{"key": "0", **kept["0"].details}])
    assert len(read_records(tmp_path / "verdicts.jsonl")) == 1


@pytest.mark.parametrize("count", [None, "100", -5, True, 1.5, float("nan"), 10**400, [100]])
def test_counts_of_tokens_that_are_none(count: Any) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": 10}
    with serving(lambda handler, before: handler.say(usage=usage)) as server:
        judge = ApiJudge("m", server.url, price=(2.0, 8.0), **QUICK)
        kept, _ = judged(judge, 1)
    assert kept["0"].answers == RIGHT
    assert "prompt_tokens" not in kept["0"].details
    assert (judge.spent.prompt_tokens, judge.spent.completion_tokens) == (0, 10)


def test_the_request_and_what_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(lambda handler, before: handler.say(f"{KEY} " + '{"overall": "B"}')) as server:
        judge = ApiJudge("m", server.url + "/", "MY_KEY", options={"seed": 5}, price=(2.0, 8.0), **QUICK)
        kept, _ = judged(judge, 4)
    request = server.requests[0]
    assert (request["model"], request["seed"]) == ("m", 5)
    assert "temperature" not in request
    assert "question" in request["messages"][0]["content"]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert (judge.spent.requests, judge.spent.prompt_tokens, judge.spent.completion_tokens) == (4, 400, 40)
    assert judge.cost(400, 40) == pytest.approx((400 * 2 + 40 * 8) / 1e6)
    assert KEY not in json.dumps([verdict.details for verdict in kept.values()])  # though the server repeats it
    assert KEY not in json.dumps(judge.settings) + str(vars(judge))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"base_url": "ftp://here"}, "starts with http"),
        ({"base_url": f"http://me:{KEY}@here/v1"}, "a user, a password or a query"),
        ({"base_url": f"http://here/v1?key={KEY}"}, "a user, a password or a query"),
        ({"options": {"api_key": KEY}}, "the key itself is in the judge's settings"),
        ({"timeout": 0}, "timeout is 0"),
        ({"attempts": 0}, "attempts is 0"),
        ({"concurrency": 0}, "concurrency is 0"),
    ],
)
def test_settings_that_cannot_work(wrong: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ConfigError, match=message) as error:
        judged(ApiJudge("m", **wrong), 1)
    assert KEY not in str(error.value)


@pytest.fixture(scope="module")
def generations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generations") / "generations.jsonl"
    arguments = ["--policy=embedded:base", "--prompts=embedded:held_out?examples=30", "--max_new_tokens=4"]
    assert main(["generate", f"--out={out}", *arguments]) == 0
    return out


def command(generations: Path, out: Path, url: str) -> list[str]:
    options = ["--judge.model=m", f"--judge.base_url={url}", "--judge.backoff=0.01", "--judge.concurrency=4"]
    return ["judge", f"--generations={generations}", f"--out={out}", "--judge=ApiJudge", *options]


def seen_by_the_judge(generations: Path, verdicts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The prompt and both completions of verdicts, in the order in which they were shown."""
    rows = {row["id"]: row for row in read_records(generations)}
    shown = []
    for verdict in verdicts:
        row = rows[verdict["id"]]
        texts = [cut_at_full_stop(row["completion"]), row["chosen"]]
        first, second = texts if verdict["model_first"] else texts[::-1]
        shown.append({"prompt": row["prompt"], "first": first, "second": second})
    return shown


def test_killed_and_resumed_nothing_is_paid_for_twice(
    generations: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The server kills the client when it has answered twelve times, while other answers are on their way."""
    out, count, process = tmp_path / "verdicts.jsonl", [0], []

    def behave(handler: Handler, before: int) -> None:
        with server.lock:
            count[0] += 1
            number = count[0]
        if number == 17 and len(process) == 1:
            os.kill(process[0].pid, signal.SIGKILL)
        trouble = list(TROUBLES.values())[number % len(TROUBLES)]
        trouble(handler) if before == 0 and number % 3 == 0 else handler.say()

    environment = {**os.environ, "OPENAI_API_KEY": KEY}
    with serving(behave) as server:
        arguments = [sys.executable, "cli.py", *command(generations, out, server.url)]
        process.append(subprocess.Popen(arguments, cwd=REPOSITORY, env=environment))
        assert process[0].wait(120) == -signal.SIGKILL
        kept = read_records(out)
        assert 0 < len(kept) < 30
        process.append(process[0])  # it kills once
        assert subprocess.run(arguments, cwd=REPOSITORY, env=environment, timeout=120).returncode == 0
    records = read_records(out)
    assert records[: len(kept)] == kept
    assert len({record["key"] for record in records}) == len(records) == 30
    # What had arrived is not asked for again; what was on its way when the process was killed is, four at most.
    asked = {question(Comparison("", **shown)) for shown in seen_by_the_judge(generations, kept)}
    assert {server.answered[text] for text in asked} == {1}
    assert sum(server.answered.values()) - 30 <= 4
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    captured = capfd.readouterr()
    assert KEY.encode() not in written
    assert KEY not in captured.out + captured.err
    assert "30 comparisons" in captured.out
    assert "3,000 tokens asked, 300 answered" in captured.out


def test_a_failing_endpoint_is_an_error_of_the_command(
    generations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    out = tmp_path / "verdicts.jsonl"
    with serving(lambda handler, before: handler.reply(401, KEY.encode())) as server:
        assert main(command(generations, out, server.url)) == 2
    captured = capsys.readouterr()
    assert "the key is missing or not accepted) (key in OPENAI_API_KEY: set)" in captured.err
    assert KEY not in captured.out + captured.err
    with open_records(out, json.loads(out.with_suffix(".settings.json").read_text())["settings"]) as records:
        assert records.found == []


def shown(handler: Handler) -> tuple[str, str]:
    """Both answers of a question."""
    first, second = (
        handler.question.split(f"<response_{name}>\n")[1].split(f"\n</response_{name}>")[0] for name in "ab"
    )
    return first, second


def test_a_judge_that_prefers_a_place_is_found_out(
    generations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "verdicts.jsonl"
    with serving(lambda handler, before: handler.say('{"overall": "A"}')) as server:
        arguments = [*command(generations, out, server.url), "--order=both", "--judge.price=[2, 8]"]
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert sum(server.questions.values()) == 60
        assert main(arguments) == 0
        assert sum(server.questions.values()) == 60
    assert "0 wins, 0 losses, 30 ties" in printed
    assert "the completion shown first wins 60 of 60 verdicts (p = 1.7e-18 if it does not matter)" in printed
    assert "30 of 30 prompts have opposite verdicts in the two orders, and count as ties" in printed
    assert "6,000 tokens asked, 600 answered, $0.02 for these verdicts; 60 requests this time" in printed
    assert "$0.02 for these verdicts; 0 requests this time" in capsys.readouterr().out


def test_a_judge_that_looks_at_the_answers_says_the_same_in_both_orders(
    generations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The longer answer wins; of each prompt whose answers are equally long nothing can be read."""

    def behave(handler: Handler, before: int) -> None:
        first, second = (len(text) for text in shown(handler))
        handler.say("neither" if first == second else json.dumps({"overall": "A" if first > second else "B"}))

    out = tmp_path / "verdicts.jsonl"
    with serving(behave) as server:
        assert main([*command(generations, out, server.url), "--order=both"]) == 0
    printed = capsys.readouterr().out
    lengths = [(record["characters"], record["other_characters"]) for record in read_records(out)]
    wins, losses = (sum(sign * (own - other) > 0 for own, other in lengths) // 2 for sign in (1, -1))
    unread = 60 - 2 * (wins + losses)
    assert losses > wins > 0 or wins > losses > 0
    assert f"{wins} wins, {losses} losses, 0 ties" + f", {unread} unparsable" * bool(unread) in printed
    assert f"the completion shown first wins {wins + losses} of {2 * (wins + losses)} verdicts (p = 1 if" in printed
    assert "0 of 30 prompts have opposite verdicts" in printed


@pytest.mark.parametrize(
    "content",
    [7, None, ["A"], {"overall": "A"}, '{"overall": 1}', '{"overall": "A", "overall": "B"}', "x" * 100_000],
    ids=lambda content: str(content)[:20],
)
def test_a_judge_none_of_whose_answers_can_be_read(
    content: Any, generations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "verdicts.jsonl"
    with serving(lambda handler, before: handler.say(content)) as server:
        arguments = command(generations, out, server.url)
        assert main(arguments) == 2
        assert main(arguments) == 2  # which asks for nothing again
        assert sum(server.questions.values()) == 30
    captured = capsys.readouterr()
    assert (
        "overall   nothing was decided: 0 wins, 0 losses, 0 ties, 30 unparsable (100% of the answers)" in captured.out
    )
    assert "nan" not in captured.out
    assert f"{out}: none of 30 answers could be read (the last one ends with" in captured.err
    assert out.stat().st_size < 30 * 25_000


def test_some_answers_that_cannot_be_read_are_counted(
    generations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def behave(handler: Handler, before: int) -> None:
        handler.say('{"overall": "A"}' if handler.server.state.questions.total() % 3 else b"\xff".decode("latin-1"))

    with serving(behave) as server:
        one_at_a_time = "--judge.concurrency=1"
        assert main([*command(generations, tmp_path / "verdicts.jsonl", server.url), one_at_a_time]) == 0
    assert ", 10 unparsable (33% of the answers)" in capsys.readouterr().out
