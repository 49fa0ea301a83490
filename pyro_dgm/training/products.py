"""Products of float32 matrices on CPUs where torch's own way, through MKL, leaves half of the processor unused."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pyro_dgm.training.native import native, processor

_aten = torch.ops.aten

# Multiplications of a product from which oneDNN's own blocking beats MKL, and shared by several threads beats its
# micro-kernel in one; and length of the rows from which it beats that in any case.
_LARGE, _LONG = 2_000_000, 2048


def faster_products(module: GraphModule) -> None:
    """Rewrites a graph's products of float32 matrices for this processor, where there is a faster way than torch's.

    The choice is made by size and number of threads, never by timing, so that a run computes the same bits again.

    Args:
        module: a graph of tensors on the CPU.
    """
    if not _has_slow_products():
        return
    for target, first in ((_aten.mm.default, 0), (_aten.addmm.default, 1)):
        for node in module.graph.find_nodes(op="call_function", target=target):
            if len(node.args) > first + 2 or node.kwargs:
                continue
            with module.graph.inserting_before(node):
                product = _product(module, *node.args[first:])
                if product is None:
                    continue
                product.meta = dict(node.meta)  # shapes and types, for the products of it
                if first:
                    product = module.graph.call_function(_aten.add.Tensor, (product, node.args[0]))
                    product.meta = dict(node.meta)
            node.replace_all_uses_with(product)
            module.graph.erase_node(node)


def _product(module: GraphModule, left: Node, right: Node) -> Node | None:
    a, b = left.meta["val"], right.meta["val"]
    if not a.dtype == b.dtype == torch.float32:
        return None
    size = a.shape[0] * a.shape[1] * b.shape[1]
    # The micro-kernel runs in one thread.
    if native() is not None and (size < _LARGE or (torch.get_num_threads() == 1 and a.shape[1] < _LONG)):
        return module.graph.call_function(_operation("small_product"), (left, right))
    return module.graph.call_function(_operation("large_product"), (left, right)) if size >= _LARGE else None


@functools.cache
def _has_slow_products() -> bool:
    """Whether torch multiplies by MKL on a processor with AVX512 that is not Intel's."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    return "AuthenticAMD" in processor() and torch.backends.cpu.get_cpu_capability() == "AVX512"


class _Shims(dict[Any, list[str]]):
    """C functions of operations, for Inductor, which pickles its settings where it looks for a graph on the disk."""

    def __reduce__(self) -> Any:
        return dict, ({str(operation): lines for operation, lines in self.items()},)


def c_functions() -> dict[Any, list[str]]:
    """C functions that graphs call for operations of this package, as Inductor wants them declared."""
    handle = "AtenTensorHandle"
    declaration = f"AOTITorchError aoti_torch_cpu_small_product({handle}, {handle}, {handle}*)"
    return _Shims({_operation("small_product"): [declaration]} if native() is not None else {})


@functools.cache
def _operation(name: str) -> Any:
    """The operation ``pyro_dgm::small_product``, or ``large_product`` by oneDNN's own blocking."""
    library = torch.library.Library("pyro_dgm", "FRAGMENT")
    library.define(f"{name}(Tensor left, Tensor right) -> Tensor")
    library.impl(name, {"small_product": _small, "large_product": _large}[name], "CPU")
    torch.library.register_fake(f"pyro_dgm::{name}", _empty, lib=library)
    _LIBRARIES.append(library)  # which takes its operations along when it goes
    return getattr(torch.ops.pyro_dgm, name).default


_LIBRARIES: list[torch.library.Library] = []


def _small(left: Tensor, right: Tensor) -> Tensor:
    functions = native()
    assert functions is not None
    return functions.product(left, right)


def _large(left: Tensor, right: Tensor) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(left, right.t(), None, "none", [], "")
    return result


def _empty(left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(left.shape[0], right.shape[1])
