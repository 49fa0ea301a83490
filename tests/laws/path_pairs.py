"""Gaussian pairs whose densities, draws and exact posteriors are written out by hand, without Pyro."""

import math
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from pyro_dgm.program import Program

D = 3


def normal(value, loc, log_scale):
    return -0.5 * ((value - loc) / log_scale.exp()) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)


class PairByHand(Program):
    """Random parameters, those that only the guide has in ``own``.

    ``draw(x, noise)`` gives the draws by site for noise by site, ``log_p(x, z)`` and ``log_q(x, z)`` densities of
    shape (particles, batch), and ``become_exact()`` makes the guide the posterior.
    """

    shapes: ClassVar[dict[str, tuple[int, ...]]]
    own: tuple[str, ...]
    sites: ClassVar[dict[str, tuple[int, ...]]]  # event shapes, in the order in which the guide draws

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in self.shapes.items():
            value = 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
            setattr(self, name, nn.Parameter(value))
        self.x = torch.randn(4, D, generator=generator, dtype=torch.float64)

    def noise(self, x, num_particles):
        """What the guide takes from torch's generator, all particles at once or one after the other."""
        if not self.looped or num_particles == 1:
            return {
                name: torch.randn(num_particles, len(x), *event, dtype=x.dtype)
                for name, event in self.sites.items()
            }
        rows = [self.noise(x, 1) for _ in range(num_particles)]
        return {name: torch.cat([row[name] for row in rows]) for name in self.sites}

    looped = False

    def assign(self, **values):
        with torch.no_grad():
            for name, value in values.items():
                getattr(self, name).copy_(value)


class Separate(PairByHand):
    """x_d ~ N(w_d z_d + b_d, s), z_d ~ N(m_d, t_d); the guide N(v_d x_d + c_d, r_d) can be the posterior."""

    shapes = dict.fromkeys("wbmtvcr", (D,)) | {"s": ()}
    own = ("v", "c", "r")
    sites: ClassVar = {"z": (D,)}

    def prior(self):
        return dist.Normal(self.m, self.t.exp()).to_event(1)

    def log_prior(self, z):
        return normal(z, self.m, self.t).sum(-1)

    def model(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", dist.Normal(self.w * z + self.b, self.s.exp()).to_event(1), obs=x)

    def guide(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.v * x + self.c, self.r.exp()).to_event(1))

    def draw(self, x, noise):
        return {"z": self.v * x + self.c + self.r.exp() * noise["z"]}

    def log_p(self, x, z):
        return self.log_prior(z["z"]) + normal(x, self.w * z["z"] + self.b, self.s).sum(-1)

    def log_q(self, x, z):
        return normal(z["z"], self.v * x + self.c, self.r).sum(-1)

    def become_exact(self):
        noise, prior = (-2 * self.s).exp(), (-2 * self.t).exp()
        precision = prior + self.w**2 * noise
        self.assign(
            v=self.w * noise / precision,
            c=(self.m * prior - self.w * self.b * noise) / precision,
            r=-0.5 * precision.log(),
        )


class Vamp(Separate):
    """The prior is the mean of the guides of two pseudo-inputs: the model has all of the guide's parameters."""

    shapes = dict.fromkeys("wbvcr", (D,)) | {"s": (), "u": (2, D)}
    own = ()

    def prior(self):
        guides = dist.Normal(self.v * self.u + self.c, self.r.exp().expand(2, D)).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros(2, dtype=self.u.dtype)), guides)

    def log_prior(self, z):
        return normal(z[..., None, :], self.v * self.u + self.c, self.r).sum(-1).logsumexp(-1) - math.log(2)


class Chain(PairByHand):
    """y ~ N(m, t), z ~ N(a y + k, h), x_d ~ N(b_d z + d_d, s_d); the guide draws y from x, then z from x and y."""

    shapes = dict.fromkeys(("m", "t", "a", "k", "h", "f", "r", "g", "j", "l"), ()) | dict.fromkeys(
        ("b", "d", "s", "e", "i"), (D,)
    )
    own = ("e", "f", "r", "i", "g", "j", "l")
    sites: ClassVar = {"y": (), "z": ()}

    def model(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Normal(self.m, self.t.exp()))
            z = pyro.sample("z", dist.Normal(self.a * y + self.k, self.h.exp()))
            mean = self.b * z[..., None] + self.d
            pyro.sample("x", dist.Normal(mean, self.s.exp()).to_event(1), obs=x)

    def center(self, x, y):
        return x @ self.i + self.g * y + self.j

    def guide(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Normal(x @ self.e + self.f, self.r.exp()))
            pyro.sample("z", dist.Normal(self.center(x, y), self.l.exp()))

    def draw(self, x, noise):
        y = x @ self.e + self.f + self.r.exp() * noise["y"]
        return {"y": y, "z": x @ self.i + self.g * y + self.j + self.l.exp() * noise["z"]}

    def log_p(self, x, z):
        y, z = z["y"], z["z"]
        likelihood = normal(x, self.b * z[..., None] + self.d, self.s).sum(-1)
        return normal(y, self.m, self.t) + normal(z, self.a * y + self.k, self.h) + likelihood

    def log_q(self, x, z):
        y, z = z["y"], z["z"]
        return normal(y, x @ self.e + self.f, self.r) + normal(z, x @ self.i + self.g * y + self.j, self.l)

    def become_exact(self):
        noise = (-2 * self.s).exp()
        told = (self.b**2 * noise).sum()  # precision of z that x has
        own = (-2 * self.h).exp()
        self.assign(
            i=self.b * noise / (own + told),
            g=self.a * own / (own + told),
            j=(self.k * own - (self.b * self.d * noise).sum()) / (own + told),
            l=-0.5 * (own + told).log(),
        )
        of_y = 1 / (1 / own + 1 / told)  # precision of a y + k that x has
        precision = (-2 * self.t).exp() + self.a**2 * of_y
        slope = self.a * of_y / precision
        shift = (self.b * self.d * noise).sum() / told + self.k
        self.assign(
            e=slope * self.b * noise / told,
            f=self.m * (-2 * self.t).exp() / precision - slope * shift,
            r=-0.5 * precision.log(),
        )


class Looped(Chain):
    """The same pair with a guide that takes no dimension of particles."""

    looped = True

    def center(self, x, y):
        return torch.cat([x, y[:, None]], -1) @ torch.cat([self.i, self.g[None]]) + self.j


class Nested(PairByHand):
    """z ~ N(m, t) of a datum, x_d ~ N(b_d z, s_d) in a plate of pixels further left, in which no draw lies."""

    shapes = dict.fromkeys("bse", (D,)) | dict.fromkeys("mtr", ())
    own = ("e", "r")
    sites: ClassVar = {"z": ()}

    def model(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.m, self.t.exp()))
            with pyro.plate("pixels", D, dim=-2):
                scale = self.s.exp()[:, None]
                pyro.sample("x", dist.Normal(self.b[:, None] * z, scale), obs=x.T)

    def guide(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x @ self.e, self.r.exp()))

    def draw(self, x, noise):
        return {"z": x @ self.e + self.r.exp() * noise["z"]}

    def log_p(self, x, z):
        likelihood = normal(x, self.b * z["z"][..., None], self.s).sum(-1)
        return normal(z["z"], self.m, self.t) + likelihood

    def log_q(self, x, z):
        return normal(z["z"], x @ self.e, self.r)


PAIRS = {
    "one site": Separate,
    "shared parameters": Vamp,
    "two sites": Chain,
    "two sites in a loop": Looped,
    "nested plates": Nested,
}
