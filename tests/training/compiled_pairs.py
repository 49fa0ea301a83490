"""Pairs that cover what CompiledSVI promises, each with the loss that it is trained by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
from pyro.infer import (
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoDiagonalNormal, AutoIAFNormal, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.distributions import constraints

from pyro_dgm.models import VAE
from pyro_dgm.objectives import ELBO, IWAE

Pair = tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]


def vae() -> Pair:
    program = VAE(data_shape=(1, 4, 4), latent_dim=2, hidden=[8])
    return program.model, program.guide, (torch.bernoulli(torch.full((10, 1, 4, 4), 0.5)),)


class Regularised(nn.Module):
    """Batch norm and dropout on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(5, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)
        )
        self.decoder = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 5))

    def model(self, x: torch.Tensor) -> None:
        pyro.module("regularised", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x: torch.Tensor) -> None:
        pyro.module("regularised", self)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def regularised(*, training: bool = True) -> Pair:
    net = Regularised().train(training)
    return net.model, net.guide, (torch.randn(12, 5),)


def mixture() -> Pair:
    @config_enumerate
    def model(x: torch.Tensor) -> None:
        weights = pyro.param("w", torch.ones(3) / 3, constraint=constraints.simplex)
        loc = pyro.param("loc", torch.tensor([-1.0, 0.0, 1.0]))
        scale = pyro.param("s", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[k], scale), obs=x)

    return model, lambda x: None, (torch.randn(30),)


def mixture_guide() -> Pair:
    def model(x: torch.Tensor) -> None:
        loc = pyro.param("loc", torch.tensor([-1.0, 0.0, 1.0]))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(loc[k], 1.0), obs=x)

    @config_enumerate
    def guide(x: torch.Tensor) -> None:
        q = pyro.param("q", lambda: torch.ones(len(x), 3) / 3, constraint=constraints.simplex)
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(q))

    return model, guide, (torch.randn(30),)


def semi_supervised() -> Pair:
    label, encoder, decoder = nn.Linear(5, 3), nn.Linear(8, 4), nn.Linear(5, 5)

    def joined(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        shape = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
        return torch.cat([a.expand(*shape, a.shape[-1]), b.expand(*shape, b.shape[-1])], -1)

    def model(x: torch.Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(decoder(joined(z, y)), 1.0).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        pyro.module("label", label)
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=label(x)), infer={"enumerate": "parallel"})
            loc, log_scale = encoder(joined(x, y)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, guide, (torch.randn(16, 5),)


def schools(autoguide: Callable[..., Any]) -> Pair:
    def model(sigma: torch.Tensor, y: torch.Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("schools", 8):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, sigma), obs=y)

    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    sigma = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    return model, autoguide(model), (sigma, y)


def flow(transform: Callable[..., Any], dim: int) -> Pair:
    def model(x: torch.Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(dim), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    module = transform(dim)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))

    def guide(x: torch.Tensor) -> None:
        pyro.module("flow", module)
        base = dist.Normal(torch.zeros(dim), torch.full((dim,), 2.0)).to_event(1)
        pyro.sample("z", dist.TransformedDistribution(base, [module]))

    return model, guide, (torch.randn(30, dim),)


def subsampled() -> Pair:
    data = torch.randn(100, 2) + 1

    def model() -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        with pyro.plate("data", 100, subsample_size=10) as index:
            pyro.sample("x", dist.Normal(mu, 1.0).to_event(1), obs=data[index])

    return model, AutoNormal(model), ()


def score() -> Pair:
    """A discrete latent that is not enumerated: the gradient is a score."""

    def model(x: torch.Tensor) -> None:
        p = pyro.param("mp", torch.tensor([0.3, 0.6]), constraint=constraints.unit_interval)
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(0.4))
            pyro.sample("x", dist.Bernoulli(p[b.long()]), obs=x)

    def guide(x: torch.Tensor) -> None:
        q = pyro.param("q", torch.full((len(x),), 0.5), constraint=constraints.unit_interval)
        with pyro.plate("data", len(x)):
            pyro.sample("b", dist.Bernoulli(q))

    return model, guide, (torch.bernoulli(torch.full((10,), 0.5)),)


