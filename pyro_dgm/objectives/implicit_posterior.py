"""The posterior that an importance-weighted bound is the evidence lower bound of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.checks import require_particles
from pyro_dgm.objectives.inspection import inspect_pair
from pyro_dgm.objectives.sites import Site, has_auxiliary, latent_sites
from pyro_dgm.objectives.traces import Given, run_pair
from pyro_dgm.objectives.weights import batch_plate, log_densities

# Numbers of the data that one pass holds for all its particles.
_ELEMENTS_PER_PASS = 2**21


class ImplicitPosterior:
    r"""The implicit importance-weighted posterior :math:`q_{EW}`, which one can sample.

    .. math:: q_{EW}(z \mid x) = \mathbb{E}_{z_2 \dots z_K \sim q} \left[
              \frac{p(x, z)}{\frac1K \left( w(z) + \sum_{k=2}^K w(z_k) \right)} \right],
              \qquad w(z) = \frac{p(x, z)}{q(z \mid x)}

    A draw is one of K draws from the guide, chosen by their weights. K = 1 gives the guide; with K it tends to the
    posterior, and its ELBO is at least the importance-weighted bound with K particles.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both.
        num_particles: number K of draws of which one is taken.

    Raises:
        InvalidInput: no particles, or a pair without weights per datum, naming the site.
        IncompatibleModel: the model is implicit or unnormalised.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import VAE
        >>> vae = VAE(data_shape=(1, 8, 8), latent_dim=2)
        >>> q = ImplicitPosterior(vae.model, vae.guide, torch.zeros(5, 1, 8, 8), num_particles=10)
        >>> draws = q.sample(3)
        >>> draws["z"].shape, q.log_prob(draws).shape
        (torch.Size([3, 5, 2]), torch.Size([3, 5]))

    Reference:
        Cremer, Morris and Duvenaud, "Reinterpreting importance-weighted autoencoders", 2017.
        Bachman and Precup, "Training deep generative models: variations on a theme", 2015.
    """

    def __init__(
        self, model: Callable[..., Any], guide: Callable[..., Any], *batch: Any, num_particles: int
    ) -> None:
        self.model, self.guide, self.batch = model, guide, batch
        self.num_particles = require_particles(num_particles)
        self._layout = inspect_pair(model, guide, batch, 2)

    @torch.no_grad()
    def sample(self, num: int = 1) -> dict[str, Tensor]:
        """Draws of each latent site, (num, batch, ...).

        Args:
            num: number of draws for each datum.

        Raises:
            InvalidInput: no draws.
        """
        require_particles(num)
        found: dict[str, list[Tensor]] = {}
        done = 0
        while done < num:
            log_w, values = self._particles(num - done)  # (draws, particles, batch)
            chosen = torch.distributions.Categorical(logits=log_w.movedim(1, -1)).sample()  # (draws, batch)
            for name, value in values.items():  # (draws, particles, batch, ...)
                index = chosen.reshape(len(chosen), 1, -1, *(1,) * (value.dim() - 3))
                taken = value.gather(1, index.expand(-1, -1, *value.shape[2:]))
                found.setdefault(name, []).append(taken.squeeze(1))
            done += len(chosen)
        return {name: torch.cat(pieces) for name, pieces in found.items()}

    @torch.no_grad()
    def log_prob(self, values: Mapping[str, Tensor], *, num_draws: int = 100) -> Tensor:
        """log of an unbiased estimate of q_EW(z | x) in nats, (num, batch); exact for one particle.

        Args:
            values: of every latent site, as :meth:`sample` gives them.
            num_draws: number R of draws of the other K - 1 particles; the same for all values of a datum.

        Raises:
            InvalidInput: no draws, another set of sites, or a guide that builds its latents from auxiliary sites,
                whose density at a latent is not known.
        """
        require_particles(num_draws)
        log_p, log_q = self._at(values)  # (num, batch)
        if self.num_particles == 1:
            return log_q
        log_w = log_p - log_q
        inverse: list[Tensor] = []
        done = 0
        while done < num_draws:
            others = self._particles(num_draws - done)[0][:, 1:].logsumexp(1)  # (draws, batch)
            done += len(others)
            inverse.append((-torch.logaddexp(log_w.unsqueeze(1), others)).logsumexp(1, keepdim=True))
        return log_p + torch.cat(inverse, 1).logsumexp(1) - math.log(num_draws) + math.log(self.num_particles)

    def _particles(self, most: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Weights (draws, particles, batch) and values (draws, particles, batch, ...) of one pass."""
        size = sum(value.numel() for value in self.batch if isinstance(value, Tensor))
        draws = min(most, max(1, _ELEMENTS_PER_PASS // max(1, size * self.num_particles)))
        count = draws * self.num_particles
        runs = run_pair(self.model, self.guide, self.batch, count, self._layout)
        log_p, log_q = log_densities(runs, self._layout, num_particles=count)
        pieces: dict[str, list[Tensor]] = {}
        for model_trace, _ in runs:
            for name, site in latent_sites(model_trace).items():
                pieces.setdefault(name, []).append(self._per_datum(site, model_trace))
        values = {
            name: torch.cat(parts).expand(count, *parts[0].shape[1:]).unflatten(0, (draws, -1))
            for name, parts in pieces.items()
        }
        return (log_p - log_q).unflatten(0, (draws, -1)), values

    def _per_datum(self, site: Site, model_trace: Trace) -> Tensor:
        """Value of a site, (particles or 1, batch, ...)."""
        dims = [-1 - int(self._layout.max_plate_nesting), batch_plate(model_trace).dim]
        value, event = site["value"], site["fn"].event_dim
        missing = event - dims[0] - value.dim()
        value = value.reshape((1,) * max(0, missing) + value.shape)
        moved: Tensor = value.movedim([dim - event for dim in dims], [0, 1])
        return moved

    def _at(self, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """log p(x, z) and log q(z | x) at given latents."""
        num = len(next(iter(values.values()), torch.empty(0)))
        ((model_trace, guide_trace),) = run_pair(self.model, self.guide, self.batch, 1, self._layout)
        sites = latent_sites(model_trace)
        if set(values) != set(sites) or num < 1 or has_auxiliary(guide_trace):
            raise InvalidInput(
                "no density at these latents",
                where="values",
                value=", ".join(values),
                expected=f"draws of {', '.join(sites)}, of a guide without auxiliary sites",
            )
        dims = [-1 - int(self._layout.max_plate_nesting), batch_plate(model_trace).dim]
        given = {
            name: value.movedim([0, 1], [dim - sites[name]["fn"].event_dim for dim in dims])
            for name, value in values.items()
        }
        if self._layout.vectorized and num > 1:
            with Given(given):
                runs = run_pair(self.model, self.guide, self.batch, num, self._layout)
        else:
            runs = []
            for index in range(num):
                with Given({name: value[index] for name, value in given.items()}):
                    runs += run_pair(self.model, self.guide, self.batch, 1, self._layout)
        return log_densities(runs, self._layout, num_particles=num)
