"""Every fault of config, data, arguments and places: one line, its code, nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pyro_dgm.cli import main

Fault = Callable[..., tuple[int, str]]

FAULTS: dict[str, tuple[list[str], str]] = {
    "unknown section": (["--trainin.epochs=1"], "unknown key in trainin; try training"),
    "unknown argument": (
        ["--program.latnt_dim=1"],
        "unknown key in program.init_args.latnt_dim; try latent_dim",
    ),
    "unknown training key": (["--training.epoch=1"], "unknown key in training.epoch; try epochs"),
    "unknown evaluation key": (["--evaluation.particles=1"], "evaluation.particles; try num_particles"),
    "unknown class": (["--objective.class_path=IVAE"], "unknown class in objective.class_path: IVAE; try"),
    "wrong type": (
        ["--program.latent_dim=abc"],
        "wrong value in program.init_args.latent_dim: abc; expected int",
    ),
    "a piece that is refused": (
        ["--program.encoder.class_path=pyro_dgm.nets.FlattenEvent", "--program.encoder.event_shape=[0]"],
        "in program.init_args.encoder.init_args.event_shape: (0,)",
    ),
    "wrong type inside": (["--program.hidden=[8, a]"], "program.init_args.hidden"),
    "wrong type of a plain value": (
        ["--training.steps=2.5"],
        "wrong value in training.steps: 2.5; expected int",
    ),
    "wrong choice": (["--training.device=tpu"], "training.device: tpu; expected Literal"),
    "wrong class": (["--program.class_path=pyro_dgm.data.Digits"], "wrong value in program"),
    "missing argument": (
        ["--objective.class_path=IWAE"],
        "missing key in objective.init_args; expected num_particles",
    ),
    "no program": (["--program=null"], "no such mapping in program"),
    "no particles": (
        ["--objective.num_particles=0"],
        "in objective.init_args.num_particles: 0; expected an integer",
    ),
    "no particles to evaluate": (["--evaluation.num_particles=0"], "evaluation.num_particles: 0"),
    "no data to evaluate": (["--evaluation.num_data=0"], "evaluation.num_data: 0"),
    "too few data to evaluate": (
        ["--evaluation.num_data=1"],
        "too few data for a standard error in evaluation.num_data: 1 test data; expected at least 2",
    ),
    "a seed that is none": (["--training.seed=-1"], "training.seed: -1"),
    "no dimensions": (
        ["--program.latent_dim=0"],
        "in program.init_args.latent_dim: 0; expected integers >= 1",
    ),
    "a shape that is not the data's": (
        ["--program.data_shape=[1, 9, 9]"],
        "program.init_args.data_shape: [1, 9, 9]",
    ),
    "negative rate": (["--optimizer.lr=-1"], "bad learning rate in optimizer.init_args.lr: -1"),
    "zero rate": (["--optimizer.lr=0"], "bad learning rate in optimizer.init_args.lr: 0"),
    "NaN rate": (["--optimizer.lr=.nan"], "optimizer.init_args"),
    "infinite rate": (["--optimizer.lr=.inf"], "bad learning rate in optimizer.init_args.lr: inf"),
    "an optimizer that runs the loss itself": (
        ["--optimizer.class_path=LBFGS"],
        "an optimizer that runs the loss itself in optimizer: LBFGS",
    ),
    "negative epochs": (["--training.epochs=-1"], "bad number in training.epochs: -1"),
    "no length": (["--training.steps=null"], "epochs or steps"),
    "grey data under Bernoulli": (["--data.binarize=none"], "is grey in data.train"),
    "a schedule that fails": (["--scheduler.class_path=CosineAnnealingLR"], "scheduler.init_args"),
    "analytic KL of nothing": (["--objective.kl=exact"], "objective.init_args.kl: exact; expected Literal"),
    "an override without value": (["--training.steps"], "no value in --training.steps"),
    "a list for a section": (["--training=[1]"], "no such mapping in training"),
    "a duplicate key": (["--training={steps: 1, steps: 2}"], "key 'steps' twice"),
    "an unknown option": (["--ouch"], "unrecognized arguments: --ouch"),
    "an abbreviation": (["--overwr"], "unrecognized arguments: --overwr"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_value_is_one_line_that_names_its_key(
    name: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    changes, message = FAULTS[name]
    code, line = fault("train", tiny, "--out", tmp_path / "run", *changes)
    assert code == 2 and message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "argv",
    [[], ["tran"], ["train"], ["evaluate"], ["sample", "x", "--num", "a"], ["evaluate", "."], ["train", "."]],
)
def test_wrong_arguments_are_one_line(
    argv: list[str], capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    assert fault(*argv)[0] == 2


def test_an_existing_run_is_kept_unless_it_may_be_overwritten(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    run = tmp_path / "run"
    arguments = ["train", str(tiny), "--out", str(run)]
    assert main(arguments) == 0
    (run / "mine.txt").write_text("keep me")
    capsys.readouterr()
    code, line = fault(*arguments)
    assert code == 2 and "--out" in line and "--overwrite" in line
    # A config that is refused only when training begins costs nothing either.
    assert main([*arguments, "--overwrite", "--training.epochs=-1"]) == 2
    assert (run / "mine.txt").read_text() == "keep me"
    assert main([*arguments, "--overwrite"]) == 0
    assert not (run / "mine.txt").exists() and (run / "evaluation.json").is_file()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    capsys.readouterr()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("keep me")
    code, line = fault("train", tiny, "--out", tmp_path / "other", "--overwrite")
    assert code == 2 and (tmp_path / "other" / "mine.txt").is_file()
    (tmp_path / "killed" / "checkpoints").mkdir(parents=True)
    (tmp_path / "killed" / "metrics.jsonl").touch()  # all that is there of a run killed at its start
    assert main(["train", str(tiny), "--out", str(tmp_path / "killed"), "--overwrite"]) == 0


def test_a_place_that_cannot_be_written_is_code_5_before_training(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    (tmp_path / "file").write_text("")
    code, line = fault("train", tiny, "--out", tmp_path / "file" / "run")
    assert code == 5 and "--out" in line


def test_a_path_of_any_letters_works(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    folder = tmp_path / "né w\nline"
    folder.mkdir()
    config = folder / "ü.yaml"
    shutil.copy(tiny, config)
    assert main(["train", str(config), "--out", str(folder / "rún"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["run"] == str(folder / "rún") and printed["config"] == "ü"
    assert fault("train", config, "--out", folder / "rún")[0] == 2  # still one line


def test_an_unexpected_error_is_one_line_and_with_debug_a_traceback(
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    for error, code in ((ZeroDivisionError("a\nbug"), 1), (MemoryError(), 5), (KeyboardInterrupt(), 130)):

        def raise_it(*args: object, error: BaseException = error, **kwargs: object) -> None:
            raise error

        monkeypatch.setattr("pyro_dgm.experiment.train", raise_it)
        assert fault("train", tiny)[0] == code
    monkeypatch.setattr("pyro_dgm.experiment.train", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["train", str(tiny), "--debug"])


def test_a_divergence_is_code_4_and_leaves_the_run(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    changes = ["--training.steps=200", "--optimizer.lr=1e30"]
    assert main(["train", str(tiny), "--out", str(out), *changes]) == 4
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
    assert (out / "config.yaml").is_file() and not (out / "evaluation.json").exists()


def test_an_argument_of_the_users_without_a_type_is_named(
    tmp_path: Path, tiny_text: str, fault: Fault
) -> None:
    (tmp_path / "untyped_objective.py").write_text(
        "class Loss:\n    def __init__(self, scale): pass\n    def __call__(self, model, guide, x): pass\n"
    )
    (tmp_path / "own.yaml").write_text(
        tiny_text.replace("pyro_dgm.objectives.ELBO", "untyped_objective.Loss")
    )
    code, line = fault("train", tmp_path / "own.yaml", "--dry-run", "--objective.scale=2")
    assert code == 2 and "argument without an annotation in objective.init_args.scale" in line
