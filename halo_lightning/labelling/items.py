"""The completions of a source, each known by its content: what has been scored once is known again anywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from halo_lightning.data.conversations import Conversation
from halo_lightning.data.feedback import parse_demonstration
from halo_lightning.data.kinds import sniff
from halo_lightning.data.sources import BadRows, Row, Source, read_rows
from halo_lightning.data.sources.columns import named
from halo_lightning.data.sources.rows import problem
from halo_lightning.errors import DataError


class Item(NamedTuple):
    """A prompt with a completion.

    Attributes:
        key: Identifies both of them by their content.
        prompt: The messages of the prompt.
        completion: The completion.
        written: The prompt as it is written in the row, a text or a list of messages.
        row: Where it came from.
    """

    key: str
    prompt: Conversation
    completion: str
    written: Any
    row: Row


def read_items(source: Source, bad: BadRows) -> Iterator[Item]:
    """The completions of a source, in its order.

    Args:
        source: Rows with `prompt` and `completion`, or with `messages`.
        bad: What happens to a row that is none.
    """
    for raw in read_rows(source, bad):
        row = raw
        try:
            row = named(raw, source.columns)
            item = _item(row)
        except DataError as error:
            bad.refuse(error, row)
        else:
            yield item


def _item(row: Row) -> Item:
    example = parse_demonstration(row)
    kind = sniff({**row.values, "label": True})
    if kind != "unary" and example.prompt:
        named_keys = "chosen and rejected" if kind == "paired" else "completions"
        raise problem(
            row, None, f"found {named_keys} beside the completion, expected prompt and completion without them"
        )
    if not example.prompt or not isinstance(example.completion, str):
        found = "a call of tools as the completion" if example.prompt else "a text without a prompt"
        raise problem(row, None, f"found {found}, expected a prompt and a completion of text, which can be scored")
    content = json.dumps([[*message.items()] for message in example.prompt], default=str) + "\n" + example.completion
    key = hashlib.blake2b(content.encode("utf-8", errors="surrogatepass"), digest_size=16).hexdigest()
    whole = "messages" in row.values
    written = [dict(message) for message in example.prompt] if whole else row.values["prompt"]
    return Item(key, example.prompt, example.completion, written, row)
