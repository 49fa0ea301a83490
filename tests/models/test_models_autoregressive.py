"""Autoregressive models as programs and as pieces: masks, labels, priors, decoders, completed images, bad input."""

import math
import re

import pyro
import pytest
import torch
from pyro.infer.autoguide import AutoIAFNormal, AutoNormal
from scipy.stats import chi2
from torch import nn

import pyro_dgm as dgm
from pyro_dgm import distributions, models, nets
from pyro_dgm.errors import IncompatibleModel, InvalidInput
from pyro_dgm.objectives import ELBO, log_weights
from tests.laws.autoregressive_models import at_random

SHAPE = (1, 3, 3)


def binary(n, shape=SHAPE):
    return (torch.rand(n, *shape) < 0.4).double()


# ---- what a saved model holds


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: models.FVSBN(SHAPE, shuffle=True, seed=seed),
        lambda seed: models.NADE(SHAPE, hidden=4, shuffle=True, seed=seed),
        lambda seed: models.MADE(SHAPE, hidden=(20, 20), num_masks=3, seed=seed),
    ],
    ids=["FVSBN", "NADE", "MADE"],
)
def test_orders_and_masks_are_saved_with_the_weights(make):
    first, second = at_random(make(0)), make(1).double().eval()
    second.load_state_dict(first.state_dict())
    x = binary(5)
    assert torch.equal(first().log_prob(x), second().log_prob(x))


# ---- several masks


def test_in_evaluation_several_masks_are_a_mixture_and_in_training_one_is_drawn():
    made = at_random(models.MADE(SHAPE, hidden=(20,), num_masks=3, shuffle=True))
    x = binary(5)
    each = torch.stack([made.masked(which).log_prob(x) for which in range(3)])
    assert (each.std(0) > 0.01).all()
    torch.testing.assert_close(made().log_prob(x), each.logsumexp(0) - math.log(3), rtol=0, atol=1e-12)
    made.train()
    seen = {min(range(3), key=lambda m: (each[m] - made().log_prob(x)).abs().max().item()) for _ in range(50)}
    assert seen == {0, 1, 2}  # one of them is missed in 50 draws with probability 5e-9
    assert all(bool((each == made().log_prob(x)).all(1).any()) for _ in range(10))


def test_a_mixture_of_one_batch_is_that_of_each_of_more():
    """In a plate longer than the batch, the members are expanded with it."""
    made = at_random(models.MADE(SHAPE, hidden=(20,), num_masks=2, context_shape=(3,)))
    c = torch.randn(1, 3, dtype=torch.float64)
    with pyro.plate("data", 5):
        x = pyro.sample("x", made(c))
    assert x.shape == (5, *SHAPE)
    torch.testing.assert_close(made(c).expand((5,)).log_prob(x), made(c.expand(5, 3)).log_prob(x))
    with pytest.raises(InvalidInput, match="no members"):
        distributions.Ensemble([])


def test_draws_of_a_mixture_come_from_all_members():
    first, second = (torch.full((2,), value, dtype=torch.float64) for value in (-20.0, 20.0))
    member = lambda logits: pyro.distributions.Bernoulli(logits=logits).to_event(1)  # noqa: E731
    p = distributions.Ensemble([member(first), member(second)])
    torch.manual_seed(0)
    draws = p.expand((2,)).sample((5000,))
    assert draws.shape == (5000, 2, 2) and torch.equal(draws[..., 0], draws[..., 1])
    assert abs(draws[..., 0].mean() - 0.5) < 4.9 * 0.5 / 100  # false alarm 1e-6
    assert p.log_prob(draws).shape == (5000, 2)


@pytest.mark.parametrize("shuffle", [False, True])
def test_several_masks_train_in_a_compiled_step(shuffle):
    """A traced step, the number of its mask drawn in the graph."""
    made = models.MADE(SHAPE, hidden=(12,), num_masks=4, shuffle=shuffle)
    data = dgm.data.Arrays(binary(40).float(), levels=2)
    with torch.random.fork_rng():
        history = dgm.fit(made, ELBO(), data, epochs=2, batch_size=8, compile=True, progress=False)
    assert math.isfinite(history.rows[-1]["loss"])


