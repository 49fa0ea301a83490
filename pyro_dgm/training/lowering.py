"""A recorded graph made into machine code by Inductor, with torch's own random numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_dgm.training.products import faster_products

_aten = torch.ops.aten


class NotCompiled(Exception):
    """No machine code could be made of a graph."""


def lower(module: GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """Compiled function of the same inputs, with the same outputs and effects; for these shapes only.

    Random numbers are drawn by the same calls as in the plain run and in their order, so that a seed gives the
    same noise either way. Graphs that were compiled before are taken from Inductor's cache on the disk.

    Args:
        module: the graph; rewritten.
        inputs: tensors of the shapes and types to come.

    Raises:
        NotCompiled: Inductor cannot do it, as where there is no C++ compiler.
    """
    _as_drawn(module)
    if all(value.device.type == "cpu" for value in inputs):
        faster_products(module)
    module.recompile()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch, about itself
        return _inductor(module, inputs)


def _inductor(module: GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    try:
        from torch._inductor import config, standalone_compile
    except ImportError as error:
        raise NotCompiled(f"torch {torch.__version__} cannot compile a graph alone, 2.8 can") from error
    # A tanh by the vector exponential is quicker; its absolute error is that of a number near 1.
    options = {"fallback_random": True, "cpp.use_decompose_tanh": True}
    try:
        with config.patch(options):
            return standalone_compile(module, list(inputs), dynamic_shapes="from_example_inputs")
    except Exception as error:
        text = str(error).strip().splitlines()
        raise NotCompiled(f"{type(error).__name__}: {text[0] if text else ''}") from error


def _as_drawn(module: GraphModule) -> None:
    """Bernoulli draws by torch's own kernel, for which Inductor has a rule with other numbers."""
    for node in module.graph.find_nodes(op="call_function", target=_aten.bernoulli.default):
        with module.graph.inserting_before(node):
            empty = module.graph.call_function(_aten.empty_like.default, (node.args[0],))
            draw = module.graph.call_function(_aten.bernoulli_.Tensor, (empty, node.args[0]))
        node.replace_all_uses_with(draw)
        module.graph.erase_node(node)
