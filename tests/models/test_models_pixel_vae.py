"""PixelVAE and its hierarchy: laws in float64 at random parameters, remedies of collapse at work, and bad input."""

import itertools
import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from torch import nn

from pyro_dgm.data import Digits
from pyro_dgm.distributions import BernoulliObservation, CategoricalObservation, NormalObservation
from pyro_dgm.errors import IncompatibleModel, InvalidInput
from pyro_dgm.evaluation import active_units
from pyro_dgm.models import GatedPixelCNN, PixelCNN
from pyro_dgm.models.hierarchical_pixel_vae import HierarchicalPixelVAE
from pyro_dgm.models.pixelcnn_vae import pixel_vae
from pyro_dgm.nets.context_maps import ContextMaps
from pyro_dgm.objectives import ELBO, IWAE, Linear, log_weights
from tests.laws.autoregressive_models import at_random
from tests.laws.listed import as_tests

IMAGE = (1, 2, 2)
SMALL = {"channels": (3,), "features": 4, "maps": 4, "kernel_size": 3}
TRUE = {
    "maps": lambda: pixel_vae(IMAGE, 1, **SMALL),
    "vector": lambda: pixel_vae(IMAGE, 1, upsample=False, num_layers=3, **SMALL),
    "hidden_vector": lambda: pixel_vae(
        IMAGE, 1, **SMALL, autoregressive=GatedPixelCNN(IMAGE, channels=4, num_layers=1, context_shape=(3,))
    ),
    "pixel_cnn": lambda: pixel_vae(
        IMAGE,
        1,
        **SMALL,
        autoregressive=PixelCNN(IMAGE, channels=4, num_layers=2, context_shape=(3, 2, 2)),
    ),
}
HIERARCHICAL = {
    "hierarchical": lambda: hierarchical((1, 2, 3), ((1, 1, 2), (1,))),
    "hierarchical_3": lambda: hierarchical((1, 3, 3), ((2, 3, 3), (1, 2, 2), (2,))),
}


def hierarchical(data_shape, latent_shapes, **options):
    options = {"width": 4, "features": 4, "kernel_size": 3, **options}
    return HierarchicalPixelVAE(data_shape, latent_shapes, **options)


def configurations(shape):
    rows = list(itertools.product((0.0, 1.0), repeat=math.prod(shape)))
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, *shape)


def log_joint(program, x, latents):
    """log p(x, z) of the model, (batch,), or (particles, batch) for latents (particles, batch, ...)."""
    trace = poutine.trace(poutine.condition(program.model, data=latents)).get_trace(x)
    trace.compute_log_prob()
    return sum(site["log_prob"] for name, site in trace.nodes.items() if name in {"x", *latents})


# ---- laws


def probabilities_sum_to_one(make):
    """Of p(x), the integral of p(x, z) over z by the trapezoidal rule, over all sixteen images."""
    program, x = at_random(make()), configurations(IMAGE)
    z = torch.linspace(-9, 9, 301, dtype=torch.float64)
    with torch.no_grad():
        log_p = log_joint(program, x, {"z": z[:, None, None].expand(-1, len(x), 1)})
    total = log_p.exp().sum() * (z[1] - z[0])
    assert abs(total - 1) < 1e-8


