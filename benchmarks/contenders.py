"""Who trains: this package, TRL, and straightforward PyTorch. Each gives the losses and the times of its steps."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.work import BETA, CLIP, LEARNING_RATE, Work


class Measured(NamedTuple):
    """What a contender's run gave.

    Attributes:
        losses: Of each step.
        ends: The time at the end of each step, in seconds.
        reference: Seconds that the reference's log-probabilities of all rows took beforehand; 0 where they are
            computed in the steps.
    """

    losses: list[float]
    ends: list[float]
    reference: float


def now(device: str) -> float:
    """The time when everything that was asked of a device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def halo(work: Work, folder: Path, **options: Any) -> Measured:
    """This package, by its own road: data module, module, Trainer."""
    import lightning as L

    from halo_lightning import DPO, KTO, SFT

    losses: list[Tensor] = []
    ends: list[float] = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
            losses.append(outputs["loss"].detach())
            ends.append(now(work.device))

        def on_train_start(self, *_: Any) -> None:
            self.started = now(work.device)

        def on_fit_start(self, *_: Any) -> None:
            self.set_up = now(work.device)

    share_prompts, fused = options.pop("share_prompts", True), options.pop("fused", True)
    if options.pop("compiled", False):
        compile_what_is_cheap()
    settings: dict[str, Any] = {
        "optimizer": lambda p: torch.optim.AdamW(p, lr=LEARNING_RATE, weight_decay=0.0, fused=fused),
        "scheduler": lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
        "dtype": work.dtype,
        "reference_cache": str(folder / "cache"),
    }
    if work.method != "sft":
        settings["beta"] = BETA
    if work.lora:
        settings["lora"] = {"rank": work.lora, "alpha": 2 * work.lora}
    watch = Watch()
    module = {"dpo": DPO, "kto": KTO, "sft": SFT}[work.method](str(folder / "model"), **settings, **options)
    trainer = L.Trainer(
        accelerator="cpu" if work.device == "cpu" else "gpu",
        devices=1,
        precision="bf16-true" if work.dtype == "bfloat16" else "32-true",
        max_epochs=1,
        gradient_clip_val=CLIP,
        logger=False,
        callbacks=[watch],
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = work.data_module(folder, share_prompts=share_prompts)
    trainer.fit(module, datamodule=data)
    return Measured([float(loss) for loss in losses], ends, watch.started - watch.set_up)


def compile_what_is_cheap() -> None:
    """Lets `torch.compile` fuse what surrounds the matrix products of a Llama-shaped model.

    Attention has another number of segments in each batch, for each of which all would be compiled anew.
    """
    from transformers.models.llama import modeling_llama

    torch._dynamo.config.recompile_limit = 64
    for layer in (modeling_llama.LlamaMLP, modeling_llama.LlamaRMSNorm):
        layer.forward = torch.compile(layer.forward, dynamic=True)
    modeling_llama.apply_rotary_pos_emb = torch.compile(modeling_llama.apply_rotary_pos_emb, dynamic=True)


def trl(work: Work, folder: Path, *, best: bool) -> Measured:
    """TRL with its defaults, or with the reference computed beforehand and no activation checkpointing."""
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    ends: list[float] = []
    times: dict[str, float] = {}

    class Watch(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            times["started"] = now(work.device)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(now(work.device))

    batches = json.loads((folder / "batches.json").read_text())
    columns, config_class, trainer_class = {
        "dpo": (dpo_columns, trl.DPOConfig, trl.DPOTrainer),
        "kto": (kto_columns, trl.KTOConfig, trl.KTOTrainer),
        "sft": (sft_columns, trl.SFTConfig, trl.SFTTrainer),
    }[work.method]
    options: dict[str, Any] = {"gradient_checkpointing": False} if best else {}
    if best and work.method != "sft":
        options["precompute_ref_log_probs"] = True
    options |= {"completion_only_loss": True} if work.method == "sft" else {"beta": BETA}
    config = config_class(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=work.batch,
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_length=work.max_length,
        train_sampling_strategy="sequential",
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=work.device == "cpu",
        bf16=work.dtype == "bfloat16",
        disable_tqdm=True,
        max_grad_norm=CLIP,
        **options,
    )
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=getattr(torch, work.dtype))

    class OnTokens(trainer_class):  # type: ignore[misc, valid-type]
        def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
            return dataset  # its rows are tokenised: everybody trains on the same tokens

    before = now(work.device)  # the reference's pass is in the constructor
    trainer = OnTokens(
        model=model,
        args=config,
        train_dataset=Dataset.from_list([row for batch in batches for row in columns(batch)]),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[Watch()],
        peft_config=adapter(work) if work.lora else None,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return Measured(losses, ends, times["started"] - before if best and work.method != "sft" else 0.0)


def adapter(work: Work) -> Any:
    """The adapter of everybody, in peft's words."""
    from peft import LoraConfig

    return LoraConfig(r=work.lora, lora_alpha=2 * work.lora, target_modules="all-linear", task_type="CAUSAL_LM")


def seed_adapters() -> None:
    """Lets every new adapter of this process begin with the same weights: who draws more before it, draws others."""
    import peft

    original = peft.get_peft_model

    def seeded(*arguments: Any, **options: Any) -> Any:
        torch.manual_seed(0)
        return original(*arguments, **options)

    peft.get_peft_model = seeded


def dpo_columns(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pairs as TRL has them when they are tokenised."""
    rows = []
    for row in batch:
        (chosen, rejected), (prompt, _) = row["sequences"], row["prompt_lengths"]
        rows.append({"prompt_ids": chosen[:prompt], "chosen_ids": chosen[prompt:], "rejected_ids": rejected[prompt:]})
    return rows


def kto_columns(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Examples as TRL has them when they are tokenised, each with the completion of the one before it for the KL."""
    parts = [(row["sequences"][0], row["prompt_lengths"][0], row["label"]) for row in batch]
    return [
        {"prompt_ids": ids[:n], "completion_ids": ids[n:], "KL_completion_ids": other[other_n:], "label": label}
        for (ids, n, label), (other, other_n, _) in zip(parts, [parts[-1], *parts[:-1]], strict=True)
    ]


def sft_columns(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Demonstrations as TRL has them when they are tokenised: the labels of prompts are not learnt."""
    return [
        {"input_ids": ids, "labels": [-100] * n + ids[n:]}
        for (ids,), (n,) in ((row["sequences"], row["prompt_lengths"]) for row in batch)
    ]


def straightforward(work: Work, folder: Path) -> Measured:
    """What one writes first: padded rows, all logits in float32, a frozen reference, or the adapter switched off."""
    from transformers import AutoModelForCausalLM

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(folder / "model", dtype=getattr(torch, work.dtype)).to(work.device)

    def logps(model: Any, batch: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        """Log-probabilities and numbers of tokens of the completions, pairs as first all chosen, then all rejected."""
        both = range(len(batch[0]["sequences"]))
        rows = [torch.tensor(row["sequences"][side]) for side in both for row in batch]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(work.device)
        position = torch.arange(ids.shape[1], device=ids.device)
        lengths = torch.tensor([len(row) for row in rows], device=ids.device)[:, None]
        prompts = torch.tensor([row["prompt_lengths"][side] for side in both for row in batch], device=ids.device)
        logits = model(input_ids=ids, attention_mask=position < lengths, use_cache=False).logits.float()
        mask = ((position >= prompts[:, None]) & (position < lengths))[:, 1:]
        all_logps = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        return (all_logps * mask).sum(-1), mask.sum(-1)

    model = load().train()
    if work.lora:
        import peft

        model = peft.get_peft_model(model, adapter(work))
    reference = None if work.method == "sft" or work.lora else load().eval().requires_grad_(False)
    loss_of = dpo if work.method == "dpo" else kto
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    losses, ends = [], []
    for batch in json.loads((folder / "batches.json").read_text()):
        policy_logps, tokens = logps(model, batch)
        if work.method == "sft":
            loss = sft(policy_logps, tokens)
        else:
            with torch.no_grad(), model.disable_adapter() if work.lora else nullcontext():
                reference_logps, _ = logps(reference or model, batch)
            loss = loss_of(policy_logps - reference_logps, [row["label"] for row in batch])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        losses.append(float(loss.detach()))
        ends.append(now(work.device))
    return Measured(losses, ends, 0.0)


def dpo(log_ratios: Tensor, labels: list[bool]) -> Tensor:
    """Equation 4."""
    chosen, rejected = log_ratios.chunk(2)
    return -F.logsigmoid(BETA * (chosen - rejected)).mean()


def kto(log_ratios: Tensor, labels: list[bool]) -> Tensor:
    """Equation 7, each half's KL from the other half."""
    good = torch.tensor(labels, device=log_ratios.device)
    kl = torch.where(good, log_ratios[~good].mean(), log_ratios[good].mean()).clamp(min=0).detach()
    z = BETA * (log_ratios - kl)
    return (1 - torch.sigmoid(torch.where(good, z, -z))).mean()


def sft(logps: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy of a completion token."""
    return -logps.sum() / tokens.sum()


CONTENDERS: dict[str, Callable[[Work, Path], Measured]] = {
    "halo_lightning": halo,
    "TRL, defaults": lambda work, folder: trl(work, folder, best=False),
    "TRL, best settings": lambda work, folder: trl(work, folder, best=True),
    "straightforward PyTorch": straightforward,
    "halo_lightning, padded rows": lambda work, folder: halo(work, folder, packing=False),
    "halo_lightning, prompts not shared": lambda work, folder: halo(work, folder, share_prompts=False),
    "halo_lightning, frozen reference": lambda work, folder: halo(work, folder, reference_mode="frozen"),
    "halo_lightning, no checkpointing": lambda work, folder: halo(work, folder, activation_checkpointing="none"),
    "halo_lightning, selective checkpointing": lambda work, folder: halo(
        work, folder, activation_checkpointing="selective"
    ),
    "halo_lightning, full checkpointing": lambda work, folder: halo(work, folder, activation_checkpointing="full"),
    "halo_lightning, optimizer not fused": lambda work, folder: halo(work, folder, fused=None),
    "halo_lightning, torch.compile": lambda work, folder: halo(work, folder, compiled=True),
}
