"""Products of float32 matrices on CPUs where torch's own way, through MKL, leaves half of the processor unused."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

_aten = torch.ops.aten
_SOURCE = Path(__file__).with_name("products.cpp")

# Multiplications of a product from which oneDNN's own blocking wins over its micro-kernel on whole matrices, and
# from which it wins over MKL.
_BLOCKED, _LARGE = 20_000_000, 2_000_000

logger = logging.getLogger(__name__)


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
                if first:
                    product = module.graph.call_function(_aten.add.Tensor, (product, node.args[0]))
            node.replace_all_uses_with(product)
            module.graph.erase_node(node)


def _product(module: GraphModule, left: Node, right: Node) -> Node | None:
    a, b = left.meta["val"], right.meta["val"]
    if not a.dtype == b.dtype == torch.float32:
        return None
    size = a.shape[0] * a.shape[1] * b.shape[1]
    small = micro_product()
    # The micro-kernel runs in one thread.
    if size >= (_BLOCKED if small is not None and torch.get_num_threads() == 1 else _LARGE):
        return module.graph.call_function(blocked_product(), (left, right))
    if small is None:
        return None
    return module.graph.call_function(small, (_by_rows(module, left), _by_rows(module, right)))


def _by_rows(module: GraphModule, node: Node) -> Node:
    """A copy that lies row by row, which Inductor makes as part of what comes before it."""
    if node.meta["val"].is_contiguous():
        return node
    return module.graph.call_function(
        _aten.clone.default, (node,), {"memory_format": torch.contiguous_format}
    )


@functools.cache
def _has_slow_products() -> bool:
    """Whether torch multiplies by MKL on a processor with AVX512 that is not Intel's."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    info = Path("/proc/cpuinfo")
    name = info.read_text() if info.is_file() else platform.processor()
    return "AuthenticAMD" in name and torch.backends.cpu.get_cpu_capability() == "AVX512"


@functools.cache
def blocked_product() -> Any:
    """The operation ``pyro_dgm::mm``: a product of two matrices by oneDNN."""
    library = torch.library.Library("pyro_dgm", "DEF")
    library.define("mm(Tensor left, Tensor right) -> Tensor")

    def multiply(left: Tensor, right: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(left, right.t(), None, "none", [], "")
        return result

    library.impl("mm", multiply, "CPU")
    torch.library.register_fake("pyro_dgm::mm", _empty_product, lib=library)
    _LIBRARIES.append(library)  # which takes its operations along when it goes
    return torch.ops.pyro_dgm.mm.default


_LIBRARIES: list[torch.library.Library] = []


@functools.cache
def micro_product() -> Any | None:
    """The operation ``pyro_dgm_products::mm`` by oneDNN's micro-kernel, or None where it cannot be had.

    It is compiled once for each version of torch, into the folder in which Inductor keeps its graphs.
    """
    try:
        torch.ops.load_library(str(_library()))
    except (OSError, RuntimeError, ImportError, subprocess.SubprocessError) as error:
        logger.info("small matrix products by MKL: %s", error)
        return None
    torch.library.register_fake("pyro_dgm_products::mm", _empty_product)
    return torch.ops.pyro_dgm_products.mm.default


def _empty_product(left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(left.shape[0], right.shape[1])


def _library() -> Path:
    from torch._inductor.runtime.cache_dir_utils import cache_dir
    from torch.utils.cpp_extension import get_cxx_compiler, include_paths, library_paths

    command = [
        get_cxx_compiler(),
        "-O2",
        "-std=c++20",
        "-shared",
        "-fPIC",
        str(_SOURCE),
        "-lc10",
        "-ltorch_cpu",
    ]
    command += [f"-I{path}" for path in include_paths()] + [f"-L{path}" for path in library_paths()]
    facts = "\n".join([_SOURCE.read_text(), torch.__version__, platform.machine(), *command])
    path = Path(cache_dir()) / f"pyro_dgm_products_{hashlib.sha256(facts.encode()).hexdigest()[:24]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            subprocess.run([*command, "-o", str(made)], check=True, capture_output=True, timeout=120)
            os.replace(made, path)
    return path
