"""Leave-one-out where it is right and refused where it is wrong, and the comparison of models by log p(x)."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_dgm.diagnostics.inference_data import to_inferencedata
from pyro_dgm.diagnostics.model_comparison import compare_log_p, loo
from pyro_dgm.diagnostics.psis import import_arviz
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models import PPCA

az = import_arviz()


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)  # tests/conftest.py sets it back
    pyro.set_rng_seed(0)


def mean_model(x):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(w, 1.0), obs=x)


def mean_guide(x):
    pyro.sample("w", dist.Normal(x.sum() / (len(x) + 1), (len(x) + 1) ** -0.5))  # exact


def test_global_latents_have_the_exact_leave_one_out():
    """Closed form: x_i given the others is N(sum of others / n, 1 + 1 / n). 0.02 nats: 4,000 independent draws."""
    x = torch.randn(30) + 0.5
    idata = to_inferencedata(mean_model, mean_guide, x, num_samples=4000)
    others = (x.sum() - x) / len(x)
    exact = dist.Normal(others, (1 + 1 / len(x)) ** 0.5).log_prob(x).numpy()
    found = loo(idata)
    np.testing.assert_allclose(found.loo_i, exact, atol=0.02)
    assert (found.pareto_k < 0.7).all()


@pytest.mark.filterwarnings("ignore")
def test_what_arviz_builds_on_it():
    import matplotlib.pyplot as plt

    x = torch.randn(30)
    idata = to_inferencedata(mean_model, mean_guide, x, num_samples=500)
    table = az.compare({"right": idata, "same": idata})
    assert len(table) == 2
    az.plot_khat(az.loo(idata, pointwise=True))
    az.plot_loo_pit(idata, y="x")
    plt.close("all")


def test_local_latents_are_refused_with_the_reason():
    ppca = PPCA(3, 1)
    idata = to_inferencedata(ppca.model, ppca.guide, torch.randn(5, 3))
    with pytest.raises(InvalidInput, match="each latent belongs to one datum.*compare log_p"):
        loo(idata)


@pytest.mark.filterwarnings("ignore:Estimated shape parameter")
def test_why_they_are_refused():
    """Under the exact posterior of local latents, importance sampling is far off the exact log p(x_i)."""
    torch.manual_seed(0)
    ppca = PPCA(20, 5)
    with torch.no_grad():
        ppca.log_scale.fill_(-1.0)
    x = ppca.model(n=20).detach()
    idata = to_inferencedata(ppca.model, ppca.guide, x, num_samples=1000)
    idata.add_groups(
        log_likelihood={"x": idata.sample_stats["log_likelihood_x"].values}, warn_on_custom_groups=False
    )
    wrong = az.loo(idata, pointwise=True)
    assert (wrong.pareto_k > 0.7).mean() > 0.8
    assert (wrong.loo_i.values - idata.sample_stats["log_p"].values).mean() > 2


def test_comparison_of_log_p():
    ppca, other = PPCA(4, 2), PPCA(4, 2)
    x = ppca.model(n=200).detach()
    runs = {"other": other, "true": ppca}
    table = compare_log_p({k: to_inferencedata(m.model, m.guide, x, num_samples=30) for k, m in runs.items()})
    assert list(table.index) == ["true", "other"] and list(table["rank"]) == [0, 1]
    a, b = ppca.log_prob(x).detach(), other.log_prob(x).detach()
    assert table.loc["true", "log_p"] == pytest.approx(a.mean().item())
    assert table.loc["other", "difference"] == pytest.approx((b - a).mean().item())
    assert table.loc["other", "difference_se"] == pytest.approx(((b - a).std() / 200**0.5).item())
    assert table.loc["true", "difference_se"] == 0 and table["unreliable"].sum() == 0


def test_one_datum_has_no_standard_error():
    ppca = PPCA(3, 1)
    idata = to_inferencedata(ppca.model, ppca.guide, torch.randn(1, 3))
    assert math.isnan(compare_log_p({"a": idata, "b": idata}).loc["a", "se"])


def test_what_cannot_be_compared():
    ppca, x = PPCA(3, 1), torch.randn(5, 3)
    one = to_inferencedata(ppca.model, ppca.guide, x)
    with pytest.raises(InvalidInput, match="nothing to compare"):
        compare_log_p({"one": one})
    with pytest.raises(InvalidInput, match="other data in 'b' and 'a'"):
        compare_log_p({"a": one, "b": to_inferencedata(ppca.model, ppca.guide, x + 1)})
    whole = to_inferencedata(mean_model, mean_guide, torch.randn(5))
    with pytest.raises(InvalidInput, match=r"no log p\(x\) of each datum in 'whole'.*arviz\.compare"):
        compare_log_p({"whole": whole, "one": one})
