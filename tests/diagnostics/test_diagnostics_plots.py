"""What plots and traversals show: the numbers they were given, told apart without colour; laws of traversals."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyro_dgm.diagnostics import figures, latent_pictures, pictures, plots, traversals, unit_plots
from pyro_dgm.diagnostics.latent_pictures import traversal_grid
from pyro_dgm.diagnostics.pictures import worst_explained
from pyro_dgm.diagnostics.plots import GapRow, calibration_plot, gap_bars, k_hat_plot
from pyro_dgm.diagnostics.traversals import latent_traversals
from pyro_dgm.diagnostics.unit_plots import Marginal, nuts_comparison_plot, unit_activity_plot
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models import PPCA


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draws a plot into a file and gives the figure back, to be looked into."""
    kept = []

    def keep(figure, path):
        figures.save_figure(figure, path)
        kept.append(figure)

    for module in (plots, unit_plots, pictures, latent_pictures):
        monkeypatch.setattr(module, "save_figure", keep)

    def draw(plot, *args, **options):
        path = tmp_path / "plot.png"
        # traversal_grid takes the path by name, after any number of fields.
        plot(*args, **options, path=path) if plot is traversal_grid else plot(*args, path, **options)
        assert imread(path).std() > 0.01
        return kept[-1]

    return draw


def legend_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


# ---- k-hats


def test_every_k_hat_is_shown_once_and_counted(drawn):
    values = np.array([0.9, 0.1, np.nan, -np.inf, 0.7, 0.71, 0.3])
    figure = drawn(k_hat_plot, values, 0.7)
    assert legend_of(figure)[:4] == [
        "up to the threshold: 3 of 7",
        "minus infinity, equal weights: 1 of 7",
        "above the threshold: 2 of 7",
        "not estimated: 1 of 7",
    ]
    shown = np.concatenate([cloud.get_offsets() for cloud in figure.axes[0].collections])
    assert sorted(shown[:, 0]) == list(range(1, 8))
    low, high = figure.axes[0].get_ylim()
    by_place = shown[shown[:, 0].argsort(), 1]
    assert np.allclose(by_place, [low, 0.1, 0.3, 0.7, 0.71, 0.9, high])


@pytest.mark.parametrize("values", [[np.nan], [-np.inf] * 3, [0.5], np.full(2000, 5.0), np.zeros((2, 3))])
def test_k_hats_of_any_kind_have_a_plot(drawn, values):
    drawn(k_hat_plot, np.array(values), 0.7)


# ---- gaps