def test_masks_leave_no_weight_unused_over_all_of_them():
    network = nets.MaskedMLP((6,), 1, hidden=(9, 9), num_masks=40, direct=False)
    used = [
        sum(mask.int() for mask in masks)
        for masks in zip(*(network._masks(m)[0] for m in range(40)), strict=True)
    ]
    assert all(bool((count > 0).any(1).all()) for count in used)


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_masks_take_the_orders_in_turn(number):
    made = models.MADE(SHAPE, num_masks=5, shuffle=True, num_orders=number)
    orders = [tuple(order) for order in made.network.orders.tolist()]
    assert len(set(orders)) == number and orders == [orders[mask % number] for mask in range(5)]
    assert len({tuple(row) for row in made.network.get_buffer("degrees_1").tolist()}) == 5


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0, None])
def test_hidden_degrees_of_a_unit_differ_between_masks_as_much_as_asked_for(noise):
    network = nets.MaskedMLP((784,), 1, hidden=(500, 500), num_masks=200, degree_noise=noise)
    uniform = 783 / 12**0.5  # the spread of a uniform draw, here known to 4 % of it for each of 1,000 units
    for place in (1, 2):
        degrees = network.get_buffer(f"degrees_{place}")
        assert degrees.min() >= 1 and degrees.max() <= 783
        middle = (int(degrees.min()) + 783) / 2  # the lowest is that of the layer below, mask by mask
        assert degrees.double().mean().item() == pytest.approx(middle, abs=6)
        spread = degrees.double().std(0) / uniform
        assert spread.mean().item() == pytest.approx(1.0 if noise is None else noise, abs=0.02)


def test_one_mask_spreads_its_degrees_evenly():
    degrees = nets.MaskedMLP((6,), 1, hidden=(10, 5)).get_buffer("degrees_1")
    assert degrees.tolist() == [[1, 1, 2, 2, 3, 3, 4, 4, 5, 5]]


# ---- what is conditioned on


@pytest.mark.parametrize(
    "make",
    [
        lambda **given: models.FVSBN(SHAPE, **given),
        lambda **given: models.NADE(SHAPE, hidden=5, **given),
        lambda **given: models.MADE(SHAPE, hidden=(9,), **given),
        lambda **given: models.MADE(SHAPE, hidden=(9,), num_masks=2, **given),
        lambda **given: models.PixelCNN(SHAPE, channels=4, num_layers=1, **given),
        lambda **given: models.GatedPixelCNN(SHAPE, channels=4, num_layers=2, **given),
        lambda **given: models.PixelRNN(SHAPE, hidden=3, num_layers=1, **given),
    ],
    ids=["FVSBN", "NADE", "MADE", "MADE, 2 masks", "PixelCNN", "GatedPixelCNN", "PixelRNN"],
)
class TestConditional:
    def test_labels_change_the_distribution_and_draws_follow_them(self, make):
        program = at_random(make(num_classes=3))
        x, y = binary(4), torch.tensor([0, 1, 2, 2])
        log_p = log_weights(program.model, program.guide, x, y)[0]
        one = torch.stack([program(nets.OneHot(3).double()(y[i])).log_prob(x[i]) for i in range(4)])
        torch.testing.assert_close(log_p, one, rtol=0, atol=1e-12)
        other = log_weights(program.model, program.guide, x, (y + 1) % 3)[0]
        assert (log_p - other).abs().min() > 1e-6
        assert (
            program.sample(5, y=1).shape == program.sample(5).shape == program.model(n=5).shape == (5, *SHAPE)
        )

    def test_bad_labels_and_contexts_are_one_line(self, make):
        program = make(num_classes=3)
        with pytest.raises(IncompatibleModel, match="no y to condition on"):
            program.model(binary(4).float())
        with pytest.raises(InvalidInput, match=r"labels out of range in y: 1 of 4, the first 3"):
            program.model(binary(4).float(), torch.tensor([0, 1, 2, 3]))
        with pytest.raises(InvalidInput, match=r"wrong shape in y: \(3,\)"):
            program.model(binary(4).float(), torch.tensor([0, 1, 2]))
        given = make(context_shape=(2,))
        with pytest.raises(InvalidInput, match=r"wrong shape in y: \(4, 5\); expected \(4, 2\)"):
            given.model(binary(4).float(), torch.zeros(4, 5))
        with pytest.raises(InvalidInput, match=r"wrong event shape in .*\(4, 5\)"):
            given(torch.zeros(4, 5)).log_prob(binary(4).float())
        with pytest.raises(InvalidInput, match="labels and another context"):
            make(num_classes=3, context_shape=(2,))

    def test_a_context_is_neither_left_out_nor_taken_for_a_batch(self, make):
        given, plain = make(context_shape=(3,)), make()
        with pytest.raises(IncompatibleModel, match=r"no context in .*expected contexts \(..., 3\)"):
            given()
        with pytest.raises(
            IncompatibleModel, match=r"a context that is not taken in .*: \(7, 3\); expected none"
        ):
            plain(torch.zeros(7, 3))
        with pytest.raises(IncompatibleModel, match="a context that is not taken"):
            plain.sample(3, y=5)
        with pytest.raises(InvalidInput, match=r"other leading dimensions .*: \(2,\); expected .* \(4,\)"):
            given(torch.zeros(4, 3)).log_prob(binary(2).float())

    def test_it_is_a_decoder_and_particles_are_one_more_dimension(self, make):
        decoder = nn.Sequential(nn.Linear(2, 4), nn.Tanh())
        vae = models.VAE(SHAPE, 2, hidden=(6,), decoder=decoder, observation=make(context_shape=(4,)))
        vae, x = at_random(vae, scale=0.3), binary(3)
        z = torch.randn(5, 3, 2, dtype=torch.float64)
        p = vae.observation(vae.decoder(z))
        looped = torch.stack([vae.observation(vae.decoder(z[k])).log_prob(x) for k in range(5)])
        assert p.batch_shape == (5, 3)
        torch.testing.assert_close(p.log_prob(x), looped, rtol=0, atol=1e-12)
        assert p.sample().shape == (5, 3, *SHAPE)
        torch.manual_seed(0)
        assert log_weights(vae.model, vae.guide, x, num_particles=4).shape == (4, 3)
        assert vae.sample(6).shape == (6, *SHAPE)


