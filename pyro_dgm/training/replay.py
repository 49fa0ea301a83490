"""A function of CUDA tensors as a CUDA graph: all of its kernels in one launch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Function = Callable[..., Sequence[Tensor]]


def replayed(
    lower: Callable[[Sequence[Tensor]], Function], inputs: Sequence[Tensor], outside: Sequence[Tensor]
) -> Function:
    """A compiled function, as a CUDA graph where it lies on a GPU as a whole.

    Args:
        lower: compiles for tensors of these shapes, types and strides.
        inputs: tensors that are others at each call.
        outside: the others.
    """
    if any(tensor.device.type != "cuda" for tensor in (*inputs, *outside)):
        return lower([*inputs, *outside])
    return Replayed(lower([*[tensor.contiguous() for tensor in inputs], *outside]), len(inputs))


class Replayed:
    """A function whose kernels are recorded at its second call and launched together from then on.

    Inputs are copied, and are contiguous in the function. Tensors from outside are read and written where they lie.
    Outputs lie where the next call overwrites them. Noise follows torch's generator, which the recording leaves as it
    was. What cannot be recorded runs as it is.

    Args:
        function: of tensors on one GPU; gives tensors.
        num_inputs: number of leading tensors that are others at each call.
    """

    def __init__(self, function: Function, num_inputs: int) -> None:
        self._function = function
        self._num_inputs = num_inputs
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: Sequence[Tensor] = ()
        self._addresses: list[int] = []
        self._is_plain = False
        self._is_warm = False

    def __call__(self, *tensors: Tensor) -> Sequence[Tensor]:
        inputs, outside = tensors[: self._num_inputs], tensors[self._num_inputs :]
        if self._is_plain or not self._is_warm:  # the first call makes what a recording may not
            self._is_warm = True
            return self._function(*[tensor.contiguous() for tensor in inputs], *outside)
        addresses = [tensor.data_ptr() for tensor in outside]
        if self._graph is None or addresses != self._addresses:
            try:
                self._record(inputs, outside)
            except RuntimeError as error:
                logger.info("not a CUDA graph: %s", str(error).strip().splitlines()[0])
                self._is_plain = True
                return self._function(*[tensor.contiguous() for tensor in inputs], *outside)
            self._addresses = addresses
        for place, given in zip(self._inputs, inputs, strict=True):
            place.copy_(given)
        assert self._graph is not None
        self._graph.replay()
        return self._outputs

    def _record(self, inputs: Sequence[Tensor], outside: Sequence[Tensor]) -> None:
        self._inputs = [tensor.clone(memory_format=torch.contiguous_format) for tensor in inputs]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # nothing is run
            self._outputs = self._function(*self._inputs, *outside)
        self._graph = graph
