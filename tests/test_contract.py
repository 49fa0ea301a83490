"""What every Program keeps, over one table of constructors. A new model is one line in ``PROGRAMS``.

Contract: a second instance, a deepcopy, a replaced layer and ``load_state_dict(assign=True)`` train every parameter;
Pyro's SVI, Predictive, Importance and NUTS run on the program as they are; state goes out and in; float64 works.
"""

import copy
import gc

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Importance, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import init_to_value
from torch import nn

from pyro_dgm import distributions, nets
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models import (
    CVAE,
    DRAW,
    FVSBN,
    MADE,
    NADE,
    PPCA,
    VAE,
    BayesianNetwork,
    ConvDRAW,
    GatedPixelCNN,
    HierarchicalPixelVAE,
    HierarchicalVAE,
    LadderVAE,
    PixelCNN,
    PixelRNN,
    VariationalDequantization,
    WaveNet,
    conv_vae,
    glow,
    gmvae,
    iaf,
    maf,
    neural_spline_flow,
    nice,
    pixel_vae,
    real_nvp,
    real_nvp_images,
    vamp_vae,
)
from pyro_dgm.objectives import ELBO, IWAE, PyroELBO, log_weights
from pyro_dgm.objectives.sites import latent_sites
from pyro_dgm.program import Pair, Program

SHAPE = (1, 8, 8)
binary = lambda n: (torch.rand(n, *SHAPE) < 0.3).float()  # noqa: E731
grey = lambda n: torch.randint(0, 17, (n, *SHAPE)) / 16.0  # noqa: E731

