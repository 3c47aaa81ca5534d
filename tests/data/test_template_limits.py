"""Chat templates that would never end, or fill the memory: each is refused at once, whatever it does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import TemplateError, UndefinedError

from halo_lightning.data.conversations import Conversation
from halo_lightning.data.rendering import encode_prompts
from halo_lightning.data.templates import (
    LARGEST_TEMPLATE,
    TemplateLimitError,
    _compiled,
    _original,
    bound_templates,
    size,
)
from halo_lightning.pretrained import load_tokenizer

CONVERSATION: Conversation = ({"role": "user", "content": "a" * 50},)

DOUBLED = "{%% set ns = namespace(x=%s) %%}{%% for i in range(60) %%}{%% set ns.x = %s %%}{%% endfor %%}{{ ns.x }}"
SPACES = "".join(f"{{% set n{i + 1} = namespace(a=n{i}, b=n{i}) %}}" for i in range(60))

TEMPLATES = {
    "a text many times": "{{ 'x' * 10**10 }}",
    "a message many times": "{{ messages[0].content * 10**9 }}",
    "a list many times": "{{ ([1] * 10**9) | length }}",
    "a text doubled": DOUBLED % ("'ab'", "ns.x + ns.x"),
    "texts joined": DOUBLED % ("'ab'", "ns.x ~ ns.x"),
    "lists in lists": DOUBLED % ("['a' * 10000]", "[ns.x, ns.x]"),
    "mappings in mappings": DOUBLED % ("'a' * 10000", "dict(a=ns.x, b=ns.x)"),
    "namespaces in namespaces": "{% set n0 = 'a' * 10000 %}" + SPACES + "{{ n60 }}",
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops over nothing": "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "loops that write": "{% for i in range(99999) %}{% for j in range(999) %}" + "x" * 500 + "{% endfor %}{% endfor %}",
    "a text written often": "{% set x = 'y' * 1000000 %}{% for i in range(99999) %}{{ x }}{% endfor %}",
    "a text copied often": "{% set x = 'y' * 1000000 %}{% for i in range(99999) %}{% set z = x[1:] %}{% endfor %}",
    "a text compared often": "{% set x = 'y' * 1000000 %}{% for i in range(99999) %}{{ '' if x == 'y' }}{% endfor %}",
    "a macro that calls itself": "{% macro f(n) %}{{ f(n-1) ~ f(n-1) if n }}{% endmacro %}{{ f(60) }}",
    "a great power": "{{ 10 ** (10 ** 9) }}",
    "great factors": "{{ (2 ** 16000) * (2 ** 16000) }}",
    "a width": "{{ '%1000000000d' % 1 }}",
    "a width that is given": "{{ '%*d' % (10**9, 1) }}",
    "a width of format": "{{ '{:1000000000}'.format(1) }}",
    "a given width of format": "{{ '{:{w}}'.format(1, w=10**9) }}",
    "a width of a filter": "{{ '%1000000000d' | format(1) }}",
    "centred": "{{ 'x' | center(10**9) }}",
    "justified": "{{ 'x'.ljust(10**9) }}",
    "indented": "{{ ('x\n' * 1000) | indent(10**7) }}",
    "replaced": "{{ ('x' * 10**6).replace('x', 'y' * 10**5) }}",
    "joined": "{{ (['a'] * 10**6) | join('x' * 10**6) }}",
    "many slices": "{{ 'abc' | slice(10**9) | list | length }}",
    "deep JSON": "{{ {'a': 1} | tojson(indent=10**9) }}",
    "a long template": "x" * (LARGEST_TEMPLATE + 1),
}


@pytest.mark.parametrize("what", TEMPLATES)
def test_a_template_without_end_is_refused(what: str) -> None:
    tokenizer = load_tokenizer("embedded:small")
    tokenizer.chat_template = TEMPLATES[what]
    began = time.monotonic()
    with pytest.raises(TemplateLimitError, match="the chat template"):
        encode_prompts(tokenizer, [CONVERSATION])
    assert time.monotonic() - began < 60  # without the limits it would take hours, and all memory


def test_long_conversations_are_rendered() -> None:
    tokenizer = load_tokenizer("embedded:small")
    turns = ({"role": "user", "content": "word " * 2000}, {"role": "assistant", "content": "word " * 2000}) * 200
    tokenizer.chat_template = (
        "{% for message in messages %}{% set text = message.content.split('</think>')[-1].strip() %}"
        "{{ '<' + message.role + '>' + text | trim ~ '\n' if messages | length > loop.index0 }}{% endfor %}"
    )
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text == "".join(f"<{turn['role']}>{turn['content'].strip()}\n" for turn in turns)


def test_size_counts_what_is_written_out_and_no_further_than_it_has_to() -> None:
    assert size("abc") == 3
    assert size(["abc", ["d", {"ef": 1}]]) == 2 + 3 + 2 + 1 + 1 + 2 + 1
    inner: list[object] = ["a"]
    for _ in range(100):
        inner = [inner, inner]
    assert 1000 < size(inner, 1000) < 2000


LONG = [{"role": role, "content": f"{role} says " * 150} for role in ("user", "assistant")] * 200
CALLS = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris", "days": 2}}}]
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "plain": [{"role": "user", "content": " Hi. "}, {"role": "assistant", "content": "Hello."}],
    "thinking": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "<think>Hm.</think>Hello."}],
    "tools": [
        {"role": "user", "content": "Is it warm in Paris?"},
        {"role": "assistant", "content": "", "tool_calls": CALLS},
        {"role": "tool", "name": "weather", "content": "It is warm."},
        {"role": "assistant", "content": "Yes."},
    ],
    "long": LONG,
}


def test_long_conversations_are_no_attack() -> None:
    template = (
        "{% for message in messages %}{{ message.role + ': ' + message.content.strip().replace('\\n', ' ') }}"
        "{{ message.content.split('</think>')[-1] if message.content.startswith('a') }}{% endfor %}"
    )
    bound_templates()
    assert _compiled(template).render(messages=LONG).count("user: user says") == 200


@pytest.mark.slow
def test_real_templates_render_as_before() -> None:
    """Those that TRL has collected, many of them of well-known models."""
    trl = pytest.importorskip("trl")
    bound_templates()
    templates = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
    assert len(templates) > 10
    for path in templates:
        template = path.read_text()
        for name, messages in CONVERSATIONS.items():
            values = {"messages": messages, "tools": None, "bos_token": "<s>", "eos_token": "</s>"}
            rendered = [_rendered(compiled(template), values) for compiled in (_original[0], _compiled)]
            assert rendered[0] == rendered[1], (path.name, name)


def _rendered(template: Any, values: dict[str, Any]) -> str:
    try:
        text: str = template.render(values)
        return text
    except (UndefinedError, TemplateError, TypeError) as error:  # not every template knows every kind of message
        return str(error)
