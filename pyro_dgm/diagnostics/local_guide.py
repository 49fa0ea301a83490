"""The best member of a guide's family for each datum: the guide's own distributions, moved by free offsets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import constraints, transform_to

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.elbo import ELBO
from pyro_dgm.objectives.enumerated import EXACT
from pyro_dgm.objectives.sites import sample_sites

# name of a parameter, its value, its constraint -> the value to take instead
Move = Callable[[str, Tensor, constraints.Constraint], Tensor]
# Of parameters that say the same, the one that is free of rounding or cheapest to build from.
_REDUNDANT = {"logits": {"probs"}, "scale_tril": {"covariance_matrix", "precision_matrix"}}

_CHECK_EVERY = 25  # steps
_STALLED = 1e-3  # nats per datum between two checks
_LEARNING_RATES = (0.05, 0.015, 0.005, 0.0015)  # the next one whenever the last has stalled
_PARTICLES = 8  # of a step


class LocalGuide(Messenger):
    r"""Context in which the sites of a guide have free offsets, one for each parameter of each datum.

    A site with the distribution :math:`q(\cdot; \lambda)` has :math:`q(\cdot; T(T^{-1}(\lambda) + \delta))` instead,
    where T maps the real numbers to where the parameter lives (exp for a scale). With :math:`\delta = 0` it is the
    guide itself. Offsets belong to a datum, not to a draw; what the guide's networks make of earlier draws, and the
    transforms of a flow, stay as they are. So for a mean-field guide the offsets reach all of its family; for a
    structured guide or a flow they reach a part of it, and the best they find is a lower bound on the best member.

    Densities are those of fixed parameters: gradients take the path through the draws alone, which leaves out a term of
    mean zero ("sticking the landing"). A site that is not reparameterised keeps its score-function term.

    Enter it outside everything that runs the guide; sites that were given their values are left alone.

    Args:
        guide: Pyro guide.
        batch: positional arguments of the guide.
        plate: name of the plate of the data, to leave alone what lies outside it; None moves every site.

    Raises:
        InvalidInput: a site whose family cannot be rebuilt from its parameters, or none to move at all.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import VAE
        >>> vae, x = VAE(data_shape=(4,), latent_dim=2), torch.zeros(3, 4)
        >>> local = LocalGuide(vae.guide, (x,), plate="data")
        >>> {name: tuple(offset.shape) for name, offset in local.offsets["z"].items()}
        {'loc': (3, 2), 'scale': (3, 2)}

    Reference:
        Cremer, Li and Duvenaud, "Inference suboptimality in variational autoencoders", 2018.
        Roeder, Wu and Duvenaud, "Sticking the landing", 2017.
    """

    def __init__(
        self, guide: Callable[..., Any], batch: tuple[Any, ...], *, plate: str | None = None
    ) -> None:
        super().__init__()
        self.offsets: dict[str, dict[str, Tensor]] = {}
        with torch.no_grad(), poutine.block():
            sites = sample_sites(poutine.trace(guide).get_trace(*batch))
        for name, site in sites.items():
            if site["infer"].get(EXACT):
                continue  # the model's own conditional, which has no better
            if plate is not None and all(frame.name != plate for frame in site["cond_indep_stack"]):
                continue
            offsets = _zero_offsets(site)
            if offsets:
                self.offsets[name] = offsets
        if not self.offsets and not all(site["infer"].get(EXACT) for site in sites.values()):
            raise InvalidInput(
                "no guide site with parameters to move",
                where="guide",
                value=", ".join(f"{name!r} ({site['fn']})" for name, site in sites.items()),
                expected="a distribution with free parameters, Normal for one",
            )

    def parameters(self) -> list[Tensor]:
        """All offsets."""
        return [offset for offsets in self.offsets.values() for offset in offsets.values()]

    def _pyro_sample(self, msg: Any) -> None:
        offsets = self.offsets.get(msg["name"])
        if offsets is None or msg["done"] or msg["is_observed"] or site_is_subsample(msg):
            return
        if msg["fn"].has_rsample:
            msg["value"] = _moved(msg["fn"], offsets).rsample()
            offsets = {name: offset.detach() for name, offset in offsets.items()}
            msg["fn"], msg["done"] = _moved(msg["fn"], offsets), True
        else:
            msg["fn"] = _moved(msg["fn"], offsets)


def fit_local_guide(
    local: LocalGuide,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    batch: tuple[Any, ...],
    *,
    steps: int,
    bound: Callable[[], np.ndarray],
) -> int:
    """Ascends the bound of every datum in its offsets, by Adam; the parameters of model and guide stay as they are.

    Scales (subsampling, annealing) do not count, as in the weights. The learning rate falls each time that the mean
    bound, on the same noise as at the check before, has gained less than 0.001 nats in 25 steps, and then it stops.

    Args:
        local: the offsets, changed in place.
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both.
        steps: largest number of steps.
        bound: the bound of each datum with the offsets as they are, in nats, by the same noise in each call.

    Returns:
        Number of steps taken.
    """
    objective, offsets = ELBO(_PARTICLES), local.parameters()
    for offset in offsets:
        offset.requires_grad_()
    optimizer = torch.optim.Adam(offsets)
    rates, last = list(_LEARNING_RATES), bound()
    try:
        for step in range(1, steps + 1):
            # A short run has all the rates too.
            while len(rates) > 1 and step > steps * (len(_LEARNING_RATES) - len(rates) + 1) / len(
                _LEARNING_RATES
            ):
                rates.pop(0)
            optimizer.param_groups[0]["lr"] = rates[0]
            with torch.enable_grad(), _Unscaled(), local:
                loss = objective(model, guide, *batch)
                gradients = torch.autograd.grad(loss, offsets, allow_unused=True)
            for offset, gradient in zip(offsets, gradients, strict=True):
                offset.grad = torch.zeros_like(offset) if gradient is None else gradient.nan_to_num()
            optimizer.step()
            if step % _CHECK_EVERY == 0:
                now = bound()
                with np.errstate(invalid="ignore"):
                    gain = now - last
                last = now
                if not gain[np.isfinite(gain)].sum() / len(gain) > _STALLED:
                    rates.pop(0)
                if not rates:
                    return step
        return steps
    finally:
        for offset in offsets:
            offset.requires_grad_(False)
            offset.grad = None


class _Unscaled(Messenger):
    """Context in which every site has scale one; the outermost, so that it has the last word."""

    def _pyro_sample(self, msg: Any) -> None:
        msg["scale"] = 1.0


def _zero_offsets(site: Mapping[str, Any]) -> dict[str, Tensor]:
    """Offsets of a site by parameter, after a check that the site can be rebuilt with them."""
    offsets: dict[str, Tensor] = {}

    def record(name: str, value: Tensor, constraint: constraints.Constraint) -> Tensor:
        offsets[name] = torch.zeros_like(transform_to(constraint).inv(value))
        return value

    fn, value = site["fn"], site["value"]
    try:
        _rebuilt(fn, record)
        moved = _moved(fn, offsets)
        before, after = fn.log_prob(value), moved.log_prob(value)
        same = moved.batch_shape == fn.batch_shape and torch.allclose(before, after, rtol=1e-2, atol=1e-2)
        failure = "" if same else "its density changes when it is rebuilt"
    except Exception as error:  # whatever a user's distribution makes of its constructor
        failure = f"{type(error).__name__}: {error}".splitlines()[0]
    if failure:
        raise InvalidInput(
            "a family whose members cannot be reached from its parameters",
            where=f"site {site['name']!r}",
            value=f"{type(fn).__name__} ({failure})",
            expected="a distribution that its constructor rebuilds from the parameters in arg_constraints",
        )
    return offsets


def _moved(fn: Any, offsets: Mapping[str, Tensor]) -> Any:
    def move(name: str, value: Tensor, constraint: constraints.Constraint) -> Tensor:
        transform = transform_to(constraint)
        return transform(transform.inv(value) + offsets[name])

    return _rebuilt(fn, move)


def _rebuilt(fn: Any, move: Move, prefix: str = "", batch_shape: Sequence[int] | None = None) -> Any:
    """A distribution with its free parameters moved.

    Args:
        fn: the distribution; what it wraps is moved, and what a transform does stays.
        move: gives the new value of a parameter.
        prefix: path to ``fn`` from the one that wraps it.
        batch_shape: that of an expanded distribution, for the parameters of the one inside.
    """
    has_rsample = fn.has_rsample
    match fn:
        case dist.Delta():
            return fn  # a point that earlier sites determine
        case torch.distributions.Independent():
            inner = _rebuilt(fn.base_dist, move, prefix)
            result = dist.Independent(inner, fn.reinterpreted_batch_ndims)
        case MaskedDistribution():
            result = _rebuilt(fn.base_dist, move, prefix).mask(fn._mask)
        case ExpandedDistribution():
            result = _rebuilt(fn.base_dist, move, prefix, fn.batch_shape)
        case torch.distributions.TransformedDistribution() if not fn.arg_constraints:
            inner = _rebuilt(fn.base_dist, move, prefix + "base.")
            result = dist.TransformedDistribution(inner, fn.transforms)
        case torch.distributions.MixtureSameFamily():
            mixture = _rebuilt(fn.mixture_distribution, move, prefix + "mixture.")
            components = _rebuilt(fn.component_distribution, move, prefix + "component.")
            result = type(fn)(mixture, components)
        case _ if not any(_is_free(fn.arg_constraints[name]) for name in _parameters(fn)):
            return fn
        case _:
            arguments = {}
            for name in _parameters(fn):
                value, constraint = getattr(fn, name), fn.arg_constraints[name]
                if batch_shape is not None:
                    value = value.expand(*batch_shape, *value.shape[len(fn.batch_shape) :])
                arguments[name] = move(prefix + name, value, constraint) if _is_free(constraint) else value
            # Not validated: a scale that underflows costs its datum, not the run.
            result = type(fn)(**arguments, validate_args=False)
    if result.has_rsample != has_rsample:
        result.has_rsample = has_rsample  # set by hand, to ask for the score-function gradient
    return result


def _parameters(fn: Any) -> list[str]:
    names = set(fn.arg_constraints)
    for name, others in _REDUNDANT.items():
        if name in names:
            names -= others
    return [name for name in fn.arg_constraints if name in names]


def _is_free(constraint: constraints.Constraint) -> bool:
    """Whether a parameter is continuous and may move whatever the other parameters are."""
    return not (constraints.is_dependent(constraint) or constraint.is_discrete)
