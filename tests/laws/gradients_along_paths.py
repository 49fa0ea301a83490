"""Gradients of an objective for a pair, and the faults that are planted where they are taken along paths."""

import torch
from pyro import poutine

from pyro_dgm.objectives import IWAE, iwae
from pyro_dgm.objectives.paths import Paths
from tests.laws.listed import planted


def gradients(objective, pair, x, *, mask=None):
    model, guide = pair.model, pair.guide
    if mask is not None:
        model, guide = poutine.mask(model, mask=mask), poutine.mask(guide, mask=mask)
    pair.zero_grad()
    loss = objective(model, guide, x)
    loss.backward()
    return loss.detach(), {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in pair.named_parameters()
    }


def largest(found):
    return max(gradient.abs().max().item() for gradient in found.values())


def instead(change):
    """Gradients of another objective than the one that was asked for."""
    return lambda objective, pair, x, **options: gradients(change(objective), pair, x, **options)


def of_kind(kind):
    return instead(lambda one: IWAE(one.num_particles, gradient=kind) if isinstance(one, IWAE) else one)


def all_of_it(self, log_q):
    return log_q


def nothing_of_it(self, log_q):
    return log_q.detach()


spread = iwae._spread


def changed(change):
    return lambda weights, run, layout: spread(change(weights), run, layout)


FAULTS = {
    "density at fixed draws kept": planted(gradients, Paths, along=all_of_it),
    "entropy forgotten": planted(gradients, Paths, along=nothing_of_it),
}
SQUARE = {
    "weights not squared": planted(gradients, Paths, scale=lambda self, factors: None),
    "weights cubed": planted(gradients, iwae, _spread=changed(lambda weights: weights**2)),
    "weights of the next particle": planted(
        gradients, iwae, _spread=changed(lambda weights: weights.roll(1, 0))
    ),
}