def test_a_prior_does_not_start_at_the_mean_of_the_data():
    prior = models.MADE((2,), observation=distributions.NormalObservation((2,)))
    vae = models.VAE((2,), 2, hidden=(6,), prior=prior, observation=distributions.NormalObservation((2,)))
    x = 7 + torch.randn(100, 2)
    vae.initialize(x)
    assert not prior.observation.offset.any() and vae.observation.offset.any()


@pytest.mark.parametrize(
    "guide", [AutoNormal, AutoIAFNormal, None], ids=["AutoNormal", "AutoIAFNormal", "NUTS"]
)
def test_autoguides_and_nuts_know_a_latent_that_is_a_mixture_of_normals(guide):
    prior = models.MADE((2,), observation=distributions.NormalMixtureObservation((2,), num_components=3))

    def model():
        z = pyro.sample("z", prior())
        pyro.sample("x", pyro.distributions.Normal(z, 1.0).to_event(1), obs=torch.ones(2))

    if guide is None:
        run = pyro.infer.MCMC(pyro.infer.NUTS(model), num_samples=2, warmup_steps=2, disable_progbar=True)
        run.run()
        assert run.get_samples()["z"].shape == (2, 2)
        return
    guide = guide(model)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO())
    assert math.isfinite(svi.step()) and guide()["z"].shape == (2,)


def test_it_is_a_prior_over_z():
    prior = models.MADE(
        (3,), hidden=(8,), observation=distributions.NormalMixtureObservation((3,), num_components=2)
    )
    vae, x = models.VAE(SHAPE, 3, hidden=(6,), prior=prior).double(), binary(4)
    before = [value.detach().clone() for value in prior.parameters()]
    dgm.fit(
        vae, ELBO(), dgm.data.Arrays(binary(30).float(), levels=2), epochs=2, batch_size=8, progress=False
    )
    assert not any(torch.equal(a, b) for a, b in zip(before, prior.parameters(), strict=True))
    vae = vae.double()
    z = vae.encode(x).rsample((7,))
    by_hand = vae.prior().log_prob(z) + vae.observation(vae.decoder(z)).log_prob(x)
    trace = pyro.poutine.trace(pyro.condition(vae.model, data={"z": z[0]})).get_trace(x)
    torch.testing.assert_close(trace.log_prob_sum(), by_hand[0].sum(), rtol=1e-12, atol=0)
    assert vae.sample(2).shape == (2, *SHAPE)


