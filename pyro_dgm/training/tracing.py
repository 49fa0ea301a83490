"""Loss and gradients as one graph of tensor operations, recorded while Pyro's handlers run once."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pyro
import torch
from pyro.infer.util import Dice
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

_LIBRARIES = tuple(str(Path(module.__file__ or "").parent) for module in (torch, pyro))
_OWN = str(Path(__file__).parent)


class Untraceable(Exception):
    """A run that no graph of fixed shapes repeats; says why, and in which line of whose code."""


@dataclass(frozen=True)
class Trace:
    """A recorded run.

    Args:
        module: takes the given tensors, then the captured ones; returns :func:`loss_and_norm` and the gradients
            that there are.
        captured: tensors from outside that the run read or wrote: parameters, buffers, data of a closure.
        has_gradient: for each parameter, whether it has a gradient.
    """

    module: GraphModule
    captured: list[Tensor]
    has_gradient: list[bool]


def trace(run: Callable[..., Any], parameters: Sequence[Tensor], inputs: Sequence[Tensor]) -> Trace:
    """Graph of ``run(*inputs)`` and of its gradient.

    ``run`` returns its loss, or calls ``backward`` itself, as some of Pyro's ELBOs do. It is really run: it draws
    from torch's generators and writes into buffers.

    Args:
        run: from tensors to a scalar tensor, or to a tuple of them of which the first is differentiated, unless it
            calls ``backward`` itself.
        parameters: leaves to differentiate with respect to; without any, the graph has the loss alone.
        inputs: tensors that the graph takes anew at each call.

    Raises:
        Untraceable: what is computed depends on the values of tensors.
    """
    has_gradient: list[bool] = []

    def outputs(*tensors: Tensor) -> list[Tensor]:
        with _recording(parameters):
            loss = run(*tensors)
            gradients = [parameter.grad for parameter in parameters]
            root = loss[0] if isinstance(loss, tuple) else loss
            if all(gradient is None for gradient in gradients) and isinstance(root, Tensor):
                gradients = _gradients(root, parameters)
        has_gradient[:] = [gradient is not None for gradient in gradients]
        found = [_like(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
        return [loss_and_norm(loss, found), *found]

    try:
        module = make_fx(outputs, tracing_mode="real")(*inputs)
    except Exception as error:
        raise Untraceable(f"{_reason(error)}{_line(error)}") from error
    return Trace(module, _lift(module), has_gradient)


def loss_and_norm(loss: Any, gradients: Sequence[Tensor]) -> Tensor:
    """Losses, then the global norm of the gradients: what must be known before an update; one row, float64.

    Args:
        loss: a number, or a tuple of them: a loss and what is told beside it, or the losses that Pyro's
            ``ReweightedWakeSleep`` gives.
        gradients: of all parameters.
    """
    losses = [torch.as_tensor(value).detach() for value in (loss if isinstance(loss, tuple) else (loss,))]
    norms = [torch.linalg.vector_norm(gradient).detach() for gradient in gradients]
    norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros_like(losses[0])
    return torch.stack([number.to(norm.device, torch.float64) for number in (*losses, norm)])


def _like(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with the strides of its parameter, which kernels of updates take for granted."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _gradients(root: Tensor, parameters: Sequence[Tensor], seed: Tensor | None = None) -> list[Tensor | None]:
    if not (root.requires_grad and parameters):
        return [None] * len(parameters)
    found = torch.autograd.grad(
        root, list(parameters), grad_outputs=seed, allow_unused=True, retain_graph=True
    )
    return list(found)


class _Recording(TorchFunctionMode):
    """Looks after calls that would take a number out of the graph, or run a backward pass that it cannot record."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__()
        self.parameters = parameters

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.item:
            return args[0].detach()
        if func is torch._is_all_true:  # the check of a distribution that was made before
            return True
        if func is Tensor.backward:
            return self._backward(args[0], args[1] if len(args) > 1 else kwargs.get("gradient"))
        if func in _READERS:
            raise Untraceable(f"{func.__name__} reads the values of a tensor")
        if func is Tensor.__getitem__ and _is_mask(args[1]):
            return _Selection(*args)
        if func is Tensor.__setitem__ and _is_mask(args[1]):
            return _assign(*args)
        return func(*args, **kwargs)

    def _backward(self, root: Tensor, seed: Tensor | None) -> None:
        gradients = _gradients(root, self.parameters, seed)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


