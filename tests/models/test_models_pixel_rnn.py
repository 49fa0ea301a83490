"""PixelRNN as a program: compiled steps, configs, labels, contexts, images completed."""

from __future__ import annotations

import pyro
import pytest
import torch
import yaml
from pyro.infer import SVI

import pyro_dgm as dgm
from pyro_dgm import experiment
from pyro_dgm.cli import main
from pyro_dgm.models.pixel_rnn import PixelRNN
from pyro_dgm.nets.diagonal_lstm import DiagonalBiLSTM
from pyro_dgm.nets.row_lstm import RowLSTM
from pyro_dgm.objectives import ELBO
from pyro_dgm.training import CompiledSVI, compiled_loss
from tests.training.beside_plain import assert_same, trajectory

KINDS = {"row": RowLSTM, "diagonal": DiagonalBiLSTM}
each_kind = pytest.mark.parametrize("layer", KINDS.values(), ids=KINDS.keys())
SMALL = {"hidden": 4, "num_layers": 2, "kernel_size": 3, "out_features": 6}


@each_kind
def test_a_step_is_recorded_as_a_graph(layer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is run as it is; losses and parameters of five steps are those of plain Pyro."""
    made = []
    monkeypatch.setattr(compiled_loss, "lower", lambda module, inputs: made.append(module) or module)
    torch.set_default_dtype(torch.float64)

    def make():
        program = PixelRNN((2, 4, 3), layer=layer, num_classes=3, **SMALL)
        batch = (torch.rand(6, 2, 4, 3) < 0.5).double(), torch.arange(6) % 3
        return program.model, program.guide, batch

    def adam():
        return pyro.optim.Adam({"lr": 0.01})

    found = trajectory(CompiledSVI, make, ELBO, adam, steps=5)
    assert len(made) == 1
    expected = trajectory(SVI, make, ELBO, adam, steps=5)
    assert_same(([*found[0]], _by_value(found[1])), ([*expected[0]], _by_value(expected[1])), rtol=1e-9)


def _by_value(parameters):
    """Parameters under their names without that of the program, which is another for each."""
    return {name.split("$$$")[-1]: value for name, value in parameters.items()}


LAYERS = {
    "row": ("pyro_dgm.nets.row_lstm.RowLSTM", RowLSTM, 3 * 3),
    "row of 5": (
        {"class_path": "pyro_dgm.nets.row_lstm.RowLSTM", "init_args": {"kernel_size": 5}},
        RowLSTM,
        5 * 3,
    ),
    "diagonal": ("pyro_dgm.nets.diagonal_lstm.DiagonalBiLSTM", DiagonalBiLSTM, 2 * 3),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_config_names_the_layer(name: str, tmp_path) -> None:
    written, kind, rows = LAYERS[name]
    sizes = {"hidden": 3, "num_layers": 1, "kernel_size": 3}
    config, run = tmp_path / "config.yaml", tmp_path / "run"
    parts = {
        "program": {
            "class_path": "pyro_dgm.models.pixel_rnn.PixelRNN",
            "init_args": {"layer": written} | sizes,
        },
        "objective": {"class_path": "pyro_dgm.objectives.ELBO"},
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}},
        "data": {"class_path": "pyro_dgm.data.Digits", "init_args": {"binarize": "dynamic"}},
        "training": {"epochs": 1, "batch_size": 512, "compile": False},
    }
    config.write_text(yaml.safe_dump(parts))
    assert main(["train", str(config), "--out", str(run)]) == 0
    (lstm,) = experiment.load(run).network.lstms
    assert type(lstm) is kind
    assert lstm.of_states.shape[1] == rows


@each_kind
def test_a_lower_half_is_drawn_given_the_upper(layer) -> None:
    program = PixelRNN((1, 4, 3), layer=layer, **SMALL)
    observed = torch.zeros(1, 4, 3, dtype=torch.bool)
    observed[:, :2] = True
    x = (torch.rand(5, 1, 4, 3) < 0.5).float()
    completed = program().impute(x, observed)
    assert torch.equal(completed[:, :, :2], x[:, :, :2])


@each_kind
def test_labels_and_contexts_change_the_density(layer) -> None:
    x = torch.ones(3, 1, 4, 3)
    labelled = PixelRNN((1, 4, 3), layer=layer, num_classes=3, **SMALL)
    assert labelled.sample(4, y=2).shape == (4, 1, 4, 3)
    assert labelled(torch.eye(3)).log_prob(x).unique().numel() == 3
    for shape in ((2,), (2, 4, 3)):
        given = PixelRNN((1, 4, 3), layer=layer, context_shape=shape, **SMALL)
        p = given(torch.randn(3, *shape))
        assert p.log_prob(x).unique().numel() == 3
        assert p.sample((2,)).shape == (2, 3, 1, 4, 3)


@each_kind
def test_it_trains_in_bfloat16(layer) -> None:
    """Eight bits of mantissa: the losses agree to about 1 %, and not exactly."""
    x = (torch.rand(40, 1, 4, 4) < 0.3).float()
    losses = []
    for precision in ("bfloat16", "float32"):
        torch.manual_seed(0)
        program = PixelRNN((1, 4, 4), hidden=4, num_layers=2, layer=layer)
        history = dgm.fit(
            program, ELBO(), dgm.data.Arrays(x), epochs=2, batch_size=20, precision=precision, progress=False
        )
        losses.append(history.column("loss"))
    assert losses[0] == pytest.approx(losses[1], rel=0.02) and losses[0] != losses[1]
