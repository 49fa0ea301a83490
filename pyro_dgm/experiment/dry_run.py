"""A config looked at without training it: the program, its sites, the data and the length of the run."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch
import yaml
from jsonargparse import Namespace
from pyro import poutine
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from pyro_dgm.data import Dataset
from pyro_dgm.experiment.config import Config
from pyro_dgm.experiment.prepare import prepared
from pyro_dgm.training.batches import Batches
from pyro_dgm.training.random_state import forked

_FEW = 4  # data in the trace
_WIDTH = 110


@dataclass(frozen=True)
class ModuleRow:
    """A module that owns parameters: its dotted name, class, and the shape of each parameter."""

    name: str
    type: str
    shapes: dict[str, tuple[int, ...]]
    parameters: int


@dataclass(frozen=True)
class SiteRow:
    """A site of the trace: its kind, distribution, shapes, and plates with their sizes."""

    program: str
    name: str
    kind: str
    distribution: str
    batch_shape: tuple[int, ...]
    event_shape: tuple[int, ...]
    plates: dict[str, int]


@dataclass(frozen=True)
class DataRow:
    """The data set, and how long the training would be."""

    name: str
    train: int
    val: int
    test: int
    data_shape: tuple[int, ...]
    fields: tuple[str, ...]
    batch_size: int
    batches_per_epoch: int
    steps: int


@dataclass(frozen=True)
class DryRun:
    """What a config stands for.

    Args:
        config: every value filled in, as ``config.yaml`` of a run.
        modules: those of the program and the objective that own parameters.
        trainable: number of weights that are trained.
        total: number of weights.
        sites: of the model and the guide, in their order, on a batch of a few data.
        data: the data and the length of the run.
    """

    config: Config
    modules: tuple[ModuleRow, ...]
    trainable: int
    total: int
    sites: tuple[SiteRow, ...]
    data: DataRow

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data that JSON can hold: a number that is not finite is its name."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    def yaml(self) -> str:
        """The resolved config as YAML."""
        return yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True)

    def text(self) -> str:
        """Tables of the program, the sites and the data, below the resolved config."""
        console = Console(file=io.StringIO(), width=_WIDTH, highlight=False, color_system=None)
        console.print(Text(self.yaml()))
        console.print(_table("program", ("module", "class", "shapes", "parameters"), self._module_cells()))
        columns = ("in", "site", "kind", "distribution", "batch", "event", "plates")
        console.print(_table(f"sites, on a batch of {_FEW} at most", columns, map(_site_cells, self.sites)))
        console.print(_table("data and training", ("", ""), self._data_cells()))
        return console.file.getvalue()  # type: ignore[attr-defined]

    def _module_cells(self) -> Iterator[tuple[str, ...]]:
        for row in self.modules:
            shapes = ", ".join(f"{name} {_shape(shape)}" for name, shape in row.shapes.items())
            yield row.name, row.type, shapes, f"{row.parameters:,}"
        yield "total", "", "", f"{self.total:,}"
        yield "trained", "", "", f"{self.trainable:,}"

    def _data_cells(self) -> list[tuple[str, str]]:
        data = self.data
        return [
            ("data set", data.name),
            ("train, val, test", f"{data.train:,}, {data.val:,}, {data.test:,}"),
            ("shape of a datum", _shape(data.data_shape)),
            ("fields of a batch", ", ".join(data.fields)),
            ("batch size", f"{data.batch_size:,}"),
            ("batches per epoch", f"{data.batches_per_epoch:,}"),
            ("steps", f"{data.steps:,}"),
            ("epochs", f"{math.ceil(data.steps / data.batches_per_epoch):,}"),
        ]


def dry_run(config_path: str | Path, *, changes: Iterable[tuple[str, str]] = ()) -> DryRun:
    """Everything that comes before training, and a report of what would be trained; nothing is written.

    The state of the random number generators is left as it was.

    Args:
        config_path: a YAML file.
        changes: dotted keys of the config and their new values as YAML.

    Raises:
        Fault: whatever ``train`` would refuse before its first step.
    """
    with forked(torch.device("cpu")), prepared(config_path, changes=changes) as ready:
        objects = ready.objects
        parts = {"program": objects.program, "objective": objects.objective}
        modules = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
        weights = {id(weight): weight for part in modules.values() for weight in part.parameters()}
        return DryRun(
            config=ready.resolved,
            modules=tuple(row for name, part in modules.items() for row in _module_rows(name, part)),
            trainable=sum(weight.numel() for weight in weights.values() if weight.requires_grad),
            total=sum(weight.numel() for weight in weights.values()),
            sites=tuple(_site_rows(objects.program, objects.data)),
            data=_data_row(objects.data, objects.training),
        )


def _module_rows(root: str, module: nn.Module) -> Iterator[ModuleRow]:
    seen: set[int] = set()
    for name, part in module.named_modules(prefix=root):
        own: dict[str, Tensor] = dict(part.named_parameters(recurse=False))
        if own:
            fresh = [weight for weight in own.values() if id(weight) not in seen]  # shared ones count once
            seen |= {id(weight) for weight in own.values()}
            shapes = {key: tuple(weight.shape) for key, weight in own.items()}
            yield ModuleRow(name, type(part).__name__, shapes, sum(weight.numel() for weight in fresh))


@torch.no_grad()
def _site_rows(program: Any, data: Dataset) -> Iterator[SiteRow]:
    batch = data.train.batch(torch.arange(min(_FEW, len(data.train))))
    guide_trace = poutine.trace(program.guide).get_trace(*batch)
    model_trace = poutine.trace(poutine.replay(program.model, trace=guide_trace)).get_trace(*batch)
    for where, trace in (("model", model_trace), ("guide", guide_trace)):
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or "fn" not in site or type(site["fn"]).__name__ == "_Subsample":
                continue
            yield SiteRow(
                program=where,
                name=name,
                kind=_kind(site, where),
                distribution=_distribution(site["fn"]),
                batch_shape=tuple(site["fn"].batch_shape),
                event_shape=tuple(site["fn"].event_shape),
                plates={frame.name: frame.size for frame in site["cond_indep_stack"] if frame.vectorized},
            )


def _kind(site: dict[str, Any], where: str) -> str:
    if site["is_observed"]:
        return "observed"
    return "auxiliary" if where == "guide" and site["infer"].get("is_auxiliary") else "latent"


def _distribution(fn: Any) -> str:
    match fn:
        case torch.distributions.Independent():
            return f"{_distribution(fn.base_dist)}.to_event({fn.reinterpreted_batch_ndims})"
        case dist.MaskedDistribution():
            return f"{_distribution(fn.base_dist)}.mask()"
        case dist.ExpandedDistribution():
            return _distribution(fn.base_dist)
    return type(fn).__name__


def _data_row(data: Dataset, training: Namespace) -> DataRow:
    batches = Batches(data.train, batch_size=training.batch_size, seed=0)
    lengths = (training.steps, training.epochs and training.epochs * len(batches))
    return DataRow(
        name=data.name,
        train=len(data.train),
        val=len(data.val),
        test=len(data.test),
        data_shape=data.data_shape,
        fields=data.train.fields,
        batch_size=batches.batch_size,
        batches_per_epoch=len(batches),
        steps=min(length for length in lengths if length is not None),
    )


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {key: _plain(part) for key, part in value.items()}
        case list() | tuple():
            return [_plain(part) for part in value]
        case float() if not math.isfinite(value):
            return str(value)
    return value


def _site_cells(site: SiteRow) -> tuple[str, ...]:
    plates = ", ".join(f"{name}: {size}" for name, size in site.plates.items())
    shapes = _shape(site.batch_shape), _shape(site.event_shape)
    return (site.program, site.name, site.kind, site.distribution, *shapes, plates)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "()"


def _table(title: str, columns: tuple[str, ...], cells: Iterable[tuple[str, ...]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=Text(title), title_justify="left", show_header=any(columns))
    for column in columns:
        table.add_column(column, justify="right" if column == "parameters" else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    return table
