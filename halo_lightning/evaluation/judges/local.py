"""Judges on this machine: the embedded rules, a reward model, a chat model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halo_lightning.errors import ConfigError
from halo_lightning.evaluation.judges.base import Answer, Comparison, Judge, Keep, Verdict
from halo_lightning.evaluation.judges.wording import QUESTION, parse, question


class RulesJudge(Judge):
    """The rules of the embedded world; they judge its questions and no others."""

    @property
    def settings(self) -> dict[str, Any]:
        """They have none."""
        return {"judge": "RulesJudge"}

    def judge(self, comparisons: Sequence[Comparison], keep: Keep) -> None:
        """Judges by the rules.

        Raises:
            ConfigError: A prompt is not of the embedded world.
        """
        from halo_lightning.world import rules

        for comparison in comparisons:
            prompt = list(comparison.prompt)
            try:
                first, second = (rules.judge(prompt, text) for text in (comparison.first, comparison.second))
            except ValueError as error:
                raise ConfigError(
                    f"{error}; the embedded rules judge the questions of the embedded world alone. Choose another judge"
                    " (--judge ApiJudge, ChatModelJudge or RewardModelJudge)"
                ) from error
            answers: dict[str, Answer] = {
                name: better(getattr(first, name), getattr(second, name)) for name in first._fields
            }
            answers["overall"] = better(first.score, second.score)
            keep(comparison, Verdict(answers, {"first_meets": first._asdict(), "second_meets": second._asdict()}))


class RewardModelJudge(Judge):
    """A reward model (an export of `RewardModel`): the completion with the higher reward is better, overall.

    Args:
        model: Its folder or hub id.
        batch_size: Completions that are scored at one time.
        device: Where to compute; None is a GPU if there is one.
    """

    def __init__(self, model: str, batch_size: int = 64, device: str | None = None) -> None:
        self.model, self.batch_size, self.device = model, batch_size, device

    @property
    def settings(self) -> dict[str, Any]:
        """The model and its weights."""
        return {"judge": "RewardModelJudge", "model": self.model, "weights": _fingerprint(self.model)}

    def judge(self, comparisons: Sequence[Comparison], keep: Keep) -> None:
        """Scores both completions of each comparison, a batch of comparisons at a time."""
        from halo_lightning.evaluation.rewards import RewardScorer

        scorer = RewardScorer(self.model, batch_size=self.batch_size, device=self.device or _default_device())
        for start in range(0, len(comparisons), self.batch_size):
            batch = comparisons[start : start + self.batch_size]
            prompts = [comparison.prompt for comparison in batch]
            first = scorer.score(prompts, [comparison.first for comparison in batch]).tolist()
            second = scorer.score(prompts, [comparison.second for comparison in batch]).tolist()
            for comparison, one, other in zip(batch, first, second, strict=True):
                details = {"first_reward": one, "second_reward": other}
                # The same text may be scored differently by rounding, in batches of other lengths.
                same = comparison.first == comparison.second
                keep(comparison, Verdict({"overall": "tie" if same else better(one, other)}, details))


class ChatModelJudge(Judge):
    """A Hugging Face chat model on this machine, asked the same question as an API.

    Args:
        model: Its folder or hub id.
        max_new_tokens: Most tokens of its answer.
        batch_size: Comparisons at one time.
        dtype: Of the weights; None is bfloat16 on a GPU and float32 elsewhere.
        device: Where to compute; None is a GPU if there is one.
    """

    def __init__(
        self,
        model: str,
        max_new_tokens: int = 128,
        batch_size: int = 16,
        dtype: str | None = None,
        device: str | None = None,
    ) -> None:
        self.model, self.max_new_tokens, self.batch_size = model, max_new_tokens, batch_size
        self.dtype, self.device = dtype, device

    @property
    def settings(self) -> dict[str, Any]:
        """The model, its weights and what it is asked."""
        return {
            "judge": "ChatModelJudge",
            "model": self.model,
            "weights": _fingerprint(self.model),
            "max_new_tokens": self.max_new_tokens,
            "question": QUESTION,
        }

    def judge(self, comparisons: Sequence[Comparison], keep: Keep) -> None:
        """Asks about a batch of comparisons at a time; the most likely answer counts."""
        from halo_lightning.evaluation.generation import generate
        from halo_lightning.pretrained import load_model, load_tokenizer

        device = self.device or _default_device()
        dtype: Any = self.dtype or ("bfloat16" if device.startswith("cuda") else "float32")
        model, tokenizer = load_model(self.model, dtype=dtype).to(device), load_tokenizer(self.model)
        for start in range(0, len(comparisons), self.batch_size):
            batch = comparisons[start : start + self.batch_size]
            questions = [[{"role": "user", "content": question(comparison)}] for comparison in batch]
            limit = self.max_new_tokens
            replies = generate(model, tokenizer, questions, max_new_tokens=limit, temperature=0, batch_size=len(batch))
            for comparison, reply in zip(batch, replies, strict=True):
                keep(comparison, Verdict(parse(reply.text), {"reply": reply.text}))


def better(first: float, second: float) -> Answer:
    """Which of two numbers is higher."""
    return "first" if first > second else "second" if second > first else "tie"


def _fingerprint(model: str) -> str:
    from halo_lightning.pretrained import resolve_path
    from halo_lightning.reference import weights_fingerprint

    return weights_fingerprint(resolve_path(model))


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
