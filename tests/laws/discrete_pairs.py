"""Pairs with discrete latents that the guide lacks, each with its density summed over their values by hand."""

import itertools

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine

N, K, T, PIXELS = 4, 3, 4, 2
MARK = {"enumerate": "parallel"}


def probabilities(*shape):
    return torch.rand(*shape).double().add(0.2).div(2 * shape[-1]).softmax(-1)


class Mixture:
    """z depends on k, x on both: log p(x, z) = log sum_k p(k) p(z | k) p(x | z, k)."""

    joint, num_latents = False, 1

    def __init__(self, one_hot=False):
        self.p, self.means, self.scales = (
            probabilities(K),
            torch.randn(K).double(),
            0.5 + torch.rand(K).double(),
        )
        self.x = torch.randn(N).double()
        self.one_hot = one_hot

    def model(self, x):
        with pyro.plate("data", len(x)):
            if self.one_hot:
                k = pyro.sample("k", dist.OneHotCategorical(self.p), infer=MARK)
                mean, scale = (k * self.means).sum(-1), (k * self.scales).sum(-1)
            else:
                k = pyro.sample("k", dist.Categorical(self.p), infer=MARK)
                mean, scale = self.means[k], self.scales[k]
            z = pyro.sample("z", dist.Normal(mean, 1.0))
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 0.8))

    def log_joint(self, values):
        """(..., N) for each value of k along a new first dimension."""
        z = values["z"]
        terms = [
            self.p[k].log()
            + dist.Normal(self.means[k], 1.0).log_prob(z)
            + dist.Normal(z, self.scales[k]).log_prob(self.x)
            for k in range(K)
        ]
        return torch.stack(terms)

    def log_q(self, values):
        return dist.Normal(0.5 * self.x, 0.8).log_prob(values["z"])


class NoGuide(Mixture):
    """All latents are left to enumeration, and each weight is log p(x) itself."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(self.p), infer=MARK)
            pyro.sample("x", dist.Normal(self.means[k], self.scales[k]), obs=x)

    def guide(self, x):
        pass

    def log_joint(self, values):
        return torch.stack(
            [self.p[k].log() + dist.Normal(self.means[k], self.scales[k]).log_prob(self.x) for k in range(K)]
        )

    def log_q(self, values):
        return torch.zeros(N).double()


class Nested:
    """A label of the datum, one of each pixel that depends on it, and a mask."""

    joint = False

    def __init__(self):
        self.p, self.q = probabilities(K), probabilities(K, 2)[:, 1]
        self.means = torch.randn(K, 2).double()
        self.x = torch.randn(PIXELS, N).double()
        self.seen = torch.tensor([[True, False, True, True], [True, True, False, True]])

    def model(self, x):
        with pyro.plate("data", N, dim=-1):
            k = pyro.sample("k", dist.Categorical(self.p), infer=MARK)
            z = pyro.sample("z", dist.Normal(0.0, torch.ones(()).double()))
            with pyro.plate("pixels", PIXELS, dim=-2):
                b = pyro.sample("b", dist.Bernoulli(self.q[k]), infer=MARK)
                with poutine.mask(mask=self.seen):
                    pyro.sample("x", dist.Normal(self.means[k, b.long()] + z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", N, dim=-1):
            pyro.sample("z", dist.Normal(x.mean(0), 0.7))

    def log_joint(self, values):
        z = values["z"].reshape(-1, 1, N)  # (particles, 1, N)
        terms = []
        for k in range(K):
            pixels = [
                dist.Bernoulli(self.q[k]).log_prob(torch.tensor(float(b)).double())
                + dist.Normal(self.means[k, b] + z, 1.0).log_prob(self.x) * self.seen
                for b in range(2)
            ]
            terms.append(self.p[k].log() + torch.logaddexp(*pixels).sum(-2))
        return torch.stack(terms) + dist.Normal(0.0, 1.0).log_prob(z[:, 0])

    def log_q(self, values):
        return dist.Normal(self.x.mean(0), 0.7).log_prob(values["z"].reshape(-1, N))


class Chain:
    """Hidden Markov model of each datum, whose means a latent moves."""

    joint = False

    def __init__(self):
        self.p, self.moves, self.means = probabilities(K), probabilities(K, K), torch.randn(K).double()
        self.x = torch.randn(N, T).double()

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, torch.ones(()).double()))
            p = self.p
            for t in pyro.markov(range(T)):
                k = pyro.sample(f"k{t}", dist.Categorical(p), infer=MARK)
                pyro.sample(f"x{t}", dist.Normal(self.means[k] + z, 1.0), obs=x[:, t])
                p = self.moves[k]

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(1), 0.7))

    def log_joint(self, values):
        z, terms = values["z"], []
        for path in itertools.product(range(K), repeat=T):
            term = self.p[path[0]].log() + sum(self.moves[a, b].log() for a, b in itertools.pairwise(path))
            terms.append(
                term
                + sum(dist.Normal(self.means[k] + z, 1.0).log_prob(self.x[:, t]) for t, k in enumerate(path))
            )
        return torch.stack(terms) + dist.Normal(0.0, 1.0).log_prob(z)

    def log_q(self, values):
        return dist.Normal(self.x.mean(1), 0.7).log_prob(values["z"])


class Shared:
    """One label of the whole data set, and one weight."""

    joint = True

    def __init__(self):
        self.p, self.means = probabilities(K), torch.randn(K).double()
        self.x = torch.randn(N).double()

    def model(self, x):
        k = pyro.sample("k", dist.Categorical(self.p), infer=MARK)
        z = pyro.sample("z", dist.Normal(0.0, torch.ones(()).double()))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.means[k] + z, 1.0), obs=x)

    def guide(self, x):
        pyro.sample("z", dist.Normal(x.mean(), 0.7))

    def log_joint(self, values):
        z = values["z"].reshape(-1)
        data = [
            dist.Normal(self.means[k] + z[:, None], 1.0).log_prob(self.x).sum(-1) + self.p[k].log()
            for k in range(K)
        ]
        return torch.stack(data) + dist.Normal(0.0, 1.0).log_prob(z)

    def log_q(self, values):
        return dist.Normal(self.x.mean(), 0.7).log_prob(values["z"].reshape(-1))


PAIRS = {
    "mixture": Mixture,
    "one-hot": lambda: Mixture(one_hot=True),
    "no guide": NoGuide,
    "nested plates, mask": Nested,
    "Markov chain": Chain,
    "one label for all": Shared,
}
