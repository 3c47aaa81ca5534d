"""`generate`: completions of the same prompts, with the same random numbers, from one model after the other.

What sampling needs is imported when the command runs, so that its help is quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from halo_lightning.data.sources.config import Source
from halo_lightning.errors import ConfigError

Backend = Literal["transformers", "vllm"]
DType = Literal["auto", "float64", "float32", "bfloat16", "float16"]
OnBadRow = Literal["error", "skip"]


def generate_completions(
    policy: str | None = None,
    config: list[str] | str | None = None,
    prompts: list[str | Source] | str | Source | None = None,
    out: str | None = None,
    name: str | None = None,
    group: str = "",
    count: int = 512,
    seed: int = 1,
    max_new_tokens: int | None = None,
    temperature: float = 1.0,
    top_p: float = 0.95,
    batch_size: int = 64,
    dtype: DType | None = None,
    device: str | None = None,
    backend: Backend = "transformers",
    backend_options: dict[str, Any] | None = None,
    on_bad_row: OnBadRow = "error",
) -> None:
    """Samples a completion of each prompt, and writes it beside the one that a human chose.

    A prompt gets the same random numbers from every model, whatever its batch. Killed in the middle, the same command
    goes on at the next prompt. The settings are in `….settings.json` beside the file.

    Args:
        policy: A Hugging Face folder, a hub id or `embedded:base`. None is the export of the run of `config`.
        config: The configuration of a training run, or several that are merged. Its held-out feedback gives the
            prompts.
        prompts: Where the prompts come from instead: one or several sources of feedback of any kind and format, such as
            a file, `hub:owner/name` or `embedded:held_out`.
        out: The file to write (JSON Lines); None is `generations.jsonl` in the run's folder, or beside the model.
        name: What the report calls the model; None is its method, or the last part of its path.
        group: What the report sets side by side, such as the size of the model: `--group 7B`.
        count: The most prompts; where there are more, a hash of (seed, prompt) decides which.
        seed: Of the choice of prompts and of the sampling.
        max_new_tokens: Most tokens of a completion; None is 512, or half of the model's context if that is less.
        temperature: Of the sampling; 0 takes the most likely token each time.
        top_p: Samples from the smallest set of tokens that has this probability.
        batch_size: Prompts that are sampled at one time.
        dtype: Of the weights; None is bfloat16 on a GPU and float32 elsewhere.
        device: Where to compute, such as `cuda:1`; None is a GPU if there is one.
        backend: `transformers`, or `vllm`, which is an extra.
        backend_options: Further arguments of `vllm.LLM`, such as `{"tensor_parallel_size": 4}`.
        on_bad_row: What happens to a row of the prompts' sources that cannot be used: `error` or `skip`.
    """
    import torch

    from halo_lightning.data.sources.bad_rows import BadRows
    from halo_lightning.evaluation.generation_job import GenerationJob, default_limit
    from halo_lightning.evaluation.prompts import held_out_questions, read_questions
    from halo_lightning.evaluation.sampling import Sampling

    configs = [config] if isinstance(config, str) else config or []
    run = _read_run(configs, policy)
    if policy is None and run is None:
        raise ConfigError("found neither policy nor config: expected a model (--policy), or the run of one (--config)")
    policy = policy or str(run.export_folder)
    bad = BadRows(on_bad_row)
    if prompts is not None:
        sources = prompts if isinstance(prompts, list) else [prompts]
        questions = read_questions(sources, count, seed, bad=bad)
        origin: Any = [Source.of(source).as_plain_data() for source in sources]
    elif run is not None:
        questions = held_out_questions(run.datamodule, count, seed, bad=bad)
        origin = "held-out feedback of the configuration"
    else:
        raise ConfigError(
            "found neither prompts nor config: expected a source of prompts (--prompts), such as a file of feedback or"
            " embedded:held_out, or the configuration of a run (--config)"
        )
    if bad.count:
        print(f"prompts: {bad}")
    job = GenerationJob(
        policy=policy,
        name=name or name_of(policy),
        group=group,
        questions=questions,
        sampling=Sampling(
            default_limit(policy) if max_new_tokens is None else max_new_tokens, temperature, top_p, seed
        ),
        batch_size=batch_size,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        dtype=dtype,
        backend=backend,
        backend_options=backend_options or {},
    )
    place = _beside(policy) if run is None else Path(run.settings.run_dir)
    job.run(Path(out) if out is not None else place / "generations.jsonl", origin)


def _read_run(configs: list[str], policy: str | None) -> Any:
    """The run of some configurations, which has left its model if that is to be sampled; None without any."""
    if not configs:
        return None
    from halo_lightning.model_folders import read_manifest
    from halo_lightning.training_cli import ReadRun

    for path in configs:
        if not Path(path).is_file():
            raise ConfigError(f"{path}: there is no such configuration")
    run = ReadRun([f"--config={path}" for path in configs])
    if policy is None and read_manifest(run.export_folder) is None:
        raise ConfigError(
            f"{run.export_folder}: the run of {', '.join(configs)} has left no export here; train it first (fit), or"
            " name a model with --policy"
        )
    return run


def _beside(policy: str) -> Path:
    """The folder of a model's generations: that of its run for an export, else one of its own."""
    folder = Path(policy).expanduser()
    if folder.is_dir():
        return folder.parent if folder.name == "export" else folder
    return Path("runs") / "generations" / policy.replace("/", "-").replace(":", "-")


def name_of(policy: str) -> str:
    """What a model is called: the method that an export comes from (`SFT+KTO` after an SFT stage), else its path.

    Example:
        >>> name_of("EleutherAI/pythia-1.4b")
        'pythia-1.4b'
    """
    from halo_lightning.model_folders import read_manifest

    path = Path(policy).expanduser()
    manifest = (read_manifest(path) if path.is_dir() else None) or {}
    if "module" not in manifest:
        return path.name.removeprefix("embedded:")
    staged = any(key.startswith("sft_stage.") for key in manifest.get("settings", {}))
    return ("SFT+" if staged else "") + manifest["module"]
