r"""Rendering: conversations to the tokens of prompt and completion, by the tokenizer's chat template.

A tokenizer without a chat template gets `DEFAULT_CHAT_TEMPLATE`, the report's form: turns as `\n\nHuman: …` and
`\n\nAssistant: …` (after the text of the system, if any), the completion after `\n\nAssistant:`. So there is one path
for training, and whoever loads the exported tokenizer renders exactly as it was trained.

What the template makes of the whole conversation is tokenised as one text. Its completion is what follows the
rendering of the prompt alone with the generation prompt (`add_generation_prompt=True`). The end-of-sequence token is
the last token of the completion: the one that the template wrote (white space after it is dropped), or one that is
added where the template wrote none. No other special token is added: a beginning-of-sequence token is the template's
business.

Where a token straddles the boundary between prompt and completion, it belongs to the completion: nothing that the
loss should be on is lost, and the tokens are still those of the whole text. Only if there would be no prompt left
does that token go to the prompt, since nothing could predict it.

Where the loss is to be on all turns of the assistant, the prompt is what comes before the first of them, and the
completion says which of its tokens are learned: those of the assistant's turns, each with the marker that ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from halo_lightning.data.boundaries import split_fast, split_slow, tokenize_fast
from halo_lightning.data.conversations import (
    Completion,
    Conversation,
    Message,
    as_message,
    called_names,
    text_of,
)
from halo_lightning.data.templates import TemplateLimitError, bound_templates
from halo_lightning.data.turns import LostTurnError, assistant_spans, common, contains, turn_start
from halo_lightning.errors import ConfigError, DataError

DEFAULT_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{- message['content'] -}}"
    "{%- elif message['role'] == 'user' -%}{{- '\\n\\nHuman: ' + message['content'] -}}"
    "{%- elif message['role'] == 'assistant' -%}{{- '\\n\\nAssistant: ' + message['content'] -}}"
    "{%- else -%}{{- raise_exception('the roles are system, user and assistant, not ' + message['role']) -}}"
    "{%- endif -%}"
    "{%- if not add_generation_prompt and message['role'] == 'assistant' and loop.last -%}"
    "{{- eos_token -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '\\n\\nAssistant:' -}}{%- endif -%}"
)
r"""The report's form, as a Jinja template.

A conversation renders to `\n\nHuman: Hi\n\nAssistant: Hello</s>`, its prompt alone to `\n\nHuman: Hi\n\nAssistant:`.
"""

BOS_PREFIX = "{{- bos_token -}}"
"""Stands in front of the default template for a tokenizer that begins its texts with a special token."""


LONGEST_TEXT = 2**22
"""Characters of a conversation at most, a million tokens or so: a tokenizer takes 300 bytes for each, all at once."""


class Encoded(NamedTuple):
    """Tokens of a prompt and of its completion, the end-of-sequence token included.

    Attributes:
        prompt_ids: Tokens of the prompt.
        completion_ids: Tokens of the completion.
        learned: Which of the completion's tokens the loss is on, the first one always; None is all of them.
        prompt_cut: How many tokens of the prompt were cut.
        completion_cut: How many tokens of the completion were cut.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    learned: list[bool] | None = None
    prompt_cut: int = 0
    completion_cut: int = 0


class RenderingError(DataError):
    """The chat template cannot render a conversation.

    Attributes:
        position: Which one of those that were given, counted from 0.
    """

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.message, self.position = message, position


