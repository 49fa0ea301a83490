"""Deep generative models as probabilistic programs, on Pyro."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyro_dgm import (
        data,
        diagnostics,
        distributions,
        errors,
        evaluation,
        models,
        nets,
        objectives,
        training,
    )
    from pyro_dgm.experiment import load
    from pyro_dgm.objectives import log_weights
    from pyro_dgm.program import Pair, Program
    from pyro_dgm.training import CompiledSVI, fit

__version__ = "0.1.0"
__all__ = [
    "CompiledSVI",
    "Pair",
    "Program",
    "data",
    "diagnostics",
    "distributions",
    "errors",
    "evaluation",
    "fit",
    "load",
    "log_weights",
    "models",
    "nets",
    "objectives",
    "training",
]

# Where the names that are no modules live. All are imported when first used: the command line answers --help, and
# sets what must be set before torch starts its threads, without waiting for torch.
_HOMES = {
    "CompiledSVI": "pyro_dgm.training",
    "Pair": "pyro_dgm.program",
    "Program": "pyro_dgm.program",
    "fit": "pyro_dgm.training",
    "load": "pyro_dgm.experiment",
    "log_weights": "pyro_dgm.objectives",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'pyro_dgm' has no attribute {name!r}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    return importlib.import_module(f"pyro_dgm.{name}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
