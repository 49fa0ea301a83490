"""Laws of DRAW and convolutional DRAW in float64 against recursions written by hand, each with its mutants."""

import itertools
import math
from functools import partial

import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_dgm.distributions import NormalObservation
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models import DRAW, VAE, ConvDRAW
from pyro_dgm.nets import FullRead, FullWrite
from pyro_dgm.objectives import ELBO, log_weights
from pyro_dgm.objectives.divergence import site_divergences
from pyro_dgm.objectives.inspection import inspect_pair
from pyro_dgm.objectives.traces import run_pair
from pyro_dgm.objectives.weights import weigh
from tests.models.draw_by_hand import conv_draw_by_hand, draw_by_hand, mixed, mutants_of, torch_cell

SHAPE, T, PARTICLES, BATCH = (1, 6, 5), 3, 4, 3


def attentive(cls=DRAW, num_steps=T):
    return cls(SHAPE, 2, num_steps=num_steps, hidden=7, read_size=2, write_size=3)


def plain(cls=DRAW, num_steps=T):
    pieces = {"read": FullRead(SHAPE), "write": FullWrite((1, *SHAPE), 7)}
    return cls(SHAPE, 2, num_steps=num_steps, hidden=7, **pieces)


def convolutional(cls=ConvDRAW, num_steps=T):
    return cls(SHAPE, 2, num_steps=num_steps, channels=4, kernel_size=3)


# name: (constructor, class, recursion by hand, units of a site)
KINDS = {
    "attention": (attentive, DRAW, draw_by_hand, 2),
    "no attention": (plain, DRAW, draw_by_hand, 2),
    "convolutional": (convolutional, ConvDRAW, conv_draw_by_hand, 18),
}
each_kind = pytest.mark.parametrize(("make", "base", "by_hand", "units"), KINDS.values(), ids=KINDS.keys())
each_program = pytest.mark.parametrize("make", [kind[0] for kind in KINDS.values()], ids=KINDS.keys())


def at_random(program):
    """The program in float64, with every parameter and the observation's offset moved away from its start."""
    program = program.double()
    with torch.no_grad():
        for value in program.parameters():
            value.add_(0.3 * torch.randn_like(value))
        program.observation.offset.normal_()
    return program


def images(n=BATCH):
    return (torch.rand(n, *SHAPE) < 0.4).double()


def weights_and_latents(program, x):
    """Log-weights (particles, batch) of one vectorised run, and its latents (particles, batch, units) by site."""
    layout = inspect_pair(program.model, program.guide, (x,), PARTICLES)
    assert layout.vectorized
    runs = run_pair(program.model, program.guide, (x,), PARTICLES, layout)
    latents = {name: runs[0][1].nodes[name]["value"] for name in program.sites}
    assert all(z.shape[:2] == (PARTICLES, BATCH) for z in latents.values())
    return weigh(runs, layout, num_particles=PARTICLES), latents


# ---- the recursion


@torch.no_grad()
def law_weights_are_the_recursion(by_hand, program):
    """Weights of all particles and data equal those of the recursion by hand with the same draws."""
    x = images()
    log_w, latents = weights_and_latents(program, x)
    for k, i in itertools.product(range(PARTICLES), range(BATCH)):
        z = [value[k, i] for value in latents.values()]
        assert (log_w[k, i] - by_hand(program, x[i], z)).abs() < 1e-9


@each_kind
def test_weights_are_the_recursion(make, base, by_hand, units):
    law_weights_are_the_recursion(by_hand, at_random(make()))


@pytest.mark.parametrize("mutant", mutants_of(DRAW))
@each_kind
def test_a_mutant_of_the_recursion_is_caught(make, base, by_hand, units, mutant):
    with pytest.raises(AssertionError):
        law_weights_are_the_recursion(by_hand, at_random(make(mutants_of(base)[mutant])))


@torch.no_grad()
def law_one_step_is_a_vae(program):
    """With T = 1 the weights are those of a VAE whose encoder and decoder are one step of the same cells."""
    x, found = images(), []
    for pair in (program, vae_of(program)):
        torch.manual_seed(1)
        found.append(log_weights(pair.model, pair.guide, x, num_particles=PARTICLES))
    assert (found[0] - found[1]).abs().max() < 1e-10


