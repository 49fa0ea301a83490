"""A distribution rebuilt with its free parameters moved, as the best member of its family needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import constraints, transform_to

from pyro_dgm.errors import InvalidInput

# name of a parameter, its value, its constraint -> the value to take instead
Move = Callable[[str, Tensor, constraints.Constraint], Tensor]
# Of parameters that say the same, the one that is free of rounding or cheapest to build from.
_REDUNDANT = {"logits": {"probs"}, "scale_tril": {"covariance_matrix", "precision_matrix"}}


def zero_offsets(site: Mapping[str, Any]) -> dict[str, Tensor]:
    """Offsets of a site by parameter, after a check that the site can be rebuilt with them."""
    offsets: dict[str, Tensor] = {}

    def record(name: str, value: Tensor, constraint: constraints.Constraint) -> Tensor:
        offsets[name] = torch.zeros_like(transform_to(constraint).inv(value))
        return value

    fn, value = site["fn"], site["value"]
    try:
        _rebuilt(fn, record)
        other = moved(fn, offsets)
        before, after = fn.log_prob(value), other.log_prob(value)
        same = other.batch_shape == fn.batch_shape and torch.allclose(before, after, rtol=1e-2, atol=1e-2)
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


def moved(fn: Any, offsets: Mapping[str, Tensor]) -> Any:
    """A distribution with its parameters moved by offsets, in the space where they are free.

    Args:
        fn: the distribution.
        offsets: as :func:`zero_offsets` names and shapes them.
    """

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