PROGRAMS = {
    "vae": (lambda: VAE(SHAPE, 3, hidden=(16,)), binary),
    "conv_vae": (lambda: conv_vae(SHAPE, 3, channels=(4, 8), features=16, num_blocks=1), binary),
    "flow_posterior": (
        lambda: VAE(SHAPE, 3, hidden=(16,), posterior=distributions.sylvester_posterior(16, 3, num_layers=2)),
        binary,
    ),
    "flow_prior": (
        lambda: VAE(SHAPE, 3, hidden=(16,), prior=real_nvp((3,), num_layers=2, hidden=(8,))),
        binary,
    ),
    "variational_dequantization": (
        lambda: VariationalDequantization(
            SHAPE,
            glow(SHAPE, num_steps=1, channels=4),
            levels=17,
            base=distributions.NormalMaps(SHAPE, nets.ConvMaps(1, (2, 1), channels=4)),
        ),
        grey,
    ),
    "vae_normal": (
        lambda: VAE(SHAPE, 3, hidden=(16,), observation=distributions.NormalObservation(SHAPE)),
        grey,
    ),
    "vae_logistic": (
        lambda: VAE(
            SHAPE, 3, hidden=(16,), observation=distributions.DiscretizedLogisticObservation(SHAPE, levels=17)
        ),
        grey,
    ),
    "vae_beta_binomial": (
        lambda: VAE(
            SHAPE, 3, hidden=(16,), observation=distributions.BetaBinomialObservation(SHAPE, levels=17)
        ),
        grey,
    ),
    "cvae": (lambda: CVAE(SHAPE, 4, 3, hidden=(16,)), lambda n: (binary(n), torch.arange(n) % 4)),
    "hierarchical_vae": (lambda: HierarchicalVAE(SHAPE, (4, 3), hidden=((16,), (8, 8))), binary),
    "hierarchical_vae_3": (lambda: HierarchicalVAE(SHAPE, (4, 3, 2), hidden=((16,), (8,), ())), binary),
    "ladder_vae": (lambda: LadderVAE(SHAPE, (4, 3), width=16), binary),
    "ladder_vae_3": (lambda: LadderVAE(SHAPE, (4, 3, 2), width=16), binary),
    "draw": (lambda: DRAW(SHAPE, 3, num_steps=2, hidden=8, read_size=2, write_size=3), binary),
    "draw_without_attention": (
        lambda: DRAW(
            SHAPE, 3, num_steps=3, hidden=8, read=nets.FullRead(SHAPE), write=nets.FullWrite((1, *SHAPE), 8)
        ),
        binary,
    ),
    "conv_draw": (lambda: ConvDRAW(SHAPE, 1, num_steps=2, channels=4, kernel_size=3), binary),
    "gmvae": (lambda: gmvae(SHAPE, 3, num_components=4, hidden=(16,)), binary),
    "vamp_vae": (lambda: vamp_vae(SHAPE, 3, num_components=4, hidden=(16,)), binary),
    "pixel_vae": (lambda: pixel_vae(SHAPE, 3, channels=(4, 8), features=16, maps=8), binary),
    "pixel_vae_without_upsampling": (
        lambda: pixel_vae(SHAPE, 3, channels=(4, 8), features=16, maps=8, upsample=False),
        binary,
    ),
    "hierarchical_pixel_vae": (
        lambda: HierarchicalPixelVAE(SHAPE, ((2, 4, 4), (3,)), width=8, features=16),
        binary,
    ),
    "ppca": (lambda: PPCA(5, 2), lambda n: torch.randn(n, 5)),
    "ppca_amortised": (
        lambda: PPCA(5, 2, posterior=nn.Sequential(nn.Linear(5, 4), distributions.DiagonalNormal(4, 2))),
        lambda n: torch.randn(n, 5),
    ),
}
# Without latent variables: log p(x) is exact, and NUTS has nothing to draw.
TRACTABLE = {
    "bayesian_network": (
        lambda: BayesianNetwork({"a": 2, "b": 3, "c": 2}, {"b": ["a"], "c": ["a", "b"]}),
        lambda n: torch.stack([torch.randint(k, (n,)) for k in (2, 3, 2)], -1).float(),
    ),
    "nice": (lambda: nice(SHAPE, num_layers=2, hidden=(8,)), grey),
    "maf": (lambda: maf(SHAPE, num_layers=2, hidden=(70,)), grey),
    "iaf": (lambda: iaf(SHAPE, num_layers=2, hidden=(70,)), grey),
    "neural_spline_flow": (lambda: neural_spline_flow(SHAPE, num_layers=2, hidden=(8,)), grey),
    "glow": (lambda: glow(SHAPE, num_steps=1, channels=4), grey),
    "glow_given_a_label": (
        lambda: glow(SHAPE, num_steps=1, channels=4, num_classes=4),
        lambda n: (grey(n), torch.arange(n) % 4),
    ),
    "real_nvp_images": (lambda: real_nvp_images(SHAPE, channels=4, num_blocks=1), grey),
    "real_nvp": (lambda: real_nvp(SHAPE, num_layers=2, hidden=(8,)), grey),
    "real_nvp_given_a_label": (
        lambda: real_nvp(SHAPE, num_layers=2, hidden=(8,), num_classes=4),
        lambda n: (grey(n), torch.arange(n) % 4),
    ),
    "fvsbn": (lambda: FVSBN(SHAPE), binary),
    "nade": (lambda: NADE(SHAPE, hidden=8), binary),
    "made": (lambda: MADE(SHAPE, hidden=(70, 66)), binary),
    "made_of_several_masks": (lambda: MADE(SHAPE, hidden=(70,), num_masks=3, shuffle=True), binary),
    "made_given_a_label": (
        lambda: MADE(SHAPE, hidden=(70,), num_classes=4),
        lambda n: (binary(n), torch.arange(n) % 4),
    ),
    "pixel_cnn": (lambda: PixelCNN(SHAPE, channels=8, num_layers=2), binary),
    "pixel_rnn": (lambda: PixelRNN(SHAPE, hidden=4, num_layers=1), binary),
    "diagonal_pixel_rnn": (
        lambda: PixelRNN(SHAPE, hidden=4, num_layers=1, layer=nets.DiagonalBiLSTM),
        binary,
    ),
    "wavenet": (
        lambda: WaveNet(
            (20,), channels=4, num_layers=3, observation=distributions.CategoricalObservation((20,), 9)
        ),
        lambda n: torch.randint(0, 9, (n, 20)) / 8.0,
    ),
    "gated_pixel_cnn": (lambda: GatedPixelCNN(SHAPE, channels=8, num_layers=2), binary),
    "gated_pixel_cnn_of_greys": (
        lambda: GatedPixelCNN(
            SHAPE,
            channels=8,
            num_layers=2,
            observation=distributions.CategoricalObservation(SHAPE, levels=17),
        ),
        grey,
    ),
}
latent = pytest.mark.parametrize(("make", "draw"), PROGRAMS.values(), ids=PROGRAMS.keys())
ALL = PROGRAMS | TRACTABLE
programs = pytest.mark.parametrize(("make", "draw"), ALL.values(), ids=ALL.keys())


def batch_of(draw, n):
    """What a draw function gives, a tensor x or a tuple (x, y), as a batch."""
    drawn = draw(n)
    return drawn if isinstance(drawn, tuple) else (drawn,)


def assert_trains_every_parameter(program, *batch):
    """Two SVI steps on one batch change every parameter and keep the module's own tensors in Pyro's store."""
    before = {name: value.detach().clone() for name, value in program.named_parameters()}
    svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.01}), ELBO())
    svi.step(*batch)
    svi.step(*batch)
    unchanged = [name for name, value in program.named_parameters() if torch.equal(value, before[name])]
    assert unchanged == []