def test_a_mixture_of_normals_has_a_density_that_integrates_to_one():
    """In the plane, by a fine grid; the second coordinate is given the first."""
    p = at_random(
        models.NADE(
            (2,), hidden=6, observation=distributions.NormalMixtureObservation((2,), num_components=3)
        )
    )()
    side = torch.linspace(-12, 12, 1201, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        total = p.log_prob(grid).exp().sum() * (side[1] - side[0]) ** 2
    assert abs(total - 1) < 1e-3


# ---- a user's own pieces


class Own(nn.Module):
    """A user's own observation: whole data only, no data_shape."""

    num_params = 1

    def forward(self, params):
        return pyro.distributions.Bernoulli(logits=params.squeeze(-4)).to_event(3)


def test_an_observation_of_a_users_own_is_drawn_from_and_has_the_same_density():
    program = models.MADE(SHAPE, hidden=(9,), observation=Own())
    ours = models.MADE(SHAPE, hidden=(9,))
    ours.network.load_state_dict(program.network.state_dict())
    x = binary(5).float()
    torch.testing.assert_close(program().log_prob(x), ours().log_prob(x))
    assert program.sample(4).shape == (4, *SHAPE)


def test_waveforms_too_have_observations_of_a_users_own():
    class Whole(nn.Module):
        num_params = 1

        def forward(self, params):
            return pyro.distributions.Normal(params.squeeze(-2), 1.0).to_event(1)

    program = models.WaveNet((6,), observation=Whole(), channels=4, num_layers=2)
    x = program.sample(3)
    assert x.shape == (3, 6) and program().log_prob(x).shape == (3,)


def test_a_plain_function_may_be_the_observation():
    p = distributions.Autoregressive(
        lambda x, c: (x.cumsum(-1) - x).unsqueeze(-2) + c.unsqueeze(-2),
        lambda params: pyro.distributions.Bernoulli(logits=params.squeeze(-2)).to_event(1),
        torch.zeros(4, 2),
        event_shape=(2,),
    )
    assert p.log_prob(p.sample()).shape == (4,)
    with pytest.raises(ValueError, match="within the support"):
        p.log_prob(torch.full((4, 2), 0.5))


def test_a_network_of_a_users_own_is_sampled_naively():
    weight = torch.tensor([[0.0, 0.0], [50.0, 0.0]])
    p = distributions.Autoregressive(
        lambda x, c: (x @ weight.T - 25 * torch.tensor([0.0, 1.0])).unsqueeze(-2),
        distributions.BernoulliObservation((2,)),
    )
    draws = p.sample((200,))
    assert torch.equal(draws[:, 0], draws[:, 1]) and 0 < draws.mean() < 1


# ---- what is kept, in single precision


@pytest.mark.parametrize(
    "program",
    [
        models.FVSBN((1, 8, 8)),
        models.NADE((1, 8, 8), hidden=100),
        models.MADE((1, 8, 8), hidden=(200, 200)),
        models.PixelCNN((1, 8, 8), channels=16, num_layers=4),
        models.GatedPixelCNN((1, 8, 8), channels=16, num_layers=4),
        models.PixelRNN((1, 8, 8), hidden=8, num_layers=2),
    ],
    ids=lambda program: type(program).__name__,
)
def test_in_float32_what_is_kept_differs_from_a_whole_pass_by_rounding_alone(program):
    """Outputs agree to 1e-5; of 200 draws from the same noise at most 4 have a uniform so near its probability that
    the element, and so the rest, comes out otherwise (an error of 1e-6 does that to 0.013 of them in the mean)."""
    p, x = at_random(program, scale=0.3).float()(), binary(200, (1, 8, 8)).float()
    with torch.no_grad():
        whole, steps = p.network(x, None).flatten(2), p._conditionals(200, None)
        index, kept = next(steps)
        for place in range(64):
            torch.testing.assert_close(kept, whole[..., index], rtol=1e-5, atol=1e-5)
            if place < 63:
                index, kept = steps.send(x.flatten(1)[:, index])
    naive = distributions.Autoregressive(lambda x, c: p.network(x, c), p.observation)
    torch.manual_seed(0)
    draws = p.sample((200,))
    torch.manual_seed(0)
    assert (draws != naive.sample((200,))).flatten(1).any(1).sum() <= 4


# ---- completing


@pytest.mark.parametrize("known", [0, 1, 2, 4])
def test_log_p_of_what_is_known_is_the_sum_over_all_completions(known):
    p = at_random(models.MADE((4,), hidden=(9,)), scale=2.0)()
    rows, observed = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 4), torch.arange(4) < known
    with torch.no_grad():
        joint, found = p.log_prob(rows), p.log_prob_of(rows, observed)
    alike = (rows[:, None, :known] == rows[None, :, :known]).all(-1)
    torch.testing.assert_close(found, joint.where(alike, -math.inf).logsumexp(-1), rtol=0, atol=1e-12)