def vae_of(program):
    """The VAE of one step of the program's networks, with torch's own cells."""

    def memory(cell, num):
        return cell.first.expand(num, *cell.first.shape).unbind(1)

    encoder, decoder = torch_cell(program.encoder), torch_cell(program.decoder)

    class Encoder(nn.Module):
        def forward(self, x):
            error = x - (program.first_canvas + program.observation.offset).squeeze(0).sigmoid()
            h, _ = memory(program.decoder, len(x))
            inputs = torch.cat([program.read(x, error, h), h], -1)
            return encoder(inputs, memory(program.encoder, len(x)))[0]

    class Decoder(nn.Module):
        def forward(self, z):
            flat = z.flatten(0, -2)
            h, _ = decoder(flat, memory(program.decoder, len(flat)))
            return program.first_canvas + program.write(h).unflatten(0, z.shape[:-1])

    pieces = {"posterior": program.posterior, "observation": program.observation}
    return VAE(SHAPE, 2, encoder=Encoder(), decoder=Decoder(), **pieces).double()


@pytest.mark.parametrize("make", [attentive, plain])
def test_one_step_is_a_vae(make):
    law_one_step_is_a_vae(at_random(make(num_steps=1)))


@pytest.mark.parametrize("mutant", ["no error image", "canvas is replaced", "encoder starts at zero"])
def test_a_mutant_of_one_step_is_caught(mutant):
    with pytest.raises(AssertionError):
        law_one_step_is_a_vae(at_random(attentive(mutants_of(DRAW)[mutant], num_steps=1)))


@each_program
@torch.no_grad()
def test_particles_one_by_one_have_the_weights_of_all_at_once(make):
    """Model and guide replayed with each particle's latents, without a particle dimension, give its weights."""
    program, x = at_random(make()), images()
    log_w, latents = weights_and_latents(program, x)
    for k in range(PARTICLES):
        one = {name: value[k] for name, value in latents.items()}
        log_p, log_q = (
            poutine.trace(poutine.condition(part, one)).get_trace(x)
            for part in (program.model, program.guide)
        )
        for trace in (log_p, log_q):
            trace.compute_log_prob()
        by_site = [log_p.nodes[name]["log_prob"] - log_q.nodes[name]["log_prob"] for name in one]
        assert (log_w[k] - sum(by_site) - log_p.nodes["x"]["log_prob"]).abs().max() < 1e-10


# ---- what follows from what


def law_each_step_follows_from_earlier_ones(part, program, units):
    """d mean(z_s of datum i) / d z_t of datum j is exactly zero unless t < s and i = j, where it is not."""
    x, z = images(), torch.randn(T, BATCH, units, dtype=torch.float64)

    def means(z):
        given = dict(zip(program.sites, z, strict=True))
        trace = poutine.trace(poutine.condition(part, given)).get_trace(x)
        return torch.stack([trace.nodes[name]["fn"].mean.expand(BATCH, units) for name in program.sites])

    jacobian = torch.autograd.functional.jacobian(means, z)  # (s, i, units, t, j, units)
    reached = (jacobian != 0).any(5).any(2)
    for s, i, t, j in itertools.product(range(T), range(BATCH), range(T), range(BATCH)):
        assert bool(reached[s, i, t, j]) == (t < s and i == j)


@each_kind
def test_a_posterior_follows_from_earlier_steps_of_its_own_datum(make, base, by_hand, units):
    program = at_random(make())
    law_each_step_follows_from_earlier_ones(program.guide, program, units)
    for mutant in (mutants_of(base)["guide sees the first drawing"], mixed(base)):
        program = at_random(make(mutant))
        with pytest.raises(AssertionError):
            law_each_step_follows_from_earlier_ones(program.guide, program, units)


def test_the_convolutional_prior_follows_from_earlier_steps_too():
    program = at_random(convolutional())
    law_each_step_follows_from_earlier_ones(program.model, program, 18)


@each_program
def test_the_bound_has_a_closed_form_at_each_step(make):
    """ELBO(kl="analytic") is log p(x | z) minus divergences of normals by the formula; the first has no noise."""
    program, x = at_random(make()), images()
    seeded = partial(torch.manual_seed, 3)
    seeded()
    loss = ELBO(kl="analytic")(program.model, program.guide, x)
    seeded()
    guide = poutine.trace(program.guide).get_trace(x)
    model = poutine.trace(poutine.replay(program.model, trace=guide)).get_trace(x)
    model.compute_log_prob()
    bound = model.nodes["x"]["log_prob"].sum()
    for name in program.sites:
        (a, s), (b, r) = ((t.nodes[name]["fn"].mean, t.nodes[name]["fn"].stddev) for t in (guide, model))
        bound = bound - (((s / r) ** 2 + ((a - b) / r) ** 2 - 1) / 2 - (s / r).log()).sum()
    assert (loss + bound).abs() < 1e-9 * loss.abs()
    found = site_divergences(program.model, program.guide, x)
    assert list(found) == program.sites
    assert [bool((kl.standard_error == 0).all()) for kl in found.values()] == [True, False, False]


# ---- pictures and sizes


