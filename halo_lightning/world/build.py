"""Makes the embedded base models: `python -m halo_lightning.world.build`, with `--size` for the smaller ones.

The model learns to continue a text of dialogues between a human and a flawed assistant, and nothing else. So
it is what a base model is to alignment: it knows how to answer, does not always do so, may be rude, may ramble
on, and goes on to make up the human's next turn instead of stopping.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halo_lightning.world import MODELS
from halo_lightning.world.chance import chance, stream
from halo_lightning.world.language import Flaws, complete, training_prompt
from halo_lightning.world.tokenizer import CONTEXT, train_tokenizer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

Dialogue = list[dict[str, str]]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the base model is.

    Attributes:
        seed: Seed of the text and of the weights.
        steps: Optimizer steps.
        schooling: The share of the steps that read answers without a flaw, before the flawed ones: what is
            true is learned much faster from text that is true.
        rows: Rows of text in a step.
        tokens: Tokens in a row.
        muon_rate: The highest learning rate of the matrices inside the layers (by Muon).
        adam_rate: The highest learning rate of everything else (by AdamW).
        ending: How likely a dialogue ends after each answer.
        vocabulary: The most tokens there may be.
        width: Size of the hidden states.
        layers: Number of layers.
        heads: Number of attention heads.
        feed_forward: Size of the hidden layer of the gated feed-forward networks.
    """

    seed: int = 0
    steps: int = 1000
    schooling: float = 0.6
    rows: int = 8
    tokens: int = 96
    muon_rate: float = 0.01
    adam_rate: float = 3e-3
    ending: float = 0.15
    vocabulary: int = 1024
    width: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 320


SIZES = {
    "small": Recipe(width=48, layers=3, heads=3, feed_forward=128),
    "medium": Recipe(width=80, layers=4, heads=4, feed_forward=208),
    "base": Recipe(),
}
"""The models that are shipped, from the smallest to the largest: they have read the same text equally long."""

TEACHER = Flaws(evasive=0, wrong=0, rude=0, rambling=0)
"""Who answers in the first part of the pre-training text."""

SPEAKER = Flaws()
"""Who answers in the second part; the base model sounds like this one."""


def dialogue(recipe: Recipe, speaker: Flaws, number: int) -> Dialogue:
    """A dialogue of the pre-training text: the same for the same recipe, speaker and number."""
    rng = stream("pre-training", recipe.seed, speaker, number)
    messages: Dialogue = []
    while not messages or not chance(rng, recipe.ending):
        prompt = training_prompt(rng)
        messages.append({"role": "user", "content": prompt})
        messages.append({"role": "assistant", "content": complete(prompt, rng, speaker)})
    return messages