def latent_maps_have_a_density(make):
    """That of z1, two numbers, given any context integrates to one."""
    program = at_random(make(), scale=0.3)
    z = torch.linspace(-9, 9, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(z, z).reshape(-1, 1, 1, 2)
    with torch.no_grad():
        p = program.conditionals[0](program.decoders[1](torch.ones(1, dtype=torch.float64)))
        total = p.log_prob(grid).exp().sum() * (z[1] - z[0]) ** 2
    assert abs(total - 1) < 1e-8


def without_a_context_there_is_nothing_but_the_pixel_cnn(make):
    """Where p(x | z) ignores z, log p(x) is that of the pixel CNN; so is each weight where q(z | x) is p(z)."""
    program = make()
    x = configurations(program.observation.data_shape)[-16:]
    context = torch.ones(program.observation.context_shape, dtype=torch.float64)
    with torch.no_grad():
        exact = program.observation(context).log_prob(x)
        weights = log_weights(program.model, program.guide, x, num_particles=5)
        assert (weights - exact).abs().max() < 1e-10
        for objective in (ELBO(), IWAE(5)):
            assert abs(objective(program.model, program.guide, x) + exact.sum()) < 1e-10


def particles_are_one_more_dimension(make):
    """log p(x, z) of several draws at once is that of each alone."""
    program = at_random(make(), scale=0.4)
    torch.manual_seed(0)
    x = configurations(program.observation.data_shape)[:7]
    with torch.no_grad():
        draws = [poutine.trace(program.guide).get_trace(x) for _ in range(3)]
        names = draws[0].stochastic_nodes
        latents = [{name: draw.nodes[name]["value"] for name in names if name != "data"} for draw in draws]
        together = log_joint(program, x, {k: torch.stack([one[k] for one in latents]) for k in latents[0]})
        alone = torch.stack([log_joint(program, x, one) for one in latents])
    assert (together - alone).abs().max() < 1e-10


def deaf(make, *, hears=False, guide_of_its_own=False):
    """A program at random whose x ignores z, and whose prior and posterior are standard normal at every level."""

    def made():
        program = at_random(make())
        with torch.no_grad():
            if not hears:
                zero(m for m in program.observation.modules() if isinstance(m, ContextMaps))
            for conditional in getattr(program, "conditionals", ()):
                standard(conditional.network.out[-1], conditional.observation)
            posteriors = getattr(program, "posteriors", None) or [program.posterior]
            for posterior in posteriors if not guide_of_its_own else ():
                standard(posterior, posterior)
        return program

    return made


def zero(modules):
    for module in modules:
        for value in module.parameters():
            value.zero_()


def standard(network, piece):
    """The piece is Normal(0, I) whatever the network is given."""
    zero([network])
    for part in piece.modules():
        if isinstance(part, NormalObservation):
            part.offset[0], part.offset[1] = 0.0, math.log(math.expm1(1 - part.scale_floor))
        elif isinstance(getattr(part, "head", None), nn.Linear):
            part.head.bias.chunk(2)[1].fill_(math.log(math.expm1(1 - part.scale_floor)))


def seeing(make, where="observation"):
    """The first layer of the horizontal stack sees its own pixel."""

    def made():
        program = make()
        layer = program.get_submodule(where).network.horizontal[0]
        layer.mask = torch.ones_like(layer.mask)
        return program

    return made


def mixing(make, where="observation"):
    """The context is the mean over the particles."""

    def made():
        program = make()
        program.get_submodule(where).register_forward_pre_hook(
            lambda module, inputs: tuple(c.mean(0, keepdim=True).expand_as(c) for c in inputs)
        )
        return program

    return made


test_law_holds, test_law_catches_mutant = as_tests(
    [
        (
            probabilities_sum_to_one,
            TRUE,
            {"maps_leak": seeing(TRUE["maps"]), "vector_leak": seeing(TRUE["vector"])},
        ),
        (
            latent_maps_have_a_density,
            {"hierarchical": HIERARCHICAL["hierarchical"]},
            {"leak": seeing(HIERARCHICAL["hierarchical"], "conditionals.0")},
        ),
        (
            without_a_context_there_is_nothing_but_the_pixel_cnn,
            {name: deaf(make) for name, make in (TRUE | HIERARCHICAL).items()},
            {
                "hears": deaf(TRUE["maps"], hears=True),
                "hears_a_vector": deaf(TRUE["vector"], hears=True),
                "hears_in_hierarchy": deaf(HIERARCHICAL["hierarchical"], hears=True),
                "guide": deaf(TRUE["maps"], guide_of_its_own=True),
                "guide_of_hierarchy": deaf(HIERARCHICAL["hierarchical_3"], guide_of_its_own=True),
            },
        ),
        (
            particles_are_one_more_dimension,
            TRUE | HIERARCHICAL,
            {
                "mixed": mixing(TRUE["maps"]),
                "mixed_vector": mixing(TRUE["vector"]),
                "mixed_maps": mixing(HIERARCHICAL["hierarchical"]),
                "mixed_latents": mixing(HIERARCHICAL["hierarchical_3"], "conditionals.1"),
            },
        ),
    ]
)


# ---- what a pixel sees


def seen(piece):
    """Pixels whose values change the parameters of the one in the middle: rows up, columns left and right."""
    _, height, width = piece.data_shape
    row, column = height // 2, width // 2
    torch.manual_seed(0)
    x = torch.rand(20, *piece.data_shape, dtype=torch.float64, requires_grad=True)
    out = piece.network(x, torch.randn(20, *piece.context_shape, dtype=torch.float64))[..., row, column]
    found = torch.autograd.grad(out.sum(), x)[0].abs().sum((0, 1)).nonzero()
    rows, columns = found.unbind(-1)
    return row - rows.min().item(), column - columns.min().item(), columns.max().item() - column


@pytest.mark.parametrize("upsample", [True, False])
@pytest.mark.parametrize(
    ("num_layers", "kernel_size", "layer_kernel_size"), [(1, 3, 3), (3, 3, 1), (2, 5, 3), (3, 7, 5)]
)
def test_a_pixel_sees_as_far_as_is_said(num_layers, kernel_size, layer_kernel_size, upsample):
    vae = pixel_vae(
        (1, 17, 17),
        1,
        upsample=upsample,
        channels=(2,),
        features=2,
        maps=3,
        num_layers=num_layers,
        kernel_size=kernel_size,
        layer_kernel_size=layer_kernel_size,
    )
    reach = kernel_size // 2 + (num_layers - 1) * (layer_kernel_size // 2)
    assert seen(at_random(vae, scale=0.4).observation) == (reach, reach, reach)


# ---- collapse, and what is done against it


def after_training(seed, objective, data, *, num_steps=100):
    """KL(q || p) in nats per datum, and active units, of a PixelVAE on digits whose decoder sees six pixels far."""
    torch.manual_seed(seed)
    vae = pixel_vae(
        (1, 8, 8), 4, channels=(8, 16), features=32, maps=8, num_layers=2, kernel_size=7, layer_kernel_size=7
    )
    vae.initialize(data.train.x.round())
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-2)
    for _ in range(num_steps):
        x = torch.bernoulli(data.train.x[torch.randint(len(data.train.x), (64,))])
        optimizer.zero_grad()
        (objective(vae.model, vae.guide, x) / len(x)).backward()
        optimizer.step()
    with torch.no_grad():
        x = data.test.x[:200].round()
        divergence = ELBO(kl="analytic").report(vae.model, vae.guide, x)["kl"] / len(x)
    return divergence.item(), active_units(vae.guide, x)["z"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_free_bits_keep_the_latents_that_the_plain_bound_leaves_out(seed):
    """At twelve seeds the divergence was below 0.003 nats without free bits, and above 0.6 with them.

    With them there were three active units or four at eleven; at one of these seeds all bits went to a shift.
    """
    data = Digits()
    plain, active = after_training(seed, ELBO(kl="analytic"), data)
    free, _ = after_training(seed, ELBO(kl="analytic", free_bits=0.5), data)
    assert plain < 0.1 < 0.4 < free
    assert active == 0


def test_the_objectives_anneal_it_too():
    """A pair whose decoder sees all is any other pair to a schedule: nothing is charged at the first step."""
    vae, x = pixel_vae(IMAGE, 1, **SMALL), configurations(IMAGE).float()
    objective = ELBO(kl="analytic", beta=Linear(10))
    told = objective.report(vae.model, vae.guide, x)
    assert torch.allclose(told["loss"], -told["elbo"] - told["kl"])


# ---- methods and pieces


def test_draws_stand_for_the_mean_that_is_not_known():
    vae, x = pixel_vae(IMAGE, 1, **SMALL), configurations(IMAGE).float()
    assert vae.sample(5).shape == vae.model(n=5).shape == (5, *IMAGE)
    assert set(vae.reconstruct(x).unique().tolist()) == {0.0, 1.0}
    with pytest.raises(
        IncompatibleModel,
        match=r"^a mean that is not known in sample\(mean=True\): Autoregressive; .* mean=False",
    ):
        vae.sample(5, mean=True)


def test_reconstructions_are_draws_given_the_mean_of_the_posterior():
    """Means of 20,000 draws differ from the probabilities by less than 5.2 standard errors (1e-6, four pixels)."""
    vae, x = at_random(TRUE["maps"]()), configurations(IMAGE)
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = vae.reconstruct(x[5].expand(20_000, *IMAGE)).mean(0)
        log_p = vae.observation(vae.decoder(vae.encode(x[5:6]).mean)).log_prob(x)
        mean = (log_p.exp()[:, None, None, None] * x).sum(0)
    assert ((drawn - mean).abs() < 5.2 * (mean * (1 - mean) / 20_000).sqrt() + 1e-9).all()


def test_grey_levels_and_what_is_missing():
    greys = CategoricalObservation((1, 4, 4), levels=5)
    vae = pixel_vae((1, 4, 4), 2, channels=(3,), features=4, maps=4, num_blocks=1, observation=greys)
    x = torch.randint(5, (3, 1, 4, 4)) / 4.0
    known = torch.zeros(x.shape, dtype=torch.bool)
    known[..., :2, :] = True
    filled = vae.impute(x, known, num_steps=2)
    assert torch.equal(filled[known], x[known])
    assert torch.isfinite(log_weights(vae.model, vae.guide, filled, num_particles=2)).all()


def test_a_piece_of_the_users_own_takes_the_context_it_says():
    class Halves(nn.Module):
        """Independent pixels, by one linear map of the context."""

        context_shape = (3,)

        def __init__(self):
            super().__init__()
            self.network = nn.Linear(3, 4)

        def forward(self, c):
            return pyro.distributions.Bernoulli(
                logits=self.network(c).reshape(*c.shape[:-1], *IMAGE)
            ).to_event(3)

    vae = pixel_vae(IMAGE, 2, **SMALL, autoregressive=Halves())
    assert isinstance(vae.decoder, nn.Linear)
    assert vae.sample(3).shape == (3, *IMAGE)
    assert isinstance(TRUE["vector"]().decoder, nn.Identity)


def coloured():
    return torch.rand(4, 3, 9, 6)


HIERARCHIES = {
    "two": (lambda: hierarchical((1, 8, 8), ((2, 4, 4), (3,))), lambda: torch.rand(4, 1, 8, 8).round()),
    "three": (
        lambda: hierarchical((1, 8, 8), ((1, 8, 8), (2, 2, 2), (3,))),
        lambda: torch.rand(4, 1, 8, 8).round(),
    ),
    "one": (lambda: hierarchical((1, 8, 8), ((3,),)), lambda: torch.rand(4, 1, 8, 8).round()),
    "odd": (
        lambda: hierarchical(
            (3, 9, 6),
            ((2, 5, 3), (2,)),
            width=6,
            features=16,
            observation=NormalObservation((3, 9, 6), heteroscedastic=True),
        ),
        coloured,
    ),
}


@pytest.mark.parametrize(("make", "draw"), HIERARCHIES.values(), ids=HIERARCHIES)
def test_hierarchies_train_and_draw(make, draw):
    torch.manual_seed(0)
    vae, x = make(), draw()
    names = [f"z{i}" for i in range(1, len(vae.posteriors) + 1)]
    before = {name: value.detach().clone() for name, value in vae.named_parameters()}
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), ELBO())
    svi.step(x)
    svi.step(x)
    assert [name for name, value in vae.named_parameters() if torch.equal(value, before[name])] == []
    assert log_weights(vae.model, vae.guide, x, num_particles=3).shape == (3, 4)
    assert vae.sample(2).shape == vae.model(n=2).shape == (2, *x.shape[1:])
    assert vae.reconstruct(x).shape == x.shape
    drawn = Predictive(vae.model, guide=vae.guide, num_samples=3, parallel=True)(x)
    shapes = [tuple(q.event_shape) for q in vae.encode(x)]
    found = {
        name: drawn[name].squeeze(1) if drawn[name].dim() > 2 + len(s) else drawn[name]
        for name, s in zip(names, shapes, strict=True)
    }
    assert [tuple(found[name].shape) for name in names] == [(3, 4, *shape) for shape in shapes]
    assert torch.isfinite(ELBO(free_bits=0.1, free_bits_per="site")(vae.model, vae.guide, x))
    double = make().double()
    loss = IWAE(2)(double.model, double.guide, x.double())
    loss.backward()
    assert loss.dtype == torch.float64
    assert all(value.grad.dtype == torch.float64 for value in double.parameters())


