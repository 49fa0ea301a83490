"""All diagnostics together: what is left out and why, and the words that go with the numbers."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from pyro_dgm.diagnostics.advice import advise
from pyro_dgm.diagnostics.examination import Examination, examine
from pyro_dgm.diagnostics.examination_report import report_examination
from pyro_dgm.diagnostics.examination_sections import examination_sections
from pyro_dgm.diagnostics.nuts import NutsReference
from pyro_dgm.models import PPCA

FEW = {"num_samples": 200, "num_gap": 30, "num_replications": 400, "num_nuts": 0}


@pytest.fixture
def ppca():
    torch.manual_seed(0)
    return PPCA(4, 2)


def guide_of(ppca, *, scale=1.0, shift=0.0):
    """The exact posterior, made too narrow or moved by some of its standard deviations."""

    def guide(x):
        exact = ppca.exact_posterior(x)
        deviation = exact.variance.sqrt()
        with pyro.plate("data", len(x)):
            pyro.sample(
                "z",
                dist.MultivariateNormal(exact.mean + shift * deviation, scale_tril=scale * exact.scale_tril),
            )

    return guide


def test_nothing_is_held_against_the_exact_posterior(ppca):
    x = ppca.model(n=100).detach()
    found = examine(ppca.model, ppca.guide, x, train=(ppca.model(n=40).detach(),), **FEW)
    assert set(found.gaps) == {"test", "train"} and not found.left_out
    advice = advise(found)
    assert advice.doubtful == () and advice.next_steps == ()
    text = " ".join(advice.trustworthy)
    for what in ("of 100 of 100 data: k-hat", "own draws", "ranks of 400", "stand-in", "in use"):
        assert what in text


def test_too_narrow_a_guide_is_called_so(ppca):
    x = ppca.model(n=100).detach()
    advice = advise(examine(ppca.model, guide_of(ppca, scale=0.5), x, **FEW))
    doubts = " ".join(advice.doubtful)
    assert "too narrow" in doubts and "The ELBO as a stand-in for log p(x)" in doubts
    assert any("too narrow" in step for step in advice.next_steps)
    assert any(
        "A better encoder" in step for step in advice.next_steps
    )  # the family holds the exact posterior


def test_weights_are_advised_where_they_repair(ppca):
    x = ppca.model(n=50).detach()
    found = examine(ppca.model, guide_of(ppca, shift=0.5), x, **{**FEW, "num_samples": 1000})
    assert found.importance.reweighted_reliable.mean() > 0.8 and not found.importance.usable_as_is.any()
    assert any("Use importance weights" in step for step in advise(found).next_steps)


def test_a_collapsed_site_is_named_with_its_cure():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(0.0 * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0 * x, 1.0))

    found = examine(model, guide, torch.randn(60), **{**FEW, "num_replications": 0})
    advice = advise(found)
    assert any("'z' has collapsed" in line for line in advice.doubtful)
    assert any("KL annealing" in step for step in advice.next_steps)


def test_an_autoguide_has_no_calibration_and_one_gap():
    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    guide, x = AutoNormal(model), torch.randn(20)
    guide(x)
    found = examine(model, guide, x, **FEW)
    assert found.calibration is None and "does not look at the data" in found.left_out["calibration"]
    assert found.gaps["test"].joint and found.importance.k_hat.shape == ()
    advice = advise(found)
    assert any("calibration" in line for line in advice.limits)
    assert any("of the whole data set" in line for line in advice.trustworthy + advice.doubtful)


def test_a_model_without_latents_has_log_p_alone():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    x = torch.randn(30)
    found = examine(model, lambda x: None, x, **FEW)
    np.testing.assert_allclose(found.importance.log_p, dist.Normal(0.0, 1.0).log_prob(x), rtol=1e-5)
    assert not found.has_latents and set(found.left_out) == {"gap, test", "collapse", "calibration", "nuts"}
    advice = advise(found)
    assert advice.trustworthy == (
        "log p(x): it is exact, since the model has no latent variables and so no posterior to judge.",
    )
    assert advice.doubtful == advice.next_steps == advice.limits == ()


def test_parts_that_were_not_asked_for_are_no_limits(ppca):
    found = examine(ppca.model, ppca.guide, ppca.model(n=30).detach(), **{**FEW, "num_replications": 0})
    assert found.calibration is None and found.nuts is None and not found.left_out
    assert not any("Not done" in line for line in advise(found).limits)


def test_the_report_has_a_section_for_each_part(ppca, tmp_path):
    x = ppca.model(n=60).detach()
    found = examine(ppca.model, guide_of(ppca, scale=0.8), x, **FEW)
    titles = [section.title for section in examination_sections(found, tmp_path)]
    assert titles == [
        "Importance weights",
        "Inference gap",
        "Calibration on simulated data",
        "Latents in use",
        "How long it took",
    ]
    report_examination(found, tmp_path / "report.html", title="A guide")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert (
        ">A guide</h1>" in text and text.count("data:image/png;base64,") == 3
    )  # a full covariance has no units
    assert all(math.isfinite(seconds) for seconds in found.seconds.values())


def chains(r_hat, mean_error, ess=1000.0, divergences=0):
    """Three data of one unit, and a second that does not move."""
    zeros = np.zeros((3, 1))
    draws = np.stack([np.random.default_rng(0).normal(size=(8, 3)), np.zeros((8, 3))], -1)
    return NutsReference(
        idata=None,
        units=("z", "constant"),
        mean_error=np.hstack([np.array(mean_error)[:, None], zeros * np.nan]),
        mean_error_standard_error=zeros,
        scale_ratio=np.hstack([zeros + 1, zeros * np.nan]),
        sliced_wasserstein=zeros[:, 0],
        sliced_wasserstein_floor=zeros[:, 0],
        r_hat=np.hstack([np.array(r_hat)[:, None], zeros * np.nan]),
        ess=np.hstack([zeros + ess, zeros * np.nan]),
        divergences=divergences,
        guide_draws=draws,
        nuts_draws=draws,
        reliable=max(r_hat) <= 1.01 and not divergences,
        reasons=("a reason",),
    )


def said_of(nuts):
    nothing = {"gaps": {}, "calibration": None, "collapse": None, "left_out": {}, "seconds": {}}
    advice = advise(Examination(importance=None, nuts=nuts, **nothing))
    return *advice.trustworthy, *advice.doubtful, *(line for line in advice.limits if "Markov" in line)


def test_the_guide_is_judged_by_the_chains_that_have_mixed():
    """An error at a datum whose chains have not mixed is not held against the guide, and the others are judged."""
    (first, second) = said_of(chains([1.0, 1.04, 1.06], [0.1, -0.1, 0.9]))
    assert "at 2 of 3 data, means are at most 0.10" in first
    assert second.startswith("The guide is not judged by Markov chains at 1 of 3 data, which need more steps")
    (doubt,) = said_of(chains([1.0, 1.04, 1.05], [0.1, -0.9, 0.1]))
    assert "at 3 of 3 data, means are at most 0.90" in doubt
    for none in (
        chains([1.1, 1.2, 1.3], [0, 0, 0]),
        chains([1, 1, 1], [0, 0, 0], ess=100),
        chains([1, 1, 1], [0, 0, 0], divergences=1),
    ):
        (line,) = said_of(none)
        assert line == "The guide is not judged by Markov chains, which need more steps: a reason."


def test_the_section_on_chains_says_what_the_advice_says(tmp_path):
    """At how many data the guide is judged; a constant unit has no numbers and hides none."""
    found = chains([1.0, 1.04, 1.06], [0.1, -0.1, 0.9])
    nothing = {"gaps": {}, "calibration": None, "collapse": None, "left_out": {}, "seconds": {}}
    section, _ = examination_sections(Examination(importance=None, nuts=found, **nothing), tmp_path)
    assert "fit to judge the guide by at 2 of 3 data. As a posterior of their own: a reason." in section.text
    assert [row[1] for row in section.tables[0].rows] == ["0.10", "0.10", "0.90"]
    assert [row[6] for row in section.tables[0].rows] == ["1.000", "1.040", "1.060"]
    found = chains([1.1, math.nan, 1.2], [0, 0, 0])  # what is not known of a unit that moves is not hidden
    section, _ = examination_sections(Examination(importance=None, nuts=found, **nothing), tmp_path)
    assert "They judge nothing. As a posterior" in section.text
    assert [row[6] for row in section.tables[0].rows] == ["1.100", "nan", "1.200"]


def test_chains_are_in_the_report(ppca, tmp_path):
    x = ppca.model(n=30).detach()
    found = examine(ppca.model, ppca.guide, x, **{**FEW, "num_nuts": 2, "num_replications": 0})
    assert found.nuts.mean_error.shape == (2, 2)
    sections = {section.title: section for section in examination_sections(found, tmp_path)}
    assert len(sections["Against Markov chains"].tables[0].rows) == 2
    advice = advise(found)
    said = advice.trustworthy + advice.doubtful + advice.limits
    assert any("Markov chains" in line for line in said)


def test_nothing_at_all_can_be_said():
    empty = Examination(None, {}, None, None, None, {"importance": "no weights"}, {})
    advice = advise(empty)
    assert not advice.trustworthy and not advice.doubtful
    assert "Not done: importance, since no weights." in advice.limits
