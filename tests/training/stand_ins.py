"""Small data and programs that the tests of training share."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from pyro_dgm.program import Program


class Rows:
    """A split: tensors that are indexed together."""

    def __init__(self, *tensors):
        self.tensors = tensors

    def __len__(self):
        return len(self.tensors[0])

    def __getitem__(self, part):
        return Rows(*(t[part] for t in self.tensors))

    def to(self, device, dtype):
        return Rows(*(t.to(device, dtype) for t in self.tensors))

    def batch(self, index):
        return tuple(t[index] for t in self.tensors)


class Noisy(Rows):
    """A split that draws from torch's global generator with each batch, as dynamic binarisation does."""

    def __getitem__(self, part):
        return Noisy(*(t[part] for t in self.tensors))

    def to(self, device, dtype):
        return Noisy(*(t.to(device, dtype) for t in self.tensors))

    def batch(self, index):
        return tuple(torch.bernoulli(t[index]) for t in self.tensors)


class Parts:
    """A data set: a training and a validation split."""

    def __init__(self, train, val):
        self.train, self.val = train, val


class Location(Program):
    """x ~ Normal(location, 1), no latent variables: the best location is the mean of the data."""

    def __init__(self, dim=2):
        super().__init__()
        self.location = nn.Parameter(torch.zeros(dim))

    def model(self, x=None, *, n=1):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", n if x is None else len(x)):
            return pyro.sample("x", dist.Normal(self.location, 1.0).to_event(1), obs=x)


class Autoencoder(Program):
    """A little VAE with dropout, whose posterior can be put anywhere."""

    def __init__(self, dim=4, dropout=0.0):
        super().__init__()
        self.encoder = nn.Linear(dim, 2)
        self.decoder = nn.Sequential(nn.Dropout(dropout), nn.Linear(2, dim))

    def model(self, x=None, *, n=1):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample(
                "z", dist.Normal(torch.zeros(2, dtype=self.encoder.weight.dtype), 1.0).to_event(1)
            )
            return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


def rows(num, dim=4, seed=0):
    return Rows(torch.randn(num, dim, generator=torch.Generator().manual_seed(seed)))


def sgd(lr):
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


def same(left, right):
    """Whether two states are equal, bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def copy_of(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
