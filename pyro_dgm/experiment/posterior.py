"""The posterior of a run: draws from its guide on test data, kept as ``posterior.nc``, and what they say."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_dgm.diagnostics import Reliability, reliability, to_inferencedata, write_inferencedata
from pyro_dgm.diagnostics.psis import import_arviz
from pyro_dgm.errors import Fault, IncompatibleModel, InvalidInput
from pyro_dgm.evaluation.ledger import Ledger
from pyro_dgm.experiment.run import POSTERIOR, Run
from pyro_dgm.objectives.enumerated import complete_guide
from pyro_dgm.objectives.inspection import inspect_pair
from pyro_dgm.program import Program
from pyro_dgm.training.options import check_counts
from pyro_dgm.training.random_state import forked

if TYPE_CHECKING:
    from arviz import InferenceData

NUM_SAMPLES, NUM_DATA = 200, 100

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Diagnosis:
    """Draws from the guide of a run, and whether they can be trusted.

    Args:
        path: the file that holds them.
        idata: the draws.
        reliability: the verdict.
    """

    path: Path
    idata: InferenceData
    reliability: Reliability

    def marked(self, ledger: Ledger) -> Ledger:
        """Ledger that holds the verdict.

        Args:
            ledger: of the same run.
        """
        reasons = list(self.reliability.reasons)
        return dataclasses.replace(ledger, reliable=self.reliability.reliable, reasons=reasons)

    def as_dict(self) -> dict[str, Any]:
        """The verdict, the spread of k-hat and effective sample size over the data, and the first variables."""
        stats = self.idata["sample_stats"]
        return {
            "posterior": str(self.path),
            **dataclasses.asdict(self.reliability),
            "k_hat": spread(stats["k_hat"].values),
            "ess": spread(stats["ess"].values),
            "variables": summarize(self.idata),
        }


def draw_posterior(run: Run, *, num_samples: int = NUM_SAMPLES, num_data: int = NUM_DATA) -> Diagnosis:
    """Draws from the guide on the first test data, and writes them.

    Without latent variables there is nothing to draw: the file has log p(x) and no predictions, which can take minutes
    where x is drawn element by element. Random numbers are drawn from the seed of the training, so that the draws
    repeat.

    Args:
        run: a run with its data.
        num_samples: draws per datum.
        num_data: number of test data; fewer if there are fewer.

    Raises:
        InvalidInput: fewer than two draws, no data, or a pair without weights.
        IncompatibleModel: the model is implicit or unnormalised.
    """
    program, data = run.program, run.data
    assert data is not None  # of callers here, not of users
    check_counts(num_samples=num_samples, num_data=num_data)
    if num_samples < 2:
        raise InvalidInput("one draw, which has no spread", where="num_samples", expected="at least 2")
    with forked(run.device, seed=run.config["training"]["seed"]):
        batch = run.batch(data.test[:num_data])
        idata = to_inferencedata(
            program.model,
            program.guide,
            *batch,
            num_samples=num_samples,
            predicts=_has_latents(program, batch),
        )
    path = run.folder / POSTERIOR
    write_inferencedata(idata, path)
    return Diagnosis(path, idata, reliability(idata))


def posterior_if_any(run: Run) -> Diagnosis | None:
    """The posterior that a run has, or else :func:`draw_posterior`; None for a model without latents or densities.

    Args:
        run: a run with its data.
    """
    path = run.folder / POSTERIOR
    try:
        if (idata := _read(path)) is not None:
            return Diagnosis(path, idata, reliability(idata))
        assert run.data is not None  # of callers here, not of users
        if not _has_latents(run.program, run.batch(run.data.test[:2])):
            logger.info("no %s: the model has no latent variables", POSTERIOR)
            return None
        return draw_posterior(run)
    except IncompatibleModel as fault:
        logger.info("no %s: %s", POSTERIOR, fault)
    except Fault as fault:  # the training is done; its numbers are not lost for this
        warnings.warn(f"no {POSTERIOR}: {fault}", stacklevel=2)
    return None


def _read(path: Path) -> InferenceData | None:
    if not path.is_file():
        return None
    try:
        return import_arviz().from_netcdf(str(path))
    except (OSError, ValueError) as error:  # what the library says of a file that is cut off
        warnings.warn(f"{path} cannot be read and is drawn anew: {error}", stacklevel=2)
        return None


def _has_latents(program: Program, batch: tuple[Any, ...]) -> bool:
    return inspect_pair(program.model, complete_guide(program.model, program.guide, batch), batch).has_latents


def summarize(idata: InferenceData, *, rows: int = 3, most: int = 20) -> list[dict[str, Any]]:
    """arviz's summary of the first elements of each latent variable, each followed by the means over all elements.

    Args:
        idata: of :func:`draw_posterior`.
        rows: elements of a variable.
        most: number of variables.

    Returns:
        Rows with ``name``, ``mean``, ``sd`` and the ends of the 94% highest density interval; of the means over all
        elements only the first three and ``elements``.
    """
    found: list[dict[str, Any]] = []
    if "posterior" not in idata:
        return found
    for name, array in list(idata["posterior"].items())[:most]:
        draws = array.values  # (chain, draw, ...)
        places = itertools.islice(np.ndindex(draws.shape[2:]), rows)
        first = {_label(str(name), place): draws[(..., *place)] for place in places}
        table = import_arviz().summary(first, kind="stats", round_to="none")
        found += [{"name": label, **values} for label, values in table.to_dict("index").items()]
        flat = draws.reshape(draws.shape[0] * draws.shape[1], -1)
        means = {
            "mean": float(flat.mean()),
            "sd": float(flat.std(0, ddof=1).mean()) if len(flat) > 1 else None,
        }
        found.append({"name": f"{name}, mean of all", "elements": flat.shape[1], **means})
    return found


def _label(name: str, place: tuple[int, ...]) -> str:
    return f"{name}[{', '.join(map(str, place))}]" if place else name


def spread(values: Any) -> dict[str, float | None]:
    """Least, median and largest of some numbers; None for one that is not finite.

    Example:
        >>> import numpy as np
        >>> spread(np.array([3.0, 1.0, -np.inf]))
        {'least': None, 'median': 1.0, 'largest': 3.0}
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if not known.size:
        return dict.fromkeys(("least", "median", "largest"))
    found = {"least": known.min(), "median": np.median(known), "largest": known.max()}
    return {name: float(number) if math.isfinite(number) else None for name, number in found.items()}
