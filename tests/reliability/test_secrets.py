"""The keys of endpoints are in no file and in no message of a run, whatever the endpoints answer."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from halo_lightning.cli import main
from halo_lightning.evaluation.records import read_records
from tests.conftest import REPOSITORY
from tests.evaluation.judge_server import KEY, Handler, serving

OTHER_KEY = "sk-another-secret-9876543210"
FIT = [
    "fit",
    f"--config={REPOSITORY / 'configs' / 'tiny_kto.yaml'}",
    "--model.policy=embedded:small",
    "--data.init_args.train=embedded:thumbs?examples=100",
    "--trainer.max_steps=2",
    "--trainer.limit_val_batches=1",
    "--run_dir=run",
]
JUDGE = ["judge", "--generations=run/generations.jsonl", "--judge=ApiJudge", "--judge.model=m", "--judge.backoff=0.001"]


def echoed(handler: Handler) -> str:
    """What the client sent in secret, in the words of a careless server."""
    return f"Authorization: {handler.headers['Authorization']} in "


def judges(handler: Handler, before: int) -> None:
    if before == 0 and handler.server.state.questions.total() % 2:
        handler.reply(503, echoed(handler).encode())
    else:
        handler.say(echoed(handler) + '{"overall": "A"}', model=echoed(handler), id=echoed(handler))


def scores(handler: Handler, before: int) -> None:
    length = len(handler.question)
    if length % 3:
        handler.reply(200, json.dumps({"score": length, "note": echoed(handler)}).encode())
    else:
        handler.reply(400, echoed(handler).encode())


def leaks(folder: Path, printed: str) -> list[str]:
    """Files of a folder, at any depth and hidden ones, that have a key in them or in their names."""
    found = []
    for key in (KEY, OTHER_KEY):
        found += ["what was printed"] * (key in printed)
        for path in sorted(folder.rglob("*")):
            if key in str(path) or (path.is_file() and key.encode() in path.read_bytes()):
                found.append(str(path.relative_to(folder)))
    return found


def test_keys_are_in_no_file_and_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # with the caches below it
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("SCORER_KEY", OTHER_KEY)
    assert main(FIT) == 0
    assert main(["export", "--checkpoint=run/checkpoints/last.ckpt", "--out=exported"]) == 0
    generate = ["--prompts=embedded:held_out?examples=12", "--max_new_tokens=6", "--out=run/generations.jsonl"]
    assert main(["generate", "--policy=exported", *generate]) == 0
    with serving(judges) as server:
        assert main([*JUDGE, f"--judge.base_url={server.url}", "--out=run/verdicts.jsonl"]) == 0
    with serving(lambda handler, before: handler.reply(400, echoed(handler).encode())) as failing:
        assert main([*JUDGE, f"--judge.base_url={failing.url}", "--out=run/failed.jsonl", "--judge.failures=3"]) == 2
    assert main([*JUDGE, f"--judge.options={{user: {KEY}}}", "--out=run/refused.jsonl"]) == 2
    rows = [json.dumps({"prompt": "Question", "completion": "x" * (n + 1)}) for n in range(12)]
    Path("rows.jsonl").write_text("\n".join(rows))
    label = ["label", "--data=rows.jsonl", "--threshold=5", "--backoff=0.001", "--on_bad_row=skip"]
    with serving(scores) as server:
        assert main([*label, f"--scorer={server.url}", "--out=run/labelled.jsonl"]) == 0
    printed = "".join(capfd.readouterr())
    assert not leaks(tmp_path, printed)
    # The keys were sent, the answers with them in were kept, and everything that is searched was written.
    assert server.headers[0]["Authorization"] == f"Bearer {OTHER_KEY}"
    assert failing.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert {record["reply"] for record in read_records(Path("run/verdicts.jsonl"))} == {
        'Authorization: Bearer [key] in {"overall": "A"}'
    }
    assert "Authorization: Bearer [key] in" in printed
    assert "Authorization: Bearer [key] in" in Path("run/labelled.bad_rows.jsonl").read_text()
    assert list(tmp_path.glob("run/tensorboard/*/*tfevents*"))
    assert list(tmp_path.glob("run/checkpoints/*.ckpt"))
    assert any(path.is_file() for path in Path(os.environ["HALO_LIGHTNING_CACHE"]).rglob("*"))