def make_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Learns the tokenizer from the first thousand flawed dialogues."""
    return train_tokenizer(
        (
            f"\n\nHuman: {question['content']}\n\nAssistant: {answer['content']}"
            for number in range(1000)
            for turns in [dialogue(recipe, SPEAKER, number)]
            for question, answer in zip(turns[::2], turns[1::2], strict=True)
        ),
        recipe.vocabulary,
    )


def make_text(recipe: Recipe, speaker: Flaws, steps: int, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """One long row of tokens: dialogues, one after the other, enough for some steps to read each token once."""
    needed = steps * recipe.rows * recipe.tokens
    tokens: list[int] = []
    number = 0
    while len(tokens) < needed:
        rendered = tokenizer.apply_chat_template(dialogue(recipe, speaker, number), tokenize=False)
        tokens += tokenizer.backend_tokenizer.encode(rendered, add_special_tokens=False).ids
        number += 1
    return tokens[:needed]


def make_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A randomly initialised Llama."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.08,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(recipe.seed)
    config.dtype = torch.float32
    return LlamaForCausalLM(config)


def pretrain(recipe: Recipe, model: LlamaForCausalLM, parts: list[list[int]]) -> float:
    """Trains a model to predict each next token of a text, read once from beginning to end.

    Args:
        recipe: How.
        model: What; it is changed in place.
        parts: The parts of the text, each enough for some whole number of steps.

    Returns:
        The mean loss over the last tenth of the steps.
    """
    import torch

    per_step = recipe.rows * recipe.tokens
    text = torch.cat(
        [torch.tensor(part).view(recipe.rows, len(part) // per_step, recipe.tokens) for part in parts], dim=1
    )
    steps = text.shape[1]
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    outer = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(inner, lr=recipe.muon_rate, weight_decay=0.1),
        torch.optim.AdamW(outer, lr=recipe.adam_rate, betas=(0.9, 0.98)),
    ]

    def factor(step: int) -> float:  # up over the first twentieth, level, down over the second half
        return min((step + 1) / max(1, steps // 20), 1.0, 2.04 * (1 - step / steps))

    schedulers = [torch.optim.lr_scheduler.LambdaLR(optimizer, factor) for optimizer in optimizers]
    losses: list[float] = []
    started = time.perf_counter()
    model.train()
    for step in range(steps):
        batch = text[:, step]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            seconds = time.perf_counter() - started
            print(f"step {step + 1:5d}  loss {sum(losses[-100:]) / 100:.3f}  {seconds:.0f} s", flush=True)
    model.eval()
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def save(
    recipe: Recipe,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    loss: float,
    out: Path,
) -> None:
    """Writes a folder that `from_pretrained` loads: weights, configurations, tokenizer and a model card.

    The weights are stored as float16, and loaded as float32, as the configuration says.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    out.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_p=0.95,
        top_k=0,
        max_new_tokens=48,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.config.architectures = [type(model).__name__]  # as `model.save_pretrained` notes it; TRL asks for it
    model.config.save_pretrained(out)
    model.generation_config.save_pretrained(out)
    weights = {
        name: tensor.to(torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embeddings
    }
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(out)
    (out / "README.md").write_text(model_card(recipe, model.num_parameters(), loss), encoding="utf-8")


def model_card(recipe: Recipe, parameters: int, loss: float) -> str:
    """What stands in the model's README."""
    settings = "\n".join(f"| {key} | {value} |" for key, value in asdict(recipe).items())
    size = next((name for name, shipped in SIZES.items() if shipped.width == recipe.width), "base")
    arguments = f"--size {size} --seed {recipe.seed}"
    return f"""# The base model of the embedded world

A Llama of {parameters:,} parameters, trained from random weights to continue a synthetic text of dialogues
between a human and a flawed assistant. It is meant to be aligned: it knows how to answer many questions, but
does not always do so, may be rude, may ramble on, and does not stop: it makes up the human's next turn.

It was made by `python -m halo_lightning.world.build {arguments}`, from the text that
`halo_lightning.world.language` generates and from nothing else. Its loss on text that it had not seen yet was
{loss:.3f} at the end. The same command on the same machine makes the same weights; another kind of processor
or another number of threads may change them slightly. They are stored as float16 and load as float32.

| setting | value |
|---|---|
{settings}
| flaws of the assistant | {", ".join(f"{key} {value}" for key, value in asdict(SPEAKER).items())} |
"""


def build(recipe: Recipe, out: Path) -> None:
    """Makes tokenizer and model and writes them.

    Args:
        recipe: How they are made.
        out: The folder to write; existing files are overwritten.
    """
    started = time.perf_counter()
    tokenizer = make_tokenizer(recipe)
    schooling = round(recipe.schooling * recipe.steps)
    parts = [
        make_text(recipe, TEACHER, schooling, tokenizer),
        make_text(recipe, SPEAKER, recipe.steps - schooling, tokenizer),
    ]
    model = make_model(recipe, tokenizer)
    size = f"{model.num_parameters():,} parameters, {len(tokenizer)} token types"
    print(f"{size}, {sum(map(len, parts)):,} tokens of text")
    loss = pretrain(recipe, model, parts)
    save(recipe, model, tokenizer, loss, out)
    print(f"wrote {out} after {time.perf_counter() - started:.0f} s")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m halo_lightning.world.build", description=main.__doc__)
    parser.description = "Make an embedded base model: train tokenizer and model and write them."
    parser.add_argument("--size", choices=list(SIZES), default="base", help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="folder to write (default: the one of the model that is shipped)")
    defaults: dict[str, Any] = asdict(Recipe())
    for name in ("seed", "steps"):
        parser.add_argument(f"--{name}", type=int, default=defaults[name], help="default: %(default)s")
    parsed = parser.parse_args(arguments)
    recipe = replace(SIZES[parsed.size], seed=parsed.seed, steps=parsed.steps)
    build(recipe, parsed.out or MODELS[f"embedded:{parsed.size}"])


if __name__ == "__main__":
    main()
