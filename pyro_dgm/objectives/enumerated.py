"""Discrete latents that a guide leaves to enumeration, drawn from their exact conditional."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
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

from pyro_dgm.errors import Fault, InvalidInput
from pyro_dgm.objectives.checks import in_one_line
from pyro_dgm.objectives.inspection import as_found
from pyro_dgm.objectives.sites import (
    EXACT,
    Site,
    is_finite,
    is_marked,
    latent_sites,
    observed_sites,
    plate_nesting,
)
from pyro_dgm.objectives.traces import Given

_CERTAIN = 1e4  # logit
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
    if not left:
        return guide
    _require_conditionals(left, model_trace, guide_trace)
    return CompletedGuide(model, guide, list(left), plate_nesting(model_trace, guide_trace))


def _require_conditionals(left: Mapping[str, Site], model_trace: Trace, guide_trace: Trace) -> None:
    """Raises where the conditional of a discrete latent is not what the weights need."""
    observed = observed_sites(model_trace)
    for name in observed:
        if name in observed_sites(guide_trace):
            raise InvalidInput(
                "a guide that observes what the model observes",
                where=f"site {name!r}",
                expected="latents alone in a guide whose discrete latents are left to enumeration",
                cure="AutoNormal in place of a GuideMessenger, or the guide without that site",
            )
    for name, site in left.items():
        if not isinstance(site["fn"], _FAMILIES):
            raise InvalidInput(
                "a discrete latent variable whose conditional Pyro cannot build",
                where=f"site {name!r}",
                value=type(site["fn"]).__name__,
                expected=" or ".join(family.__name__ for family in _FAMILIES),
                cure="Categorical over its values, or a guide for it",
            )


class CompletedGuide:
    """What :func:`complete_guide` returns.

    Args:
        model: Pyro model.
        guide: Pyro guide that lacks some of its discrete latents.
        names: those.
        nesting: number of dimensions that the plates of both take.
    """

    def __init__(
        self, model: Callable[..., Any], guide: Callable[..., Any], names: Sequence[str], nesting: int
    ) -> None:
        self.model, self.guide, self.names, self.nesting = model, guide, frozenset(names), nesting

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        plates = [handler for handler in _PYRO_STACK if isinstance(handler, IndepMessenger)]
        with poutine.trace() as capture:
            result = self.guide(*args, **kwargs)
        in_guide = {n: site["value"] for n, site in capture.trace.nodes.items() if site["type"] == "sample"}
        drawn = prune_subsample_sites(capture.trace)
        try:
            enumerated, subsamples = self._enumerated(drawn, in_guide, plates, args, kwargs)
            visible = self.names | (subsamples.keys() - in_guide.keys())
            hidden = poutine.block(hide_fn=lambda site: site["name"] not in visible)
            with hidden, _Conditional(enumerated, drawn, self.names), Given(subsamples | in_guide):
                self.model(*args, **kwargs)
        except Fault:
            raise
        except (AssertionError, KeyError, RuntimeError, ValueError) as error:  # what Pyro's enumeration says
            raise InvalidInput(
                "a model that Pyro cannot enumerate",
                where=f"site {min(self.names)!r}",
                value=f"{type(error).__name__}: {error}".strip().splitlines()[0],
                expected="what TraceEnum_ELBO asks for, and a possible value at finite densities",
                cure="pyro.plate around every batch, Vindex to index with latents, or a guide for the site",
            ) from error
        return result

    def _enumerated(
        self,
        drawn: Trace,
        in_guide: Mapping[str, Tensor],
        plates: Sequence[IndepMessenger],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Trace, dict[str, Tensor]]:
        """Trace of the model with every value of the discrete latents, given the guide's draws; and its subsamples."""
        nesting = max([self.nesting, *(-plate.dim for plate in plates if plate.dim is not None)])
        model = poutine.infer_config(_Inside(plates)(self.model), config_fn=self._mark)
        enumerating = EnumMessenger(first_available_dim=-1 - nesting)
        with poutine.block(), poutine.trace(graph_type="flat") as capture, Given(in_guide), enumerating:
            model(*args, **kwargs)
        subsamples = {n: site["value"] for n, site in capture.trace.nodes.items() if site_is_subsample(site)}
        trace = prune_subsample_sites(capture.trace)
        self._leave_out_unobserved(trace, in_guide)
        trace.compute_log_prob()
        drawn.compute_log_prob()
        for site in [*trace.nodes.values(), *drawn.nodes.values()]:
            if site["type"] == "sample":
                site["scale"] = 1.0  # a conditional has none
                # Pyro packs plates of one away, and misses them later.
                site["cond_indep_stack"] = tuple(f for f in site["cond_indep_stack"] if f.size != 1)
        check_traceenum_requirements(trace, drawn)
        drawn.pack_tensors()
        trace.pack_tensors(drawn.plate_to_symbol)
        return trace, subsamples

    def _leave_out_unobserved(self, trace: Trace, in_guide: Mapping[str, Tensor]) -> None:
        """Data that are not given (``obs=None``, as for predictions) say nothing of the latents."""
        unknown = [n for n in latent_sites(trace) if n not in in_guide and n not in self.names]
        if unknown and observed_sites(trace):
            raise InvalidInput(
                "latent variable without a guide",
                where=f"site {unknown[0]!r}",
                expected="a guide for all latents but those of finitely many values, or no data at all",
            )
        for name in unknown:
            trace.remove_node(name)

    def _mark(self, site: Site) -> dict[str, Any]:
        # All values, and not some draws of them.
        return {"enumerate": "parallel", "num_samples": None} if site["name"] in self.names else {}