def prepare_tokenizer(tokenizer: Any) -> Any:
    """Gives a tokenizer what training and generation need of it, and returns it.

    A chat template, where it has none: `DEFAULT_CHAT_TEMPLATE`, which starts with the beginning-of-sequence token if
    the tokenizer itself begins its texts with it. A padding token, where it has none: the end-of-sequence token.

    Raises:
        ConfigError: The tokenizer has no end-of-sequence token, so a completion could not be taught to end.
    """
    bound_templates(trusted=(DEFAULT_CHAT_TEMPLATE, BOS_PREFIX + DEFAULT_CHAT_TEMPLATE))
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"the tokenizer {_name(tokenizer)} has no end-of-sequence token: a model would never learn to stop."
            ' Set one of its tokens, for example tokenizer.eos_token = "</s>", and save it'
        )
    if not tokenizer.chat_template:
        tokenizer.chat_template = (BOS_PREFIX if _begins_with_bos(tokenizer) else "") + DEFAULT_CHAT_TEMPLATE
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _begins_with_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself begins its texts with the beginning-of-sequence token."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def _plain_text(tokenizer: Any, text: str) -> str:
    """A text as it is learned without a chat template: begun as the tokenizer begins texts."""
    if _begins_with_bos(tokenizer) and not text.startswith(tokenizer.bos_token):
        return str(tokenizer.bos_token) + text
    return text


def encode(tokenizer: Any, prompt: Conversation, completion: Completion) -> Encoded:
    """The tokens of one prompt and one completion; see `encode_batch`."""
    return encode_batch(tokenizer, [prompt], [completion])[0]


def encode_batch(
    tokenizer: Any,
    prompts: Sequence[Conversation],
    completions: Sequence[Completion],
    tools: Sequence[Any] | None = None,
    template_options: Sequence[dict[str, Any] | None] | None = None,
    *,
    all_turns: bool = False,
) -> list[Encoded]:
    """The tokens of prompts and completions, one for one.

    Args:
        tokenizer: A Hugging Face tokenizer that went through `prepare_tokenizer`.
        prompts: What the completions answer. Consecutive equal ones are rendered once. An empty one makes its
            completion a text of its own, which is learned as it is, without the chat template.
        completions: One for each prompt.
        tools: The tools that each prompt offers, for the chat template; None where it offers none.
        template_options: What else the chat template is given for each prompt, by name; None for nothing.
        all_turns: Whether the loss is on all turns of the assistant, those in the prompt too; else it is on the
            completion alone.

    Raises:
        RenderingError: The chat template refuses a conversation, or leaves its completion out.
    """
    rendered = render_batch(tokenizer, prompts, completions, tools, template_options, all_turns=all_turns)
    return finish_batch(tokenizer, rendered, tokenize_batch(tokenizer, rendered))


class Rendered(NamedTuple):
    """Conversations as texts.

    Attributes:
        texts: Prompt and completion together, as they are tokenised.
        boundaries: The characters at which turns that are learned start and end, in turn, for each text; the last of
            them ends with the text.
        all_turns: Whether they are all turns of the assistant.
    """

    texts: list[str]
    boundaries: list[list[int]]
    all_turns: bool


def render_batch(
    tokenizer: Any,
    prompts: Sequence[Conversation],
    completions: Sequence[Completion],
    tools: Sequence[Any] | None = None,
    template_options: Sequence[dict[str, Any] | None] | None = None,
    *,
    all_turns: bool = False,
) -> Rendered:
    """The first part of `encode_batch`: texts."""
    offered = _template_arguments(len(prompts), tools, template_options)
    distinct: list[int] = []  # the first of consecutive equal prompts
    for position, prompt in enumerate(prompts):
        same = bool(distinct) and prompt is prompts[distinct[-1]] and offered[position] == offered[distinct[-1]]
        distinct.append(distinct[-1] if same else position)
    alone = sorted({place for place in distinct if prompts[place]})
    before = dict(zip(alone, _render_all(tokenizer, prompts, alone, offered, generation=True), strict=True))
    whole = [(*prompt, as_message(completion)) for prompt, completion in zip(prompts, completions, strict=True)]
    conversations = [position for position, prompt in enumerate(prompts) if prompt]
    written = dict(zip(conversations, _render_all(tokenizer, whole, conversations, offered), strict=True))
    texts, boundaries, eos = [], [], tokenizer.eos_token
    for position, completion in enumerate(completions):
        if not prompts[position]:
            texts.append(_plain_text(tokenizer, text_of(completion)))
            boundaries.append([0])
            continue
        text = written[position]
        boundary = _find_boundary(before[distinct[position]], text, completion, position)
        marks = [boundary]
        if all_turns:
            marks = _all_turns(tokenizer, whole[position], text, position, offered[position])
        stripped = text.rstrip()  # white space after the end-of-sequence token would come after the end
        texts.append(stripped if stripped.endswith(eos) else text)
        boundaries.append(marks)
    _check_lengths(texts)
    return Rendered(texts, boundaries, all_turns)


