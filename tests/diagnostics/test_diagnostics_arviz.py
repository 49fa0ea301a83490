"""arviz takes our InferenceData: its summary, its plots and its file format."""

import errno
import math
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

from pyro_dgm.diagnostics import to_inferencedata, write_inferencedata
from pyro_dgm.diagnostics.psis import import_arviz
from pyro_dgm.errors import ResourceError
from pyro_dgm.models import VAE

az = import_arviz()


def global_model(x):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(w + k, 1.0), obs=x)


def global_guide(x):
    pyro.sample("w", dist.Normal(0.2, 0.6))
    with pyro.plate("data", len(x)):
        pyro.sample("k", dist.Bernoulli(0.6))


@pytest.fixture(scope="module", params=["images", "global and discrete"])
def idata(request):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    if request.param == "images":
        vae = VAE(data_shape=(1, 3, 3), latent_dim=2, hidden=(8,))
        return to_inferencedata(vae.model, vae.guide, torch.rand(4, 1, 3, 3).round())
    return to_inferencedata(global_model, global_guide, torch.randn(4))


PLOTS = [
    "autocorr",
    "bpv",
    "density",
    "ess",
    "forest",
    "mcse",
    "pair",
    "posterior",
    "ppc",
    "rank",
    "trace",
    "violin",
]


@pytest.mark.parametrize("plot", PLOTS)
# arviz 0.23 lags behind matplotlib's latest spelling of aliases, and one chain has no degrees of freedom
@pytest.mark.filterwarnings("ignore")
def test_plots(idata, plot):
    data = idata.isel(data=slice(0, 2))
    options = {"num_pp_samples": 20} if plot == "ppc" else {}
    assert np.size(getattr(az, f"plot_{plot}")(data, **options)) > 0
    plt.close("all")


@pytest.mark.filterwarnings("ignore")
def test_summary(idata):
    table = az.summary(idata)
    assert len(table) == sum(variable[0, 0].size for variable in idata.posterior.values())
    assert np.isfinite(table[["mean", "sd", "ess_bulk"]]).all(axis=None)
    if idata.attrs.get("no_loo"):
        with pytest.raises(TypeError, match="log likelihood not found"):
            az.loo(idata)
    else:
        assert math.isfinite(az.loo(idata).elpd_loo)


def test_netcdf_round_trip(idata, tmp_path):
    before = idata.copy()
    idata.attrs["nothing"], idata.posterior.attrs["sure"] = None, True
    write_inferencedata(idata, tmp_path / "posterior.nc")
    assert idata.attrs["nothing"] is None and idata.posterior.attrs.pop("sure") is True
    del idata.attrs["nothing"]
    read = az.from_netcdf(tmp_path / "posterior.nc")
    assert read.groups() == idata.groups()
    assert read.posterior.attrs.pop("sure") == 1
    for group in idata.groups():
        xr.testing.assert_identical(read[group], idata[group])
        xr.testing.assert_identical(before[group], idata[group])
        assert {name: v.dtype for name, v in read[group].items()} == {
            name: v.dtype for name, v in idata[group].items()
        }
    assert read.attrs == idata.attrs
    assert [file.name for file in tmp_path.iterdir()] == ["posterior.nc"]


def test_the_file_is_compressed(tmp_path):
    write_inferencedata(az.from_dict({"z": np.zeros((1, 1000, 100))}), tmp_path / "posterior.nc")
    assert (tmp_path / "posterior.nc").stat().st_size < 800_000 / 10


def test_values_that_netcdf_cannot_hold_as_they_are(tmp_path):
    posterior = {
        "layer/w": np.random.default_rng(0).standard_normal((1, 5, 2)),
        "flag": np.ones((1, 5), dtype=bool),
    }
    attrs = {"none": None, "yes": True, "pair": [True, False], "dict": {"a": 1}, "n": 3, "text": "t"}
    written = az.from_dict(posterior, dims={"layer/w": ["in/put"]}, attrs=attrs)
    written.posterior["flag"].attrs |= {"none": None, "no": False}
    write_inferencedata(written, tmp_path / "odd.nc")
    read = az.from_netcdf(tmp_path / "odd.nc")
    np.testing.assert_array_equal(read.posterior["layer.w"], posterior["layer/w"])
    assert read.posterior["layer.w"].dims == ("chain", "draw", "in.put")
    assert read.posterior["flag"].dtype == bool
    assert read.posterior["flag"].attrs["no"] == 0
    assert read.attrs["yes"] == 1 and list(read.attrs["pair"]) == [1, 0]
    assert (read.attrs["dict"], read.attrs["n"], read.attrs["text"]) == ("{'a': 1}", 3, "t")
    assert "none" not in read.attrs


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "posterior.nc"
    file.write_bytes(b"old")

    def full(self, content):
        with open(self, "wb") as handle:
            handle.write(content[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceError, match=r"cannot write in .*posterior.nc: No space left on device"):
        write_inferencedata(az.from_dict({"z": np.zeros((1, 10))}), file)
    assert file.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["posterior.nc"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ResourceError, match="No such file or directory"):
        write_inferencedata(az.from_dict({"z": np.zeros((1, 10))}), tmp_path / "none" / "posterior.nc")
