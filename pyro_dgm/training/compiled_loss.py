"""Loss and gradients of any model/guide pair as a compiled graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pyro_dgm.training.agreement import Evaluation, disagreement
from pyro_dgm.training.lowering import NotCompiled, lower
from pyro_dgm.training.replay import replayed
from pyro_dgm.training.touched import Touched, stored
from pyro_dgm.training.tracing import Untraceable, loss_and_norm, trace

_MOST_GRAPHS = 8  # and one more for each thousand calls: what changes more often is no constant of a graph
_COMPARED = (1, 2, 10, 100)  # calls of a graph beside which the plain loss is run, as at each thousandth


@dataclass
class _Graph:
    """Compiled function for one combination of shapes and constants, with the tensors that it takes from outside."""

    function: Callable[..., Sequence[Tensor]]
    captured: Sequence[Tensor]
    has_gradient: Sequence[bool]
    touched: Sequence[Tensor]
    layouts: Sequence[Any] | None  # of the arguments, where all of them are tensors
    calls: int = 0

    def __post_init__(self) -> None:
        self._layouts = list(map(_layout, self.captured))
        self.has_all = all(self.has_gradient)

    def fits(self) -> bool:
        """Whether the captured tensors have still the shapes and types that the graph was made for."""
        return list(map(_layout, self.captured)) == self._layouts

    def is_compared(self) -> bool:
        """Whether its next call is to be compared with a plain one."""
        calls = self.calls + 1
        return calls in _COMPARED or calls % 1000 == 0


class CompiledLoss:
    """A loss with its gradients, run through Pyro's handlers once and from then on as a compiled graph.

    There is one graph for each combination of the tensors' shapes and types, of plain values among the arguments
    (floats are inputs of the graph instead), of training flags and of which parameters are trained. The same seed
    draws the same noise as in a plain run. Some calls are compared with plain ones, since a number that the model
    takes from elsewhere is frozen in the graph.

    What cannot be compiled is run plainly, after one warning that names the line; so is, without a warning, a call
    inside of one of Pyro's handlers.

    Args:
        run: gives a scalar loss, or a tuple of one and of numbers to be told; or runs ``backward`` itself.
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
        self.touched = Touched(modules)
        self.is_plain = False
        self._finds_parameters = parameters is None
        self._gradients = gradients
        self._own = modules
        self._waits = after
        self._calls = self._made = 0
        self._graphs: dict[Any, _Graph] = {}
        self._last: _Graph | None = None
        self._had: set[Tensor] = set()  # parameters that have had a gradient

    def __call__(self, *args: Any, **kwargs: Any) -> Evaluation:
        if self.is_plain or _PYRO_STACK:
            return self._plain(args, kwargs)[0]
        if self._waits > 0:
            self._waits -= 1
            with self.touched.watched(undone=False):
                return self._plain(args, kwargs)[0]
        self._calls += 1
        try:
            graph, inputs = self._find(args, kwargs)
        except (Untraceable, NotCompiled) as error:
            return self._give_up(str(error), args, kwargs)
        self._last = graph
        is_compared = graph.is_compared()
        graph.calls += 1
        if is_compared:
            with self.touched.unchanged([*self.parameters, *inputs]):
                plain, _ = self._plain(args, kwargs)
            with self.touched.unchanged([*self.parameters, *inputs]):
                reason = self._disagreement(graph, inputs, plain)
            if reason:
                return self._give_up(reason, args, kwargs)
        return self._compiled(graph, inputs)

    def _disagreement(self, graph: _Graph, inputs: Sequence[Tensor], plain: Evaluation) -> str | None:
        try:
            return disagreement(self._compiled(graph, inputs), plain)
        except RuntimeError as error:
            if graph.calls > 1:
                raise
            return f"the graph does not run: {str(error).strip().splitlines()[0]}"

    def again(self, args: Sequence[Any]) -> Evaluation | None:
        """A call right after another one, where only the values of tensors differ; None where there is more to do.

        Args:
            args: of the call.
        """
        graph = self._last
        if graph is None or graph.layouts is None or self.is_plain or _PYRO_STACK or graph.is_compared():
            return None
        if not _are_tensors(args) or [_layout(leaf) for leaf in args] != graph.layouts:
            return None
        self._calls += 1
        graph.calls += 1
        return self._compiled(graph, args)

    def _find(self, args: Any, kwargs: Any) -> tuple[_Graph, Sequence[Tensor]]:
        """A graph for such arguments, which is made if there is none yet, and its inputs."""
        if self.touched.is_replaced():
            self._forget()
        leaves: Sequence[Any] = args
        structure: Any = len(args)
        if kwargs or not _are_tensors(args):
            leaves, structure = pytree.tree_flatten((args, kwargs))
        inputs, key = self._inputs(leaves, structure)
        try:
            graph = self._graphs.get(key)
        except TypeError as error:  # unhashable: such an argument may change without a sign
            raise Untraceable(f"an argument that is neither tensor nor constant: {error}") from error
        if graph is None or not graph.fits():
            return self._make(leaves, structure, args, kwargs)
        return graph, inputs

    def _compiled(self, graph: _Graph, inputs: Sequence[Tensor]) -> Evaluation:
        with torch.no_grad():
            numbers, *found = graph.function(*inputs, *graph.captured)
        if graph.has_all:
            return Evaluation(numbers, list(found))
        rest = iter(found)
        gradients: list[Tensor | None] = [next(rest) if has else None for has in graph.has_gradient]
        return Evaluation(numbers, self._as_pyro(gradients, graph.touched))

    def _plain(self, args: Any, kwargs: Any) -> tuple[Evaluation, Sequence[Tensor]]:
        """Evaluation without a graph, and the parameters that it touched in Pyro's store."""
        if not self._gradients:
            with torch.no_grad():
                return Evaluation(loss_and_norm(self.run(*args, **kwargs), []), []), ()
        for parameter in self.parameters:
            parameter.grad = None
        with poutine.trace(param_only=True) as capture:
            loss = self.run(*args, **kwargs)
        touched = list(dict.fromkeys(stored(capture).values()))
        if self._finds_parameters and not {*touched} <= {*self.parameters}:
            self.parameters = list(dict.fromkeys([*self.parameters, *touched]))
        root = loss[0] if isinstance(loss, tuple) else loss
        if isinstance(root, Tensor) and root.requires_grad:
            root.backward(inputs=[p for p in self.parameters if p.requires_grad])
        gradients = [p.grad for p in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        self._had.update(p for p, g in zip(self.parameters, gradients, strict=True) if g is not None)
        numbers = loss_and_norm(loss, [gradient for gradient in gradients if gradient is not None])
        return Evaluation(numbers, self._as_pyro(gradients, touched)), touched

    def _as_pyro(self, gradients: list[Tensor | None], touched: Sequence[Tensor]) -> list[Tensor | None]:
        """Zero for a parameter that the loss no longer depends on, which Pyro's optimisers go on to move."""
        if not self._finds_parameters or all(gradient is not None for gradient in gradients):
            return gradients
        zeros = {p for p in touched if p in self._had and p.requires_grad}
        pairs = zip(self.parameters, gradients, strict=True)
        return [torch.zeros_like(p) if g is None and p in zeros else g for p, g in pairs]

    def _make(self, leaves: Any, structure: Any, args: Any, kwargs: Any) -> tuple[_Graph, list[Tensor]]:
        if self._made >= _MOST_GRAPHS + self._calls // 1000:
            raise Untraceable(
                f"more than {_MOST_GRAPHS} graphs, for as many shapes or values of the arguments"
            )
        self._made += 1
        with self.touched.watched():
            _, touched = self._plain(args, kwargs)  # makes parameters that are made on first use
        if self.touched.draws_elsewhere:
            raise Untraceable("random numbers of NumPy or Python, which a graph would freeze")
        inputs, key = self._inputs(leaves, structure)

        def run(*tensors: Tensor) -> Any:
            values = iter(tensors)
            filled = [next(values) if _is_input(leaf) else leaf for leaf in leaves]
            if isinstance(structure, int):
                return self.run(*filled)
            args, kwargs = pytree.tree_unflatten(filled, structure)
            return self.run(*args, **kwargs)

        is_trained = [p.requires_grad and self._gradients for p in self.parameters]
        trained = [p for p, wanted in zip(self.parameters, is_trained, strict=True) if wanted]
        try:
            with self.touched.unchanged([*self.parameters, *inputs]):
                recorded = trace(run, trained, inputs)
        finally:
            if self.touched.is_replaced():
                self.touched.restore()
                raise Untraceable("each run puts another tensor into the place of a parameter or a buffer")
        function = replayed(partial(lower, recorded.module), inputs, recorded.captured)
        has = iter(recorded.has_gradient)
        has_gradient = [wanted and next(has) for wanted in is_trained]
        layouts = [_layout(leaf) for leaf in leaves] if isinstance(structure, int) else None
        graph = _Graph(function, recorded.captured, has_gradient, touched, layouts)
        self._graphs[key] = graph
        return graph, inputs

    def _inputs(self, leaves: Sequence[Any], structure: Any) -> tuple[list[Tensor], Any]:
        """Inputs of a graph, and what it is made for."""
        number = torch.get_default_dtype()
        trained = () if self._finds_parameters else [parameter.requires_grad for parameter in self.parameters]
        if _are_tensors(leaves):  # the same, quicker
            return list(leaves), (structure, number, *map(_layout, leaves), *self.touched.flags(), *trained)
        if any(isinstance(leaf, (float, np.floating)) for leaf in leaves):
            tensors = [leaf for leaf in (*leaves, *self.parameters) if isinstance(leaf, Tensor)]
            number = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else number
        inputs = [
            leaf if isinstance(leaf, Tensor) else torch.tensor(leaf, dtype=number)
            for leaf in leaves
            if _is_input(leaf)
        ]
        return inputs, (structure, number, *map(_constant, leaves), *self.touched.flags(), *trained)

    def _forget(self) -> None:
        """Leaves graphs and parameters of tensors that are no longer in use."""
        self._graphs.clear()
        self._last = None
        self.touched = Touched(self._own)
        if self._finds_parameters:
            self.parameters = []

    def _give_up(self, reason: str, args: Any, kwargs: Any) -> Evaluation:
        self.is_plain = True
        self._graphs.clear()
        self._last = None
        warnings.warn(f"not compiled, so that steps take longer: {reason}", stacklevel=4)
        return self._plain(args, kwargs)[0]


def _are_tensors(leaves: Sequence[Any]) -> bool:
    return all([type(leaf) is Tensor for leaf in leaves])  # noqa: C419  # quicker than a generator


def _is_input(leaf: Any) -> bool:
    return isinstance(leaf, (Tensor, float, np.floating))


def _constant(leaf: Any) -> Any:
    """What a graph is made for."""
    if isinstance(leaf, Tensor):
        return _layout(leaf)
    return float if _is_input(leaf) else (type(leaf), leaf)


def _layout(tensor: Tensor) -> Any:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