@each_program
def test_pictures(make):
    program = make()
    assert program.sample(4).shape == (4, *SHAPE)
    assert set(program.sample(50).unique().tolist()) == {0.0, 1.0}
    steps = program.sample_steps(4)
    assert steps.shape == (T, 4, *SHAPE) and ((steps > 0) & (steps < 1)).all()
    torch.manual_seed(2)
    steps = program.sample_steps(4)
    torch.manual_seed(2)
    assert torch.allclose(program.sample(4, mean=True), steps[-1])
    trace = poutine.trace(program.model).get_trace(n=4)
    canvases = program.canvases([trace.nodes[name]["value"] for name in program.sites])
    assert torch.allclose(program.observation(canvases[-1]).mean, trace.nodes["x"]["fn"].mean)
    assert not torch.equal(canvases[0], canvases[1])
    fewer = [trace.nodes[name]["value"] for name in program.sites[:1]]
    assert torch.equal(program.canvases(fewer), canvases[:1])


@each_program
def test_the_canvas_starts_at_the_mean_of_the_data(make):
    program, mean = make().double(), torch.linspace(0.1, 0.9, 30).reshape(SHAPE).double()
    program.initialize((torch.rand(500, *SHAPE) < mean).double())
    start = program.observation(program._start().canvas).mean
    assert (start - mean).abs().max() < 4.9 * 0.5 / math.sqrt(500) * 1.3  # 30 pixels, 1e-6 in all


@pytest.mark.parametrize(
    "make",
    [
        lambda noise: DRAW((3, 7, 4), 2, num_steps=2, hidden=5, read_size=3, write_size=3, observation=noise),
        *(
            lambda noise, s=s: ConvDRAW((3, 7, 4), 2, num_steps=2, channels=3, stride=s, observation=noise)
            for s in (1, 2, 3)
        ),
    ],
)
def test_colours_sizes_and_other_noise(make):
    """Three colours, an odd size, strides and an observation of two parameters for each element."""
    program = make(NormalObservation((3, 7, 4), heteroscedastic=True))
    x = torch.randn(5, 3, 7, 4)
    ELBO(2, kl="analytic")(program.model, program.guide, x).backward()
    assert all(value.grad.abs().sum() > 0 for value in program.parameters())
    assert program.sample(2).shape == (2, 3, 7, 4)


def test_data_that_are_no_images_need_pieces_without_attention():
    program = DRAW((5,), 2, num_steps=2, hidden=4, read=FullRead((5,)), write=FullWrite((1, 5), 4))
    assert program.sample(3).shape == (3, 5)


def test_a_piece_of_the_users_own():
    class Blind(nn.Module):
        out_features = 1

        def forward(self, x, error, h):
            return (x * 0).sum((-3, -2, -1)).unsqueeze(-1) + error.mean((-3, -2, -1)).unsqueeze(-1)

    program = DRAW(SHAPE, 2, num_steps=2, hidden=4, write_size=2, read=Blind())
    assert log_weights(program.model, program.guide, images().float(), num_particles=3).shape == (3, BATCH)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DRAW(SHAPE, 2, num_steps=0), ("num_steps of DRAW: 0", ">= 1")),
        (lambda: DRAW(SHAPE, 2, num_steps=10**13), ("num_steps of DRAW: 10000000000000", "at most 1000")),
        (
            lambda: DRAW(SHAPE, 2, read_size=7, write_size=2),
            ("size of AttentiveRead: 7", "1 to 6", "FullRead"),
        ),
        (lambda: DRAW(SHAPE, 2, write_size=0), ("size of AttentiveWrite: 0", "FullWrite")),
        (lambda: DRAW((30,), 2), ("AttentiveRead", "(30,)", "FullRead")),
        (lambda: DRAW((30,), 2, read=FullRead((30,))), ("AttentiveWrite", "FullWrite")),
        (lambda: DRAW((1, 0, 5), 2), ("data_shape", "(1, 0, 5)")),
        (lambda: DRAW(SHAPE, 0, write_size=2), ("latent_dim",)),
        (lambda: DRAW(SHAPE, 2, hidden=0), ("hidden",)),
        (lambda: ConvDRAW(SHAPE, 2, num_steps=0), ("num_steps of ConvDRAW: 0", ">= 1")),
        (lambda: ConvDRAW(SHAPE, 2, num_steps=10**30), ("num_steps of ConvDRAW: 1", "at most 1000")),
        (lambda: ConvDRAW((30,), 2), ("data_shape of ConvDRAW", "(30,)", "DRAW with FullRead")),
        (lambda: ConvDRAW(SHAPE, 0), ("latent_channels",)),
        (lambda: ConvDRAW(SHAPE, 2, kernel_size=4), ("kernel_size: 4", "odd")),
    ],
)
def test_refused_in_one_line(make, words):
    with pytest.raises(InvalidInput) as caught:
        make()
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
