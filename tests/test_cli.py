"""The command line as a user types it: runs, stages, exports, and what bad input gets."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from halo_lightning.cli import main
from halo_lightning.figures import read_scalars
from halo_lightning.training_cli import of_the_machine
from halo_lightning.world import BASE_MODEL
from tests.conftest import HH_FILE, REPOSITORY

QUICK = [
    "--trainer.max_steps=4",
    "--trainer.log_every_n_steps=2",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.val_check_interval=4",
]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line as a process of its own."""
    return subprocess.run(
        [sys.executable, "cli.py", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )


def sft_stage(folder: Path, *arguments: str) -> str:
    """The option that gives the SFT stage a folder of its own and further arguments."""
    return f"--sft_stage.arguments={json.dumps([f'--run_dir={folder}', *arguments])}"


def fails(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 2) -> str:
    """Runs a command that has to fail; returns its message, which has to fit one screen."""
    assert main(arguments) == status
    message = capsys.readouterr().err
    assert message.count("\n") <= 24
    assert "Traceback" not in message
    return message


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short SFT + KTO run of the documented command, as a process; both its stages are done in it."""
    folder = tmp_path_factory.mktemp("run")
    os.chdir(REPOSITORY)
    done = cli(
        "fit",
        "--config=configs/tiny_sft_kto.yaml",
        f"--run_dir={folder / 'kto'}",
        "--data.train=embedded:thumbs?examples=300",
        sft_stage(folder / "sft", *QUICK),
        *QUICK,
    )
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


def test_says_what_it_does(run: Path) -> None:
    printed = (run / "stdout").read_text()
    assert f"SFT stage: no finished export in {run / 'sft' / 'export'}, so configs/tiny_sft.yaml runs first" in printed
    assert f"KTO on {run / 'sft' / 'export'}" in printed
    assert "tensorboard --logdir" in printed
    assert "loss" in printed
    saved = re.search(r"python cli.py generate --config (\S+)", printed)
    assert saved
    assert Path(saved.group(1)).is_file()
    assert "Warning" not in (run / "stderr").read_text()


def test_tensorboard_scalars_have_the_known_names(run: Path) -> None:
    scalars = read_scalars(run / "kto")
    names = ["loss", "kl"] + [f"{group}/{kind}" for group in ("rewards", "logps") for kind in ("chosen", "rejected")]
    names += ["rewards/margins", "rewards/accuracies"]
    for name in [*names, *(f"val/{name}" for name in names), "learning_rate", "tokens_per_second"]:
        assert name in scalars, name
    # TensorBoard's step is the index of the step, as everywhere in Lightning.
    assert [step for step, _ in scalars["loss"]] == [1, 3]
    assert scalars["loss"][0][1] == pytest.approx(0.5, abs=0.2)
    assert all(value > 0 for _, value in scalars["tokens_per_second"])


def test_tensorboard_shows_what_was_made_of_the_data(run: Path) -> None:
    scalars = read_scalars(run / "kto")
    train, validation, desirable, undesirable = (
        scalars[f"data/{name}"] for name in ("train", "validation", "desirable", "undesirable")
    )
    assert [step for step, _ in train] == [0]
    assert train[0][1] + validation[0][1] == 300
    assert train[0][1] == desirable[0][1] + undesirable[0][1]
    assert scalars["data/cut_prompts"] == scalars["data/left_out"] == [(0, 0.0)]
    (folder,) = {path.parent for path in (run / "kto").rglob("events.out.tfevents*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    (text,) = events.Tensors("data/text_summary")
    assert f"{int(train[0][1])} examples to train on".encode() in text.tensor_proto.string_val[0]


@pytest.mark.parametrize("stage", ["sft", "kto"])
def test_export_loads_with_transformers_alone(run: Path, stage: str) -> None:
    code = (
        "import sys, torch\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "ids = tokenizer.apply_chat_template([{'role': 'user', 'content': 'Hi'}], add_generation_prompt=True,"
        " return_tensors='pt', return_dict=True)\n"
        "assert GenerationConfig.from_pretrained(sys.argv[1]).eos_token_id == tokenizer.eos_token_id\n"
        "assert model.config.use_cache\n"
        "print(tokenizer.decode(model.generate(**ids, max_new_tokens=4)[0]))\n"
        "assert not any(name.startswith('halo') for name in sys.modules)\n"
    )
    folder = run / stage / "export"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, cwd=run, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "Human: Hi" in done.stdout
    assert (folder / "model.safetensors").is_file()
    assert not list(folder.glob("*.bin"))


def test_a_finished_stage_is_reused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "sft" / "export" / "model.safetensors").stat().st_mtime_ns
    arguments = [
        "fit",
        "--config=configs/tiny_sft_dpo.yaml",
        f"--run_dir={run / 'dpo'}",
        "--data.train=embedded:pairs?examples=200",
        *QUICK,
    ]
    assert main([*arguments, sft_stage(run / "sft", *QUICK)]) == 0
    assert f"SFT stage: the finished export in {run / 'sft' / 'export'} is reused\n" in capsys.readouterr().out
    assert main([*arguments, sft_stage(run / "sft", *QUICK, "--seed_everything=7")]) == 0
    assert "was made with other settings (seed_everything: 1 → 7)" in capsys.readouterr().out
    assert (run / "sft" / "export" / "model.safetensors").stat().st_mtime_ns == before


def test_a_stage_is_computed_on_what_the_run_is_computed_on() -> None:
    arguments = [
        "fit",
        "--trainer.devices",
        "4",
        "--data.batch_size",
        "8",
        "--trainer.strategy=fsdp2",
        "--model.beta=1",
    ]
    assert of_the_machine(arguments) == ["--trainer.devices", "4", "--trainer.strategy=fsdp2"]
    more = ["--trainer.strategy.cpu_offload", "true", "--trainer.max_steps", "5", "--trainer.num_nodes", "2"]
    assert of_the_machine(more) == ["--trainer.strategy.cpu_offload", "true", "--trainer.num_nodes", "2"]


def test_a_damaged_stage_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run / "sft" / "export", tmp_path / "sft" / "export")
    damaged = tmp_path / "sft" / "export" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x7f")
    arguments = ["fit", "--config=configs/tiny_sft_kto.yaml", f"--run_dir={tmp_path / 'kto'}", *QUICK]
    assert main([*arguments, sft_stage(tmp_path / "sft", *QUICK)]) == 2
    assert "the content of model.safetensors is not what was written" in capsys.readouterr().err


def test_a_half_finished_stage_is_run_again(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = tmp_path / "sft" / "export"
    half.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (half / name).write_bytes((run / "sft" / "export" / name).read_bytes()[:100])
    status = main(
        [
            "fit",
            "--config=configs/tiny_sft_kto.yaml",
            f"--run_dir={tmp_path / 'kto'}",
            "--data.train=embedded:thumbs?examples=200",
            sft_stage(tmp_path / "sft", *QUICK),
            *QUICK,
        ]
    )
    assert status == 0
    assert "no finished export" in capsys.readouterr().out
    assert (half / "halo_lightning.json").is_file()


def test_export_of_a_checkpoint_equals_the_export_of_the_run(run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    out = tmp_path / "out"
    assert main(["export", f"--checkpoint={run / 'kto' / 'checkpoints' / 'last.ckpt'}", f"--out={out}"]) == 0
    ours, theirs = load_file(out / "model.safetensors"), load_file(run / "kto" / "export" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)
    assert (out / "chat_template.jinja").read_text() == (run / "kto" / "export" / "chat_template.jinja").read_text()


def test_resuming_in_the_middle_of_an_epoch_changes_nothing(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    settings = ["--config=configs/tiny_kto.yaml", "--data.train=embedded:thumbs?examples=300", *QUICK[1:]]
    settings += ["--trainer.max_steps=6", "--checkpoint.every_n_train_steps=3", "--checkpoint.save_top_k=-1"]
    assert main(["fit", *settings, f"--run_dir={tmp_path / 'whole'}"]) == 0
    halfway = tmp_path / "whole" / "checkpoints" / "epoch=0-step=3.ckpt"
    assert main(["fit", *settings, f"--run_dir={tmp_path / 'resumed'}", f"--ckpt_path={halfway}"]) == 0
    whole, resumed = (load_file(tmp_path / name / "export" / "model.safetensors") for name in ("whole", "resumed"))
    start = load_file(BASE_MODEL / "model.safetensors")
    assert all((whole[name] == resumed[name]).all() for name in whole)
    assert any((whole[name] != start[name]).any() for name in whole)


def test_validate_reports_metrics(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config=configs/tiny_kto.yaml", f"--run_dir={run / 'validate'}", f"--model.policy={run}/kto/export"]
    assert main(["validate", *arguments, "--data.train=embedded:thumbs?examples=200"]) == 0
    assert "val/rewards/accuracies" in capsys.readouterr().out


# --- configurations ------------------------------------------------------------------------------------------------


def printed_config(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *arguments, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


# Those of the report's 56 models are compared with each other in `tests/test_archangel.py`.
OWN = [path for path in (REPOSITORY / "configs").glob("*.yaml") if path.name.startswith(("tiny_", "hh_"))]
SOME = [REPOSITORY / "configs" / f"{name}.yaml" for name in ("sft_kto_llama13b", "slic_pythia1-4b")]


@pytest.mark.parametrize("config", sorted(path.name for path in OWN + SOME))
def test_every_config_parses_and_runs_what_its_header_says(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = printed_config(capsys, f"--config=configs/{config}")
    assert settings["run_dir"] == f"runs/{config.removesuffix('.yaml')}"
    assert f"python cli.py fit --config configs/{config}" in (REPOSITORY / "configs" / config).read_text()


def test_later_configs_and_options_win_and_groups_may_be_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "more.yaml").write_text("model: {init_args: {beta: 0.7}}\ndata: data/other.yaml\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "other.yaml").write_text(
        "class_path: halo_lightning.UnaryDataModule\ninit_args: {train: mine.jsonl}\n"
    )
    configs = ["--config=configs/tiny_kto.yaml", f"--config={tmp_path / 'more.yaml'}"]
    settings = printed_config(capsys, *configs, "--data.batch_size=6", "--trainer.max_epochs=3")
    assert settings["model"]["init_args"]["beta"] == 0.7
    assert settings["model"]["init_args"]["policy"] == "embedded:base"
    assert settings["data"]["init_args"]["train"] == "mine.jsonl"
    assert settings["data"]["init_args"]["batch_size"] == 6
    assert settings["trainer"]["max_epochs"] == 3


@pytest.mark.parametrize("command", [[], ["fit"], ["export"], ["init"], ["curves"], ["demo"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        main([*command, "--help"])
    except SystemExit as stop:
        assert stop.code == 0  # noqa: PT017
    text = capsys.readouterr().out
    assert "usage" in text.lower()
    if command == ["fit"]:
        assert "--sft_stage" in text
        assert "--run_dir" in text


def test_help_of_a_method_shows_its_own_and_the_shared_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", "halo_lightning.KTO"])
    text = capsys.readouterr().out
    for option in ("--model.beta", "--model.desirable_weight", "--model.policy", "--model.optimizer"):
        assert option in text or option.replace("--model.", "--model.init_args.") in text


# --- bad input -----------------------------------------------------------------------------------------------------


def test_a_mistyped_key_names_the_nearest_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = ["fit", "--config=configs/tiny_kto.yaml"]
    assert "did you mean 'beta'?" in fails(capsys, *fit, "--model.init_args.betta=0.2")
    assert "did you mean 'trainer.max_epochs'?" in fails(capsys, *fit, "--trainer.max_epoch=2")
    (tmp_path / "wrong.yaml").write_text("trianer: {max_epochs: 2}\n")
    assert "did you mean 'trainer.max_epochs'?" in fails(capsys, *fit, f"--config={tmp_path / 'wrong.yaml'}")
    (tmp_path / "wrong.yaml").write_text("data: {init_args: {batchsize: 2}}\n")
    assert "did you mean 'batch_size'?" in fails(capsys, *fit, f"--config={tmp_path / 'wrong.yaml'}")
    (tmp_path / "wrong.yaml").write_text("modle: {class_path: halo_lightning.KTO}")
    assert "did you mean 'model'?" in fails(capsys, *fit, f"--config={tmp_path / 'wrong.yaml'}")
    (tmp_path / "wrong.yaml").write_text("model: {class_path: halo_lightning.KTOO, init_args: {policy: embedded:base}}")
    assert "did you mean 'KTO'?" in fails(capsys, *fit, f"--config={tmp_path / 'wrong.yaml'}")
    assert "did you mean 'PairedDataModule'?" in fails(capsys, *fit, "--data=PairdDataModule")
    assert "did you mean 'oversample'?" in fails(capsys, *fit, "--data.balance=oversampel")
    assert "Given value: two" in fails(capsys, *fit, "--trainer.max_epochs=two")
    assert "did you mean 'wrong.yaml'?" in fails(capsys, "fit", f"--config={tmp_path / 'worng.yaml'}")
    (tmp_path / "wrong.yaml").write_text("a: 1\nmodel: {class_path: [\n")
    assert "wrong.yaml: line 3, column 1: this is not YAML" in fails(
        capsys, "fit", f"--config={tmp_path / 'wrong.yaml'}"
    )
    assert "did you mean 'fit'?" in fails(capsys, "fti")
    assert "did you mean 'checkpoint'?" in fails(capsys, "export", "--chekpoint=a", "--out=b")


def test_a_value_of_the_wrong_type(capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, "fit", "--config=configs/tiny_kto.yaml", "--model.beta=abc")
    assert "beta" in message
    assert "float" in message


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.optimizer={class_path: builtins.eval}", "these settings are refused: eval() takes no keyword"),
        (
            "--model.scheduler={class_path: builtins.print}",
            "error: scheduler: no LRScheduler of torch could",
        ),
        ("--model.value_function=builtins.exec", "value_function: it cannot be called with two tensors"),
        ("--model.beta=0", "beta is 0.0: expected a finite number above 0"),
        ("--data.batch_size=-4", "batch_size is -4: expected a whole number of 1 or more"),
    ],
)
def test_what_is_wrong_is_found_before_a_stage_takes_its_time(
    option: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config=configs/tiny_sft_kto.yaml", sft_stage(tmp_path / "sft"), f"--run_dir={tmp_path / 'kto'}"]
    assert message in fails(capsys, "fit", *arguments, option)
    assert not (tmp_path / "sft").exists()


def test_a_strategy_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    option = "--trainer.strategy={class_path: os.system}"
    message = fails(capsys, "fit", "--config=configs/tiny_kto.yaml", option, f"--run_dir={tmp_path}")
    assert "these settings are refused: You selected an invalid strategy name" in message


def test_a_missing_config_and_a_missing_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert "configs/nowhere.yaml" in fails(capsys, "fit", "--config=configs/nowhere.yaml")
    message = fails(capsys, "fit", "--config=configs/tiny_kto.yaml", "--model.policy=./nowhere")
    assert "./nowhere: no such folder" in message


def thumb(**changes: object) -> bytes:
    row = {"prompt": "Say hello.", "completion": "Hello!", "label": True, **changes}
    return json.dumps(row).encode() + b"\n"


GOOD = thumb() + thumb(label=False)
BAD_DATA = {
    "empty file": (b"", ["empty"]),
    "wrong kind of feedback": (b'{"prompt": "Hi", "text": "x"}\n', ["line 1", "completion"]),
    "all desirable": (thumb() * 20, ["20 desirable and 0 undesirable", "balance"]),
    "not UTF-8": (GOOD + b'{"prompt": "\xff\xfe", "completion": "x", "label": true}\n', ["line 3", "UTF-8"]),
    "label": (GOOD + thumb(label="yes"), ["line 3", "'label'", "yes"]),
    "not JSON": (GOOD + b"{oops\n", ["line 3", "JSON"]),
    "empty completion": (GOOD + thumb(completion=""), ["line 3", "completion"]),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_names_file_and_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, said = BAD_DATA[case]
    path = tmp_path / "feedback.jsonl"
    path.write_bytes(content)
    message = fails(
        capsys,
        "fit",
        "--config=configs/tiny_kto.yaml",
        f"--data.train={path}",
        "--data.validation_fraction=0",
        f"--run_dir={tmp_path / 'run'}",
    )
    for words in ["feedback.jsonl", *said] if case != "all desirable" else said:
        assert words in message, (words, message)


def test_thumbs_for_dpo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "feedback.jsonl"
    path.write_bytes(thumb() * 2)
    fit = ["fit", "--config=configs/tiny_dpo.yaml", f"--run_dir={tmp_path / 'run'}"]
    message = fails(capsys, *fit, f"--data.train={path}")
    assert "2 desirable without an undesirable completion of the same prompt" in message
    assert "UnaryDataModule" in message
    message = fails(capsys, *fit, "--data=halo_lightning.UnaryDataModule", "--data.train=embedded:thumbs?examples=100")
    assert "DPO learns from paired feedback" in message


def test_a_missing_and_a_damaged_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = ["fit", "--config=configs/tiny_kto.yaml", f"--run_dir={tmp_path / 'run'}"]
    (tmp_path / "feedback.jsonl").write_bytes(GOOD)
    message = fails(capsys, *fit, f"--data.train={tmp_path / 'fedback.jsonl'}")
    assert "no such file" in message
    assert "feedback.jsonl" in message
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(GOOD * 1000)[:-20])
    assert "cut.jsonl.gz" in fails(capsys, *fit, f"--data.train={tmp_path / 'cut.jsonl.gz'}")


def test_a_prompt_longer_than_the_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "feedback.jsonl"
    path.write_bytes(GOOD + thumb(prompt="Please say hello. " * 100))
    fit = ["fit", "--config=configs/tiny_kto.yaml", f"--run_dir={tmp_path / 'run'}", f"--data.train={path}"]
    message = fails(capsys, *fit, "--data.too_long=error")
    assert "feedback.jsonl, line 3" in message
    assert "max_length" in message
    message = fails(capsys, *fit, "--data.max_prompt_length=128")
    assert "max_prompt_length" in message


def test_debug_shows_the_traceback() -> None:
    done = cli("export", "--checkpoint=nowhere.ckpt", "--out=x", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ConfigError" in done.stderr


def test_a_checkpoint_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.ckpt").write_bytes(b"not a checkpoint")
    message = fails(capsys, "export", f"--checkpoint={tmp_path / 'bad.ckpt'}", f"--out={tmp_path / 'out'}")
    assert "bad.ckpt" in message
    assert not (tmp_path / "out").exists()


# --- real feedback -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not HH_FILE.is_file(), reason="the HH file is not here")
def test_a_few_steps_on_real_feedback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = tmp_path / "start"
    small = ["--vocabulary=600", "--hidden_size=32", "--layers=1", "--heads=2"]
    assert main(["init", f"--data={HH_FILE}", f"--out={start}", *small]) == 0
    status = main(
        [
            "fit",
            "--config=configs/hh_kto_small.yaml",
            f"--data.train={HH_FILE}",
            f"--model.policy={start}",
            f"--run_dir={tmp_path / 'run'}",
            "--data.max_length=64",
            "--data.max_prompt_length=32",
            "--trainer.limit_val_batches=2",
            "--trainer.val_check_interval=4",
            *QUICK,
        ]
    )
    assert status == 0
    assert "left out 9 of 2312 rows" in capsys.readouterr().out
    scalars = read_scalars(tmp_path / "run")
    assert "val/rewards/accuracies" in scalars
