"""A watchdog for posterior collapse, while training runs."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import torch
from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.divergence import COLLAPSED_SITE, COLLAPSED_UNIT, CURES, site_divergences
from pyro_dgm.objectives.enumerated import complete_guide
from pyro_dgm.objectives.inspection import as_found
from pyro_dgm.training.callbacks import Callback, TrainingState
from pyro_dgm.training.random_state import forked
from pyro_dgm.training.validation import evaluating


class CollapseWatchdog(Callback):
    r"""Warning when latents stop to say anything about the data.

    After an epoch it takes :math:`\mathrm{KL}(q(z \mid x) \,\|\, p(z))` of each latent site and each unit on a batch
    of its own, in evaluation mode. It warns once when the KL of a site falls below ``threshold``, or when most of its
    units are below ``unit_threshold``; and again only after the site has recovered. A run with the watchdog is bit for
    bit the run without it. Sites outside the plate of the data belong to no datum and are left alone.

    ``history`` has a row for each look: ``epoch``, ``step``, and for each site NAME its ``kl_NAME`` in nats per datum
    (None if it is not finite), ``units_NAME`` and ``collapsed_units_NAME`` (None where guide or prior does not
    factorise over units).

    Args:
        batch: what the model and the guide are called with, a few hundred data: their tensors are moved to the device
            and the precision of the program.
        threshold: KL in nats per datum below which a site counts as collapsed.
        unit_threshold: the same for a unit.
        most: share of collapsed units at which to warn.
        every: epochs between two looks.
        num_particles: draws from the guide, for what has no closed form.
        seed: of these draws, the same at each look.

    Raises:
        InvalidInput: a wrong argument; or, at the start of training, a step of one's own, which has no program.

    Example:
        >>> import torch
        >>> from pyro_dgm.data import Arrays
        >>> from pyro_dgm.models import VAE
        >>> from pyro_dgm.objectives import ELBO
        >>> from pyro_dgm.training import fit
        >>> noise = torch.rand(320, 1, 2, 2).round()  # there is nothing to learn, and the latents soon say nothing
        >>> vae = VAE(data_shape=(1, 2, 2), latent_dim=2, hidden=(8,))
        >>> watchdog = CollapseWatchdog(noise[:100], threshold=1e-3)
        >>> _ = fit(vae, ELBO(), Arrays(noise.numpy()), epochs=2, callbacks=[watchdog], progress=False)
        >>> sorted(watchdog.history[-1])
        ['collapsed_units_z', 'epoch', 'kl_z', 'step', 'units_z']

    Reference:
        Bowman, Vilnis, Vinyals, Dai, Jozefowicz and Bengio, "Generating sentences from a continuous space", 2016.
    """

    def __init__(
        self,
        *batch: Any,
        threshold: float = COLLAPSED_SITE,
        unit_threshold: float = COLLAPSED_UNIT,
        most: float = 0.9,
        every: int = 1,
        num_particles: int = 10,
        seed: int = 0,
    ) -> None:
        for name, value, good, expected in (
            ("batch", len(batch), len(batch) > 0, "the arguments of the model and the guide"),
            ("threshold", threshold, threshold > 0, "nats > 0"),
            ("unit_threshold", unit_threshold, unit_threshold > 0, "nats > 0"),
            ("most", most, 0 < most <= 1, "a share above 0 and up to 1"),
            ("every", every, every >= 1, "an integer >= 1"),
            ("num_particles", num_particles, num_particles >= 1, "an integer >= 1"),
        ):
            if not good:
                raise InvalidInput(
                    "bad value", where=f"CollapseWatchdog({name})", value=value, expected=expected
                )
        self.batch = batch
        self.threshold, self.unit_threshold, self.most = threshold, unit_threshold, most
        self.every, self.num_particles, self.seed = every, num_particles, seed
        self.history: list[dict[str, Any]] = []
        self._warned: dict[str, bool] = {}  # what has been said and is still so, by site

    def on_start(self, state: TrainingState) -> None:
        if state.program is None:
            raise InvalidInput(
                "nothing to watch",
                where="CollapseWatchdog",
                expected="fit(program, objective, ...), since a step of one's own shows no model and guide",
                cure="dgm.Pair(model, guide)",
            )

    def on_epoch(self, state: TrainingState) -> None:
        if state.program is None or state.row["epoch"] % self.every:
            return
        row = {"epoch": state.row["epoch"], "step": state.row["step"]}
        for name, (value, per_unit) in self._look(state.program).items():
            units = None if per_unit is None else len(per_unit)
            collapsed = None if per_unit is None else int((per_unit < self.unit_threshold).sum())
            kl = value if math.isfinite(value) else None
            row |= {f"kl_{name}": kl, f"units_{name}": units, f"collapsed_units_{name}": collapsed}
            self._judge(name, kl, units, collapsed, row["epoch"])
        self.history.append(row)

    def state_dict(self) -> dict[str, Any]:
        return {"history": copy.deepcopy(self.history), "warned": dict(self._warned)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history, self._warned = copy.deepcopy(state["history"]), dict(state["warned"])

    def _look(self, program: Any) -> dict[str, tuple[float, Tensor | None]]:
        like = next(iter(program.parameters()), torch.zeros(()))
        batch = [_moved(field, like) for field in self.batch]
        quiet = warnings.catch_warnings(action="ignore")  # particles one after the other
        with quiet, as_found(), forked(like.device, seed=self.seed), evaluating([program]):
            guide = complete_guide(program.model, program.guide, tuple(batch))
            found = site_divergences(program.model, guide, *batch, num_particles=self.num_particles)
        return {name: (site.mean, site.per_unit) for name, site in found.items() if site.is_local}

    def _judge(
        self, name: str, kl: float | None, units: int | None, collapsed: int | None, epoch: int
    ) -> None:
        if kl is None:  # this says nothing
            return
        what = ""
        if kl < self.threshold:
            what = f"KL {kl:.3f} nats per datum, below {self.threshold:g}"
        elif units and collapsed and collapsed >= self.most * units:
            what = f"{collapsed} of {units} units have a KL below {self.unit_threshold:g} nats"
        if what and not self._warned.get(name, False):
            warnings.warn(
                f"posterior collapse at site {name!r} in epoch {epoch}: {what}; try {CURES}", stacklevel=2
            )
        self._warned[name] = bool(what)


def _moved(field: Any, like: Tensor) -> Any:
    if not isinstance(field, Tensor):
        return field
    return field.to(like) if field.is_floating_point() else field.to(like.device)