_READERS = (
    Tensor.numpy, Tensor.__array__, Tensor.__dlpack__, Tensor.tolist, Tensor.__format__, Tensor.__repr__,
    Tensor.__deepcopy__,
)  # fmt: skip


class _Guard(TorchDispatchMode):
    """Refuses what would freeze values of this run in the graph."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.dynamic_output_shape in func.tags:
            is_index = func is torch.ops.aten.index.Tensor
            if not is_index or any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
                raise Untraceable(f"{func.__name__.split('.')[0]} gives a shape that depends on values")
        if torch.Tag.data_dependent_output in func.tags:
            # make_fx lets a number be read of a tensor from outside, but not of one that it has recorded.
            args = pytree.tree_map_only(Tensor, torch.clone, args)
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class _Selection:
    """Entries of a tensor under a mask, good for nothing but to be assigned under the same mask."""

    source: Tensor
    mask: Tensor

    def __getattr__(self, name: str) -> Any:
        raise Untraceable("x[mask] gives a shape that depends on values")


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype == torch.bool


def _assign(target: Tensor, mask: Tensor, value: Any) -> None:
    """``target[mask] = value`` with a shape that does not depend on the mask."""
    if isinstance(value, _Selection):
        if value.mask is not mask:
            raise Untraceable("x[mask] gives a shape that depends on values")
        value = value.source
    elif isinstance(value, Tensor) and value.dim():
        raise Untraceable("x[mask] = tensor takes as many values as the mask has entries")
    mask = mask.reshape(mask.shape + (1,) * (target.dim() - mask.dim()))
    target.copy_(torch.where(mask, value, target))


class _MaskedSum(TorchFunctionMode):
    """In Pyro's ``Dice``, which sums what a mask selects: the others are zero instead of left out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.all:
            return False
        if func is Tensor.masked_select:
            return torch.where(args[1], args[0], torch.zeros_like(args[0]))
        return func(*args, **(kwargs or {}))


def _expectation(dice: Any, costs: Any, original: Any = Dice.compute_expectation) -> Any:
    with _MaskedSum():
        return original(dice, costs)


@contextlib.contextmanager
def _recording(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Block in which Pyro does not look at values: its checks and its warnings of NaN would."""
    _clear(parameters)
    with (
        mock.patch("pyro.util.torch_isnan", lambda value: False),
        mock.patch("pyro.util.torch_isinf", lambda value: False),
        mock.patch.object(Dice, "compute_expectation", _expectation),
        pyro.validation_enabled(False),
        torch.enable_grad(),
        _Guard(),
        _Recording(parameters),
    ):
        try:
            yield
        finally:
            _clear(parameters)


def _clear(parameters: Sequence[Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = None


def _lift(module: GraphModule) -> list[Tensor]:
    """Makes every tensor from outside an input after the others, each once; returns them."""
    graph = module.graph
    nodes = {id(node): node for node in graph.nodes if node.op == "placeholder"}
    last = list(nodes.values())[-1] if nodes else None
    known: dict[int, Node] = {}
    captured: list[Tensor] = []
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        value = getattr(module, str(node.target))
        if not isinstance(value, Tensor):
            raise Untraceable(f"a {type(value).__name__} of its own")
        if id(value) not in known:
            place = graph.inserting_after(last) if last else graph.inserting_before(next(iter(graph.nodes)))
            with place:
                last = known[id(value)] = graph.placeholder(f"captured_{len(captured)}")
            last.meta = dict(node.meta)
            captured.append(value)
        node.replace_all_uses_with(known[id(value)])
        graph.erase_node(node)
    module.recompile()
    return captured


def _reason(error: BaseException) -> str:
    if "get value out of a tracing tensor" in str(error):
        return "a number or a decision is made of the value of a tensor"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _line(error: BaseException) -> str:
    """The innermost line that is neither torch's nor Pyro's, nor of this package's training."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith((*_LIBRARIES, _OWN, "<"))]
    if not theirs:
        return ""
    return f" (in {theirs[-1].filename}:{theirs[-1].lineno}: {theirs[-1].line})"
