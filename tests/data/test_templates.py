"""Boundaries and turns, for every chat template and every kind of tokenizer that is in use.

What the template should make of a conversation is written out. Which tokens are learned is then found by counting the
characters of the tokens themselves, with no use of offsets.
"""

from __future__ import annotations

import random
import unicodedata
from typing import Any

import pytest
from transformers import ByT5Tokenizer

from halo_lightning.data.conversations import Conversation
from halo_lightning.data.rendering import Encoded, RenderingError, encode, encode_batch, prepare_tokenizer
from tests.data.chat import KINDS, TEMPLATES, tokenizer_of

QUESTION, ANSWER, AGAIN, LAST = "What is the capital of France?", "Paris is. ", "Is it?", "Yes, it is.\n\nGood."
CONVERSATION = (
    {"role": "user", "content": QUESTION},
    {"role": "assistant", "content": ANSWER},
    {"role": "user", "content": AGAIN},
)
SYSTEM = {"role": "system", "content": "Be kind."}

# The text of the conversation, what the assistant says in ⟨⟩.
WHOLE = {
    "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat is the capital of France?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟨Paris is.<|eot_id|>⟩"
    "<|start_header_id|>user<|end_header_id|>\n\nIs it?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟨Yes, it is.\n\nGood.<|eot_id|>⟩",
    "qwen": "<|im_start|>system\nYou are helpful.<|im_end|>\n"
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
    "<|im_start|>assistant\n⟨Paris is. <|im_end|>⟩\n<|im_start|>user\nIs it?<|im_end|>\n"
    "<|im_start|>assistant\n⟨Yes, it is.\n\nGood.<|im_end|>⟩",
    "qwen3": "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
    "<|im_start|>assistant\n⟨Paris is. <|im_end|>⟩\n<|im_start|>user\nIs it?<|im_end|>\n"
    "<|im_start|>assistant\n⟨<think>\n\n</think>\n\nYes, it is.\n\nGood.<|im_end|>⟩",
    "mistral": "<s>[INST] What is the capital of France?[/INST]⟨ Paris is. </s>⟩"
    "[INST] Is it?[/INST]⟨ Yes, it is.\n\nGood.</s>⟩",
    "gemma": "<bos><start_of_turn>user\nWhat is the capital of France?<end_of_turn>\n"
    "<start_of_turn>model\n⟨Paris is.<end_of_turn>⟩\n<start_of_turn>user\nIs it?<end_of_turn>\n"
    "<start_of_turn>model\n⟨Yes, it is.\n\nGood.<end_of_turn>\n<eos>⟩",
    "zephyr": "<|user|>\nWhat is the capital of France?</s>\n<|assistant|>\n⟨Paris is. </s>⟩\n"
    "<|user|>\nIs it?</s>\n<|assistant|>\n⟨Yes, it is.\n\nGood.</s>⟩",
    "vicuna": "USER: What is the capital of France? ASSISTANT:⟨ Paris is. </s>⟩"
    "USER: Is it? ASSISTANT:⟨ Yes, it is.\n\nGood.</s>⟩",
    "command": "<bos><|START_OF_TURN|><|USER|>What is the capital of France?<|END_OF_TURN|>"
    "<|START_OF_TURN|><|ASSISTANT|>⟨Paris is. <|END_OF_TURN|>⟩"
    "<|START_OF_TURN|><|USER|>Is it?<|END_OF_TURN|>"
    "<|START_OF_TURN|><|ASSISTANT|>⟨Yes, it is.\n\nGood.<|END_OF_TURN|>⟩",
    "default": "<s>\n\nHuman: What is the capital of France?\n\nAssistant:⟨ Paris is. ⟩"
    "\n\nHuman: Is it?\n\nAssistant:⟨ Yes, it is.\n\nGood.</s>⟩",
}


