"""What is said where: results on standard output, the rest in lines on standard error, and everything put back."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pyro_dgm.atomic import replacing
from pyro_dgm.cli import main
from pyro_dgm.cli.texts import COMMANDS
from pyro_dgm.experiment.dry_run import dry_run

Fault = Callable[..., tuple[int, str]]


@pytest.mark.filterwarnings("always::UserWarning")
def test_the_loudness_of_a_command(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # More data in a batch than there are bring a warning.
    arguments = ["train", str(tiny), "--training.batch_size=5000", "--json", "--out"]
    said = {}
    for flag in ("--quiet", "", "--verbose"):
        assert main([*arguments, str(tmp_path / f"run{flag}"), *filter(None, [flag])]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["split_size"] == 20 and len(out.splitlines()) == 1
        said[flag] = {line.split()[0] for line in err.splitlines()}
    assert said == {
        "--quiet": set(),
        "": {"fit:", "warning:"},
        "--verbose": {"fit:", "warning:", "info:"},
    }


def test_a_line_of_the_log_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def noisy(*args: object, **kwargs: object) -> int:
        logging.getLogger("pyro_dgm.some.part").info("two\nlines and %d", 3)
        logging.getLogger("pyro_dgm").error("no good")
        logging.getLogger("elsewhere").info("not ours")
        return 0

    monkeypatch.setattr("pyro_dgm.evaluation.results.rebuild", noisy)
    assert main(["results", "--verbose"]) == 0
    assert capsys.readouterr().err.splitlines() == ["info: two lines and 3", "error: no good"]
    assert main(["results", "--quiet"]) == 0
    assert capsys.readouterr().err.splitlines() == ["error: no good"]


@pytest.mark.parametrize("flags", [[], ["--verbose"], ["--quiet"]])
@pytest.mark.parametrize("code", [0, 2])
def test_handlers_and_hooks_are_put_back(
    flags: list[str], code: int, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def own(*args: object, **kwargs: object) -> None: ...

    logger = logging.getLogger("pyro_dgm")
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "level", 17)
    monkeypatch.setattr(warnings, "showwarning", own)
    before = {number: signal.signal(number, own) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert main(["sample", str(trained), "--num", "0" if code else "2", *flags]) == code
        assert all(signal.getsignal(number) is own for number in before)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert (logger.propagate, logger.level, logger.handlers) == (True, 17, [])
    assert warnings.showwarning is own


def test_a_command_is_not_both_loud_and_quiet(trained: Path, fault: Fault) -> None:
    assert fault("sample", trained, "--verbose", "--quiet")[0] == 2
    assert fault("train", "x.yaml", "--resume", "--overwrite")[0] == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.process_time()
    assert main([name, "--help"]) == 0
    assert time.process_time() - start < 1.0
    out = capsys.readouterr().out
    assert f"pyro-dgm {name}" in out and "example" in out and "--verbose" in out
    assert max(map(len, out.splitlines())) <= 120


def test_the_config_in_the_help_is_a_whole_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    begin = next(index for index, line in enumerate(lines) if line.startswith("  program:"))
    end = begin + lines[begin:].index("")
    (tmp_path / "config.yaml").write_text("\n".join(line[2:] for line in lines[begin:end]))
    assert dry_run(tmp_path / "config.yaml").total > 1000
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["training"] == {"epochs": 100}
    for topic in (
        "--resume",
        "--seeds",
        "torchrun --nproc-per-node 2 -m pyro_dgm.cli",
        "143",
        "metrics.jsonl",
    ):
        assert topic in out


def test_a_class_is_explained_from_its_docstring(
    tiny: Path, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    assert main(["train", "--program.help"]) == 0
    assert "pyro_dgm.models.VAE" in capsys.readouterr().out
    assert main(["train", str(tiny), "--program.help=VAE", "--quiet"]) == 0
    assert "latent_dim" in capsys.readouterr().out
    (tiny.parent / "own_help.py").write_text(
        'class Own:\n    """A thing of its own.\n\n    Args:\n        size: how large.\n    """\n'
        "    def __init__(self, size: int) -> None: ...\n"
    )
    assert main(["train", str(tiny), "--objective.help=own_help.Own"]) == 0
    assert "how large" in capsys.readouterr().out
    code, line = fault("train", "--program.help=VEA")
    assert code == 2 and "VAE" in line


def test_a_dry_run_writes_nothing(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Fault, trained: Path
) -> None:
    arguments = ["train", str(tiny), "--out", str(tmp_path / "run"), "--dry-run"]
    assert main(arguments) == 0 and "latent_dim: 2" in capsys.readouterr().out
    assert main([*arguments, "--json", "--program.latent_dim=3"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["config"]["program"]["init_args"]["latent_dim"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]
    assert fault(*arguments, "--init-from", tmp_path / "nothing")[0] == 2
    assert fault(*arguments, "--program.latent_dim=0")[0] == 2


def test_sigterm_outside_of_training_cleans_up_and_is_143(
    trained: Path, tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object, **kwargs: object) -> None:
        with replacing(tmp_path / "file.npy") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("pyro_dgm.experiment.sample", killed)
    assert fault("sample", trained)[0] == 143
    assert list(tmp_path.iterdir()) == [] and signal.getsignal(signal.SIGTERM) is before
    monkeypatch.setattr("pyro_dgm.experiment.sample", lambda *a, **k: signal.raise_signal(signal.SIGINT))
    assert fault("sample", trained)[0] == 130


def test_sigterm_before_training_leaves_no_run(
    tiny: Path, tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pyro_dgm.experiment.training._check_weights", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)
    )
    assert fault("train", tiny, "--out", tmp_path / "run")[0] == 143
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "cure"),
    [("--resume", "with --resume"), ("--overwrite", "instead of --overwrite, if training had begun")],
)
def test_an_older_run_that_was_put_back_is_not_to_be_resumed_unasked(
    option: str, cure: str, tiny: Path, tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pyro_dgm.experiment.training._check_weights", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT)
    )
    code, line = fault("train", tiny, "--out", tmp_path / "run", option)
    assert code == 130 and line.endswith(cure)


def test_a_thread_that_is_not_the_main_one_can_call_the_command_line(trained: Path) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["sample", str(trained), "--num", "2"])))
    thread.start()
    thread.join()
    assert codes == [0]


def test_another_process_of_a_training_neither_writes_nor_speaks(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, object]] = []
    monkeypatch.setattr("pyro_dgm.experiment.training.fit", lambda *a, **options: calls.append(options))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(["train", str(tiny), "--out", str(tmp_path / "run"), "--json"]) == 0
    assert capsys.readouterr() == ("", "") and not (tmp_path / "run").exists()
    assert calls[0]["callbacks"] == [] and calls[0]["progress"] is False
