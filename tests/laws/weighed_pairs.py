"""Pairs with a weighed divergence or free bits: what an objective says of them, and the same by hand.

``measure(objective, pair, x, **around) -> (report, {parameter: gradient})`` asks the library, where ``around`` is a
mask or a scale that surrounds model and guide, and ``by_hand`` the formulas, with the same noise.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import nn

from pyro_dgm.program import Program
from tests.laws.path_pairs import Nested, Separate, Vamp, normal

MASK = torch.tensor([True, False, True, True])


def measure(objective, pair, x, *, mask=None, scale=None):
    model, guide = pair.model, pair.guide
    if mask is not None:
        model, guide = poutine.mask(model, mask=mask), poutine.mask(guide, mask=mask)
    if scale is not None:
        model, guide = poutine.scale(model, scale), poutine.scale(guide, scale)
    pair.zero_grad()
    report = objective.report(model, guide, x)
    report["loss"].backward()
    assert not report["elbo"].requires_grad and not report["kl"].requires_grad
    return report, gradients_of(pair)


def gradients_of(pair):
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in pair.named_parameters()
    }


def normal_kl(loc, log_scale, prior_loc, prior_log_scale):
    ratio = 2 * (log_scale - prior_log_scale)
    return 0.5 * (ratio.exp() + ((loc - prior_loc) / prior_log_scale.exp()) ** 2 - 1 - ratio)


def divergences(pair, x, z):
    """Divergence of each latent site, (particles or 1, batch, units), in closed form where there is one."""
    if isinstance(pair, Vamp):
        return {"z": (pair.log_q(x, z) - pair.log_prior(z["z"]))[..., None]}
    if isinstance(pair, Separate):
        return {"z": normal_kl(pair.v * x + pair.c, pair.r, pair.m, pair.t)[None]}
    if isinstance(pair, Nested):
        return {"z": normal_kl(x @ pair.e, pair.r, pair.m, pair.t)[None, :, None]}
    center = x @ pair.i + pair.g * z["y"] + pair.j
    return {
        "y": normal_kl(x @ pair.e + pair.f, pair.r, pair.m, pair.t)[None, :, None],
        "z": normal_kl(center, pair.l, pair.a * z["y"] + pair.k, pair.h)[..., None],
    }


def likelihood_of(pair, x, z):
    """log p(x | z): the joint density without those of the latents."""
    if isinstance(pair, Separate):
        return pair.log_p(x, z) - pair.log_prior(z["z"])
    if isinstance(pair, Nested):
        return pair.log_p(x, z) - normal(z["z"], pair.m, pair.t)
    prior = normal(z["y"], pair.m, pair.t) + normal(z["z"], pair.a * z["y"] + pair.k, pair.h)
    return pair.log_p(x, z) - prior


def by_hand(objective, pair, x, *, mask=None, scale=None, groups=None, of_mean=max, beta_of="kl"):
    """The same numbers of the formulas; the last three arguments are where mutants sit."""
    scale = 1.0 if scale is None else scale
    seen = torch.ones(len(x)) if mask is None else mask.double()
    z = pair.draw(x, pair.noise(x, objective.num_particles))
    likelihood = (likelihood_of(pair, x, z) * seen).mean(0).sum()
    closed = {name: kl * seen[:, None] for name, kl in divergences(pair, x, z).items()}
    drawn = ((pair.log_q(x, z) - pair.log_p(x, z) + likelihood_of(pair, x, z)) * seen).mean(0).sum()
    divergence = sum(kl.mean(0).sum() for kl in closed.values()) if objective.kl == "analytic" else drawn
    trained, least = divergence, objective.free_bits
    if least > 0:
        of_group = (groups or GROUPS)[objective.free_bits_per]
        means = [mean for kl in closed.values() for mean in of_group(kl)]
        trained = len(x) * sum(of_mean(mean, mean.new_tensor(least)) for mean in means)
    beta = objective.beta()
    weighed = trained - beta * likelihood if beta_of == "likelihood" else beta * trained - likelihood
    loss = scale * weighed
    pair.zero_grad()
    loss.backward()
    told = {"loss": loss, "elbo": scale * (likelihood - divergence), "kl": scale * divergence}
    return {name: value.detach() for name, value in told.items()}, gradients_of(pair)


GROUPS = {
    "unit": lambda kl: kl.mean((0, 1)).unbind(),
    "site": lambda kl: [kl.mean((0, 1)).sum()],
}


def seeded(measure, *args, **around):
    torch.manual_seed(11)
    return measure(*args, **around)


def largest(gradients):
    return max(gradient.abs().max().item() for gradient in gradients.values())


def assert_equal(found, expected):
    """Two measurements are the same to 1e-11 of their size."""
    for name, value in expected[0].items():
        size = max(abs(part.item()) for part in expected[0].values())
        assert abs(found[0][name].item() - value.item()) <= 1e-11 * size, name
    gap = {name: found[1][name] - value for name, value in expected[1].items()}
    assert largest(gap) <= 1e-11 * largest(expected[1])


def formulas(**change):
    return lambda *args, **around: by_hand(*args, **around, **change)


def without(name):
    return lambda *args, **around: measure(*args, **{key: v for key, v in around.items() if key != name})


class Labels(Program):
    """k ~ Cat, b ~ Bernoulli of k, x ~ N of both; each datum has a table of its own for the guide."""

    def __init__(self, num_data):
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        for name, shape in (("prior", (3,)), ("odds", (3,)), ("means", (3, 2))):
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator)))
        for name, shape in (("k", (3,)), ("b", (3,))):
            value = torch.randn(shape, generator=generator).expand(num_data, *shape)
            setattr(self, name, nn.Parameter(value.clone()))
        self.x = torch.full((num_data,), 0.4)

    def model(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=self.prior))
            b = pyro.sample("b", dist.Bernoulli(logits=self.odds[k]))
            pyro.sample("x", dist.Normal(self.means[k, b.long()], 0.8), obs=x)

    def guide(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=self.k))
            logits = self.b.expand(*k.shape, 3).gather(-1, k[..., None])[..., 0]
            pyro.sample("b", dist.Bernoulli(logits=logits))