def spans_of(marked: str) -> tuple[str, list[tuple[int, int]]]:
    """A text without its marks, and where they were."""
    text, spans, start = "", [], 0
    for character in marked:
        if character == "⟨":
            start = len(text)
        elif character == "⟩":
            spans.append((start, len(text)))
        else:
            text += character
    return text, spans


def extents(kind: str, tokenizer: Any, ids: list[int], text: str) -> list[tuple[int, int]]:
    """The bytes of the text that each token stands for, from the letters of the tokens one after the other."""
    special, result, place = set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab()), [], 0
    raw, begins = text.encode(), True
    if kind == "WordPiece":
        return word_extents(special, tokenizer.convert_ids_to_tokens(ids), text)
    for token in tokenizer.convert_ids_to_tokens(ids):
        if token.startswith("<0x"):
            length = 1
        elif token in special:
            length = len(token.encode())
        elif kind.startswith("byte BPE"):
            length = len(token)  # one letter for each byte
        else:
            written = token.replace("▁", " ").encode()
            # Where text begins, one space is added; by the one kind always, by the other where there is none.
            added = begins and (kind == "Llama BPE" or not raw[place:].startswith(b" "))
            length = len(written) - added
            assert raw[place : place + length] == written[added:]
        begins = token in special and not token.startswith("<0x")
        result.append((place, place + length))
        place += length
    assert place == len(raw)
    return result


def word_extents(special: set[str], tokens: list[str], text: str) -> list[tuple[int, int]]:
    """The same for words: white space, case and accents are not in them."""
    result, place = [], 0
    for token in tokens:
        letters = token if token in special else token.removeprefix("##")
        while text[place].isspace():
            place += 1
        start = place
        for letter in letters:
            plain = unicodedata.normalize("NFD", text[place])[0]
            assert letter in (plain, plain.lower())
            place += 1
        result.append((len(text[:start].encode()), len(text[:place].encode())))
    return result


def expected_mask(kind: str, tokenizer: Any, ids: list[int], text: str, spans: list[tuple[int, int]]) -> list[bool]:
    """A token is learned if some letter of it is the assistant's, or if it adds a space right where a turn starts."""
    in_bytes = [tuple(len(text[:place].encode()) for place in span) for span in spans]
    return [
        any((start < last and end > first) or start == end == first for first, last in in_bytes)
        for start, end in extents(kind, tokenizer, ids, text)
    ]


def mask_of(encoded: Encoded) -> list[bool]:
    learned = [True] * len(encoded.completion_ids) if encoded.learned is None else encoded.learned
    return [False] * len(encoded.prompt_ids) + learned


def encode_one(tokenizer: Any, prompt: Conversation, completion: str, **options: Any) -> Encoded:
    (encoded,) = encode_batch(tokenizer, [prompt], [completion], **options)
    return encoded


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", WHOLE)
def test_the_whole_conversation_and_who_says_what(template: str, kind: str) -> None:
    tokenizer = prepare_tokenizer(tokenizer_of(kind, template))
    text, spans = spans_of(WHOLE[template])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    last = encode_one(tokenizer, CONVERSATION, LAST)
    every = encode_one(tokenizer, CONVERSATION, LAST, all_turns=True)
    for encoded, learned in ((last, spans[-1:]), (every, spans)):
        assert encoded.prompt_ids + encoded.completion_ids == ids
        assert mask_of(encoded) == expected_mask(kind, tokenizer, ids, text, learned)
        assert ids.count(tokenizer.bos_token_id) == (tokenizer.bos_token is not None and template not in NO_BOS)
    assert last.completion_ids[-1] == tokenizer.eos_token_id
    # Where what a model is prompted with is the beginning of the whole, it is the prompt.
    prompted = tokenizer.apply_chat_template(list(CONVERSATION), add_generation_prompt=True, return_dict=False)
    if ids[: len(prompted)] == prompted:
        assert last.prompt_ids == prompted


NO_BOS = ("zephyr", "vicuna")  # templates that write none

PIECES = ["a", " ", "  ", "\n", "\n\n", ":", ".", "é", "is", " is", "?", "Paris", "1", "<", "[", "😀", "\t"]


