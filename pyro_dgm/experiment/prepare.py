"""What comes before training: a config read, overridden, checked, built and rehearsed, with nothing written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyro
import torch
from jsonargparse import Namespace

from pyro_dgm.errors import InvalidInput
from pyro_dgm.evaluation.ledger import versions
from pyro_dgm.experiment.build import build
from pyro_dgm.experiment.class_names import check_config, dotted_names
from pyro_dgm.experiment.config import Config, config_hash, normalize, override, read_config
from pyro_dgm.experiment.estimate import FUNCTIONS
from pyro_dgm.experiment.memory import bounded, require_room
from pyro_dgm.experiment.rehearsal import rehearse
from pyro_dgm.experiment.run import batch_facts, data_hash
from pyro_dgm.experiment.user_files import importable, used_files
from pyro_dgm.training.options import check_counts, check_seed, check_training


@dataclass(frozen=True)
class Prepared:
    """A config that is ready to be trained.

    Args:
        path: the YAML file.
        config: what it says, overridden: what the objects were made of.
        resolved: the same with every value filled in and the facts of the run, as ``config.yaml`` of a run.
        objects: program, objective, data, optimizer, scheduler, and the arguments of training and evaluation.
    """

    path: Path
    config: Config
    resolved: Config
    objects: Namespace


@contextmanager
def prepared(config_path: str | Path, *, changes: Iterable[tuple[str, str]] = ()) -> Iterator[Prepared]:
    """Block in which a config is made into objects that have taken one rehearsed step; writes nothing.

    Random numbers go on from the seed of the training.

    Args:
        config_path: a YAML file; its folder is on the import path within the block.
        changes: dotted keys of the config and their new values as YAML.

    Raises:
        Fault: see ``pyro_dgm/errors.py``; InvalidInput with the key of the config that is at fault.
    """
    path = Path(config_path)
    config = read_config(path)
    config.pop("run", None)  # the config of another run
    config = override(config, changes)
    with importable(path.parent, dotted_names(config)):
        check_config(normalize(config))
        seed = (config.get("training") or {}).get("seed", 0)
        with section("training"):
            check_seed(seed)
        pyro.set_rng_seed(seed)  # the program draws its first weights when it is built
        with bounded():
            objects, resolved = build(config, FUNCTIONS)
            require_room(objects.program)
        with section("training"):
            check_training(**objects.training.as_dict())
        with section("evaluation"):
            check_counts(**{name: objects.evaluation[name] for name in ("num_particles", "num_data")})
        rehearse(objects, config)
        resolved["run"] = {
            "name": path.stem,
            "sha256": config_hash(config),
            "batch": batch_facts(objects.data.train.batch(torch.arange(1))),
            "data_sha256": data_hash(objects.data),
            "files": used_files(path.parent),
            "versions": versions(),
        }
        yield Prepared(path, config, resolved, objects)


@contextmanager
def section(name: str) -> Iterator[None]:
    """Block in which an error about an argument of a function names its key in the config.

    Args:
        name: the section that holds the arguments.
    """
    try:
        yield
    except InvalidInput as fault:
        if not fault.where.isidentifier():
            raise
        where = f"{name}.{fault.where}"
        raise InvalidInput(
            fault.what, where=where, value=fault.value, expected=fault.expected, cure=fault.cure
        ) from fault
