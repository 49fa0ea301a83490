"""Experiments: a config made into objects and trained into a run directory, and the run read back."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyro_dgm.experiment.commands import diagnose, evaluate, load, sample
    from pyro_dgm.experiment.comparison import compare
    from pyro_dgm.experiment.repetition import repeat
    from pyro_dgm.experiment.report import ReportOptions
    from pyro_dgm.experiment.training import train

__all__ = ["ReportOptions", "compare", "diagnose", "evaluate", "load", "repeat", "sample", "train"]

# Where the names live. They are imported when first used: the command line reads the keys of a config, and answers
# --help, without waiting for torch.
_HOMES = {"ReportOptions": "report", "compare": "comparison", "repeat": "repetition", "train": "training"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'commands')}"), name)
