"""`python cli.py plan`."""

from __future__ import annotations

import itertools
import json as json_format
from pathlib import Path

from halo_lightning.errors import ConfigError, HaloError
from halo_lightning.planning import grid, shapes
from halo_lightning.planning.estimate import Estimator
from halo_lightning.planning.gpus import gpus_named
from halo_lightning.planning.job import Job, jobs
from halo_lightning.planning.plan import Plan, plan
from halo_lightning.planning.show import show
from halo_lightning.planning.workload import Assumed, Read, Workload

EXAMPLES, TOKENS = 100_000, 400
"""What is assumed of data that is not read."""


def plan_run(
    config: list[str] | str | None = None,
    settings: list[str] | None = None,
    model_config: str | None = None,
    gpu: list[str] | str | None = None,
    devices: list[int] | int | None = None,
    mfu: float = 0.4,
    examples: int | None = None,
    tokens_per_example: int | None = None,
    prompt_share: float = 0.6,
    read_data: bool | None = None,
    json: bool = False,
    table: bool = False,
    out: str | None = None,
) -> None:
    """Says what memory a run takes, on which GPUs it fits, and how long it takes, before anything is loaded.

    Options that are not listed here, such as `--model.lora` or `--trainer.precision`, are those of `fit`.

    Args:
        config: The configuration; of a list of several the later wins.
        settings: Further options of `fit`, as a list; those given as they are to `fit` are added to it.
        model_config: The config.json of the policy, where there is no network and no folder of it.
        gpu: A kind of GPU, or several, by a part of the name, such as `[H100, 24 GB]`; None is all that are known.
        devices: A number of them, or several; None is 1, 2, 4 and 8, and what the configuration says.
        mfu: Share of a GPU's peak rate that is reached, with what checkpointing computes again counted as work.
        examples: How many examples there are; with this or the next option the data is not read.
        tokens_per_example: Mean tokens of a completion together with its prompt.
        prompt_share: How much of these the prompt is, where the data is not read.
        read_data: Whether to read the data. None reads files, and not what would have to be downloaded.
        json: Prints JSON.
        table: In place of one plan, the report's 7 models × 8 methods on 8 GPUs of one kind, by default A100 80 GB.
        out: With `table`: the Markdown file that it is put into, between its markers.
    """
    if not 0 < mfu <= 1:
        raise ConfigError(f"--mfu is {mfu}: expected a share above 0 and up to 1")
    kinds = gpus_named(_listed(gpu))
    if table:
        grid.print_table(kinds[0] if gpu else gpus_named(["A100 80 GB"])[0], mfu, Path(out) if out else None)
        return
    if not config and not settings:
        raise ConfigError("plan needs a configuration: --config FILE (or --table)")
    plans: list[Plan] = []
    notes: list[str] = []
    for job in jobs(_listed(config), settings or []):
        counts = _listed(devices) or sorted({1, 2, 4, 8, *([job.devices] if job.devices else [])})
        workload, note = _workload(job, examples, tokens_per_example, prompt_share, read_data)
        estimator = estimator_of(job, workload, model_config)
        plans.append(plan(job, estimator, counts, kinds, mfu))
        notes += [note] if note else []
    if json:
        print(
            json_format.dumps(
                {"plans": [one.as_plain_data() for one in plans], "notes": list(dict.fromkeys(notes))}, indent=2
            )
        )
    else:
        show(plans, list(dict.fromkeys(notes)))


def estimator_of(job: Job, workload: Workload, model_config: str | None = None) -> Estimator:
    """What estimates a run, with the shapes of its models."""
    module = job.module
    reference = None
    if module.reference_path not in (None, module.policy_path) and module.needs_reference:
        reference = shapes.model_config(str(module.reference_path))
    config = shapes.model_config(module.policy_path, model_config)
    ways = shapes.ways_of_shape(config, module.task, module.packing)
    return Estimator(module, config, workload, reference=reference, ways=ways)


def assumed(job: Job, examples: int | None = None, tokens: int | None = None, prompt_share: float = 0.6) -> Assumed:
    """A workload of which nothing was read."""
    limits = job.data.limits
    return Assumed(
        job.data.feedback,
        examples or EXAMPLES,
        min(tokens or TOKENS, limits.max_length),
        prompt_share,
        limits.max_length,
        limits.max_prompt_length,
        job.data.share_prompts,
    )


def _workload(
    job: Job, examples: int | None, tokens: int | None, prompt_share: float, read_data: bool | None
) -> tuple[Workload, str]:
    """The data's lengths, or what is assumed of them, and why they were not read."""
    sources = [str(source.path) for source in job.data.train_sources]
    instead = assumed(job, examples, tokens, prompt_share)
    if read_data is None and (examples or tokens):
        return instead, ""
    far = [source for source in sources if source.startswith("hub:")]
    if read_data is False or (read_data is None and far):
        why = f"it would be downloaded ({', '.join(far)}): --read_data true" if far else "--read_data false"
        return instead, f"the data was not read, because {why}; or --examples N --tokens_per_example N"
    data = job.data
    if data.streaming:
        return instead, "the data was not read, because it is streamed; or --examples N --tokens_per_example N"
    data.tokenizer_path = data.tokenizer_path or job.module.policy_path
    try:
        data.setup("fit")
    except HaloError as error:
        if read_data:
            raise
        return instead, f"the data could not be read ({error}); or --examples N --tokens_per_example N"
    order = itertools.chain.from_iterable(data.train_sampler(data.train_dataset))
    return Read(data.train_dataset, order, ", ".join(sources)), ""


def _listed(value: object) -> list:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