class _Inside(Messenger):
    """Puts a function into plates that were entered before, and that ``poutine.block`` hides from it."""

    def __init__(self, plates: Sequence[IndepMessenger]) -> None:
        super().__init__()
        self.plates = plates

    def _pyro_sample(self, msg: Any) -> None:
        for plate in reversed(self.plates):
            plate._process_message(msg)


class _Conditional(BackwardSampleMessenger):
    """Pyro's backward sampling of the named sites, which also takes one-hot values and leaves nothing to enumerate."""

    def __init__(self, enumerated: Trace, drawn: Trace, names: Collection[str]) -> None:
        super().__init__(enumerated, drawn)
        self.names = names

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.names:
            return
        stack, prior = msg["cond_indep_stack"], msg["fn"]
        there = self.enum_trace.nodes[msg["name"]]
        msg["cond_indep_stack"] = there["cond_indep_stack"]  # with the outer plates
        super()._pyro_sample(msg)
        msg["cond_indep_stack"] = stack
        if isinstance(msg["fn"], dist.Bernoulli):
            # An infinite logit has no density of the value that it makes certain.
            msg["fn"] = dist.Bernoulli(logits=msg["fn"].logits.clamp(-_CERTAIN, _CERTAIN))
        _require_ineffective(msg, prior)
        msg["infer"] = {**msg["infer"], "enumerate": None, EXACT: True}

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            value = msg["value"].argmax(-1) if msg["fn"].event_dim else msg["value"]
            super()._pyro_post_sample({**msg, "value": value})


def _require_ineffective(msg: Any, prior: Any) -> None:
    """Raises if entries of a latent are masked and yet matter to the data: Pyro sums over them, a weight would not."""
    if msg["mask"] is None or msg["mask"] is True:
        return
    difference = (msg["fn"].probs - prior.probs).abs()
    if not isinstance(prior, dist.Bernoulli):
        difference = difference.amax(-1)
    if bool((difference > 1e-4).logical_and(~torch.as_tensor(msg["mask"], device=difference.device)).any()):
        raise InvalidInput(
            "a discrete latent that is masked where the data depend on it",
            where=f"site {msg['name']!r}",
            expected="one mask around the latent and these data",
        )