@pytest.mark.parametrize("kind", KINDS[:-1])
@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_random_conversations(template: str, kind: str) -> None:
    tokenizer = prepare_tokenizer(tokenizer_of(kind, template))
    generator = random.Random(f"{template} {kind}")
    pieces = PIECES[:-2] if kind == "Unigram" else PIECES  # what it has no token for cannot be counted
    for _ in range(20):
        said = ["a" + "".join(generator.choice(pieces) for _ in range(5)) + "a" for _ in range(4)]
        if kind == "Unigram":  # its normalizer takes several spaces for one
            said = [" ".join(part for part in text.split(" ") if part) for text in said]
        marked = WHOLE[template]
        for number, old in enumerate((QUESTION, ANSWER, ANSWER.strip(), AGAIN, LAST)):
            marked = marked.replace(old, f"⁅{number}⁆")
        for number, new in enumerate((said[0], said[1], said[1], said[2], said[3])):
            marked = marked.replace(f"⁅{number}⁆", new)
        text, spans = spans_of(marked)
        prompt = tuple({**turn, "content": content} for turn, content in zip(CONVERSATION, said, strict=False))
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert "<unk>" not in tokenizer.convert_ids_to_tokens(ids)
        for all_turns, learned in ((False, spans[-1:]), (True, spans)):
            encoded = encode_one(tokenizer, prompt, said[3], all_turns=all_turns)
            assert encoded.prompt_ids + encoded.completion_ids == ids
            assert mask_of(encoded) == expected_mask(kind, tokenizer, ids, text, learned), said


@pytest.mark.parametrize("template", [name for name in WHOLE if name not in ("gemma", "zephyr", "command")])
def test_the_system_prompt_is_in_the_prompt(template: str) -> None:
    tokenizer = prepare_tokenizer(tokenizer_of("byte BPE, words", template))
    encoded = encode_one(tokenizer, (SYSTEM, *CONVERSATION), LAST, all_turns=True)
    assert tokenizer.decode(encoded.prompt_ids).count("Be kind.") == 1
    assert "You are helpful." not in tokenizer.decode(encoded.prompt_ids)
    assert encoded.learned is not None
    assert sum(encoded.learned) == sum(mask_of(encode_one(tokenizer, CONVERSATION, LAST, all_turns=True)))


def test_templates_that_refuse_say_why() -> None:
    with pytest.raises(RenderingError, match="cannot render the roles system, user: System role not supported"):
        encode_one(prepare_tokenizer(tokenizer_of("Unigram", "gemma")), (SYSTEM, *CONVERSATION[:1]), LAST)
    tool = {"role": "tool", "content": "3"}
    with pytest.raises(RenderingError, match="roles must alternate"):
        encode_one(prepare_tokenizer(tokenizer_of("Llama BPE", "mistral")), (*CONVERSATION[:2], tool), LAST)


CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}
TOOLS = (
    {"role": "user", "content": "1+2?"},
    CALL,
    {"role": "tool", "content": "3"},
    {"role": "tool", "content": "4"},
)


def test_a_call_of_tools_is_a_turn_of_the_assistant_and_its_results_are_not() -> None:
    tokenizer = prepare_tokenizer(tokenizer_of("byte BPE, words", "qwen"))
    encoded = encode_one(tokenizer, TOOLS, "It is 3.", all_turns=True)
    learned = [token for token, yes in zip(encoded.completion_ids, encoded.learned or [], strict=True) if yes]
    assert tokenizer.decode(learned) == (
        '\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>It is 3.<|im_end|>'
    )
    assert "<tool_response>\n3\n</tool_response>\n<tool_response>\n4" in tokenizer.decode(encoded.completion_ids)


