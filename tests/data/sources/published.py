"""Rows and files of exactly the published formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from tests.data.helpers import write_rows


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def shp_row(post: str, a: str, b: str, *, labels: int = 1, ratio: float = 2.0, **more: Any) -> dict[str, Any]:
    return {
        "post_id": f"id of {post}",
        "domain": "askculinary_train",
        "upvote_ratio": 0.98,
        "history": post,
        "c_root_id_A": "hi5gk3a",
        "c_root_id_B": "hi5q8zq",
        "created_at_utc_A": 1635531000,
        "created_at_utc_B": 1635535000,
        "score_A": 340,
        "score_B": 166,
        "human_ref_A": a,
        "human_ref_B": b,
        "labels": labels,
        "seconds_difference": 3991.0,
        "score_ratio": ratio,
        **more,
    }


def write_shp(folder: Path, rows: list[dict[str, Any]]) -> str:
    """As published: a folder for each subreddit, JSON Lines in files that end in .json."""
    (folder / "askculinary").mkdir(exist_ok=True)
    for split in ("train", "validation", "test"):
        write_rows(folder / "askculinary" / f"{split}.json", rows if split == "train" else rows[:1])
    return str(folder)


def message(identifier: str, parent: str | None, text: str, rank: int | None = None, **more: Any) -> dict[str, Any]:
    """A row as published; the role follows from the identifier."""
    return {
        "message_id": identifier,
        "parent_id": parent,
        "user_id": "2c96e467-66f0-4be7-9693-bda51356a424",
        "created_date": "2023-02-06T18:48:49.391686+00:00",
        "text": text,
        "role": "assistant" if identifier.startswith("a") else "prompter",
        "lang": "en",
        "review_count": 3,
        "review_result": True,
        "deleted": False,
        "rank": rank,
        "synthetic": False,
        "model_name": None,
        "detoxify": {"toxicity": 0.01, "severe_toxicity": 0.0},
        "message_tree_id": "p1",
        "tree_state": "ready_for_export",
        "emojis": {"name": ["+1"], "count": [3]},
        "labels": {"name": ["spam"], "value": [0.0], "count": [3]},
        **more,
    }


TREE = [
    message("p1", None, "Hi"),
    message("a1", "p1", "good", 0),
    message("p2", "a1", "More?", 1),
    message("a2", "p2", "second", 1),
    message("a3", "p2", "third", 2),
    message("a4", "p2", "first", 0),
    message("a5", "p2", "nobody ranked it"),
    message("a6", "p1", "bad", 1),
    message("a7", "p1", "schlecht", 2, lang="de"),
    message("p3", None, "Hallo", lang="de"),
    message("a8", "p3", "gut", 0, lang="de"),
    message("a9", "p3", "böse", 1, lang="de"),
]


def write_oasst(folder: Path, rows: list[dict[str, Any]]) -> str:
    """As published: Parquet files with their split in the name."""
    (folder / "data").mkdir(exist_ok=True)
    for split in ("train", "validation"):
        table = pa.Table.from_pylist(rows if split == "train" else rows[:2])
        pa.parquet.write_table(table, folder / "data" / f"{split}-00000-of-00001-b42a775f407cee45.parquet")
    return str(folder)


def ultrafeedback(*scores: Any, **more: Any) -> dict[str, Any]:
    return {
        "source": "evol_instruct",
        "instruction": "Hi",
        "models": ["alpaca-7b", "bard"],
        "completions": [
            {
                "model": "bard",
                "custom_system_prompt": "…",
                "response": f"answer {number}",
                "overall_score": score,
                "fine-grained_score": 4.0,
                "critique": "…",
                "annotations": {"helpfulness": {"Rating": str(number), "Rationale": "…"}},
            }
            for number, score in enumerate(scores)
        ],
        "correct_answers": ["None"],
        **more,
    }


BINARIZED = {
    "prompt": "Hi",
    "prompt_id": "f0e37e9f7800261167ce91143f98f511f768847236f133f2d0aed60b444ebe57",
    "chosen": [user("Hi"), assistant("Yes")],
    "rejected": [user("Hi"), assistant("No")],
    "messages": [user("Hi"), assistant("Yes")],
    "score_chosen": 8.0,
    "score_rejected": 6.5,
}
