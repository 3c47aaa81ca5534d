"""Chat templates in the form of those that are in use, and tokenizers of the kinds that are in use, made in memory."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LLAMA3 = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
"""The text is trimmed; the end of a turn is the end of the sequence."""

QWEN = (
    "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'tool' %}"
    "{%- if loop.previtem['role'] != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}"
    "{{- '\n<tool_response>\n' + message['content'] + '\n</tool_response>' }}"
    "{%- if loop.last or loop.nextitem['role'] != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}"
    "{%- else %}"
    "{{- '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') }}"
    "{%- for call in message['tool_calls'] %}"
    "{{- '\n<tool_call>\n' + call['function'] | tojson + '\n</tool_call>' }}"
    "{%- endfor %}"
    "{{- '<|im_end|>\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
"""A system prompt of its own where there is none; several results of tools in one turn."""

QWEN3 = (
    "{%- set ns = namespace(last=0) %}"
    "{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}"
    "{%- endfor %}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'assistant' %}"
    "{%- set answer = message['content'].split('</think>')[-1].lstrip('\n') %}"
    "{%- set thoughts = message['content'].split('</think>')[0].split('<think>')[-1].strip('\n') if '</think>' in"
    " message['content'] else '' %}"
    "{{- '<|im_start|>assistant\n' }}"
    "{%- if loop.index0 > ns.last %}{{- '<think>\n' + thoughts + '\n</think>\n\n' }}{%- endif %}"
    "{{- answer + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
"""The last answer begins with a section of thoughts, which earlier ones lose."""

MISTRAL = (
    "{{- bos_token }}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] + '\n\n' %}"
    "{%- set turns = messages[1:] %}{%- else %}{%- set system = '' %}{%- set turns = messages %}{%- endif %}"
    "{%- for message in turns %}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('roles must alternate user/assistant/user/assistant') }}{%- endif %}"
    "{%- if message['role'] == 'user' %}"
    "{{- '[INST] ' + (system if loop.first else '') + message['content'] + '[/INST]' }}"
    "{%- else %}{{- ' ' + message['content'] + eos_token }}{%- endif %}"
    "{%- endfor %}"
)
"""No generation prompt; the system's text is in the first turn of the user; every answer ends the sequence."""

GEMMA = (
    "{{- bos_token }}"
    "{%- if messages[0]['role'] == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{- '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}"
)
"""No system; the end of a turn is not the end of the sequence."""

ZEPHYR = (
    "{%- for message in messages %}"
    "{{- '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- endif %}"
)
"""Markers of turns are ordinary text; the end of every turn, also the user's, is the end of the sequence."""

VICUNA = (
    "{%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] + ' ' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{{- 'USER: ' + message['content'] + ' ' }}"
    "{%- elif message['role'] == 'assistant' %}{{- 'ASSISTANT: ' + message['content'] + eos_token }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'ASSISTANT:' }}{%- endif %}"
)
"""A prompt that ends in the middle of what a tokenizer would make one token of."""

COMMAND = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|START_OF_TURN|><|' + message['role'] | upper + '|>' + message['content'] + '<|END_OF_TURN|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|START_OF_TURN|><|ASSISTANT|>' }}{%- endif %}"
)
"""Nothing between the marker of a turn and what is said in it."""

SPECIAL = {
    "command": (
        "<bos>",
        "<|END_OF_TURN|>",
        ["<|START_OF_TURN|>", "<|SYSTEM|>", "<|USER|>", "<|ASSISTANT|>"],
    ),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>"]),
    "qwen": (None, "<|im_end|>", ["<|im_start|>"]),
    "qwen3": (None, "<|im_end|>", ["<|im_start|>"]),
    "mistral": ("<s>", "</s>", []),
    "gemma": ("<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"]),
    "zephyr": ("<s>", "</s>", []),
    "vicuna": ("<s>", "</s>", []),
    "default": ("<s>", "</s>", []),
}
TEMPLATES: dict[str, str | None] = {
    "command": COMMAND,
    "llama3": LLAMA3,
    "qwen": QWEN,
    "qwen3": QWEN3,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "zephyr": ZEPHYR,
    "vicuna": VICUNA,
    "default": None,
}
KINDS = ("byte BPE", "byte BPE, words", "Llama BPE", "Unigram", "WordPiece")

TEXTS = [
    "Human: Assistant: USER: ASSISTANT: system user assistant model <|system|> <|user|> <|assistant|> [INST] [/INST]",
    "What is the capital of France? The capital of France is Paris. Is it? Yes, it is.\n\nGood.\n",
    "Name a fruit. An apple. Why would I? Hello there! Be kind. Thank you: that is all.\n1 + 2 = 3, and é is not e.",
    "  two spaces, three   spaces. \n A line that begins with a space.\n\n\nThree breaks. naïve façade – “quoted” …",
] * 3


@cache
def _model(kind: str) -> str:
    """A tokenizer without special tokens, as JSON."""
    special: dict[str, Any] = {"show_progress": False, "vocab_size": 500}
    if kind.startswith("byte BPE"):
        tokenizer = Tokenizer(models.BPE())
        if kind.endswith("words"):  # the pieces that Llama 3 and Qwen split text into
            pieces = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            split = pre_tokenizers.Split(Regex(pieces), "isolated")
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
        else:  # whatever is between two special tokens is one piece, so that anything may merge
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        trainer: Any = trainers.BpeTrainer(**special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    elif kind == "Llama BPE":  # Llama 2 and Mistral: no pieces, a space in front, unknown characters as bytes
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
        trainer = trainers.BpeTrainer(**{**special, "vocab_size": 700}, special_tokens=tokens)
    elif kind == "Unigram":  # T5 and Gemma
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
        trainer = trainers.UnigramTrainer(**{**special, "vocab_size": 200}, special_tokens=["<unk>"], unk_token="<unk>")
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(**special, special_tokens=["[UNK]"])
    tokenizer.train_from_iterator(TEXTS, trainer)
    text: str = tokenizer.to_str()
    return text


def tokenizer_of(kind: str, template: str) -> PreTrainedTokenizerFast:
    """A tokenizer of one of `KINDS` with one of `TEMPLATES` and its special tokens."""
    bos, eos, extra = SPECIAL[template]
    tokenizer = Tokenizer.from_str(_model(kind))
    special = [token for token in (bos, eos, *extra) if token]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if bos is not None:  # as their tokenizers do where nobody says otherwise
        adds = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))])
        before = tokenizer.post_processor
        tokenizer.post_processor = adds if before is None else processors.Sequence([before, adds])
    names = {name: token for name, token in (("bos_token", bos), ("eos_token", eos)) if token}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=TEMPLATES[template], clean_up_tokenization_spaces=False, **names
    )
