"""Stand-in for the No-U-Turn sampler: the comparison of a guide with chains whose draws are known."""

from dataclasses import replace
from functools import partial
from unittest import mock

import numpy as np
import pyro
import pyro.distributions as dist
import torch

from pyro_dgm.diagnostics import nuts as module
from pyro_dgm.diagnostics import nuts_chains


def observed(x, observes):
    if observes:
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def single(x, observes=False):
    """One latent of each datum."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        observed(x, observes)


def local(x, observes=False):
    """Two latents of each datum, one of them a vector."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("w", dist.Normal(0.0, 1.0))
        observed(x, observes)


def whole(x, observes=False):
    """One latent of all data, and a vector of each."""
    pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        observed(x, observes)


def compared(pair, chains, guide, diverging):
    """Comparison of known draws by site, of chains (chains, draws, *shape) and of the guide (draws, *shape).

    As the sampler has it, local latents of all chains move in one trajectory, and the others chain by chain.
    ``diverging`` is (chains, draws); of one trajectory its first row is that of all chains.
    """
    if pair is whole:  # a latent of all data has a plate of one
        guide = guide | {"w": guide["w"].unsqueeze(-1)}
    number, num_samples = diverging.shape
    runs = iter(range(number))

    class Sampler:
        def __init__(self, kernel, draws, **options):
            self.chain = next(runs)
            assert draws == num_samples

        def run(self, *batch):
            pass

        def get_samples(self):
            return {
                name: values[self.chain] if pair is whole else values.transpose(0, 1)
                for name, values in chains.items()
            }

        def diagnostics(self):
            return {"divergences": {"chain 0": np.flatnonzero(diverging[self.chain]).tolist()}}

    with (
        mock.patch.multiple(nuts_chains, MCMC=Sampler, NUTS=mock.Mock()),
        mock.patch.object(module, "guide_draws", lambda *args: iter([guide])),
    ):
        data = torch.zeros(chains["z"].shape[2])
        model = partial(pair, observes=True)
        return module.nuts_reference(model, pair, data, num_samples=num_samples, warmup=10, num_chains=number)


def planted(**replacements):
    """The module of the comparison with some of its parts replaced, as a context."""
    return partial(mock.patch.multiple, module, **replacements)


def changed(true=module._compared, **parts):
    """The comparison with fields computed otherwise."""

    def mutant(*args):
        found = true(*args)
        return replace(found, **{name: change(found) for name, change in parts.items()})

    return planted(_compared=mutant)


def between(change, true=module._compared):
    """The comparison of other arguments: ``idata, names, guide, nuts, num_chains``."""
    return planted(_compared=lambda *args: true(*change(*args)))


EXCHANGED = between(lambda idata, names, guide, nuts, number: (idata, names, nuts, guide, number))
