"""What a model conditions on: it stands in the ledger and in every table, and other quantities are not subtracted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_dgm.cli import main
from pyro_dgm.evaluation.ledger import read_ledger
from pyro_dgm.experiment.estimate import given_fields
from pyro_dgm.program import Pair

X, Y = torch.zeros(4, 2), torch.tensor([0, 1, 1, 0])


def observed(name: str, value: torch.Tensor) -> None:
    pyro.sample(name, dist.Normal(torch.zeros(2), 1.0).to_event(1), obs=value)


def plain(x: torch.Tensor) -> None:
    with pyro.plate("data", len(x)):
        observed("x", x)


def under_another_name(x: torch.Tensor) -> None:
    with pyro.plate("data", len(x)):
        observed("image", x)


def conditional(x: torch.Tensor, y: torch.Tensor) -> None:
    with pyro.plate("data", len(x)):
        observed("x", x + y[:, None])


def joint(x: torch.Tensor, y: torch.Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("label", dist.Bernoulli(0.5), obs=y)
        observed("x", x)


@pytest.mark.parametrize(
    ("model", "fields", "given"),
    [
        (plain, {"x": X}, []),
        (under_another_name, {"x": X}, []),
        (conditional, {"x": X, "y": Y}, ["y"]),
        (joint, {"x": X, "y": Y}, []),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_what_is_no_observed_site_is_given(
    model: Callable[..., Any], fields: dict[str, torch.Tensor], given: list[str]
) -> None:
    assert given_fields(Pair(model), list(fields), tuple(fields.values())) == given


CVAE = """
program: {class_path: pyro_dgm.models.CVAE, init_args: {latent_dim: 2, hidden: [8]}}
objective: {class_path: pyro_dgm.objectives.ELBO}
data: {class_path: pyro_dgm.data.Digits, init_args: {binarize: dynamic, labels: true}}
training: {steps: 3}
evaluation: {num_particles: 4, num_data: 10}
"""


def test_every_table_names_the_quantity(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = tmp_path / "cvae.yaml", tmp_path / "run"
    config.write_text(CVAE)
    assert main(["train", str(config), "--out", str(run)]) == 0
    assert "log p(x | y), 4 particles" in capsys.readouterr().out
    assert read_ledger(run / "evaluation.json").given == ["y"]
    few = ["--num-particles=50", "--num-gap=4", "--num-replications=0", "--num-nuts=0"]
    assert main(["diagnose", str(run), *few]) == 0
    told = capsys.readouterr().out + (run / "report.html").read_text(encoding="utf-8")
    assert "log p(x | y) - ELBO" in told and "log p(x)" not in told
    assert main(["train", str(config), "--out", str(tmp_path / "seeds"), "--seeds", "2"]) == 0
    table = capsys.readouterr().out
    assert "log p(x | y), nats" in table and "log p(x)" not in table
    assert main(["compare", str(run), str(run)]) == 0
    table = capsys.readouterr().out
    assert "log p(x | y) ±" in table and "log p(x)" not in table
    assert main(["compare", str(trained), str(run)]) == 0
    table = " ".join(capsys.readouterr().out.split())
    assert "log p ± s.e." in table and "other fields given" in table
