r"""Feedback: rows parsed into examples, converted where that is possible, and counted where they cannot be used.

| feedback | keys of a row |
|---|---|
| unary | `prompt`, `completion` (or `messages`), `label` (true: desirable); optional `weight` |
| paired | `prompt`, `chosen`, `rejected`; optional `weight` |
| sft | `prompt`, `completion`, or `messages`, or `text`; optional `weight` |

`prompt`, and what is said in reply, is a string or a list of `{"role", "content"}` messages. Two forms of pairs have
no `prompt`: TRL's (`chosen` and `rejected` are whole conversations as lists of messages), and Anthropic's HH files as
published (both are whole dialogues as strings that start with `\n\nHuman:`). The prompt is then everything up to the
last turn of the assistant. A third one is TRL's with plain texts: see `with_prompt`. `tools`, a list of objects, and
`chat_template_kwargs`, an object, are for the chat template. Other keys are ignored.

`text` alone is learned as it is written, without a chat template: its prompt is empty.

A `label` is a boolean. 0 and 1 are refused on purpose: a rating from 0 to 5 or a class number would pass for thumbs as
long as it happens to be 0 or 1. What else a label may be, a source has to say: see `sources.config.Label`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

from halo_lightning.data.conversations import (
    HUMAN,
    Completion,
    Conversation,
    Message,
    as_message,
    check_order,
    check_prompt,
    completion_of,
    parse_completion,
    parse_dialogue,
    parse_messages,
    parse_prompt,
    parse_template_options,
    parse_tools,
)
from halo_lightning.data.sources.config import KeepPrompt
from halo_lightning.data.sources.rows import Row, describe, found_keys, problem, require
from halo_lightning.data.sources.rows import UnusableRowError as UnusableRowError

Feedback = Literal["sft", "paired", "unary"]
Tools = tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Unary:
    """A completion that is known to be desirable or undesirable.

    All three kinds of examples have `tools`, what the chat template is told of, `template_options`, what else it is
    given by name, and `keep_prompt`, the part of the prompt that stays where it has to be cut.
    """

    prompt: Conversation
    completion: Completion
    desirable: bool
    weight: float
    file: str
    line: int
    tools: Tools | None = None
    template_options: dict[str, Any] | None = None
    keep_prompt: KeepPrompt = "end"


@dataclass(frozen=True)
class Paired:
    """Two completions of a prompt, the first preferred to the second."""

    prompt: Conversation
    chosen: Completion
    rejected: Completion
    weight: float
    file: str
    line: int
    tools: Tools | None = None
    template_options: dict[str, Any] | None = None
    keep_prompt: KeepPrompt = "end"


@dataclass(frozen=True)
class Demonstration:
    """A completion to imitate; with an empty prompt a text, which is learned as it is."""

    prompt: Conversation
    completion: Completion
    weight: float
    file: str
    line: int
    tools: Tools | None = None
    template_options: dict[str, Any] | None = None
    keep_prompt: KeepPrompt = "end"


Example = Unary | Paired | Demonstration


def known_by(example: Example) -> Conversation:
    """What examples that belong together have in common: the prompt, and of a text that has none the text itself."""
    return example.prompt or tuple(map(as_message, completions_of(example)))


def completions_of(example: Example) -> tuple[Completion, ...]:
    """The completions of an example: two of a pair, the chosen one first; one of any other."""
    return (example.chosen, example.rejected) if isinstance(example, Paired) else (example.completion,)


def parse_unary(row: Row) -> Unary:
    """Unary feedback from a row with `prompt` and `completion`, or `messages`, and `label`."""
    if "messages" in row.values and "completion" not in row.values:
        prompt, completion = _whole_conversation(row)
    else:
        prompt = parse_prompt(row)
        completion = parse_completion(row, "completion", prompt)
    label = require(row, "label", "true or false")
    if not isinstance(label, bool):
        hint = "; that 1 and 0 are meant, its source has to say (label.numbers)" if label in (0, 1, "0", "1") else ""
        raise problem(row, "label", f"found {describe(label)}, expected true (desirable) or false (undesirable){hint}")
    return Unary(prompt, completion, label, *_about(row))


def parse_paired(row: Row) -> Paired:
    """A pair from a row with `chosen`, `rejected` and, unless both are whole dialogues, `prompt`."""
    if "prompt" in row.values:
        prompt = parse_prompt(row)
        chosen, rejected = (parse_completion(row, key, prompt) for key in ("chosen", "rejected"))
    else:
        sides = [require(row, key, "a string or a list of messages") for key in ("chosen", "rejected")]
        if all(isinstance(side, str) and side.startswith(HUMAN) for side in sides):
            prompt, chosen, rejected = _dialogues(row)
        elif all(isinstance(side, list) for side in sides):
            prompt, chosen, rejected = _implicit_prompt(row)
        else:
            raise problem(
                row,
                "prompt",
                f"this key is missing (found {found_keys(row)}), expected a string or a list of messages (it may be"
                " absent only where chosen and rejected are both whole conversations: lists of messages, or texts that"
                " start with"
                f" {HUMAN!r})",
            )
    return Paired(prompt, chosen, rejected, *_about(row))


def has_implicit_prompt(row: Row) -> bool:
    """Whether a row is a pair of plain texts without a prompt."""
    sides = [row.values.get(key) for key in ("chosen", "rejected")]
    return "prompt" not in row.values and all(isinstance(s, str) and not s.startswith(HUMAN) for s in sides)


def with_prompt(row: Row) -> Row:
    """A pair of plain texts with what both begin with as its prompt, in whole words.

    Example:
        >>> with_prompt(Row({"chosen": "The sky is blue.", "rejected": "The sky is green."}, "rows.jsonl", 1)).values
        {'chosen': ' blue.', 'rejected': ' green.', 'prompt': 'The sky is'}

    Raises:
        DataError: They begin with nothing in common.
    """
    chosen, rejected = row.values["chosen"], row.values["rejected"]
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    prompt = re.sub(r"\s*\S*\Z", "", chosen[:common])
    if not prompt.strip():
        raise problem(
            row,
            "prompt",
            f"this key is missing (found {found_keys(row)}), and chosen and rejected begin with no words in common;"
            " expected a string or a list of messages",
        )
    values = {"chosen": chosen[len(prompt) :], "rejected": rejected[len(prompt) :], "prompt": prompt}
    return row._replace(values={**row.values, **values})


def parse_demonstration(row: Row) -> Demonstration:
    """A demonstration from a row with `prompt` and `completion`, or with `messages`, or with `text` alone."""
    prompt: Conversation
    completion: Completion
    if "messages" in row.values:
        prompt, completion = _whole_conversation(row)
    elif is_text(row.values):
        prompt, completion = (), row.values["text"]
        if not isinstance(completion, str) or not completion.strip():
            raise problem(row, "text", f"found {describe(completion)}, expected text to learn from")
    else:
        prompt = parse_prompt(row)
        completion = parse_completion(row, "completion", prompt)
    return Demonstration(prompt, completion, *_about(row))


def is_text(values: dict[str, Any]) -> bool:
    """Whether a row is a text and nothing else that could be learned from."""
    return "text" in values and not values.keys() & {"messages", "prompt", "completion", "completions", "label"}


def _whole_conversation(row: Row) -> tuple[Conversation, Completion]:
    value = row.values["messages"]
    if isinstance(value, str) and value.startswith(HUMAN):
        prompt, last = _split(row, "messages", parse_dialogue(value))
        return prompt, completion_of(row, "messages", last)
    return _split_messages(row, "messages")


def _dialogues(row: Row) -> tuple[Conversation, str, str]:
    """Anthropic's HH as published: some of its rows are known to be unusable, and are counted, not refused."""
    prompt, chosen = _split(row, "chosen", parse_dialogue(row.values["chosen"]))
    other, rejected = _split(row, "rejected", parse_dialogue(row.values["rejected"]))
    if prompt != other:
        raise UnusableRowError("whose two dialogues have different prompts", row)
    if not (chosen["content"].strip() and rejected["content"].strip()):
        raise UnusableRowError("with an empty completion", row)
    return prompt, chosen["content"], rejected["content"]


