"""Conversations: strings and lists of messages, as users write them, turned into tuples of messages."""

from __future__ import annotations

import json
import re
from typing import Any, Literal, TypedDict

from halo_lightning.data.sources.rows import Row, describe, excerpt, problem, require

ROLES = ("system", "developer", "user", "assistant", "tool")
_AFTER = {
    None: ("system", "developer", "user"),
    "system": ("developer", "user"),
    "developer": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant", "user"),
}
"""Which roles may follow each role; None stands for the start."""

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"
_WRITTEN_LIST = re.compile(r"""\s*\[\s*\{\s*["'](role|content|from|value)["']\s*:""")
_SHAREGPT = {"human": "user", "gpt": "assistant", "observation": "tool"}
_TURN = re.compile(r"\n\n(Human|Assistant):")


class _RoleAndContent(TypedDict):
    role: str
    content: str


class Message(_RoleAndContent, total=False):
    """One turn of a conversation. What belongs to tools and to thoughts goes to the chat template as it is."""

    tool_calls: list[Any]
    thinking: str
    reasoning: str
    reasoning_content: str
    tool_call_id: str
    name: str


Conversation = tuple[Message, ...]

Completion = str | Message
"""What is said in reply: a text, or the message of the assistant where there is more to it (tool calls, thoughts)."""

_THOUGHTS: tuple[Literal["thinking", "reasoning", "reasoning_content"], ...] = (
    "thinking",
    "reasoning",
    "reasoning_content",
)


def as_message(completion: Completion) -> Message:
    """A completion as the turn of the assistant that it is."""
    return Message(role="assistant", content=completion) if isinstance(completion, str) else completion


def text_of(completion: Completion) -> str:
    """The text of a completion; empty where it only calls tools."""
    return as_message(completion)["content"]


def completion_of(row: Row, key: str, message: Message) -> Completion:
    """The completion that a last message is.

    Raises:
        DataError: It has no text, and calls no tool by its name.
    """
    if "tool_calls" in message and not all(called_names(message)):
        raise problem(
            row,
            key,
            f"found {describe(message['tool_calls'])} as the tool_calls of the last message, expected objects such as"
            ' {"function": {"name": "…", "arguments": {…}}}',
        )
    if "tool_calls" not in message and not message["content"].strip():
        raise problem(row, key, "found an empty last message, expected text to learn from, or tool_calls")
    return message if message.keys() - {"role", "content"} else message["content"]


def called_names(message: Message) -> list[str]:
    """The names of the functions that a message calls; an empty one for a call that does not say it."""
    functions = [call.get("function", call) for call in message.get("tool_calls", [])]
    names = [function.get("name") if isinstance(function, dict) else None for function in functions]
    return [name if isinstance(name, str) else "" for name in names]


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
    refuse_written_list(row, key, value)
    if not isinstance(value, list):
        other = "" if key == "messages" else "a string or "
        raise problem(row, key, f"found {describe(value)}, expected {other}a list of messages")
    if not value:
        raise problem(row, key, "found an empty list, expected at least one message")
    return tuple(_parse_message(row, key, message, number) for number, message in enumerate(value, start=1))


def refuse_written_list(row: Row, key: str, value: Any) -> None:
    """Refuses a text that was once a list of messages: it would be learned as it is written, brackets and all.

    Raises:
        DataError: It is one.
    """
    if isinstance(value, str) and _WRITTEN_LIST.match(value):
        raise problem(
            row,
            key,
            f"found the text of a list of messages ({excerpt(value)}), expected the list itself (in CSV, in JSON as"
            " json.dumps writes it)",
        )


def _own_names(message: Any) -> Any:
    """A message of ShareGPT's form, `{"from": "human", "value": …}`, with the names that are used here."""
    if not isinstance(message, dict) or "role" in message or not {"from", "value"} <= message.keys():
        return message
    role = message["from"]
    return {"role": _SHAREGPT.get(role, role) if isinstance(role, str) else role, "content": message["value"]}


def _joined_parts(content: Any) -> Any:
    """Content that is a list of parts which are all text, as that text; anything else as it is."""
    texts = [
        part["text"]
        for part in (content if isinstance(content, list) else [])
        if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    ]
    return "".join(texts) if texts and len(texts) == len(content) else content


