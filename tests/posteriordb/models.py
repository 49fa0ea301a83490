"""Eight posteriors of posteriordb as Pyro models, with the facts of their reference draws.

Each model has the log density of its Stan original up to a constant. Two have other latent variables: eight schools
has z for theta = mu + tau z, as in Stan; GARCH has the point (alpha1, beta1, rest) of a simplex, uniform there, which
is alpha1 and beta1 uniform on 0 < alpha1 < 1, 0 < beta1 < 1 - alpha1. (A support that depends on another latent
is taken by autoguides and by NUTS as it was in their first run.) ``Posterior.scalars`` gives Stan's quantities.

Flat priors are proper distributions under ``mask(False)``: no density, but a draw to begin with, which
``ImproperUniform`` lacks. Models want ``torch.set_default_dtype(torch.float64)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import OrderedTransform

FACTS = Path(__file__).with_name("facts.npz")


def flat():
    return dist.Normal(0.0, 1.0).mask(False)


def flat_positive():
    return dist.LogNormal(0.0, 1.0).mask(False)


def eight_schools(y, sigma):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)


def kidscore(kid_score, mom_iq):
    intercept = pyro.sample("intercept", flat())
    slope = pyro.sample("slope", flat())
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("data", len(kid_score)):
        pyro.sample("kid_score", dist.Normal(intercept + slope * mom_iq, sigma), obs=kid_score)


def kilpisjarvi(y, x, pmualpha, psalpha, pmubeta, psbeta):
    alpha = pyro.sample("alpha", dist.Normal(pmualpha, psalpha))
    beta = pyro.sample("beta", dist.Normal(pmubeta, psbeta))
    sigma = pyro.sample("sigma", flat_positive())
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(alpha + beta * x, sigma), obs=y)


def garch(y, sigma1):
    mu = pyro.sample("mu", flat())
    alpha0 = pyro.sample("alpha0", flat_positive())
    simplex = pyro.sample("simplex", dist.Dirichlet(torch.ones(3)))
    alpha1, beta1 = simplex[..., 0], simplex[..., 1]
    later = alpha0[..., None] + alpha1[..., None] * (y[:-1] - mu[..., None]) ** 2
    first = (sigma1**2).expand((*later.shape[:-1], 1))
    variance = linear_recurrence(beta1[..., None], torch.cat([first, later], -1))
    pyro.sample("y", dist.Normal(mu[..., None], variance.sqrt()).to_event(1), obs=y)


def linear_recurrence(b, u):
    """v_0 = u_0 and v_t = u_t + b v_(t-1) along the last dimension, in log2(T) steps instead of T."""
    step = 1
    while step < u.shape[-1]:
        u = torch.cat([u[..., :step], u[..., step:] + b * u[..., :-step]], -1)
        b, step = b * b, 2 * step
    return u


def gauss_mix(y):
    ordered = dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), [OrderedTransform()])
    mu = pyro.sample("mu", ordered.mask(False))
    pyro.factor("mu_prior", dist.Normal(0.0, 2.0).log_prob(mu).sum(-1))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = pyro.sample("theta", dist.Beta(5.0, 5.0))
    shares = dist.Categorical(torch.stack([theta, 1 - theta], -1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.MixtureSameFamily(shares, dist.Normal(mu, sigma)), obs=y)


def linear_regression(y, X):
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0).expand([X.shape[1]]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(10.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal((X * beta).sum(-1), sigma), obs=y)


def log_earnings(earn, height):
    intercept = pyro.sample("intercept", flat())
    slope = pyro.sample("slope", flat())
    sigma = pyro.sample("sigma", flat_positive())
    with pyro.plate("data", len(earn)):
        pyro.sample("log_earn", dist.Normal(intercept + slope * height, sigma), obs=earn.log())


def autoregression(y, K):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0).expand([int(K)]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    past = y.unfold(0, int(K), 1)[:-1].flip(-1)  # (T - K, K): the latest first
    with pyro.plate("time", len(past)):
        pyro.sample("y", dist.Normal(alpha + (past * beta).sum(-1), sigma), obs=y[int(K) :])


@dataclass(frozen=True)
class Posterior:
    """A model, its data, and what the reference draws say of it.

    Args:
        name: of the posterior in posteriordb.
        model: Pyro model, called with ``batch``.
        fields: names of the data that make the batch.
        columns: Stan's quantities (draws, K) from the latents by site, (draws, ...) each.
        has_useful_mode: whether the density of the unconstrained latents is largest near its bulk: not in a funnel.
    """

    name: str
    model: Callable[..., None]
    fields: tuple[str, ...]
    columns: Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]
    has_useful_mode: bool = True

    @cached_property
    def facts(self) -> dict[str, np.ndarray]:
        """names, mean, sd, quantiles (5, 50, 95 %; K), correlation (K, K), points (20, K): draws; data."""
        with np.load(FACTS, allow_pickle=False) as file:
            start = f"{self.name}/"
            return {key.removeprefix(start): file[key] for key in file.files if key.startswith(start)}

    @property
    def batch(self) -> tuple[Any, ...]:
        return tuple(torch.as_tensor(self.facts[f"data/{field}"]).double() for field in self.fields)

    def scalars(self, latents: Mapping[str, np.ndarray]) -> np.ndarray:
        columns = self.columns(latents)
        return np.concatenate([np.reshape(column, (len(column), -1)) for column in columns], axis=1)


def in_order(*sites: str) -> Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]:
    return lambda latents: [latents[site] for site in sites]


def _schools(latents):
    mu, tau = latents["mu"].reshape(-1, 1), latents["tau"].reshape(-1, 1)
    return [mu + tau * latents["z"].reshape(len(mu), -1), mu, tau]


def _garch(latents):
    simplex = latents["simplex"].reshape(len(latents["mu"]), 3)
    return [latents["mu"], latents["alpha0"], simplex[:, :2]]


REGRESSION = in_order("intercept", "slope", "sigma")
POSTERIORS = {
    posterior.name: posterior
    for posterior in (
        Posterior("eight_schools-eight_schools_noncentered", eight_schools, ("y", "sigma"), _schools, False),
        Posterior("kidiq-kidscore_momiq", kidscore, ("kid_score", "mom_iq"), REGRESSION),
        Posterior(
            "kilpisjarvi_mod-kilpisjarvi",
            kilpisjarvi,
            ("y", "x", "pmualpha", "psalpha", "pmubeta", "psbeta"),
            in_order("alpha", "beta", "sigma"),
        ),
        Posterior("garch-garch11", garch, ("y", "sigma1"), _garch),
        Posterior("low_dim_gauss_mix-low_dim_gauss_mix", gauss_mix, ("y",), in_order("mu", "sigma", "theta")),
        Posterior("sblri-blr", linear_regression, ("y", "X"), in_order("beta", "sigma")),
        Posterior("earnings-logearn_height", log_earnings, ("earn", "height"), REGRESSION),
        Posterior("arK-arK", autoregression, ("y", "K"), in_order("alpha", "beta", "sigma")),
    )
}
