"""Draws of an autoregressive network by a compiled step from one element to the next."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.nets.wavenet import WaveNetWeights, one_sample


class Drawn:
    """Stands for an observation where the conditionals give draws themselves."""

    num_params = 1

    def __init__(self, data_shape: tuple[int, ...], value: Tensor | None = None) -> None:
        self.data_shape, self.value = data_shape, value

    def at(self, params: Tensor, index: Tensor) -> Drawn:
        return Drawn(self.data_shape, params.squeeze(-2))

    def sample(self) -> Tensor | None:
        return self.value


class _DrawAt(nn.Module):
    """Draws of single elements by an observation."""

    def __init__(self, observation: Any) -> None:
        super().__init__()
        self.observation = observation

    def forward(self, params: Tensor, index: Tensor) -> Tensor:
        return self.observation.at(params, index).sample()


class CompiledSteps:
    """Compiled steps by the shapes and types of what they take; a copy of a model begins without any."""

    def __init__(self) -> None:
        self._steps: dict[Any, Callable[..., Tensor]] = {}

    def __reduce__(self) -> Any:
        return (CompiledSteps, ())

    def of(self, observation: nn.Module) -> Callable[..., Tensor]:
        """Function of the arguments of :func:`one_sample`, that draws the sample, (number, 1)."""
        if not callable(getattr(observation, "at", None)):
            name, expected = type(observation).__name__, "a method at(params, index) for a compiled step"
            raise InvalidInput(
                "no draws of single samples", where="observation", value=name, expected=expected
            )
        piece = _DrawAt(observation)
        found: list[Callable[..., Tensor]] = []
        state = {**dict(piece.named_parameters()), **dict(piece.named_buffers())}

        def draw(*flat: Tensor) -> Tensor:
            tensors, weights = dict(zip(state, flat, strict=False)), WaveNetWeights(*flat[len(state) : -5])
            *_, x, index = inputs = flat[-5:]
            params = one_sample(weights, *inputs, product=_row_product if len(x) == 1 else torch.matmul)
            return torch.func.functional_call(piece, tensors, (params.unsqueeze(-1), index))

        def step(weights: WaveNetWeights, *inputs: Tensor) -> Tensor:
            flat = (*state.values(), *weights, *inputs)
            if not found:  # all samples of these draws have the shapes of the first
                shapes = tuple((value.shape, value.dtype, value.device) for value in flat)
                key = (shapes, _traced(piece))
                if key not in self._steps:
                    self._steps[key] = _compiled(draw, flat)
                found.append(self._steps[key])
            return found[0](*flat)

        return step


def _traced(piece: nn.Module) -> tuple[Any, ...]:
    """What a trace of a module takes as it is, beside its parameters and buffers: classes and plain attributes."""
    return tuple(
        (type(part), *((name, value) for name, value in vars(part).items() if _can_be_a_key(value)))
        for part in piece.modules()
    )


def _can_be_a_key(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _row_product(x: Tensor, weight: Tensor) -> Tensor:
    """One row times a matrix as a sum, which is compiled into one function with what comes before and after."""
    return (x.unsqueeze(-1) * weight.unsqueeze(-3)).sum(-2)


def _compiled(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Callable[..., Tensor]:
    """The function for inputs of these shapes and types, compiled."""
    # Random numbers come from torch's own generator, in the order of a plain run.
    options: dict[str, Any] = {"fallback_random": True}
    if all(value.device.type == "cpu" for value in inputs):
        options["cpp_wrapper"] = True  # C++ calls what is compiled, in half the time of Python
    with warnings.catch_warnings(), dist.validation_enabled(False):
        warnings.simplefilter("ignore")  # of torch, about itself
        import torch._inductor as inductor  # here, since it takes a second
        from torch.fx.experimental.proxy_tensor import make_fx

        graph = make_fx(function, tracing_mode="fake")(*inputs)
        # Without the checks of torch.compile before each call: shapes and types are those that were traced.
        return inductor.compile(graph, list(inputs), options)
