"""Data that a program cannot observe, or whose fields it does not take: refused before the first step, by name."""

from __future__ import annotations

import functools
from unittest import mock

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm.data import Arrays, Digits, Split, Tones
from pyro_dgm.distributions import BetaBinomialObservation, CategoricalObservation, NormalObservation
from pyro_dgm.errors import IncompatibleModel, InvalidInput, NonFiniteError
from pyro_dgm.models import MADE, VAE
from pyro_dgm.objectives import ELBO
from pyro_dgm.program import Pair, Program
from pyro_dgm.training import fit, fitting, learner, supports
from tests.training.stand_ins import Parts, copy_of, same

GREYS = torch.randint(256, (60, 2, 3), generator=torch.Generator().manual_seed(0)) / 255
BITS = (GREYS < 0.5).float()


def train(program, data, objective=None, **options):
    options = {"epochs": 1, "batch_size": 16, "progress": False} | options
    return fit(program, objective or ELBO(), data, **options)


def made(levels=256, shape=(2, 3)):
    return MADE(shape, hidden=(8,), observation=CategoricalObservation(shape, levels))


def with_value(value, row, place):
    x = GREYS.clone()
    x[row][place] = value
    return x


@pytest.mark.parametrize(("row", "place"), [(0, (0, 0)), (17, (1, 0)), (40, (0, 2)), (59, (1, 2))])
@pytest.mark.parametrize("part", ["data", "data.train", "data.val"])
def test_a_value_off_the_grid_is_placed_before_anything_is_written(row, place, part, monkeypatch, tmp_path):
    monkeypatch.setattr(supports, "_PIECE", 64)  # elements, so that a part has several pieces
    good, bad = Split(GREYS), Split(with_value(256 / 255, row, place))
    data = {"data": bad, "data.train": Parts(bad, good), "data.val": Parts(good, bad)}[part]
    with pytest.raises(InvalidInput) as caught:
        train(made(), data, out=tmp_path / "run")
    fault = caught.value
    assert fault.what == f"sample {row}, position {place} is off the grid" and fault.where == part
    assert fault.value.startswith("1.00392, and 1 of 360 values in all")
    assert "k / 255" in fault.expected and "levels=257" in fault.cure
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("data", "program", "what", "cure"),
    [
        (Split(255 * GREYS), made(), "is off the grid", "scale=255"),
        (Split(GREYS), made(17), "is off the grid", "levels=256"),
        (Digits(), made(256, (1, 8, 8)), "is off the grid", "levels=17"),
        (Tones(encoding="linear16"), made(256, (64,)), "is off the grid", "levels=65536"),
        (Split(torch.rand(60, 2, 3)), made(), "is off the grid", "real values"),
        (Split(GREYS), MADE((2, 3), hidden=(8,)), "is grey", 'binarize="dynamic"'),
        (Split(255 * GREYS), MADE((2, 3), hidden=(8,)), "neither 0 nor 1", "scale=255"),
        (
            Split(GREYS),
            VAE((2, 3), 2, hidden=(8,), observation=BetaBinomialObservation((2, 3), 17)),
            "is off the grid",
            "levels=256",
        ),
    ],
)
def test_the_cure_is_that_of_the_data(data, program, what, cure):
    with pytest.raises(InvalidInput) as caught:
        train(program, data)
    assert what in caught.value.what and cure in caught.value.cure


def test_greys_are_placed_and_counted_and_zeros_and_ones_pass():
    x = torch.tensor([[0.0, 1.0], [1.0, 0.25], [0.5, 0.0]])
    program = MADE((2,), hidden=(4,))
    with pytest.raises(
        InvalidInput, match=r"sample 1, position \(1,\) is grey in data: 0.25, and 2 of 6 .*binarize="
    ):
        train(program, Split(x), batch_size=3)
    with pytest.raises(
        InvalidInput, match=r"sample 0, position \(1,\) is 255, .* from 0 to 255; .*scale=255"
    ):
        train(program, Split(x.round() * 255), batch_size=3)
    assert train(program, Split(x.round()), batch_size=3).rows


@pytest.mark.parametrize(
    ("data", "program"),
    [
        (Arrays((255 * GREYS).numpy(), scale=255), made()),  # what scale=255 says helps
        (Digits(), made(17, (1, 8, 8))),  # and levels=17
        (Arrays(GREYS.numpy(), binarize="dynamic"), MADE((2, 3), hidden=(8,))),
        (Split(1e3 * GREYS - 5), VAE((2, 3), 2, hidden=(8,), observation=NormalObservation((2, 3)))),
    ],
)
def test_data_that_can_be_observed_pass(data, program):
    assert train(program, data).rows


