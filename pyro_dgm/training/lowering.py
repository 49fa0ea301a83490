"""A recorded graph made into machine code by Inductor, with torch's own random numbers."""

from __future__ import annotations

import functools
import platform
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

_aten = torch.ops.aten

_LARGE = 2_000_000  # multiplications of a product from which oneDNN repays its longer call


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
    if _has_slow_products() and all(value.device.type == "cpu" for value in inputs):
        _faster_products(module)
    module.recompile()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch, about itself
        return _inductor(module, inputs)


def _inductor(module: GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    try:
        from torch._inductor import config, standalone_compile
    except ImportError as error:
        raise NotCompiled(f"torch {torch.__version__} cannot compile a graph alone, 2.8 can") from error
    # A tanh by the vector exponential takes half the time; its absolute error is that of a number near 1.
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


@functools.cache
def _has_slow_products() -> bool:
    """Whether torch multiplies by MKL on a processor that is not Intel's, where MKL leaves half of it unused."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    info = Path("/proc/cpuinfo")
    name = info.read_text() if info.is_file() else platform.processor()
    return "AuthenticAMD" in name and torch.backends.cpu.get_cpu_capability() == "AVX512"


def _faster_products(module: GraphModule) -> None:
    """Large products of float32 matrices on the CPU by oneDNN."""
    for target, first in ((_aten.mm.default, 0), (_aten.addmm.default, 1)):
        for node in module.graph.find_nodes(op="call_function", target=target):
            left, right = node.args[first : first + 2]
            if len(node.args) > first + 2 or node.kwargs or not _is_large(left, right):
                continue
            with module.graph.inserting_before(node):
                product = module.graph.call_function(_product(), (left, right))
                if first:
                    product = module.graph.call_function(_aten.add.Tensor, (product, node.args[0]))
            node.replace_all_uses_with(product)
            module.graph.erase_node(node)


def _is_large(left: Node, right: Node) -> bool:
    a, b = left.meta["val"], right.meta["val"]
    is_float = a.dtype == b.dtype == torch.float32
    return is_float and a.shape[0] * a.shape[1] * b.shape[1] >= _LARGE


@functools.cache
def _product() -> Any:
    """The operation ``pyro_dgm::mm``: a product of two matrices by oneDNN."""
    library = torch.library.Library("pyro_dgm", "DEF")
    library.define("mm(Tensor left, Tensor right) -> Tensor")

    def multiply(left: Tensor, right: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(left, right.t(), None, "none", [], "")
        return result

    library.impl("mm", multiply, "CPU")
    torch.library.register_fake(
        "pyro_dgm::mm", lambda left, right: left.new_empty(left.shape[0], right.shape[1]), lib=library
    )
    _LIBRARIES.append(library)  # which takes its operations along when it goes
    return torch.ops.pyro_dgm.mm.default


_LIBRARIES: list[torch.library.Library] = []
