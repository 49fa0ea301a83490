"""The CVAE's own methods, its pieces, and what it refuses to condition on."""

import functools

import pyro
import pytest
import torch
from torch import nn

from pyro_dgm.data import Arrays, Digits
from pyro_dgm.distributions import DiagonalNormal
from pyro_dgm.errors import IncompatibleModel, InvalidInput
from pyro_dgm.models import CVAE
from pyro_dgm.nets import FlattenEvent
from pyro_dgm.nets.labels import OneHot, check_labels
from pyro_dgm.objectives import ELBO
from pyro_dgm.training import fit

SHAPE = (1, 4, 4)


def small(**arguments):
    return CVAE(SHAPE, 3, 2, hidden=(8, 5), **arguments)


def halves(**arguments):
    """Lower halves of images given the upper ones."""
    context = nn.Sequential(FlattenEvent((1, 2, 4)), nn.Linear(8, 6))
    return CVAE(
        (1, 2, 4),
        None,
        2,
        hidden=(8,),
        context=context,
        context_shape=(1, 2, 4),
        context_features=6,
        **arguments,
    )


def batch(n):
    return (torch.rand(n, *SHAPE) < 0.5).float(), torch.arange(n) % 3


def test_shapes():
    cvae, (x, y) = small(), batch(6)
    q = cvae.encode(x, y)
    assert (q.batch_shape, q.event_shape) == ((6,), (2,))
    assert cvae.reconstruct(x, y).shape == x.shape
    assert cvae.model(n=4).shape == (4, *SHAPE)
    assert cvae.model(y=y).shape == x.shape
    for given in (None, 2, torch.tensor(2), torch.tensor([0, 1, 2, 0])):
        assert cvae.sample(4, y=given).shape == (4, *SHAPE)
    means = cvae.sample(50, y=1, mean=True)
    assert ((means > 0) & (means < 1)).all()


def test_any_y_of_an_event_shape():
    cvae, x, y = halves(), torch.ones(6, 1, 2, 4), torch.randn(6, 1, 2, 4)
    ELBO(num_particles=3)(cvae.model, cvae.guide, x, y).backward()
    assert all(value.grad is not None for value in cvae.parameters())
    assert cvae.sample(4, y=y[0]).shape == cvae.sample(4, y=y[:4]).shape == (4, 1, 2, 4)
    assert cvae.model(y=y).shape == x.shape
    with pytest.raises(IncompatibleModel, match=r"no y to condition on in CVAE; expected y=.*; try model\(y"):
        cvae.model(n=3)
    with pytest.raises(IncompatibleModel, match="no y to condition on"):
        cvae.sample(3)


def test_the_prior_may_depend_on_y():
    cvae, (x, y) = small(prior=DiagonalNormal(3, 2)), batch(6)
    ELBO(kl="analytic")(cvae.model, cvae.guide, x, y).backward()
    assert all((cvae.prior.head.weight.grad[:, label] != 0).any() for label in range(3))
    with torch.no_grad():
        cvae.prior.head.weight.zero_()[0, 1] = 50.0  # class 1 alone has z_1 around 50
    z = pyro.poutine.trace(cvae.model).get_trace(x, y).nodes["z"]["value"]
    assert torch.equal(z[:, 0] > 25, y == 1)
    assert cvae.sample(5, y=1).shape == (5, *SHAPE)


def test_labels_are_drawn_uniformly_where_none_are_given():
    """30,000 draws: each class within 4.9 standard errors of a third (1e-6 each); none once y is given."""
    cvae = small()
    y = pyro.poutine.trace(cvae.model).get_trace(n=30_000).nodes["y"]["value"]
    error = (2 / 9 / 30_000) ** 0.5
    assert (torch.bincount(y, minlength=3) / 30_000 - 1 / 3).abs().max() < 4.9 * error
    assert "y" not in pyro.poutine.trace(cvae.model).get_trace(*batch(4)).nodes


