"""The latents of a model as one unconstrained vector per datum, with the densities of the model and of a start."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.sites import Site, has_auxiliary, latent_sites
from pyro_dgm.objectives.traces import PARTICLES, Given, Layout, prior_of, run_pair
from pyro_dgm.objectives.weights import batch_plate, weigh


@dataclass(frozen=True)
class _Slot:
    """Where a latent lies in the vector.

    Args:
        first: index of its first element.
        shape: of its unconstrained value for one chain, the dimension of the data moved to the front.
        data_dim: the place of that dimension; None where the whole data set is one problem.
        dtype: of the latent; the vector has that of the most precise one.
    """

    first: int
    shape: tuple[int, ...]
    data_dim: int | None
    dtype: torch.dtype

    @property
    def size(self) -> int:
        return math.prod(self.shape[1:])

    def unpack(self, z: Tensor) -> Tensor:
        """Part of z (chains, batch, dim) as the site has it, (chains, *shape)."""
        value = z[..., self.first : self.first + self.size].reshape(len(z), *self.shape).to(self.dtype)
        return value[:, 0] if self.data_dim is None else value.movedim(1, 1 + self.data_dim)

    def pack(self, value: Tensor) -> Tensor:
        """Inverse of :meth:`unpack`, also of a value without some of the rightmost dimensions."""
        value = value.unsqueeze(1) if self.data_dim is None else value.movedim(1 + self.data_dim, 1)
        return value.reshape(*value.shape[:2], -1)


class UnconstrainedModel:
    r"""Densities of a model as functions of :math:`u` with :math:`z = T(u)`, the Jacobian of T counted in.

    T is ``torch.distributions.biject_to`` of the support of each latent, which may depend on other latents.

    Args:
        model: Pyro model, called with the batch.
        batch: positional arguments of the model.
        layout: of the model with its guide.
        joint: whether the whole data set is one problem.
        start: Pyro guide to start from, whose density of all latents is known; the prior if None.

    Raises:
        InvalidInput: a discrete latent, a latent outside the plate of the data without ``joint``, or a start with
            auxiliary sites, naming the site.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        batch: tuple[Any, ...],
        layout: Layout,
        *,
        joint: bool,
        start: Callable[..., Any] | None = None,
    ) -> None:
        self.model, self.batch, self.layout, self.joint, self.start = model, batch, layout, joint, start
        model_trace, start_trace = self._drawn(2)[0]
        if start is not None and has_auxiliary(start_trace):
            raise InvalidInput(
                "a start with auxiliary sites, whose density of the latents is not known",
                where="annealed importance sampling",
                expected="a guide that samples the latents of the model and no more",
                cure="start='prior'",
            )
        self.slots = dict(self._lay_out(model_trace))

    def sample(self, num_chains: int) -> Tensor:
        """Draws from the start, (chains, batch, dim)."""
        return torch.cat([self._packed(trace) for trace, _ in self._drawn(num_chains)])[:num_chains]

    def densities(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Log density of the start, and log p(x, z), both of u (chains, batch, dim): (chains, batch) in nats."""
        # Not validated: a proposal may be so far off that a parameter overflows, and is then refused for its density.
        with pyro.validation_enabled(False):
            if self.layout.vectorized:
                return self._densities(u)
            log_start, log_target = zip(*(self._densities(one[None]) for one in u), strict=True)
            return torch.cat(log_start), torch.cat(log_target)

    def _drawn(self, num: int) -> list[tuple[Trace, Trace]]:
        start = prior_of(self.model) if self.start is None else self.start
        # A single draw has no dimension of particles.
        num = max(num, 2) if self.layout.vectorized else num
        # Not validated, as below: a draw from the prior may be one that the likelihood rules out.
        with pyro.validation_enabled(False):
            return run_pair(self.model, start, self.batch, num, self.layout)

    def _lay_out(self, trace: Trace) -> Iterator[tuple[str, _Slot]]:
        plate = None if self.joint else batch_plate(trace)
        first = 0
        for name, site in latent_sites(trace).items():
            frames = [frame for frame in site["cond_indep_stack"] if plate and frame.name == plate.name]
            if plate and not frames:
                raise InvalidInput(
                    "latent variable outside the batch",
                    where=f"site {name!r}",
                    expected=f"every latent variable inside plate {plate.name!r}",
                    cure="estimator='iwae'",
                )
            value = self._value(site)[0]
            data_dim = len(site["fn"].batch_shape) - self.layout.vectorized + plate.dim if plate else None
            moved = value[None] if data_dim is None else value.movedim(data_dim, 0)
            yield name, _Slot(first, tuple(moved.shape), data_dim, value.dtype)
            first += moved[0].numel()

    def _value(self, site: Site) -> Tensor:
        """Unconstrained value of a site, (chains, ...)."""
        fn = site["fn"]
        value = _bijection(site).inv(site["value"].expand(fn.batch_shape + fn.event_shape))
        return value if self.layout.vectorized else value[None]

    def _packed(self, trace: Trace) -> Tensor:
        sites = latent_sites(trace)
        return torch.cat([slot.pack(self._value(sites[name])) for name, slot in self.slots.items()], dim=-1)

    def _densities(self, u: Tensor) -> tuple[Tensor, Tensor]:
        num, nesting = len(u), int(self.layout.max_plate_nesting) + 1
        model, start = self.model, self.start
        if self.layout.vectorized:
            plate = pyro.plate(PARTICLES, num, dim=-nesting)
            model, start = plate(model), None if start is None else plate(start)
        parts = {name: slot.unpack(u) for name, slot in self.slots.items()}
        if not self.layout.vectorized:
            parts = {name: part[0] for name, part in parts.items()}
        with _Transformed(parts) as transformed:
            trace = poutine.trace(model).get_trace(*self.batch)
        trace.compute_log_prob()
        if start is None:
            start_trace = _only(trace, latent_sites(trace))
        else:
            values = {name: site["value"] for name, site in latent_sites(trace).items()}
            with Given(values):
                start_trace = poutine.trace(start).get_trace(*self.batch)
            start_trace.compute_log_prob()
        log_joint = self._weights(trace, Trace(), num)
        log_start = log_joint - self._weights(trace, start_trace, num)
        log_det = torch.zeros_like(log_joint)
        for name, value in transformed.log_det.items():
            value = value if self.layout.vectorized else value[None]
            log_det = log_det + self.slots[name].pack(value).sum(-1)
        return log_start + log_det, log_joint + log_det

    def _weights(self, model_trace: Trace, guide_trace: Trace, num: int) -> Tensor:
        log_w = weigh([(model_trace, guide_trace)], self.layout, num_particles=num, joint=self.joint)
        return log_w[:, None] if self.joint else log_w


class _Transformed(Messenger):
    """Gives latent sites the values that unconstrained ones stand for; enter it outside the plate of particles."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values
        self.log_det: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            u, transform = self.values[msg["name"]], _bijection(msg)
            msg["value"], msg["done"] = transform(u), True
            self.log_det[msg["name"]] = transform.log_abs_det_jacobian(u, msg["value"])


def _only(trace: Trace, names: Iterable[str]) -> Trace:
    part = Trace()
    for name in names:
        part.add_node(name, **trace.nodes[name])
    return part


def _bijection(site: Site) -> Any:
    """From the real numbers to the support of a site."""
    fn = site["fn"]
    try:
        discrete = fn.support.is_discrete
        if not discrete:
            return biject_to(fn.support)
    except NotImplementedError:
        discrete = False
    raise InvalidInput(
        "a discrete latent" if discrete else "a latent whose support is not known",
        where=f"site {site['name']!r}",
        value=type(fn).__name__,
        expected="continuous latents for annealed importance sampling",
        cure="estimator='iwae'",
    )
