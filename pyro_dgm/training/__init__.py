"""Training: ``fit``, and the parts that it is made of."""

from pyro_dgm.objectives.nonfinite import locate_nonfinite
from pyro_dgm.training.averaging import WeightAverage
from pyro_dgm.training.callbacks import Callback, TensorBoard, TrainingState
from pyro_dgm.training.checkpoint import find_checkpoint, load_checkpoint, load_weights, save_checkpoint
from pyro_dgm.training.compiled_svi import CompiledSVI
from pyro_dgm.training.fitting import fit
from pyro_dgm.training.metrics import History
from pyro_dgm.training.steps import Players, Step
from pyro_dgm.training.watchdog import CollapseWatchdog

__all__ = [
    "Callback",
    "CollapseWatchdog",
    "CompiledSVI",
    "History",
    "Players",
    "Step",
    "TensorBoard",
    "TrainingState",
    "WeightAverage",
    "find_checkpoint",
    "fit",
    "load_checkpoint",
    "load_weights",
    "locate_nonfinite",
    "save_checkpoint",
]
