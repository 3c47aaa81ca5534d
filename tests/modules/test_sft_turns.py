"""Loss on all turns of the assistant, from rows on disk to gradients, against plain forward passes in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from halo_lightning import SFT, SFTDataModule
from tests.conftest import tiny_llama
from tests.data.chat import tokenizer_of
from tests.data.helpers import write_rows

TURN = ("<|im_start|>{}\n", "<|im_end|>\n")


def conversation(number: int, turns: int) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": "Be kind."}]
    for turn in range(turns):
        question = "Name a fruit." if turn == 0 else f"Is it {number}?"  # the first one is shared
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": f"Yes, {turn + number}!"}]
    return messages


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model and a tokenizer with a ChatML template."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tokenizer_of("byte BPE, words", "qwen")
    tokenizer.save_pretrained(folder)
    tiny_llama(vocab_size=len(tokenizer), max_position_embeddings=256).save_pretrained(folder)
    return str(folder)


def expected_losses(module: SFT, tokenizer: Any, rows: list[Any], all_turns: bool) -> list[torch.Tensor]:
    """-log π of what the assistant says and of the end of its turn, one forward pass for each conversation."""
    losses = []
    for row in rows:
        ids, learned = [], []
        for number, message in enumerate(row["messages"]):
            begin, end = (tokenizer(text.format(message["role"]))["input_ids"] for text in TURN)
            said = tokenizer(message["content"])["input_ids"]
            yes = message["role"] == "assistant" and (all_turns or number == len(row["messages"]) - 1)
            ids += [*begin, *said, *end]
            learned += [False] * len(begin) + [yes] * (len(said) + 1) + [False] * (len(end) - 1)
        tokens = torch.tensor(ids)
        logps = module.pair.policy(input_ids=tokens[None], use_cache=False).logits[0, :-1].log_softmax(-1)
        losses.append(-logps.gather(1, tokens[1:, None])[:, 0][torch.tensor(learned[1:])])
    return losses


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("share_prompts", [True, False])
@pytest.mark.parametrize("average", ["tokens", "examples"])
@pytest.mark.parametrize("loss_on", ["last_turn", "all_turns"])
def test_loss_and_gradients(
    tmp_path: Path, model: str, loss_on: Any, average: Any, share_prompts: bool, packing: bool
) -> None:
    rows = [{"messages": conversation(number, turns)} for number, turns in enumerate([1, 3, 2, 3])]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    options = {"tokenizer": model, "validation_fraction": 0, "share_prompts": share_prompts}
    data = SFTDataModule(path, loss_on=loss_on, **options)  # type: ignore[arg-type]
    data.setup()
    batch = data.train_dataset[[0, 1, 2, 3]]
    module = SFT(model, dtype="float64", average=average, packing=packing)
    module.configure_model()
    expected = expected_losses(module, data.tokenizer, rows, loss_on == "all_turns")
    per_example = torch.stack([one.sum() for one in expected])
    total = torch.cat(expected).mean() if average == "tokens" else per_example.mean()
    total.backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    module.zero_grad()
    loss, values = module.loss_and_metrics(batch)
    loss.backward()
    torch.testing.assert_close(loss, total, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(values["logps"], -per_example, rtol=1e-7, atol=1e-7)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-5, atol=1e-5)  # norms are float32
    assert data.summary.completion_tokens == sum(map(len, expected))


def test_a_cut_conversation_has_something_to_learn(tmp_path: Path, model: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": conversation(1, 3)}])
    for length in range(2, 60, 7):
        data = SFTDataModule(
            path, tokenizer=model, validation_fraction=0, loss_on="all_turns", max_length=length, max_prompt_length=1
        )
        data.setup()
        sequences = data.train_dataset[0].sequences
        assert len(sequences.targets) >= 1
        assert len(sequences.input_ids) == length


def test_a_mistyped_choice() -> None:
    with pytest.raises(ValueError, match="loss_on is 'all': expected 'last_turn' or 'all_turns'"):
        SFTDataModule("rows.jsonl", loss_on="all")  # type: ignore[arg-type]
