"""The verdict on InferenceData of guides and of Markov chains: each planted fault is named, good draws pass."""

import dataclasses
import json

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS

from pyro_dgm.diagnostics import reliability, to_inferencedata
from pyro_dgm.diagnostics.psis import import_arviz

az = import_arviz()


def verdict(idata):
    """The verdict, after a passage through strict JSON."""
    result = reliability(idata)
    text = json.dumps(dataclasses.asdict(result), allow_nan=False)
    assert json.loads(text)["reliable"] is result.reliable is (not result.reasons)
    assert all("\n" not in reason for reason in result.reasons)
    return result


def model(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def guide_of(scale):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, scale))

    return guide


def test_too_narrow_a_guide_is_named():
    """Scale 0.3 has k = 0.91, and 2000 draws a k-hat above 0.7 with probability 0.87: fewer than 10 of 20 happens
    once in 1e5. Scale 1.2 has k < 0, 8 standard errors below.
    """
    guide = guide_of(torch.tensor([1.2, 0.3]).repeat_interleave(20))
    idata = to_inferencedata(model, guide, torch.zeros(40), num_samples=2000)
    result = verdict(idata)
    assert (result.num_k_hats, result.num_k_hats_unknown) == (40, 0)
    assert 10 <= result.num_k_hats_above <= 20
    datum = int(np.argmax(idata.sample_stats["k_hat"].values))
    assert datum >= 20
    assert result.worst_k_hat > result.k_hat_threshold > 0.69
    assert result.reasons == (
        f"k-hat of {result.num_k_hats_above} of 40 is above 0.70, the worst {result.worst_k_hat:.2f} at data {datum}: "
        "the guide's tails are too light for its weights to be averaged",
    )


def test_a_guide_with_wider_tails_is_reliable():
    result = verdict(to_inferencedata(model, guide_of(1.2), torch.zeros(20), num_samples=1000))
    assert result.reliable
    assert result.num_draws == 1000
    assert result.worst_r_hat is result.divergences is None


def test_too_few_draws_are_not_called_reliable():
    result = verdict(to_inferencedata(model, guide_of(1.2), torch.zeros(3), num_samples=20))
    assert result.reasons == ("k-hat of 3 of 3 could not be estimated from 20 draws: more draws are needed",)
    assert result.worst_k_hat is None


def test_a_single_k_hat_of_global_latents():
    """k = 0.99, 4 standard errors of 0.06 and a bias of -0.03 above the threshold: false alarm 1e-4."""

    def globally(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    narrow = to_inferencedata(
        globally, lambda x: pyro.sample("w", dist.Normal(0.0, 0.1)), torch.zeros(3), num_samples=100_000
    )
    (reason,) = verdict(narrow).reasons
    assert reason.startswith("k-hat of 1 of 1 is above 0.70, the worst")
    assert " at " not in reason


def chains(number=4, draws=1000):
    rng = np.random.default_rng(0)
    return {"a": rng.standard_normal((number, draws)), "b": rng.standard_normal((number, draws, 3))}


def test_independent_chains_are_reliable():
    """R-hat > 1.01 of 4 independent chains of 1000 needs a chi-square(3) of 63: below 1e-12."""
    result = verdict(az.from_dict(chains()))
    assert result.reliable
    assert 0.99 < result.worst_r_hat < 1.01
    assert result.num_k_hats == 0


def test_a_chain_elsewhere_is_named():
    posterior = chains()
    posterior["b"][3, :, 1] += 1.0
    result = verdict(az.from_dict(posterior))
    assert result.worst_r_hat_variable == "b"
    assert result.reasons == (
        f"R-hat of 1 of 4 is above 1.01, the worst {result.worst_r_hat:.3f} in 'b': the chains have not mixed",
    )


def test_one_chain_or_a_constant_has_no_r_hat():
    assert verdict(az.from_dict(chains(number=1))).worst_r_hat is None
    result = verdict(az.from_dict(chains() | {"c": np.ones((4, 1000))}))
    assert result.reliable
    assert result.worst_r_hat_variable in ("a", "b")


def test_chains_that_stick_where_they_began():
    """Without variance within the chains R-hat is infinite, which JSON cannot say."""
    result = verdict(az.from_dict({"c": np.repeat(np.arange(4.0)[:, None], 1000, axis=1)}))
    assert result.reasons == (
        "R-hat of 1 of 1 is above 1.01, the worst inf in 'c': the chains have not mixed",
    )
    assert (result.worst_r_hat, result.worst_r_hat_variable) == (None, "c")


@pytest.mark.parametrize("number", [1, 4])
def test_draws_that_are_not_finite_are_named(number):
    posterior = chains(number)
    posterior["b"][0, 5, 1] = np.nan
    result = verdict(az.from_dict(posterior))
    assert "NaN or infinite draws of 'b'" in result.reasons
    assert result.non_finite_variables == ("b",)


def test_without_a_posterior_there_is_nothing_to_say():
    assert verdict(az.from_dict(observed_data={"x": np.zeros(3)})).reliable


@pytest.fixture(scope="module")
def nuts():
    """Two short chains of NUTS on a normal, as arviz has them from Pyro."""
    pyro.set_rng_seed(0)
    runs = []
    for _ in range(2):
        mcmc = MCMC(
            NUTS(lambda: pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))),
            100,
            50,
            disable_progbar=True,
        )
        mcmc.run()
        runs.append(az.from_pyro(mcmc, log_likelihood=False))
    return az.concat(*runs, dim="chain", reset_dim=True)


def test_nuts_with_planted_divergences_and_an_unmixed_chain(nuts):
    sound = verdict(nuts)
    assert (sound.divergences, sound.num_draws, sound.num_k_hats) == (0, 200, 0)
    planted = nuts.copy()
    planted.sample_stats["diverging"][1, 3:10] = True
    planted.posterior["z"][1, :, 0] += 5.0
    result = verdict(planted)
    assert result.divergences == 7
    assert "7 of 200 transitions diverged" in result.reasons
    assert result.worst_r_hat > 1.5
    (other,) = set(result.reasons) - {"7 of 200 transitions diverged"}
    assert f"the worst {result.worst_r_hat:.3f} in 'z'" in other
