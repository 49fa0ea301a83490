"""evaluate: the split, the number of data, and data that have moved or are others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pyro_dgm.cli import main
from pyro_dgm.evaluation.ledger import read_ledger

Fault = Callable[..., tuple[int, str]]


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, seed: int, shape: tuple[int, ...] = (1, 8, 8)) -> Path:
        np.save(
            tmp_path / name, np.random.default_rng(seed).integers(0, 2, size=(60, *shape)).astype(np.float32)
        )
        return tmp_path / name

    return write


@pytest.fixture
def run(tmp_path: Path, tiny_text: str, images: Callable[..., Path]) -> Path:
    old = "data: {class_path: pyro_dgm.data.Digits, init_args: {binarize: dynamic}}"
    new = f"data: {{class_path: pyro_dgm.data.Arrays, init_args: {{train: {images('x.npy', 0)}}}}}"
    text = tiny_text.replace(old, new).replace("batch_size: 64", "batch_size: 32")
    (tmp_path / "arrays.yaml").write_text(text)
    assert main(["train", str(tmp_path / "arrays.yaml"), "--out", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


def test_the_split_and_the_number_of_data_are_those_asked_for(run: Path) -> None:
    path = run / "evaluation.json"
    first = read_ledger(path)
    assert main(["evaluate", str(run), "--num-data", "3"]) == 0
    few = read_ledger(path)
    assert (few.split, few.split_size) == ("test", 3) and few.elbo != first.elbo
    assert main(["evaluate", str(run), "--split", "val", "--num-data", "3"]) == 0
    val = read_ledger(path)
    assert (val.split, val.split_size) == ("val", 3) and val.elbo != few.elbo
    assert main(["evaluate", str(run)]) == 0
    assert read_ledger(path).elbo == first.elbo


def test_data_that_have_moved_give_the_same_numbers_and_others_give_others(
    run: Path, tmp_path: Path, images: Callable[..., Path], fault: Fault
) -> None:
    path = run / "evaluation.json"
    first = read_ledger(path)
    (tmp_path / "moved").mkdir()
    (tmp_path / "x.npy").rename(tmp_path / "moved" / "x.npy")
    assert fault("evaluate", run)[0] == 2
    assert main(["evaluate", str(run), f"--data.train={tmp_path / 'moved' / 'x.npy'}"]) == 0
    assert read_ledger(path).elbo == first.elbo
    assert main(["evaluate", str(run), "--data.init_args.train", str(images("y.npy", 1))]) == 0
    other = read_ledger(path)
    assert other.elbo != first.elbo and other.reliable is None  # the posterior is that of the run's own data
    code, line = fault("evaluate", run, f"--data.train={images('z.npy', 2, (1, 9, 9))}")
    assert code == 2 and "data_shape" in line
    assert read_ledger(path).elbo == other.elbo
    code, line = fault("evaluate", run, "--data.trian=x.npy")
    assert code == 2 and "try train" in line


def test_other_data_that_the_model_can_never_give_are_placed(run: Path, tmp_path: Path, fault: Fault) -> None:
    before = (run / "evaluation.json").read_bytes()
    np.save(tmp_path / "grey.npy", np.random.default_rng(0).choice([0.25, 0.75], (60, 1, 8, 8)))
    code, line = fault("evaluate", run, f"--data.train={tmp_path / 'grey.npy'}")
    assert code == 2 and "sample 0, position (0, 0, 0) is grey in data.test: 0." in line
    assert (run / "evaluation.json").read_bytes() == before


@pytest.mark.parametrize(
    "options",
    [
        ["--split", "train"],
        ["--num-data", "0"],
        ["--num-particles", "0"],
        ["--program.latent_dim=3"],
        ["--data.x"],
    ],
)
def test_what_means_nothing_to_an_evaluation_is_refused(
    options: list[str], trained: Path, fault: Fault
) -> None:
    before = (trained / "evaluation.json").read_bytes()
    assert fault("evaluate", trained, *options)[0] == 2
    assert (trained / "evaluation.json").read_bytes() == before