@programs
def test_a_second_instance_trains_its_own_parameters(make, draw):
    first, second, batch = make(), make(), batch_of(draw, 6)
    assert_trains_every_parameter(first, *batch)
    frozen = {name: value.detach().clone() for name, value in first.named_parameters()}
    assert_trains_every_parameter(second, *batch)
    assert all(torch.equal(value, frozen[name]) for name, value in first.named_parameters())


@programs
def test_a_deepcopy_trains_its_own_parameters(make, draw):
    program, batch = make(), batch_of(draw, 6)
    assert_trains_every_parameter(program, *batch)
    clone = copy.deepcopy(program)
    assert clone.pyro_name != program.pyro_name
    assert_trains_every_parameter(clone, *batch)
    assert_trains_every_parameter(program, *batch)


@programs
def test_a_replaced_parameter_is_trained(make, draw):
    program, batch = make(), batch_of(draw, 6)
    assert_trains_every_parameter(program, *batch)
    for module in program.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(value.detach().clone()))
    assert_trains_every_parameter(program, *batch)


@programs
def test_state_goes_out_and_in_even_by_assignment(make, draw):
    program, other, batch = make(), make(), batch_of(draw, 6)
    assert_trains_every_parameter(program, *batch)
    assert_trains_every_parameter(other, *batch)
    other.load_state_dict(program.state_dict())
    losses = []
    for p in (program, other):
        torch.manual_seed(0)
        losses.append(ELBO()(p.model, p.guide, *batch).item())
    assert losses[0] == losses[1]
    other.load_state_dict(copy.deepcopy(program.state_dict()), assign=True)
    for value in other.parameters():
        value.requires_grad_(True)
    assert_trains_every_parameter(other, *batch)


@programs
def test_float64(make, draw):
    program = make().double()
    batch = [field.double() if field.is_floating_point() else field for field in batch_of(draw, 6)]
    for objective in (ELBO(), IWAE(3)):
        loss = objective(program.model, program.guide, *batch)
        assert loss.dtype == torch.float64
        loss.backward()
    assert all(value.grad.dtype == torch.float64 for value in program.parameters())


@programs
def test_pyro_runs_on_it(make, draw):
    program, batch = make(), batch_of(draw, 3)
    for loss in (Trace_ELBO(), Trace_ELBO(num_particles=3, vectorize_particles=True), ELBO(2), IWAE(3)):
        SVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.01}), loss).step(*batch)
    draws = Predictive(program.model, guide=program.guide, num_samples=4, parallel=True)(*batch)
    assert {value.shape[0] for name, value in draws.items() if name.startswith("z")} <= {4}
    assert Predictive(program.model, num_samples=4)(None)["x"].shape[0] == 4
    posterior = Importance(program.model, program.guide, num_samples=5).run(*batch)
    assert torch.isfinite(posterior.get_log_normalizer())


@latent
def test_nuts_runs_on_it(make, draw):
    program, batch = make().eval(), batch_of(draw, 2)
    for value in program.parameters():
        value.requires_grad_(False)
    start = poutine.trace(program.guide).get_trace(
        *batch
    )  # levels of grey leave z a cell, which no guess meets
    values = {name: site["value"] for name, site in latent_sites(start).items()}
    kernel = NUTS(program.model, max_tree_depth=3, init_strategy=init_to_value(values=values))
    mcmc = MCMC(kernel, num_samples=4, warmup_steps=4, disable_progbar=True)
    mcmc.run(*batch)
    assert all(torch.isfinite(draws).all() for draws in mcmc.get_samples().values())


@programs
def test_weights_per_datum(make, draw):
    program, batch = make(), batch_of(draw, 4)
    with torch.no_grad():
        assert log_weights(program.model, program.guide, *batch, num_particles=3).shape == (3, 4)
    assert program.model(n=5).shape[0] == 5


@programs
def test_the_store_forgets_a_program_that_is_gone(make, draw):
    program, survivor = make(), make()
    program.other = survivor.model and next(survivor.parameters())  # a tensor that two programs share
    assert_weights_registered(program, *batch_of(draw, 3))
    assert_weights_registered(survivor, *batch_of(draw, 3))
    name = program.pyro_name
    del program
    gc.collect()
    store = pyro.get_param_store()
    assert not [key for key in store if key.startswith(f"{name}$$$")]
    assert all(store.param_name(value) for _, value in store.named_parameters())


def assert_weights_registered(program, *batch):
    program.model(*batch)
    assert any(key.startswith(f"{program.pyro_name}$$$") for key in pyro.get_param_store())


def test_mean_field_elbo_of_pyro_on_the_vae():
    program, x = VAE(SHAPE, 3, hidden=(16,)), binary(5)
    torch.manual_seed(1)
    ours = ELBO(kl="analytic")(program.model, program.guide, x)
    torch.manual_seed(1)
    theirs = TraceMeanField_ELBO().differentiable_loss(program.model, program.guide, x)
    assert torch.allclose(ours, theirs, rtol=1e-6)


