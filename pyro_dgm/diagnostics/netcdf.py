"""InferenceData on the disk."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_dgm.atomic import replacing
from pyro_dgm.errors import ResourceError

if TYPE_CHECKING:
    from arviz import InferenceData


def write_inferencedata(idata: InferenceData, path: Path) -> None:
    """Writes compressed netCDF, whole or not at all; ``arviz.from_netcdf`` reads it.

    What netCDF cannot hold is changed on the way: attributes that are None are left out, true and false become 1 and
    0, other objects their text; a ``/`` in a name, which would be a folder in the file, becomes a dot.

    Args:
        idata: any InferenceData.
        path: the file; its folder must exist.

    Raises:
        ResourceError: the file cannot be written; an old one of that name is then as it was.

    Example:
        >>> import tempfile, arviz
        >>> idata = arviz.from_dict({"z": np.zeros((1, 10))}, attrs={"note": None})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_inferencedata(idata, Path(folder) / "posterior.nc")
        ...     arviz.from_netcdf(Path(folder) / "posterior.nc").posterior.sizes["draw"]
        10
    """
    import xarray

    path = Path(path)
    # In memory first: the HDF5 library ends the whole process (a segmentation fault) where the disk is full.
    content = io.BytesIO()
    xarray.Dataset(attrs=_plain(idata.attrs)).to_netcdf(content, mode="w", engine="h5netcdf")
    for group, dataset in idata.items():
        names = {name: str(name).replace("/", ".") for name in (*dataset.variables, *dataset.dims)}
        dataset = dataset.rename({old: new for old, new in names.items() if old != new})
        dataset.attrs = _plain(dataset.attrs)
        encoding = {}
        for name, variable in dataset.variables.items():
            variable.attrs = _plain(variable.attrs)
            if variable.ndim and variable.dtype.kind in "biufc":
                encoding[name] = {"zlib": True}
        dataset.to_netcdf(content, mode="a", engine="h5netcdf", group=group, encoding=encoding)
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content.getbuffer())
    except OSError as error:
        raise ResourceError(
            "cannot write", where=str(path), value=error.strerror, expected="a folder with room for it"
        ) from error


def _plain(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): _plain_value(value) for name, value in attributes.items() if value is not None}


def _plain_value(value: Any) -> Any:
    kind = np.asarray(value).dtype.kind
    if kind == "b":
        return np.asarray(value, dtype=np.int8)
    return value if kind in "iufUS" else str(value)
