"""Importance weights of a (model, guide) pair, per datum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.checks import refuse_subsample, require_particles
from pyro_dgm.objectives.inspection import inspect_pair
from pyro_dgm.objectives.sites import Site, observed_sites, sample_sites
from pyro_dgm.objectives.traces import PARTICLES, Layout, run_pair


def log_weights(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *batch: Any,
    num_particles: int = 1,
    joint: bool = False,
    layout: Layout | None = None,
) -> Tensor:
    r"""Log importance weights :math:`\log p(x, z_k) - \log q(z_k \mid x)` with :math:`z_k \sim q(z \mid x)`.

    The batch is the outermost plate that all observed sites share. Masks count, scales do not: a weight belongs to
    one datum, however the data were subsampled or annealed. A latent variable outside that plate has no share in
    any one datum; unless its log p - log q is identically zero, it raises. With an empty guide the result is
    log p(x) itself. Differentiable along the paths of reparameterised guides.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both.
        num_particles: number K of draws from the guide per datum.
        joint: one weight for the whole data set, as global latent variables need it.
        layout: what :func:`~pyro_dgm.objectives.inspection.inspect_pair` found, to save that run.

    Returns:
        Tensor of shape ``(num_particles, batch)`` in nats, ``(num_particles,)`` with ``joint``.

    Raises:
        IncompatibleModel: a ``TypeError``; the model is implicit or unnormalised.
        InvalidInput: a ``ValueError`` that names the site which has no place in the weights.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def exact(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> log_w = log_weights(model, exact, torch.tensor([0.0, 1.0]), num_particles=3)
        >>> log_w.shape, bool(log_w.std(0).max() < 1e-5)
        (torch.Size([3, 2]), True)

    Reference:
        Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", 2016.
    """
    require_particles(num_particles)
    if layout is None:
        layout = inspect_pair(model, guide, batch, num_particles)
    runs = run_pair(model, guide, batch, num_particles, layout)
    return weigh(runs, layout, num_particles=num_particles, joint=joint)


def weigh(
    runs: list[tuple[Trace, Trace]], layout: Layout, *, num_particles: int, joint: bool = False
) -> Tensor:
    """Weights (num_particles, batch), or (num_particles,) if joint, of what ``run_pair`` returned."""
    log_p, log_q = log_densities(runs, layout, num_particles=num_particles, joint=joint)
    return log_p - log_q


def log_densities(
    runs: list[tuple[Trace, Trace]], layout: Layout, *, num_particles: int, joint: bool = False
) -> tuple[Tensor, Tensor]:
    """Both parts of the weights, log p(x, z) and log q(z | x), each of their shape."""
    parts = zip(*(_densities(model, guide, layout, joint) for model, guide in runs), strict=True)
    log_p, log_q = (torch.cat(part) for part in parts)
    shape = torch.broadcast_shapes(log_p.shape, log_q.shape)
    return log_p.expand(num_particles, *shape[1:]), log_q.expand(num_particles, *shape[1:])


def _densities(model_trace: Trace, guide_trace: Trace, layout: Layout, joint: bool) -> tuple[Tensor, Tensor]:
    """Log-densities of model and guide of one run: each (particles or 1, batch or 1), (particles or 1,) if joint."""
    particle_dim = -1 - int(layout.max_plate_nesting)
    model_sites, guide_sites = sample_sites(model_trace), sample_sites(guide_trace)
    if joint:
        for name, site in model_sites.items():
            refuse_subsample(name, site)
        keep, plate = [particle_dim], None
    else:
        plate = batch_plate(model_trace)
        keep = [particle_dim, plate.dim]
    totals: list[Tensor] = []
    outside: dict[str, Tensor] = {}
    for sign, sites in ((1.0, model_sites), (-1.0, guide_sites)):
        inside = []
        for name, site in sites.items():
            term = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
            if plate is None or any(frame.name == plate.name for frame in site["cond_indep_stack"]):
                inside.append(_sum_to(term, keep))
            else:
                term = sign * _sum_to(term, [particle_dim])
                outside[name] = outside[name] + term if name in outside else term
        none = next(iter(model_sites.values()))["unscaled_log_prob"].new_zeros((1,) * len(keep))
        totals.append(sum(inside[1:], inside[0]) if inside else none)
    for name, term in outside.items():
        if plate is not None and bool((term != 0).any()):
            raise InvalidInput(
                "latent variable outside the batch",
                where=f"site {name!r}",
                expected=f"every latent variable inside plate {plate.name!r}, so that each datum has its own weight",
                cure="joint=True for one weight of the whole data set",
            )
    log_p, log_q = totals
    return log_p, log_q


def _sum_to(value: Tensor, keep: list[int]) -> Tensor:
    """Sum over all dimensions but those in ``keep`` (negative, ascending), which become the only ones."""
    missing = -min(keep) - value.dim()
    if missing > 0:
        value = value.reshape((1,) * missing + value.shape)
    dims = [dim for dim in range(-value.dim(), 0) if dim not in keep]
    return value.sum(dims) if dims else value


def batch_plate(model_trace: Trace) -> Any:
    """Outermost plate that all observed sites share."""
    observed = observed_sites(model_trace)
    stacks = {name: _own_frames(site) for name, site in observed.items()}
    names = [{frame.name for frame in stack} for stack in stacks.values()]
    common = set.intersection(*names)
    for frame in next(iter(stacks.values())):  # outermost first
        if frame.name in common:
            return frame
    raise InvalidInput(
        "no plate that all observed sites share",
        where="sites " + ", ".join(repr(name) for name in observed),
        expected="one vectorised pyro.plate over the data around all of them",
        cure="pyro.plate('data', len(x)), or joint=True for one weight of the whole data set",
    )


def _own_frames(site: Site) -> list[Any]:
    return [frame for frame in site["cond_indep_stack"] if frame.vectorized and frame.name != PARTICLES]