def test_bars_are_stacked_where_the_numbers_say(drawn):
    rows = [GapRow("a", 1.0, 0.1, 2.0, 0.2), ("b", 0.5, 0.1, -0.25, math.nan), ("c", -0.5, 0.0, -1.0, 0.0)]
    axes = drawn(gap_bars, rows).axes[0]
    bars = [[(bar.get_x(), bar.get_width()) for bar in container] for container in axes.containers[::2]]
    assert bars == [[(0.0, 1.0), (0.0, 0.5), (0.0, -0.5)], [(1.0, 2.0), (0.0, -0.25), (-0.5, -1.0)]]
    segments = [
        np.array(container.lines[2][0].get_segments())[:, :, 0] for container in axes.containers[1::2]
    ]
    assert np.allclose(segments[0], [[0.9, 1.1], [0.4, 0.6], [-0.5, -0.5]])
    assert np.allclose(segments[1], [[2.8, 3.2], [-0.25, -0.25], [-1.5, -1.5]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert [text.get_text() for text in axes.texts] == ["3.00", "0.25", "-1.50"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first row is the upper one


# ---- calibration


def test_the_units_that_leave_the_envelope_are_named_the_worst_first(drawn):
    x = np.linspace(0, 1, 21)
    band = 0.1 * np.sin(np.pi * x) + 0.01
    curves = np.array([size * np.sin(np.pi * x) for size in (0.05, -0.2, 0.0, 0.15, 0.3, -0.4)])
    figure = drawn(calibration_plot, x, curves, -band, band, labels=list("abcdef"))
    assert "4 of 6 units leave" in figure.axes[0].get_title()
    assert legend_of(figure)[1:] == ["other units (3)", "f (outside)", "e (outside)", "b (outside)"]
    figure = drawn(calibration_plot, x, curves[2], -band, band)
    assert "0 of 1 units" in figure.axes[0].get_title() and legend_of(figure)[1:] == ["unit 0 (inside)"]
    assert "0 of 2" in drawn(calibration_plot, x, np.stack([band, -band]), -band, band).axes[0].get_title()


# ---- units


def test_units_come_in_the_order_of_their_divergence(drawn):
    figure = drawn(unit_activity_plot, np.array([0.1, 3.0, 1.0]), np.array([0.0, 0.9, 0.5]))
    top, bottom = figure.axes
    heights = {
        round(bar.get_x() + 0.4): bar.get_height() for container in top.containers for bar in container
    }
    assert heights == {0: 3.0, 1: 1.0, 2: 0.1}
    assert [label.get_text() for label in bottom.get_xticklabels()] == ["1", "2", "0"]
    assert legend_of(figure) == ["active: 2 of 3", "inactive: 1 of 3", "threshold 0.01"]
    assert "nats" in top.get_ylabel()


def test_each_marginal_has_a_panel(drawn):
    generator = np.random.default_rng(0)
    draws = generator.normal(size=(5, 500))
    figure = drawn(nuts_comparison_plot, [Marginal(f"z[{i}]", row, row + 1) for i, row in enumerate(draws)])
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert titles == [f"z[{i}]" for i in range(5)] and legend_of(figure) == ["guide", "NUTS"]
    drawn(nuts_comparison_plot, [("constant", np.ones(10), np.ones(20))])


# ---- images


def test_the_worst_images_come_first_with_their_numbers(drawn):
    images = torch.arange(5.0)[:, None, None, None].expand(5, 1, 4, 4) / 5
    scores = torch.tensor([-1.0, -50.0, math.nan, -2.0, -math.inf])
    figure = drawn(worst_explained, images, scores, num=4, columns=3)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == [
        "datum 2\nnan nats",
        "datum 4\n-inf nats",
        "datum 1\n-50.0 nats",
        "datum 3\n-2.0 nats",
    ]
    assert [round(float(axes.images[0].get_array().max()), 3) for axes in panels] == [0.4, 0.8, 0.2, 0.6]


# ---- traversals


def ppca(seed=0, data_dim=6, latent_dim=3, n=400):
    torch.manual_seed(seed)
    program = PPCA(data_dim, latent_dim).double()
    with torch.no_grad():
        program.loadings.normal_().mul_(torch.tensor([2.0, 0.2, 1.0][:latent_dim], dtype=torch.float64))
        program.mean.normal_()
    return program, program.model(n=n).detach()


def exact(program, x, found, datum):
    """Means that the closed form gives, with the standard deviations left open."""
    posterior = program.exact_posterior(x).mean.detach()
    weights, mean = program.loadings.detach(), program.mean.detach()
    units = [int(name[2:-1]) for name in found.units]
    return (
        posterior.var(0)[units].numpy(),
        (posterior[datum] @ weights.T + mean).numpy(),
        weights.T[units].numpy(),
    )


def law_of_traversals(program, x, traverse, datum=7, steps=9):
    """Lines through the reconstruction, along the columns of W, of the most active units first, of their spreads."""
    found = traverse(program.model, program.guide, x, datum=datum, num_steps=steps)
    activity, center, directions = exact(program, x, found, datum)
    assert np.allclose(found.activity, activity) and (np.diff(found.activity) <= 0).all()
    assert np.allclose(found.offsets, np.linspace(-2.5, 2.5, steps)) and found.observed == "x"
    assert np.allclose(found.means[:, steps // 2], center)
    slopes = (found.means[:, -1] - found.means[:, 0]) / 5.0  # s_u times the column
    spreads = (slopes * directions).sum(1) / (directions**2).sum(1)
    lines = center + found.offsets[:, None] * spreads[:, None, None] * directions[:, None, :]
    assert np.allclose(found.means, lines)
    # Data from the model and the exact posterior: draws are N(0, 1), s has a standard error of 1 / sqrt(2 N).
    assert (abs(spreads - 1.0) < 4.9 / math.sqrt(2 * len(x))).all()


def test_traversals_of_ppca_are_the_exact_lines():
    """False alarm 1e-6 for the spreads of the draws; all else is exact."""
    program, x = ppca()
    law_of_traversals(program, x, latent_traversals)
    law_of_traversals(program, x[:400], lambda *args, **o: latent_traversals(*args, **o, width=2.5), steps=5)


def posterior_spread(model, guide, x, **options):
    """Moves in standard deviations of the posterior, which say nothing of how far a unit goes over the data."""
    found = latent_traversals(model, guide, x, **options)
    sd = model.__self__.exact_posterior(x).stddev[0].detach()[[int(name[2:-1]) for name in found.units]]
    center = found.means[:, found.means.shape[1] // 2][:, None]
    means = center + (found.means - center) * sd.numpy()[:, None, None]
    return traversals.Traversals(means, found.units, found.offsets, found.activity, found.observed)


def replaced(**changes):
    def traverse(*args, **options):
        found = latent_traversals(*args, **options)
        kept = {name: getattr(found, name) for name in ("means", "units", "offsets", "activity", "observed")}
        return traversals.Traversals(**kept | {name: change(kept[name]) for name, change in changes.items()})

    return traverse


MUTANTS = {
    "another datum": lambda *args, datum, **o: latent_traversals(*args, datum=datum + 1, **o),
    "sd of the posterior": posterior_spread,
    "the least active first": replaced(
        means=lambda m: m[::-1], units=lambda u: u[::-1], activity=lambda a: a[::-1]
    ),
    "units mixed up": replaced(means=lambda m: m[[1, 0, 2]]),
    "the other way": replaced(means=lambda m: m[:, ::-1]),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_of_the_traversals_is_caught(name):
    program, x = ppca()
    with pytest.raises(AssertionError):
        law_of_traversals(program, x, MUTANTS[name])


@pytest.mark.parametrize(
    ("attribute", "mutant"),
    [
        ("_latent_mean", lambda fn: None),
        ("_rows", lambda value, site, plate: value.expand(site["fn"].shape()).T),
    ],
)
def test_a_mutant_of_a_part_of_the_traversals_is_caught(attribute, mutant, monkeypatch):
    program, x = ppca()
    monkeypatch.setattr(traversals, attribute, mutant)
    with pytest.raises((AssertionError, IndexError, RuntimeError)):
        law_of_traversals(program, x, latent_traversals)


def test_few_data_take_several_passes():
    """One row at a time would not be seen to follow; two rows give the same numbers as many."""
    program, x = ppca(n=400)
    torch.manual_seed(0)
    found = latent_traversals(program.model, program.guide, x[:2], datum=1, num_steps=5)
    _, center, directions = exact(program, x[:2], found, 1)
    assert np.allclose(found.means[:, 2], center)
    moved = found.means - center
    assert np.allclose(
        np.cross(moved[..., :3], np.broadcast_to(directions[:, None, :3], moved[..., :3].shape)), 0
    )


class Ladder(nn.Module):
    """z2 -> z1 -> x, and a label that the model is told."""

    def model(self, x, y):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(3.0 * z2, 0.1).to_event(1))
            pyro.sample("x", dist.Normal(z1 + 100.0 * y[:, None], 1.0).to_event(1), obs=x)

    def guide(self, x, y):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x / 3, 0.01).to_event(1))
            pyro.sample("z1", dist.Normal(3 * z2 + 0.5, 0.01).to_event(1))


def test_latents_below_the_moved_one_follow_and_labels_stay():
    ladder, x, y = Ladder(), torch.randn(50, 2), torch.arange(50.0)
    found = latent_traversals(ladder.model, ladder.guide, x, y, datum=7, num_steps=3)
    means = dict(zip(found.units, found.means, strict=True))
    center = x[7].numpy() + 0.5 + 700.0
    # z1 moves alone: what it is made of stays, around its own posterior mean.
    assert np.allclose(means["z1[0]"][1], center, atol=1e-3)
    assert np.allclose(means["z1[0]"][:, 1], center[1], atol=1e-3)
    # z2 moves: z1 goes along, at three times z2.
    slope = (means["z2[1]"][2] - means["z2[1]"][0]) / (means["z1[1]"][2] - means["z1[1]"][0]).max()
    assert abs(slope[0]) < 1e-3 and abs(slope[1] - 1.0) < 0.05
    assert np.allclose(means["z2[1]"][1], x[7].numpy() + 700.0, atol=1e-3)


def test_a_plate_of_a_fixed_size_a_global_latent_a_category_and_an_autoguide():
    def model(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", 20):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[:, None] + w, 1.0).to_event(1), obs=x)

    x = torch.randn(20, 2)
    found = latent_traversals(model, AutoNormal(model), x, num_steps=3)
    assert found.units == ("z[0]",) and found.means.shape == (1, 3, 2)

    def with_category(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + k, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(torch.full(x.shape, 0.5)))
            pyro.sample("z", dist.Normal(x, 1.0))

    assert latent_traversals(with_category, guide, torch.randn(9)).units == ("z[0]",)


def test_traversals_leave_the_random_state_and_take_a_seed():
    program, x = ppca()
    before = torch.get_rng_state()
    first = latent_traversals(program.model, program.guide, x)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(first.means, latent_traversals(program.model, program.guide, x).means)


def test_the_grid_holds_each_image_where_its_labels_say(drawn):
    program, x = ppca(data_dim=4, latent_dim=2)
    figure = drawn(traversal_grid, program.model, program.guide, x, image_shape=(2, 2), num_steps=5)
    axes = figure.axes[0]
    found = latent_traversals(program.model, program.guide, x, num_steps=5)
    sheet = axes.images[0].get_array()
    assert [label.get_text() for label in axes.get_yticklabels()] == list(found.units)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["-2.5", "-1.2", "0", "+1.2", "+2.5"]
    for row, y in enumerate(axes.get_yticks()):
        for column, at in enumerate(axes.get_xticks()):
            cell = sheet[int(y) : int(y) + 2, int(at) : int(at) + 2, 0]
            wanted = np.clip(found.means[row, column].reshape(2, 2), 0, 1)
            assert np.allclose(cell, wanted, atol=1e-6), (row, column)


# ---- all of them


def test_what_differs_by_colour_differs_otherwise_too(drawn):
    generator = np.random.default_rng(1)
    axes = drawn(k_hat_plot, np.array([0.1, 0.9, np.nan, -np.inf]), 0.7).axes[0]
    markers = [cloud.get_paths()[0].vertices.tobytes() for cloud in axes.collections]
    assert len(set(markers)) == 4
    assert len({line.get_linestyle() for line in axes.lines}) == len(axes.lines)
    axes = drawn(gap_bars, [GapRow("a", 1.0, 0.1, 2.0, 0.2)]).axes[0]
    assert len({container[0].get_hatch() for container in axes.containers[::2]}) == 2
    x = np.linspace(0, 1, 5)
    axes = drawn(calibration_plot, x, generator.normal(size=(3, 5)), x * 0 - 1e-3, x * 0 + 1e-3).axes[0]
    thick = [line for line in axes.lines if line.get_linewidth() > 1.5]
    assert len({line.get_linestyle() for line in thick}) == 3
    luminance = [
        0.2126 * r + 0.7152 * g + 0.0722 * b
        for r, g, b in map(to_rgb, (figures.BLUE, figures.AMBER, figures.SKY, figures.BLACK))
    ]
    assert abs(luminance[0] - luminance[1]) > 0.2 and luminance[2] - luminance[3] > 0.4


def no_latents(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


BAD = {
    "no k-hats": lambda path: k_hat_plot(np.array([]), 0.7, path),
    "no rows": lambda path: gap_bars([], path),
    "a gap of NaN": lambda path: gap_bars([GapRow("a", math.nan, 0, 0, 0)], path),
    "no curves": lambda path: calibration_plot(np.zeros(0), np.zeros((1, 0)), np.zeros(0), np.zeros(0), path),
    "curves of another length": lambda path: calibration_plot(
        np.zeros(3), np.zeros((2, 4)), np.zeros(3), np.zeros(3), path
    ),
    "labels missing": lambda path: calibration_plot(
        np.zeros(3), np.zeros((2, 3)), np.zeros(3), np.zeros(3), path, labels=["a"]
    ),
    "no units": lambda path: unit_activity_plot(np.zeros(0), np.zeros(0), path),
    "two lengths": lambda path: unit_activity_plot(np.zeros(2), np.zeros(3), path),
    "an infinite KL": lambda path: unit_activity_plot(np.array([np.inf]), np.zeros(1), path),
    "no marginals": lambda path: nuts_comparison_plot([], path),
    "NaN draws": lambda path: nuts_comparison_plot([Marginal("z", np.array([np.nan]), np.ones(1))], path),
    "other scores": lambda path: worst_explained(torch.zeros(3, 4, 4), torch.zeros(2), path),
    "no images": lambda path: worst_explained(torch.zeros(3, 4), torch.zeros(3), path),
    "flat data": lambda path: traversal_grid(ppca()[0].model, ppca()[0].guide, ppca()[1], path=path),
    "no such datum": lambda path: latent_traversals(ppca()[0].model, ppca()[0].guide, ppca()[1], datum=400),
    "no such site": lambda path: latent_traversals(ppca()[0].model, ppca()[0].guide, ppca()[1], observed="y"),
    "one datum": lambda path: latent_traversals(ppca()[0].model, ppca()[0].guide, ppca()[1][:1]),
    "no steps": lambda path: latent_traversals(ppca()[0].model, ppca()[0].guide, ppca()[1], num_steps=1),
    "no latents": lambda path: latent_traversals(no_latents, lambda x: None, torch.zeros(3)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_and_nothing_is_left(name, tmp_path):
    with pytest.raises(InvalidInput) as caught:
        BAD[name](tmp_path / "x.png")
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []
