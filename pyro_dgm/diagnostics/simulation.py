"""Data and latents drawn together from a model, in the shapes of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_dgm.diagnostics.data_arguments import DataArguments
from pyro_dgm.errors import IncompatibleModel, InvalidInput
from pyro_dgm.objectives.checks import refuse_subsample
from pyro_dgm.objectives.inspection import as_found
from pyro_dgm.objectives.sites import Site, is_masked_out, latent_sites, sample_sites


@dataclass(frozen=True)
class JointDraws:
    """Sites of one run of a model whose observed sites were drawn, not given.

    Args:
        latents: latent sites, drawn from the prior.
        observed: observed sites, drawn from the likelihood.
    """

    latents: Mapping[str, Site]
    observed: Mapping[str, Site]


@dataclass(frozen=True)
class Simulation(JointDraws):
    """One joint draw of latents and data.

    Args:
        latents: latent sites, drawn from the prior.
        observed: observed sites, drawn from the likelihood.
        batch: the arguments of the model, with the drawn data in the place of the data they held.
    """

    batch: tuple[Any, ...]


class Anew(Messenger):
    """Gives latent sites the values they had, and draws observed ones.

    ``poutine.uncondition`` would draw ``pyro.deterministic`` sites too, and with a wrong shape. Enter it before a
    plate of particles, which leaves a given site alone.

    Args:
        latents: values by site; latent sites that are not among them are drawn from the prior.
    """

    def __init__(self, latents: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.latents = latents
        self.observed: dict[str, Tensor] = {}  # the values that observed sites came with
        self.sites: dict[str, Site] = {}  # the observed sites as they were drawn
        self.last = ""

    def _pyro_sample(self, msg: Any) -> None:
        self.last = msg["name"]
        if msg["name"] in self.latents:
            msg["value"], msg["done"] = self.latents[msg["name"]], True
        elif msg["is_observed"] and not msg["infer"].get("_deterministic", False):
            self.observed[msg["name"]] = msg["value"]
            msg["value"], msg["is_observed"] = None, False

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.observed:
            self.sites[msg["name"]] = msg.copy()


class Simulator:
    """Joint draws of latents and data, each with the batch that it makes of a given one.

    An argument of the model is data if an observed site has it as its value: the same tensor, a view of it, or one
    that equals it. All other arguments (labels that are only read) stay as they are.

    Args:
        model: Pyro model, called with the batch.
        batch: positional arguments of the model.

    Raises:
        InvalidInput: an observed site that no argument feeds, a model that also reads the data it observes, or a
            site that cannot be drawn: a factor, a subsampled plate, an improper prior, no sampler.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import PPCA
        >>> ppca = PPCA(data_dim=4, latent_dim=2)
        >>> simulator = Simulator(ppca.model, (torch.zeros(5, 4),))
        >>> first, second = simulator.draw(), simulator.draw()
        >>> first.latents["z"]["value"].shape, bool((first.batch[0] == second.batch[0]).any())
        (torch.Size([5, 2]), False)
    """

    def __init__(self, model: Callable[..., Any], batch: tuple[Any, ...]) -> None:
        # Elements that share memory (an expanded tensor) could not be replaced one by one.
        self.model = model
        self.batch = tuple(
            field.contiguous() if isinstance(field, Tensor) and 0 in field.stride() else field
            for field in batch
        )
        with as_found(), torch.no_grad():
            draws, values = _run(model, self.batch)
            self.arguments = DataArguments(self.batch, values)
            self._refuse_data_read_twice(draws)

    @torch.no_grad()
    def draw(self) -> Simulation:
        """One joint draw; follows torch's random numbers."""
        draws, _ = _run(self.model, self.batch)
        return Simulation(draws.latents, draws.observed, self._batch_of(draws))

    def _batch_of(self, draws: JointDraws) -> tuple[Any, ...]:
        return self.arguments.replaced({name: site["value"] for name, site in draws.observed.items()})

    def _refuse_data_read_twice(self, draws: JointDraws) -> None:
        """Densities of one draw must not depend on the data that the model was called with."""
        sites = {**draws.latents, **draws.observed}
        values = {name: site["value"] for name, site in sites.items()}
        densities = []
        for batch in (self.batch, self._batch_of(draws)):
            with as_found(), _All(values):  # the same noise, if the model has some of its own
                trace = poutine.trace(self.model).get_trace(*batch)
            trace.compute_log_prob()
            densities.append({name: site["unscaled_log_prob"] for name, site in sample_sites(trace).items()})
        before, after = densities
        for name in before:
            same_shape = name in after and before[name].shape == after[name].shape
            if not same_shape or not torch.allclose(before[name], after[name], 1e-4, 1e-4, equal_nan=True):
                raise InvalidInput(
                    "a model that reads the data it observes",
                    where=f"site {name!r}",
                    expected="a distribution that depends on latent variables and other arguments alone",
                    cure="one distribution of the whole datum, which can be sampled",
                )


def simulate(model: Callable[..., Any], batch: tuple[Any, ...]) -> Simulation:
    r"""One joint draw :math:`z \sim p(z), x \sim p(x \mid z)` in the shapes of a batch.

    Args:
        model: Pyro model, called with the batch.
        batch: positional arguments of the model. The data among them are replaced (see :class:`Simulator`).

    Raises:
        InvalidInput: an observed site that no argument feeds, a model that also reads the data it observes, a
            factor, a subsampled plate, an improper prior, or a distribution without a sampler.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> def model(x, scale):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, scale), obs=x)
        >>> drawn = simulate(model, (torch.zeros(3), torch.full((3,), 1e-6)))
        >>> x, scale = drawn.batch
        >>> bool((x - drawn.latents["z"]["value"]).abs().max() < 1e-4), bool((scale == 1e-6).all())
        (True, True)
    """
    return Simulator(model, batch).draw()


class _All(Messenger):
    """Gives all sites their values, observed ones too."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True


def _run(model: Callable[..., Any], batch: tuple[Any, ...]) -> tuple[JointDraws, dict[str, Tensor]]:
    """One run with all sites drawn, and the values that observed sites came with."""
    with Anew({}) as anew:
        try:
            trace = poutine.trace(model).get_trace(*batch)
        except (NotImplementedError, IncompatibleModel) as error:
            raise InvalidInput(
                "a distribution that cannot be sampled",
                where=f"site {anew.last!r}",
                value=str(error) or type(error).__name__,
                expected="a model that can draw its data",
                cure="a distribution that has a sampler",
            ) from None
    sites = sample_sites(trace)
    observed = {name: anew.sites[name] for name in sites if name in anew.sites}
    latents = {name: site for name, site in latent_sites(trace).items() if name not in observed}
    for name, site in sites.items():
        _require_drawable(name, site, latent=name in latents)
    return JointDraws(latents, observed), anew.observed


def _require_drawable(name: str, site: Site, *, latent: bool) -> None:
    if isinstance(site["fn"], dist.Unit):
        raise InvalidInput(
            "a factor",
            where=f"site {name!r}",
            expected="sites that can be drawn; a factor changes the density and not the draws",
            cure="pyro.sample in its place",
        )
    refuse_subsample(name, site)
    if latent and is_masked_out(site):
        raise InvalidInput(
            "a prior that is masked out",
            where=f"site {name!r}",
            expected="a proper prior to draw from",
            cure="pyro.sample without mask(False)",
        )
