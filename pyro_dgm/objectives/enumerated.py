"""Discrete latents that a guide leaves to enumeration, drawn from their exact conditional."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.traceenum_elbo import BackwardSampleMessenger
from pyro.poutine import Trace
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from pyro.util import check_traceenum_requirements
from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.checks import in_one_line
from pyro_dgm.objectives.inspection import as_found
from pyro_dgm.objectives.sites import Site, is_finite, is_marked, latent_sites, plate_nesting
from pyro_dgm.objectives.traces import Given

EXACT = "_is_exact"  # in the ``infer`` of a site: its distribution is the conditional of the model itself
# The ones that Pyro builds anew from the log-probabilities of their values.
_FAMILIES = dist.Bernoulli, dist.Categorical, dist.OneHotCategorical


def complete_guide(
    model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Any, ...], *, all_finite: bool = False
) -> Callable[..., Any]:
    r"""A guide with the exact conditional of the discrete latents k that it leaves to enumeration.

    :math:`q(z, k \mid x) = q(z \mid x)\, p(k \mid z, x)`, so that each importance weight is the one with k summed out,

    .. math:: \log p(x, z, k) - \log q(z \mid x) - \log p(k \mid z, x) = \log p(x, z) - \log q(z \mid x),

    and there are draws of k besides. The conditional comes from Pyro's enumeration: sites that the model marks with
    ``infer={"enumerate": "parallel"}`` (or ``pyro.infer.config_enumerate``) and the guide lacks.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both.
        all_finite: whether sites that are not marked count, too, as they do for Pyro's NUTS.

    Returns:
        A guide; the given one if it lacks nothing.

    Raises:
        InvalidInput: a site whose distribution cannot be rebuilt from the log-probabilities of its values; with Pyro's
            validation on, a value outside the support of its site.

    Example:
        >>> import math, pyro
        >>> from pyro_dgm.objectives import log_weights
        >>> def mixture(x):
        ...     with pyro.plate("data", len(x)):
        ...         k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        ...         pyro.sample("x", dist.Normal(4 * k - 2, 1.0), obs=x)
        >>> x = torch.tensor([-2.0, 0.0, 3.0])
        >>> guide = complete_guide(mixture, lambda x: None, (x,))
        >>> log_w = log_weights(mixture, guide, x, num_particles=50)
        >>> log_p = torch.logaddexp(dist.Normal(2, 1).log_prob(x) + math.log(0.3),
        ...                         dist.Normal(-2, 1).log_prob(x) + math.log(0.7))
        >>> bool(torch.allclose(log_w, log_p.expand(50, 3)))
        True

    Reference:
        Obermeyer, Bingham, Jankowiak, Chiu, Pradhan, Rush and Goodman, "Tensor variable elimination for plated factor
        graphs", 2019.
    """
    with as_found(), torch.no_grad(), poutine.block():
        try:
            guide_trace = poutine.trace(guide).get_trace(*batch)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
        except ValueError as error:
            raise in_one_line(error) or error from None
    left = {
        name: site
        for name, site in latent_sites(model_trace).items()
        if name not in guide_trace.nodes and (is_finite(site) if all_finite else is_marked(site))
    }
    for name, site in left.items():
        if not isinstance(site["fn"], _FAMILIES):
            raise InvalidInput(
                "a discrete latent variable whose conditional Pyro cannot build",
                where=f"site {name!r}",
                value=type(site["fn"]).__name__,
                expected=" or ".join(family.__name__ for family in _FAMILIES),
                cure="Categorical over its values, or a guide for it",
            )
    if not left:
        return guide
    return CompletedGuide(model, guide, list(left), plate_nesting(model_trace, guide_trace), all_finite)


class CompletedGuide:
    """What :func:`complete_guide` returns.

    Args:
        model: Pyro model.
        guide: Pyro guide that lacks some of its discrete latents.
        names: those.
        nesting: number of dimensions that the plates of both take.
        marks: whether to mark the sites for enumeration, if the model does not.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        names: Sequence[str],
        nesting: int,
        marks: bool,
    ) -> None:
        self.model, self.guide, self.names, self.nesting = model, guide, frozenset(names), nesting
        self.marks = marks

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        plates = [handler for handler in _PYRO_STACK if isinstance(handler, IndepMessenger)]
        with poutine.trace() as capture:
            result = self.guide(*args, **kwargs)
        values = {
            name: site["value"] for name, site in capture.trace.nodes.items() if site["type"] == "sample"
        }
        drawn = prune_subsample_sites(capture.trace)
        enumerated = self._enumerated(drawn, values, plates, args, kwargs)
        with poutine.block(hide_fn=self._is_other), _Conditional(enumerated, drawn), Given(values):
            self.model(*args, **kwargs)
        return result

    def _is_other(self, site: Site) -> bool:
        return site["name"] not in self.names

    def _enumerated(
        self,
        drawn: Trace,
        values: Mapping[str, Tensor],
        plates: Sequence[IndepMessenger],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Trace:
        """Trace of the model with every value of the discrete latents, given the draws of the guide."""
        nesting = max([self.nesting, *(-plate.dim for plate in plates if plate.dim is not None)])
        model = _Inside(plates)(self.model)
        if self.marks:
            model = poutine.infer_config(model, config_fn=self._mark)
        enumerating = EnumMessenger(first_available_dim=-1 - nesting)
        with poutine.block(), poutine.trace(graph_type="flat") as capture, Given(values), enumerating:
            model(*args, **kwargs)
        trace = prune_subsample_sites(capture.trace)
        trace.compute_log_prob()
        drawn.compute_log_prob()
        check_traceenum_requirements(trace, drawn)
        drawn.pack_tensors()
        trace.pack_tensors(drawn.plate_to_symbol)
        return trace

    def _mark(self, site: Site) -> dict[str, Any]:
        return {"enumerate": "parallel"} if site["name"] in self.names else {}


class _Inside(Messenger):
    """Puts a function into plates that were entered before, and that ``poutine.block`` hides from it."""

    def __init__(self, plates: Sequence[IndepMessenger]) -> None:
        super().__init__()
        self.plates = plates

    def _pyro_sample(self, msg: Any) -> None:
        for plate in reversed(self.plates):
            plate._process_message(msg)


class _Conditional(BackwardSampleMessenger):
    """Pyro's backward sampling, which also takes one-hot values and leaves nothing to enumerate."""

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        stack = msg["cond_indep_stack"]
        msg["cond_indep_stack"] = self.enum_trace.nodes[msg["name"]][
            "cond_indep_stack"
        ]  # with the outer plates
        super()._pyro_sample(msg)
        msg["cond_indep_stack"] = stack
        msg["infer"] = {**msg["infer"], "enumerate": None, EXACT: True}

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        value = msg["value"].argmax(-1) if msg["fn"].event_dim else msg["value"]
        super()._pyro_post_sample({**msg, "value": value})
