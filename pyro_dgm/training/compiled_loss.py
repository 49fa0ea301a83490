"""Loss and gradients of any model/guide pair as a compiled graph."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils import _pytree as pytree

from pyro_dgm.training.lowering import NotCompiled, lower
from pyro_dgm.training.random_state import forked
from pyro_dgm.training.tracing import Untraceable, loss_and_norm, trace

_MOST_GRAPHS = 8  # what changes more often than this is no constant of a graph
_COMPARED = (1, 2, 10, 100)  # calls of a graph beside which the plain loss is run, as at each thousandth


@dataclass(frozen=True)
class Evaluation:
    """A loss and its gradients.

    Args:
        numbers: see :func:`loss_and_norm`.
        gradients: of each parameter; None for one that the loss does not depend on.
    """

    numbers: Tensor
    gradients: list[Tensor | None]


@dataclass
class _Graph:
    """Compiled function for one combination of shapes and constants, with the tensors that it takes from outside."""

    function: Callable[..., Sequence[Tensor]]
    captured: Sequence[Tensor]
    has_gradient: Sequence[bool]
    calls: int = 0


class CompiledLoss:
    """A loss with its gradients, run through Pyro's handlers once and from then on as a compiled graph.

    There is one graph for each combination of the tensors' shapes and types, of plain values among the arguments
    (floats are inputs of the graph instead), of training flags and of which parameters are trained. The same seed
    draws the same noise as in a plain run. Some calls are compared with plain ones, since a number that the model
    takes from elsewhere is frozen in the graph.

    What cannot be compiled is run plainly, after one warning that names the line.

    Args:
        run: gives a scalar loss, or runs ``backward`` itself.
        parameters: what to differentiate with respect to; without them, those that a run touches in Pyro's store.
        gradients: False for the loss alone.
        after: number of plain calls before one is compiled.
        modules: owners of buffers that it writes, beside the modules that are called.

    Example:
        >>> import torch
        >>> w = torch.ones(2, requires_grad=True)
        >>> loss = CompiledLoss(lambda x: (w * x).square().sum(), [w])
        >>> loss(torch.tensor([1.0, 2.0])).gradients
        [tensor([2., 8.])]
    """

    def __init__(
        self,
        run: Callable[..., Any],
        parameters: Sequence[Tensor] | None = None,
        *,
        gradients: bool = True,
        after: int = 0,
        modules: Sequence[nn.Module] = (),
    ) -> None:
        self.run = run
        self.parameters: list[Tensor] = list(parameters or ())
        self.is_plain = False
        self._finds_parameters = parameters is None
        self._gradients = gradients
        self._waits = after
        self._graphs: dict[Any, _Graph] = {}
        self._modules: list[nn.Module] = list(modules)
        self._places: list[tuple[dict[str, Any], str]] = []  # of the modules' tensors
        self._tensors: list[int] = []  # which ones were there

    def __call__(self, *args: Any, **kwargs: Any) -> Evaluation:
        if self.is_plain or self._waits > 0:
            self._waits -= 1
            return self._plain(args, kwargs)
        if [id(place.get(name)) for place, name in self._places] != self._tensors:
            self._graphs.clear()  # a parameter or a buffer was replaced by another tensor
        structure: Any
        if kwargs or any(type(argument) is not Tensor for argument in args):
            leaves, structure = pytree.tree_flatten((args, kwargs))
        else:  # the same, quicker
            leaves, structure = list(args), len(args)
        inputs = [_as_input(leaf) for leaf in leaves if isinstance(leaf, (Tensor, float))]
        arguments = (structure, *[_constant(leaf) for leaf in leaves])
        try:
            graph = self._graphs.get((arguments, self._state()))
        except TypeError as error:  # unhashable: such an argument may change without a sign
            return self._give_up(f"an argument that is neither tensor nor constant: {error}", args, kwargs)
        if graph is None:
            try:
                graph = self._make(arguments, leaves, structure, inputs, args, kwargs)
            except (Untraceable, NotCompiled) as error:
                return self._give_up(str(error), args, kwargs)
        graph.calls += 1
        if graph.calls in _COMPARED or graph.calls % 1000 == 0:
            with self._unchanged(inputs):
                plain = self._plain(args, kwargs)
            found = self._compiled(graph, inputs)
            if not _agree(found, plain):
                return self._give_up(_difference(found, plain), args, kwargs)
            return found
        return self._compiled(graph, inputs)

    def _compiled(self, graph: _Graph, inputs: Sequence[Tensor]) -> Evaluation:
        with torch.no_grad():
            numbers, *found = graph.function(*inputs, *graph.captured)
        rest = iter(found)
        return Evaluation(numbers, [next(rest) if has else None for has in graph.has_gradient])

    def _plain(self, args: Any, kwargs: Any) -> Evaluation:
        if not self._gradients:
            with torch.no_grad():
                return Evaluation(loss_and_norm(torch.as_tensor(self.run(*args, **kwargs)), []), [])
        for parameter in self.parameters:
            parameter.grad = None
        with poutine.trace(param_only=True) as capture:
            loss = torch.as_tensor(self.run(*args, **kwargs))
        if self._finds_parameters:
            sites: list[Any] = list(capture.trace.nodes.values())
            self.parameters = list(
                dict.fromkeys([*self.parameters, *[s["value"].unconstrained() for s in sites]])
            )
        if loss.requires_grad:
            loss.backward(inputs=[p for p in self.parameters if p.requires_grad])
        gradients = [p.grad for p in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        present = [gradient for gradient in gradients if gradient is not None]
        return Evaluation(loss_and_norm(loss, present), gradients)

    def _make(
        self, arguments: Any, leaves: list[Any], structure: Any, inputs: list[Tensor], args: Any, kwargs: Any
    ) -> _Graph:
        if len(self._graphs) >= _MOST_GRAPHS:
            raise Untraceable(f"arguments of more than {_MOST_GRAPHS} shapes or values")
        with self._unchanged(inputs), _called_modules() as found:
            before = _other_noise()
            self._plain(args, kwargs)  # makes parameters that are made on first use
            if _other_noise() != before:
                raise Untraceable("random numbers of NumPy or Python, which a graph would freeze")
        self._modules = list(dict.fromkeys([*self._modules, *found]))
        self._places = [*_places(self._modules)]
        self._tensors = [id(place.get(name)) for place, name in self._places]
        state = self._state()

        def run(*tensors: Tensor) -> Any:
            values = iter(tensors)
            filled = [next(values) if isinstance(leaf, (Tensor, float)) else leaf for leaf in leaves]
            if isinstance(structure, int):
                return self.run(*filled)
            args, kwargs = pytree.tree_unflatten(filled, structure)
            return self.run(*args, **kwargs)

        is_trained = [p.requires_grad and self._gradients for p in self.parameters]
        trained = [p for p, wanted in zip(self.parameters, is_trained, strict=True) if wanted]
        with self._unchanged(inputs):
            recorded = trace(run, trained, inputs)
        function = lower(recorded.module, [*inputs, *recorded.captured])
        has = iter(recorded.has_gradient)
        graph = _Graph(function, recorded.captured, [wanted and next(has) for wanted in is_trained])
        self._graphs[arguments, state] = graph
        return graph

    def _state(self) -> tuple[bool, ...]:
        """What a graph holds fast beside its arguments."""
        flags = [module.training for module in self._modules]
        return (*flags, *[p.requires_grad for p in self.parameters])

    def _give_up(self, reason: str, args: Any, kwargs: Any) -> Evaluation:
        self.is_plain = True
        self._graphs.clear()
        warnings.warn(f"not compiled, so that steps take longer: {reason}", stacklevel=4)
        return self._plain(args, kwargs)

    @contextmanager
    def _unchanged(self, inputs: Sequence[Tensor]) -> Iterator[None]:
        """Block that leaves random state and buffers as they were."""
        device = next((value.device for value in (*self.parameters, *inputs)), torch.device("cpu"))
        buffers = {b: b.clone() for module in self._modules for b in module.buffers(recurse=False)}
        with forked(device):
            yield
        _put_back(buffers)


def _as_input(leaf: Tensor | float) -> Tensor:
    return leaf if isinstance(leaf, Tensor) else torch.tensor(leaf, dtype=torch.float64)


def _constant(leaf: Any) -> Any:
    """What a graph is made for."""
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device
    return float if isinstance(leaf, float) else (type(leaf), leaf)


@contextmanager
def _called_modules() -> Iterator[list[nn.Module]]:
    """Block that notes the modules which are called, and leaves their buffers as they were."""
    found: list[nn.Module] = []
    buffers: dict[Tensor, Tensor] = {}

    def note(module: nn.Module, args: Any) -> None:
        found.append(module)
        for buffer in module.buffers(recurse=False):
            buffers.setdefault(buffer, buffer.clone())

    hook = register_module_forward_pre_hook(note)
    try:
        yield found
    finally:
        hook.remove()
        _put_back(buffers)


def _put_back(buffers: dict[Tensor, Tensor]) -> None:
    with torch.no_grad():
        for buffer, value in buffers.items():
            buffer.copy_(value)


def _places(modules: Sequence[nn.Module]) -> Iterator[tuple[dict[str, Any], str]]:
    """Where the tensors of modules stand."""
    for module in modules:
        for place in (module._parameters, module._buffers):
            yield from ((place, name) for name in place)


def _other_noise() -> tuple[Any, ...]:
    """State of the generators that are not torch's."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  # the global one, which a model may use
    return kind, np.asarray(keys).tobytes(), *rest, random.getstate()


def _agree(found: Evaluation, plain: Evaluation) -> bool:
    """Whether two evaluations with the same noise differ by no more than rounding may explain."""
    losses, norms = torch.stack((found.numbers, plain.numbers)).cpu().unbind(1)
    if not bool(torch.isfinite(losses).all() and torch.isfinite(norms).all()):
        return not bool(torch.isfinite(plain.numbers).all())
    pairs = zip(found.gradients, plain.gradients, strict=True)
    zero = torch.zeros(())
    differences = [(zero if a is None else a) - (zero if b is None else b) for a, b in pairs if a is not b]
    gap = loss_and_norm(zero, differences)[1].cpu()
    loss_gap, scale = (losses[0] - losses[1]).abs(), losses[1].abs().clamp(min=1.0)
    return bool(loss_gap <= 1e-3 * scale and gap <= 1e-2 * norms[1])


def _difference(found: Evaluation, plain: Evaluation) -> str:
    graph, model = float(found.numbers[0]), float(plain.numbers[0])
    return (
        f"the graph has loss {graph:g} and gradient norm {float(found.numbers[1]):g}, the model {model:g} and "
        f"{float(plain.numbers[1]):g} with the same noise, as if a number from outside had changed"
    )
