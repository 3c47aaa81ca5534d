"""Conversations: strings and lists of messages, as users write them, turned into tuples of messages."""

from __future__ import annotations

import re
from typing import Any, TypedDict

from halo_lightning.data.sources import Row, describe
from halo_lightning.errors import DataError

ROLES = ("system", "user", "assistant")

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"
_TURN = re.compile(r"\n\n(Human|Assistant):")


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


Conversation = tuple[Message, ...]


def problem(row: Row, key: str | None, message: str) -> DataError:
    """An error about one key of a row."""
    return DataError(message, file=row.file, line=row.line, key=key)


def parse_dialogue(text: str) -> Conversation:
    r"""The turns of a text in Anthropic's form, which starts with `\n\nHuman:` or `\n\nAssistant:`.

    One space after the colon belongs to the form, everything else to the turn. Two turns of the same role in a row
    stay two turns.
    """
    parts = _TURN.split(text)
    roles = {"Human": "user", "Assistant": "assistant"}
    return tuple(
        Message(role=roles[name], content=content.removeprefix(" "))
        for name, content in zip(parts[1::2], parts[2::2], strict=True)
    )


def parse_messages(row: Row, key: str, value: Any) -> Conversation:
    """A list of `{"role", "content"}` messages, checked."""
    if not isinstance(value, list):
        raise problem(row, key, f"found {describe(value)}, expected a string or a list of messages")
    if not value:
        raise problem(row, key, "found an empty list, expected at least one message")
    messages = []
    for number, message in enumerate(value, start=1):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise problem(
                row,
                key,
                f"found {describe(message)} as message {number},"
                ' expected an object such as {"role": "user", "content": "…"}',
            )
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise problem(
                row,
                key,
                f"found {describe(role)} as the role of message {number}, expected one of {', '.join(ROLES)}",
            )
        if not isinstance(content, str):
            raise problem(row, key, f"found {describe(content)} as the content of message {number}, expected a string")
        messages.append(Message(role=role, content=content))
    return tuple(messages)


def parse_prompt(row: Row, key: str = "prompt") -> Conversation:
    r"""The prompt of a row.

    A string is one message of the user, unless it starts with `\n\nHuman:`: then it is the turns of a dialogue, and a
    `\n\nAssistant:` without text at its end only says whose turn comes next.
    """
    value = row.values.get(key)
    if isinstance(value, str):
        if value.startswith(HUMAN):
            messages = parse_dialogue(value)
            if messages[-1]["role"] == "assistant" and not messages[-1]["content"].strip():
                messages = messages[:-1]
        else:
            messages = (Message(role="user", content=value),)
    else:
        messages = parse_messages(row, key, require(row, key, "a string or a list of messages"))
    return check_prompt(row, key, messages)


def check_prompt(row: Row, key: str, messages: Conversation) -> Conversation:
    """The prompt itself, if there is something in it to answer."""
    if not any(message["content"].strip() for message in messages):
        raise problem(row, key, "found an empty prompt, expected text or messages that the completion answers")
    return messages


def parse_completion(row: Row, key: str, prompt: Conversation) -> str:
    """A completion: a string, or a list with one message of the assistant.

    A list may also repeat the prompt in front of that message (as UltraFeedback's rows do). After a prompt in
    Anthropic's form one space in front of a string belongs to the form.
    """
    value = require(row, key, "a string or a list of one assistant message")
    if isinstance(value, list):
        messages = parse_messages(row, key, value)
        if len(messages) > 1 and messages[:-1] == prompt:
            messages = messages[-1:]
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            roles = ", ".join(message["role"] for message in messages)
            raise problem(
                row,
                key,
                f"found {len(messages)} message(s) ({roles}), expected one message of the assistant, alone or after"
                " the messages of the prompt",
            )
        value = messages[0]["content"]
    if not isinstance(value, str):
        raise problem(row, key, f"found {describe(value)}, expected a string or a list of one assistant message")
    if not value.strip():
        raise problem(row, key, "found an empty completion, expected text")
    in_form = isinstance(row.values[key], str) and str(row.values.get("prompt")).startswith(HUMAN)
    return value.removeprefix(" ") if in_form else value


def require(row: Row, key: str, expected: str) -> Any:
    """The value of a key that has to be there."""
    if key not in row.values:
        found = ", ".join(map(repr, row.values)) or "no keys"
        raise problem(row, key, f"this key is missing (found {found}), expected {expected}")
    return row.values[key]
