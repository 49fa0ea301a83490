"""A guide of any univariate family, its parameters given by one linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import Independent
from torch import Tensor, nn
from torch.distributions import biject_to, constraints

from pyro_dgm.distributions.numerics import at_least_float32, positive
from pyro_dgm.errors import InvalidInput


class Amortized(nn.Module):
    r"""The conditional z_i | h ~ family(parameters_i(h)), independent over i, with one linear head.

    Each parameter is a part of W h + b, mapped to where the family takes it: positive ones to floor + softplus(raw),
    so that they neither vanish nor overflow; probabilities by a sigmoid; real ones as they are. The family must be
    reparameterised, by any of

    - an inverse distribution function: Exponential, Cauchy, Logistic, Pareto, Weibull, Gumbel, and here
      :class:`Rayleigh`, :class:`Reciprocal`, :class:`Gompertz`;
    - a location and a scale: Laplace, StudentT, Logistic, Normal, and here :class:`UniformInterval`,
      :class:`Triangular`;
    - composition: LogNormal, Gamma (Erlang with a fixed whole concentration), Beta, Chi2, FisherSnedecor; Dirichlet,
      which is one vector of all latents.

    The support of q(z | x) must lie within that of the prior p(z), or log p(z) is -infinity or NaN there; with Pyro's
    validation on, the first step refuses it and names the site. Where it is smaller (positive values under a standard
    normal prior), bounds hold, and a likelihood by importance sampling tends to
    :math:`\log \int_{\mathrm{supp}\, q} p(x, z)\, dz`, which is less than log p(x). A prior on the same support is
    the better choice: a Gamma for a Weibull, a Dirichlet for a Dirichlet.

    Args:
        family: a class of univariate distributions of torch or Pyro, or one like them.
        in_features: size of the context h.
        latent_dim: number of latent dimensions, at least 1.
        fixed: arguments of the family that are numbers, by name, and not given by the head.
        scale_floor: the smallest parameter called ``scale``, in units of z.
        floor: the smallest of other positive parameters (rates, concentrations, degrees of freedom); draws overflow
            where they come near zero.

    Raises:
        InvalidInput: a latent dimension below one, a floor that is not positive, or a family that is not
            reparameterised, has no density, or is not made of real, positive or unit-interval parameters.

    Example:
        >>> import pyro.distributions as dist
        >>> posterior = Amortized(dist.Weibull, 32, 8)
        >>> q = posterior(torch.zeros(50, 20, 32))  # (particles, batch, features)
        >>> q.batch_shape, q.event_shape, bool((q.rsample() > 0).all())
        (torch.Size([50, 20]), torch.Size([8]), True)
        >>> Amortized(dist.Bernoulli, 32, 8)
        Traceback (most recent call last):
        pyro_dgm.errors.InvalidInput: a family that is not reparameterised in Amortized: Bernoulli; expected ...

    Reference: Auto-Encoding Variational Bayes (Kingma, Welling, 2014), section 2.4.
    """

    def __init__(
        self,
        family: type[torch.distributions.Distribution],
        in_features: int,
        latent_dim: int,
        *,
        fixed: Mapping[str, float] | None = None,
        scale_floor: float = 1e-4,
        floor: float = 0.1,
    ) -> None:
        super().__init__()
        if latent_dim < 1:
            raise InvalidInput("bad size", where="latent_dim", value=latent_dim, expected="an integer >= 1")
        for name, value in (("scale_floor", scale_floor), ("floor", floor)):
            if not value > 0:
                raise InvalidInput("bad floor", where=name, value=value, expected="a number > 0")
        self.family: Any = family
        self.fixed = tuple(fixed or ())
        for name in self.fixed:
            self.register_buffer(f"fixed_{name}", torch.tensor(float((fixed or {})[name])))
        wanted = _real_maps(family, self.fixed)
        # None: by the bijection of its constraint.
        floors = {name: scale_floor if name == "scale" else floor for name in wanted}
        self.floors = {name: floors[name] if wanted[name] else None for name in wanted}
        self.latent_dim = latent_dim
        self.head = nn.Linear(in_features, len(wanted) * latent_dim)
        self._try()

    def forward(self, h: Tensor) -> Independent:
        """The distribution of z given ``h``, (..., in_features), of event shape (latent_dim,)."""
        raw = at_least_float32(self.head(h)).unflatten(-1, (len(self.floors), self.latent_dim))
        given: dict[str, Any] = {name: getattr(self, f"fixed_{name}") for name in self.fixed}
        for (name, floor), value in zip(self.floors.items(), raw.unbind(-2), strict=True):
            if floor is None:
                given[name] = biject_to(_element(self.family.arg_constraints[name]))(value)
            else:
                given[name] = positive(value, floor)
        q = self.family(**given)
        return Independent(q, 1 - len(q.event_shape))

    def _try(self) -> None:
        """Refuses a family whose draws have no gradient, or which gives no vector of latents with a density."""
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                q = self(torch.zeros(self.head.in_features))
                if q.has_rsample and q.event_shape == (self.latent_dim,) and not q.batch_shape:
                    q.log_prob(q.rsample())
                    return
        except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
            raise _not_univariate(self.family, f"{type(error).__name__}: {error}") from error
        if q.has_rsample:
            raise _not_univariate(self.family, f"event shape {tuple(q.event_shape)}")
        raise InvalidInput(
            "a family that is not reparameterised",
            where="Amortized",
            value=self.family.__name__,
            expected="a family with rsample, whose draws have gradients",
            cure="a relaxation of it, or a guide of your own under ELBO(), which adds the score-function term",
        )


def _element(constraint: Any) -> Any:
    """The constraint of one element of a vector."""
    return getattr(constraint, "base_constraint", constraint)


def _real_maps(family: type[torch.distributions.Distribution], fixed: tuple[str, ...]) -> dict[str, bool]:
    """Names of the parameters to be given, and whether each is positive."""
    known = getattr(family, "arg_constraints", None)
    if not isinstance(known, Mapping):  # a property: they depend on each other
        cure = "UniformInterval(loc, scale)" if family.__name__ == "Uniform" else ""
        raise _not_univariate(family, "parameters that depend on each other", cure)
    names = [name for name in known if name not in fixed and not (name == "probs" and "logits" in known)]
    if not names:
        raise _not_univariate(family, "no parameters")
    for name in names:
        try:
            biject_to(_element(known[name]))
        except NotImplementedError:
            raise _not_univariate(family, f"parameter {name}, which is {known[name]}") from None
    above_zero = (constraints.positive, constraints.nonnegative)
    return {name: any(_element(known[name]) is one for one in above_zero) for name in names}


def _not_univariate(
    family: type[torch.distributions.Distribution], reason: str, cure: str = ""
) -> InvalidInput:
    return InvalidInput(
        "a family that cannot be amortised",
        where="Amortized",
        value=f"{family.__name__}: {reason[:200]}",
        expected="real, positive or unit-interval parameters, one of each for each latent",
        cure=cure or "fixed={...} for its other arguments, or a piece of your own",
    )
