"""Draws from a guide laid out by scalar latent, and ranks of true values among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_dgm.diagnostics.simulation import Simulator
from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.inspection import as_found
from pyro_dgm.objectives.sites import Site, latent_sites
from pyro_dgm.objectives.traces import PARTICLES, Layout
from pyro_dgm.objectives.weights import batch_plate

# Numbers drawn from the guide in one pass; what its network holds between them is a small multiple of it.
_ELEMENTS_PER_PASS = 2**21
_ATTEMPTS = 20  # other data must move each latent at least once; a discrete draw may repeat


def require_amortised(simulator: Simulator, guide: Callable[..., Any]) -> None:
    """Raises unless other data move each latent of the guide, whose noise is kept the same.

    Args:
        simulator: where the data come from.
        guide: Pyro guide, called with them.

    Raises:
        InvalidInput: a latent that stays as it is.
    """

    def draws() -> dict[str, Tensor]:
        data = simulator.draw().batch
        with as_found():  # random numbers are given back, so that each call may set them to one state
            torch.manual_seed(0)
            return values_of(latent_sites(poutine.trace(guide).get_trace(*data)))

    with as_found():
        first = draws()
        unmoved = list(first)
        for _ in range(_ATTEMPTS):
            if unmoved:
                again = draws()
                unmoved = [name for name in unmoved if torch.equal(first[name], again[name])]
    if unmoved:
        raise InvalidInput(
            "a guide that does not look at the data",
            where=f"site {unmoved[0]!r}",
            expected="q(z | x) that follows x; any other would have to be fitted again to each simulated data set",
            cure="a guide with an encoder",
        )


def guide_draws(
    guide: Callable[..., Any], batch: tuple[Any, ...], num_samples: int, layout: Layout, size: int
) -> Iterator[dict[str, Tensor]]:
    """Latents of the guide in passes of bounded memory, until all draws are there.

    Args:
        guide: Pyro guide, called with the batch.
        batch: positional arguments of the guide.
        num_samples: number of draws.
        layout: what :func:`~pyro_dgm.objectives.inspection.inspect_pair` found.
        size: numbers in one draw.
    """
    per_pass = max(1, _ELEMENTS_PER_PASS // size) if layout.vectorized else 1
    for done in range(0, num_samples, per_pass):
        plate = pyro.plate(
            PARTICLES, min(per_pass, num_samples - done), dim=-1 - int(layout.max_plate_nesting)
        )
        trace = poutine.trace(plate(guide) if layout.vectorized else guide).get_trace(*batch)
        yield values_of(latent_sites(trace))


@contextmanager
def buffers_as_found() -> Iterator[None]:
    """Block that leaves the buffers of all modules (batch norm) as it found them, and uses up random numbers."""
    cuda = torch.cuda.is_initialized()
    with as_found():
        yield
        state, states = torch.get_rng_state(), torch.cuda.get_rng_state_all() if cuda else []
    torch.set_rng_state(state)
    if cuda:
        torch.cuda.set_rng_state_all(states)


def plate_of_replications(model_trace: Trace) -> int | None:
    """Dimension of the plate of the data if all latents lie in it; else None, since the data are then one whole."""
    try:
        plate = batch_plate(model_trace)
    except InvalidInput:
        return None
    stacks = [site["cond_indep_stack"] for site in latent_sites(model_trace).values()]
    return plate.dim if all(any(frame.name == plate.name for frame in stack) for stack in stacks) else None


class Units:
    """The scalar latents of a pair, laid out as (draws, replications, units).

    Args:
        latents: latent sites of the model.
        layout: what :func:`~pyro_dgm.objectives.inspection.inspect_pair` found.
        plate_dim: dimension whose elements are replications; None if the whole data set is one.

    Example:
        >>> import pyro.distributions as dist
        >>> def model():
        ...     with pyro.plate("data", 5):
        ...         pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        >>> units = Units(latent_sites(poutine.trace(model).get_trace()), Layout(1, True, True), -1)
        >>> units.names, units.rows({"z": torch.zeros(3, 5, 2)}).shape
        (('z[0]', 'z[1]'), torch.Size([3, 5, 2]))
    """

    def __init__(self, latents: Mapping[str, Site], layout: Layout, plate_dim: int | None) -> None:
        self.nesting, self.plate_dim = int(layout.max_plate_nesting), plate_dim
        self.shapes: dict[str, tuple[int, ...]] = {}  # plates, one dimension each, and event
        for name, site in latents.items():
            batch = torch.broadcast_shapes(site["fn"].batch_shape, (1,) * self.nesting)
            self.shapes[name] = tuple(batch) + tuple(site["fn"].event_shape)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the units: the site with the indices, which leave out the replications and plates of one."""
        names: list[str] = []
        for name, shape in self.shapes.items():
            plates = list(enumerate(shape[: self.nesting], -self.nesting))
            sizes = [size for dim, size in plates if dim != self.plate_dim and size > 1]
            for index in np.ndindex(*sizes, *shape[self.nesting :]):
                names.append(f"{name}[{','.join(map(str, index))}]" if index else name)
        return tuple(names)

    def rows(self, values: Mapping[str, Tensor]) -> Tensor:
        """Values by site, (draws, *shape) or (*shape), as (draws or 1, replications, units) in double precision.

        Raises:
            InvalidInput: values that are NaN or infinite.
        """
        columns = []
        for name, shape in self.shapes.items():
            value = values[name]
            if not torch.isfinite(value).all():
                raise InvalidInput(
                    "NaN or infinite draws",
                    where=f"site {name!r}",
                    expected="finite values from model and guide",
                    cure="a look at the parameters",
                )
            value = value.reshape((1,) * (1 + len(shape) - value.dim()) + value.shape)
            value = value.expand(-1, *shape)
            first = 0 if self.plate_dim is None else self.plate_dim + self.nesting + 1
            value = value.movedim(first, 1) if first else value.unsqueeze(1)
            columns.append(value.reshape(*value.shape[:2], -1))
        return torch.cat(columns, dim=2).double()


class Ranks:
    """Ranks and moments of draws against true values, gathered pass by pass.

    Args:
        units: the layout of the latents.
        truth: true values by site.
    """

    def __init__(self, units: Units, truth: Mapping[str, Tensor]) -> None:
        self.units = units
        self.truth = units.rows(truth)[0]  # (replications, units)
        self.below, self.equal, self.sums, self.squares = (torch.zeros_like(self.truth) for _ in range(4))
        self.count = 0

    @property
    def size(self) -> int:
        """Numbers in one draw."""
        return self.truth.numel()

    def add(self, draws: Mapping[str, Tensor]) -> None:
        """Counts draws by site, (draws, *shape) or one of them."""
        above = self.units.rows(draws) - self.truth  # (draws, replications, units)
        self.below += (above < 0).sum(0)
        self.equal += (above == 0).sum(0)
        self.sums += above.sum(0)
        self.squares += above.square().sum(0)
        self.count += len(above)

    def result(self) -> np.ndarray:
        """True values, means and variances of the draws, and ranks: (4, replications, units)."""
        mean = self.sums / self.count
        variance = (self.squares - self.count * mean**2).clamp(min=0) / (self.count - 1)
        ties = (torch.rand_like(self.truth) * (self.equal + 1)).floor()  # random among equal draws
        return torch.stack([self.truth, self.truth + mean, variance, self.below + ties]).cpu().numpy()


def values_of(sites: Mapping[str, Site]) -> dict[str, Tensor]:
    """Values by site."""
    return {name: site["value"] for name, site in sites.items()}