def _parse_message(row: Row, key: str, message: Any, number: int) -> Message:
    message = _own_names(message)
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    needed = {"role"} if calls else {"role", "content"}
    if not isinstance(message, dict) or not needed <= message.keys():
        raise problem(
            row,
            key,
            f"found {describe(message)} as message {number},"
            ' expected an object such as {"role": "user", "content": "…"}',
        )
    role, content = message["role"], _joined_parts(message.get("content"))
    if role not in ROLES:
        raise problem(
            row,
            key,
            f"found {describe(role)} as the role of message {number}, expected one of {', '.join(ROLES)}",
        )
    if calls and content is None:  # a turn that only calls tools says nothing
        content = ""
    if not isinstance(content, str):
        raise problem(
            row,
            key,
            f"found {describe(content)} as the content of message {number}, expected a string or parts of text",
        )
    parsed = Message(role=role, content=content)
    if calls:
        if role != "assistant" or not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            raise problem(
                row,
                key,
                f"found {describe(calls)} as the tool_calls of message {number} ({role}), expected a list of objects,"
                " in a message of the assistant",
            )
        parsed["tool_calls"] = calls
    for thoughts in _THOUGHTS if role == "assistant" else ():
        if message.get(thoughts) is not None:
            if not isinstance(message[thoughts], str):
                found = f"{describe(message[thoughts])} as the {thoughts} of message {number}"
                raise problem(row, key, f"found {found}, expected a string")
            parsed[thoughts] = message[thoughts]
    if role == "tool":
        for name in ("name", "tool_call_id"):
            if message.get(name) is not None:
                parsed[name] = message[name]
    return parsed


def check_order(row: Row, key: str, messages: Conversation) -> Conversation:
    """The messages themselves, if their roles take turns: system at most first, then user and assistant in turn.

    Messages of tools follow the assistant's. A text in Anthropic's form is not held to this.
    """
    previous = None
    for number, message in enumerate(messages, start=1):
        if message["role"] not in _AFTER[previous]:
            where = "first" if previous is None else f"after one of the {previous}"
            raise problem(
                row,
                key,
                f"found a message of the {message['role']} {where} (message {number} of {len(messages)}), expected one"
                f" of the {' or the '.join(_AFTER[previous])}",
            )
        previous = message["role"]
    return messages


def parse_tools(row: Row) -> tuple[dict[str, Any], ...] | None:
    """The tools that a row offers, for the chat template: a list of objects, or the JSON text of one."""
    value = row.values.get("tools")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise problem(row, "tools", f"found {describe(value)}, expected a list of objects, or its JSON") from error
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise problem(row, "tools", f"found {describe(value)}, expected a list of objects")
    return tuple(value) or None


TEMPLATE_OPTIONS = "chat_template_kwargs"
_SET_HERE = (
    "conversation", "messages", "documents", "tools", "chat_template", "add_generation_prompt",
    "continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "tokenizer_kwargs",
)  # fmt: skip
"""What a chat template is given by the code, so by no row."""


def parse_template_options(row: Row) -> dict[str, Any] | None:
    """What a row gives the chat template by name, such as `{"enable_thinking": false}`; None for nothing."""
    value = row.values.get(TEMPLATE_OPTIONS)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise problem(row, TEMPLATE_OPTIONS, f"found {describe(value)}, expected an object")
    for name in value:
        if name in _SET_HERE:
            raise problem(
                row,
                TEMPLATE_OPTIONS,
                f"found {name!r} in it, which is not for a row to set: expected what the template alone knows",
            )
    return value or None


def parse_prompt(row: Row, key: str = "prompt") -> Conversation:
    r"""The prompt of a row.

    A string is one message of the user, unless it starts with `\n\nHuman:`: then it is the turns of a dialogue, and a
    `\n\nAssistant:` without text at its end only says whose turn comes next.
    """
    value = row.values.get(key)
    if isinstance(value, str):
        refuse_written_list(row, key, value)
        if value.startswith(HUMAN):
            messages = parse_dialogue(value)
            if messages[-1]["role"] == "assistant" and not messages[-1]["content"].strip():
                messages = messages[:-1]
        else:
            if value.startswith(HUMAN.lstrip()) and ASSISTANT in value:
                raise problem(
                    row,
                    key,
                    f"found a dialogue that starts with {excerpt(value, 20)}, expected one that starts with"
                    f" {HUMAN!r}, line ends included, or a list of messages",
                )
            messages = (Message(role="user", content=value),)
    else:
        messages = parse_messages(row, key, require(row, key, "a string or a list of messages"))
        check_prompt(row, key, check_order(row, key, messages))
        if messages[-1]["role"] not in ("user", "tool"):
            raise problem(
                row,
                key,
                f"found a last message of the {messages[-1]['role']}, expected one of the user (or a tool), which the"
                " completion answers",
            )
        return messages
    return check_prompt(row, key, messages)


def check_prompt(row: Row, key: str, messages: Conversation) -> Conversation:
    """The prompt itself, if there is something in it to answer."""
    if not any(message["content"].strip() for message in messages):
        raise problem(row, key, "found an empty prompt, expected text or messages that the completion answers")
    return messages


def parse_completion(row: Row, key: str, prompt: Conversation) -> Completion:
    """A completion: a string, or a list with one message of the assistant, which may call tools.

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
        return completion_of(row, key, messages[0])
    if not isinstance(value, str):
        raise problem(row, key, f"found {describe(value)}, expected a string or a list of one assistant message")
    refuse_written_list(row, key, value)
    if not value.strip():
        raise problem(row, key, "found an empty completion, expected text")
    return value.removeprefix(" ") if str(row.values.get("prompt")).startswith(HUMAN) else value
