"""A user's own code: kept with the run, and run again only if it is trusted and unchanged."""

from __future__ import annotations

import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyro_dgm import experiment
from pyro_dgm.cli import main
from pyro_dgm.errors import InvalidInput
from pyro_dgm.experiment.user_files import used_files

Fault = Callable[..., tuple[int, str]]


def test_a_guide_that_is_not_reparameterised_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Fault, tiny_text: str
) -> None:
    (tmp_path / "switch.py").write_text(SWITCH)
    config = tiny_text.replace(
        "pyro_dgm.models.VAE, init_args: {latent_dim: 2, hidden: [8]}", "switch.Switch"
    )
    (tmp_path / "switch.yaml").write_text(config)
    arguments = ["train", tmp_path / "switch.yaml", "--out", tmp_path / "run"]
    code, line = fault(*arguments, "--objective.class_path=IWAE", "--objective.num_particles=2")
    assert code == 2 and "'z'" in line and not (tmp_path / "run").exists()
    assert main([str(argument) for argument in arguments]) == 0  # the ELBO has its score-function term


SWITCH = """
import pyro, torch
import pyro.distributions as dist
from helper_of_switch import start
from pyro_dgm.program import Program

class Switch(Program):
    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(start(64).reshape(1, 8, 8))
        self.net = torch.nn.Linear(64, 1)

    def model(self, x=None, *, n=1):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5 * torch.ones(())))
            logits = self.logits * (2 * z[..., None, None, None] - 1)
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    def guide(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=self.net(x.flatten(1)).squeeze(-1)))
"""
HELPER = "import torch\ndef start(n):\n    return torch.linspace(-1, 1, n)\n"


@pytest.fixture(autouse=True)
def _helper(tmp_path: Path) -> Any:
    (tmp_path / "helper_of_switch.py").write_text(HELPER)
    yield
    for name in ("switch", "helper_of_switch"):
        sys.modules.pop(name, None)


def test_a_users_own_class_is_recorded_and_runs_again_only_when_trusted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Fault, tiny_text: str
) -> None:
    (tmp_path / "switch.py").write_text(SWITCH)
    config = tiny_text.replace(
        "pyro_dgm.models.VAE, init_args: {latent_dim: 2, hidden: [8]}", "switch.Switch"
    )
    (tmp_path / "switch.yaml").write_text(config)
    run = tmp_path / "run"
    path_before = list(sys.path)
    assert main(["train", str(tmp_path / "switch.yaml"), "--out", str(run)]) == 0
    capsys.readouterr()
    assert sys.path == path_before
    kept = {path.name for path in (run / "sources").iterdir()}
    assert kept == {"switch.py", "helper_of_switch.py"}
    # The original changes and goes away; the run has its own copy.
    (tmp_path / "switch.py").write_text("raise SystemExit('ran the wrong file')")
    for name in ("switch", "helper_of_switch"):
        sys.modules.pop(name, None)
    code, line = fault("evaluate", run)
    assert code == 2 and "--trust" in line and "switch" not in sys.modules
    assert main(["evaluate", str(run), "--trust"]) == 0
    assert Path(sys.modules["switch"].__file__ or "").parent == run / "sources"
    capsys.readouterr()
    (run / "sources" / "helper_of_switch.py").write_text(HELPER + "\n")
    code, line = fault("sample", run, "--trust")
    assert code == 3 and "helper_of_switch.py" in line


def test_the_script_that_trains_is_no_part_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, own = (types.ModuleType(name) for name in ("script", "own"))
    for module in (script, own):
        (tmp_path / f"{module.__name__}.py").touch()
        module.__file__ = str(tmp_path / f"{module.__name__}.py")
    for name, module in {"__main__": script, "__mp_main__": script, "own": own}.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert "script.py" not in used_files(tmp_path) and "own.py" in used_files(tmp_path)


def test_a_run_that_names_foreign_code_is_not_loaded(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("pyro_dgm.models.VAE", "antigravity.VAE"))
    code, line = fault("sample", run)
    assert code == 2 and "antigravity.VAE" in line and "--trust" in line
    assert "antigravity" not in sys.modules
    with pytest.raises(InvalidInput, match="trust=True"):
        experiment.load(run)