def test_a_level_of_the_size_of_the_data_is_not_taken_for_them():
    """``initialize`` centres the pixels, and leaves the latents, of the same shape, at mean 0 and scale 1."""
    vae = hierarchical((1, 8, 8), ((1, 8, 8), (3,)))
    latents = vae.conditionals[0].observation
    before = latents.offset.clone()
    vae.initialize(torch.ones(4, 1, 8, 8))
    assert torch.equal(latents.offset, before)
    assert bool(vae.observation.observation.offset.any())
    at_zero = latents(torch.zeros(2, 1, 8, 8))
    assert torch.allclose(at_zero.mean, torch.zeros(1, 8, 8))
    assert torch.allclose(at_zero.stddev, torch.ones(1, 8, 8))


def test_draws_go_from_the_top_down():
    """Means of ``sample`` and ``model(n=)`` differ by less than 5.4 standard errors (1e-6, six pixels), of 4,000."""
    vae = at_random(HIERARCHICAL["hierarchical"]())
    torch.manual_seed(0)
    with torch.no_grad():
        ours, pyros = vae.sample(4000).flatten(1), vae.model(n=4000).flatten(1)
    error = ((ours.var(0) + pyros.var(0)) / 4000).sqrt()
    assert ((ours.mean(0) - pyros.mean(0)).abs() < 5.4 * error).all()