def test_training_tells_the_classes_apart():
    """Class k is white in row k alone: samples given y show it, and with another y they do not."""
    y = torch.arange(600) % 3
    x = torch.zeros(600, *SHAPE)
    x[torch.arange(600), 0, y] = 1
    cvae = small()
    adam = functools.partial(torch.optim.Adam, lr=0.02)
    data = Arrays(x, train_labels=y, levels=2)
    fit(cvae, ELBO(), data, optimizer=adam, epochs=20, batch_size=48, progress=False)
    for label in range(3):
        rows = cvae.sample(20, y=label, mean=True).mean((0, 1, 3))
        assert rows[label] > 0.9
        assert rows.sum() - rows[label] < 0.3


def message(error, function, *args, **kwargs):
    with pytest.raises(error) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_labels_that_are_none_are_refused_in_one_line():
    cvae, (x, y) = small(), batch(6)
    for function in (cvae.model, cvae.guide, cvae.encode, cvae.reconstruct, cvae.initialize):
        assert "labels that are not whole numbers in y: torch.float32" in message(
            InvalidInput, function, x, y.float()
        )
        text = message(InvalidInput, function, x, torch.tensor([0, 1, -1, 2, -1, 0]))
        assert "data without a label in y: 2 of 6 are -1; expected labels 0..2; try" in text
        assert "out of range in y: 1 of 6, the first 3" in message(
            InvalidInput, function, x, torch.tensor([0, 1, 2, 3, 1, 0])
        )
        assert "wrong shape in y: (5,); expected (6)" in message(InvalidInput, function, x, y[:5])
        assert "wrong shape in y: (6, 1)" in message(InvalidInput, function, x, y[:, None])
    assert "out of range" in message(InvalidInput, cvae.sample, 2, y=7)
    assert "data without a label" in message(
        InvalidInput, ELBO(), cvae.model, cvae.guide, x, torch.full((6,), -1)
    )


def test_x_without_y_is_refused_and_names_the_option():
    cvae, (x, _) = small(), batch(6)
    for function in (cvae.model, cvae.guide):
        assert "expected batches (x, y), as labelled data give them; try labels: true" in message(
            IncompatibleModel, function, x
        )
    unlabelled = CVAE((1, 8, 8), 10, 2, hidden=(8,))
    assert "labels: true" in message(
        IncompatibleModel, fit, unlabelled, ELBO(), Digits(binarize="static"), steps=1, progress=False
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"latent_dim": 0}, "latent_dim: 0"),
        ({"data_shape": (1, 0)}, "data_shape: (1, 0)"),
        ({"num_classes": 0}, "no classes in num_classes: 0"),
        ({"num_classes": None}, "nothing to make features of y in context"),
        ({"context": nn.Identity()}, "unknown size in context_features"),
        ({"hidden": ()}, "no layers in hidden"),
    ],
)
def test_refused_when_made(arguments, expected):
    arguments = {"data_shape": SHAPE, "num_classes": 3, "latent_dim": 2} | arguments
    assert expected in message(InvalidInput, CVAE, **arguments)


def test_fit_starts_the_decoder_at_the_mean_of_the_data():
    mean = torch.linspace(0.05, 0.95, 16).reshape(SHAPE)
    x, y = (torch.rand(2000, *SHAPE) < mean).float(), torch.randint(0, 3, (2000,))
    cvae = small()
    fit(cvae, ELBO(), Arrays(x, train_labels=y, levels=2), steps=1, progress=False)
    assert (cvae.sample(200, mean=True).mean(0) - mean).abs().max() < 0.2


def test_one_hot_follows_the_type_and_takes_any_leading_dimensions():
    y = torch.randint(0, 4, (2, 3))
    assert torch.equal(OneHot(4).double()(y), nn.functional.one_hot(y, 4).double())
    check_labels(y, 4)
    check_labels(torch.full((3,), -1), 4, values=False)


def test_as_many_draws_as_labels():
    cvae = CVAE((1, 4, 4), 3, 2, hidden=(8,))
    assert cvae.sample(2, y=torch.tensor([0, 1])).shape == (2, 1, 4, 4)
    assert cvae.sample(2, y=1).shape == (2, 1, 4, 4)
    for num in (1, 2, 5):
        with pytest.raises(InvalidInput, match=f"number of draws.*one, or {num}"):
            cvae.sample(num, y=torch.tensor([0, 1, 2]))