def gamma() -> Pair:
    positive = constraints.positive

    def model(x: torch.Tensor) -> None:
        a = pyro.sample("a", dist.Gamma(2.0, 1.0))
        b = pyro.sample("b", dist.Beta(2.0, 2.0))
        d = pyro.sample("d", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(a * b + d[0], 1.0), obs=x)

    def guide(x: torch.Tensor) -> None:
        shape = pyro.param("shape", torch.tensor(2.0), constraint=positive)
        beta = pyro.param("beta", torch.tensor([2.0, 3.0]), constraint=positive)
        pyro.sample("a", dist.Gamma(shape, 1.0))
        pyro.sample("b", dist.Beta(beta[0], beta[1]))
        pyro.sample("d", dist.Dirichlet(pyro.param("dirichlet", torch.ones(3) * 2, constraint=positive)))

    return model, guide, (torch.randn(7),)


class Regression(PyroModule):
    """A Bayesian linear layer: its weight is a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](3, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 3]).to_event(2))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> None:
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def regression() -> Pair:
    model = Regression()
    return model, AutoDiagonalNormal(model), (torch.randn(20, 3), torch.randn(20))


VECTORIZED: dict[str, Any] = {"vectorize_particles": True, "max_plate_nesting": 1}
PAIRS: dict[str, tuple[Callable[[], Pair], Callable[[], Any]]] = {
    "vae": (vae, Trace_ELBO),
    "vae, 3 particles in a loop": (vae, lambda: Trace_ELBO(num_particles=3)),
    "vae, 5 particles at once": (vae, lambda: Trace_ELBO(num_particles=5, **VECTORIZED)),
    "vae, analytic KL": (vae, TraceMeanField_ELBO),
    "vae, our ELBO": (vae, ELBO),
    "vae, our ELBO, analytic KL": (vae, lambda: ELBO(kl="analytic")),
    "vae, IWAE": (vae, lambda: IWAE(5)),
    "vae, Renyi": (vae, lambda: RenyiELBO(alpha=0.0, num_particles=4, **VECTORIZED)),
    "vae, wake-sleep": (vae, lambda: ReweightedWakeSleep(num_particles=3, **VECTORIZED)),
    "vae, tail-adaptive": (vae, lambda: TraceTailAdaptive_ELBO(num_particles=4, **VECTORIZED)),
    "batch norm and dropout": (regularised, Trace_ELBO),
    "batch norm and dropout, eval": (lambda: regularised(training=False), Trace_ELBO),
    "mixture": (mixture, lambda: TraceEnum_ELBO(max_plate_nesting=1)),
    "mixture, enumerated guide": (mixture_guide, lambda: TraceEnum_ELBO(max_plate_nesting=1)),
    "semi-supervised": (semi_supervised, lambda: TraceEnum_ELBO(max_plate_nesting=1)),
    "schools": (lambda: schools(AutoNormal), Trace_ELBO),
    "schools, full covariance": (lambda: schools(AutoMultivariateNormal), Trace_ELBO),
    "schools, IAF": (lambda: schools(lambda m: AutoIAFNormal(m, hidden_dim=[12])), Trace_ELBO),
    "affine flow": (lambda: flow(lambda d: T.affine_autoregressive(d, hidden_dims=[8]), 3), Trace_ELBO),
    "spline flow": (
        lambda: flow(lambda d: T.spline_coupling(d, hidden_dims=[8], count_bins=4), 4),
        Trace_ELBO,
    ),
    "subsampled": (subsampled, Trace_ELBO),
    "score": (score, Trace_ELBO),
    "score, graph": (score, TraceGraph_ELBO),
    "gamma, beta, Dirichlet": (gamma, Trace_ELBO),
    "Bayesian regression": (regression, Trace_ELBO),
}