# ---- what constructors refuse, in one line


class Silent(nn.Module):
    """A piece that does not say which context it takes."""

    def forward(self, c):
        return BernoulliObservation(IMAGE)(c)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_dim": 0}, "latent_dim"),
        ({"maps": 0}, "maps"),
        ({"kernel_size": 4}, "no odd size in kernel_size: .*4"),
        ({"num_layers": 0}, "num_layers: 0"),
        ({"data_shape": (8,)}, r"not an image|no dimensions|wrong shape"),
        ({"autoregressive": Silent()}, r"does not say which context it takes in autoregressive: Silent"),
        (
            {"autoregressive": GatedPixelCNN((1, 2, 2), channels=2)},
            r"which context it takes in autoregressive: GatedPixelCNN with context_shape \(\)",
        ),
        (
            {
                "autoregressive": GatedPixelCNN((1, 2, 2), channels=2, context_shape=(2,)),
                "observation": BernoulliObservation((1, 2, 2)),
            },
            "two pieces for x in observation, autoregressive: .*; expected one of them",
        ),
        (
            {"autoregressive": GatedPixelCNN((1, 3, 2), channels=2, context_shape=(2,))},
            "wrong event shape of x in observation of VAE|pieces that do not fit in observation of VAE",
        ),
        (
            {"observation": NormalObservation((1, 9, 9))},
            "pieces that do not fit in observation of GatedPixelCNN",
        ),
    ],
)
def test_refused(change, message):
    arguments = {"data_shape": IMAGE, "latent_dim": 1, **SMALL} | change
    with pytest.raises(InvalidInput, match=message) as caught:
        pixel_vae(arguments.pop("data_shape"), arguments.pop("latent_dim"), **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("latent_shapes", "options", "message"),
    [
        ((), {}, "shapes of other numbers of dimensions"),
        (((2, 4, 4),), {}, r"in data_shape, latent_shapes: \(1, 8, 8\), \(2, 4, 4\); expected .*vector"),
        (((3,), (2,)), {}, "shapes of other numbers of dimensions"),
        (
            ((2, 3, 3), (2,)),
            {},
            r"halving does not give.*\(2, 3, 3\); expected .*\(8, 8\), \(4, 4\), \(2, 2\)",
        ),
        (((2, 4, 0), (2,)), {}, "bad size"),
        (((2, 4, 4), (2,)), {"width": 0}, "width or features"),
        (((2, 4, 4), (2,)), {"conditionals": []}, "entries in conditionals: 0; expected 1"),
        (((2, 4, 4), (2,)), {"encoders": [nn.Identity()]}, "entries in encoders: 1; expected 2"),
        (
            ((2, 4, 4), (2,)),
            {"conditionals": [Silent()]},
            r"which context it takes in conditionals\[0\]: Silent",
        ),
        (
            ((2, 4, 4), (2,)),
            {"conditionals": [GatedPixelCNN((3, 4, 4), channels=3, context_shape=(2,))]},
            r"conditionals\[0\] of HierarchicalPixelVAE",
        ),
        (((2, 4, 4), (2,)), {"posteriors": [nn.Identity(), nn.Identity()]}, "HierarchicalPixelVAE"),
    ],
)
def test_refused_hierarchies(latent_shapes, options, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        hierarchical((1, 8, 8), latent_shapes, **options)
    assert "\n" not in str(caught.value)
