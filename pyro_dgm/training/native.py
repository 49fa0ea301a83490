"""Functions in C++ of this package, compiled once for each version of torch on each processor."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_SOURCE = Path(__file__).with_name("native.cpp")
_REAL = ctypes.c_double

logger = logging.getLogger(__name__)


class Native:
    """The functions of ``native.cpp``, for contiguous or strided float32 tensors on the CPU.

    Args:
        library: the compiled file.
    """

    def __init__(self, library: Path) -> None:
        # RTLD_GLOBAL, so that graphs find their function in it.
        self._library = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        self._library.pyro_dgm_adam.restype = None

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Product of two matrices, in one thread.

        Args:
            left: (m, k).
            right: (k, n).
        """
        result = left.new_empty(left.shape[0], right.shape[1])
        numbers = [*left.shape, *left.stride(), *right.shape, *right.stride()]
        shape = (ctypes.c_int64 * len(numbers))(*numbers)
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (left, right, result)]
        if self._library.pyro_dgm_product(*pointers, shape):
            raise MemoryError(f"no memory for a product of {tuple(left.shape)} and {tuple(right.shape)}")
        return result

    def adam(self, *tensors: Sequence[Tensor]) -> NativeAdam:
        """Steps of Adam.

        Args:
            tensors: parameters, first and second moments, all contiguous, and numbers of steps so far, which are
                counted.
        """
        return NativeAdam(self._library.pyro_dgm_adam, *tensors)


class NativeAdam:
    """Steps of Adam on the same parameters, as :class:`Native` makes them; as long as all tensors lie where they do."""

    def __init__(self, function: Any, parameters: Sequence[Tensor], *states: Sequence[Tensor]) -> None:
        self._function = function
        self._owned = parameters, states
        self._counts = (ctypes.c_int64 * len(parameters))(*[parameter.numel() for parameter in parameters])
        self._moved, *self._kept = [_pointers(tensors) for tensors in (parameters, *states)]
        self._options: tuple[float, ...] = ()

    def __call__(
        self,
        gradients: Sequence[Tensor],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        decoupled: bool,
    ) -> None:
        """A step; the options are those of torch's Adam, decoupled in AdamW."""
        gradients = [g if g.is_contiguous() else g.contiguous() for g in gradients]
        options = (lr, *betas, eps, weight_decay, decoupled)
        if options != self._options:
            self._options, self._passed = options, (*map(_REAL, options[:-1]), int(decoupled))
        self._function(
            len(gradients), self._moved, _pointers(gradients), *self._kept, self._counts, *self._passed
        )


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])


@functools.cache
def native() -> Native | None:
    """The functions of ``native.cpp``, or None where they cannot be had, as where there is no C++ compiler.

    The library lies in the folder in which Inductor keeps its graphs.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    try:
        return Native(_library())
    except (OSError, ImportError, subprocess.SubprocessError) as error:
        logger.info("compiled steps without functions in C++: %s", error)
        return None


@functools.cache
def processor() -> str:
    """Name of the processor, as far as it is told."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    told = [line.partition(":")[2].strip() for line in lines if line.startswith(("vendor_id", "model"))]
    return " ".join(dict.fromkeys(told)) or platform.processor()


def _library() -> Path:
    from torch._inductor.runtime.cache_dir_utils import cache_dir
    from torch.utils.cpp_extension import get_cxx_compiler, include_paths, library_paths

    command = [get_cxx_compiler(), "-O3", "-march=native", "-std=c++20", "-shared", "-fPIC"]
    command += ["-DCPU_CAPABILITY=AVX512", "-DCPU_CAPABILITY_AVX512", str(_SOURCE), "-lc10", "-ltorch_cpu"]
    command += [f"-I{path}" for path in include_paths()] + [f"-L{path}" for path in library_paths()]
    facts = "\n".join([_SOURCE.read_text(), torch.__version__, platform.machine(), processor(), *command])
    path = Path(cache_dir()) / f"pyro_dgm_native_{hashlib.sha256(facts.encode()).hexdigest()[:24]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            subprocess.run([*command, "-o", str(made)], check=True, capture_output=True, timeout=120)
            os.replace(made, path)
    return path
