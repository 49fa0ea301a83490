"""Program: a model and a guide in one module, safe to copy, edit and train beside others in one process.

Pyro keeps parameters in one global store, keyed by name. With a fixed name, a second instance of a class
would be handed the first one's tensors and train none of its own. A :class:`Program` therefore registers under
a name that no other instance has, and drops entries that are no longer its own tensors.
"""

from __future__ import annotations

import itertools
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn, Protocol, runtime_checkable

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput

_instances = itertools.count()


def _drop(names: Iterable[str]) -> None:
    """Drops entries from Pyro's store; ``del store[name]`` fails where two names share a tensor."""
    store = pyro.get_param_store()
    for name in names:
        tensor = store._params.pop(name)
        store._constraints.pop(name, None)
        if store._param_to_name.get(tensor) == name:
            heir = next((other for other, value in store._params.items() if value is tensor), None)
            if heir is None:
                del store._param_to_name[tensor]
            else:
                store._param_to_name[tensor] = heir


def _drop_prefix(prefix: str) -> None:
    _drop([name for name in pyro.get_param_store() if name.startswith(prefix)])


@runtime_checkable
class StartsFromData(Protocol):
    """Part of a program that can start from data (N, *data_shape), once."""

    data_shape: tuple[int, ...]

    def center(self, x: Tensor) -> None: ...