class Rate(Program):
    """x ~ Exponential(rate) with batch norm, observed flat, as users write it."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def law(self, logits):
        return dist.Exponential(logits.exp())

    def model(self, x=None):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", 1 if x is None else len(x)):
            law = self.law(self.norm(x.reshape(len(x), -1)))
            return pyro.sample("x", law.to_event(1), obs=x.reshape(len(x), -1))


class Unchecked(Rate):
    def law(self, logits):
        return dist.Exponential(logits.exp(), validate_args=False)


class Reach(Rate):
    """Its support depends on what is trained."""

    def law(self, logits):
        return dist.Uniform(-logits.exp() - 1e-3, 2 + logits.exp())


def squared_error(model, guide, x):
    """An objective that asks for no density."""
    return model.__self__.norm(x.reshape(len(x), -1)).square().sum() + 0 * model.__self__.norm.weight.sum()


def test_a_value_is_placed_in_the_users_datum_also_where_a_view_of_it_is_observed():
    with pytest.raises(
        InvalidInput, match=r"sample 40, position \(1, 0\) is outside the support in data: -2,"
    ):
        train(Rate(), Split(with_value(-2.0, 40, (1, 0))))


@pytest.mark.parametrize(
    ("program", "objective"), [(Unchecked(), None), (Rate(), squared_error)], ids=["unchecked", "no density"]
)
def test_what_the_objective_takes_is_left_alone(program, objective):
    assert train(program, Split(with_value(-2.0, 40, (1, 0))), objective).rows


def test_a_support_that_depends_on_parameters_is_left_to_the_steps():
    assert train(Reach(), Split(GREYS)).rows
    with pytest.raises(NonFiniteError, match=r"step 1, site 'x' .*batch indices"):
        train(Reach(), Split(with_value(-1e6, 40, (1, 0))), batch_size=60)


@pytest.mark.parametrize("program", [Rate, functools.partial(MADE, (1, 8, 8), hidden=(8,))])
def test_a_run_is_the_same_bit_for_bit_as_without_the_check(program):
    data = Split(GREYS) if program is Rate else Digits("dynamic")
    states = []
    for check in (supports.require_supported, lambda *args, **kwargs: None):
        torch.manual_seed(0)
        trained = program()
        with mock.patch.object(fitting, "require_supported", check):
            train(trained, data, epochs=2)
        states.append(copy_of(trained))
    assert same(*states)


# fields ---------------------------------------------------------------------------------------------------------


def labelled(**more):
    return Split(BITS, torch.arange(60) % 3, **more)


NUMBERED = Split(BITS, index=torch.arange(60))


@pytest.mark.parametrize(
    ("program", "data", "message"),
    [
        (
            MADE((2, 3), num_classes=100),
            NUMBERED,
            "index where MADE takes y in data: (x, index); expected (x, y)",
        ),
        (
            MADE((2, 3), num_classes=3),
            labelled(index=torch.arange(60)),
            "index where MADE takes x and y alone in data: (x, y, index)",
        ),
        (
            VAE((2, 3), 2),
            labelled(),
            "labels where VAE takes x alone in data: (x, y); expected (x); try labels: false",
        ),
        (VAE((2, 3), 2), NUMBERED, "index where VAE takes x alone"),
    ],
)
def test_fields_that_a_program_does_not_take_are_named(program, data, message):
    for given in (data, Parts(data, data)):
        with pytest.raises(InvalidInput) as caught:
            train(program, given)
        assert message in str(caught.value)


def observe(x, weight=0.0):
    logit = pyro.param("logit", torch.zeros(2, 3))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Bernoulli(logits=logit + weight).to_event(2), obs=x)


def of_x(x):
    observe(x)


def of_label(x, label):
    observe(x, label[:, None, None].float())


def of_y(x, y):
    of_label(x, y)


def of_index(x, index):
    of_label(x, index)


def of_all(x, *rest):
    observe(x)


@functools.wraps(of_label)
def of_wrapped(x):
    of_label(x, torch.zeros(len(x)))


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (of_y, NUMBERED, "index where of_y takes y in data: (x, index)"),
        (of_index, labelled(), "labels where of_index takes index in data: (x, y)"),
        (of_x, labelled(), "labels where of_x takes x alone"),
        (of_label, Split(BITS), "no label, which of_label takes in data: (x); expected (x, label)"),
    ],
)
def test_fields_that_a_users_function_does_not_take_are_named(model, data, message):
    pyro.clear_param_store()
    with pytest.raises(InvalidInput) as caught:
        train(Pair(model), data)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (of_x, Split(BITS)),
        (of_label, labelled()),
        (of_label, NUMBERED),  # what a user calls it is the user's own
        (of_y, labelled()),
        (of_index, NUMBERED),
        (of_all, labelled(index=torch.arange(60))),
        (of_wrapped, Split(BITS)),
        (functools.partial(of_label, label=torch.zeros(16)), Split(BITS)),
        (pyro.poutine.scale(of_y, scale=0.5), labelled()),
    ],
    ids=["x", "label", "a name of one's own", "y", "index", "all", "wrapped", "partial", "handler"],
)
def test_fields_that_a_users_function_takes_pass(model, data):
    pyro.clear_param_store()
    assert train(Pair(model), data, batch_size=16, steps=2).rows


def test_without_the_check_a_row_number_is_a_label():
    """The fault that the check is for: it makes no noise of its own."""
    with mock.patch.object(learner, "require_fields", lambda *args: None):
        assert train(MADE((2, 3), num_classes=100), NUMBERED).rows


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_continuous_context_trains(dtype):
    x, c = BITS.numpy(), torch.randn(60, 3, dtype=torch.float64).numpy()
    data = Arrays(x, train_labels=c)
    assert (
        train(MADE((2, 3), hidden=(8,), context_shape=(3,)), data, precision=dtype).rows[-1]["val_loss"] > 0
    )
    with pytest.raises(InvalidInput, match="wrong shape in y"):
        train(MADE((2, 3), hidden=(8,), context_shape=(2,)), data)


def test_without_a_context_the_cure_is_no_label():
    with pytest.raises(IncompatibleModel, match=r"y of floats \(N, 3\); try Arrays\(x, train_labels=y\)"):
        train(MADE((2, 3), hidden=(8,), context_shape=(3,)), Split(BITS))
    with pytest.raises(IncompatibleModel, match="try labels: true"):
        train(MADE((2, 3), hidden=(8,), num_classes=3), Split(BITS))
