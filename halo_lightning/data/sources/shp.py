"""Stanford Human Preferences (SHP), as published: two comments on a post, and which one had the higher score.

A row has `history` (the post), `human_ref_A` and `human_ref_B` (the comments), `labels` (1 where A is preferred, 0
where B is) and `score_ratio` (how many times the score of the other one the preferred one has). Its files are
`<subreddit>/train.json` and the like, JSON Lines in spite of their name.

The report's runs: pairs with a score ratio of at least 2, at most five of a post drawn at random, and the first
response as the target of supervised finetuning, since which one is best is not known.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from typing import Any

from halo_lightning.data.sources.columns import as_number
from halo_lightning.data.sources.config import SHP
from halo_lightning.data.sources.rows import Row, UnusableRowError, describe, problem, require

COLUMNS = frozenset({"history", "human_ref_A", "human_ref_B", "labels", "score_ratio"})


def shp_pair(row: Row, settings: SHP) -> Row:
    """A published row as a pair.

    Raises:
        DataError: It is not of the published format.
        UnusableRowError: The rules of `settings` leave it out.
    """
    post, comment_a, comment_b = (_text(row, key) for key in ("history", "human_ref_A", "human_ref_B"))
    label = require(row, "labels", "1 (A is preferred) or 0 (B is preferred)")
    if row.kind == "text" and label in ("0", "1"):
        label = int(label)
    if isinstance(label, bool) or label not in (0, 1):
        raise problem(row, "labels", f"found {describe(label)}, expected 1 (A is preferred) or 0 (B is preferred)")
    ratio = as_number(row, "score_ratio", require(row, "score_ratio", "a number"))
    if ratio < settings.min_score_ratio:
        raise UnusableRowError(f"whose score ratio is below {settings.min_score_ratio:g}", row)
    if not (post.strip() and comment_a.strip() and comment_b.strip()):
        raise UnusableRowError("with an empty post or comment", row)
    chosen, rejected = (comment_a, comment_b) if label == 1 else (comment_b, comment_a)
    prompt = [{"role": "user", "content": post}]
    return row._replace(values={"prompt": prompt, "chosen": chosen, "rejected": rejected, "first": comment_a})


def drawn_pairs(pairs: Iterable[Row], most: int, seed: int) -> set[tuple[str, int]]:
    """Which pairs are used where a post has more than `most`: drawn at random, the same ones for the same seed.

    Memory holds `most` numbers a post.
    """
    drawn: dict[bytes, list[tuple[int, str, int]]] = {}
    for number, pair in enumerate(pairs):
        post = _post(pair)
        lot = hashlib.blake2b(f"{seed}\n{number}\n".encode() + post, digest_size=8).digest()
        lots = drawn.setdefault(post, [])
        entry = (int.from_bytes(lot, "big"), pair.file, int(pair.line))
        if len(lots) < most:
            heapq.heappush(lots, entry)
        else:
            heapq.heappushpop(lots, entry)
    return {(file, line) for lots in drawn.values() for _, file, line in lots}


def first_response(pair: Row, posts: set[bytes]) -> Row:
    """The demonstration that a pair gives: the first response to its post.

    Args:
        pair: The pair.
        posts: The posts that have theirs already; this one is added.

    Raises:
        UnusableRowError: The post has one already.
    """
    post = _post(pair)
    if post in posts:
        raise UnusableRowError("whose post has its demonstration already", pair)
    posts.add(post)
    return pair._replace(values={"prompt": pair.values["prompt"], "completion": pair.values["first"]})


def _post(pair: Row) -> bytes:
    return hashlib.blake2b(pair.values["prompt"][0]["content"].encode(), digest_size=8).digest()


def _text(row: Row, key: str) -> str:
    value: Any = require(row, key, "a text")
    if not isinstance(value, str):
        raise problem(row, key, f"found {describe(value)}, expected a text")
    return value
