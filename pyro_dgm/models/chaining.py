"""Pieces of a program that must fit one another: the first that does not is named when the program is made."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import chain
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.program import Program
from pyro_dgm.shapes import positive_sizes


def layer_sizes(
    data_shape: Sequence[int], latent_dims: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Both as tuples.

    Raises:
        InvalidInput: no layers, or a size below one.
    """
    for where, sizes in (("data_shape", data_shape), ("latent_dims", latent_dims)):
        if not len(sizes):
            raise InvalidInput("no dimensions", where=where, value="()", expected="one integer or more")
    return positive_sizes(data_shape, "data_shape"), positive_sizes(latent_dims, "latent_dims")


def require_lengths(pieces: Mapping[str, tuple[Sequence[Any] | None, int]]) -> None:
    """Raises where a list of pieces has not one entry for each layer.

    Args:
        pieces: list (None for the default) and number that there should be, by argument.

    Raises:
        InvalidInput: a list of another length.
    """
    for where, (given, number) in pieces.items():
        if given is not None and len(given) != number:
            cure = "one entry for each layer of latent_dims, from the data up"
            raise InvalidInput(
                "wrong number of entries", where=where, value=len(given), expected=str(number), cure=cure
            )


def require_chain(
    program: Program, kind: type[Program], sites: Mapping[str, tuple[int, ...]], *rest: Tensor
) -> None:
    """Runs guide and model of a copy once, on two data of zeros, and names the first piece that does not fit.

    Pieces are the submodules and the entries of lists of them. Random numbers and buffers of the program itself stay
    as they are. Networks may want whole numbers. What cannot be copied (the older ``weight_norm`` of torch) is not
    tried, nor is an object of a subclass, whose constructor may not be at its end.

    Args:
        program: what was put together.
        kind: the class whose constructor calls this.
        sites: event shapes of ``x`` and of the latents, by name.
        rest: the other fields of a batch of two.

    Raises:
        InvalidInput: a piece that fails, or gives a distribution of another event shape.
    """
    if type(program) is not kind:
        return
    try:
        trial = copy.deepcopy(program).eval()
    except RuntimeError:
        return
    tensors = [t for t in chain(trial.parameters(), trial.buffers()) if t.is_floating_point()]
    # Pieces may come in several precisions: the program is converted as a whole only after it is made.
    dtype = reduce(torch.promote_types, (t.dtype for t in tensors), torch.get_default_dtype())
    device = tensors[0].device if tensors else torch.device("cpu")
    trial.to(dtype)
    watch = _Watch(trial, sites)
    devices = [device] if device.type == "cuda" else []
    faults = []
    for kind_of_number in (dtype, torch.int64):
        x = torch.zeros((2, *sites["x"]), dtype=kind_of_number, device=device)
        others = (field.to(device, dtype if field.is_floating_point() else field.dtype) for field in rest)
        batch = (x, *others)
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=devices), poutine.block(), watch:
                latents = poutine.trace(trial.guide).get_trace(*batch)
                poutine.replay(trial.model, trace=latents)(*batch)
            return
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            faults.append((watch.fault(error), error))
    fault, cause = faults[0]
    raise fault from cause


class _Watch(Messenger):
    """Checks event shapes of sites, and knows which piece ran last."""

    def __init__(self, program: Program, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.shapes, self.owner, self.piece = shapes, type(program).__name__, "the program"
        self.misfit: InvalidInput | None = None
        for name, module in program.named_children():
            entries = module.named_children() if isinstance(module, nn.ModuleList) else [("", module)]
            for index, entry in entries:
                entry.register_forward_pre_hook(self._entered(f"{name}[{index}]" if index else name))

    def _entered(self, piece: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            self.piece = piece

        return hook

    def _pyro_sample(self, message: Any) -> None:
        site, expected = message["name"], self.shapes.get(message["name"])
        found = getattr(message["fn"], "event_shape", None)
        if expected is not None and found != expected:
            self.misfit = InvalidInput(
                f"wrong event shape of {site}",
                where=f"{self.piece} of {self.owner}",
                value=found and tuple(found),
                expected=str(expected),
                cure=f"a piece whose call returns a distribution with event shape {expected}",
            )
            raise self.misfit

    def fault(self, error: Exception) -> InvalidInput:
        """What to say of an error on the way."""
        text = str(error).partition("Trace Shapes:")[0].strip().split("\n")[0]  # which Pyro adds
        cure = "sizes that fit the pieces beside it"
        if not isinstance(error, InvalidInput):  # pieces of ours say more
            cure += ", and to_event(1) for distributions of vectors"
        where = f"{self.piece} of {self.owner}"
        return self.misfit or InvalidInput("pieces that do not fit", where=where, value=text, cure=cure)
