"""Scores by a sequence classifier in a Hugging Face folder, such as an exported reward model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from halo_lightning.data.rendering import render_text
from halo_lightning.errors import ConfigError, first_line
from halo_lightning.forward import check_tokens
from halo_lightning.labelling.items import Item
from halo_lightning.labelling.scorers import Keep, Scored, Scorer, batched, scored
from halo_lightning.model_folders import check_model
from halo_lightning.pretrained import check_finite, load_plain_tokenizer, resolve_path
from halo_lightning.reference import weights_fingerprint


class ClassifierScorer(Scorer):
    """A sequence classifier: its only output, or the probability of one of its classes.

    A tokenizer with a chat template is given the whole conversation; one without it is given prompt and completion as
    a pair of texts.

    Args:
        path: A folder or hub id.
        batch_size: How many completions are computed at a time.
        positive: The class, by its name or number; the second one of two if it is not given.
    """

    def __init__(self, path: str, batch_size: int, positive: str | None) -> None:
        self.path, self.batch_size, self.positive = path, batch_size, positive
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.tokenizer = _load(path)
        self.model = self.model.eval().to(self.device)
        self.output = _output(self.model.config, positive, path)
        if self.model.config.pad_token_id is None or self.tokenizer.pad_token_id is None:
            self.batch_size = 1  # which of several tokens is the last one, such a model cannot know

    @property
    def settings(self) -> dict[str, Any]:
        """The weights, and which output."""
        return {"scorer": "classifier", "weights": weights_fingerprint(resolve_path(self.path)), "output": self.output}

    def score(self, items: Iterable[Item], keep: Keep) -> None:
        """See `Scorer`."""
        limit = longest(self.model.config, self.tokenizer)
        for batch in batched(items, self.batch_size):
            encoded = [self._tokens(item) for item in batch]
            done = [
                Scored(item, None, f"found {len(one['input_ids'])} tokens, and the classifier takes {limit}")
                for item, one in zip(batch, encoded, strict=True)
                if len(one["input_ids"]) > limit
            ]
            fitting = [(item, one) for item, one in zip(batch, encoded, strict=True) if len(one["input_ids"]) <= limit]
            if fitting:
                values = self._values([one for _, one in fitting])
                done += [scored(item, value) for (item, _), value in zip(fitting, values, strict=True)]
            keep(done)

    def _tokens(self, item: Item) -> dict[str, list[int]]:
        if self.tokenizer.chat_template:
            messages = [*item.prompt, {"role": "assistant", "content": item.completion}]
            text = render_text(self.tokenizer, messages)
            return dict(self.tokenizer(text, add_special_tokens=False))
        return dict(self.tokenizer(plain_text(item), item.completion))

    @torch.no_grad()
    def _values(self, encoded: list[dict[str, list[int]]]) -> list[float]:
        if len(encoded) == 1:
            inputs: Any = {name: torch.tensor([values]) for name, values in encoded[0].items()}
        else:
            inputs = self.tokenizer.pad(encoded, padding_side="right", return_tensors="pt")
        check_tokens(self.model, self.tokenizer, int(inputs["input_ids"].max()))
        logits = self.model(**{name: values.to(self.device) for name, values in inputs.items()}).logits.double()
        values = logits[:, 0] if logits.shape[1] == 1 else logits.softmax(-1)[:, self.output]
        return values.tolist()


def plain_text(item: Item) -> str:
    """A prompt as one text: a single message is its text, several have their roles in front of them."""
    if len(item.prompt) == 1:
        return item.prompt[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in item.prompt)


def longest(config: Any, tokenizer: Any) -> int:
    """Most tokens that a model takes."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return min(tokenizer.model_max_length, positions or tokenizer.model_max_length)


def _load(path: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    folder = resolve_path(path)
    check_model(folder, AutoModelForSequenceClassification)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what is not in the file is said below, in a line
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
        check_finite(model)
    except Exception as error:  # a folder of somebody else's can make libraries fail in any way
        raise ConfigError(f"the classifier {path!r} could not be loaded: {first_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
    if info["missing_keys"]:
        raise ConfigError(
            f"{path}: this is no sequence classifier ({sorted(info['missing_keys'])[0]} is not among its weights);"
            " expected one, such as the export of a RewardModel"
        )
    return model, load_plain_tokenizer(path)


def _output(config: Any, positive: str | None, path: str) -> int:
    names = {int(number): str(name) for number, name in config.id2label.items()}
    if positive is None:
        if len(names) <= 2:
            return len(names) - 1
        raise ConfigError(f"{path} has the classes {', '.join(names.values())}: expected positive to name one of them")
    for number, name in names.items():
        if positive in (name, str(number)):
            return number
    raise ConfigError(f"positive is {positive!r}: expected one of {', '.join(names.values())}")
