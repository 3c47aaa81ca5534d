"""The main job in miniature: the embedded model, aligned with embedded feedback, and what that achieved."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from halo_lightning.configurations import configurations
from halo_lightning.errors import ConfigError
from halo_lightning.files import write_json


def demo(run_dir: str = "runs/demo", seed: int = 1, prompts: int = 200, config: str | None = None) -> None:
    """Finetunes and aligns the embedded model, samples held-out prompts from each stage, and prints who wins.

    Args:
        run_dir: The folder that everything is written to.
        seed: Of training and sampling.
        prompts: Number of held-out prompts.
        config: The configuration of the alignment, with an SFT stage before it; None is `tiny_sft_kto.yaml`.
    """
    from halo_lightning.evaluation.judging import judge_models
    from halo_lightning.training_cli import HaloCLI

    config = config or str(configurations() / "tiny_sft_kto.yaml")
    if not Path(config).is_file():
        raise ConfigError(f"{config}: there is no such configuration")
    began = time.perf_counter()
    root = Path(run_dir)
    stage = [f"--run_dir={root / 'sft'}", f"--seed_everything={seed}"]
    HaloCLI(
        args=[
            "fit",
            f"--config={config}",
            f"--run_dir={root / 'aligned'}",
            f"--seed_everything={seed}",
            f"--sft_stage.arguments={json.dumps(stage)}",
        ]
    )
    rows = judge_models(
        {
            "base": "embedded:base",
            "SFT": str(root / "sft" / "export"),
            "aligned": str(root / "aligned" / "export"),
        },
        prompts=prompts,
        seed=seed,
        out=root / "generations.jsonl",
    )
    write_json(root / "results.json", rows)
    print_table(rows, prompts)
    print(f"\nIn {time.perf_counter() - began:.0f} s. What the three models said: {root / 'generations.jsonl'}")
    print(f"The curves: tensorboard --logdir {root}")
    print(f"The aligned model, for AutoModelForCausalLM.from_pretrained: {root / 'aligned' / 'export'}")


def print_table(rows: list[dict[str, Any]], prompts: int) -> None:
    """Prints what `judge_models` found."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{prompts} held-out prompts, judged by rules against the human-chosen completion")
    for column in ("model", "win rate", "75 % interval", "ties", "helpful", "harmless", "concise", "tokens"):
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["model"],
            f"{row['rate']:.2f}",
            f"{row['low']:.2f}–{row['high']:.2f}",
            str(row["ties"]),
            *(f"{row[key]:.2f}" for key in ("helpful", "harmless", "concise")),
            f"{row['tokens']:.1f}",
        )
    Console(width=max(100, Console().width)).print(table)