def test_a_mixture_of_masks_completes_by_the_members_that_explain_what_is_known():
    """20,000 completions have the probabilities of the mixture's own table, to 1e-6 by Pearson's test."""
    made = at_random(models.MADE((4,), hidden=(9,), num_masks=3), scale=2.0)
    observed = torch.tensor([True, True, False, False])
    rows = torch.tensor([[1, 0, a, b] for a in (0, 1) for b in (0, 1)]).double()
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = made().impute(rows[:1].expand(20_000, 4), observed)
        p = made().log_prob(rows).softmax(0)
        alike = torch.stack([made.masked(m).log_prob(rows).softmax(0) for m in range(3)]).mean(0)

    def statistic(p):
        counts = (drawn[:, None] == rows).all(-1).sum(0)
        return ((counts - 20_000 * p) ** 2 / (20_000 * p)).sum().item()

    assert statistic(p) < chi2.isf(1e-6, 3) < statistic(alike)  # the mutant: members that are all as likely
    own = models.MADE(SHAPE, hidden=(9,), num_masks=2, observation=Own()).eval()
    upper = torch.zeros(SHAPE, dtype=torch.bool)
    upper[:, :1] = True
    with pytest.raises(InvalidInput, match="no log p of single elements in observation: Own"):
        own().impute(binary(2).float(), upper)
    mixed = distributions.Ensemble(
        [own.masked(0), pyro.distributions.Bernoulli(torch.full(SHAPE, 0.5)).to_event(3)]
    )
    with pytest.raises(
        InvalidInput, match="members that cannot be weighed in members: Autoregressive, Independent"
    ):
        mixed.impute(binary(2).float(), upper)


def test_what_is_known_is_checked_and_may_be_of_any_type():
    made = at_random(models.MADE((4,), hidden=(9,)))
    observed = torch.tensor([True, True, False, False])
    x = torch.tensor([[1, 0, 7, 7], [0, 1, 7, 7]])
    assert torch.equal(made().impute(x, observed)[:, :2], x[:, :2].double())
    for wrong in (255 * x, x * 0.5, torch.where(x == 0, torch.nan, x)):
        with pytest.raises(
            InvalidInput, match=r"values outside the support in x: known elements of [12] of 2 data"
        ):
            made().impute(wrong, observed)


def test_data_may_be_whole_numbers_and_draws_none():
    made = at_random(models.MADE((4,), hidden=(9,), num_masks=2))
    x = torch.tensor([[1, 0, 1, 1]])
    assert torch.equal(made().log_prob(x), made().log_prob(x.double()))
    assert made.sample(0).shape == (0, 4)
    with pytest.raises(InvalidInput, match="bad number in num: -1"):
        made.sample(-1)


def test_a_known_element_after_a_missing_one_is_refused():
    p = models.GatedPixelCNN(SHAPE, channels=4, num_layers=1)()
    upper = torch.zeros(SHAPE, dtype=torch.bool)
    upper[:, :2] = True
    x = binary(3).float()
    assert torch.equal(p.impute(x, upper)[:, :, :2], x[:, :, :2])
    with pytest.raises(InvalidInput, match=r"known after a missing one in observed: flat position 6"):
        p.impute(x, ~upper | torch.tensor([[[False] * 3, [False] * 3, [True] * 3]]))
    with pytest.raises(InvalidInput, match="wrong mask"):
        p.impute(x, upper.float())


