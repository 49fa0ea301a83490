"""The autoencoder: a linear one finds the principal subspace, and everything that needs a likelihood refuses it."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm.data import Arrays
from pyro_dgm.distributions import Flat
from pyro_dgm.errors import IncompatibleModel, InvalidInput
from pyro_dgm.evaluation import log_likelihood
from pyro_dgm.models import Autoencoder
from pyro_dgm.objectives import ELBO, IWAE, PyroELBO, log_weights
from pyro_dgm.training import fit

SHAPE = (1, 4, 4)
D, L, N = 6, 2, 40
reconstruction_error = PyroELBO(pyro.infer.Trace_ELBO())


class UnitNormal(nn.Module):
    """x ~ N(params, I): the reconstruction error is then half the squared distance, and a constant."""

    num_params = 1

    def forward(self, params):
        return dist.Normal(params.squeeze(-2), 1.0).to_event(1)


class Linear(nn.Linear):
    def forward(self, z):
        return super().forward(z).unsqueeze(-2)


def linear(encoder=None, decoder=None):
    return Autoencoder(
        (D,), L, encoder=encoder or nn.Linear(D, L), decoder=decoder or Linear(L, D), observation=UnitNormal()
    ).double()


def trained(program, x):
    """Down to where L-BFGS no longer moves it."""
    trainable = [value for value in program.parameters() if value.requires_grad]
    optimizer = torch.optim.LBFGS(
        trainable, max_iter=3000, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def loss():
        optimizer.zero_grad()
        value = reconstruction_error(program.model, program.guide, x) / N
        value.backward()
        return value

    optimizer.step(loss)
    return program


# ---- a linear autoencoder is principal component analysis (Baldi and Hornik, 1989)


def law_spans_the_principal_subspace(make):
    """Columns of the decoder span the first L right singular vectors of the centred data; the error is that of SVD."""
    for seed in range(2):
        torch.manual_seed(seed)
        scales = torch.tensor([3.0, 2.0, 0.7, 0.5, 0.3, 0.1], dtype=torch.float64)
        x = (
            torch.randn(N, D, dtype=torch.float64) * scales @ torch.linalg.qr(torch.randn(D, D).double())[0]
            + 2
        )
        centred = x - x.mean(0)
        _, values, vectors = torch.linalg.svd(centred, full_matrices=False)
        program = trained(make(), x)
        with torch.no_grad():
            basis = torch.linalg.qr(program.decoder.weight)[0]
            assert (basis @ basis.T - vectors[:L].T @ vectors[:L]).abs().max() < 1e-5
            found = (program.reconstruct(x) - x).square().sum()
            assert (found / values[L:].square().sum() - 1).abs() < 1e-8


def frozen_encoder():
    return linear(
        encoder=nn.Linear(D, L).requires_grad_(False)
    ).eval()  # of a frozen weight in training Pyro warns


def no_bias():
    """Directions of the largest second moment about the origin, and not about the mean."""
    return linear(encoder=nn.Linear(D, L, bias=False), decoder=Linear(L, D, bias=False))


def detached_codes():
    class Detached(nn.Linear):
        def forward(self, x):
            return super().forward(x).detach()

    return linear(encoder=Detached(D, L))


def test_law_holds():
    law_spans_the_principal_subspace(linear)


@pytest.mark.parametrize("mutant", [frozen_encoder, no_bias, detached_codes])
def test_law_catches_mutant(mutant):
    with pytest.raises(AssertionError):
        law_spans_the_principal_subspace(mutant)


# ---- as a program


def test_the_loss_is_the_reconstruction_error_in_our_fit_and_in_pyros_own_svi():
    program, x = Autoencoder(SHAPE, 3, hidden=(8,)).double(), (torch.rand(6, *SHAPE) < 0.5).double()
    error = -program.observation(program.decoder(program.encode(x))).log_prob(x).sum()
    error.backward()
    exact = [value.grad.clone() for value in program.parameters()]
    for elbo in (pyro.infer.Trace_ELBO(), pyro.infer.Trace_ELBO(4, vectorize_particles=True)):
        program.zero_grad()
        loss = PyroELBO(elbo)(program.model, program.guide, x)
        loss.backward()
        assert (loss - error).abs() < 1e-10
        for value, gradient in zip(program.parameters(), exact, strict=True):
            assert (value.grad - gradient).abs().max() < 1e-10
    svi = pyro.infer.SVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO())
    losses = [svi.step(x) for _ in range(30)]
    assert abs(losses[0] - error.item()) < 1e-10
    assert losses[-1] < losses[0]


def test_fit_brings_down_the_error_on_held_out_data():
    y = torch.arange(400) % 3
    x = torch.zeros(400, *SHAPE)
    x[torch.arange(400), 0, y] = 1
    program = Autoencoder(SHAPE, 2, hidden=(16,))
    adam = functools.partial(torch.optim.Adam, lr=0.02)
    data = Arrays(x, levels=2)
    history = fit(
        program, reconstruction_error, data, optimizer=adam, epochs=20, batch_size=32, progress=False
    )
    assert history.rows[-1]["val_loss"] < 0.2 < history.rows[0]["val_loss"]
    assert (program.reconstruct(data.test.x) - data.test.x).abs().max() < 0.2


def test_shapes():
    program, x = Autoencoder(SHAPE, 3, hidden=()), torch.ones(6, *SHAPE)
    assert program.encode(x).shape == (6, 3)
    assert program.decode(torch.zeros(5, 6, 3)).shape == (5, 6, *SHAPE)
    assert program.reconstruct(x).shape == x.shape
    assert torch.equal(program.reconstruct(x), program.decode(program.encode(x)))


@pytest.mark.parametrize(
    "estimate", [log_weights, log_likelihood, ELBO(), ELBO(kl="analytic"), IWAE(3)], ids=lambda f: str(f)[:20]
)
def test_what_needs_a_likelihood_refuses_it_and_names_reason_and_cure(estimate):
    program = Autoencoder(SHAPE, 3, hidden=(8,))
    with pytest.raises(IncompatibleModel) as caught:
        estimate(program.model, program.guide, torch.ones(2, *SHAPE))
    text = str(caught.value)
    assert "\n" not in text and "no normalised density in site 'z'" in text
    assert "VAE" in text and "PyroELBO(Trace_ELBO()), whose loss is the reconstruction error" in text


def test_the_prior_is_what_is_refused_not_the_point():
    """Another guide does not make the flat prior a density."""
    program = Autoencoder(SHAPE, 3, hidden=(8,))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    with pytest.raises(IncompatibleModel, match="no normalised density in site 'z'"):
        log_weights(program.model, guide, torch.ones(2, *SHAPE))


def test_it_cannot_be_sampled_and_says_why():
    program = Autoencoder(SHAPE, 3, hidden=(8,))
    for draw in (
        lambda: program.model(n=3),
        lambda: pyro.infer.Predictive(program.model, num_samples=2)(None),
    ):
        with pytest.raises(IncompatibleModel, match=r"^no p\(z\) to draw from.*; try .*VAE"):
            draw()


@pytest.mark.parametrize("arguments", [{"latent_dim": 0}, {"data_shape": (1, 0)}])
def test_refused(arguments):
    with pytest.raises(InvalidInput, match="no dimensions in"):
        Autoencoder(**{"data_shape": SHAPE, "latent_dim": 2} | arguments)


def test_flat_is_zero_everywhere_and_checks_what_it_is_given():
    flat = Flat((2,)).expand((3, 1))
    assert torch.equal(flat.log_prob(torch.randn(4, 2).double()), torch.zeros(3, 4).double())
    with pytest.raises(ValueError, match="support"):
        flat.log_prob(torch.full((4, 2), float("nan")))