def _implicit_prompt(row: Row) -> tuple[Conversation, Completion, Completion]:
    (prompt, chosen), (other, rejected) = (_split_messages(row, key) for key in ("chosen", "rejected"))
    if prompt != other:
        same = next((i for i, (a, b) in enumerate(zip(prompt, other)) if a != b), min(len(prompt), len(other)))  # noqa: B905
        raise problem(
            row,
            "rejected",
            f"found two conversations with different prompts (message {same + 1} differs), expected everything before"
            " the last message to be the same in chosen and rejected",
        )
    return prompt, chosen, rejected


def _split(row: Row, key: str, messages: Conversation) -> tuple[Conversation, Message]:
    """Prompt and last turn of a whole conversation, whose last turn has to be the assistant's."""
    if messages[-1]["role"] != "assistant":
        raise problem(
            row,
            key,
            f"found a last turn of the {messages[-1]['role']}, expected the conversation to end with one of the"
            " assistant",
        )
    if len(messages) < 2:
        raise problem(row, key, "found nothing before the last turn of the assistant, expected a prompt")
    return check_prompt(row, key, messages[:-1]), messages[-1]


def _split_messages(row: Row, key: str) -> tuple[Conversation, Completion]:
    messages = parse_messages(row, key, row.values[key])
    prompt, last = _split(row, key, messages)
    check_order(row, key, messages)
    return prompt, completion_of(row, key, last)


def _about(row: Row) -> tuple[float, str, int, Tools | None, dict[str, Any] | None]:
    """What every kind of example has beside its conversation, in the order of its fields."""
    return _weight(row), row.file, row.line, parse_tools(row), parse_template_options(row)


def _weight(row: Row) -> float:
    value = row.values.get("weight", 1.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1e-30 <= value <= 1e30:
        raise problem(
            row, "weight", f"found {describe(value)}, expected a number above 0 (1e-30 to 1e30), or no such key"
        )
    return float(value)
