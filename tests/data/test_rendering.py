"""Tokens of prompt and completion: where the boundary lies, and how a completion ends."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import ByT5Tokenizer

from halo_lightning.data import rendering
from halo_lightning.data.rendering import (
    DEFAULT_CHAT_TEMPLATE,
    RenderingError,
    encode,
    encode_batch,
    encode_prompts,
    generation_tail,
    prepare_tokenizer,
)
from halo_lightning.errors import ConfigError, DataError
from halo_lightning.pretrained import load_tokenizer, resolve_path
from tests.data.chat import tokenizer_of
from tests.data.helpers import CHATML, byte_bpe, chatml

HI = ({"role": "user", "content": "Hi"},)


def user(content: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": content},)


def texts(tokenizer: Any, encoded: Any) -> tuple[str, str]:
    return tokenizer.decode(encoded.prompt_ids), tokenizer.decode(encoded.completion_ids)


# --- what a tokenizer is given ------------------------------------------------------------------------------------


def test_a_tokenizer_without_template_gets_the_default() -> None:
    tokenizer = byte_bpe()
    assert prepare_tokenizer(tokenizer) is tokenizer
    assert tokenizer.chat_template == DEFAULT_CHAT_TEMPLATE
    assert tokenizer.pad_token == "</s>"


def test_a_tokenizer_keeps_its_own_template_and_padding() -> None:
    tokenizer = chatml()
    tokenizer.pad_token = "!"
    prepare_tokenizer(tokenizer)
    assert (tokenizer.chat_template, tokenizer.pad_token) == (CHATML, "!")


def test_a_tokenizer_without_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="no end-of-sequence token"):
        prepare_tokenizer(byte_bpe(eos=None))


# --- the default template -----------------------------------------------------------------------------------------


def test_the_default_form() -> None:
    tokenizer = prepare_tokenizer(byte_bpe())
    prompt = (
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    )
    assert texts(tokenizer, encode(tokenizer, prompt, "Yes world")) == (
        "Be kind.\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant:",
        " Yes world</s>",
    )


def test_default_tokens_one_by_one() -> None:
    tokenizer = prepare_tokenizer(byte_bpe())
    encoded = encode(tokenizer, HI, "Hello world")
    tokens = tokenizer.convert_ids_to_tokens
    # two line breaks, "Human", ":", " H", "i", two line breaks, "Assistant", ":" | " Hello", " world", end
    assert tokens(encoded.prompt_ids) == ["Ċ", "Ċ", "Human", ":", "ĠH", "i", "Ċ", "Ċ", "Assistant", ":"]
    assert tokens(encoded.completion_ids) == ["ĠHello", "Ġworld", "</s>"]


def test_the_exported_tokenizer_renders_the_prompt_as_it_was_trained() -> None:
    tokenizer = prepare_tokenizer(byte_bpe())
    inference = tokenizer.apply_chat_template(list(HI), add_generation_prompt=True, return_dict=False)
    assert list(inference) == encode(tokenizer, HI, "Hello").prompt_ids


def test_a_beginning_of_sequence_token_once_if_the_tokenizer_adds_it() -> None:
    tokenizer = prepare_tokenizer(byte_bpe(bos="<s>", adds_bos=True))
    encoded = encode(tokenizer, HI, "Hello")
    assert (encoded.prompt_ids + encoded.completion_ids).count(tokenizer.bos_token_id) == 1
    assert encoded.prompt_ids[0] == tokenizer.bos_token_id
    tokenizer = prepare_tokenizer(byte_bpe(bos="<s>"))
    encoded = encode(tokenizer, HI, "Hello")
    assert tokenizer.bos_token_id not in encoded.prompt_ids


def test_a_template_that_writes_the_beginning_itself_is_not_given_another() -> None:
    tokenizer = byte_bpe(bos="<s>", adds_bos=True, template="{{ bos_token }}" + CHATML)
    encoded = encode(prepare_tokenizer(tokenizer), HI, "Hello")
    assert encoded.prompt_ids.count(tokenizer.bos_token_id) == 1


# --- how a completion ends ----------------------------------------------------------------------------------------


def test_chatml_ends_with_its_end_of_turn_and_nothing_after_it() -> None:
    tokenizer = prepare_tokenizer(chatml())
    encoded = encode(tokenizer, HI, "Hello")
    assert texts(tokenizer, encoded) == ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "Hello<|im_end|>")
    assert encoded.completion_ids.count(tokenizer.eos_token_id) == 1


def test_an_end_that_the_template_does_not_write_is_added() -> None:
    tokenizer = prepare_tokenizer(chatml(eos="</s>"))
    assert texts(tokenizer, encode(tokenizer, HI, "Hello"))[1] == "Hello<|im_end|>\n</s>"


@pytest.mark.parametrize("make", [byte_bpe, chatml])
def test_a_completion_that_ends_itself_does_not_end_twice(make: Any) -> None:
    tokenizer = prepare_tokenizer(make())
    completion = f"Hello{tokenizer.eos_token}"
    encoded = encode(tokenizer, HI, completion)
    assert encoded.completion_ids.count(tokenizer.eos_token_id) == 1
    assert encoded.completion_ids[-1] == tokenizer.eos_token_id


def test_white_space_in_a_completion_stays() -> None:
    tokenizer = prepare_tokenizer(byte_bpe())
    assert texts(tokenizer, encode(tokenizer, HI, "  a \n\n b \n"))[1] == "   a \n\n b \n</s>"


# --- the boundary -------------------------------------------------------------------------------------------------


def test_a_token_across_the_boundary_belongs_to_the_completion() -> None:
    # ":" and " h" of "Assistant: hi" merge into one token.
    tokenizer = prepare_tokenizer(byte_bpe([("Ġ", "h"), (":", "Ġh")], regex=False))
    encoded = encode(tokenizer, HI, "hi")
    tokens = tokenizer.convert_ids_to_tokens
    assert "".join(tokens(encoded.prompt_ids)).endswith("Assistant")
    assert tokens(encoded.completion_ids) == [":Ġh", "i", "</s>"]


def test_a_token_across_the_boundary_that_ends_with_a_space() -> None:
    # Its offsets leave the space out: they look as if it ended at the boundary.
    tokenizer = prepare_tokenizer(byte_bpe([(":", "Ġ")], regex=False))
    encoded = encode(tokenizer, HI, "hi")
    tokens = tokenizer.convert_ids_to_tokens
    assert "".join(tokens(encoded.prompt_ids)).endswith("Assistant")
    assert tokens(encoded.completion_ids) == [":Ġ", "h", "i", "</s>"]


def byte_boundary(tokenizer: Any, ids: list[int], text: str, boundary: int) -> int:
    """The first token that ends after the boundary, by counting bytes: each character of a token is one byte."""
    end, limit = 0, len(text[:boundary].encode())
    for number, token in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        end += len(token.encode()) if token in tokenizer.all_special_tokens else len(token)
        if end > limit:
            return number
    raise AssertionError("no token after the boundary")


SPACES = [("Ġ", "Ġ"), ("ĠĠ", "ĠĠ"), (":", "Ġ"), ("Ġ", "a"), ("Ċ", "Ċ"), ("ĊĊ", "Ġ"), ("a", "Ġ"), ("ĠĠ", "a")]


@pytest.mark.parametrize("regex", [True, False])
def test_the_boundary_agrees_with_a_count_of_bytes(regex: bool) -> None:
    tokenizer = prepare_tokenizer(byte_bpe(SPACES, regex=regex))
    generator = random.Random(0)
    for _ in range(300):
        prompt, completion = (
            "".join(generator.choice(["a", " ", "  ", "\n", "\n\n", ":", "é", "😀", "b"]) for _ in range(6)) + "x"
            for _ in range(2)
        )
        encoded = encode(tokenizer, user(prompt), completion)
        text = f"\n\nHuman: {prompt}\n\nAssistant: {completion}</s>"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert encoded.prompt_ids + encoded.completion_ids == ids
        boundary = text.rindex("Assistant:") + len("Assistant:")
        assert len(encoded.prompt_ids) == byte_boundary(tokenizer, ids, text, boundary), (prompt, completion)


@pytest.mark.parametrize("make", [byte_bpe, chatml])
def test_the_tokens_are_those_of_the_whole_conversation(make: Any) -> None:
    tokenizer = prepare_tokenizer(make())
    messages = [{"role": "user", "content": "Is the world good?"}, {"role": "assistant", "content": "Yes, it is"}]
    whole = list(tokenizer.apply_chat_template(messages, return_dict=False))
    encoded = encode(tokenizer, tuple(messages[:1]), "Yes, it is")
    tokens = encoded.prompt_ids + encoded.completion_ids
    assert tokens == whole[: len(tokens)]
    assert tokenizer.decode(whole[len(tokens) :]).strip() == ""


def test_a_slow_tokenizer_gives_the_same() -> None:
    slow = prepare_tokenizer(ByT5Tokenizer())
    assert not slow.is_fast
    encoded = encode(slow, HI, "héllo")
    assert texts(slow, encoded) == ("\n\nHuman: Hi\n\nAssistant:", " héllo</s>")
    assert len(encoded.completion_ids) == len(" héllo".encode()) + 1


def test_a_generation_prompt_that_a_finished_conversation_does_not_have() -> None:
    template = CHATML.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
    tokenizer = prepare_tokenizer(byte_bpe(eos="<|im_end|>", extra=("<|im_start|>",), template=template))
    for completion in ("Hello", "<think>", "<thank you"):
        assert texts(tokenizer, encode(tokenizer, HI, completion)) == (
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
            f"{completion}<|im_end|>",
        )


def test_a_prompt_is_never_empty() -> None:
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}{{ '' if add_generation_prompt }}"
    tokenizer = prepare_tokenizer(byte_bpe([("a", "b"), ("ab", "c")], regex=False, template=template))
    encoded = encode(tokenizer, user("a"), "bcd")
    assert tokenizer.convert_ids_to_tokens(encoded.prompt_ids) == ["abc"]
    assert tokenizer.convert_ids_to_tokens(encoded.completion_ids) == ["d", "</s>"]


# --- batches, and templates that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [byte_bpe, chatml, ByT5Tokenizer])
def test_a_batch_gives_the_same_as_one_by_one(make: Any) -> None:
    tokenizer = prepare_tokenizer(make())
    prompts = [HI, HI, user("Hello world"), HI]
    completions = ["Yes", "No world", "Hello", "Yes"]
    assert encode_batch(tokenizer, prompts, completions) == [
        encode(tokenizer, prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)
    ]


def test_a_template_that_refuses_a_role_says_which_conversation() -> None:
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system!') }}{% endif %}" + CHATML
    tokenizer = prepare_tokenizer(byte_bpe(eos="<|im_end|>", template=template))
    system = ({"role": "system", "content": "x"}, *HI)
    with pytest.raises(RenderingError, match=r"cannot render the roles system, user: no system!") as error:
        encode_batch(tokenizer, [HI, system], ["a", "b"])
    assert error.value.position == 1
    assert isinstance(error.value, DataError)


def test_a_template_that_loses_the_completion_is_refused() -> None:
    template = "{% for message in messages %}{{ message['content'].split('</think>')[-1] }}!{% endfor %}"
    tokenizer = prepare_tokenizer(byte_bpe(template=template))
    with pytest.raises(RenderingError, match="leaves out the completion"):
        encode(tokenizer, HI, "Hm</think>Yes")


TOOLS = (
    "{% if tools %}<{{ tools[0].function.name }}>{% endif %}"
    "{% for message in messages %}"
    "[{{ message.role }}]{{ message.content }}"
    "{% for call in message.tool_calls %}({{ call.function.name }}){% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% else %}</s>{% endif %}"
)


def test_tools_and_their_turns_reach_the_template() -> None:
    tokenizer = prepare_tokenizer(byte_bpe(template=TOOLS))
    call = {"function": {"name": "add"}}
    prompt = (
        *user("1+2"),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "3"},
    )
    (encoded,) = encode_batch(tokenizer, [prompt], ["3!"], [({"function": {"name": "sum"}},)])
    assert texts(tokenizer, encoded) == ("<sum>[user]1+2[assistant](add)[tool]3[assistant]", "3!</s>")
    (encoded,) = encode_batch(tokenizer, [prompt], ["3!"], [None])
    assert texts(tokenizer, encoded) == ("[user]1+2[assistant](add)[tool]3[assistant]", "3!</s>")


@pytest.mark.parametrize("all_turns", [False, True])
def test_a_text_without_a_prompt_is_learned_as_it_is(all_turns: bool) -> None:
    tokenizer = prepare_tokenizer(byte_bpe())
    plain = tokenizer("The sky is blue.", add_special_tokens=False)["input_ids"]
    for text in ("The sky is blue.", "The sky is blue.</s>"):
        encoded, chat = encode_batch(tokenizer, [(), HI], [text, "Yes"], all_turns=all_turns)
        assert encoded.prompt_ids + encoded.completion_ids == [*plain, tokenizer.eos_token_id]
        assert len(encoded.prompt_ids) == 1
        assert encoded.learned in (None, [True] * len(encoded.completion_ids))
        assert texts(tokenizer, chat) == ("\n\nHuman: Hi\n\nAssistant:", " Yes</s>")


def test_a_text_begins_as_the_tokenizer_begins_texts() -> None:
    tokenizer = prepare_tokenizer(tokenizer_of("Llama BPE", "llama3"))
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    for text in ("The sky", f"{tokenizer.bos_token}The sky"):
        encoded = encode(tokenizer, (), text)
        assert encoded.prompt_ids == [tokenizer.bos_token_id]
        assert tokenizer.decode(encoded.completion_ids) == f"The sky{tokenizer.eos_token}"


@pytest.mark.parametrize("expression", ["1 // 0", "messages[99].content.x", "'a' + 1", "[][0].x", "messages | nothing"])
def test_a_template_may_fail_in_any_way(expression: str) -> None:
    tokenizer = prepare_tokenizer(byte_bpe(template="{{ " + expression + " }}"))
    with pytest.raises(RenderingError, match="cannot render the roles user"):
        encode(tokenizer, HI, "Yes")


def test_what_every_prompt_ends_with() -> None:
    tokenizer = prepare_tokenizer(byte_bpe())
    assert tokenizer.decode(encode(tokenizer, HI, "Yes").prompt_ids[-generation_tail(tokenizer) :]) == "\n\nAssistant:"
    tokenizer = prepare_tokenizer(chatml())
    tail = encode(tokenizer, HI, "Yes").prompt_ids[-generation_tail(tokenizer) :]
    assert tokenizer.decode(tail) == "<|im_end|>\n<|im_start|>assistant\n"
    assert generation_tail(prepare_tokenizer(byte_bpe(template="{{ 1 // 0 }}"))) == 0


def nothing(settings: dict[str, Any]) -> None:
    """The special token that is in the place of the text is none, so that nothing is left of it."""
    single = [{"SpecialToken": {"id": "none", "type_id": 0}}]
    settings["post_processor"] = {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}}


def one_for_all(settings: dict[str, Any]) -> None:
    """Every token is that of the end, of which one is kept."""
    settings["model"]["vocab"] = dict.fromkeys(settings["model"]["vocab"], 5)


@pytest.mark.parametrize(("change", "of_prompts"), [(nothing, True), (nothing, False), (one_for_all, False)])
def test_a_tokenizer_that_makes_no_tokens(
    change: Callable[[dict[str, Any]], None], of_prompts: bool, tmp_path: Path
) -> None:
    folder = shutil.copytree(resolve_path("embedded:small"), tmp_path / "model")
    settings = json.loads((folder / "tokenizer.json").read_text())
    change(settings)
    (folder / "tokenizer.json").write_text(json.dumps(settings))

    def encoded() -> None:
        tokenizer = load_tokenizer(str(folder))
        encode_prompts(tokenizer, [HI]) if of_prompts else encode(tokenizer, HI, "Yes")

    # Older libraries refuse to load what has every token twice.
    with pytest.raises((DataError, ConfigError), match=r"makes no token of a text|out of vocabulary"):
        encoded()


def test_a_conversation_that_would_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "LONGEST_TEXT", 100)
    tokenizer = prepare_tokenizer(byte_bpe())
    for encoded in (lambda: encode(tokenizer, HI, "x" * 100), lambda: encode_prompts(tokenizer, [user("x" * 100)])):
        with pytest.raises(DataError, match=r"found a conversation of 1\d\d characters, expected 100 at most"):
            encoded()