class Program(nn.Module):
    """Generative model with its inference network, as a Pyro model/guide pair.

    A subclass writes ``model(x=None, ...)`` and ``guide(x=None, ...)``. Both begin with
    ``pyro.module(self.pyro_name, self)``; the model observes the site ``x`` in the plate ``data``, names its latent
    variables ``z`` (or ``z1`` .. ``zL`` from the data up) and returns ``x``, so that ``program.model(n=64)`` draws 64
    data. A guide that samples nothing means that the model has no latent variables.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> class Coin(Program):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.logit = torch.nn.Parameter(torch.zeros(()))
        ...     def model(self, x=None, *, n=1):
        ...         pyro.module(self.pyro_name, self)
        ...         with pyro.plate("data", n if x is None else len(x)):
        ...             return pyro.sample("x", dist.Bernoulli(logits=self.logit), obs=x)
        >>> Coin().model(n=3).shape
        torch.Size([3])
    """

    _pyro_name: str

    def __init__(self) -> None:
        super().__init__()
        self._take_name()

    def _take_name(self) -> None:
        name = f"{type(self).__name__}#{next(_instances)}"
        object.__setattr__(self, "_pyro_name", name)
        weakref.finalize(self, _drop_prefix, f"{name}$$$").atexit = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        # copy.copy, copy.deepcopy and unpickling all come this way: the new object needs a name of its own.
        super().__setstate__(state)
        self._take_name()

    @property
    def pyro_name(self) -> str:
        """Name under which the parameters are registered; reading it drops store entries that are stale."""
        store = pyro.get_param_store()._params
        stale = []
        for name, parameter in self.named_parameters():
            key = f"{self._pyro_name}$$${name}"
            if key in store and store[key] is not parameter:
                stale.append(key)
        if stale:
            _drop(stale)
        return self._pyro_name

    def model(self, x: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Joint density p(x, z); returns ``x``."""
        raise TypeError(f"{type(self).__name__} defines no model(x=None, ...)")

    def guide(self, x: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Approximate posterior q(z | x); empty by default."""

    def materialize(self, *batch: Any) -> None:
        """Runs model and guide once, so that parameters which are created on first use exist.

        The state of torch's random number generators and of the buffers (batch norm) is restored.

        Args:
            batch: one batch, as an objective would get it.
        """
        self._run_once(*batch)

    def initialize(self, *batch: Any) -> None:
        """Data-dependent initialisation, which ``fit`` does once before training.

        By default parts that can start from data do so, if they are for data of this shape: an observation of ours
        starts at their mean, so that the first steps are not spent on the mean image. Where a program has an
        ``observation``, only that: the prior may be of the same shape.

        Args:
            batch: many data (up to 10,000), as an objective would get them.
        """
        piece = getattr(self, "observation", None)
        for part in (piece if isinstance(piece, nn.Module) else self).modules():
            if isinstance(part, StartsFromData) and batch and part.data_shape == tuple(batch[0].shape[1:]):
                part.center(batch[0])

    def _run_once(self, *batch: Any) -> dict[str, Tensor]:
        """Unconstrained parameters that one run of guide and model touches, by name."""
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
        buffers = [(buffer, buffer.clone()) for buffer in self.buffers() if not nn.parameter.is_lazy(buffer)]
        capture = poutine.trace(param_only=True)
        with torch.random.fork_rng(devices=devices), poutine.block(), torch.no_grad(), capture:
            trace = poutine.trace(self.guide).get_trace(*batch)
            poutine.replay(self.model, trace=trace)(*batch)
            for buffer, value in buffers:
                if not torch.equal(buffer, value):  # a write would spoil graphs that wait for backward()
                    buffer.copy_(value)
        return {name: site["value"].unconstrained() for name, site in capture.trace.nodes.items()}


class Pair(Program):
    """A user's own model and guide as a :class:`Program`.

    Parameters are the entries that the two functions touch in Pyro's store (``pyro.param``, ``pyro.module``,
    autoguides), unconstrained. They exist once :meth:`materialize` has run the functions; ``fit`` does that.
    The functions own the names of their parameters, as anywhere in Pyro: two pairs of the same functions share them.

    Args:
        model: a Pyro model; takes the batch as positional arguments.
        guide: a Pyro guide with the same arguments; ``None`` for a model without latent variables.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> def model(x):
        ...     scale = pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         return pyro.sample("x", dist.Normal(z, scale), obs=x)
        >>> def guide(x):
        ...     slope = pyro.param("slope", torch.tensor(0.5))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(slope * x, 1.0))
        >>> pair = Pair(model, guide)
        >>> pair.materialize(torch.zeros(3))
        >>> {name: round(value.item(), 3) for name, value in pair.state_dict().items()}
        {'slope': 0.5, 'scale': 0.693}
    """

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any] | None = None) -> None:
        super().__init__()
        # In __dict__ they hide the methods of the class, and pair.model is the user's own function.
        self.__dict__["model"] = model
        self.__dict__["guide"] = _empty_guide if guide is None else guide
        for role, function in (("_model", model), ("_guide", guide)):
            owner = getattr(function, "__self__", function)  # of a method
            if isinstance(owner, nn.Module):
                self.add_module(role, owner)  # for train(), eval(), to() and buffers
        self._leaves: dict[str, Tensor] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise InvalidInput(
            "a Pair cannot be copied",
            expected="one set of parameters for the names its functions use in Pyro's store",
            cure="a Program subclass, whose copies own their parameters, or pyro.get_param_store().scope()",
        )

    def materialize(self, *batch: Any) -> None:
        numbers: dict[str, int] = {}

        def renumber(name: re.Match[str]) -> str:
            # A Program's number in this process means nothing in the next: it is numbered anew within the pair.
            return f"#{numbers.setdefault(name[1], len(numbers))}$$$"

        leaves: dict[Tensor, str] = {}  # a tensor that has two names counts once
        for name, leaf in self._run_once(*batch).items():
            leaves.setdefault(leaf, re.sub(r"#(\d+)\$\$\$", renumber, name))
        for role, module in self.named_children():
            for name, value in module.named_parameters():
                if value.requires_grad and value not in leaves and not isinstance(module, PyroModule):
                    raise InvalidInput(
                        "a parameter outside Pyro's store, which nothing would train or save",
                        where=f"the pair's {role.lstrip('_')}",
                        value=name,
                        expected="pyro.module('some name', self) at its start",
                        cure="that, or a PyroModule",
                    )
        self._leaves = {name: leaf for leaf, name in leaves.items()}

    def _entries(self) -> dict[str, Tensor]:
        if self._leaves is None:
            raise InvalidInput(
                "no parameters yet",
                where="Pair",
                expected="one run of the model and the guide, which create them",
                cure="pair.materialize(*batch)",
            )
        return self._leaves

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        for name, value in self._entries().items():
            yield prefix + ("." if prefix else "") + name, value  # type: ignore[misc]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state = {name: value.detach() for name, value in self._entries().items()}
        return state | {f"buffer.{name}": value for name, value in self.named_buffers()}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        own = {**self._entries(), **{f"buffer.{name}": value for name, value in self.named_buffers()}}
        missing, unexpected = sorted(own.keys() - state_dict.keys()), sorted(state_dict.keys() - own.keys())
        if strict and (missing or unexpected):
            raise RuntimeError(f"state of a Pair does not fit: missing {missing}, unexpected {unexpected}")
        with torch.no_grad():
            for name in own.keys() & state_dict.keys():
                own[name].copy_(state_dict[name])
        return nn.modules.module._IncompatibleKeys(missing, unexpected)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Pair:
        super()._apply(fn, recurse)
        for value in (self._leaves or {}).values():
            value.data = fn(value.data)
        return self


def _empty_guide(*args: Any, **kwargs: Any) -> None:
    """Guide of a model without latent variables."""
