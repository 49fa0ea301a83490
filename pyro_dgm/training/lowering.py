"""A recorded graph made into machine code by Inductor, with torch's own random numbers."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pyro_dgm.training.native import native
from pyro_dgm.training.products import c_functions, faster_products

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
    _share_exponentials(module)
    if _is_on_cpu(inputs):
        faster_products(module)
        _keep_freed_memory()
    module.recompile()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch, about itself
        return _inductor(module, inputs)


def _is_on_cpu(inputs: Sequence[Tensor]) -> bool:
    return all(value.device.type == "cpu" for value in inputs)


@functools.cache
def _keep_freed_memory() -> None:
    """Lets the C library keep up to 62 MiB of freed memory, so that each step finds its buffers without page faults.

    glibc raises its thresholds to what is freed, up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD). Nothing is written, so
    that it takes no memory.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _inductor(module: GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    try:
        from torch._inductor import config, standalone_compile
    except ImportError as error:
        raise NotCompiled(f"torch {torch.__version__} cannot compile a graph alone, 2.8 can") from error
    # The shapes of the inputs are checked before. A tanh by the vector exponential is quicker; its absolute error is
    # that of a number near 1. What calls the kernels is C++, too, which takes no longer to compile.
    options: dict[str, Any] = {
        "fallback_random": True,
        "size_asserts": False,
        "alignment_asserts": False,
        "cpp.use_decompose_tanh": True,
    }
    if _is_on_cpu(inputs):
        options |= {"cpp_wrapper": True, "aot_inductor.custom_ops_to_c_shims": c_functions()}
        # Convolutions of few channels gain less from channels-last images than it takes to turn them over and back.
        options["layout_optimization"] = False
        if native() is not None:  # which shows that vector code is compiled and runs here
            options["cpp.vec_isa_ok"] = True
    try:
        with config.patch(options):
            return standalone_compile(module, list(inputs), dynamic_shapes="from_example_inputs")
    except Exception as error:
        text = str(error).strip().splitlines()
        raise NotCompiled(f"{type(error).__name__}: {text[0] if text else ''}") from error


def _as_drawn(module: GraphModule) -> None:
    """Draws by torch's own kernels, in few calls: Inductor has a Bernoulli with other numbers."""
    graph = module.graph
    for node in graph.find_nodes(op="call_function", target=_aten.bernoulli.default):
        with graph.inserting_before(node):
            contiguous: dict[str, Any] = {"memory_format": torch.contiguous_format}
            empty = graph.call_function(_aten.empty_like.default, (node.args[0],), contiguous)
            _replace(node, graph.call_function(_aten.bernoulli_.Tensor, (empty, node.args[0])))
    for node in graph.find_nodes(op="call_function", target=_aten.normal_.default):
        empty = node.args[0]
        is_fresh = empty.target is _aten.empty.memory_format and len(empty.users) == 1
        is_standard = len(node.args) == 1 and not node.kwargs
        if (
            is_fresh and is_standard and "memory_format" not in empty.kwargs
        ):  # the same numbers without a copy
            with graph.inserting_before(node):
                _replace(node, graph.call_function(_aten.randn.default, empty.args, empty.kwargs))
            graph.erase_node(empty)


def _share_exponentials(module: GraphModule) -> None:
    """Bernoulli log-probabilities of logits, and the sigmoids in their gradients, by one exponential.

    With u = exp(-|x|), log(1 + u) is off by the rounding of a number near 1, as the loss is in any case.
    """
    graph, call = module.graph, module.graph.call_function
    for node in graph.find_nodes(op="call_function", target=_aten.binary_cross_entropy_with_logits.default):
        x, target = node.args[:2]
        if node.args[2:] != (None, None, 0) or x.meta["val"].dtype not in (torch.float32, torch.float64):
            continue
        sigmoids = [user for user in x.users if user.target is _aten.sigmoid.default]
        first = min(node, *sigmoids) if sigmoids else node  # nodes are ordered as in the graph
        with graph.inserting_before(first):
            u = call(_aten.exp.default, (call(_aten.neg.default, (call(_aten.abs.default, (x,)),)),))
            above = call(_aten.add.Tensor, (u, 1))
        with graph.inserting_before(node):
            linear = call(_aten.clamp_min.default, (x, 0))
            linear = call(_aten.sub.Tensor, (linear, call(_aten.mul.Tensor, (x, target))))
            _replace(node, call(_aten.add.Tensor, (linear, call(_aten.log.default, (above,)))))
        for sigmoid in sigmoids:
            with graph.inserting_before(sigmoid):
                larger = call(_aten.reciprocal.default, (above,))
                smaller = call(_aten.mul.Tensor, (u, larger))
                is_positive = call(_aten.ge.Scalar, (x, 0))
                _replace(sigmoid, call(_aten.where.self, (is_positive, larger, smaller)))


def _replace(node: Node, other: Node) -> None:
    other.meta = dict(node.meta)  # shapes and types, for what comes after
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)
