"""A tiny config, a run of it, and a call that must end in one line on standard error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pyro_dgm.cli import main

TINY = """
program: {class_path: pyro_dgm.models.VAE, init_args: {latent_dim: 2, hidden: [8]}}
objective: {class_path: pyro_dgm.objectives.ELBO}
data: {class_path: pyro_dgm.data.Digits, init_args: {binarize: dynamic}}
optimizer: {class_path: torch.optim.Adam, init_args: {lr: 1e-3}}
training: {steps: 3, batch_size: 64}
evaluation: {num_particles: 3, num_data: 20}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(TINY)
    assert main(["train", str(folder / "tiny.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def tiny_text() -> str:
    return TINY


@pytest.fixture
def fault(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Calls the command line; gives its exit code and the one line on standard error."""

    def call(*argv: object) -> tuple[int, str]:
        capsys.readouterr()  # of calls before
        code = main([str(argument) for argument in argv])
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if line]
        assert out == "" and len(lines) == 1 and lines[0].startswith("error: "), (out, err)
        return code, lines[0]

    return call