def tokenize_batch(tokenizer: Any, rendered: Rendered) -> list[Any]:
    """The second part of `encode_batch`, which takes most of the time, and lets other threads of Python run.

    Returns:
        For each text what the tokenizer makes of it; nothing for a tokenizer without a fast implementation.
    """
    return tokenize_fast(tokenizer, rendered.texts) if tokenizer.is_fast else []


def finish_batch(tokenizer: Any, rendered: Rendered, tokenized: list[Any]) -> list[Encoded]:
    """The last part of `encode_batch`: tokens of prompts, tokens of completions."""
    texts = zip(rendered.texts, rendered.boundaries, strict=True)
    split = split_fast(tokenizer, texts, tokenized) if tokenizer.is_fast else split_slow(tokenizer, texts)
    eos = tokenizer.eos_token_id  # looked up once: it takes as long as all the rest of this
    finished = []
    for position, (ids, places) in enumerate(split):
        one = _finish(ids, places, eos, rendered.all_turns) if ids else None
        if one is None or (rendered.boundaries[position][0] and not one.prompt_ids):
            raise RenderingError(_no_token(tokenizer), position)
        finished.append(one)
    return finished


def encode_prompts(
    tokenizer: Any,
    prompts: Sequence[Conversation],
    tools: Sequence[Any] | None = None,
    template_options: Sequence[dict[str, Any] | None] | None = None,
) -> list[list[int]]:
    """The tokens of prompts alone, up to where a completion starts, as a model continues them.

    Args:
        tokenizer: A Hugging Face tokenizer that went through `prepare_tokenizer`.
        prompts: What is to be answered.
        tools: The tools that each prompt offers, for the chat template; None where it offers none.
        template_options: What else the chat template is given for each prompt, by name; None for nothing.

    Raises:
        RenderingError: The chat template refuses a conversation.
    """
    offered = _template_arguments(len(prompts), tools, template_options)
    texts = _render_all(tokenizer, prompts, range(len(prompts)), offered, generation=True)
    _check_lengths(texts)
    encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    for position, tokens in enumerate(encoded):
        if not tokens:
            raise RenderingError(_no_token(tokenizer), position)
    return encoded


def _check_lengths(texts: Sequence[str]) -> None:
    for position, text in enumerate(texts):
        if len(text) > LONGEST_TEXT:
            raise RenderingError(
                f"found a conversation of {len(text):,} characters, expected {LONGEST_TEXT:,} at most", position
            )


def _no_token(tokenizer: Any) -> str:
    return f"the tokenizer {_name(tokenizer)} makes no token of a text: expected one that can read it"


def generation_tail(tokenizer: Any) -> int:
    r"""How many tokens every prompt ends with, which only say whose turn comes next (`\n\nAssistant:`)."""
    ends = []
    for content in ("1", "a b"):
        try:
            text = render_text(tokenizer, (Message(role="user", content=content),), 0, generation=True)
        except RenderingError:  # a template that wants more than one turn of the user
            return 0
        ends.append(tokenizer(text, add_special_tokens=False)["input_ids"][::-1])
    return common(*ends)


def _template_arguments(count: int, tools: Sequence[Any] | None, others: Sequence[Any] | None) -> list[dict[str, Any]]:
    """What the chat template is given for each conversation, beside the conversation."""
    return [
        ({"tools": list(tools[place])} if tools and tools[place] else {}) | ((others[place] if others else None) or {})
        for place in range(count)
    ]