# ---- Pair: the same contract for a user's functions, as far as Pyro's names allow it


def users_pair():
    net = nn.Linear(1, 2)

    def model(x):
        scale = pyro.param("scale", torch.tensor(2.0), constraint=pyro.distributions.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
            pyro.sample("x", pyro.distributions.Normal(z, scale), obs=x)

    def guide(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            loc, log_scale = net(x[:, None]).unbind(-1)
            pyro.sample("z", pyro.distributions.Normal(loc, log_scale.exp()))

    return Pair(model, guide)


def test_pair_trains_every_parameter_and_round_trips():
    pair, x = users_pair(), torch.randn(6)
    with pytest.raises(InvalidInput, match=r"pair\.materialize"):
        list(pair.parameters())
    pair.materialize(x)
    assert set(pair.state_dict()) == {"scale", "net$$$weight", "net$$$bias"}
    saved = copy.deepcopy(pair.state_dict())
    assert_trains_every_parameter(pair, x)
    pair.load_state_dict(saved)
    assert all(torch.equal(value, saved[name]) for name, value in pair.state_dict().items())
    with pytest.raises(RuntimeError, match="missing"):
        pair.load_state_dict({})


def test_pair_takes_autoguides_and_float64():
    def model(x):
        loc = pyro.sample("loc", pyro.distributions.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", pyro.distributions.Normal(loc[..., 0] + loc[..., 1], 1.0), obs=x)

    x = torch.randn(6, dtype=torch.float64)
    for autoguide in (pyro.infer.autoguide.AutoNormal, pyro.infer.autoguide.AutoMultivariateNormal):
        pyro.clear_param_store()
        pair = Pair(model, autoguide(model))
        pair.materialize(x)
        pair.double()
        assert_trains_every_parameter(pair, x)
        assert log_weights(pair.model, pair.guide, x, num_particles=4, joint=True).shape == (4,)


def test_materialize_gives_the_random_numbers_back():
    program, x = VAE(SHAPE, 3, hidden=(16,)), binary(5)
    state = torch.get_rng_state()
    program.materialize(x)
    assert torch.equal(state, torch.get_rng_state())


def test_materialize_leaves_batch_norm_alone():
    class Normed(Program):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def model(self, x):
            pyro.module(self.pyro_name, self)
            with pyro.plate("data", len(x)):
                pyro.sample("x", pyro.distributions.Normal(self.norm(x), 1.0).to_event(1), obs=x)

    program = Normed()
    program.materialize(torch.randn(5, 2) + 3)
    assert program.norm.num_batches_tracked == 0
    assert torch.equal(program.norm.running_mean, torch.zeros(2))


def test_pair_of_methods_has_each_parameter_once_under_a_name_for_the_disk():
    def pair_of(ppca):
        def guide(x):
            pyro.module("shared", ppca)  # the same tensors by another name
            ppca.guide(x)

        return Pair(ppca.model, guide)

    x, states = torch.randn(3, 5), []
    for _ in range(2):
        ppca = PPCA(5, 2)
        pair = pair_of(ppca)
        pair.materialize(x)
        assert len(list(pair.parameters())) == 3
        pair.eval()
        assert not ppca.training
        pair = Pair(ppca.model, lambda x, ppca=ppca: ppca.guide(x))
        pair.materialize(x)
        states.append(pair.state_dict())
        pyro.clear_param_store()
    assert (
        states[0].keys() == states[1].keys() == {f"PPCA#0$$${n}" for n in ("loadings", "mean", "log_scale")}
    )


def test_pair_names_a_parameter_that_nothing_would_train():
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 1)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("x", pyro.distributions.Normal(self.linear(x[:, None])[:, 0], 1.0), obs=x)

    with pytest.raises(
        InvalidInput, match=r"outside Pyro's store.*pair's model: linear\.weight.*pyro\.module"
    ):
        Pair(Decoder()).materialize(torch.randn(3))


def test_pair_refuses_a_copy():
    with pytest.raises(InvalidInput, match="cannot be copied"):
        copy.deepcopy(users_pair())


def test_a_program_without_model_says_so():
    with pytest.raises(TypeError, match="defines no model"):
        Program().model()


def test_pyro_elbo_keeps_gradients_that_wait():
    program, x = PPCA(5, 2), torch.randn(3, 5)
    program.materialize(x)
    program.mean.grad = torch.ones(5)
    loss = PyroELBO(Trace_ELBO())(program.model, program.guide, x)
    assert torch.equal(program.mean.grad, torch.ones(5))
    loss.backward()
    assert not torch.equal(program.mean.grad, torch.ones(5))
