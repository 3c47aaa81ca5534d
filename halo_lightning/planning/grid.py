"""The report's 7 models × 8 methods as one table."""

from __future__ import annotations

import re
from pathlib import Path

from halo_lightning.errors import ConfigError
from halo_lightning.files import write_text
from halo_lightning.planning.estimate import Estimator
from halo_lightning.planning.gpus import GPU
from halo_lightning.planning.job import Job, jobs
from halo_lightning.planning.plan import Plan, plan
from halo_lightning.planning.shapes import model_config
from halo_lightning.planning.show import gigabytes, hours_of
from halo_lightning.planning.workload import Assumed

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"
METHODS = ("sft", "slic", "dpo", "sft_dpo", "ppo", "sft_ppo", "kto", "sft_kto")
MODELS = ("pythia1-4b", "pythia2-8b", "pythia6-9b", "pythia12b", "llama7b", "llama13b", "llama30b")
DEVICES = 8
PAIRS, TOKENS, PROMPT_SHARE = 100_000, 400, 0.6
MARKERS = ("<!-- plan table -->", "<!-- /plan table -->")


def grid_table(gpu: GPU, mfu: float, models: tuple[str, ...] = MODELS, methods: tuple[str, ...] = METHODS) -> str:
    """One row for each model and one column for each method, as a Markdown table.

    Args:
        gpu: The kind of the 8 GPUs.
        mfu: Share of its peak rate that is reached.
        models: Those of the report.
        methods: Those of the report.
    """
    lines = [f"| | {' | '.join(methods)} |", "|---" * (len(methods) + 1) + "|"]
    for model in models:
        planned: dict[str, Plan] = {}
        cells = []
        for method in methods:
            path = CONFIGS / f"{method}_{model}.yaml"
            if not path.is_file():
                raise ConfigError(f"{path}: this configuration of the table is not there")
            stages = jobs([str(path)], [])
            for job in stages:
                # A stage, or a method after it, is the same training as without the other.
                name = type(job.module).__name__
                if name not in planned:
                    planned[name] = plan(job, _estimator(job), [DEVICES], [gpu], mfu, changes=False)
            cells.append(_cell([planned[type(job.module).__name__] for job in stages]))
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _estimator(job: Job) -> Estimator:
    feedback, limits = job.data.feedback, job.data.limits
    # A pair is two thumbs.
    examples = PAIRS * (2 if feedback == "unary" else 1)
    workload = Assumed(feedback, examples, TOKENS, PROMPT_SHARE, limits.max_length, limits.max_prompt_length)
    return Estimator(job.module, model_config(job.module.policy_path), workload)


def _cell(stages: list[Plan]) -> str:
    """Memory with the configuration's micro-batch, the largest micro-batch that fits, and the time of all stages."""
    need = max(memory.parts.total for one in stages for _, memory in one.memory.values())
    offers = [one.offers[0] for one in stages]
    if any(offer.micro_batch is None for offer in offers):
        return f"{gigabytes(need)} GB: no"
    return f"{gigabytes(need)} GB, {offers[-1].micro_batch}, {hours_of(sum(offer.hours for offer in offers))}"


def print_table(gpu: GPU, mfu: float, out: Path | None) -> None:
    """Prints the table, or puts it between the markers of a Markdown file.

    Raises:
        ConfigError: The file has no markers.
    """
    text = (
        f"On {DEVICES} × {gpu.name}: memory of one GPU with the configuration's micro-batch, the largest micro-batch"
        f" that fits, and the time for {PAIRS:,} pairs (twice as many thumbs) of {TOKENS} tokens a completion, its"
        f" prompt's {PROMPT_SHARE:.0%} included, at {mfu:.0%} of the peak rate, an SFT stage included.\n\n"
        + grid_table(gpu, mfu)
    )
    if out is None:
        print(text)
        return
    try:
        page = out.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {out}: this file cannot be read ({error.strerror})") from error
    first, last = MARKERS
    if first not in page or last not in page:
        raise ConfigError(
            f"--out {out}: the lines {first} and {last}, between which the table goes, are not in this file"
        )
    between = re.compile(f"{re.escape(first)}.*?{re.escape(last)}", flags=re.DOTALL)
    write_text(out, between.sub(lambda _: f"{first}\n{text}\n{last}", page, count=1))
    print(f"wrote the table into {out}")