def _render_all(
    tokenizer: Any,
    conversations: Sequence[Conversation],
    positions: Sequence[int],
    offered: list[dict[str, Any]],
    *,
    generation: bool = False,
) -> list[str]:
    """The texts of the conversations at some positions, in one call where the template is given nothing else."""
    if not any(offered):
        chosen = [list(conversations[position]) for position in positions]
        try:
            texts: list[str] = tokenizer.apply_chat_template(chosen, tokenize=False, add_generation_prompt=generation)
            return texts
        except TemplateLimitError as error:
            raise TemplateLimitError(f"{_name(tokenizer)}: {error}") from error
        except Exception:  # which one, and what to say of it, is found out below
            pass
    return [
        render_text(tokenizer, conversations[position], position, offered[position], generation=generation)
        for position in positions
    ]


def render_text(
    tokenizer: Any,
    messages: Sequence[Any],
    position: int = 0,
    offered: dict[str, Any] | None = None,
    *,
    generation: bool = False,
) -> str:
    """The text of a conversation.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        messages: The conversation.
        position: Which one of several it is, for the error.
        offered: What else the chat template is given.
        generation: Whether the text is to end where a turn of the assistant starts.

    Raises:
        RenderingError: The chat template refuses the conversation.
        TemplateLimitError: It takes too much time or memory.
    """
    bound_templates()
    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=generation, **(offered or {})
        )
    except TemplateLimitError as error:
        raise TemplateLimitError(f"{_name(tokenizer)}: {error}") from error
    except Exception as error:  # a template is a program of somebody else, and can fail in any way
        roles = ", ".join(message["role"] for message in messages)
        raise RenderingError(
            f"the chat template of {_name(tokenizer)} cannot render the roles {roles}: {error or type(error).__name__}",
            position,
        ) from error


def _find_boundary(prompt: str, whole: str, completion: Completion, position: int) -> int:
    """The character at which the completion starts."""
    content = text_of(completion).strip()
    boundary = turn_start(prompt, whole, content, last=True)
    rest = whole[boundary:]
    called = called_names(as_message(completion))
    if boundary == 0 or not contains(rest, content) or not all(name in rest for name in called):
        raise RenderingError(
            "the chat template leaves out the completion, or changes its text, so it cannot be learnt from",
            position,
        )
    return boundary


def _all_turns(tokenizer: Any, messages: Conversation, whole: str, position: int, offer: dict[str, Any]) -> list[int]:
    """The characters at which the assistant's turns start and end, in turn, without the end of the last one."""

    def render(part: Conversation, generation: bool) -> str:
        return render_text(tokenizer, part, position, offer, generation=generation)

    try:
        spans = assistant_spans(messages, whole, render)
    except LostTurnError:
        raise RenderingError(
            "the chat template leaves out an earlier turn of the assistant, or changes its text, so it cannot be learnt"
            " from: set loss_on to 'last_turn', or leave the row out",
            position,
        ) from None
    return [place for span in spans for place in span][:-1]


def _finish(ids: list[int], places: list[int], eos: int, all_turns: bool) -> Encoded:
    """One end-of-sequence token at the end, at least one token in the prompt.

    Args:
        ids: All tokens.
        places: The tokens at which turns that are learned start and end, in turn; the last one ends with the text.
        eos: The end-of-sequence token.
        all_turns: Whether it has to be said which tokens are learned.
    """
    while len(ids) > 1 and ids[-1] == ids[-2] == eos:
        ids.pop()
    if ids[-1] != eos:
        ids.append(eos)
    boundary = min(max(places[0], 1), len(ids) - 1)
    if not all_turns:
        return Encoded(ids[:boundary], ids[boundary:])
    learned = [False] * len(ids)
    for start, end in zip(places[::2], [*places[1::2], len(ids)], strict=True):
        learned[start:end] = [True] * (end - start)
    learned[boundary] = True
    return Encoded(ids[:boundary], ids[boundary:], learned[boundary:])


def _name(tokenizer: Any) -> str:
    return getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
