"""Rows of every format, and what is wrong with the others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from halo_lightning.data.feedback import (
    Demonstration,
    Paired,
    Unary,
    UnusableRowError,
    known_by,
    parse_demonstration,
    parse_paired,
    parse_unary,
)
from halo_lightning.data.sources import Row
from halo_lightning.errors import DataError

HI = ({"role": "user", "content": "Hi"},)
THREE_TURNS = (
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
)
HH = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant:"


def system(content: str) -> dict[str, str]:
    return {"role": "system", "content": content}


def tool(content: str, **more: str) -> dict[str, str]:
    return {"role": "tool", "content": content, **more}


GOOD = {"prompt": "Hi", "completion": "Yes", "label": True}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}


def calls() -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [CALL]}


def row(**values: Any) -> Row:
    return Row(values, "rows.jsonl", 7)


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        pytest.param("Hi", HI, id="string"),
        pytest.param(" Hi\n", (user(" Hi\n"),), id="white space stays"),
        pytest.param([user("Hi")], HI, id="messages"),
        pytest.param([{**user("Hi"), "name": "Ann"}], HI, id="other keys of a message"),
        pytest.param(list(THREE_TURNS), THREE_TURNS, id="three turns"),
        pytest.param(
            [{"role": "system", "content": "Be kind."}, user("Hi")],
            ({"role": "system", "content": "Be kind."}, user("Hi")),
            id="system",
        ),
        pytest.param(HH, THREE_TURNS, id="Anthropic's form"),
        pytest.param(HH.removesuffix("\n\nAssistant:"), THREE_TURNS, id="Anthropic's form, no next turn"),
        pytest.param("Human: Hi", (user("Human: Hi"),), id="looks like it, is not"),
        pytest.param(
            [user("1 + 2?"), calls(), tool("3", name="add", tool_call_id="x")],
            (
                user("1 + 2?"),
                {"role": "assistant", "content": "", "tool_calls": [CALL]},
                tool("3", name="add", tool_call_id="x"),
            ),
            id="tools",
        ),
    ],
)
def test_prompts(prompt: Any, expected: Any) -> None:
    assert parse_unary(row(prompt=prompt, completion="Yes", label=True)).prompt == expected


def test_unary() -> None:
    parsed = parse_unary(row(prompt="Hi", completion="Yes", label=False, weight=2, extra=None))
    assert parsed == Unary(HI, "Yes", desirable=False, weight=2.0, file="rows.jsonl", line=7)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"prompt": "Hi", "chosen": "Yes", "rejected": "No"}, id="strings"),
        pytest.param({"prompt": [user("Hi")], "chosen": [assistant("Yes")], "rejected": [assistant("No")]}, id="TRL"),
        pytest.param(
            {"prompt": "Hi", "chosen": [user("Hi"), assistant("Yes")], "rejected": [user("Hi"), assistant("No")]},
            id="UltraFeedback",
        ),
        pytest.param(
            {"chosen": [user("Hi"), assistant("Yes")], "rejected": [user("Hi"), assistant("No")]}, id="TRL implicit"
        ),
        pytest.param(
            {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes", "rejected": "\n\nHuman: Hi\n\nAssistant: No"}, id="HH"
        ),
        pytest.param({"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " Yes", "rejected": " No"}, id="HH, split"),
    ],
)
def test_paired(values: dict[str, Any]) -> None:
    assert parse_paired(row(**values)) == Paired(HI, "Yes", "No", weight=1.0, file="rows.jsonl", line=7)


def test_hh_keeps_two_turns_of_one_role_and_all_white_space() -> None:
    start = "\n\nHuman: a\n\n\n\nHuman:b \n\nAssistant: c\n\nAssistant:"
    parsed = parse_paired(row(chosen=f"{start} d\n\ne ", rejected=f"{start} f"))
    assert parsed.prompt == (user("a\n\n"), user("b "), assistant("c"))
    assert (parsed.chosen, parsed.rejected) == ("d\n\ne ", "f")


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("\n\nHuman: a\n\nAssistant: c", "\n\nHuman: b\n\nAssistant: c", "different prompts"),
        ("\n\nHuman: a\n\nAssistant: ", "\n\nHuman: a\n\nAssistant: c", "empty completion"),
        ("\n\nHuman: a\n\nAssistant: c", "\n\nHuman: a\n\nAssistant:", "empty completion"),
    ],
)
def test_hh_rows_that_everybody_leaves_out(chosen: str, rejected: str, reason: str) -> None:
    with pytest.raises(UnusableRowError, match=reason):
        parse_paired(row(chosen=chosen, rejected=rejected))


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"prompt": "Hi", "completion": "Yes"}, id="strings"),
        pytest.param({"prompt": [user("Hi")], "completion": [assistant("Yes")]}, id="TRL"),
        pytest.param({"messages": [user("Hi"), assistant("Yes")]}, id="messages"),
    ],
)
def test_demonstration(values: dict[str, Any]) -> None:
    assert parse_demonstration(row(**values)) == Demonstration(HI, "Yes", weight=1.0, file="rows.jsonl", line=7)


def test_the_last_turn_of_messages_is_the_completion() -> None:
    parsed = parse_demonstration(row(messages=[*THREE_TURNS, assistant("Ciao")]))
    assert (parsed.prompt, parsed.completion) == (THREE_TURNS, "Ciao")


def test_unary_feedback_on_a_whole_conversation() -> None:
    parsed = parse_unary(row(messages=[*THREE_TURNS, assistant("Ciao")], label=False))
    assert parsed == Unary(THREE_TURNS, "Ciao", desirable=False, weight=1.0, file="rows.jsonl", line=7)
    parsed = parse_unary(row(messages="\n\nHuman: Hi\n\nAssistant: Yes", label=True))
    assert (parsed.prompt, parsed.completion) == (HI, "Yes")


def test_tools_are_passed_on() -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    messages = [user("1 + 2?"), calls(), tool("3"), assistant("3")]
    parsed = parse_demonstration(row(messages=messages, tools=tools))
    assert parsed.tools == tuple(tools)
    assert [message["role"] for message in parsed.prompt] == ["user", "assistant", "tool"]
    assert parse_demonstration(row(messages=messages, tools=json.dumps(tools))) == parsed
    assert parse_unary(row(**GOOD, tools=tools)).tools == tuple(tools)
    assert parse_paired(row(prompt="Hi", chosen="Yes", rejected="No", tools=tools)).tools == tuple(tools)
    for value in ("no JSON", {"name": "add"}, [1], 3):
        with pytest.raises(DataError, match=r"line 7, key 'tools': found .*, expected a list of objects"):
            parse_unary(row(**GOOD, tools=value))


THOUGHT = {**assistant("3"), "thinking": "1 and 2."}


@pytest.mark.parametrize(("last", "completion"), [(calls(), {**calls(), "content": ""}), (THOUGHT, THOUGHT)])
def test_completions_that_are_more_than_text(last: Any, completion: Any) -> None:
    prompt, other = [user("1 + 2?")], [assistant("No idea.")]
    assert parse_demonstration(row(messages=[*prompt, last])).completion == completion
    assert parse_demonstration(row(prompt="1 + 2?", completion=[last])).completion == completion
    assert parse_unary(row(prompt=prompt, completion=[last], label=True)).completion == completion
    assert parse_unary(row(messages=[*prompt, last], label=True)).completion == completion
    for values in ({"chosen": [last], "rejected": other, "prompt": prompt}, {"chosen": [*prompt, last]}):
        pair = parse_paired(row(**{"rejected": [*prompt, *other], **values}))
        assert (pair.chosen, pair.rejected) == (completion, "No idea.")


def test_a_text_alone() -> None:
    parsed = parse_demonstration(row(text=" The sky is blue.", weight=2))
    assert parsed == Demonstration((), " The sky is blue.", weight=2.0, file="rows.jsonl", line=7)
    assert known_by(parsed) != known_by(parse_demonstration(row(text="The sea is blue.")))
    assert parse_demonstration(row(text="of no interest", prompt="Hi", completion="Yes")).prompt == HI


def test_what_a_row_gives_the_template_by_name() -> None:
    assert parse_unary(row(**GOOD)).template_options is None
    options = {"enable_thinking": False, "date": None}
    assert parse_unary(row(**GOOD, chat_template_kwargs=options)).template_options == options


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        (
            [assistant("a"), user("b")],
            "of the assistant first (message 1 of 2), expected one of the system or the developer or the user",
        ),
        ([user("a"), user("b")], "of the user after one of the user (message 2 of 2), expected one of the assistant"),
        ([user("a"), assistant("b"), assistant("c"), user("d")], "of the assistant after one of the assistant"),
        ([user("a"), system("b"), user("c")], "of the system after one of the user (message 2 of 3)"),
        ([system("a"), system("b"), user("c")], "of the system after one of the system"),
        ([user("a"), tool("b")], "of the tool after one of the user"),
        ([user("a"), assistant("b")], "found a last message of the assistant, expected one of the user"),
    ],
)
def test_roles_out_of_order(messages: list[Any], found: str) -> None:
    with pytest.raises(DataError) as error:
        parse_unary(row(**{**GOOD, "prompt": messages}))
    assert (error.value.line, error.value.key) == (7, "prompt")
    assert found in str(error.value)


@pytest.mark.parametrize(
    ("values", "key", "found"),
    [
        ({"messages": [user("a"), user("b"), assistant("c")]}, "messages", "of the user after one of the user"),
        ({"messages": [assistant("a"), user("b"), assistant("c")]}, "messages", "of the assistant first"),
        (
            {"messages": [user("a"), {**calls(), "tool_calls": [{"id": 1}]}]},
            "messages",
            "as the tool_calls of the last",
        ),
        ({"messages": [user("a"), {**assistant("b"), "thinking": 3}]}, "messages", "as the thinking of message 2"),
        ({"text": " "}, "text", "expected text to learn from"),
        ({"text": ["a"]}, "text", "expected text to learn from"),
        ({**GOOD, "chat_template_kwargs": "no"}, "chat_template_kwargs", "expected an object"),
        ({**GOOD, "chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs", "not for a row to set"),
        ({"messages": [user("a"), assistant(" ")]}, "messages", "an empty last message"),
        (
            {"messages": [{**calls(), "role": "user"}, assistant("b")]},
            "messages",
            "as the tool_calls of message 1 (user)",
        ),
        ({"messages": [user("a"), {**calls(), "tool_calls": "add"}]}, "messages", "as the tool_calls of message 2"),
    ],
)
def test_conversations_that_cannot_be_learnt_from(values: dict[str, Any], key: str, found: str) -> None:
    with pytest.raises(DataError) as error:
        parse_demonstration(row(**values))
    assert (error.value.line, error.value.key) == (7, key)
    assert found in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        pytest.param("label", 1, "an integer (1), expected true", id="label 1"),
        pytest.param("label", 0, "an integer (0), expected true", id="label 0"),
        pytest.param("label", None, "null, expected true", id="label null"),
        pytest.param("label", "true", 'a string ("true"), expected true', id="label as a string"),
        pytest.param("prompt", "", "an empty prompt", id="empty prompt"),
        pytest.param("prompt", " \n", "an empty prompt", id="blank prompt"),
        pytest.param("prompt", None, "null, expected a string", id="prompt null"),
        pytest.param("prompt", 3, "an integer (3), expected a string", id="prompt number"),
        pytest.param("prompt", [], "an empty list", id="no messages"),
        pytest.param("prompt", ["Hi"], 'a string ("Hi") as message 1', id="list of strings"),
        pytest.param("prompt", [{"from": "human"}], "as message 1", id="half of ShareGPT"),
        pytest.param("prompt", [{"role": "human", "content": "Hi"}], 'a string ("human") as the role', id="role"),
        pytest.param("prompt", [{"role": ["user"], "content": "Hi"}], "as the role", id="role list"),
        pytest.param("prompt", [{"role": "user", "content": None}], "null as the content", id="content null"),
        pytest.param("prompt", [{"role": "user", "content": ["Hi"]}], "a list", id="content in parts"),
        pytest.param("prompt", "\n\nHuman: \n\nAssistant:", "an empty prompt", id="empty dialogue"),
        pytest.param("completion", "", "an empty completion", id="empty completion"),
        pytest.param("completion", "  \n", "an empty completion", id="blank completion"),
        pytest.param("completion", None, "null, expected a string", id="completion null"),
        pytest.param("completion", {"role": "assistant"}, "an object", id="completion object"),
        pytest.param("completion", [user("Yes")], "1 message(s) (user)", id="completion of the user"),
        pytest.param(
            "completion", [assistant("a"), user("b"), assistant("c")], "3 message(s)", id="completion of several turns"
        ),
        pytest.param("weight", 0, "an integer (0), expected a number above 0", id="weight 0"),
        pytest.param("weight", -1.0, "a number (-1.0)", id="weight negative"),
        pytest.param("weight", float("inf"), "a number (Infinity)", id="weight infinite"),
        pytest.param("weight", float("nan"), "a number (NaN)", id="weight NaN"),
        pytest.param("weight", 10**400, "expected a number above 0", id="weight huge"),
        pytest.param("weight", True, "a boolean (true)", id="weight boolean"),
        pytest.param("weight", "1", "a string", id="weight string"),
        pytest.param("weight", None, "null", id="weight null"),
    ],
)
def test_a_bad_value_is_named(key: str, value: Any, found: str) -> None:
    with pytest.raises(DataError) as error:
        parse_unary(row(**{**GOOD, key: value}))
    assert (error.value.file, error.value.line, error.value.key) == ("rows.jsonl", 7, key)
    assert found in str(error.value)
    assert "expected" in str(error.value)


@pytest.mark.parametrize("key", list(GOOD))
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(DataError, match="this key is missing") as error:
        parse_unary(row(**{name: value for name, value in GOOD.items() if name != key}))
    assert error.value.key == key


@pytest.mark.parametrize(
    ("chosen", "rejected", "key", "found"),
    [
        ([user("a"), assistant("x")], [user("b"), assistant("y")], "rejected", "message 1 differs"),
        ([user("a"), assistant("x")], [system("a"), user("a"), assistant("y")], "rejected", "message 1 differs"),
        (
            [user("a"), assistant("x")],
            [user("a"), user("b"), assistant("y")],
            "rejected",
            "of the user after one of the",
        ),
        ([user("a"), assistant("x")], [user("a"), calls(), tool("3"), assistant("y")], "rejected", "message 2 differs"),
        ([user("a"), assistant(" ")], [user("a"), assistant("y")], "chosen", "empty last message"),
        ([user("a")], [user("a"), assistant("y")], "chosen", "last turn of the user"),
        ([assistant("x")], [assistant("y")], "chosen", "nothing before the last turn"),
        ("x", "y", "prompt", "this key is missing"),
        ("\n\nHuman: a\n\nAssistant: b", "c", "prompt", "this key is missing"),
        ("\n\nHuman: a", "\n\nHuman: a\n\nAssistant: b", "chosen", "last turn of the user"),
    ],
)
def test_pairs_without_prompt_that_are_wrong(chosen: Any, rejected: Any, key: str, found: str) -> None:
    with pytest.raises(DataError) as error:
        parse_paired(row(chosen=chosen, rejected=rejected))
    assert not isinstance(error.value, UnusableRowError)
    assert (error.value.line, error.value.key) == (7, key)
    assert found in str(error.value)
