"""Pair with closed forms, and groups of an InferenceData that are changed before they are put together."""

import math
from functools import partial
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pyro
import pyro.distributions as dist
import torch

from pyro_dgm.diagnostics import inference_data
from pyro_dgm.diagnostics.psis import import_arviz

DATA = 4


def log_normal(value, loc, scale):
    return -0.5 * ((value - loc) / scale) ** 2 - np.log(scale) - 0.5 * math.log(2 * math.pi)


class Gaussians:
    """Two latents of each datum and two observed sites, with random parameters."""

    def __init__(self, seed):
        torch.manual_seed(seed)
        self.loadings, self.loc = torch.randn(2, 3), torch.randn(2)
        self.scale = torch.rand(6) + 0.3  # of u, v, x, y, and of u, v in the guide
        self.slope, self.shift = 0.3 * torch.randn(2, 3), torch.randn(2)
        self.x, self.y = torch.randn(DATA, 3), torch.randn(DATA)

    def model(self, x, y):
        with pyro.plate("data", len(x)):
            u, v = (pyro.sample(name, dist.Normal(self.loc[i], self.scale[i])) for i, name in enumerate("uv"))
            mean = torch.stack(torch.broadcast_tensors(u, v), -1) @ self.loadings
            pyro.sample("x", dist.Normal(mean, self.scale[2]).to_event(1), obs=x)
            pyro.sample("y", dist.Normal(u - v, self.scale[3]), obs=y)

    def guide(self, x, y):
        with pyro.plate("data", len(x)):
            for i, name in enumerate("uv"):
                pyro.sample(name, dist.Normal(x @ self.slope[i] + self.shift[i], self.scale[4 + i]))

    def take(self, num_samples):
        return inference_data.to_inferencedata(
            self.model, self.guide, self.x, self.y, num_samples=num_samples
        )

    def exact(self, idata):
        """What there should be at the stored latents: likelihoods, weights, and divergences by name."""
        x, y, scale = self.x.numpy(), self.y.numpy(), self.scale.numpy()
        u, v = (idata.posterior[name].values for name in "uv")
        mean = np.stack([u, v], -1) @ self.loadings.numpy()
        found = {
            "log_likelihood_x": log_normal(x, mean, scale[2]).sum(-1),
            "log_likelihood_y": log_normal(y, u - v, scale[3]),
        }
        found["log_weight"] = found["log_likelihood_x"] + found["log_likelihood_y"]
        for i, (name, z) in enumerate((("u", u), ("v", v))):
            loc, center = self.loc[i].item(), x @ self.slope[i].numpy() + self.shift[i].item()
            found["log_weight"] += log_normal(z, loc, scale[i])
            found["log_weight"] -= log_normal(z, center, scale[4 + i])
            ratio = scale[4 + i] / scale[i]
            found[f"kl_{name}"] = 0.5 * (ratio**2 + ((center - loc) / scale[i]) ** 2 - 1) - math.log(ratio)
        found["elbo"] = found["log_weight"].mean((0, 1))
        weights = np.exp(found["log_weight"][0])
        found["log_p"], found["ess"] = np.log(weights.mean(0)), weights.sum(0) ** 2 / (weights**2).sum(0)
        return found


def planted(where=inference_data, **replacements):
    """A module with some of its parts replaced, as a context."""
    return partial(mock.patch.multiple, where, **replacements)


def assembled(change):
    """The groups, datasets by name, changed before they are put together."""

    def put_together(attrs, **made):
        return import_arviz().InferenceData(attrs=attrs, **made | change(made))

    return planted(import_arviz=lambda: SimpleNamespace(InferenceData=put_together))


def edited(group, change, *names):
    """Variables of a group computed otherwise, of those that it has."""

    def edit(made):
        old = made[group]
        return {group: old.assign({name: change(old[name], made) for name in names or old if name in old})}

    return assembled(edit)


def renamed(**names):
    """Groups or variables that have each other's names."""
    return assembled(lambda made: {new: made[old] for new, old in names.items()})


def rolled(dim):
    return lambda values, made: values.roll({dim: 1}, roll_coords=False)
