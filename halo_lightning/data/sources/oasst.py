"""OpenAssistant (oasst1), as published: one row a message, and trees of messages by `parent_id`.

A row has `message_id`, `parent_id` (null for the root of a tree), `text`, `role` (`prompter` or `assistant`), `lang`
and `rank` (0 for the best of the replies to a message, null where nobody ranked them). In the files of trees a row has
`message_tree_id` and `prompt`, a message with its `replies`, each of them with theirs.

A pair is two replies that follow each other in the ranking, (0, 1), (1, 2), …; its prompt is the path from the root.
A demonstration is the best-ranked reply.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from typing import Any, NamedTuple

from halo_lightning.data.sources.bad_rows import BadRows
from halo_lightning.data.sources.config import OASST
from halo_lightning.data.sources.left_out import LeftOut
from halo_lightning.data.sources.rows import Row, UnusableRowError, describe, problem, require
from halo_lightning.errors import DataError

_MESSAGE = frozenset({"message_id", "text", "role", "lang"})
_TREE = frozenset({"message_tree_id", "tree_state", "prompt"})
_ROLES = {"prompter": "user", "assistant": "assistant"}


def is_oasst(keys: Set[str]) -> bool:
    """Whether a row with these keys is a message or a tree."""
    return keys >= _MESSAGE or keys >= _TREE


class _TreeError(DataError):
    """What is wrong with the way from a message to its root; it concerns all replies to the message."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(reason, key=key)
        self.reason = reason


class _Message(NamedTuple):
    identifier: str
    parent: str | None
    text: str
    role: str
    rank: int | None
    row: Row


def oasst_rows(
    rows: Iterable[Row], settings: OASST, *, demonstrations: bool, bad: BadRows, left_out: LeftOut
) -> Iterator[Row]:
    """Pairs, or demonstrations, from published messages; memory holds the messages of the languages that are wanted.

    Args:
        rows: The messages, in any order.
        settings: See `OASST`.
        demonstrations: Whether demonstrations are wanted instead of pairs.
        bad: What happens to a message that cannot be used.
        left_out: Counts the messages of other languages, and the replies that give nothing.
    """
    messages, known = _read(rows, settings, bad, left_out)
    replies: dict[str, list[_Message]] = {}
    for message in messages.values():
        if message.role == "assistant":
            replies.setdefault(message.parent or "", []).append(message)
    for siblings in replies.values():
        try:
            prompt = _path(siblings[0], messages, known)
        except UnusableRowError as error:
            for reply in siblings:
                left_out.add(error.reason, reply.row)
            continue
        except _TreeError as error:
            for reply in siblings:
                bad.refuse(problem(reply.row, error.key, error.reason), reply.row)
            continue
        yield from (_best if demonstrations else _neighbours)(siblings, prompt, left_out)


def _neighbours(siblings: list[_Message], prompt: list[dict[str, str]], left_out: LeftOut) -> Iterator[Row]:
    by_rank: dict[int, _Message] = {}
    for reply in siblings:
        if reply.rank is not None:
            by_rank.setdefault(reply.rank, reply)
    used: set[str] = set()
    for rank, worse in sorted(by_rank.items()):
        if (better := by_rank.get(rank - 1)) is not None:
            used |= {better.identifier, worse.identifier}
            values = {"prompt": prompt, "chosen": better.text, "rejected": worse.text}
            yield worse.row._replace(values=values)
    for reply in siblings:
        if reply.identifier not in used:
            left_out.add("that are replies without a neighbour in the ranking", reply.row)


def _best(siblings: list[_Message], prompt: list[dict[str, str]], left_out: LeftOut) -> Iterator[Row]:
    ranked = sorted((reply for reply in siblings if reply.rank is not None), key=lambda reply: reply.rank or 0)
    for reply in siblings:
        if not ranked or reply is not ranked[0]:
            left_out.add("that are not the best-ranked reply to their prompt", reply.row)
    if ranked:
        yield ranked[0].row._replace(values={"prompt": prompt, "completion": ranked[0].text})


def _read(
    rows: Iterable[Row], settings: OASST, bad: BadRows, left_out: LeftOut
) -> tuple[dict[str, _Message], set[str]]:
    """The messages to use by their identifier, and the identifiers of all."""
    messages: dict[str, _Message] = {}
    known: set[str] = set()
    for row in _messages(rows):
        try:
            message = _message(row)
            if message.identifier in known:
                raise problem(
                    row, "message_id", f"found {describe(message.identifier)} a second time, expected each once"
                )
            known.add(message.identifier)
            language = _text(row, "lang")
            if settings.languages and language not in settings.languages:
                raise UnusableRowError(f"whose language is not {' or '.join(settings.languages)}", row)
            if row.values.get("deleted") is True:
                raise UnusableRowError("that are deleted messages", row)
            if not message.text.strip():
                raise UnusableRowError("with an empty text", row)
            messages[message.identifier] = message
        except UnusableRowError as error:
            left_out.add(error.reason, row)
        except DataError as error:
            bad.refuse(error, row)
    return messages, known


def _messages(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows of one message each; those of a tree have the place of the tree."""
    for row in rows:
        if not row.values.keys() >= _TREE:
            yield row
            continue
        waiting: list[tuple[Any, Any]] = [(None, row.values["prompt"])]
        while waiting:
            parent, message = waiting.pop(0)
            values = message if isinstance(message, dict) else {"found": message}
            yield row._replace(values={**values, "parent_id": parent})
            replies = values.get("replies") or []
            waiting += [(values.get("message_id"), reply) for reply in (replies if isinstance(replies, list) else [])]


def _message(row: Row) -> _Message:
    parent = row.values.get("parent_id")
    role, rank = _text(row, "role"), row.values.get("rank")
    if role not in _ROLES:
        raise problem(row, "role", f"found {describe(role)}, expected 'prompter' or 'assistant'")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, (int, float)) or rank not in range(10**6)):
        raise problem(row, "rank", f"found {describe(rank)}, expected a whole number from 0, or null")
    if parent is not None:
        parent = _text(row, "parent_id")
    elif role == "assistant":
        raise problem(row, "role", "found 'assistant' for a message that replies to none, expected 'prompter'")
    kept: Row = row._replace(values={"message_id": row.values.get("message_id"), "parent_id": parent, "role": role})
    return _Message(
        _text(row, "message_id"), parent, _text(row, "text"), role, None if rank is None else int(rank), kept
    )


def _path(reply: _Message, messages: dict[str, _Message], known: set[str]) -> list[dict[str, str]]:
    """The conversation from the root of the tree to the message that is replied to."""
    path: list[_Message] = []
    current, seen = reply, {reply.identifier}
    while current.parent is not None:
        parent = messages.get(current.parent)
        if parent is None:
            if current.parent in known:
                raise UnusableRowError("that reply to a message that is left out", reply.row)
            raise _TreeError("parent_id", f"found {describe(current.parent)}, expected the message_id of another row")
        if parent.identifier in seen:
            raise _TreeError("parent_id", f"found a circle through {describe(parent.identifier)}, expected a tree")
        if parent.role == current.role:
            raise _TreeError("role", f"found {current.role!r} in reply to {parent.role!r}, expected them to alternate")
        seen.add(parent.identifier)
        path.append(parent)
        current = parent
    return [{"role": _ROLES[message.role], "content": message.text} for message in reversed(path)]


def _text(row: Row, key: str) -> str:
    value: Any = require(row, key, "a text")
    if not isinstance(value, str):
        raise problem(row, key, f"found {describe(value)}, expected a text")
    return value
