"""Contract of the observation pieces: what a decoder's output becomes, in any batch, at any extreme."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pyro
import pytest
import torch
from torch import Tensor

from pyro_dgm.distributions import (
    BernoulliObservation,
    BetaBinomialObservation,
    CategoricalObservation,
    DiscretizedLogisticMixtureObservation,
    DiscretizedLogisticObservation,
    NormalMixtureObservation,
    NormalObservation,
    Observation,
)
from pyro_dgm.errors import InvalidInput

SHAPE = (1, 2, 3)
OBSERVATIONS: dict[str, Callable[[], Observation]] = {
    "bernoulli": lambda: BernoulliObservation(SHAPE),
    "normal": lambda: NormalObservation(SHAPE),
    "normal, heteroscedastic": lambda: NormalObservation(SHAPE, heteroscedastic=True),
    "discretized logistic": lambda: DiscretizedLogisticObservation(SHAPE, levels=17),
    "discretized logistic, 8 bits": lambda: DiscretizedLogisticObservation(SHAPE),
    "categorical": lambda: CategoricalObservation(SHAPE, levels=17),
    "logistic mixture": lambda: DiscretizedLogisticMixtureObservation(SHAPE, levels=17, num_components=3),
    "logistic mixture, 16 bits": lambda: DiscretizedLogisticMixtureObservation(
        SHAPE, levels=65536, num_components=3
    ),
    "normal mixture": lambda: NormalMixtureObservation(SHAPE, num_components=3),
    "beta-binomial": lambda: BetaBinomialObservation(SHAPE, levels=17),
    "beta-binomial, 8 bits": lambda: BetaBinomialObservation(SHAPE),
}
each_observation = pytest.mark.parametrize("name", OBSERVATIONS)


def build(name: str, *leading: int, scale: float = 1.0) -> tuple[Observation, Tensor]:
    """An observation in float64 with random parameters, and random decoder outputs."""
    observation = OBSERVATIONS[name]().double()
    with torch.no_grad():
        for parameter in observation.parameters():
            parameter.normal_()
    shape = (*leading, observation.num_params, *SHAPE)
    return observation, scale * torch.randn(shape, dtype=torch.float64)


@each_observation
@pytest.mark.parametrize("leading", [(), (4,), (2, 4), (2, 1, 4)], ids=str)
def test_shapes_are_those_of_the_data(name: str, leading: tuple[int, ...]) -> None:
    observation, params = build(name, *leading)
    p = observation(params)
    assert p.batch_shape == leading and p.event_shape == SHAPE == observation.data_shape
    x = p.sample((3,))
    assert x.shape == (3, *leading, *SHAPE) and x.dtype == torch.float64
    assert p.has_rsample == (name in {"normal", "normal, heteroscedastic"})
    assert p.mean.shape == (*leading, *SHAPE) and p.log_prob(x).shape == (3, *leading)
    assert p.support.check(x).all()


@each_observation
def test_some_elements_alone_are_those_of_the_whole(name: str) -> None:
    observation, params = build(name, 4)
    torch.nn.init.normal_(observation.offset)
    x, index = observation(params).sample(), torch.tensor([5, 0, 2])
    alone = observation.at(params.flatten(2)[..., index], index)
    assert alone.batch_shape == (4, 3) and alone.event_shape == ()
    log_p = observation(params).base_dist.log_prob(x).flatten(1)
    torch.testing.assert_close(alone.log_prob(x.flatten(1)[:, index]), log_p[:, index], rtol=1e-13, atol=0)


@each_observation
def test_one_datum_against_many_particles(name: str) -> None:
    """(batch) data against (particles, batch) outputs: what a loop over both gives."""
    observation, params = build(name, 3, 4)
    x = observation(params[0]).sample()
    log_p = observation(params).log_prob(x)
    looped = [[observation(params[k, b]).log_prob(x[b]).item() for b in range(4)] for k in range(3)]
    torch.testing.assert_close(log_p, torch.tensor(looped, dtype=torch.float64), rtol=1e-13, atol=1e-12)


@each_observation
def test_it_expands_under_nested_plates(name: str) -> None:
    observation, params = build(name)
    x = observation(params).sample((2, 5))

    def model() -> None:
        with pyro.plate("outer", 2, dim=-2), pyro.plate("inner", 5, dim=-1):
            pyro.sample("x", observation(params), obs=x)

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    site = trace.nodes["x"]
    assert site["fn"].batch_shape == (2, 5) and site["log_prob"].shape == (2, 5)
    torch.testing.assert_close(site["log_prob"], observation(params).log_prob(x))
    one = observation(params).expand((4,)).expand((3, 4))
    assert one.batch_shape == (3, 4) and one.sample().shape == (3, 4, *SHAPE)


@each_observation
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite_at_every_output(name: str, scale: float, dtype: torch.dtype) -> None:
    observation, params = build(name, 50, scale=scale)
    observation, params = observation.to(dtype), params.to(dtype).requires_grad_()
    p = observation(params)
    for x in (p.sample(), torch.zeros(SHAPE, dtype=dtype), torch.ones(SHAPE, dtype=dtype)):
        log_p = p.log_prob(x)
        gradients = torch.autograd.grad(
            log_p.sum(), [params, *observation.parameters()], retain_graph=True, allow_unused=False
        )
        assert log_p.isfinite().all() and all(gradient.isfinite().all() for gradient in gradients)


@each_observation
def test_the_gradient_is_the_derivative(name: str) -> None:
    observation, params = build(name, 2)
    x = observation(params).sample()
    assert torch.autograd.gradcheck(lambda a: observation(a).log_prob(x), (params.requires_grad_(),))


@each_observation
def test_half_precision_outputs_give_float32_log_probabilities(name: str) -> None:
    observation, params = build(name, 4)
    half = params.bfloat16()
    x = observation(params).sample().float()
    log_p = observation.float()(half).log_prob(x)
    assert log_p.dtype == torch.float32
    assert torch.equal(log_p, observation(half.float()).log_prob(x))
    assert observation.bfloat16()(half).log_prob(x).dtype == torch.float32


@each_observation
def test_a_deepcopy_and_the_state_make_an_equal_piece(name: str) -> None:
    observation, params = build(name, 4)
    x = observation(params).sample()
    other = OBSERVATIONS[name]().double()
    other.load_state_dict(observation.state_dict())
    for twin in (copy.deepcopy(observation), other):
        assert torch.equal(twin(params).log_prob(x), observation(params).log_prob(x))
        assert not {id(p) for p in twin.parameters()} & {id(p) for p in observation.parameters()}


@each_observation
def test_a_wrong_output_shape_is_refused(name: str) -> None:
    observation, params = build(name, 4)
    for bad in (params[..., :-1], params.movedim(1, 2)[:, 0], params[0, 0], params[0, 0, 0, 0, 0]):
        with pytest.raises(InvalidInput, match=r"wrong decoder output shape in \w+Observation input: \("):
            observation(bad)


@each_observation
def test_values_off_the_support_are_refused(name: str) -> None:
    observation, params = build(name, 4)
    p = observation(params)
    bad_values = [float("nan")] if observation.levels is None else [float("nan"), 0.53, -1.0, 255.0]
    for bad in bad_values:
        with pytest.raises(ValueError, match="support"):
            p.log_prob(torch.full(SHAPE, bad, dtype=torch.float64))
    with pytest.raises(ValueError, match="shape|size"):
        p.log_prob(torch.zeros(1, 3, 2, dtype=torch.float64))


def total_probability(observation: Observation, params: Tensor) -> Tensor:
    """The sum of exp(log_prob) over every possible datum."""
    assert observation.levels is not None
    grid = torch.arange(observation.levels, dtype=torch.float64) / (observation.levels - 1)
    data = torch.cartesian_prod(*[grid] * math.prod(observation.data_shape))
    return observation(params).log_prob(data.reshape(-1, *observation.data_shape)).exp().sum()


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize(
    "observation",
    [
        BernoulliObservation((2, 3)),
        DiscretizedLogisticObservation((1, 3), levels=5),
        BetaBinomialObservation((3,), levels=5),
    ],
    ids=lambda observation: type(observation).__name__,
)
def test_the_probabilities_of_all_images_sum_to_one(observation: Observation, scale: float) -> None:
    params = scale * torch.randn(observation.num_params, *observation.data_shape, dtype=torch.float64)
    assert abs(total_probability(observation, params).item() - 1) < 1e-10


def test_bernoulli_agrees_with_its_formula() -> None:
    observation, logits = BernoulliObservation(SHAPE), torch.randn(7, 4, 1, *SHAPE, dtype=torch.float64)
    x = torch.randint(0, 2, (4, *SHAPE), dtype=torch.float64)
    by_hand = (x * logits[:, :, 0] - torch.nn.functional.softplus(logits[:, :, 0])).sum((-3, -2, -1))
    torch.testing.assert_close(observation(logits).log_prob(x), by_hand)


def test_normal_agrees_with_its_formula() -> None:
    floor = 0.1
    observation = NormalObservation(SHAPE, scale_floor=floor).double()
    assert observation.log_scale is not None
    torch.nn.init.normal_(observation.log_scale)
    params, x = torch.randn(4, 1, *SHAPE, dtype=torch.float64), torch.randn(4, *SHAPE, dtype=torch.float64)
    sigma = floor + observation.log_scale.exp()
    density = -0.5 * ((x - params[:, 0]) / sigma) ** 2 - sigma.log() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(observation(params).log_prob(x), density.sum((-3, -2, -1)))


@pytest.mark.parametrize("heteroscedastic", [False, True])
def test_a_constant_feature_cannot_drive_the_density_to_infinity(heteroscedastic: bool) -> None:
    """Fitted to constant data, the density stops at its documented bound and does not become NaN."""
    floor = 0.01
    observation = NormalObservation((2,), heteroscedastic=heteroscedastic, scale_floor=floor)
    params = torch.zeros(observation.num_params, 2, requires_grad=True)
    optimizer = torch.optim.Adam([params, *observation.parameters()], lr=0.5)
    x = torch.full((8, 2), 0.3)
    bound = -2 * math.log(floor * math.sqrt(2 * math.pi))
    for _ in range(300):
        optimizer.zero_grad()
        loss = -observation(params).log_prob(x).mean()
        loss.backward()
        optimizer.step()
        assert loss.isfinite() and -loss.item() <= bound + 1e-3
    assert observation(params).stddev.min() >= floor


@pytest.mark.parametrize(
    ("constructor", "word"),
    [
        (lambda: BernoulliObservation((1, 0)), "data_shape"),
        (lambda: DiscretizedLogisticObservation((1,), levels=1), "levels"),
        (lambda: BetaBinomialObservation((1,), levels=0), "levels"),
        (lambda: NormalObservation((1,), scale_floor=0.0), "scale_floor"),
        (lambda: DiscretizedLogisticObservation((1,), scale_floor=float("nan")), "scale_floor"),
        (lambda: BetaBinomialObservation((1,), concentration_floor=-1.0), "concentration_floor"),
    ],
)
def test_bad_arguments_are_refused_by_name(constructor: Callable[[], Observation], word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        constructor()


def test_levels_and_numbers_of_parameters_are_stated() -> None:
    stated = {name: (make().levels, make().num_params) for name, make in OBSERVATIONS.items()}
    assert stated == {
        "bernoulli": (2, 1),
        "normal": (None, 1),
        "normal, heteroscedastic": (None, 2),
        "categorical": (17, 17),
        "logistic mixture": (17, 9),
        "logistic mixture, 16 bits": (65536, 9),
        "normal mixture": (None, 9),
        "discretized logistic": (17, 2),
        "discretized logistic, 8 bits": (256, 2),
        "beta-binomial": (17, 2),
        "beta-binomial, 8 bits": (256, 2),
    }


@pytest.mark.parametrize(
    "observation",
    [
        BernoulliObservation((2, 3)),
        NormalObservation((2, 3)),
        NormalObservation((2, 3), heteroscedastic=True),
        BetaBinomialObservation((2, 3), levels=17),
    ],
)
def test_a_centred_observation_starts_at_the_mean_of_the_data(observation):
    x = torch.randint(0, 2, (50, 2, 3)).float()
    zero = torch.zeros(observation.num_params, 2, 3)
    assert not torch.allclose(observation(zero).mean, x.mean(0), atol=0.01)
    observation.center(x)
    assert torch.allclose(observation(zero).mean, x.mean(0), atol=1e-3)
    observation.center(1 - x)  # only once: a decoder may have learned around it
    assert torch.allclose(observation(zero).mean, x.mean(0), atol=1e-3)


def test_a_centred_logistic_has_the_mean_as_its_location():
    observation = DiscretizedLogisticObservation((3,), levels=17)
    x = torch.tensor([[0.0, 0.5, 1.0], [0.5, 0.5, 0.5]])
    observation.center(x)
    assert torch.equal(observation(torch.zeros(2, 3)).base_dist.loc, torch.tensor([0.25, 0.5, 0.75]))