# ---- bad input before training


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: models.MADE(SHAPE, hidden=(7,), direct=False),
            r"a hidden layer too narrow for its masks in hidden",
        ),
        (
            lambda: models.MADE(SHAPE, hidden=(8,), direct=False, num_classes=3),
            "hidden: .* expected 9 units or more",
        ),
        (lambda: models.MADE(SHAPE, hidden=(), direct=False), "no layers in hidden"),
        (
            lambda: models.NADE(SHAPE, context_shape=(2, 3)),
            r"a context of several dimensions in context_shape",
        ),
        (
            lambda: models.PixelCNN((3, 2, 2), channels=2),
            "fewer feature maps than channels in channels: 2; expected an integer >= 3",
        ),
        (
            lambda: models.GatedPixelCNN((3, 2, 2), channels=1),
            "fewer feature maps than channels in channels: 1",
        ),
        (lambda: models.MADE(SHAPE, order=[0, 1, 1, 2, 3, 4, 5, 6, 7]), "no permutation in order"),
        (
            lambda: models.MADE(SHAPE, num_masks=3, shuffle=True, num_orders=4),
            "expected 1 to 3, one for each mask",
        ),
        (
            lambda: models.MADE(SHAPE, degree_noise=1.5),
            "no share of noise in degree_noise: 1.5; expected 0 to 1",
        ),
        (lambda: models.MADE(SHAPE, num_masks=3, num_orders=1), "num_orders: 1; .* shuffle=True"),
        (lambda: models.NADE(SHAPE, order=[1, 2, 3, 4, 5, 6, 7, 8, 9]), "no permutation in order"),
        (lambda: models.FVSBN(SHAPE, order=list(range(8))), "no permutation in order"),
        (lambda: models.PixelCNN((9,)), "not an image in data_shape"),
        (lambda: models.PixelCNN(SHAPE, kernel_size=4), "no odd size in kernel_size: 4"),
        (lambda: models.GatedPixelCNN(SHAPE, num_layers=0), "bad number in num_layers: 0"),
        (
            lambda: models.GatedPixelCNN(SHAPE, context_shape=(2, 3, 4)),
            r"wrong shape in context_shape: \(2, 3, 4\)",
        ),
        (lambda: models.NADE((0,)), "bad size in data_shape"),
        (lambda: models.NADE((4.5,)), "bad size in data_shape"),
        (lambda: models.NADE(4), r"no sequence in data_shape: 4; expected \[4\]"),
        (lambda: models.WaveNet((6,), num_layers=25), "a dilation beyond all sound in num_layers: 25"),
        (
            lambda: models.WaveNet((6,), input_levels=16),
            "other levels than those of the observation in input_levels",
        ),
        (
            lambda: models.WaveNet((6,), input_levels=4, observation=distributions.NormalObservation((6,))),
            "input_levels: 4; expected None",
        ),
        (lambda: nets.WaveNetStack((6,), 1, input_levels=0), "too few levels in input_levels: 0"),
        (lambda: models.MADE(()), "no dimensions in data_shape"),
        (lambda: distributions.CategoricalObservation(SHAPE, levels=1), "too few grey levels in levels: 1"),
        (
            lambda: distributions.NormalMixtureObservation(SHAPE, num_components=0),
            "no components in num_components: 0",
        ),
    ],
)
def test_bad_sizes_are_one_line(make, text):
    with pytest.raises(InvalidInput, match=text) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("program", "value", "text"),
    [
        (lambda: models.PixelCNN(SHAPE, channels=4, num_layers=1), 0.5, "is grey"),
        (
            lambda: models.MADE(
                SHAPE, hidden=(9,), observation=distributions.CategoricalObservation(SHAPE, 256)
            ),
            256 / 255,
            "is off the grid",
        ),
        (
            lambda: models.NADE(
                SHAPE, hidden=3, observation=distributions.DiscretizedLogisticMixtureObservation(SHAPE, 256)
            ),
            17.3 / 255,
            "is off the grid",
        ),
    ],
    ids=["greys into Bernoulli", "256 into 8 bits", "between two levels"],
)
def test_values_outside_the_support_are_refused_before_training(program, value, text):
    x = binary(20).float()
    x[7, 0, 1, 2] = value
    made = program()
    before = [value.detach().clone() for value in made.parameters()]
    with pytest.raises(
        InvalidInput, match=rf"sample 6, position \(0, 1, 2\) {text} in data.train: "
    ) as caught:
        dgm.fit(made, ELBO(), dgm.data.Arrays(x), epochs=1, batch_size=8, progress=False)
    assert "\n" not in str(caught.value) and "site 'x'" in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, made.parameters(), strict=True))


def test_channels_of_another_number_are_named():
    text = re.escape(
        "wrong event shape in data of an autoregressive model: (4, 3, 3, 3); expected (..., 1, 3, 3)"
    )
    with pytest.raises(InvalidInput, match=text):
        models.GatedPixelCNN(SHAPE, channels=4, num_layers=1)().log_prob(torch.zeros(4, 3, 3, 3))
