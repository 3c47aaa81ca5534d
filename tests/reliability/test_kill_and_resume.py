"""A run that is killed at any moment and goes on ends with the same bytes as one that was not interrupted."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.comparison import differences
from tests.reliability.trials import REPOSITORY, Fault, Forge, counts

CONFIGS = REPOSITORY / "configs"
SMALL = [
    "--model.policy=embedded:small",
    "--data.batch_size=8",
    "--data.validation_fraction=0.2",
    "--trainer.log_every_n_steps=3",  # does not divide what checkpoints are made at
    "--samples.prompts=1",
    "--samples.max_new_tokens=4",
    "--ckpt_path=last",
]


def fit(config: str, train: str, *options: str) -> list[str]:
    return ["fit", f"--config={CONFIGS / config}", f"--data.train=embedded:{train}", *SMALL, *options]


NO_PICTURES = "--pictures.every_n_steps=0"  # drawing them takes half of the time of a run
STAGE = (
    '--sft_stage.arguments=["--run_dir=runs/sft", "--model.policy=embedded:small", "--trainer.log_every_n_steps=2",'
    ' "--data.train=embedded:sft?examples=40", "--data.batch_size=8", "--data.validation_fraction=0.2",'
    ' "--samples.prompts=1", "--samples.max_new_tokens=4", "--trainer.val_check_interval=2"]'
)
SCENARIOS = {
    "two stages": [
        *fit("tiny_sft_kto.yaml", "thumbs?examples=40", "--run_dir=runs/kto", "--trainer.max_epochs=2", STAGE),
        "--trainer.val_check_interval=2",
        NO_PICTURES,
    ],
    # Validations fall within accumulated gradients; the best by a metric are kept; checkpoints by steps.
    "accumulated, best kept": [
        *fit("tiny_dpo.yaml", "pairs?examples=50", "--run_dir=runs/dpo", "--trainer.max_epochs=2"),
        "--data.micro_batch_size=2",
        "--trainer.val_check_interval=6",
        "--trainer.log_every_n_steps=2",
        "--checkpoint.monitor=val/loss",
        "--checkpoint.save_top_k=2",
        "--checkpoint.every_n_train_steps=3",
        "--data.num_workers=1",
        NO_PICTURES,
    ],
    # State of the method's own; a validation and a checkpoint at the end of each epoch; a schedule that decays.
    "ends of epochs": [
        *fit("tiny_bco.yaml", "thumbs?examples=50", "--run_dir=runs/bco", "--trainer.max_epochs=3"),
        "--sft_stage=null",
        "--trainer.val_check_interval=1.0",
        "--model.scheduler=halo_lightning.LinearWarmup",
        "--model.scheduler.then=cosine",
        "--pictures.every_n_steps=12",
    ],
    # No validation at all, checkpoints at every step, all of them kept, an adapter whose reference is the policy.
    "adapter": [
        *fit("tiny_kto.yaml", "thumbs?examples=40", "--run_dir=runs/lora", "--trainer.max_steps=7"),
        "--trainer.limit_val_batches=0",
        "--trainer.max_epochs=-1",
        "--checkpoint.every_n_train_steps=1",
        "--checkpoint.save_top_k=-1",
        "--model.lora={rank: 4, alpha: 8}",
        NO_PICTURES,
    ],
}


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    with Forge() as forge:
        yield forge


class Whole:
    """Runs of each scenario that nothing interrupts, made when they are asked for."""

    def __init__(self, forge: Forge, folder: Path) -> None:
        self.forge, self.folder = forge, folder

    def __getitem__(self, scenario: str) -> Path:
        folder = self.folder / scenario.replace(" ", "_").replace(",", "")
        if not folder.exists():
            ended = self.forge.run(folder, SCENARIOS[scenario])
            assert ended.status == 0, ended.output
        return folder


@pytest.fixture(scope="module")
def whole(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(forge, tmp_path_factory.mktemp("whole"))


def random_fault(random: random.Random, whole: Path, kinds: tuple[str, ...]) -> Fault:
    """A moment drawn from all that the uninterrupted run had."""
    kind = random.choice(kinds)
    if kind == "bytes":
        return Fault(kind, int(10 ** random.uniform(2, 6.2)))
    if kind == "time":
        return Fault(kind, random.uniform(0.05, 4.0))
    return Fault(kind, random.randint(1, counts(whole)["file" if kind == "file" else "step"]))


def trial(forge: Forge, whole: Whole, folder: Path, scenario: str, seed: int, kinds: tuple[str, ...]) -> list[Fault]:
    """Interrupts a run a few times, lets it go on to its end, and compares. Returns what was done to it."""
    chance, faults = random.Random(f"{scenario} {seed}"), []
    reference = whole[scenario]
    for _ in range(chance.choice((1, 1, 2, 3))):
        fault = random_fault(chance, reference, kinds)
        faults.append(fault)
        ended = forge.run(folder, SCENARIOS[scenario], fault)
        ok = (0,) if fault.kind == "terminate" else (0, -9, -14, -25)
        assert ended.status in ok, (faults, ended.status, ended.output)
    ended = forge.run(folder, SCENARIOS[scenario])
    assert ended.status == 0, (faults, ended.output)
    found = differences(reference, folder)
    assert not found, (faults, found, ended.output)
    shutil.rmtree(folder)
    return faults


KILLS = ("file", "file", "step", "bytes", "time", "terminate")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_dozen_runs_that_were_killed(forge: Forge, whole: Whole, scenario: str, seed: int, tmp_path: Path) -> None:
    trial(forge, whole, tmp_path, scenario, seed, ("file", "step", "bytes"))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_many_runs_that_were_killed(forge: Forge, whole: Whole, scenario: str, tmp_path: Path) -> None:
    """25 trials of each scenario, 100 in all, at moments of all kinds; prints what they were."""
    faults, failed = [], []
    for seed in range(100, 125):
        try:
            faults += trial(forge, whole, tmp_path / str(seed), scenario, seed, KILLS)
        except AssertionError as error:
            failed.append(seed)
            print(f"\n{scenario}, seed {seed}: {str(error)[:3000]}", flush=True)
    kinds = [fault.kind for fault in faults]
    counted = {kind: kinds.count(kind) for kind in dict.fromkeys(KILLS)}
    print(f"\n{scenario}: 25 trials, {len(failed)} failed, {len(kinds)} interruptions: {counted}", flush=True)
    assert not failed
