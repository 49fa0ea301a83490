"""Players: losses and optimisers taking turns, checked before each update."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput, NonFiniteError
from pyro_dgm.objectives.player import Player
from pyro_dgm.objectives.schedules import weights_of
from pyro_dgm.training.compiled_loss import CompiledLoss
from pyro_dgm.training.processes import OneProcess, Processes
from pyro_dgm.training.random_state import restore, snapshot
from pyro_dgm.training.tracing import loss_and_norm
from pyro_dgm.training.updates import FusedUpdate


@runtime_checkable
class Step(Protocol):
    """Anything that ``fit`` can drive: one call is one update.

    ``step(*batch)`` returns the loss summed over the batch, or a tuple of them (as Pyro's ``SVI``), or a dict
    of losses per datum by name (as :class:`Players`).
    """

    def step(self, *batch: Any) -> Any: ...


class Players:
    r"""Several players taking turns on the same batch.

    Player k moves its own parameters :math:`\theta_k` along
    :math:`\nabla_{\theta_k} L_k(\text{batch}) / |\text{batch}|`, in the order given; the others' gradients
    are not touched. Loss and gradient norm are checked before the optimiser moves anything, at the cost of
    one synchronisation with the device.

    Args:
        players: who plays, in order. The first one's loss is the one that ``fit`` shows and validates.
        clip_norm: largest global norm of one player's gradient per datum; longer ones are scaled down to it.
        max_loss: largest acceptable loss per datum; above it the step is refused as if it were infinite.
        processes: those that train together; by default this one is alone.
        batch_size: data in a batch of all processes together; by default each batch tells.
        modules: owners of the buffers that the losses write.

    Raises:
        InvalidInput: no player, a repeated name, nothing to train, or a wrong learning rate.
        NonFiniteError: from :meth:`step`; the player's parameters, its optimiser and the random state are
            then as they were before its turn (players before it have moved).

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor(1.0))
        >>> players = Players([Player("w", lambda x: (w * x).square().sum(), [w])])
        >>> players.step(torch.tensor([1.0, 3.0]))
        {'w': 5.0}
    """

    def __init__(
        self,
        players: Sequence[Player],
        *,
        clip_norm: float | None = None,
        max_loss: float | None = None,
        processes: Processes | None = None,
        batch_size: int | None = None,
        modules: Sequence[nn.Module] = (),
    ) -> None:
        names = [player.name for player in players]
        if not names or len(set(names)) < len(names):
            raise InvalidInput("players", value=names, expected="at least one, each with a name of its own")
        self.players = list(players)
        self.clip_norm = math.inf if clip_norm is None else clip_norm
        self.max_loss = math.inf if max_loss is None else max_loss
        self.count = 0
        self.gradient_norms: dict[str, float] = {}
        self.reports: dict[str, dict[str, float]] = {}
        self._parameters = {player.name: _trained(player) for player in players}
        self._processes = processes or OneProcess(torch.device("cpu"))
        self._share = None if batch_size is None else self._processes.share(batch_size)
        self._losses = {
            player.name: self._processes.wrap(player.loss, self._parameters[player.name], modules=modules)
            for player in players
        }
        self.optimizers = {player.name: self._make_optimizer(player) for player in players}
        self._compiled: dict[str, CompiledLoss] = {}
        self._updates: dict[str, FusedUpdate] = {}
        self._modules = [part for module in modules for part in module.modules()]
        self._weights = [weight for module in modules for weight in weights_of(module)]
        self._told: dict[str, list[str]] = {}  # names of the numbers that a loss tells

    def compile(self) -> None:
        """Makes loss and gradients of each player one compiled graph, and its update one kernel, from now on.

        What a graph takes as constant, and what cannot be compiled, :class:`CompiledLoss` says. In several processes
        nothing changes.
        """
        if not self._compiled and self._processes.size == 1:
            self._compiled = {
                player.name: CompiledLoss(
                    functools.partial(self._loss, player),
                    self._parameters[player.name],
                    modules=self._modules,
                )
                for player in self.players
            }
            self._updates = {
                name: FusedUpdate(functools.partial(_group, optimizer))
                for name, optimizer in self.optimizers.items()
            }

    def _loss(self, player: Player, *batch: Any) -> tuple[Tensor, ...]:
        """Loss per datum, and what it tells beside."""
        num_data = (self._share or len(batch[0])) if batch else 1
        loss, told = split_loss(self._losses[player.name](*batch), player.name)
        self._told[player.name] = list(told)
        return tuple(value / num_data for value in (loss, *told.values()))

    def _make_optimizer(self, player: Player) -> torch.optim.Optimizer:
        try:
            optimizer = player.optimizer(self._parameters[player.name])
        except ValueError as error:
            raise InvalidInput(str(error), where=f"the optimizer of {player.name!r}") from error
        for group in optimizer.param_groups:
            if not 0.0 < float(group["lr"]) < math.inf:
                raise InvalidInput(
                    "bad learning rate",
                    where=f"the optimizer of {player.name!r}",
                    value=float(group["lr"]),
                    expected="a positive number",
                    cure="lr=1e-3",
                )
        return optimizer

    def step(self, *batch: Any) -> dict[str, float]:
        """Losses per datum, by player, of the turn that was taken.

        Args:
            batch: tensors whose first dimension is the data; the first one gives the batch size (1 if empty).
        """
        losses = {}
        for player in self.players:
            if self.count % player.every == 0:
                losses[player.name] = self._turn(player, batch)
        self.count += 1
        for weight in self._weights:
            weight.advance()
        return losses

    def _turn(self, player: Player, batch: tuple[Any, ...]) -> float:
        before = snapshot(self._parameters[player.name][0].device)
        try:
            # The mean over processes, whose gradients are the same: all refuse a step or none.
            value, *told, length = self._processes.mean(self._descend(player, batch)).tolist()
            where = f"player {player.name!r} at step {self.count + 1}"
            require_finite({"loss": value}, where=where, max_loss=self.max_loss)
            require_finite({"gradient": length}, where=where)
        except (ValueError, NonFiniteError):
            # Pyro's checks raise ValueError for a number that went bad. Whoever looks for it needs the same noise.
            restore(before)
            raise
        if length > self.clip_norm:
            # Not in place: two parameters may have the same tensor for their gradient.
            found = [(p, p.grad) for p in self._parameters[player.name] if p.grad is not None]
            scaled = torch._foreach_mul([gradient for _, gradient in found], self.clip_norm / length)
            for (parameter, _), gradient in zip(found, scaled, strict=True):
                parameter.grad = gradient
        self._move(player.name)
        self.gradient_norms[player.name] = length
        self.reports[player.name] = dict(zip(self._told[player.name], told, strict=True))
        return value

    def _move(self, name: str) -> None:
        """Updates a player's parameters by their gradients."""
        parameters, left = self._parameters[name], None
        gradients = [parameter.grad for parameter in parameters]
        if name in self._updates:
            left = self._updates[name](parameters, gradients)
            if not left:
                return
            for place in {*range(len(parameters))} - {*left}:  # which have moved
                parameters[place].grad = None
        self.optimizers[name].step()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient

    def _descend(self, player: Player, batch: tuple[Any, ...]) -> Tensor:
        """Gives the player's parameters their gradients, and returns :func:`loss_and_norm`."""
        parameters = self._parameters[player.name]
        if player.name in self._compiled:
            found = self._compiled[player.name](*batch)
            for parameter, gradient in zip(parameters, found.gradients, strict=True):
                parameter.grad = gradient
            return found.numbers
        losses = self._loss(player, *batch)
        self.optimizers[player.name].zero_grad(set_to_none=True)
        losses[0].backward(inputs=[p for p in parameters if p.requires_grad])
        return loss_and_norm(losses, [p.grad for p in parameters if p.grad is not None])

    def evaluate_loss(self, *batch: Any) -> float:
        """Loss of the first player, summed over the batch; nothing is updated."""
        with torch.no_grad():
            loss = self.players[0].loss(*batch)
            return float(loss["loss"] if isinstance(loss, Mapping) else loss)


