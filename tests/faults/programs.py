"""A user's own programs, each with one fault; copied beside a config, and imported by the tests."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.program import Program


class Line(Program):
    """x ~ Normal(w z, 1) with z ~ Normal(0, 1); sound."""

    def __init__(self, data_dim: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((data_dim,), 0.1))

    def prior(self) -> dist.TorchDistribution:
        return dist.Normal(0.0, 1.0)

    def model(self, x: Tensor | None = None, *, n: int = 1) -> Tensor:
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", dist.Normal(z.unsqueeze(-1) * self.w, 1.0).to_event(1), obs=x)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        return dist.Normal(x @ self.w, 1.0)

    def guide(self, x: Tensor) -> None:
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))


class Unguided(Line):
    """Its guide forgets z."""

    def guide(self, x: Tensor) -> None:
        pass


class Switch(Line):
    """Its latent is binary, so that no path leads through it."""

    def prior(self) -> dist.TorchDistribution:
        return dist.Bernoulli(0.5)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=x @ self.w)


class Flow(Line):
    """Its posterior is a normal bent by tanh, which has no closed-form divergence."""

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        bend = [dist.transforms.TanhTransform(), dist.transforms.AffineTransform(0.0, 3.0)]
        return dist.TransformedDistribution(super().posterior(x), bend)


class Chain(Line):
    """Two latents, which the guide draws in the other order: not mean-field."""

    def model(self, x: Tensor | None = None, *, n: int = 1) -> Tensor:
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            v = pyro.sample("v", dist.Normal(z, 1.0))
            return pyro.sample("x", dist.Normal(v.unsqueeze(-1) * self.w, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            v = pyro.sample("v", dist.Normal(x @ self.w, 1.0))
            pyro.sample("z", dist.Normal(v / 2, 1.0))


class Breaks(Line):
    """Sound until a given training step, whose loss ("loss") or gradient alone ("gradient") is NaN."""

    def __init__(self, data_dim: int, at: int = 10**9, how: str = "loss") -> None:
        super().__init__(data_dim)
        self.at, self.how, self.count = at, how, 0

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        # Only a training step has gradients, training mode and 8 data: neither rehearsal nor validation.
        self.count += self.training and torch.is_grad_enabled() and len(x) == 8
        loc = x @ self.w
        if self.count >= self.at:  # the root of zero has an infinite slope, and infinity times zero is NaN
            loc = loc * torch.nan if self.how == "loss" else loc + (loc * 0.0).abs().sqrt()
        return dist.Normal(loc, 1.0)


class Picky(Line):
    """It refuses some data, which nothing but a step on them can tell."""

    def model(self, x: Tensor | None = None, *, n: int = 1) -> Tensor:
        if x is not None and bool((x < -1e5).any()):
            raise InvalidInput("too small", where="x", expected="data above -1e5")
        return super().model(x, n=n)


class Location(Program):
    """x ~ Normal(location, 1): gradient descent at rate 4 triples the error at each step."""

    def __init__(self, data_dim: int) -> None:
        super().__init__()
        self.location = nn.Parameter(torch.ones(data_dim))

    def model(self, x: Tensor | None = None, *, n: int = 1) -> Tensor:
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", n if x is None else len(x)):
            return pyro.sample("x", dist.Normal(self.location, 1.0).to_event(1), obs=x)


class Labelled(Program):
    """x ~ Normal(f(y), 1) with batch normalisation in f, and nothing random, so that log p(x | y) is exact."""

    def __init__(self, data_dim: int, num_classes: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Embedding(num_classes, 4), nn.BatchNorm1d(4), nn.Linear(4, data_dim))

    def model(self, x: Tensor | None = None, y: Tensor | None = None, *, n: int = 1) -> Tensor:
        pyro.module(self.pyro_name, self)
        labels = torch.zeros(n, dtype=torch.long) if y is None else y
        with pyro.plate("data", len(labels)):
            return pyro.sample("x", dist.Normal(self.net(labels), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor) -> None:
        pass
