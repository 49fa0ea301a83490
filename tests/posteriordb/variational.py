"""Guides fitted to the posteriors of posteriordb, and what their weights say beside what is true."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import (
    AutoIAFNormal,
    AutoLaplaceApproximation,
    AutoMultivariateNormal,
    AutoNormal,
)
from pyro.infer.autoguide.initialization import init_to_feasible, init_to_value
from pyro.infer.mcmc.util import initialize_model

from pyro_dgm.diagnostics.draws import take_draws
from pyro_dgm.diagnostics.importance_weights import of_draws
from pyro_dgm.diagnostics.psis import smooth

Z_LIMIT = 4.9
NUM_REFERENCE_DRAWS = 10_000


def mode(posterior, *, num_steps=200):
    """Latents where the density of the unconstrained latents is largest, by Newton's method with halved steps."""
    start, potential, transforms, _ = initialize_model(
        posterior.model, posterior.batch, init_strategy=init_to_feasible
    )
    sizes = {name: value.numel() for name, value in start.items()}

    def unflatten(flat):
        pieces = flat.split(list(sizes.values()))
        return {name: piece.reshape(start[name].shape) for name, piece in zip(sizes, pieces, strict=True)}

    def energy(flat):
        return potential(unflatten(flat))

    at = torch.cat([value.detach().reshape(-1) for value in start.values()])
    for _ in range(num_steps):
        gradient = torch.autograd.functional.jacobian(energy, at)
        values, vectors = torch.linalg.eigh(torch.autograd.functional.hessian(energy, at))
        direction = vectors @ (
            (vectors.T @ gradient) / values.abs().clamp(min=1e-8)
        )  # downhill off the mode too
        here, size = energy(at), 1.0
        while size > 1e-6 and not energy(at - size * direction) < here:
            size /= 2
        if size <= 1e-6:
            break
        at = at - size * direction
    return {
        name: transforms[name].inv(value) if name in transforms else value
        for name, value in unflatten(at).items()
    }


def laplace(posterior):
    """Normal guide at the mode, with the curvature there."""
    pyro.clear_param_store()  # where the parameters of another guide of this class have the same names
    guide = AutoLaplaceApproximation(posterior.model, init_loc_fn=init_to_value(values=mode(posterior)))
    guide(*posterior.batch)
    return guide.laplace_approximation(*posterior.batch)


def normal(posterior):
    """AutoNormal before training: the best mean field for the Laplace approximation, unless its mode is no place."""
    if not posterior.has_useful_mode:
        guide = AutoNormal(posterior.model)
        guide(*posterior.batch)
        return guide
    start = laplace(posterior)
    guide = AutoNormal(posterior.model, init_loc_fn=init_to_value(values=start.median(*posterior.batch)))
    guide(*posterior.batch)
    precision = torch.cholesky_inverse(_factor(start))
    for site, scale in start._unpack_latent(precision.diagonal() ** -0.5):
        setattr(guide.scales, site["name"], scale.detach())
    return guide


def multivariate_normal(posterior):
    """AutoMultivariateNormal before training: the Laplace approximation, unless its mode is no place."""
    if not posterior.has_useful_mode:
        guide = AutoMultivariateNormal(posterior.model)
        guide(*posterior.batch)
        return guide
    start = laplace(posterior)
    guide = AutoMultivariateNormal(
        posterior.model, init_loc_fn=init_to_value(values=start.median(*posterior.batch))
    )
    guide(*posterior.batch)
    factor = _factor(start)
    guide.scale = factor.diagonal().clone()
    guide.scale_tril = factor / factor.diagonal()[:, None]
    return guide


def flow(posterior):
    """AutoIAFNormal before training: it starts where it likes."""
    guide = AutoIAFNormal(posterior.model)
    guide(*posterior.batch)
    return guide


def _factor(guide):
    return (guide.scale[..., None] * guide.scale_tril).detach()


GUIDES = {
    "AutoNormal": normal,
    "AutoMultivariateNormal": multivariate_normal,
    "AutoIAFNormal": flow,
    "AutoLaplaceApproximation": laplace,
}