def _group(
    optimizer: torch.optim.Optimizer, parameter: Tensor
) -> tuple[torch.optim.Optimizer, dict[str, Any]]:
    """Optimiser and group of options of a parameter."""
    groups = (group for group in optimizer.param_groups if any(p is parameter for p in group["params"]))
    return optimizer, next(groups)


def _trained(player: Player) -> list[Tensor]:
    """Parameters of a player, each once; some must be trainable."""
    parameters = list({id(p): p for p in player.parameters}.values())
    if not any(p.requires_grad for p in parameters):
        raise InvalidInput(
            "nothing to train", where=f"player {player.name!r}", expected="a trainable parameter"
        )
    return parameters


def split_loss(result: Any, name: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss that a player returned, and the other numbers that it told.

    Args:
        result: a loss, or a mapping with ``"loss"``.
        name: whose it is, for the message.

    Raises:
        InvalidInput: see :func:`require_loss`.
    """
    if not isinstance(result, Mapping):
        return require_loss(result, name), {}
    told = {key: value for key, value in result.items() if key != "loss"}
    return require_loss(result.get("loss"), name), told


def require_loss(loss: Any, name: str) -> Tensor:
    """The loss, if it is something that can be descended.

    Args:
        loss: what an objective returned.
        name: whose it is, for the message.

    Raises:
        InvalidInput: no scalar tensor, or one that depends on nothing that is trained.
    """
    if not isinstance(loss, Tensor) or loss.ndim:
        shape = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise InvalidInput(
            "not a loss",
            where=name,
            value=shape,
            expected="a scalar tensor, summed over the batch",
            cure=".sum()",
        )
    if not loss.requires_grad:
        raise InvalidInput(
            "loss without gradient",
            where=name,
            value=loss.item(),
            expected="one that depends on a trained parameter",
            cure="num_particles=1 if it was 0, or parameters with requires_grad",
        )
    return loss


def require_finite(values: Mapping[str, float], *, where: str, max_loss: float = math.inf) -> None:
    """Raises NonFiniteError for a number that is not finite, or a loss above `max_loss`.

    Args:
        values: by name.
        where: the step, for the message.
        max_loss: largest acceptable one.
    """
    for name, value in values.items():
        if math.isfinite(value) and value <= max_loss:
            continue
        above = math.isfinite(value)
        raise NonFiniteError(
            f"{name} above max_loss" if above else f"non-finite {name}",
            where=where,
            value=value,
            expected="a loss up to max_loss" if above else "a finite number",
            cure="a lower learning rate, clip_norm, or a look at these data",
        )
