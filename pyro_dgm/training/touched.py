"""What a run of a model and guide touches beside its arguments: parameters in Pyro's store, modules, their buffers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pyro_dgm.training.random_state import forked


class Touched:
    """Parameters and modules that runs have touched.

    Args:
        modules: some to watch from the start, as owners of buffers that nothing but a plain function writes.

    Attributes:
        modules: those that were called, or of which something was used.
        written: their buffers that a run changed.
        before: what was in the buffers before the last run.
        draws_elsewhere: whether a run drew from NumPy's or Python's global generator.

    Example:
        >>> import torch
        >>> touched, layer = Touched(), torch.nn.Linear(2, 1)
        >>> with touched.watched():
        ...     y = layer(torch.ones(2))
        >>> touched.is_replaced()
        False
        >>> layer.weight = torch.nn.Parameter(torch.ones(1, 2))
        >>> touched.is_replaced()
        True
    """

    def __init__(self, modules: Iterable[nn.Module] = ()) -> None:
        self.modules: list[nn.Module] = list(modules)
        self.written: list[Tensor] = []
        self.before: dict[Tensor, Tensor] = {}
        self.draws_elsewhere = False
        self._stored: dict[str, Tensor] = {}  # unconstrained
        self._tensors: list[Tensor] = []
        self._places: list[tuple[dict[str, Any], str, Any]] = []  # of the modules' tensors

    @contextmanager
    def watched(self, *, undone: bool = True) -> Iterator[None]:
        """Block in which runs are watched.

        Args:
            undone: leaves random state and buffers as they were.
        """
        seen: dict[int, nn.Module] = {}
        buffers = self.before = {}
        get: Callable[..., Any] = nn.Module.__getattr__

        def note(module: nn.Module, args: Any = None) -> None:
            if id(module) not in seen:
                seen[id(module)] = module
                for buffer in vars(module).get("_buffers", {}).values():
                    if buffer is not None:
                        buffers.setdefault(buffer, buffer.clone())

        def noted(module: nn.Module, name: str) -> Any:
            note(module)
            return get(module, name)

        for module in self.modules:
            note(module)
        hook = register_module_forward_pre_hook(note)
        try:
            with (
                mock.patch.object(nn.Module, "__getattr__", noted),
                poutine.trace(param_only=True) as capture,
                forked(_device([*self._stored.values()])) if undone else nullcontext(),
            ):
                noise = _elsewhere()
                yield
                self.draws_elsewhere |= noise != _elsewhere()
        finally:
            hook.remove()
            written = [buffer for buffer, value in buffers.items() if not torch.equal(buffer, value)]
            if undone:
                put_back(buffers)
        self.written = list(dict.fromkeys([*self.written, *written]))
        self.modules = list({id(module): module for module in (*self.modules, *seen.values())}.values())
        self._places = [
            (place, name, value)
            for module in self.modules
            for place in (module._parameters, module._buffers)
            for name, value in place.items()
        ]
        self._stored.update(stored(capture))
        tensors = (*[value for _, _, value in self._places if value is not None], *self._stored.values())
        self._tensors = list(dict.fromkeys(tensors))

    def is_replaced(self) -> bool:
        """Whether another tensor stands now where a run found a parameter or a buffer."""
        if any(place.get(name) is not value for place, name, value in self._places):
            return True
        store = pyro.get_param_store()._params
        return any(store.get(name) is not value for name, value in self._stored.items())

    def flags(self) -> list[bool]:
        """Which modules are in training, and which tensors are trained."""
        return [module.training for module in self.modules] + [
            tensor.requires_grad for tensor in self._tensors
        ]

    def restore(self) -> None:
        """Undoes replacements in Pyro's store."""
        pyro.get_param_store()._params.update(self._stored)

    @contextmanager
    def unchanged(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Block that leaves random state and buffers as they were.

        Args:
            tensors: some on the device where noise is drawn.
        """
        buffers = {buffer: buffer.clone() for buffer in self.written}
        with forked(_device(tensors)):
            try:
                yield
            finally:
                put_back(buffers)


def stored(capture: Any) -> dict[str, Tensor]:
    """Unconstrained values of the parameters in Pyro's store that a run touched, by name.

    Args:
        capture: from ``poutine.trace(param_only=True)``.
    """
    sites: list[dict[str, Any]] = list(capture.trace.nodes.values())
    return {site["name"]: site["value"].unconstrained() for site in sites}


def _device(tensors: Sequence[Tensor]) -> torch.device:
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def _elsewhere() -> tuple[Any, ...]:
    """State of the generators that are not torch's."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  # the global one, which a model may use
    return kind, np.asarray(keys).tobytes(), *rest, random.getstate()


def put_back(buffers: dict[Tensor, Tensor]) -> None:
    """Writes values into buffers.

    Args:
        buffers: to values.
    """
    with torch.no_grad():
        for buffer, value in buffers.items():
            buffer.copy_(value)