@pytest.mark.parametrize("content", ["", "I ask."])
def test_a_completion_may_call_tools(content: str) -> None:
    tokenizer = prepare_tokenizer(tokenizer_of("byte BPE, words", "qwen"))
    encoded = encode(tokenizer, TOOLS[:1], {**CALL, "content": content})  # type: ignore[arg-type]
    assert tokenizer.decode(encoded.prompt_ids).endswith("1+2?<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(encoded.completion_ids) == (
        content + '\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>'
    )
    without = prepare_tokenizer(tokenizer_of("byte BPE", "default"))  # its template knows no tools
    with pytest.raises(RenderingError, match="leaves out the completion"):
        encode(without, TOOLS[:1], {**CALL, "content": content})  # type: ignore[arg-type]


def test_thoughts_of_a_completion_and_options_reach_the_template() -> None:
    tokenizer = tokenizer_of("byte BPE, words", "default")
    tokenizer.chat_template = (
        "{% if effort %}<effort {{ effort }}>{% endif %}"
        "{% for m in messages %}[{{ m.role }}]"
        "{% if m.thinking %}({{ m.thinking }}){% endif %}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    last = {"role": "assistant", "content": "3", "thinking": "1 and 2."}
    for options, start in (({"effort": "low"}, "<effort low>"), (None, "")):
        (encoded,) = encode_batch(tokenizer, [CONVERSATION[:1]], [last], None, [options])  # type: ignore[list-item]
        assert tokenizer.decode(encoded.prompt_ids) == f"{start}[user]{CONVERSATION[0]['content']}[assistant]"
        assert tokenizer.decode(encoded.completion_ids) == f"(1 and 2.)3{tokenizer.eos_token}"


def test_a_template_that_loses_an_earlier_turn_is_refused_for_all_turns_only() -> None:
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content if loop.last or m.role == 'user' }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    tokenizer = tokenizer_of("byte BPE", "default")
    tokenizer.chat_template = template
    assert encode_one(tokenizer, CONVERSATION, LAST).learned is None
    with pytest.raises(RenderingError, match=r"an earlier turn of the assistant.* set loss_on to 'last_turn'"):
        encode_one(tokenizer, CONVERSATION, LAST, all_turns=True)


def test_thoughts_that_earlier_turns_lose_are_not_learned() -> None:
    tokenizer = prepare_tokenizer(tokenizer_of("byte BPE, words", "qwen3"))
    prompt = (CONVERSATION[0], {"role": "assistant", "content": "<think>\nHm\n</think>\n\nParis."}, CONVERSATION[2])
    with pytest.raises(RenderingError, match="an earlier turn"):
        encode_one(tokenizer, prompt, LAST, all_turns=True)
    completion = "<think>\nHm\n</think>\n\nYes."
    text = tokenizer.decode(encode_one(tokenizer, prompt, completion).completion_ids)
    assert text == f"{completion}<|im_end|>"


def test_a_slow_tokenizer_gives_the_same_turns() -> None:
    slow = prepare_tokenizer(ByT5Tokenizer(additional_special_tokens=[]))
    encoded = encode_one(slow, CONVERSATION, LAST, all_turns=True)
    text, spans = spans_of(WHOLE["default"].removeprefix("<s>"))
    assert slow.decode(encoded.prompt_ids + encoded.completion_ids) == text
    learned = [n for n, yes in zip(encoded.completion_ids, encoded.learned or [], strict=True) if yes]
    assert slow.decode(learned) == "".join(text[start:end] for start, end in spans)


def test_the_same_turn_twice_is_found_twice() -> None:
    tokenizer = prepare_tokenizer(tokenizer_of("byte BPE, words", "qwen3"))
    prompt = ({"role": "user", "content": "Yes"}, {"role": "assistant", "content": "Yes"}) * 3
    encoded = encode_one(tokenizer, (*prompt, {"role": "user", "content": "Yes"}), "Yes", all_turns=True)
    learned = [n for n, yes in zip(encoded.completion_ids, encoded.learned or [], strict=True) if yes]
    assert tokenizer.decode(learned) == "Yes<|im_end|>" * 3 + "<think>\n\n</think>\n\nYes<|im_end|>"
