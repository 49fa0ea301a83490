"""Laws of what belongs to what in the comparison with the No-U-Turn sampler, each with the mutants that it must catch.

A law is a function without arguments of what stands in ``nuts`` while it runs; a mutant is that module with a part
replaced. ``LAWS`` lists each law with its mutants. The draws of the chains and of the guide, and where the chains
diverged, are random and known, so that everything is exact.
"""

import numpy as np
import pytest
import torch

from pyro_dgm.diagnostics import nuts as module
from pyro_dgm.diagnostics.psis import import_arviz
from pyro_dgm.diagnostics.ranking import Units
from tests.laws.known_chains import EXCHANGED, between, changed, compared, local, planted, whole
from tests.laws.listed import as_tests_in_place

CHAINS, DRAWS, DATA = 3, 40, 4


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)  # tests/conftest.py sets it back


def known(seed, shapes):
    """Draws with a mean and a scale of each unit's own, for chains and guide, and where they diverged."""
    torch.manual_seed(seed)
    chains, guide = {}, {}
    for name, shape in shapes.items():
        for found, size in ((chains, (CHAINS, DRAWS)), (guide, (CHAINS * DRAWS,))):
            found[name] = torch.randn(shape) + 2 * torch.rand(shape) * torch.randn(*size, *shape)
    return chains, guide, (torch.rand(CHAINS, DRAWS) < 0.3).numpy()


# ---- the mutants


def run_as(*, chains=lambda values: values, diverging=lambda places: places, true=module.run_chains):
    def mutant(*args):
        found, places = true(*args)
        return {name: chains(values) for name, values in found.items()}, diverging(places)

    return planted(run_chains=mutant)


def rows_as(change):
    class Otherwise(Units):
        def rows(self, values):
            return change(super().rows(values))

    return planted(Units=Otherwise)


class OtherNames(Units):
    @property
    def names(self):
        return super().names[::-1]


def exchanged_dims(units, name, site, values, true=module._named):
    array, dims = true(units, name, site, values)
    return (array.swapaxes(2, 3), dims[::-1]) if len(dims) == 2 else (array, dims)


# ---- the laws


def same_numbers(found, chains, guide):
    """Every number is that of its own unit, from draws (chains, draws, data, units) and (draws, data, units)."""
    arviz = import_arviz()
    flat = chains.reshape(-1, *chains.shape[2:])
    np.testing.assert_array_equal(found.nuts_draws, flat)
    np.testing.assert_array_equal(found.guide_draws, guide)
    scale = flat.std(0, ddof=1)
    np.testing.assert_allclose(found.mean_error, (guide.mean(0) - flat.mean(0)) / scale, atol=1e-12)
    np.testing.assert_allclose(found.scale_ratio, guide.std(0, ddof=1) / scale, rtol=1e-12)
    for place in np.ndindex(scale.shape):
        own = chains[(..., *place)]
        assert found.ess[place] == pytest.approx(arviz.ess(own, method="bulk"), rel=1e-12)
        assert found.r_hat[place] == pytest.approx(arviz.rhat(own), rel=1e-12)


def law_local_latents_are_rows_of_their_data():
    """Units by site and index, data in their rows; one trajectory diverges for all its chains."""
    for seed in range(2):
        chains, guide, diverging = known(seed, {"z": (DATA, 2), "w": (DATA,)})
        found = compared(local, chains, guide, diverging)
        assert found.units == ("z[0]", "z[1]", "w")
        by_unit = [torch.cat([one["z"], one["w"].unsqueeze(-1)], dim=-1).numpy() for one in (chains, guide)]
        same_numbers(found, *by_unit)
        for name, dims in (("z", ("data", "z_dim_0")), ("w", ("data",))):
            assert found.idata.posterior[name].dims == ("chain", "draw", *dims)
            np.testing.assert_array_equal(found.idata.posterior[name], chains[name])
        places = found.idata.sample_stats["diverging"]
        np.testing.assert_array_equal(places, np.tile(diverging[0], (CHAINS, 1)))
        assert found.divergences == CHAINS * diverging[0].sum() > 0
        assert not found.reliable
        assert any("transitions diverged" in reason for reason in found.reasons)


def law_other_latents_are_one_row():
    """All latents in one row, those of the plate datum by datum; each chain diverges where it does."""
    for seed in range(2):
        chains, guide, diverging = known(seed, {"w": (), "z": (DATA, 2)})
        found = compared(whole, chains, guide, diverging)
        indices = [f"z[{datum},{unit}]" for datum in range(DATA) for unit in range(2)]
        assert found.units == ("w", *indices)
        by_unit = [
            torch.cat([one["w"].unsqueeze(-1), one["z"].flatten(-2)], dim=-1).unsqueeze(-2).numpy()
            for one in (chains, guide)
        ]
        same_numbers(found, *by_unit)
        assert found.idata.posterior["w"].dims == ("chain", "draw")
        assert found.idata.posterior["z"].dims == ("chain", "draw", "data", "z_dim_0")
        np.testing.assert_array_equal(found.idata.posterior["z"], chains["z"])
        np.testing.assert_array_equal(found.idata.sample_stats["diverging"], diverging)
        assert found.divergences == diverging.sum()


MUTANTS_OF_BOTH = {
    "units in another order": rows_as(lambda rows: rows.flip(2)),
    "names in another order": planted(Units=OtherNames),
    "dimensions exchanged": planted(_named=exchanged_dims),
    "chains mixed": run_as(chains=lambda values: values.transpose(0, 1).reshape(values.shape)),
    "ESS of one chain": between(lambda *args: (*args[:4], 1)),
    "guide and chains exchanged": EXCHANGED,
    "mean error of the other sign": changed(mean_error=lambda found: -found.mean_error),
    "scale ratio inverted": changed(scale_ratio=lambda found: 1 / found.scale_ratio),
    "divergences a step late": run_as(diverging=lambda places: np.roll(places, 1, axis=1)),
    "all but the divergences": run_as(diverging=np.logical_not),
    "steps for transitions": changed(
        divergences=lambda found: int(found.idata.sample_stats["diverging"].any("chain").sum())
    ),
}
LAWS = [
    (
        law_local_latents_are_rows_of_their_data,
        MUTANTS_OF_BOTH
        | {
            "another datum": rows_as(lambda rows: rows.roll(1, 1)),
            "units for data": rows_as(lambda rows: rows.transpose(1, 2).reshape(rows.shape)),
            "divergences of the first chain alone": run_as(
                diverging=lambda places: places & (np.arange(CHAINS) == 0)[:, None]
            ),
        },
    ),
    (
        law_other_latents_are_one_row,
        MUTANTS_OF_BOTH
        | {
            "divergences of another chain": run_as(diverging=lambda places: np.roll(places, 1, axis=0)),
            "divergences of all chains": run_as(diverging=lambda places: places | places.any(0)),
        },
    ),
]
test_law_holds, test_law_catches_mutant = as_tests_in_place(LAWS)