def fit(posterior, name, *, num_steps=2000, num_particles=16):
    """A guide of this name, trained by Pyro's SVI; AutoLaplaceApproximation by Newton's method."""
    pyro.clear_param_store()
    guide = GUIDES[name](posterior)
    if name == "AutoLaplaceApproximation":
        return guide
    is_near = posterior.has_useful_mode and name != "AutoIAFNormal"
    first, last = (1e-3, 1e-7) if is_near else (0.05, 1e-4)
    optimizer = pyro.optim.ClippedAdam(
        {"lr": first, "lrd": (last / first) ** (1 / num_steps), "clip_norm": 1e9}
    )
    elbo = Trace_ELBO(num_particles=num_particles, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(posterior.model, guide, optimizer, elbo)
    for _ in range(num_steps):
        svi.step(*posterior.batch)
    return guide


@dataclass(frozen=True)
class Estimate:
    """Means and deviations of Stan's quantities beside the reference, in its standard deviations.

    Args:
        mean_error: (mean - reference mean) / reference sd, (K,).
        mean_tolerance: 4.9 Monte Carlo standard errors of that, (K,), those of the reference included.
        sd_ratio: sd / reference sd, (K,).
        sd_tolerance: 4.9 Monte Carlo standard errors of that, (K,).
    """

    mean_error: np.ndarray
    mean_tolerance: np.ndarray
    sd_ratio: np.ndarray
    sd_tolerance: np.ndarray


def estimate(scalars, weights, facts):
    """Estimate from draws (S, K) with weights (S,) that sum to one; standard errors by the delta method."""
    mean = weights @ scalars
    variance = weights @ (scalars - mean) ** 2
    sd = np.sqrt(variance)
    mean_error = np.sqrt(weights**2 @ (scalars - mean) ** 2)
    sd_error = np.sqrt(weights**2 @ ((scalars - mean) ** 2 - variance) ** 2) / (2 * sd)
    of_reference = 1 / np.sqrt(NUM_REFERENCE_DRAWS)
    return Estimate(
        (mean - facts["mean"]) / facts["sd"],
        Z_LIMIT * np.hypot(mean_error / facts["sd"], of_reference),
        sd / facts["sd"],
        Z_LIMIT * np.hypot(sd_error / facts["sd"], of_reference),
    )


@dataclass(frozen=True)
class Cell:
    """One posterior under one guide: the flags, and the truth about the guide and about its reweighted draws."""

    k_hat: float
    ess: float
    shift: float
    reweighted_reliable: bool
    usable_as_is: bool
    guide: Estimate
    reweighted: Estimate


@torch.no_grad()
def judge(posterior, guide, num_samples=10_000):
    """The flags of the library, and the truth."""
    draws = take_draws(posterior.model, guide, posterior.batch, num_samples, predicts=False)
    latents = draws.groups["posterior"]
    found = of_draws(draws.log_weight, latents)
    scalars = posterior.scalars({name: variable.values for name, variable in latents.items()})
    weights = np.exp(smooth(draws.log_weight.values).log_weights)
    return Cell(
        float(found.k_hat),
        float(found.ess),
        float(found.shift),
        bool(found.reweighted_reliable),
        bool(found.usable_as_is),
        estimate(scalars, np.full(num_samples, 1 / num_samples), posterior.facts),
        estimate(scalars, weights / weights.sum(), posterior.facts),
    )


def contradictions(cell):
    """What the reference says against the flags of a cell, one line each.

    - ``reweighted_reliable``: a reweighted mean more than 0.2 reference sd off, or an sd more than 20 % off.
    - ``usable_as_is``: a mean of the guide more than 0.25 sd off (0.2 of its own sd, which may be a quarter too
      large), or an sd more than 25 % off.

    Where 4.9 Monte Carlo standard errors are more than that, they are the limit instead (false alarm 1e-6).
    """
    found = []
    for flag, one, mean_limit, sd_limit in (
        ("reweighted_reliable", cell.reweighted, 0.2, 0.2),
        ("usable_as_is", cell.guide, 0.25, 0.25),
    ):
        if not getattr(cell, flag):
            continue
        over = np.abs(one.mean_error) > np.maximum(mean_limit, one.mean_tolerance)
        if over.any():
            found.append(f"{flag}, but a mean is {np.abs(one.mean_error).max():.2f} sd off")
        over = np.abs(one.sd_ratio - 1) > np.maximum(sd_limit, one.sd_tolerance)
        if over.any():
            found.append(f"{flag}, but an sd is {farthest(one.sd_ratio):.2f} times the true one")
    return found


def farthest(ratios):
    """The ratio that is farthest from one."""
    return ratios[np.argmax(np.abs(np.log(ratios)))]
